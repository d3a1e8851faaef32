/* SPDX-License-Identifier: MIT
 *
 * What shm and verbs have in common: ranks that may be lost, each by itself, messages that meet receives, and
 * operations that are told of when the lock is dropped. */
#ifndef ZC_TRANSPORT_PEERS_H
#define ZC_TRANSPORT_PEERS_H

#include <errno.h>

#include "core/lock.h"
#include "transport/op.h"

/* First member of what an endpoint of such a transport points to. */
struct peers {
    lock lock;
    int rank, size;
    bool any_lost; /* else they need not be asked */
    bool looked;   /* for a message, and there was none */
    struct match_queue queue;
    struct op_queue over; /* operations that are to be told of */

    /* The error with which the rank is lost, and why; it has left in good order where *why is NULL. 0: it is there. */
    int (*lost)(const struct peers *peers, int rank, const char **why);
};

/* ---- all of the following under the lock, but peers_tell, peers_probe and peers_take ---- */

/* The operation is over, a receive as its status says. Its memory is not touched any more. */
static inline void peers_over(struct peers *peers, struct op *op, int error)
{
    op->status.error = error;
    op_queue_add(&peers->over, op);
}

/* Of a receive: nothing has landed. */
static inline void peers_fail(struct peers *peers, struct op *receive, int error)
{
    receive->status.length = 0;
    peers_over(peers, receive, error);
}

/* Ends what was over, once the lock has been dropped under which it was taken. */
static inline void peers_tell(struct op *over)
{
    /* An operation may be used for another one as soon as it was told. */
    for (struct op *op = over, *next; op; op = next) {
        next = op->in.next;
        zc_status status = op->status;
        if (op->sends)
            op_sent(op, status.error);
        else
            op_received(op, status.source, status.tag, status.length, status.error);
    }
}

/* Says in the operation what it receives. */
static inline void peers_set_receive(struct op *op, void *wire, size_t cap, int src, int tag)
{
    op->in.wire = wire;
    op->in.length = cap;
    op->in.match = (struct match){.source = src, .tag = tag};
    op->status = (zc_status){.source = src, .tag = tag};
}

/* The receive takes the message: says so in its status. Returns how many bytes of it there is room for. */
static inline size_t peers_meet(struct op *receive, const struct match *message, int *error)
{
    size_t cap = receive->in.length;
    *error = message->length > cap ? -EMSGSIZE : 0;
    receive->status = match_status(message);
    receive->status.length = *error ? cap : message->length;
    return receive->status.length;
}

/* Ends a receive that waits for what will never come: 0, or an error with which its call fails. */
int peers_give_up(struct peers *peers, struct op *receive);

/* The message that the receive takes, taken out. NULL: it waits for one; or *error, with which its call fails, as none
 * will ever come. */
static inline struct match *peers_match(struct peers *peers, struct op *receive, int *error)
{
    struct match *message = match_receive(&peers->queue, &receive->in.match);
    *error = message || !peers->any_lost ? 0 : peers_give_up(peers, receive);
    return message;
}

/* Says why nothing goes to `rank`, or comes from it. Returns `error`. */
int peers_gone(const struct peers *peers, int rank, int error);

/* A rank was lost: receives that wait for what cannot come end. */
void peers_lose_receives(struct peers *peers);

/* As the transport's. */
int peers_probe(struct endpoint *endpoint, int src, int tag, zc_status *status);
int peers_take(struct endpoint *endpoint, int src, int tag, zc_status *status, struct taken *taken);

#endif
