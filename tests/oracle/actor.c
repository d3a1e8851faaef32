/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "atomic_add.h"
#include "check.h"
#include "oracle.h"
#include "pattern.h"
#include "transport/loop.h"

#define PAGE ((size_t)4096)
#define KIB ((size_t)1024)
#define IN_FLIGHT_BYTES ((unsigned long long)24 << 20) /* more than that to one peer, and an actor stops sending */

enum { BUFFERS = 10, RECEIVES = 12, HISTORY = 48 };

/* The longest message of each tag: a receive with room for it needs no look at the announcement. */
static const size_t longest[TAGS] = {200, 16 * 1024, 128 * 1024, 1024 * 1024};

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

static _Thread_local struct actor *running;

/* Notes what is about to be done: the last notes are printed when a check fails. */
static void note(struct actor *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void note(struct actor *a, const char *format, ...)
{
    char *line = a->history[a->lines++ % HISTORY];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof a->history[0], format, arguments);
    va_end(arguments);
    if (a->plan->trace)
        fprintf(stderr, "%d.%d %u: %s\n", a->rank, a->thread, a->done, line);
}

void actor_last_words(void)
{
    struct actor *a = running;

    if (!a)
        return;
    fprintf(stderr, "rank %d, thread %d, operation %u; the last ones:\n", a->rank, a->thread, a->done);
    for (unsigned i = a->lines > HISTORY ? a->lines - HISTORY : 0; i < a->lines; i++)
        fprintf(stderr, "  %s\n", a->history[i % HISTORY]);
    fprintf(stderr, "again: %s\n", a->plan->command);
}

static uint64_t below(struct actor *a, uint64_t bound)
{
    return random_below(&a->random, bound);
}

/* Most often small, sometimes up to the bound. */
static size_t length_below(struct actor *a, size_t bound)
{
    switch (below(a, 6)) {
    case 0:
        return below(a, bound < 16 ? bound + 1 : 16);
    case 1:
        return bound;
    case 2:
        return bound / PAGE * PAGE;
    default:
        return below(a, bound + 1);
    }
}

static int tag_number(const struct actor *a, int tag)
{
    return 1 + a->thread * TAGS + tag;
}

static struct channel *incoming(const struct actor *a, int source, int tag)
{
    return table_channel(a->table, source, a->rank, a->thread, tag);
}

/* In lockstep nobody else could end a hold that a blocking call waits for. */
static void let_go(struct actor *a)
{
    if (a->plan->lockstep)
        loop_hold(a->comm, false);
}

/* Which messages go where ------------------------------------------------------------------------------------------ */

static bool may_take(const struct receive *r, int source, int tag)
{
    return (r->source == ZC_ANY_SOURCE || r->source == source) && (r->tag == ZC_ANY_TAG || r->tag == tag);
}

/* Messages of a channel that no receive older than `before` (NULL: none at all) can take. */
static int spare(const struct actor *a, int source, int tag, const struct receive *before)
{
    int n = (int)(atomic_load(&incoming(a, source, tag)->announced) - a->next[source][tag]);
    bool older = true;

    for (const struct receive *r = a->oldest; r; r = r->next) {
        if (r == before)
            older = false;
        if (may_take(r, source, tag) && (older || r->state != IN_FLIGHT))
            n--;
    }
    return n;
}

/* A message is sure to come: waiting for it ends. */
static bool sure(const struct actor *a, const struct receive *r)
{
    for (int source = 0; source < a->plan->ranks; source++)
        for (int tag = 0; tag < TAGS; tag++)
            if (may_take(r, source, tag) && spare(a, source, tag, r) > 0)
                return true;
    return false;
}

static bool is_injected(const struct actor *a, int error)
{
    return a->plan->fail && error == -EIO;
}

