/* SPDX-License-Identifier: MIT
 *
 * The oracle: random programs whose every message is checked against what the sender's buffer held at the call.
 *
 * An *actor* is a thread of a rank (in lockstep: one of many that a single thread runs in turn). It owns buffers,
 * each with a *shadow* in ordinary memory that sees the same stores and receives. Before it sends, it *announces*
 * the length and the hash of the shadow's bytes in a table that all actors see and zc does not. The receiver
 * compares what landed with what was announced, and now and then its whole buffers with their shadows. So a torn,
 * late, lost, doubled or reordered message is seen, and so is a lost store.
 *
 * A *channel* is what orders messages: sender, receiver and tag. The nth message of a channel goes to the nth
 * receive, in the order in which receives were posted, that took a message of it. */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zc.h"

enum { RANKS = 4, THREADS = 4, TAGS = 4 };

struct plan {
    uint64_t seed;
    unsigned ops; /* of all actors */
    int ranks, threads;
    bool mpi, outside, lockstep, fail, one_way, control, trace;
    zc_options options;
    char command[512]; /* that runs it again */
};

/* ---- The announcements ---- */

struct message {
    uint64_t hash, length;
};

struct channel {
    atomic_uint announced;
    atomic_uint taken; /* by receives that were reported */
    atomic_ullong bytes_announced, bytes_taken;
};

struct table {
    atomic_uint finished, drained, closed; /* actors */
    atomic_uint received, tears, failures, cancelled, truncated, operations;
    struct channel channel[RANKS][RANKS][THREADS][TAGS]; /* source, destination, thread, tag */
    struct message message[];                            /* `capacity` for each channel, in the same order */
};

size_t table_size(const struct plan *plan);
struct channel *table_channel(struct table *table, int source, int destination, int thread, int tag);
struct message *table_message(const struct plan *plan, struct table *table, const struct channel *channel, unsigned n);

/* ---- Actors ---- */

/* A buffer that all actors of a rank share under a lock, which orders what they do. */
struct shared {
    pthread_mutex_t lock;
    unsigned char *bytes, *shadow;
    size_t size;
};

enum { SHARED = 2 };

struct actor;

struct actor *actor_new(const struct plan *plan, struct table *table, zc_comm *comm, int thread, struct shared *shared);

/* Does one operation, or one step of coming to an end; false when there is nothing left to do. */
bool actor_step(struct actor *actor);

/* Frees what it owns, after all actors have come to an end. */
void actor_delete(struct actor *actor);

/* What the actor that this thread runs did last, for the message of a failed check. */
void actor_last_words(void);

#endif
