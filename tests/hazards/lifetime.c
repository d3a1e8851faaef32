/* SPDX-License-Identifier: MIT
 *
 * Hazards: exchanges that deadlock with blocking sends, and ends of buffers, communicators and processes. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hazard.h"

#define BIG (4 * MIB + 77)

static void send_overwrite_receive(zc_comm *comm, void *argument)
{
    int rank = zc_rank(comm), peer = 1 - rank;

    (void)argument;
    for (unsigned i = 0; i < 6; i++) {
        char *buffer = ALLOC(BIG), *in = ALLOC(BIG);

        pattern_fill(buffer, BIG, 10 * (unsigned)rank + i);
        CHECK_OK(zc_send(buffer, BIG, peer, 1, comm));
        memset(buffer, 'o', BIG);
        CHECK_OK(zc_recv(in, BIG, peer, 1, comm, NULL));
        CHECK_PATTERN(in, BIG, 10 * (unsigned)peer + i);
        CHECK_BYTES(buffer, BIG, 'o');
        CHECK_OK(zc_free(buffer));
        CHECK_OK(zc_free(in));
    }
}

static void send_receive_in_place(zc_comm *comm, void *argument)
{
    const int asynchronous = *(int *)argument;
    int rank = zc_rank(comm), peer = 1 - rank;
    char *buffer = ALLOC(BIG);

    pattern_fill(buffer, BIG, 100 + (unsigned)rank);
    for (int i = 1; i < 9; i++) {
        CHECK_OK(zc_send(buffer, BIG, peer, 1, comm));
        if (asynchronous)
            CHECK_OK(zc_irecv(buffer, BIG, peer, 1, comm));
        else
            CHECK_OK(zc_recv(buffer, BIG, peer, 1, comm, NULL));
        if (asynchronous && i % 2)
            CHECK_OK(zc_wait(buffer, NULL));
        CHECK_PATTERN(buffer, BIG, 100 + (unsigned)(i % 2 ? peer : rank));
        if (asynchronous && !(i % 2))
            CHECK_OK(zc_wait(buffer, NULL));
    }
    CHECK_OK(zc_free(buffer));
}

static void protected_pair(rank_body *body, int argument)
{
    zc_options options = ZC_OPTIONS_INIT;

    options.policy = ZC_POLICY_PROTECT;
    ranks_run(2, &options, body, &argument);
}

void hazard_both_send_overwrite_receive(void)
{
    protected_pair(send_overwrite_receive, 0);
}

void hazard_send_then_recv_same_buffer(void)
{
    protected_pair(send_receive_in_place, 0);
}

void hazard_send_then_irecv_same_buffer(void)
{
    protected_pair(send_receive_in_place, 1);
}

/* Freed while on the wire; whoever gets memory next must not get its pages. */
void hazard_free_in_flight(void)
{
    static const size_t lengths[] = {2 * 4096, 65536, 2 * 1048576};
    zc_comm *comm = open_self();

    for (size_t i = 0; i < COUNT(lengths); i++)
        for (int stored = 0; stored < 2; stored++) {
            struct flight f;
            char *other[8];

            flight_start(&f, comm, lengths[i], i);
            if (stored)
                *(volatile char *)f.buffer = 'f'; /* the slot has fresh pages; the old ones are in flight */
            CHECK_OK(zc_free(f.buffer));
            CHECK(zc_usable_size(f.buffer) == 0 && zc_owns(f.buffer) == 0);
            for (size_t k = 0; k < COUNT(other); k++) {
                other[k] = ALLOC(lengths[i]);
                memset(other[k], 'g', lengths[i]);
            }
            flight_land(&f);
            for (size_t k = 0; k < COUNT(other); k++) {
                CHECK_BYTES(other[k], lengths[i], 'g');
                CHECK_OK(zc_free(other[k]));
            }
            CHECK_OK(zc_free(f.in));
        }
    CHECK_OK(zc_close(comm));
}

/* The receive's buffer is freed while its message is on the wire: it lands where nobody sees it. */
void hazard_free_receive_in_flight(void)
{
    zc_comm *comm = open_self();

    for (unsigned i = 0; i < 4; i++) {
        struct flight f;
        char *other[8];

        flight_start(&f, comm, 64 * KIB, i);
        CHECK_OK(zc_free(f.in));
        for (size_t k = 0; k < COUNT(other); k++) {
            other[k] = ALLOC(f.length);
            memset(other[k], 'g', f.length);
        }
        CHECK(loop_deliver(comm, 1, LOOP_OLDEST_FIRST, 0) == 1);
        CHECK_OK(zc_flush(comm));
        for (size_t k = 0; k < COUNT(other); k++) {
            CHECK_BYTES(other[k], f.length, 'g');
            CHECK_OK(zc_free(other[k]));
        }
        CHECK_PATTERN(f.buffer, f.length, i);
        CHECK_OK(zc_free(f.buffer));
    }
    CHECK_OK(zc_close(comm));
}

