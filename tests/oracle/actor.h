/* SPDX-License-Identifier: MIT
 *
 * An actor and what it does: actor.c runs it, actor_operations.c has the operations, and actor_receives.c and
 * actor_buffers.c keep what it has. */
#ifndef TESTS_ACTOR_H
#define TESTS_ACTOR_H

#include "oracle.h"

#define PAGE ((size_t)4096)
#define KIB ((size_t)1024)

enum { BUFFERS = 10, RECEIVES = 12, HISTORY = 48 };

struct buffer {
    unsigned char *bytes; /* NULL: none */
    unsigned char *shadow;
    size_t size;
};

/* A receive from its post until its message is known. Those that landed wait for older ones, because only then
 * it is known which message of their channel they got. */
struct receive {
    struct receive *next;
    enum {
        IN_FLIGHT,
        REPORTED, /* its bytes are being looked at */
        LANDED,
        UNSEEN /* freed while in flight */
    } state;
    struct buffer *buffer;
    size_t at, cap;
    int source, tag; /* ZC_ANY_SOURCE and ZC_ANY_TAG until it has landed */
    int result;
    size_t length;
    uint64_t hash;
    bool seen; /* no hash: what came was stored over or dropped */
};

struct actor {
    const struct plan *plan;
    struct table *table;
    zc_comm *comm;
    struct shared *shared;
    int rank, thread;
    uint64_t random;
    unsigned ops, done;
    enum { WORKING, DRAINING, DRAINED } phase;
    struct buffer buffer[BUFFERS];
    struct receive *oldest, **newest;
    unsigned in_flight;
    unsigned next[RANKS][TAGS]; /* the message that the next receive of a channel takes */
    char history[HISTORY][120];
    unsigned lines;
};

/* Notes what is about to be done: the last notes are printed when a check fails. */
void note(struct actor *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint64_t below(struct actor *a, uint64_t bound);

/* Most often small, sometimes up to the bound. */
size_t length_below(struct actor *a, size_t bound);

int tag_number(const struct actor *a, int tag);
struct channel *incoming(const struct actor *a, int source, int tag);

/* In lockstep nobody else could end a hold that a blocking call waits for. */
void let_go(struct actor *a);

/* ---- Receives ---- */

bool may_take(const struct receive *r, int source, int tag);

/* Messages of a channel that no receive older than `before` (NULL: none at all) can take. */
int spare(const struct actor *a, int source, int tag, const struct receive *before);

/* A message is sure to come: waiting for it ends. */
bool sure(const struct actor *a, const struct receive *r);

bool is_injected(const struct actor *a, int error);

/* Compares receives, oldest first, with the announced messages. */
void settle_landed(struct actor *a);

struct receive *new_receive(struct actor *a, struct buffer *buffer, size_t at, size_t cap, int source, int tag);
void forget(struct actor *a, struct receive *gone);

/* A receive was reported: takes over its bytes. */
void landed(struct actor *a, struct receive *r, int result, const zc_status *status);

/* Waits for a receive that is sure, in one of the ways there are. */
void finish(struct actor *a, struct receive *r);

/* Cancels a receive that may never match; if it has landed meanwhile, takes it. */
void cancel(struct actor *a, struct receive *r);

struct receive *in_flight_at(struct actor *a, const struct buffer *buffer, size_t at, size_t length, bool unsure);

/* Ends the receives into a range. */
void settle(struct actor *a, struct buffer *buffer, size_t at, size_t length);

/* A touch of the range waits only for receives that are sure. With failures, for none, because a failed one
 * would call the error handler. */
void make_touchable(struct actor *a, struct buffer *buffer, size_t at, size_t length);

/* ---- Buffers ---- */

size_t some_size(struct actor *a);
void fill(struct actor *a, unsigned char *bytes, unsigned char *shadow, size_t length);
void adopt(struct buffer *b, void *bytes, size_t size);
void new_buffer(struct actor *a, struct buffer *b);
struct buffer *some_buffer(struct actor *a);

/* Most often one with room for so much. */
struct buffer *buffer_for(struct actor *a, size_t length);

void verify(struct actor *a, struct buffer *b);
void drop(struct buffer *b);

/* Receives that are sure go on and land unseen, where it is known of which channel; the others end first. */
void free_buffer(struct actor *a, struct buffer *b);

/* ---- Operations ---- */

bool op_recv(struct actor *a);
void work(struct actor *a);

#endif
