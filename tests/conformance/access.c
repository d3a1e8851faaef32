/* SPDX-License-Identifier: MIT
 *
 * Cases: access to buffers other than by plain loads and stores, and threads. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conformance.h"
#include "ranks.h"

static const size_t some_lengths[] = {5000, 65536, 1048576};

/* zc_write changes the buffer, never the messages that have left it. */
void case_write_in_flight(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(some_lengths); i++) {
        size_t len = some_lengths[i];
        char *buffer = ALLOC(len), *source = malloc(len), *in = ALLOC(len);

        CHECK(source);
        pattern_fill(buffer, len, conf_seed(c->rank, 3 * i));
        CHECK_OK(zc_send(buffer, len, c->next, 200, c->comm));
        pattern_fill(source, len, conf_seed(c->rank, 3 * i + 1));
        CHECK_OK(zc_write(buffer, source, len));
        CHECK_OK(zc_send(buffer, len, c->next, 200, c->comm));
        CHECK_OK(zc_write(buffer + len - 1, "x", 1));
        CHECK_OK(zc_write(buffer + 4090, "0123456789", 10));
        CHECK_OK(zc_write(buffer, NULL, 0));
        pattern_fill(source, len, conf_seed(c->rank, 3 * i + 1));
        source[len - 1] = 'x';
        memcpy(source + 4090, "0123456789", 10);
        CHECK(memcmp(buffer, source, len) == 0);
        conf_barrier(c);
        for (unsigned k = 0; k < 2; k++) {
            CHECK_OK(zc_recv(in, len, c->prev, 200, c->comm, NULL));
            CHECK_PATTERN(in, len, conf_seed(c->prev, 3 * i + k));
        }
        CHECK(memcmp(buffer, source, len) == 0);
        CHECK_OK(zc_free(buffer));
        CHECK_OK(zc_free(in));
        free(source);
    }
}

/* The source may be a zc buffer in any state: one in flight, one being received into, itself. */
void case_write_from_own_buffer(struct conf *c)
{
    size_t len = 60000;
    char *a = ALLOC(len), *b = ALLOC(len), *out = ALLOC(len);

    pattern_fill(a, len, conf_seed(c->rank, 0));
    CHECK_OK(zc_send(a, len, c->next, 201, c->comm));
    CHECK_OK(zc_write(b, a, len));
    CHECK_PATTERN(b, len, conf_seed(c->rank, 0));
    CHECK_OK(zc_write(a + 30000, a, 30000));
    CHECK_PATTERN(a, 30000, conf_seed(c->rank, 0));
    CHECK_PATTERN(a + 30000, 30000, conf_seed(c->rank, 0));
    CHECK_OK(zc_recv(b, len, c->prev, 201, c->comm, NULL));
    CHECK_PATTERN(b, len, conf_seed(c->prev, 0));

    pattern_fill(out, len, conf_seed(c->rank, 1));
    CHECK_OK(zc_irecv(a, len, c->prev, 202, c->comm));
    CHECK_OK(zc_send(out, len, c->next, 202, c->comm));
    CHECK_OK(zc_write(b, a, len)); /* waits for the bytes, as a load would */
    CHECK_PATTERN(b, len, conf_seed(c->prev, 1));
    CHECK_OK(zc_wait(a, NULL));
    CHECK_OK(zc_free(a));
    CHECK_OK(zc_free(b));
    CHECK_OK(zc_free(out));
}

