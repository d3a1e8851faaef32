/* SPDX-License-Identifier: MIT */
#include "transport/op.h"

#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/thread.h"
#include "protect/policy.h"
#include "transport/comm.h"
#include "transport/view.h"

/* What this thread ended last, for its next one: so most need no lock. Given back when the thread ends. */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct op *kept;
static _Thread_local __attribute__((tls_model("initial-exec"))) bool keeps;

static void give_back(struct op *op)
{
    struct zc_comm *comm = op->comm;
    lock_take(&comm->ops);
    bool closed = !atomic_load(&comm->open);
    if (!closed) {
        op->next = comm->free_ops;
        comm->free_ops = op;
    }
    lock_drop(&comm->ops);
    if (closed)
        free(op);
}

void ops_end(struct zc_comm *comm)
{
    lock_take(&comm->ops);
    struct op *op = comm->free_ops;
    comm->free_ops = NULL;
    lock_drop(&comm->ops);
    for (struct op *next; op; op = next) {
        next = op->next;
        free(op);
    }
}

static void thread_ends(void *unused)
{
    (void)unused;
    if (kept)
        give_back(kept);
    kept = NULL;
    keeps = false;
}

static __attribute__((cold)) bool may_keep(void)
{
    return keeps = thread_keeps(THREAD_OP, thread_ends, NULL);
}

static __attribute__((noinline)) struct op *take_another(struct zc_comm *comm)
{
    lock_take(&comm->ops);
    struct op *op = comm->free_ops;
    if (op)
        comm->free_ops = op->next;
    lock_drop(&comm->ops);
    if (!op && !(op = malloc(sizeof *op)))
        return fail_null(-ENOMEM, "zc: no memory for an operation");
    op_init(op, comm);
    return op;
}

/* Here and in op_free, the common path calls no other function, so that no registers are saved for it. */
struct op *op_new(struct zc_comm *comm)
{
    struct op *op = kept;
    if (!op || op->comm != comm)
        return take_another(comm);
    kept = NULL;
    op_init(op, comm);
    return op;
}

void op_list(struct op *op)
{
    struct zc_comm *comm = op->comm;
    lock_take(&comm->ops);
    op->next = comm->receives;
    op->link = &comm->receives;
    if (op->next)
        op->next->link = &op->next;
    comm->receives = op;
    lock_drop(&comm->ops);
}

void op_unlist(struct op *op)
{
    lock_take(&op->comm->ops);
    *op->link = op->next;
    if (op->next)
        op->next->link = op->link;
    lock_drop(&op->comm->ops);
}

static __attribute__((noinline)) void put_away(struct op *op)
{
    if (!op->sends)
        op_unlist(op);
    if (!keeps && !may_keep()) {
        give_back(op);
        return;
    }
    if (kept)
        give_back(kept);
    kept = op;
}

void op_free(struct op *op)
{
    if (atomic_load_explicit(&op->users, memory_order_acquire) > 1 && atomic_fetch_sub(&op->users, 1) > 1)
        return;
    if (op->sends && keeps && !kept)
        kept = op;
    else
        put_away(op);
}

void op_end_send(struct op *op)
{
    if (op->held)
        hold_end(&op->hold);
    if (op->bounce) {
        hold_hide_copy(&op->hold, op->bounce);
        pool_push(op->bounce);
    }
    if (op->spill)
        free(op->spill);
    if (op->lease)
        lease_end(op->lease);
    op_free(op);
}

static void note_error(struct zc_comm *comm, int error)
{
    int none = 0;
    if (error)
        atomic_compare_exchange_strong(&comm->send_error, &none, error);
}

void op_abandon(struct op *op, int error)
{
    struct zc_comm *comm = op->comm;
    struct slot *slot = op->hold.slot;
    note_error(comm, error);
    if (op->held) {
        struct backing *backing = slot_lock(slot);
        if (backing == op->hold.backing && slot_is(slot, SLOT_LIVE) && slot_can_rename(slot))
            slot_rename(slot, backing);
        else
            slot_unlock(backing);
    }
    atomic_fetch_sub_explicit(&comm->sending, 1, memory_order_release);
}

/* How long its receiver took for it can be told only if the receiver had nothing else to do meanwhile, and if somebody
 * looked often enough. */
static void note_pace(const struct op *op)
{
    enum { LOOKS = 3 }; /* often enough: so that the poll that sees it came at most a third late */
    struct zc_comm *comm = op->comm;
    const struct hold *hold = &op->hold;
    if (!comm->endpoint.read_by_peers || !hold->slot || hold->length <= comm->endpoint.eager)
        return;
    bool more = atomic_load_explicit(&comm->sending, memory_order_relaxed) > 1;
    uint32_t polls = atomic_load_explicit(&comm->polls, memory_order_relaxed);
    uint64_t before = atomic_load_explicit(&comm->left, memory_order_relaxed);
    uint64_t now = polls == 0 ? before : clock_ns(); /* the same poll: no need to ask again */
    atomic_store_explicit(&comm->polls, 0, memory_order_relaxed);
    atomic_store_explicit(&comm->left, more ? now : 0, memory_order_relaxed);
    if (!(op->held ? hold->protects : op->bounce != NULL))
        return;
    bool seen = before && polls >= LOOKS;
    /* It may be freed and trimmed away by now: a copy, or what a rename took away, is in another slot. */
    const struct segment *segment = slot_segment(hold->slot);
    if (segment)
        policy_taken(segment->pool, !op->held, hold->length, seen ? now - before : 0);
}

void op_sent(struct op *op, int error)
{
    struct zc_comm *comm = op->comm;
    note_error(comm, error);
    note_pace(op);
    if (atomic_exchange(&op->phase, OP_OVER) == OP_TENTATIVE)
        return; /* its sender is not through with it */
    op_end_send(op);
    atomic_fetch_sub_explicit(&comm->sending, 1, memory_order_release); /* last: the communicator may be closed now */
}

void op_received(struct op *op, int source, int tag, size_t length, int error)
{
    bool named = op->hold.named;
    op->status = (zc_status){.source = source, .tag = tag, .length = length, .error = error};
    if (!named) { /* zc_recv waits for it, and frees it */
        if (op->hold.slot)
            hold_done(&op->hold, error ? 0 : length);
        atomic_store_explicit(&op->phase, OP_OVER, memory_order_release);
    } else if (op->hold.slot && hold_landed(&op->hold, length, error)) {
        op_free(op); /* nobody will ask */
    }
}
