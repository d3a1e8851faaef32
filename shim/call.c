/* SPDX-License-Identifier: MIT */
#include "shim/call.h"

#include <stdlib.h>

#include "shim/observer.h"
#include "shim/pending.h"

enum { BRIEF = 8192 }; /* bytes up to which MPI is likely to take a message at once: EAGER of transport/mpi.h */

_Thread_local struct call_state call_state;

struct loans *call_loans(struct call *call)
{
    if (!call->loans)
        call->loans = calloc(1, sizeof *call->loans + observer_room());
    return call->loans;
}

bool call_allowed(void)
{
    int initialized, finalized;
    PMPI_Initialized(&initialized);
    PMPI_Finalized(&finalized);
    return initialized && !finalized;
}

/* Where the span of the buffer begins, which may be MPI_BOTTOM. */
static char *start_of(const void *buf, struct span span)
{
    return (char *)((uintptr_t)buf + (uintptr_t)span.low);
}

/* A loan to fill in, of what is there; or NULL. It counts only when it is in force. */
static struct zc_loan *next_loan(struct call *call, const char *at, struct span span, int peer, int tag)
{
    struct loans *loans = span.length && zc_owns(at) && call_allowed() ? call_loans(call) : NULL;
    if (!loans || loans->count == LOANS_MOST)
        return NULL;
    struct zc_loan *loan = &loans->loan[loans->count];
    *loan = (struct zc_loan){.call = call->name, .peer = peer, .tag = tag, .origin = loans->origin};
    return loan;
}

void *call_reads(struct call *call, const void *buf, struct span span, int peer, int tag)
{
    char *given = (char *)(uintptr_t)buf, *from = start_of(buf, span);
    enum zc_lend how = !call->lasts ? ZC_LEND_CALL : span.length <= BRIEF ? ZC_LEND_BRIEF : ZC_LEND_VALUE;
    struct zc_loan *loan = next_loan(call, from, span, peer, tag);
    const void *wire;
    if (!loan || zc_lend_read(loan, from, (size_t)span.length, how, span.full, &wire) != 0)
        return given; /* as without this library */
    call->loans->count++;
    return (char *)((uintptr_t)wire - (uintptr_t)span.low);
}

void *call_writes(struct call *call, void *buf, struct span span, int peer, int tag)
{
    char *to = start_of(buf, span);
    enum zc_lend how = call->lasts ? ZC_LEND_VALUE : ZC_LEND_CALL;
    struct zc_loan *loan = next_loan(call, to, span, peer, tag);
    void *wire;
    /* What the call reads may be of the same buffer, and in the way as long as nothing is reserved for that. */
    bool kept = !loan || call->loans->count == 0 || zc_lend_keep(&call->loans->loan[0]);
    if (!loan || !kept || zc_lend_write(loan, to, (size_t)span.length, how, span.full, &wire) != 0) {
        call_touches(buf, span, true);
        return buf;
    }
    call->loans->count++;
    return (char *)((uintptr_t)wire - (uintptr_t)span.low);
}

void call_touches(const void *buf, struct span span, bool store)
{
    const char *at = start_of(buf, span);
    if (span.length && zc_owns(at))
        zc_lend_touch(at, (size_t)span.length, store);
}

void call_keeps(struct call *call, const void *buf, struct span span)
{
    void *wire, *from = start_of(buf, span);
    struct zc_loan *loan = next_loan(call, from, span, -1, -1);
    if (loan && zc_lend_write(loan, from, (size_t)span.length, ZC_LEND_OPEN, false, &wire) == 0)
        call->loans->count++;
    else
        call_touches(buf, span, true);
}

void loans_end(struct loans *loans)
{
    if (!loans)
        return;
    for (int i = 0; i < loans->count; i++)
        zc_lend_end(&loans->loan[i]);
    zc_free(loans->packed);
    free(loans);
}

void loans_allow(struct loans *loans)
{
    for (int i = 0; i < loans->count; i++)
        loans->loan[i].lawful = true;
}

bool loans_posted(struct loans *loans, MPI_Request request)
{
    int done = 0;
    bool kept = true;
    if (loans->count && loans->loan[0].tentative) /* what MPI took at once needs no guard */
        PMPI_Request_get_status(request, &done, MPI_STATUS_IGNORE);
    if (done) {
        loans_end(loans);
        return true;
    }
    if (observer)
        observer->posted(loans->origin);
    for (int i = 0; i < loans->count; i++)
        kept &= zc_lend_keep(&loans->loan[i]);
    if (kept || !loans->buffered)
        return false;
    while (!done) /* the program may store to it as soon as this returns: the one send that waits */
        PMPI_Request_get_status(request, &done, MPI_STATUS_IGNORE);
    loans_end(loans);
    return true;
}

int call_posted(struct call *call, int code, MPI_Request *request)
{
    struct loans *loans = call->loans;
    if (code != MPI_SUCCESS) {
        loans_end(loans);
        return code;
    }
    if (!loans || loans->count == 0 || loans->loan[0].copy)
        observer_unwatched(call->buffer);
    if (loans && !loans_posted(loans, *request))
        pending_add(request, loans);
    return code;
}

int call_made(struct call *call, int code, const MPI_Request *request)
{
    if (code == MPI_SUCCESS && call->loans && call->loans->count)
        pending_add_kept(*request, call->loans);
    else
        loans_end(call->loans);
    return code;
}