/* After zc_writable a system call may read and write the buffer, whatever was in flight. */
void case_writable_for_system_calls(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(some_lengths); i++) {
        size_t len = some_lengths[i];
        char *buffer = ALLOC(len), *in = ALLOC(len);
        char bytes[3000];
        int fds[2];

        CHECK(pipe(fds) == 0);
        memset(bytes, 0x4d, sizeof bytes);
        pattern_fill(buffer, len, conf_seed(c->rank, 2 * i));
        for (int k = 0; k < 3; k++)
            CHECK_OK(zc_send(buffer, len, c->next, 203, c->comm));
        CHECK(write(fds[1], bytes, sizeof bytes) == (ssize_t)sizeof bytes);
        CHECK_OK(zc_writable(buffer + len - 1));
        CHECK(read(fds[0], buffer + 1500, sizeof bytes) == (ssize_t)sizeof bytes);
        CHECK_BYTES(buffer + 1500, sizeof bytes, 0x4d);
        CHECK_PATTERN(buffer, 1500, conf_seed(c->rank, 2 * i));
        for (int k = 0; k < 3; k++) {
            CHECK_OK(zc_recv(in, len, c->prev, 203, c->comm, NULL));
            CHECK_PATTERN(in, len, conf_seed(c->prev, 2 * i));
        }
        /* With a receive in flight it waits. */
        CHECK_OK(zc_irecv(in, len, c->prev, 204, c->comm));
        pattern_fill(buffer, len, conf_seed(c->rank, 2 * i + 1));
        CHECK_OK(zc_send(buffer, len, c->next, 204, c->comm));
        CHECK_OK(zc_writable(in));
        CHECK(write(fds[1], in, 1000) == 1000);
        CHECK(read(fds[0], bytes, 1000) == 1000);
        CHECK_PATTERN(bytes, 1000, conf_seed(c->prev, 2 * i + 1));
        CHECK_OK(zc_wait(in, NULL));
        CHECK_OK(zc_free(buffer));
        CHECK_OK(zc_free(in));
        close(fds[0]);
        close(fds[1]);
    }
}

/* A guard against stores: who reads at the wire address sees the bytes of the time of the guard. */
void case_guard_stores(struct conf *c)
{
    size_t len = 40000, size = 50000;
    char *buffer = ALLOC(size), *in = ALLOC(size);
    struct zc_guard guard, second;

    for (unsigned i = 0; i < 3; i++) {
        pattern_fill(buffer, size, conf_seed(c->rank, 2 * i));
        CHECK_OK(zc_guard(buffer + 100, len, ZC_DENY_STORES, &guard));
        CHECK(guard.wire && guard.length == len && guard.wire != buffer + 100);
        CHECK_PATTERN(buffer, size, conf_seed(c->rank, 2 * i)); /* loads are free */
        CHECK_OK(zc_guard(buffer, size, ZC_DENY_STORES, &second));
        if (i == 1)
            CHECK_OK(zc_send(buffer, size, c->next, 205, c->comm));
        memset(buffer, 0x2b, size);
        CHECK(memcmp(guard.wire, (char *)second.wire + 100, len) == 0);
        CHECK_PATTERN(second.wire, size, conf_seed(c->rank, 2 * i));
        CHECK_BYTES(buffer, size, 0x2b);
        CHECK_OK(zc_unguard(&second));
        CHECK_OK(zc_unguard(&guard));
        CHECK_IS(zc_unguard(&guard), -EINVAL);
        CHECK_OK(zc_unguard(NULL));
        CHECK_BYTES(buffer, size, 0x2b);
        if (i == 1) {
            CHECK_OK(zc_recv(in, size, c->prev, 205, c->comm, NULL));
            CHECK_PATTERN(in, size, conf_seed(c->prev, 2 * i));
        }
    }
    /* Freed under a guard: the guard keeps the pages. */
    pattern_fill(buffer, size, conf_seed(c->rank, 9));
    CHECK_OK(zc_guard(buffer, size, ZC_DENY_STORES, &guard));
    CHECK_OK(zc_free(buffer));
    buffer = ALLOC(size);
    memset(buffer, 0, size);
    CHECK_PATTERN(guard.wire, size, conf_seed(c->rank, 9));
    CHECK_OK(zc_unguard(&guard));
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
}

struct writer {
    struct zc_guard guard;
    uint64_t seed;
};

static void *write_behind_guard(void *argument)
{
    struct writer *w = argument;

    usleep(20000); /* lets the toucher come first, most of the time; right either way */
    pattern_fill(w->guard.wire, w->guard.length, w->seed);
    CHECK_OK(zc_unguard(&w->guard));
    return NULL;
}