/* Compares receives, oldest first, with the announced messages. */
static void settle_landed(struct actor *a)
{
    for (struct receive *r; (r = a->oldest) && (r->state == LANDED || r->state == UNSEEN);) {
        struct channel *channel = incoming(a, r->source, r->tag);
        unsigned n = a->next[r->source][r->tag]++;
        const struct message *m = table_message(a->plan, a->table, channel, n);

        CHECKF(n < atomic_load(&channel->announced), "message %u from rank %d, tag %d, was never sent", n, r->source,
               tag_number(a, r->tag));
        atomic_fetch_add(&channel->taken, 1);
        atomic_fetch_add(&channel->bytes_taken, m->length);
        atomic_fetch_add(&a->table->received, 1);
        if (r->state == LANDED && is_injected(a, r->result)) {
            atomic_fetch_add(&a->table->failures, 1);
        } else if (r->state == LANDED && m->length > r->cap) {
            CHECKF(r->result == -EMSGSIZE, "%llu bytes into %zu: %d", (unsigned long long)m->length, r->cap, r->result);
            atomic_fetch_add(&a->table->truncated, 1);
        } else if (r->state == LANDED) {
            CHECKF(r->result == 0, "receive of message %u from rank %d, tag %d: %d, %s", n, r->source,
                   tag_number(a, r->tag), r->result, zc_strerror(r->result));
            CHECKF(r->length == m->length, "message %u from rank %d, tag %d, has %zu bytes, not %llu", n, r->source,
                   tag_number(a, r->tag), r->length, (unsigned long long)m->length);
            if (r->seen && r->hash != m->hash) {
                unsigned other = 0, count = atomic_load(&channel->announced);

                atomic_fetch_add(&a->table->tears, 1);
                while (other < count && table_message(a->plan, a->table, channel, other)->hash != r->hash)
                    other++;
                if (other < count)
                    CHECKF(a->plan->control, "message %u from rank %d, tag %d, %zu bytes, is message %u", n, r->source,
                           tag_number(a, r->tag), r->length, other);
                else
                    CHECKF(a->plan->control, "TORN: message %u from rank %d, tag %d, %zu bytes, is not what was sent",
                           n, r->source, tag_number(a, r->tag), r->length);
            }
        }
        a->oldest = r->next;
        if (!a->oldest)
            a->newest = &a->oldest;
        free(r);
    }
}

/* Receives --------------------------------------------------------------------------------------------------------- */

static struct receive *new_receive(struct actor *a, struct buffer *buffer, size_t at, size_t cap, int source, int tag)
{
    struct receive *r = calloc(1, sizeof *r);

    CHECK(r);
    *r = (struct receive){.buffer = buffer, .at = at, .cap = cap, .source = source, .tag = tag};
    *a->newest = r;
    a->newest = &r->next;
    a->in_flight++;
    return r;
}

static void forget(struct actor *a, struct receive *gone)
{
    struct receive **at = &a->oldest;

    while (*at && *at != gone)
        at = &(*at)->next;
    CHECK(*at);
    *at = gone->next;
    if (!*at)
        a->newest = at;
    free(gone);
}

static bool overlap(size_t a, size_t a_length, size_t b, size_t b_length)
{
    return a < b + b_length && b < a + a_length;
}

/* The pages of a range. */
static void widen(size_t *at, size_t *length)
{
    size_t end = (*at + *length + PAGE - 1) / PAGE * PAGE;

    *at = *at / PAGE * PAGE;
    *length = end - *at;
}

static void make_touchable(struct actor *a, struct buffer *buffer, size_t at, size_t length);

/* A receive was reported: takes over its bytes. */
static void landed(struct actor *a, struct receive *r, int result, const zc_status *status)
{
    struct buffer *b = r->buffer;
    bool known = result == 0 || result == -EMSGSIZE;

    r->state = REPORTED;
    r->result = result;
    a->in_flight--;
    note(a, "  landed: %d, source %d, tag %d, length %zu", result, status->source, status->tag, status->length);
    CHECKF(known || is_injected(a, result), "%d, %s; zc_errmsg: \"%s\"", result, zc_strerror(result), zc_errmsg());
    CHECK(status->error == result);
    if (known) {
        int tag = status->tag - tag_number(a, 0);

        CHECKF(status->source >= 0 && status->source < a->plan->ranks && tag >= 0 && tag < TAGS &&
                   may_take(r, status->source, tag),
               "source %d, tag %d", status->source, status->tag);
        r->source = status->source;
        r->tag = tag;
        r->length = status->length;
        CHECK(r->length <= r->cap);
    }
    make_touchable(a, b, r->at, r->cap);
    if (result == 0) {
        r->seen = true;
        r->hash = pattern_hash(b->bytes + r->at, r->length);
        memcpy(b->shadow + r->at, b->bytes + r->at, r->length);
    } else {
        /* The bytes are whatever they are: store over them. */
        memset(b->bytes + r->at, 0xfa, r->cap);
        memset(b->shadow + r->at, 0xfa, r->cap);
    }
    r->state = LANDED;
    settle_landed(a);
}

