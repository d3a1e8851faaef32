/* SPDX-License-Identifier: MIT
 *
 * The verbs transport inside. Each rank has a reliable connection to every other one. What it sends to itself is
 * copied, when it has met its receive; no device is asked.
 *
 * Messages of at most EAGER bytes go whole: by copy through a registered slot, or inline where they are tiny. Of a
 * longer one an *offer* goes: where its bytes are. When it meets its receive, the receiver *reads* them by RDMA from
 * the sender's wire mapping straight to where they are to land, and says *done*. Where a side is not registered
 * (foreign memory, segments that go without), the receiver *pulls* instead, and the sender sends *parts*.
 *
 * What is sent lands in slots of one shared receive queue. Each is given back to it as soon as it has been looked at:
 * a message that no receive waits for is copied out first, so that no slot, and no credit, waits for the program.
 * A rank may have as many sends at a peer as the peer keeps slots for it; the peer writes how many it has given back,
 * by RDMA, into `granted`. So nothing ever finds the queue empty, and the completion queue has room for all that can
 * be in it.
 *
 * Work requests of a connection complete in order, and only some ask for a completion: it tells of all before it. */
#ifndef ZC_TRANSPORT_VERBS_H
#define ZC_TRANSPORT_VERBS_H

#include <stdint.h>

#include "core/lock.h"
#include "transport/ids.h"
#include "transport/peers.h"
#include "transport/verbs_device.h"

enum { EAGER = 8192 }; /* as MPI's (mpi.h) */

/* ---- on the wire, in the byte order that all ranks share ---- */

#define VERBS_PROTOCOL "verbs 2" /* to be changed with what follows, and what ranks exchange at first */

enum kind {
    KIND_WHOLE, /* a message: length, tag; then its bytes */
    KIND_OFFER, /* a message: length, tag, id, readable, key, address */
    KIND_DONE,  /* has been read or is not wanted any more: id */
    KIND_PULL,  /* is to be sent in parts: id, length (as much as is wanted), reply */
    KIND_PART,  /* bytes of it: reply, address (from its start), length; then the bytes */
    KIND_BYE    /* the sender sends nothing any more */
};

struct header {
    uint8_t kind;
    uint8_t readable; /* by key and address; else to be pulled */
    uint16_t source;
    int32_t tag;
    uint64_t length;
    uint64_t address;
    uint32_t key;
    uint32_t id;    /* the sender's name for an offered message */
    uint32_t reply; /* the receiver's */
    uint32_t unused;
};

enum { SLOT_BYTES = sizeof(struct header) + EAGER };

/* ---- messages that have arrived, and what became of them ---- */

enum step {
    STEP_UNMATCHED,
    STEP_READ, /* is being read, or to be */
    STEP_PULL, /* is being pulled, or to be */
    STEP_DONE  /* the receive is over; the sender is to be told */
};

struct message {
    struct match match;
    struct message *next; /* in its peer's list of answers, or of those to land */
    enum step step;
    const char *bytes; /* of one that came whole, in the slot or: */
    char *own;         /* its copy, where no receive waited */
    struct op *sender; /* of one of this rank to itself that is not yet received; else NULL */
    bool readable;
    uint64_t address;
    uint32_t key, id, reply;
    struct op *receive;
    size_t kept;          /* as much as the receive has room for */
    size_t asked, landed; /* of these */
    uint32_t reads;       /* in flight */
    int error;
};

/* ---- peers ---- */

/* A work request that is not known to be complete. */
struct work {
    struct message *message; /* that it reads, or NULL */
    uint32_t slot;           /* that it sends from, or NO_SLOT */
};

#define NO_SLOT UINT32_MAX

struct peer {
    struct ibv_qp *qp;
    uint64_t granted_address; /* where it wants to be told of slots given back */
    uint32_t granted_key;
    uint32_t credits;                       /* slots that it keeps for this rank */
    uint64_t sent, granted;                 /* sends to it, and of these those whose slots it has given back */
    uint64_t told;                          /* it was told of so many slots that this rank has given back */
    uint32_t posted, completed;             /* work requests */
    struct work *work;                      /* by number, modulo depth */
    struct op_queue sends;                  /* that wait for room: in order, but for pulled ones */
    struct message *answers, **answers_end; /* to offers, that wait for room */
    bool saying_bye, said_bye;
    uint32_t bye;    /* its number */
    int error;       /* nothing can be sent to it or received from it any more, */
    const char *why; /* because; NULL: it has left */
    int broken;      /* posting failed: to be lost with this error as soon as nobody is at its lists */
};

