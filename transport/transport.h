/* SPDX-License-Identifier: MIT
 *
 * What a transport is to the layer above: a table of functions. It sees wire addresses and foreign memory
 * only, never a user mapping, and knows nothing of holds: it calls op_sent and op_received (op.h) when an
 * operation is over. All functions may be called by any thread at any time, and never from a signal handler. */
#ifndef ZC_TRANSPORT_TRANSPORT_H
#define ZC_TRANSPORT_TRANSPORT_H

#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transport/address.h"
#include "zc.h"

struct op;

/* A message taken out of matching by `take`, for `receive_taken`. */
struct taken {
    uintptr_t native;
};

/* Of one that waits: zero at first. */
struct waiting {
    unsigned polls;    /* so far */
    uint32_t seen;     /* the transport's own, */
    bool napped;       /* as is this */
    uint64_t deadline; /* when to look again in any case, by clock_ns; 0: never */
    uint64_t quiet;    /* since when nothing has ended its sleep early; 0: it has not slept since */
    uint32_t news;     /* how much had happened at all endpoints when it looked last */
    bool looks;        /* for a message to come, */
    int source;        /* of this rank or any; else for operations to end */
};

enum { NAP_MOST = 32 };

/* What ends the sleep of one that waits, besides what happens at the endpoint that it waits at. */
struct nap {
    /* To be called without a lock, right before sleeping: false, there is something to look at. The `first` one at an
     * endpoint sleeps in poll(2) on the descriptors, which this fills in; others sleep until that one wakes. */
    bool (*may)(struct nap *nap, bool first);
    uint64_t deadline; /* by clock_ns; 0: none */
    unsigned count;
    struct pollfd fds[NAP_MOST]; /* of other endpoints, from the second on; the first is the transport's own */
};

/* How one sleeps. `at` is what the endpoint says. */
struct sleeping {
    /* Called by one that waits after each poll that did not end what it waits for: is it time to sleep? */
    bool (*wants_sleep)(void *at, struct waiting *waiting);

    /* Sleeps until something happens that had not when `wants_sleep` was called, or `nap` says so. */
    void (*sleep)(void *at, struct waiting *waiting, struct nap *nap);

    /* How often something has happened here that may end a sleep. */
    uint32_t (*events)(const void *at);

    /* For one that sleeps elsewhere: a descriptor that is readable when there may be something to poll for, or
     * something has happened, until `unwatch`. -1: there may be already. */
    int (*watch)(void *at);
    void (*unwatch)(void *at);

    /* Whoever sleeps here is to look again at what there is. */
    void (*wake)(void *at);
};

/* Filled in by `open`. */
struct endpoint {
    void *state;
    const struct sleeping *sleeping; /* NULL: there is only polling, and it has to be looked at now and then, */
    void *sleeps_at;                 /* or what its functions are given */
    int rank, size;
    int tag_most;    /* tags are 0..tag_most */
    size_t eager;    /* messages up to this are likely to be taken before `send` returns */
    bool any_thread; /* any thread may call at any time; else only the one that opened it */
    bool serialized; /* ... or any thread, but one at a time; no helper then */
    bool ends_with_mpi;
    bool read_by_peers; /* a large message by the receiver's processor, out of the slot: a copy may be nearer to it */
};

struct transport {
    const char *scheme;

    /* Refuses what this rank alone can refuse of an address for zc_open_mpi, before any rank begins to open: the others
     * would wait for it. NULL: `open` tells them. */
    int (*check)(const struct address *address);

    /* `native` is what a more special public call handed over (an MPI_Comm *), or NULL. */
    int (*open)(const struct address *address, void *native, struct endpoint *endpoint);

    /* Takes leave of the peers, when nothing is in flight any more. False: there is something to poll for before
     * closing, and this is to be called again. NULL: there is never. */
    bool (*parted)(struct endpoint *endpoint);

    void (*close)(struct endpoint *endpoint);