/* Waits for a receive that is sure, in one of the ways there are. */
static void finish(struct actor *a, struct receive *r)
{
    const void *pointer = r->buffer->bytes + r->at + below(a, r->cap);
    zc_status status = {0};
    int done = 0, result;

    let_go(a);
    switch (below(a, a->plan->fail ? 2 : 3)) {
    case 0:
        note(a, "wait for %p+%zu", (void *)r->buffer->bytes, r->at);
        result = zc_wait(pointer, &status);
        break;
    case 1:
        note(a, "test for %p+%zu", (void *)r->buffer->bytes, r->at);
        while ((result = zc_test(pointer, &done, &status)) == 0 && !done)
            sched_yield();
        break;
    default:
        note(a, "touch of %p+%zu", (void *)r->buffer->bytes, r->at);
        make_touchable(a, r->buffer, r->at, r->cap);
        (void)*(const volatile unsigned char *)pointer;
        result = zc_test(pointer, &done, &status);
        CHECKF(done == 1, "a touched receive is not done");
        break;
    }
    landed(a, r, result, &status);
}

/* Cancels a receive that may never match; if it has landed meanwhile, takes it. */
static void cancel(struct actor *a, struct receive *r)
{
    const void *pointer = r->buffer->bytes + r->at;
    zc_status status = {0};
    int result;

    let_go(a); /* of one that has matched, zc_cancel waits for the end */
    result = zc_cancel(pointer);
    note(a, "cancel %p+%zu: %d", (void *)r->buffer->bytes, r->at, result);
    if (result == 0) {
        a->in_flight--;
        atomic_fetch_add(&a->table->cancelled, 1);
        forget(a, r);
        settle_landed(a);
    } else {
        CHECK(result == -EALREADY);
        result = zc_wait(pointer, &status);
        landed(a, r, result, &status);
    }
}

static struct receive *in_flight_at(struct actor *a, const struct buffer *buffer, size_t at, size_t length, bool unsure)
{
    for (struct receive *r = a->oldest; r; r = r->next)
        if (r->state == IN_FLIGHT && r->buffer == buffer && overlap(r->at, r->cap, at, length) &&
            !(unsure && sure(a, r)))
            return r;
    return NULL;
}

/* Ends the receives into a range. */
static void settle(struct actor *a, struct buffer *buffer, size_t at, size_t length)
{
    for (struct receive *r; (r = in_flight_at(a, buffer, at, length, false));) {
        if (sure(a, r))
            finish(a, r);
        else
            cancel(a, r);
    }
}

/* A touch of the range waits only for receives that are sure. With failures, for none, because a failed one
 * would call the error handler. */
static void make_touchable(struct actor *a, struct buffer *buffer, size_t at, size_t length)
{
    struct receive *r;

    widen(&at, &length);
    if (a->plan->fail)
        settle(a, buffer, at, length);
    while ((r = in_flight_at(a, buffer, at, length, true)))
        cancel(a, r);
    if (in_flight_at(a, buffer, at, length, false))
        let_go(a);
}

/* Buffers ---------------------------------------------------------------------------------------------------------- */

static size_t some_size(struct actor *a)
{
    switch (below(a, 8)) {
    case 0:
        return 1 + below(a, PAGE);
    case 1:
    case 2:
        return 1 + below(a, 5 * PAGE);
    case 3:
        return (1 + below(a, 40)) * PAGE;
    case 4:
        return 1 + below(a, 1200 * KIB);
    default:
        return 1 + below(a, 160 * KIB);
    }
}

static void fill(struct actor *a, unsigned char *bytes, unsigned char *shadow, size_t length)
{
    uint64_t seed = random_next(&a->random);

    pattern_fill(bytes, length, seed);
    pattern_fill(shadow, length, seed);
}

static void adopt(struct buffer *b, void *bytes, size_t size)
{
    b->bytes = bytes;
    b->size = size;
    b->shadow = malloc(size ? size : 1);
    CHECK(b->shadow);
}

static void new_buffer(struct actor *a, struct buffer *b)
{
    size_t size = some_size(a);

    adopt(b, ALLOC(size), size);
    note(a, "alloc %zu: %p", size, (void *)b->bytes);
    fill(a, b->bytes, b->shadow, size);
}

static struct buffer *some_buffer(struct actor *a)
{
    struct buffer *b = &a->buffer[below(a, BUFFERS)];

