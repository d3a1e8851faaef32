/* SPDX-License-Identifier: MIT
 *
 * Sending: hold and post, or copy and post. */
#include <stdlib.h>
#include <string.h>

#include "alloc/heap.h"
#include "core/clock.h"
#include "core/stats.h"
#include "protect/conflict.h"
#include "protect/fallback.h"
#include "protect/range.h"
#include "transport/comm.h"

enum {
    POLL_EVERY = 16,  /* sends: a re-send has no time for looking at what is over */
    MOVES_MOST = 2048 /* bytes that memcpy moves */
};

/* Each communicator has a count of its own: with one for each thread, which may send over several in turn, one might
 * always be left out. */
static inline void poll_sometimes(zc_comm *comm)
{
    unsigned turn = atomic_load_explicit(&comm->turn, memory_order_relaxed) + 1;
    atomic_store_explicit(&comm->turn, turn, memory_order_relaxed);
    if (turn % POLL_EVERY == 0)
        comm_poll(comm, NULL);
}

/* Memory for a copy of the message, out of a recycled slot, or of the heap where there is none; or NULL. */
static char *copy_memory(struct op *op)
{
    size_t length = op->hold.length;
    if (length <= sizeof op->small)
        return op->small;
    struct zc_pool *pool = heap_pool(length, 1);
    if (!pool || pool_claim(pool) != 0)
        return op->spill = malloc(length);
    op->bounce = pool_pop(pool);
    return slot_wire(op->bounce);
}

/* Copies the message, and counts it; *wire says where it is. Bytes that are being received are waited for, as a touch
 * would. */
static int copy(struct op *op, const void *buf, const char **wire)
{
    const struct hold *hold = &op->hold;
    struct slot *slot = hold->slot;
    char *to = copy_memory(op);
    if (!to)
        return fail(-ENOMEM, "zc_send: no memory for a copy of %zu bytes", hold->length);
    if (!slot) {
        memcpy(to, buf, hold->length);
    } else if (!hold_send_copied(&op->hold, to)) {
        struct backing *backing;
        int error = conflict_own(slot, hold->offset, hold->length, WITH_RECEIVES, &backing);
        if (error)
            return fail(error, "zc_send: the receive into %p failed", buf);
        slot_unlock(backing);
        hold_copy_out(slot, hold->offset, hold->length, to);
    }
    struct often *mine = stats_mine();
    count_at(mine, sends);
    count_at(mine, sends_copied);
    if (!slot)
        count_at(mine, sends_foreign);
    *wire = to;
    return 0;
}

/* Finds where to send the message from, so that it stays what it is, and counts it. */
static int secure(struct op *op, const void *buf, bool eager, const char **wire)
{
    struct hold *hold = &op->hold;
    if (hold->length == 0) {
        struct often *mine = stats_mine();
        count_at(mine, sends);
        count_at(mine, sends_empty);
        *wire = "";
        return 0;
    }
    *wire = !hold->slot ? NULL : eager ? hold_send_tentative(hold) : hold_send(hold);
    op->held = *wire != NULL;
    if (!op->held)
        return copy(op, buf, wire);
    struct often *mine = stats_mine();
    count_at(mine, sends);
    if (eager) /* and by kind when it is known what became of it */
        return 0;
    if (hold->resent)
        count_at(mine, sends_free);
    else
        count_at(mine, sends_protected);
    return 0;
}

/* From now on statistics see its copy, if it has one. */
static void set_in_flight(struct op *op)
{
    op->since = clock_seconds();
    if (op->bounce)
        hold_show_copy(&op->hold, op->bounce);
    atomic_fetch_add_explicit(&op->comm->sending, 1, memory_order_relaxed);
}

static void make_room(zc_comm *comm, long more)
{
    if (!comm->max_in_flight)
        return;
    struct waiting waiting = {0};
    while (comm_sending(comm) + more > (long)comm->max_in_flight)
        comm_poll_waiting(comm, NULL, &waiting);
}

/* The transport did not take the message while it was posted: it is in flight, and its pages are guarded only now. */
static void keep(struct op *op)
{
    zc_comm *comm = op->comm;
    int tentative = OP_TENTATIVE;
    struct waiting waiting = {0};
    set_in_flight(op);
    if (op->held && hold_send_keep(&op->hold)) {
        count_often(sends_protected);
    } else if (op->held) { /* spares or mappings have run out since: the one send that waits */
        while (!op_over(op))
            comm_poll_waiting(comm, NULL, &waiting);
        count_often(sends_inline);
    }
    if (!atomic_compare_exchange_strong(&op->phase, &tentative, OP_STARTED))
        op_sent(op, 0); /* it left meanwhile, and that was told (with its error) already */
    make_room(comm, 0);
}

/* Posts a message that is likely to be taken at once, and then is over without having been in flight. */
static int post_eager(struct op *op, const char *wire)
{
    zc_comm *comm = op->comm;
    atomic_store_explicit(&op->phase, OP_TENTATIVE, memory_order_relaxed);
    int posted = comm->transport->send(&comm->endpoint, op, wire_checked(wire), op->hold.length, op->peer, op->tag);
    if (posted == 0) {
        keep(op);
    } else {
        if (op->held)
            count_often(sends_inline);
        op_end_send(op);
    }
    return posted < 0 ? posted : 0;
}

static inline int post(struct op *op, const char *wire)
{
    zc_comm *comm = op->comm;
    set_in_flight(op);
    int posted = comm->transport->send(&comm->endpoint, op, wire_checked(wire), op->hold.length, op->peer, op->tag);
    if (posted != 0)
        op_sent(op, 0); /* over already, or undone */
    return posted < 0 ? posted : 0;
}