/* A guard against all access: the first touch waits for zc_unguard and sees what was written behind it. */
void case_guard_all(struct conf *c)
{
    size_t size = 50000;
    char *buffer = ALLOC(size);

    for (unsigned i = 0; i < 3; i++) {
        struct writer w = {.seed = conf_seed(c->rank, i)};
        struct zc_guard refused;
        pthread_t thread;

        memset(buffer, 0x2c, size);
        CHECK_OK(zc_guard(buffer + 10000, 20000, ZC_DENY_ALL, &w.guard));
        CHECK(w.guard.length == 20000);
        CHECK_IS(zc_guard(buffer + 29999, 100, ZC_DENY_ALL, &refused), -EBUSY);
        thread = thread_start(write_behind_guard, &w);
        if (i == 1)
            memset(buffer + 9999, 0x2d, 1); /* a store to a page of it waits, too */
        if (i == 2)
            CHECK_OK(zc_writable(buffer));
        CHECK_PATTERN(buffer + 10000, 20000, w.seed);
        CHECK_BYTES(buffer + 30000, size - 30000, 0x2c);
        thread_join(thread);
    }
    CHECK_OK(zc_free(buffer));
}

/* A pinned buffer keeps its pages: what is stored is seen at the wire address, during sends as well. */
void case_pin(struct conf *c)
{
    size_t len = 70000;
    char *buffer = ALLOC(len), *in = ALLOC(len);
    void *wire = NULL, *again = NULL;

    pattern_fill(buffer, len, conf_seed(c->rank, 0));
    CHECK_OK(zc_send(buffer, len, c->next, 206, c->comm)); /* in flight when it is pinned */
    CHECK_OK(zc_pin(buffer, &wire));
    CHECK(wire && wire != buffer);
    CHECK_PATTERN(wire, len, conf_seed(c->rank, 0));
    for (unsigned i = 1; i < 4; i++) {
        pattern_fill(buffer, len, conf_seed(c->rank, i));
        CHECK_PATTERN(wire, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(buffer, len, c->next, 206, c->comm));
        ((volatile char *)wire)[9] ^= 1; /* a peer stores */
        CHECK(buffer[9] == ((volatile char *)wire)[9]);
    }
    CHECK_OK(zc_unpin(buffer));
    CHECK_OK(zc_pin(buffer, &again));
    CHECK_OK(zc_unpin(buffer));
    for (unsigned i = 0; i < 4; i++) {
        CHECK_OK(zc_recv(in, len, c->prev, 206, c->comm, NULL));
        if (i)
            CHECK_PATTERN(in, len, conf_seed(c->prev, i));
    }
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
}

enum { THREADS = 4, MESSAGES = 60 };

struct worker {
    struct conf *c;
    int number;
    pthread_t thread;
    unsigned char *shared;
    pthread_mutex_t *lock;
    atomic_int *sent;
};

static size_t length_of(unsigned i)
{
    static const size_t lengths[] = {64, 9000, 70000, 3000, 200000};

    return lengths[i % COUNT(lengths)];
}

/* Each thread talks to the thread of the same number on the neighbour, in tags of its own. */
static void *exchange(void *argument)
{
    struct worker *w = argument;
    struct conf *c = w->c;
    int tag = 300 + w->number;
    char *buffer = ALLOC(200000), *in = ALLOC(200000);

    for (unsigned i = 0; i < MESSAGES; i++) {
        size_t len = length_of(i + (unsigned)w->number);
        unsigned n = i * THREADS + (unsigned)w->number;

        pattern_fill(buffer, len, conf_seed(c->rank, n));
        if (i % 2)
            CHECK_OK(zc_irecv(in, len, c->prev, tag, c->comm));
        CHECK_OK(zc_send(buffer, len, c->next, tag, c->comm));
        memset(buffer, 0x4b, len);
        if (!(i % 2))
            CHECK_OK(zc_recv(in, len, c->prev, tag, c->comm, NULL));
        CHECK_PATTERN(in, len, conf_seed(c->prev, n));
        if (i % 2)
            CHECK_OK(zc_wait(in, NULL));
        CHECK_BYTES(buffer, len, 0x4b);
        if (i % 7 == 0) {
            CHECK_OK(zc_free(buffer));
            buffer = ALLOC(200000);
        }
    }
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    return NULL;
}

void case_threads(struct conf *c)
{
    struct worker worker[THREADS];

    for (int i = 0; i < THREADS; i++) {
        worker[i] = (struct worker){.c = c, .number = i};
        worker[i].thread = thread_start(exchange, &worker[i]);
    }
    for (int i = 0; i < THREADS; i++)
        thread_join(worker[i].thread);
}