    if (!b->bytes)
        new_buffer(a, b);
    return b;
}

/* Most often one with room for so much. */
static struct buffer *buffer_for(struct actor *a, size_t length)
{
    struct buffer *b = some_buffer(a);

    for (int tries = 0; tries < 8 && b->size < length; tries++)
        b = some_buffer(a);
    return b;
}

static void verify(struct actor *a, struct buffer *b)
{
    settle(a, b, 0, b->size);
    note(a, "verify %p", (void *)b->bytes);
    for (size_t i = 0; i < b->size; i++)
        if (((volatile unsigned char *)b->bytes)[i] != b->shadow[i])
            CHECKF(false, "byte %zu of the buffer of %zu at %p is 0x%02x, not 0x%02x", i, b->size, (void *)b->bytes,
                   b->bytes[i], b->shadow[i]);
}

static void drop(struct buffer *b)
{
    free(b->shadow);
    *b = (struct buffer){0};
}

/* Receives that are sure go on and land unseen, where it is known of which channel; the others end first. */
static void free_buffer(struct actor *a, struct buffer *b)
{
    for (struct receive *r = a->oldest, *next; r; r = next) {
        next = r->next;
        if (r->state != IN_FLIGHT || r->buffer != b)
            continue;
        if (sure(a, r) && r->source != ZC_ANY_SOURCE && r->tag != ZC_ANY_TAG) {
            r->state = UNSEEN;
            a->in_flight--;
        } else {
            settle(a, b, r->at, r->cap);
            next = a->oldest; /* the list has changed */
        }
    }
    note(a, "free %p", (void *)b->bytes);
    CHECK_OK(zc_free(b->bytes));
    drop(b);
    settle_landed(a);
}

/* Operations ------------------------------------------------------------------------------------------------------- */

static void store_at(struct actor *a, unsigned char *bytes, unsigned char *shadow, size_t size)
{
    size_t at = below(a, size), length = 1 + length_below(a, size - at - 1);
    unsigned char byte = (unsigned char)below(a, 256);

    note(a, "store to %p+%zu, %zu", (void *)bytes, at, length);
    switch (below(a, 5)) {
    case 0:
        ((volatile unsigned char *)bytes)[at] = byte;
        shadow[at] = byte;
        break;
    case 1: /* the end of a page, and the start of the next */
        at = at / PAGE * PAGE;
        at = at > 3 ? at - 3 : 0;
        length = size - at < 7 ? size - at : 7;
        memset(bytes + at, byte, length);
        memset(shadow + at, byte, length);
        break;
    case 2:
        at = at / 8 * 8;
        if (at + 8 <= size) {
            atomic_add(bytes + at, byte);
            uint64_t word;
            memcpy(&word, shadow + at, sizeof word);
            word += byte;
            memcpy(shadow + at, &word, sizeof word);
        }
        break;
    case 3:
        ((volatile unsigned char *)bytes)[size - 1] = byte;
        shadow[size - 1] = byte;
        break;
    default:
        fill(a, bytes + at, shadow + at, length);
        break;
    }
}

/* The control: the same store, behind protection's back. */
static void store_unprotected(struct actor *a, struct buffer *b)
{
    struct zc_guard guard;

    CHECK_OK(zc_guard(b->bytes, b->size, ZC_DENY_STORES, &guard));
    store_at(a, guard.wire, b->shadow, b->size);
    CHECK_OK(zc_unguard(&guard));
}

static void op_store(struct actor *a, struct buffer *b)
{
    settle(a, b, 0, b->size);
    if (a->plan->control)
        store_unprotected(a, b);
    else
        store_at(a, b->bytes, b->shadow, b->size);
}

/* A store to a part, with receives in flight into others. */
static void op_store_beside(struct actor *a, struct buffer *b)
{
    size_t at = below(a, b->size), length = 1 + below(a, b->size - at);

    settle(a, b, at, length);
    make_touchable(a, b, at, length);
    note(a, "store beside: %p+%zu, %zu", (void *)b->bytes, at, length);
    fill(a, b->bytes + at, b->shadow + at, length);
}

static void op_write(struct actor *a, struct buffer *b)
{
    size_t at = below(a, b->size), length = length_below(a, b->size - at);

    settle(a, b, at, length);
    make_touchable(a, b, at, length);
    note(a, "zc_write to %p+%zu, %zu", (void *)b->bytes, at, length);
    pattern_fill(b->shadow + at, length, random_next(&a->random));
    CHECK_OK(zc_write(b->bytes + at, b->shadow + at, length));
}

