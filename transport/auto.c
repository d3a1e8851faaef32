/* SPDX-License-Identifier: MIT
 *
 * Two transports as one: ranks of this host over shm, others over MPI, so that all messages of a rank come one way, in
 * order. What names a rank is done by the transport that reaches it. No transport alone can do a receive from any rank:
 * while one waits here, or its message is looked for, all that has come is taken out of both transports and matched
 * here, and so are receives that name a rank and came after it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "transport/bootstrap.h"
#include "transport/comm.h"
#include "transport/hosts.h"
#include "transport/match.h"
#include "transport/mpi.h"
#include "transport/op.h"
#include "transport/shm.h"

enum { BATCH = 32 }; /* messages of a part that are taken at a time */

enum { NEAR, FAR, PARTS };

struct part {
    const struct transport *transport;
    struct endpoint endpoint;
};

/* A message that was taken out of its part. */
struct arrived {
    struct match match; /* first */
    struct arrived *next;
    struct part *part;
    struct taken taken;
    struct op *receive; /* that it goes to */
};

struct both {
    struct part parts[PARTS];
    bool *with; /* by rank: is near */
    lock lock;
    struct match_queue queue;
    _Atomic bool waiting;    /* there are receives in the queue */
    struct arrived *landing; /* messages that have met their receives, and */
    struct op *unreachable;  /* receives that never will, to be dealt with when the lock is dropped */
};

static struct part *part_of(struct both *both, int rank)
{
    return &both->parts[both->with[rank] ? NEAR : FAR];
}

static struct part *near_of(const struct endpoint *endpoint)
{
    struct both *both = endpoint->state;
    return &both->parts[NEAR];
}

static struct arrived *arrived_of(struct match *match)
{
    return (struct arrived *)match; /* its first member */
}

/* ---- matching ---- */

/* Operations end without the lock: they may end others in turn. */
static void unlock(struct both *both)
{
    struct arrived *landing = both->landing;
    struct op *unreachable = both->unreachable;
    both->landing = NULL;
    both->unreachable = NULL;
    atomic_store_explicit(&both->waiting, both->queue.receives.first != NULL, memory_order_relaxed);
    lock_drop(&both->lock);
    for (struct arrived *message = landing, *next; message; message = next) {
        struct op *op = message->receive;
        next = message->next;
        int error = message->part->transport->receive_taken(&message->part->endpoint, op, op->in.wire, op->in.length,
                                                            &message->taken);
        if (error) {
            message->part->transport->give_back(&message->part->endpoint, &message->taken);
            op_received(op, message->match.source, message->match.tag, 0, error);
        }
        free(message);
    }
    for (struct op *op = unreachable, *next; op; op = next) {
        next = op->in.next;
        op_received(op, op->in.match.source, op->in.match.tag, 0, op->status.error);
    }
}

static void meet(struct both *both, struct arrived *message, struct op *receive)
{
    message->receive = receive;
    message->next = both->landing;
    both->landing = message;
}

/* The next message of the part, whoever sent it. NULL: there is none now. */
static struct arrived *take_any(struct part *part)
{
    zc_status status;
    struct arrived *message = malloc(sizeof *message);
    if (!message || part->transport->take(&part->endpoint, ZC_ANY_SOURCE, ZC_ANY_TAG, &status, &message->taken) != 1) {
        free(message); /* where all of a host are gone, others may still come */
        return NULL;
    }
    message->part = part;
    message->match = (struct match){.source = status.source, .tag = status.tag, .length = status.length};
    return message;
}

/* Receives that name a rank end with it. */
static void drop_unreachable(struct both *both)
{
    zc_status status;
    for (struct match *match = both->queue.receives.first, *next; match; match = next) {
        next = match->next;
        if (match->source == ZC_ANY_SOURCE || !both->with[match->source])
            continue;
        struct part *near = &both->parts[NEAR];
        int error = near->transport->probe(&near->endpoint, match->source, match->tag, &status);
        if (error >= 0)
            continue;
        struct op *op = op_of_match(match);
        match_remove(&both->queue, match);
        op->status.error = error;
        op->in.next = both->unreachable;
        both->unreachable = op;
    }
}

/* Takes what has come from anybody, in order, and matches it. That a part has nothing more to expect is no error of the
 * call that looks. */
static void gather(struct both *both)
{
    struct kept_error before;
    error_keep(&before, 0);
    for (struct part *part = both->parts; part < both->parts + PARTS; part++) {
        struct arrived *message;
        for (int i = 0; i < BATCH && (message = take_any(part)); i++) {
            struct match *receive = match_message(&both->queue, &message->match);
            if (receive)
                meet(both, message, op_of_match(receive));
        }
    }
    drop_unreachable(both);
    error_restore(&before);
}

/* ---- the table ---- */

static int auto_send(struct endpoint *endpoint, struct op *op, const void *wire, size_t length, int dst, int tag)
{
    struct part *part = part_of(endpoint->state, dst);
    return part->transport->send(&part->endpoint, op, wire, length, dst, tag);
}