/* Stores and sends of one buffer by several threads, ordered by a lock. A message carries its number in
 * every word, so that any store that slips in shows. */
static void *send_shared(void *argument)
{
    struct worker *w = argument;
    size_t words = 70000 / sizeof(uint64_t);

    for (;;) {
        pthread_mutex_lock(w->lock);
        int n = atomic_fetch_add(w->sent, 1);
        if (n < THREADS * MESSAGES) {
            volatile uint64_t *p = (volatile uint64_t *)(void *)w->shared;

            for (size_t k = 0; k < words; k++)
                p[k] = (uint64_t)n;
            CHECK_OK(zc_send(w->shared, words * sizeof *p, w->c->next, 310, w->c->comm));
        }
        pthread_mutex_unlock(w->lock);
        if (n >= THREADS * MESSAGES)
            return NULL;
    }
}

void case_threads_share_a_buffer(struct conf *c)
{
    struct worker worker[THREADS];
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    atomic_int sent = 0;
    unsigned char *shared = ALLOC(70000);
    uint64_t *in = ALLOC(70000);

    for (int i = 0; i < THREADS; i++) {
        worker[i] = (struct worker){.c = c, .number = i, .shared = shared, .lock = &lock, .sent = &sent};
        worker[i].thread = thread_start(send_shared, &worker[i]);
    }
    for (int n = 0; n < THREADS * MESSAGES; n++) {
        zc_status status;

        CHECK_OK(zc_recv(in, 70000, c->prev, 310, c->comm, &status));
        for (size_t k = 0; k < status.length / sizeof *in; k++)
            CHECKF(in[k] == (uint64_t)n, "word %zu of message %d is of message %llu", k, n, (unsigned long long)in[k]);
    }
    for (int i = 0; i < THREADS; i++)
        thread_join(worker[i].thread);
    CHECK_OK(zc_free(shared));
    CHECK_OK(zc_free(in));
}

struct relay {
    struct conf *c;
    char *buffer;
    size_t length;
};

static void *receive_there(void *argument)
{
    struct relay *r = argument;

    CHECK_OK(zc_recv(r->buffer, r->length, r->c->prev, 310, r->c->comm, NULL));
    return NULL;
}

static void *send_from_there(void *argument)
{
    struct relay *r = argument;

    CHECK_OK(zc_send(r->buffer, r->length, r->c->next, 311, r->c->comm));
    return NULL;
}

/* What another thread's zc_recv has not received yet is sent as it will be, be it short or long. */
void case_threads_receive_and_send(struct conf *c)
{
    static const size_t lengths[] = {100, 128 * KIB};
    int before = (c->prev + c->size - 1) % c->size;

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t len = lengths[i];
        char *in = ALLOC(len);
        zc_pool *pool;
        zc_pool_options options = ZC_POOL_OPTIONS_INIT;
        zc_pool_stats stats = {.size = sizeof stats};
        struct relay relay = {.c = c, .length = len};
        pthread_t receiver, sender;

        options.slot_size = len;
        CHECK_OK(zc_pool_open(&options, &pool));
        relay.buffer = zc_pool_alloc(pool);
        CHECK(relay.buffer);
        memset(relay.buffer, 0, len);
        receiver = thread_start(receive_there, &relay);
        do
            CHECK_OK(zc_pool_stats_get(pool, &stats));
        while (stats.in_flight == 0);
        conf_barrier(c); /* so with all ranks, before any sends what they receive */
        sender = thread_start(send_from_there, &relay);
        usleep(20000); /* lets it come before the message, most of the time; right either way */
        pattern_fill(in, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(in, len, c->next, 310, c->comm));
        CHECK_OK(zc_recv(in, len, c->prev, 311, c->comm, NULL));
        CHECK_PATTERN(in, len, conf_seed(before, i));
        thread_join(receiver);
        thread_join(sender);
        CHECK_PATTERN(relay.buffer, len, conf_seed(c->prev, i));
        CHECK_OK(zc_free(relay.buffer));
        CHECK_OK(zc_free(in));
        CHECK_OK(zc_flush(c->comm));
        CHECK_OK(zc_pool_close(pool));
    }
}