/* Whom to send to, and in which tag; false if that peer has enough to receive. */
static bool choose_channel(struct actor *a, size_t room, int *to, int *tag)
{
    *to = (int)below(a, (uint64_t)a->plan->ranks);
    if (a->plan->one_way) {
        if (a->rank != 0 || *to == 0)
            return false;
    }
    do
        *tag = (int)(below(a, 10) * 10 / 27); /* 0 to 3, the last one rarely */
    while (*tag && longest[*tag - 1] > room);
    const struct channel *c = table_channel(a->table, a->rank, *to, a->thread, *tag);
    return atomic_load(&c->bytes_announced) - atomic_load(&c->bytes_taken) < IN_FLIGHT_BYTES &&
           atomic_load(&c->announced) - atomic_load(&c->taken) < 300;
}

static void announce(struct actor *a, int to, int tag, const unsigned char *shadow, size_t length)
{
    struct channel *c = table_channel(a->table, a->rank, to, a->thread, tag);
    unsigned n = atomic_load(&c->announced);

    *table_message(a->plan, a->table, c, n) = (struct message){.hash = pattern_hash(shadow, length), .length = length};
    atomic_fetch_add(&c->bytes_announced, length);
    atomic_store(&c->announced, n + 1);
}

static void op_send(struct actor *a, struct buffer *b)
{
    int to, tag;

    if (!choose_channel(a, b->size, &to, &tag))
        return;
    size_t at = below(a, 3) ? 0 : below(a, b->size);
    size_t room = b->size - at < longest[tag] ? b->size - at : longest[tag];
    size_t length = below(a, 3) ? room : length_below(a, room);
    bool free_it = at == 0 && below(a, 8) == 0;

    settle(a, b, free_it ? 0 : at, free_it ? b->size : length);
    announce(a, to, tag, b->shadow + at, length);
    note(a, "%s %p+%zu, %zu, to %d, tag %d", free_it ? "send_free" : "send", (void *)b->bytes, at, length, to,
         tag_number(a, tag));
    if (free_it) {
        CHECK_OK(zc_send_free(b->bytes, length, to, tag_number(a, tag), a->comm));
        drop(b);
        return;
    }
    CHECK_OK(zc_send(b->bytes + at, length, to, tag_number(a, tag), a->comm));
    switch (below(a, 4)) {
    case 0:
    case 1:
        op_store(a, b);
        break;
    case 2:
        free_buffer(a, b);
        break;
    default:
        break;
    }
}

static void op_shared(struct actor *a)
{
    struct shared *s = &a->shared[below(a, SHARED)];
    int to, tag;

    if (!a->plan->lockstep)
        pthread_mutex_lock(&s->lock);
    if (!s->bytes || below(a, 20) == 0) {
        CHECK_OK(zc_free(s->bytes));
        free(s->shadow);
        s->size = 1 + below(a, 200 * KIB);
        s->bytes = ALLOC(s->size);
        s->shadow = malloc(s->size);
        CHECK(s->shadow);
        note(a, "shared alloc %zu: %p", s->size, (void *)s->bytes);
        fill(a, s->bytes, s->shadow, s->size);
    }
    if (below(a, 2))
        store_at(a, s->bytes, s->shadow, s->size);
    if (choose_channel(a, s->size, &to, &tag)) {
        size_t length = s->size < longest[tag] ? s->size : longest[tag];

        announce(a, to, tag, s->shadow, length);
        note(a, "shared send %p, %zu, to %d, tag %d", (void *)s->bytes, length, to, tag_number(a, tag));
        CHECK_OK(zc_send(s->bytes, length, to, tag_number(a, tag), a->comm));
    }
    if (below(a, 10) == 0)
        for (size_t i = 0; i < s->size; i++)
            CHECKF(((volatile unsigned char *)s->bytes)[i] == s->shadow[i], "byte %zu of the shared buffer of %zu", i,
                   s->size);
    if (!a->plan->lockstep)
        pthread_mutex_unlock(&s->lock);
}

static void choose_source(struct actor *a, int *source, int *tag)
{
    *source = (int)below(a, (uint64_t)a->plan->ranks);
    *tag = (int)(below(a, 10) * 10 / 27);
    if (a->plan->fail) /* a receive that failed need not say whose message it lost */
        return;
    if (below(a, 5) == 0)
        *source = ZC_ANY_SOURCE;
    if (a->plan->threads == 1 && below(a, 8) == 0)
        *tag = ZC_ANY_TAG;
}