static char *auto_place(struct endpoint *endpoint, size_t length, int dst, int tag)
{
    struct part *part = part_of(endpoint->state, dst);
    return part->transport->place ? part->transport->place(&part->endpoint, length, dst, tag) : NULL;
}

static void auto_placed(struct endpoint *endpoint, int dst, bool whole)
{
    struct part *part = part_of(endpoint->state, dst);
    part->transport->placed(&part->endpoint, dst, whole);
}

/* Under the lock even where the part does it: no message may be taken from the part meanwhile that this is older
 * than. */
static int auto_receive(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, int src, int tag)
{
    struct both *both = endpoint->state;
    int error = 0;
    lock_take(&both->lock);
    bool first = src != ZC_ANY_SOURCE && !both->queue.receives.first;
    if (first && !match_probe(&both->queue, src, tag)) {
        struct part *part = part_of(both, src);
        error = part->transport->receive(&part->endpoint, op, wire, cap, src, tag);
    } else {
        op->in.wire = wire;
        op->in.length = cap;
        op->in.match = (struct match){.source = src, .tag = tag};
        struct match *message = match_receive(&both->queue, &op->in.match);
        if (message)
            meet(both, arrived_of(message), op);
        else
            gather(both);
    }
    unlock(both);
    return error;
}

static void auto_cancel(struct endpoint *endpoint, struct op *op)
{
    struct both *both = endpoint->state;
    lock_take(&both->lock);
    bool here = match_remove(&both->queue, &op->in.match);
    unlock(both);
    if (here) {
        op_received(op, op->peer, op->tag, 0, -ECANCELED);
    } else if (op->peer != ZC_ANY_SOURCE) {
        struct part *part = part_of(both, op->peer);
        part->transport->cancel(&part->endpoint, op);
    }
}

static void auto_poll(struct endpoint *endpoint, struct op *urgent)
{
    struct both *both = endpoint->state;
    for (struct part *part = both->parts; part < both->parts + PARTS; part++)
        part->transport->poll(&part->endpoint, urgent);
    if (atomic_load_explicit(&both->waiting, memory_order_relaxed) && lock_try(&both->lock)) {
        gather(both);
        unlock(both);
    }
}

static bool auto_take_in(struct endpoint *endpoint)
{
    struct both *both = endpoint->state;
    struct part *far = &both->parts[FAR];
    return far->transport->take_in(&far->endpoint);
}

/* ---- waiting: one may sleep for what comes over shm ---- */

static bool auto_must_poll(struct endpoint *endpoint, const struct waiting *waiting)
{
    struct both *both = endpoint->state;
    bool looks_far = waiting->looks && (waiting->source == ZC_ANY_SOURCE || !both->with[waiting->source]);
    return looks_far || atomic_load_explicit(&both->waiting, memory_order_relaxed) ||
           mpi_busy(&both->parts[FAR].endpoint);
}

/* ---- what has come ---- */

/* The oldest message that matches, of those that were taken; after all were that have to be. The lock is held. */
static struct arrived *find(struct both *both, int src, int tag, zc_status *status)
{
    if (src == ZC_ANY_SOURCE || both->queue.receives.first)
        gather(both);
    struct match *match = match_probe(&both->queue, src, tag);
    if (match)
        *status = match_status(match);
    return match ? arrived_of(match) : NULL;
}

static int auto_probe(struct endpoint *endpoint, int src, int tag, zc_status *status)
{
    struct both *both = endpoint->state;
    zc_status seen;
    lock_take(&both->lock);
    int there = find(both, src, tag, status) != NULL;
    if (!there && src != ZC_ANY_SOURCE) {
        struct part *part = part_of(both, src);
        there = part->transport->probe(&part->endpoint, src, tag, &seen);
        if (there > 0 && both->queue.receives.first)
            there = 0; /* a receive that waits may be older: it is looked at when it is taken */
        if (there > 0)
            *status = seen;
    }
    unlock(both);
    return there;
}

/* The same for a message that is in its part: takes it. */
static int take_from_part(struct both *both, int src, int tag, zc_status *status, struct arrived **out)
{
    struct part *part = part_of(both, src);
    struct arrived *message = NULL;
    if (both->queue.receives.first) {
        int error = part->transport->probe(&part->endpoint, src, tag, status);
        return error < 0 ? error : 0;
    }
    if (!(message = malloc(sizeof *message)))
        return fail(-ENOMEM, "zc: no memory for a message");
    message->part = part;
    int there = part->transport->take(&part->endpoint, src, tag, status, &message->taken);
    if (there == 1)
        *out = message;
    else
        free(message);
    return there;
}

static int auto_take(struct endpoint *endpoint, int src, int tag, zc_status *status, struct taken *taken)
{
    struct both *both = endpoint->state;
    int error = 0;
    lock_take(&both->lock);
    struct arrived *message = find(both, src, tag, status);
    if (message)
        match_remove(&both->queue, &message->match);
    else if (src != ZC_ANY_SOURCE)
        error = take_from_part(both, src, tag, status, &message);
    unlock(both);
    if (message)
        taken->native = (uintptr_t)message;
    return message ? 1 : error;
}

