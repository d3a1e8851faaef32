/* SPDX-License-Identifier: MIT */
#include "shim/buffered.h"

#include <stdlib.h>
#include <string.h>

#include "core/lock.h"
#include "shim/pending.h"

/* ---- operations without a request ---- */

static struct {
    lock lock;
    int count, room, buffered;
    unsigned cursor; /* goes round */
    struct stray {
        MPI_Request request;
        struct loans *loans;
    } * all;
} adrift;

enum { LOOKS = 8 };

static bool make_room(void)
{
    if (adrift.count < adrift.room)
        return true;
    int room = adrift.room ? 2 * adrift.room : 64;
    struct stray *all = realloc(adrift.all, (size_t)room * sizeof *all);
    if (!all)
        return false;
    adrift.all = all;
    adrift.room = room;
    return true;
}

void adrift_add(MPI_Request request, struct loans *loans)
{
    loans_allow(loans); /* nobody asks for it any more */
    lock_take(&adrift.lock);
    bool kept = make_room();
    if (kept) {
        adrift.all[adrift.count++] = (struct stray){request, loans};
        adrift.buffered += loans->buffered;
    }
    lock_drop(&adrift.lock);
    if (!kept) {
        PMPI_Wait(&request, MPI_STATUS_IGNORE);
        loans_end(loans);
    }
}

void adrift_progress(void)
{
    struct loans *over[LOOKS];
    int n = 0;
    if (adrift.count == 0 || !lock_try(&adrift.lock))
        return;
    for (int i = 0; i < LOOKS && adrift.count > 0; i++) {
        struct stray *stray = &adrift.all[adrift.cursor++ % (unsigned)adrift.count];
        int done = 0;
        PMPI_Test(&stray->request, &done, MPI_STATUS_IGNORE);
        if (!done)
            continue;
        if (stray->request != MPI_REQUEST_NULL)
            PMPI_Request_free(&stray->request); /* a persistent one */
        over[n++] = stray->loans;
        adrift.buffered -= stray->loans->buffered;
        *stray = adrift.all[--adrift.count];
    }
    lock_drop(&adrift.lock);
    for (int i = 0; i < n; i++)
        loans_end(over[i]);
}

void adrift_drain(void)
{
    while (adrift.count > 0)
        adrift_progress();
}

static void adrift_drain_buffered(void)
{
    while (adrift.buffered > 0 || pending_sends())
        adrift_progress();
}

/* ---- buffered sends ---- */

/* An error of this library's own. Those of MPI have been told of. */
static int refuse(MPI_Comm comm, int code)
{
    PMPI_Comm_call_errhandler(comm, code);
    return code;
}

/* Copies a message out of memory that zc does not know. */
static int pack(struct call *call, const void **buf, int *count, MPI_Datatype *type, MPI_Comm comm)
{
    struct span span = span_of(*count, *type);
    MPI_Aint length = span.length;
    int size = 0, position = 0;
    if (!span.full) {
        int code = PMPI_Pack_size(*count, *type, comm, &size);
        if (code != MPI_SUCCESS)
            return code;
        if (size < 0) /* MPI_UNDEFINED: more than an int counts */
            return refuse(comm, MPI_ERR_COUNT);
        length = size;
    }
    struct loans *loans = call_loans(call);
    void *packed = loans ? zc_alloc((size_t)length) : NULL;
    if (!packed)
        return refuse(comm, MPI_ERR_NO_MEM);
    loans->packed = packed;
    if (span.full) {
        memcpy(packed, (const char *)*buf + span.low, (size_t)length);
        *buf = (const char *)packed - span.low;
        return MPI_SUCCESS;
    }
    int code = PMPI_Pack(*buf, *count, *type, packed, size, &position, comm);
    *buf = packed;
    *count = position;
    *type = MPI_PACKED;
    return code;
}

/* Sends as `call`; the message is what the buffer holds now. It may be in flight for longer than the program asks. */
static int buffered_send(struct call *call, const void *buf, int count, MPI_Datatype type, int dest, int tag,
                         MPI_Comm comm, MPI_Request *request)
{
    int code = MPI_SUCCESS;
    adrift_progress();
    if (call_owns(buf))
        buf = call_reads(call, buf, span_of(count, type), dest, tag);
    if (!call->loans || call->loans->count == 0)
        code = pack(call, &buf, &count, &type, comm);
    if (call->loans)
        call->loans->buffered = true;
    call_enter();
    if (code == MPI_SUCCESS)
        code = PMPI_Isend(buf, count, type, dest, tag, comm, request);
    call_leave();
    if (code != MPI_SUCCESS)
        loans_end(call->loans);
    return code;
}

int MPI_Bsend(const void *buf, int count, MPI_Datatype datatype, int dest, int tag, MPI_Comm comm)
{
    if (!call_allowed())
        return PMPI_Bsend(buf, count, datatype, dest, tag, comm);
    struct call call = {.name = "MPI_Bsend", .buffer = buf, .lasts = true};
    MPI_Request request;
    int code = buffered_send(&call, buf, count, datatype, dest, tag, comm, &request);
    if (code != MPI_SUCCESS)
        return code;
    if (loans_posted(call.loans, request))
        PMPI_Wait(&request, MPI_STATUS_IGNORE);
    else
        adrift_add(request, call.loans);
    return code;
}

/* The request is of an operation that is over: the value was taken. Until the program asks, the buffer is not its
 * own. */
int MPI_Ibsend(const void *buf, int count, MPI_Datatype datatype, int dest, int tag, MPI_Comm comm,
               MPI_Request *request)
{
    if (!call_allowed())
        return PMPI_Ibsend(buf, count, datatype, dest, tag, comm, request);
    struct call call = {.name = "MPI_Ibsend", .buffer = buf, .lasts = true};
    MPI_Request message;
    int code = buffered_send(&call, buf, count, datatype, dest, tag, comm, &message);
    if (code == MPI_SUCCESS && loans_posted(call.loans, message))
        *request = message;
    else if (code == MPI_SUCCESS)
        pending_add_buffered(request, message, call.loans);
    return code;
}

/* No message is in the buffer that the program attached, if it did: they are on their way from where they were. */
int MPI_Buffer_detach(void *buffer_addr, int *size)
{
    adrift_drain_buffered();
    return PMPI_Buffer_detach(buffer_addr, size);
}

#if MPI_VERSION >= 4
int MPI_Buffer_detach_c(void *buffer_addr, MPI_Count *size)
{
    adrift_drain_buffered();
    return PMPI_Buffer_detach_c(buffer_addr, size);
}
#endif