static void op_irecv(struct actor *a)
{
    int source, tag;

    if (a->in_flight >= RECEIVES)
        return;
    choose_source(a, &source, &tag);
    struct buffer *b = buffer_for(a, longest[tag < 0 ? 2 : tag]);
    size_t at = below(a, 2) ? 0 : below(a, b->size), cap = 1 + length_below(a, b->size - at - 1);
    if (source >= 0 && tag >= 0 && spare(a, source, tag, NULL) > 0) {
        /* As long as the message is likely to be, so that most are not truncated. */
        const struct channel *c = incoming(a, source, tag);
        unsigned n = atomic_load(&c->announced) - (unsigned)spare(a, source, tag, NULL);
        size_t length = table_message(a->plan, a->table, c, n)->length;

        if (length > 0 && length <= b->size) {
            cap = length;
            at = below(a, 2) ? 0 : below(a, b->size - length + 1);
        }
    } else if (tag >= 0 && longest[tag] <= b->size) {
        cap = longest[tag];
        at = below(a, b->size - cap + 1);
    } else if (below(a, 4)) {
        at = 0;
        cap = b->size;
    }
    if (in_flight_at(a, b, at, cap, false))
        return;
    note(a, "irecv into %p+%zu, %zu, from %d, tag %d", (void *)b->bytes, at, cap, source,
         tag < 0 ? tag : tag_number(a, tag));
    CHECK_OK(zc_irecv(b->bytes + at, cap, source, tag < 0 ? ZC_ANY_TAG : tag_number(a, tag), a->comm));
    new_receive(a, b, at, cap, source, tag);
}

/* A channel with a message that no receive in flight will take. */
static bool find_message(struct actor *a, int *source, int *tag)
{
    int start = (int)below(a, (uint64_t)a->plan->ranks * TAGS);

    for (int i = 0; i < a->plan->ranks * TAGS; i++) {
        int which = (start + i) % (a->plan->ranks * TAGS);

        *source = which / TAGS;
        *tag = which % TAGS;
        if (spare(a, *source, *tag, NULL) > 0)
            return true;
    }
    return false;
}

/* The receive takes any source or tag now and then, where the message that is sure makes that sure, too. */
static void loosen(struct actor *a, int *source, int *tag)
{
    if (a->plan->fail)
        return;
    if (below(a, 4) == 0)
        *source = ZC_ANY_SOURCE;
    if (a->plan->threads == 1 && below(a, 6) == 0)
        *tag = ZC_ANY_TAG;
}

static bool op_recv(struct actor *a)
{
    zc_status status = {0};
    int source, tag, result;

    if (!find_message(a, &source, &tag))
        return false;
    struct buffer *b = buffer_for(a, longest[tag]);
    size_t slack = b->size > longest[tag] ? b->size - longest[tag] : 0;
    loosen(a, &source, &tag);
    size_t at = below(a, 16) ? below(a, slack + 1) : below(a, b->size), cap = b->size - at;
    settle(a, b, at, cap);
    if (source < 0 || tag < 0 || spare(a, source, tag, NULL) > 0) {
        struct receive *r = new_receive(a, b, at, cap, source, tag);

        if (!sure(a, r)) { /* settling took it */
            a->in_flight--;
            forget(a, r);
            return true;
        }
        note(a, "recv into %p+%zu, %zu, from %d, tag %d", (void *)b->bytes, at, cap, source,
             tag < 0 ? tag : tag_number(a, tag));
        let_go(a);
        result = zc_recv(b->bytes + at, cap, source, tag < 0 ? ZC_ANY_TAG : tag_number(a, tag), a->comm, &status);
        if (is_injected(a, result))
            status.error = result;
        landed(a, r, result, &status);
    }
    return true;
}