static int auto_receive_taken(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, struct taken *taken)
{
    struct arrived *message = (struct arrived *)taken->native;
    (void)endpoint;
    int error = message->part->transport->receive_taken(&message->part->endpoint, op, wire, cap, &message->taken);
    if (!error)
        free(message);
    return error;
}

/* ---- lending: what has come over shm ---- */

static bool auto_lend(struct endpoint *endpoint, const struct taken *taken, const void **bytes)
{
    struct arrived *message = (struct arrived *)taken->native;
    const struct transport *transport = message->part->transport;
    (void)endpoint;
    return transport->lend && transport->lend(&message->part->endpoint, &message->taken, bytes);
}

static void auto_give_back(struct endpoint *endpoint, const struct taken *taken)
{
    struct arrived *message = (struct arrived *)taken->native;
    (void)endpoint;
    message->part->transport->give_back(&message->part->endpoint, &message->taken);
    free(message);
}

static long auto_unreceived(struct endpoint *endpoint, const _Atomic long *sending)
{
    struct part *near = near_of(endpoint);
    return near->transport->unreceived(&near->endpoint, sending);
}

static int auto_send_lent(struct endpoint *endpoint, struct op *op, const struct taken *taken, const void *bytes,
                          size_t length, int dst, int tag)
{
    struct arrived *message = (struct arrived *)taken->native;
    struct part *part = part_of(endpoint->state, dst);
    if (part == message->part)
        return part->transport->send_lent(&part->endpoint, op, &message->taken, bytes, length, dst, tag);
    return part->transport->send(&part->endpoint, op, bytes, length, dst, tag);
}

/* ---- opening and closing ---- */

/* Both parts, or none. */
static int open_parts(struct both *both, const struct hosts *hosts, void *native)
{
    const struct address mpi = {.scheme = "mpi", .name = ""};
    struct shm_group group = {.rank = hosts->rank, .size = hosts->size, .with = hosts->with};
    struct part *near = &both->parts[NEAR], *far = &both->parts[FAR];
    near->transport = &shm_transport;
    far->transport = &mpi_transport;
    memcpy(group.name, hosts->name, sizeof group.name);
    int failed = shm_open_group(&group, (uint64_t)SHM_WAIT_SECONDS * 1000000000, &near->endpoint);
    int error = bootstrap_agree(hosts->bootstrap, failed);
    if (!error)
        error = far->transport->open(&mpi, native, &far->endpoint);
    if (error && !failed)
        near->transport->close(&near->endpoint);
    return error;
}

static int auto_open(const struct address *address, void *native, struct endpoint *endpoint)
{
    struct hosts hosts;
    (void)address;
    if (!native)
        return fail(-EINVAL, "zc_open: auto is for the processes of an MPI communicator: zc_open_mpi");
    int error = hosts_find(native, &hosts);
    if (error)
        return error;
    struct both *both = calloc(1, sizeof *both);
    error = both ? open_parts(both, &hosts, native) : fail(-ENOMEM, "zc_open: no memory");
    if (!error) {
        const struct endpoint *near = &both->parts[NEAR].endpoint, *far = &both->parts[FAR].endpoint;
        both->with = hosts.with;
        hosts.with = NULL;
        *endpoint = *far;
        endpoint->state = both;
        endpoint->sleeping = near->sleeping;
        endpoint->sleeps_at = near->sleeps_at;
        endpoint->read_by_peers = false; /* those of this host may take a view of it */
        endpoint->eager = near->eager < far->eager ? near->eager : far->eager;
        if (near->tag_most < far->tag_most)
            endpoint->tag_most = near->tag_most;
    } else {
        free(both);
    }
    hosts_end(&hosts);
    return error;
}

/* Only over shm is there anything to wait for. */
static bool auto_parted(struct endpoint *endpoint)
{
    struct both *both = endpoint->state;
    struct part *near = &both->parts[NEAR];
    lock_take(&both->lock);
    for (struct match *match; (match = both->queue.messages.first);) {
        match_remove(&both->queue, match);
        auto_give_back(endpoint, &(struct taken){.native = (uintptr_t)match});
    }
    unlock(both);
    return near->transport->parted(&near->endpoint);
}

static void auto_close(struct endpoint *endpoint)
{
    struct both *both = endpoint->state;
    for (struct part *part = both->parts; part < both->parts + PARTS; part++)
        part->transport->close(&part->endpoint);
    free(both->with);
    free(both);
}

const struct transport auto_transport = {.scheme = "auto",
                                         .check = address_check_bare,
                                         .open = auto_open,
                                         .parted = auto_parted,
                                         .close = auto_close,
                                         .send = auto_send,
                                         .place = auto_place,
                                         .placed = auto_placed,
                                         .receive = auto_receive,
                                         .poll = auto_poll,
                                         .must_poll = auto_must_poll,
                                         .take_in = auto_take_in,
                                         .tend = mpi_tend,
                                         .cancel = auto_cancel,
                                         .probe = auto_probe,
                                         .take = auto_take,
                                         .receive_taken = auto_receive_taken,
                                         .give_back = auto_give_back,
                                         .lend = auto_lend,
                                         .unreceived = auto_unreceived,
                                         .send_lent = auto_send_lent};
