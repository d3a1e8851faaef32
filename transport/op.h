/* SPDX-License-Identifier: MIT
 *
 * An operation in flight, from the public call until it is over and, for a receive, reported. */
#ifndef ZC_TRANSPORT_OP_H
#define ZC_TRANSPORT_OP_H

#include <stdatomic.h>
#include <stddef.h>

#include "protect/hold.h"
#include "transport/match.h"
#include "transport/transport.h"

/* Between posting a message that the transport did not take at once and guarding its pages, its completion by
 * another thread must not end it: who comes second does. */
enum op_phase { OP_STARTED, OP_TENTATIVE, OP_OVER };

struct op {
    struct hold hold;
    struct zc_comm *comm;
    bool sends;          /* else it receives */
    bool held;           /* a send whose hold is in force */
    struct slot *bounce; /* a send's copy, or */
    void *spill;         /* one on the heap, where no slot could be had, or */
    char small[64];      /* one of a few bytes */
    struct lease *lease; /* of a send that passes on what another process lends */
    int peer, tag;       /* as given to the call */
    uint64_t since;      /* in flight, by clock_seconds */
    _Atomic int phase;   /* enum op_phase */
    _Atomic int users;   /* who still look at it; the last op_free ends it */
    zc_status status;    /* of a receive that is over */
    struct op *next;     /* free list; else of the communicator's receives, */
    struct op **link;    /* which this points back into */
    struct {             /* the transport's own */
        struct match match;
        struct op *next;
        char *wire;
        size_t length;
        size_t index;
        struct op *with;
        unsigned delay;
        size_t asked, done;     /* bytes that the peer asked for, and that went to it */
        uint32_t reply;         /* by this name */
        struct message *passed; /* a message of another rank that is sent on */
    } in;
};

/* Operations in turn, by in.next. All zero, it is empty. */
struct op_queue {
    struct op *first, *last;
};

static inline void op_queue_add(struct op_queue *queue, struct op *op)
{
    op->in.next = NULL;
    if (queue->first)
        queue->last->in.next = op;
    else
        queue->first = op;
    queue->last = op;
}

/* Takes out the first one, of a queue that is not empty. */
static inline struct op *op_queue_pop(struct op_queue *queue)
{
    struct op *op = queue->first;
    queue->first = op->in.next;
    return op;
}

/* Takes out all of them: returns the first, or NULL. */
static inline struct op *op_queue_take(struct op_queue *queue)
{
    struct op *first = queue->first;
    queue->first = NULL;
    return first;
}

/* A send is over. */
void op_sent(struct op *op, int error);

/* The same, but another process looks at its bytes, and will not say when it has done: they stay as they are for good,
 * and the program's buffer gets fresh pages. */
void op_abandon(struct op *op, int error);

/* A receive is over: `length` bytes of a message of `source` and `tag` have landed, or some of it and -EMSGSIZE,
 * or none and another error. */
void op_received(struct op *op, int source, int tag, size_t length, int error);

/* For the layer above (see comm_begin): one that neither sends nor receives yet, or NULL with a message. */
struct op *op_new(struct zc_comm *comm);

/* One that is in nobody's hands yet, wherever it lies. */
static inline void op_init(struct op *op, struct zc_comm *comm)
{
    op->comm = comm;
    op->held = false;
    op->bounce = NULL;
    op->spill = NULL;
    op->lease = NULL;
    atomic_store_explicit(&op->users, 1, memory_order_relaxed);
    atomic_store_explicit(&op->phase, OP_STARTED, memory_order_relaxed);
}

/* Lists a receive, until op_free or op_unlist. */
void op_list(struct op *op);
void op_unlist(struct op *op);
void op_free(struct op *op);

/* The communicator is closed: those that nobody uses are not needed any more. */
void ops_end(struct zc_comm *comm);

/* Ends a send that is over or was never posted, and whatever it holds. */
void op_end_send(struct op *op);

static inline bool op_over(struct op *op)
{
    return atomic_load_explicit(&op->phase, memory_order_acquire) == OP_OVER;
}

static inline struct op *op_of(struct hold *hold)
{
    return (struct op *)hold; /* its first member */
}

static inline struct op *op_of_match(struct match *match)
{
    return (struct op *)((char *)match - offsetof(struct op, in.match));
}

#endif