struct verbs {
    struct peers common; /* first */
    struct port port;
    uint32_t others; /* ranks besides this one, but 1 at least */
    struct ibv_cq *cq;
    struct ibv_srq *srq;
    char *slots; /* receive slots, send slots, granted and returned: one registered range */
    size_t slots_bytes;
    struct ibv_mr *slots_region;
    uint32_t receive_slots, send_slots;
    uint32_t *free_slots; /* send slots */
    uint32_t free_count;
    _Atomic uint64_t *granted;  /* by peer: sends whose slots it has given back; it writes this */
    _Atomic uint64_t *returned; /* by peer: receives from it whose slots were given back */
    uint32_t credits, depth, inline_most;
    size_t read_most; /* bytes of one read */
    uint8_t timeout;  /* of a packet, as the device counts it */
    struct peer *peers;
    struct ids offers; /* struct op */
    struct ids pulls;  /* struct message */
    bool stalled;      /* somebody waits for room */
    uint32_t polls;
    uint64_t last_sign;      /* of life that was asked for */
    struct message *landing; /* of this rank to itself: to be copied when the lock is dropped */
};

/* ---- verbs.c ---- */

/* As verbs_unlock, where operations are over. */
void verbs_unlock_and_tell(struct verbs *verbs);

static inline void verbs_lock(struct verbs *verbs)
{
    lock_take(&verbs->common.lock);
}

/* Drops the lock, and then ends the operations that are over. */
static inline void verbs_unlock(struct verbs *verbs)
{
    if (verbs->common.over.first)
        verbs_unlock_and_tell(verbs);
    else
        lock_drop(&verbs->common.lock);
}

void message_free(struct message *message);

/* A message like this one has arrived: goes to its receive, or waits for one. 0 or -ENOMEM. */
int verbs_arrive(struct verbs *verbs, const struct message *what);

/* ---- verbs_lose.c ---- */

/* The peer failed with `error`, or left in good order (`why` NULL): ends all that is in flight with it. Not for a
 * function that is at its lists. */
void verbs_lose(struct verbs *verbs, struct peer *peer, int error, const char *why);

/* ---- verbs_connect.c ---- */

struct bootstrap;

/* Has peers lost that do not answer for about so long. */
void verbs_set_timeout(struct verbs *verbs, uint64_t ms);

/* Makes queues, slots and connections, on the port that is open; or has opened with `error`, of which the others are
 * told. Fails for all or none. On failure verbs_disconnect undoes what was done. */
int verbs_connect(struct verbs *verbs, struct bootstrap *bootstrap, int error);
void verbs_disconnect(struct verbs *verbs);

/* ---- verbs_wire.c: all under the lock ---- */

/* Gives a receive slot to the shared receive queue. 0 or an error of the device. */
int wire_repost(struct verbs *verbs, uint32_t slot);

/* Posts the next part of a send. False: no room for it now. */
bool wire_send(struct verbs *verbs, struct peer *peer, struct op *op);

/* Posts as much as there is room for of all that waits for the peer. */
void wire_push(struct verbs *verbs, struct peer *peer);

/* Tells the peer how many slots it may use again. */
void wire_grant(struct verbs *verbs, struct peer *peer);

/* Puts things where wire_push finds them. */
void wire_queue_send(struct verbs *verbs, struct peer *peer, struct op *op);
void wire_queue_answer(struct verbs *verbs, struct peer *peer, struct message *message, enum step step);

/* Where a slot is. */
static inline char *wire_slot(const struct verbs *verbs, uint32_t slot)
{
    return verbs->slots + (size_t)slot * SLOT_BYTES;
}

/* ---- verbs_poll.c ---- */

void verbs_poll(struct endpoint *endpoint, struct op *urgent);

#endif
