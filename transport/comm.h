/* SPDX-License-Identifier: MIT
 *
 * A communicator: a transport's endpoint, its options, and what is in flight over it. */
#ifndef ZC_TRANSPORT_COMM_H
#define ZC_TRANSPORT_COMM_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "protect/helper.h"
#include "protect/hold.h"
#include "protect/range.h"
#include "transport/op.h"
#include "transport/progress.h"
#include "transport/transport.h"

struct zc_comm {
    struct hold_rules rules; /* first: holds point here */
    _Atomic bool open;
    const struct transport *transport;
    struct endpoint endpoint;
    pthread_t owner;
    uint32_t max_in_flight; /* 0: no bound */
    _Atomic long sending;   /* sends in flight */
    _Atomic unsigned turn;  /* of sends: now and then one polls */
    _Atomic uint64_t left;  /* when the last one left that left others behind, by clock_ns; 0: none did */
    _Atomic uint32_t polls; /* since then; both where peers read what is sent */
    _Atomic int send_error; /* the first that nobody was told of */
    zc_error_handler *handler;
    void *handler_arg;
    lock ops; /* the three lists */
    struct op *free_ops;
    struct op *receives;
    struct lease *leases;
    uint32_t max_views; /* 0: no bound */
    _Atomic long views; /* of others' memory, with the program */
    struct progressor progressor;
    _Atomic unsigned looks; /* by the helper thread and zc_progress */
    _Atomic unsigned waits; /* polls of threads that wait on it, and */
    unsigned waits_seen;    /* how many there were when somebody asked */
    /* Threads under which it may not end: those of zc_wait and the like that have found an operation of it at a buffer.
     * Each counts itself before it looks whether this is open; whoever closes it stores that it is not before looking
     * for others. So one of the two sees the other. They count themselves under the lock of the buffer's slot, where
     * the operation is not over yet, and look again under it when they were refused, or have left. */
    _Atomic unsigned inside;
    struct zc_comm *next;   /* of all that are open, while this one is */
    struct zc_comm *closed; /* the next of those that are not; none is freed, so that a closed one is known */
};

/* All that a process opens once, by its variables. */
int comm_prepare(void);

/* A caller's options, which may be NULL or of another version. */
int comm_options(const zc_options *given, zc_options *options);

/* Opens over a given transport; `native` is handed to it. */
int comm_open(const struct transport *transport, const struct address *address, void *native, const zc_options *options,
              zc_comm **out);

/* Opens the address "mpi": over what zc_open_mpi would take for all of MPI_COMM_WORLD. */
int comm_open_world(const struct address *address, const zc_options *options, zc_comm **out);

/* The transport of a scheme: -ENOTSUP where it was not built, -EINVAL where there is none. */
int comm_find_transport(const char *scheme, const struct transport **transport);

/* Open, and for all threads: may be called. Else comm_examine says. */
static inline bool comm_plain(const zc_comm *comm)
{
    return comm && atomic_load_explicit(&comm->open, memory_order_relaxed) && comm->endpoint.any_thread;
}

static inline bool comm_has_peer(const zc_comm *comm, int peer)
{
    return peer >= 0 && peer < comm->endpoint.size;
}

static inline bool comm_has_tag(const zc_comm *comm, int tag)
{
    return tag >= 0 && tag <= comm->endpoint.tag_most;
}

int comm_examine(const zc_comm *comm, const char *call);
int comm_examine_send(const zc_comm *comm, const char *call, int dst, int tag);
int comm_examine_receive(const zc_comm *comm, const char *call, int src, int tag);

/* 0, or the error of calling `call` on it: closed, or the wrong thread. */
static inline int comm_check(const zc_comm *comm, const char *call)
{
    return comm_plain(comm) ? 0 : comm_examine(comm, call);
}

/* The same for a call by any thread, since it calls no MPI. */
int comm_check_open(const zc_comm *comm, const char *call);

/* As comm_check, and for the peer and tag of a send or a receive. */
static inline int comm_check_send(const zc_comm *comm, const char *call, int dst, int tag)
{
    bool fine = comm_plain(comm) && comm_has_peer(comm, dst) && comm_has_tag(comm, tag);
    return fine ? 0 : comm_examine_send(comm, call, dst, tag);
}

static inline int comm_check_receive(const zc_comm *comm, const char *call, int src, int tag)
{
    bool fine = comm_plain(comm) && (src == ZC_ANY_SOURCE || comm_has_peer(comm, src)) &&
                (tag == ZC_ANY_TAG || comm_has_tag(comm, tag));
    return fine ? 0 : comm_examine_receive(comm, call, src, tag);
}

/* The error of a receive that failed, with a message. */
int comm_failed(const zc_status *result, const char *call);

/* Tells the caller of `call` how a receive has ended; `status` may be NULL. */
static inline int comm_report(const zc_status *result, const char *call, zc_status *status)
{
    if (status)
        *status = *result;
    return result->error ? comm_failed(result, call) : 0;
}

/* Waits for a message that matches, and takes it out of matching. 0 or an error. */
int comm_take(zc_comm *comm, int src, int tag, zc_status *found, struct taken *taken);

/* Receives it into a new buffer. On failure the message is lost. */
int comm_receive_taken(zc_comm *comm, const char *call, const zc_status *found, struct taken *taken, void **buf,
                       zc_status *status);

/* Takes all that has come and was not received out of matching: it is over for its senders. */
void comm_drop_messages(zc_comm *comm);

/* Sends bytes that are lent; a user of the lease goes over to the operation, unless there is an error. */
int comm_send_lent(zc_comm *comm, struct lease *lease, const struct taken *taken, const void *bytes, size_t length,
                   int dst, int tag);

/* Says what an operation does: with `length` bytes of the range. */
static inline void comm_describe(struct op *op, bool sends, const struct range *range, size_t length, int peer, int tag)
{
    op->hold = (struct hold){.slot = range->slot, .offset = range->offset, .length = length, .rules = &op->comm->rules};
    op->sends = sends;
    op->peer = peer;
    op->tag = tag;
}

/* A new operation, or NULL with a message. */
static inline struct op *comm_begin(zc_comm *comm, bool sends, const struct range *range, size_t length, int peer,
                                    int tag)
{
    struct op *op = op_new(comm);
    if (!op)
        return NULL;
    comm_describe(op, sends, range, length, peer, tag);
    if (!sends)
        op_list(op);
    return op;
}

/* Transports are given wire addresses and foreign memory: a debug build checks that no user mapping slips through,
 * whose protection would make a system call fail and a library fault. */
static inline const void *wire_checked(const void *wire)
{
    assert(!arena_has(wire));
    return wire;
}

/* Looks for what is over; at `urgent` in any case. */
static inline void comm_poll(zc_comm *comm, struct op *urgent)
{
    if (comm->endpoint.read_by_peers) {
        uint32_t polls = atomic_load_explicit(&comm->polls, memory_order_relaxed);
        atomic_store_explicit(&comm->polls, polls + 1, memory_order_relaxed);
    }
    comm->transport->poll(&comm->endpoint, urgent);
}

/* Sends that have not left yet; those that are only looked at by their receivers have. */
long comm_sending(zc_comm *comm);

/* Is anything in flight here? */
bool comm_busy(zc_comm *comm);

/* Closes all that are open between processes of MPI, for its end. False if sends of some are never received and the
 * caller is not patient. */
bool comm_close_all_of_mpi(bool patient);

#endif