static bool op_recv_alloc(struct actor *a)
{
    struct buffer *b = &a->buffer[below(a, BUFFERS)];
    zc_status status = {0};
    void *bytes = NULL;
    int source, tag, result;

    if (b->bytes)
        free_buffer(a, b);
    if (!find_message(a, &source, &tag))
        return false;
    loosen(a, &source, &tag);
    note(a, "recv_alloc from %d, tag %d", source, tag < 0 ? tag : tag_number(a, tag));
    let_go(a);
    result = zc_recv_alloc(&bytes, source, tag < 0 ? ZC_ANY_TAG : tag_number(a, tag), a->comm, &status);
    if (result == 0) {
        CHECK(bytes && zc_usable_size(bytes) >= status.length);
        adopt(b, bytes, status.length ? status.length : 1);
        if (status.length == 0)
            b->bytes[0] = 0;
        memcpy(b->shadow, b->bytes, b->size);
    } else {
        CHECKF(is_injected(a, result), "%d, %s; zc_errmsg: \"%s\"", result, zc_strerror(result), zc_errmsg());
        status.error = result;
        new_buffer(a, b);
    }
    struct receive *r = new_receive(a, b, 0, b->size, source, tag);
    landed(a, r, result, &status);
    return true;
}

static struct receive *some_receive(struct actor *a)
{
    uint64_t skip = below(a, a->in_flight ? a->in_flight : 1);

    for (struct receive *r = a->oldest; r; r = r->next)
        if (r->state == IN_FLIGHT && skip-- == 0)
            return r;
    return NULL;
}

static void op_finish(struct actor *a)
{
    struct receive *r = some_receive(a);

    if (r && sure(a, r))
        finish(a, r);
    else if (r && below(a, 8) == 0)
        cancel(a, r);
}

/* Waits for any of the receives in flight, one of which is sure. */
static void op_wait_any(struct actor *a)
{
    const void *pointers[RECEIVES];
    struct receive *which[RECEIVES];
    int n = 0, index = -1, result;
    bool one_is_sure = false;
    zc_status status = {0};

    for (struct receive *r = a->oldest; r && n < RECEIVES; r = r->next)
        if (r->state == IN_FLIGHT) {
            one_is_sure = one_is_sure || sure(a, r);
            which[n] = r;
            pointers[n++] = r->buffer->bytes + r->at;
        }
    if (!one_is_sure)
        return;
    note(a, "wait for any of %d", n);
    let_go(a);
    result = zc_wait_any(n, pointers, &index, &status);
    CHECKF(index >= 0 && index < n, "index %d of %d; %d", index, n, result);
    landed(a, which[index], result, &status);
}

static void op_realloc(struct actor *a, struct buffer *b)
{
    size_t size = some_size(a), kept = size < b->size ? size : b->size;
    unsigned char *bytes;

    settle(a, b, 0, b->size);
    bytes = zc_realloc(b->bytes, size);
    note(a, "realloc %p from %zu to %zu: %p", (void *)b->bytes, b->size, size, (void *)bytes);
    CHECK(bytes);
    b->bytes = bytes;
    b->shadow = realloc(b->shadow, size);
    CHECK(b->shadow);
    b->size = size;
    fill(a, bytes + kept, b->shadow + kept, size - kept);
    verify(a, b);
}

static void op_writable(struct actor *a, struct buffer *b)
{
    make_touchable(a, b, 0, b->size);
    note(a, "writable %p", (void *)b->bytes);
    /* It waits for the receives in flight, and tells if one of them was too short. */
    int result = zc_writable(b->bytes + below(a, b->size));
    if (result != -EMSGSIZE || !in_flight_at(a, b, 0, b->size, false))
        CHECK_OK(result);
}

/* A hold of the program's own: what it reads at the wire address stays as it was. */
static void op_guard(struct actor *a, struct buffer *b)
{
    struct zc_guard guard;

    settle(a, b, 0, b->size);
    uint64_t hash = pattern_hash(b->shadow, b->size);
    note(a, "guard %p", (void *)b->bytes);
    CHECK_OK(zc_guard(b->bytes, b->size, ZC_DENY_STORES, &guard));
    if (a->plan->options.conflict != ZC_CONFLICT_WAIT && !a->plan->control)
        store_at(a, b->bytes, b->shadow, b->size);
    CHECKF(pattern_hash(guard.wire, guard.length) == hash, "a store was seen behind a guard");
    CHECK_OK(zc_unguard(&guard));
}