/* What a touch of the program's own memory may do, happens before a lock of the transport is taken. */
static void touch(const volatile char *bytes, size_t length)
{
    for (size_t at = 0; at < length; at += PAGE_BYTES)
        (void)bytes[at];
    (void)bytes[length - 1];
}

/* Above MOVES_MOST or so glibc's memcpy is one instruction, where processors have it for that (`rep movsb`). What that
 * stores, another processor sees later than what moves store. */
static void copy_by_moves(char *to, const char *from, size_t length)
{
    for (size_t piece; length; to += piece, from += piece, length -= piece) {
        piece = length < MOVES_MOST ? length : MOVES_MOST;
        __asm__("" : "+r"(piece)); /* gcc, if it knew the bound, would use that instruction itself */
        memcpy(to, from, piece);
    }
}

/* A short message goes without an operation, if the transport has room for it. False: it does not. */
static bool send_short(zc_comm *comm, const void *buf, const struct range *range, size_t length, int dst, int tag)
{
    struct slot *slot = length ? range->slot : NULL;
    if (!slot && length)
        touch(buf, length);
    char *to = comm->transport->place(&comm->endpoint, length, dst, tag);
    if (!to)
        return false;
    struct backing *backing = slot ? hold_look(slot) : NULL;
    bool whole = backing || !slot;
    if (whole)
        copy_by_moves(to, backing ? backing_wire(backing) + range->offset : buf, length);
    comm->transport->placed(&comm->endpoint, dst, whole);
    if (!whole)
        return false;
    /* Only now: to drop a lock waits until all has been stored, and meanwhile the peer, which looks for the message all
     * the time, would take away the cache line that the message's bytes share with the stamp that tells of it. */
    if (backing)
        hold_looked(backing);
    struct often *mine = stats_mine();
    count_at(mine, sends);
    if (!length)
        count_at(mine, sends_empty);
    else if (slot)
        count_at(mine, sends_inline);
    else
        count_at(mine, sends_copied);
    if (!slot && length)
        count_at(mine, sends_foreign);
    poll_sometimes(comm);
    return true;
}

int zc_send(const void *buf, size_t len, int dst, int tag, zc_comm *comm)
{
    struct range range;
    int error = comm_check_send(comm, "zc_send", dst, tag);
    if (!error && !buf && len)
        error = fail(-EINVAL, "zc_send: buf is NULL and len is %zu", len);
    if (!error)
        error = range_find(buf, len, "zc_send", &range);
    if (error)
        return error;
    bool eager = len <= comm->endpoint.eager;
    if (eager && comm->transport->place && send_short(comm, buf, &range, len, dst, tag))
        return 0;
    if (!eager) /* one that is taken at once is never in flight */
        make_room(comm, 1);
    struct op *op = comm_begin(comm, true, &range, len, dst, tag);
    if (!op)
        return -ENOMEM;
    const char *wire;
    if (!eager && comm->endpoint.read_by_peers)
        op->hold.behind = atomic_load_explicit(&comm->sending, memory_order_relaxed) > 0;
    error = secure(op, buf, eager, &wire);
    if (error) {
        op_end_send(op);
        return error;
    }
    error = eager ? post_eager(op, wire) : post(op, wire);
    poll_sometimes(comm);
    return error;
}

int comm_send_lent(zc_comm *comm, struct lease *lease, const struct taken *taken, const void *bytes, size_t length,
                   int dst, int tag)
{
    struct range none = {0};
    make_room(comm, 1);
    struct op *op = comm_begin(comm, true, &none, length, dst, tag);
    if (!op)
        return -ENOMEM;
    op->lease = lease;
    set_in_flight(op);
    int posted = comm->transport->send_lent(&comm->endpoint, op, taken, bytes, length, dst, tag);
    if (posted < 0)
        op->lease = NULL;
    if (posted)
        op_sent(op, 0); /* over already, or undone */
    if (posted < 0)
        return posted;
    count_often(sends);
    count_often(sends_free);
    return 0;
}

int zc_send_free(void *buf, size_t len, int dst, int tag, zc_comm *comm)
{
    struct range range;
    int error = comm_check_send(comm, "zc_send_free", dst, tag);
    bool foreign = !error && fallback_size(buf); /* of a full pool: sent as foreign memory is */
    if (!error && !foreign)
        error = range_find_own(buf, len, "zc_send_free", &range);
    if (!error && !foreign && range.offset)
        error = fail(-EINVAL, "zc_send_free: %p lies %zu bytes inside its buffer", buf, range.offset);
    if (error)
        return error;
    if (foreign || len == 0) {
        error = zc_send(buf, len, dst, tag, comm);
        return error ? error : zc_free(buf);
    }
    make_room(comm, 1);
    struct op *op = comm_begin(comm, true, &range, len, dst, tag);
    if (!op)
        return -ENOMEM;
    /* Where receives are in flight, the bytes may still change under a hold: copy what is there now, unless that is of
     * a failed one. */
    const char *wire = hold_send_given(&op->hold);
    op->held = wire != NULL;
    if (!wire)
        error = copy(op, buf, &wire);
    if (error) {
        op_end_send(op);
        return error;
    }
    if (op->held) {
        struct often *mine = stats_mine();
        count_at(mine, sends);
        count_at(mine, sends_free);
    }
    error = post(op, wire);
    poll_sometimes(comm);
    return error ? error : zc_free(buf);
}
