/* SPDX-License-Identifier: MIT */
#include "shim/persistent.h"

#include <stdlib.h>

#include "shim/call.h"
#include "shim/pending.h"

typedef int post_send(const void *buf, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm,
                      MPI_Request *request);

struct start {
    const char *call;
    post_send *send; /* NULL: it receives */
    void *buf;
    int count;
    MPI_Datatype type;
    int peer, tag;
    MPI_Comm comm;
};

void start_free(struct start *start)
{
    if (start)
        PMPI_Type_free(&start->type);
    free(start);
}

/* The value is taken, and the message is on its way without the request, which is of an operation that is over. */
static int send_buffered(const void *buf, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm,
                         MPI_Request *request)
{
    int code = MPI_Bsend(buf, count, type, peer, tag, comm);
    return code == MPI_SUCCESS ? PMPI_Isend(NULL, 0, MPI_BYTE, MPI_PROC_NULL, 0, MPI_COMM_SELF, request) : code;
}

/* What is waited for before makes progress, which it does not inside MPI. */
static int post(const struct start *start, struct call *call, MPI_Request *request)
{
    int code;
    if (start->send == send_buffered)
        return send_buffered(start->buf, start->count, start->type, start->peer, start->tag, start->comm, request);
    struct span span = span_of(start->count, start->type);
    void *buf = start->send ? call_reads(call, start->buf, span, start->peer, start->tag)
                            : call_writes(call, start->buf, span, start->peer, start->tag);
    call_enter();
    if (start->send)
        code = start->send(buf, start->count, start->type, start->peer, start->tag, start->comm, request);
    else
        code = PMPI_Irecv(buf, start->count, start->type, start->peer, start->tag, start->comm, request);
    call_leave();
    return code;
}

int MPI_Start(MPI_Request *request)
{
    struct pending *pending = pending_take(request);
    if (pending && !pending->start) /* MPI's own, or an error, which MPI will tell */
        pending_return(pending);
    if (!pending || !pending->start)
        return PMPI_Start(request);
    const struct start *start = pending->start;
    struct call call = {.name = start->call, .buffer = start->buf, .lasts = true};
    int code = post(start, &call, &pending->active);
    if (code != MPI_SUCCESS)
        loans_end(call.loans);
    else if (call.loans && !loans_posted(call.loans, pending->active))
        pending->loans = call.loans;
    pending_return(pending);
    return code;
}

int MPI_Startall(int count, MPI_Request requests[])
{
    int code = MPI_SUCCESS;
    for (int i = 0; i < count && code == MPI_SUCCESS; i++)
        code = MPI_Start(&requests[i]);
    return code;
}

/* MPI has made *request, unless `code` says otherwise; remembers what it does if the buffer is zc's. */
static int made(int code, const MPI_Request *request, const struct start *start)
{
    if (code != MPI_SUCCESS || !call_owns(start->buf) || !call_allowed())
        return code;
    struct start *kept = malloc(sizeof *kept);
    if (!kept)
        return code; /* as without this library */
    *kept = *start;
    PMPI_Type_dup(start->type, &kept->type);
    if (!pending_add_persistent(*request, kept))
        start_free(kept);
    return code;
}

int MPI_Recv_init(void *buf, int count, MPI_Datatype datatype, int source, int tag, MPI_Comm comm, MPI_Request *request)
{
    int code = PMPI_Recv_init(buf, count, datatype, source, tag, comm, request);
    return made(code, request, &(struct start){"MPI_Recv_init", NULL, buf, count, datatype, source, tag, comm});
}

static void *mutable(const void *buf)
{
    return (void *)(uintptr_t)buf;
}

int MPI_Send_init(const void *buf, int count, MPI_Datatype datatype, int dest, int tag, MPI_Comm comm,
                  MPI_Request *request)
{
    int code = PMPI_Send_init(buf, count, datatype, dest, tag, comm, request);
    return made(code, request,
                &(struct start){"MPI_Send_init", PMPI_Isend, mutable(buf), count, datatype, dest, tag, comm});
}

int MPI_Bsend_init(const void *buf, int count, MPI_Datatype datatype, int dest, int tag, MPI_Comm comm,
                   MPI_Request *request)
{
    int code = PMPI_Bsend_init(buf, count, datatype, dest, tag, comm, request);
    return made(code, request,
                &(struct start){"MPI_Bsend_init", send_buffered, mutable(buf), count, datatype, dest, tag, comm});
}

int MPI_Ssend_init(const void *buf, int count, MPI_Datatype datatype, int dest, int tag, MPI_Comm comm,
                   MPI_Request *request)
{
    int code = PMPI_Ssend_init(buf, count, datatype, dest, tag, comm, request);
    return made(code, request,
                &(struct start){"MPI_Ssend_init", PMPI_Issend, mutable(buf), count, datatype, dest, tag, comm});
}

int MPI_Rsend_init(const void *buf, int count, MPI_Datatype datatype, int dest, int tag, MPI_Comm comm,
                   MPI_Request *request)
{
    int code = PMPI_Rsend_init(buf, count, datatype, dest, tag, comm, request);
    return made(code, request,
                &(struct start){"MPI_Rsend_init", PMPI_Irsend, mutable(buf), count, datatype, dest, tag, comm});
}