static void op_probe(struct actor *a)
{
    int source, tag, found = -1;
    zc_status status = {0};

    choose_source(a, &source, &tag);
    if (source < 0 || tag < 0)
        return;
    const struct channel *c = incoming(a, source, tag);
    bool contended = false;
    for (const struct receive *r = a->oldest; r; r = r->next)
        contended = contended || may_take(r, source, tag);
    bool waits = !contended && spare(a, source, tag, NULL) > 0;
    note(a, "%s %d, tag %d", waits ? "probe" : "iprobe", source, tag_number(a, tag));
    let_go(a);
    if (waits) {
        CHECK_OK(zc_probe(source, tag_number(a, tag), a->comm, &status));
        found = 1;
    } else {
        CHECK_OK(zc_iprobe(source, tag_number(a, tag), a->comm, &found, &status));
    }
    CHECK(found == 0 || found == 1);
    if (found)
        CHECK(status.source == source && status.tag == tag_number(a, tag));
    if (found && !contended)
        CHECK(status.length == table_message(a->plan, a->table, c, a->next[source][tag])->length);
}

static void work(struct actor *a)
{
    struct buffer *b = some_buffer(a);
    uint64_t dice = below(a, 100);

    atomic_fetch_add(&a->table->operations, 1);
    if (dice < 30)
        op_send(a, b);
    else if (dice < 38)
        op_store(a, b);
    else if (dice < 41)
        op_store_beside(a, b);
    else if (dice < 44)
        op_write(a, b);
    else if (dice < 58)
        op_irecv(a);
    else if (dice < 69)
        (void)op_recv(a);
    else if (dice < 74)
        (void)op_recv_alloc(a);
    else if (dice < 82)
        op_finish(a);
    else if (dice < 84)
        op_wait_any(a);
    else if (dice < 86)
        free_buffer(a, b);
    else if (dice < 87)
        op_realloc(a, b);
    else if (dice < 89)
        op_writable(a, b);
    else if (dice < 91)
        verify(a, b);
    else if (dice < 92)
        op_guard(a, b);
    else if (dice < 94)
        op_probe(a);
    else if (dice < 95)
        CHECK_OK(zc_progress(a->comm));
    else
        op_shared(a);
}

/* Takes what is left to take; true when that is all, for ever. */
static bool drain(struct actor *a)
{
    unsigned actors = (unsigned)(a->plan->ranks * a->plan->threads);
    bool all_sent = atomic_load(&a->table->finished) == actors;

    for (struct receive *r = a->oldest; r; r = r->next)
        if (r->state == IN_FLIGHT && (all_sent || sure(a, r))) {
            settle(a, r->buffer, r->at, r->cap);
            return false;
        }
    if (op_recv(a))
        return false;
    CHECK_OK(zc_progress(a->comm));
    return all_sent && !a->oldest;
}

bool actor_step(struct actor *a)
{
    unsigned actors = (unsigned)(a->plan->ranks * a->plan->threads);

    running = a;
    switch (a->phase) {
    case WORKING:
        if (a->done == a->ops) {
            a->phase = DRAINING;
            atomic_fetch_add(&a->table->finished, 1);
        } else {
            work(a);
            a->done++;
        }
        break;
    case DRAINING:
        if (drain(a)) {
            for (int i = 0; i < BUFFERS; i++)
                if (a->buffer[i].bytes)
                    verify(a, &a->buffer[i]);
            a->phase = DRAINED;
            atomic_fetch_add(&a->table->drained, 1);
        }
        break;
    case DRAINED:
        /* Others may need this rank's progress to take what it has sent. */
        CHECK_OK(zc_progress(a->comm));
        break;
    }
    CHECK_SIGNALS();
    running = NULL;
    return a->phase != DRAINED || atomic_load(&a->table->drained) < actors;
}

struct actor *actor_new(const struct plan *plan, struct table *table, zc_comm *comm, int thread, struct shared *shared)
{
    struct actor *a = calloc(1, sizeof *a);

    CHECK(a);
    a->plan = plan;
    a->table = table;
    a->comm = comm;
    a->thread = thread;
    a->rank = zc_rank(comm);
    a->shared = shared;
    a->newest = &a->oldest;
    a->ops = plan->ops / (unsigned)(plan->ranks * plan->threads);
    a->random = plan->seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)(a->rank * THREADS + thread);
    return a;
}

void actor_delete(struct actor *a)
{
    for (int source = 0; source < a->plan->ranks; source++)
        for (int tag = 0; tag < TAGS; tag++)
            CHECK(a->next[source][tag] == atomic_load(&incoming(a, source, tag)->announced));
    for (int i = 0; i < BUFFERS; i++)
        if (a->buffer[i].bytes) {
            CHECK_OK(zc_free(a->buffer[i].bytes));
            drop(&a->buffer[i]);
        }
    free(a);
}