    /* Starts sending. 1: the bytes were taken, op_sent will not be called; 0: op_sent will be, perhaps it has
     * been; or -errno, nothing was sent. */
    int (*send)(struct endpoint *endpoint, struct op *op, const void *wire, size_t length, int dst, int tag);

    /* For a message of up to `eager` bytes: where to copy it to, for `placed` to send; no operation is needed then. The
     * same thread calls `placed` soon, not `whole` if nothing is to be sent, and no other function of the transport
     * before. It may have the lock of a slot then, so `placed` takes none and ends no operation. NULL: not now, `send`
     * it. NULL as a whole: it is always sent. */
    char *(*place)(struct endpoint *endpoint, size_t length, int dst, int tag);
    void (*placed)(struct endpoint *endpoint, int dst, bool whole);

    /* Starts receiving. 0, op_received will be called; or -errno. */
    int (*receive)(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, int src, int tag);

    /* Receives what receive(…, src, tag) would take, if it is there and small. 1 and *status; -EAGAIN: it may come
     * soon; 0: it is for `receive`, as it is large or does not fit; or -errno. NULL: always 0. */
    int (*receive_now)(struct endpoint *endpoint, void *wire, size_t cap, int src, int tag, zc_status *status);

    /* Ends what is complete, in turn. `urgent` (or NULL) is looked at in any case. */
    void (*poll)(struct endpoint *endpoint, struct op *urgent);

    /* May what one waits for come without anything happening that ends a sleep? Then it is only polled for. NULL:
     * never. */
    bool (*must_poll)(struct endpoint *endpoint, const struct waiting *waiting);

    /* All ranks are in this process: nobody elsewhere waits for a poll of one that sleeps. */
    bool inside;

    /* Takes in some of what peers send, whatever is in flight here. True: more may come soon, since there is some that
     * nobody has received. NULL: poll does, and does not say. */
    bool (*take_in)(struct endpoint *endpoint);

    /* Looks after what closed endpoints have left to do, for a thread that may call one. NULL: there is never any. */
    void (*tend)(void);

    /* Messages are found by `probe` alone; `poll` only ends what is in flight here. */
    bool probe_takes_in;

    /* From now on, a descriptor that is readable when there may be something to poll for, or something has happened by
     * a poll since `rearm`; or -errno. NULL: there is none. */
    int (*fd)(struct endpoint *endpoint);

    /* The program is about to look at all that has happened. NULL: nothing is to be done then. */
    void (*rearm)(struct endpoint *endpoint);

    /* Asks to cancel a receive; op_received will say whether it was. */
    void (*cancel)(struct endpoint *endpoint, struct op *op);

    /* 1 and *status: there is a message that receive(…, src, tag) would take; it stays. 0: none; or -errno. */
    int (*probe)(struct endpoint *endpoint, int src, int tag, zc_status *status);

    /* The same, and it is reserved for receive_taken; where that fails, for give_back. */
    int (*take)(struct endpoint *endpoint, int src, int tag, zc_status *status, struct taken *taken);
    int (*receive_taken)(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, struct taken *taken);

    /* Nobody wants what was taken (any more). NULL: nobody takes without receiving over this one. */
    void (*give_back)(struct endpoint *endpoint, const struct taken *taken);

    /* ---- for those that can show a message where it is; else NULL ---- */

    /* Shows what was taken: *bytes may be read until give_back. False: not this one, it is still to be received. */
    bool (*lend)(struct endpoint *endpoint, const struct taken *taken, const void **bytes);

    /* How many of the sends in flight, *sending, were not received yet; the others are only looked at. Reads *sending
     * while nothing in flight here can change: other threads send meanwhile, and their messages are received. */
    long (*unreceived)(struct endpoint *endpoint, const _Atomic long *sending);

    /* As `send`, of what is lent, which stays so until the operation is over. */
    int (*send_lent)(struct endpoint *endpoint, struct op *op, const struct taken *taken, const void *bytes,
                     size_t length, int dst, int tag);
};

extern const struct transport auto_transport, loop_transport, mpi_transport, shm_transport, verbs_transport;

#endif