void hazard_realloc_in_flight(void)
{
    static const size_t lengths[] = {100, 70000, 2000000, 64 * 1024 + 5};
    zc_comm *comm = open_self();

    for (size_t i = 0; i < COUNT(lengths); i++) {
        struct flight f;
        size_t kept = lengths[i] < 64 * KIB ? lengths[i] : 64 * KIB;

        flight_start(&f, comm, 64 * KIB, i);
        f.buffer = zc_realloc(f.buffer, lengths[i]);
        CHECK(f.buffer);
        CHECK_PATTERN(f.buffer, kept, i);
        memset(f.buffer, 'r', lengths[i]);
        flight_land(&f);
        CHECK_BYTES(f.buffer, lengths[i], 'r');
        flight_release(&f);
    }
    CHECK_OK(zc_close(comm));
}

static void say_done(void)
{
    printf("exit handlers ran\n");
    fflush(stdout);
}

/* Nobody will ever take these; the process ends all the same. */
void hazard_exit_in_flight(void)
{
    zc_comm *comm = open_self();
    struct flight f;

    atexit(say_done);
    flight_start(&f, comm, 64 * KIB, 1);
    CHECK_OK(zc_send(f.buffer, f.length, 0, 2, comm));
    exit(0);
}

static void *deliver_later(void *argument)
{
    loop_hold(argument, false);
    while (loop_held(argument) > 0)
        CHECK_OK(zc_progress(argument));
    return NULL;
}

/* zc_close waits for what is in flight; the messages arrive, and the buffers stay. */
void hazard_close_in_flight(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm[2];
    char *buffer = ALLOC(64 * KIB), *in = ALLOC(64 * KIB);

    options.policy = ZC_POLICY_PROTECT;
    ranks_open(comm, 2, &options);
    loop_hold(comm[1], true);
    CHECK_OK(zc_irecv(in, 64 * KIB, 0, 1, comm[1]));
    pattern_fill(buffer, 64 * KIB, 1);
    CHECK_OK(zc_send(buffer, 64 * KIB, 1, 1, comm[0]));
    memset(buffer, 'c', 100);
    pthread_t thread = thread_start(deliver_later, comm[1]);
    CHECK_OK(zc_close(comm[0]));
    thread_join(thread);
    CHECK_BYTES(buffer, 100, 'c');
    memset(buffer, 'd', 64 * KIB);
    CHECK_OK(zc_wait(in, NULL));
    CHECK_PATTERN(in, 64 * KIB, 1);
    CHECK_OK(zc_close(comm[1]));
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
}

/* After any number of frees in flight a pool has nothing live, nothing in flight, and no more memory than
 * after the first few. */
void hazard_no_leak(void)
{
    enum { ROUNDS = 300, EACH = 4 };
    zc_comm *comm = open_self();
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;
    size_t length = 32 * KIB, slots = 0, released = 0;
    zc_pool_stats stats = {.size = sizeof stats};

    options.slot_size = length;
    CHECK_OK(zc_pool_open(&options, &pool));
    for (unsigned round = 0; round < ROUNDS; round++) {
        char *buffer[EACH], *in[EACH];

        loop_hold(comm, true);
        for (unsigned i = 0; i < EACH; i++) {
            buffer[i] = zc_pool_alloc(pool);
            in[i] = zc_pool_alloc(pool);
            CHECK(buffer[i] && in[i]);
            CHECK_OK(zc_irecv(in[i], length, 0, 1, comm));
            memset(buffer[i], (int)round, length);
            CHECK_OK(zc_send(buffer[i], length, 0, 1, comm));
            if (i % 2)
                memset(buffer[i], 0, length); /* a rename */
            CHECK_OK(zc_free(buffer[i]));
            if (i == 3)
                CHECK_OK(zc_free(in[i]));
        }
        loop_hold(comm, false);
        CHECK_OK(zc_flush(comm));
        for (unsigned i = 0; i < EACH - 1; i++) {
            CHECK_OK(zc_wait(in[i], NULL));
            CHECK_BYTES(in[i], length, (unsigned char)round);
            CHECK_OK(zc_free(in[i]));
        }
        CHECK_OK(zc_pool_stats_get(pool, &stats));
        CHECKF(stats.live == 0, "%zu slots are live", stats.live);
        if (round == 20)
            slots = stats.slots;
        if (round > 20)
            CHECKF(stats.slots == slots, "%zu slots instead of %zu", stats.slots, slots);
    }
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK_OK(zc_pool_stats_get(pool, &stats));
    CHECKF(stats.segments == 0 && released > 0, "%zu segments are left of an empty pool", stats.segments);
    CHECK_OK(zc_pool_close(pool));
    CHECK_OK(zc_close(comm));
}

/* The same of a buffer that lives on: each rename takes a spare, and each completion returns one. */
void hazard_no_leak_of_renames(void)
{
    zc_comm *comm = open_self();
    size_t length = 64 * KIB;
    uint64_t segments = 0;
    char *buffer = ALLOC(length), *in = ALLOC(length);

    for (unsigned round = 0; round < 1000; round++) {
        loop_hold(comm, true);
        pattern_fill(buffer, length, round);
        CHECK_OK(zc_irecv(in, length, 0, 1, comm));
        CHECK_OK(zc_send(buffer, length, 0, 1, comm));
        *(volatile char *)buffer = 'n';
        loop_hold(comm, false);
        CHECK_OK(zc_wait(in, NULL));
        CHECK_PATTERN(in, length, round);
        if (round == 20)
            segments = stats_now().segments;
        if (round > 20)
            CHECK(stats_now().segments == segments);
    }
    CHECK(stats_now().renames > 500);
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}
