/* SPDX-License-Identifier: MIT
 *
 * Hazards: stores to buffers in flight. The message stays intact and the store is kept, before and after the
 * message has left, and no store waits for it: it is held until the test lets it go. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "hazard.h"

static const size_t some_lengths[] = {3 * 4096 + 100, 65536, 300000, 2 * 1048576};

typedef void store_kind(char *buffer, size_t length);

static void run(store_kind *store)
{
    zc_comm *comm = open_self();

    for (size_t i = 0; i < COUNT(some_lengths); i++) {
        size_t length = some_lengths[i];
        char *expected = malloc(length);
        struct flight f;
        zc_stats before = stats_now();

        CHECK(expected);
        flight_start(&f, comm, length, i);
        CHECK(stats_now().sends_protected == before.sends_protected + 1);
        pattern_fill(expected, length, i);
        store(f.buffer, length);
        store(expected, length);
        expect_conflict(&before);
        CHECK(memcmp(f.buffer, expected, length) == 0);
        CHECK(loop_held(comm) == 1);
        flight_land(&f);
        CHECK(memcmp(f.buffer, expected, length) == 0);
        /* It is an ordinary buffer again. */
        memset(f.buffer, 0, length);
        flight_release(&f);
        free(expected);
    }
    CHECK_OK(zc_close(comm));
}

static void one_byte(char *buffer, size_t length)
{
    *(volatile char *)(buffer + length / 2) ^= 1;
}

static void whole(char *buffer, size_t length)
{
    char *other = malloc(length);

    CHECK(other);
    pattern_fill(other, length, 77);
    memcpy(buffer, other, length);
    free(other);
}

static void atomically(char *buffer, size_t length)
{
    (void)length;
    atomic_fetch_add((_Atomic uint64_t *)(void *)(buffer + PAGE), 5);
    atomic_fetch_or((_Atomic uint32_t *)(void *)(buffer + 2 * PAGE - 4), 1);
}

static void across_two_pages(char *buffer, size_t length)
{
    uint64_t value = UINT64_C(0x0123456789abcdef);

    (void)length;
    memcpy(buffer + 2 * PAGE - 5, &value, sizeof value);
}

static void last_byte(char *buffer, size_t length)
{
    *(volatile char *)(buffer + length - 1) ^= 1;
}

/* Backwards, so that neighbours do not come in the order of their addresses. */
static void every_page(char *buffer, size_t length)
{
    for (size_t at = length / PAGE * PAGE; at-- > 0; at = at / PAGE * PAGE)
        *(volatile char *)(buffer + at) ^= 1;
}

void hazard_store_one_byte(void)
{
    run(one_byte);
}

void hazard_store_memcpy(void)
{
    run(whole);
}

void hazard_store_atomic(void)
{
    run(atomically);
}

void hazard_store_unaligned(void)
{
    run(across_two_pages);
}

/* Of the message, and of the buffer, which ends with its last page. */
void hazard_store_last_byte(void)
{
    zc_comm *comm = open_self();
    struct flight f;

    run(last_byte);
    flight_start(&f, comm, 5 * PAGE, 1);
    size_t usable = zc_usable_size(f.buffer);
    *(volatile char *)(f.buffer + usable - 1) = 'z';
    flight_land(&f);
    CHECK(f.buffer[usable - 1] == 'z');
    CHECK_PATTERN(f.buffer, usable == f.length ? f.length - 1 : f.length, 1);
    flight_release(&f);
    CHECK_OK(zc_close(comm));
}

void hazard_store_every_page(void)
{
    run(every_page);
}

void hazard_store_keeps_errno(void)
{
    zc_comm *comm = open_self();
    struct flight f;

    flight_start(&f, comm, 64 * KIB, 1);
    errno = 12345;
    *(volatile char *)f.buffer = 1;
    CHECK(errno == 12345);
    flight_land(&f);
    flight_release(&f);
    CHECK_OK(zc_close(comm));
}

/* Loads of a buffer in flight neither wait nor fault. */
void hazard_load_is_free(void)
{
    zc_comm *comm = open_self();
    struct flight f;

    flight_start(&f, comm, 64 * KIB, 1);
    zc_stats before = stats_now();
    CHECK_PATTERN(f.buffer, f.length, 1);
    CHECK(stats_now().faults == before.faults);
    flight_land(&f);
    flight_release(&f);
    CHECK_OK(zc_close(comm));
}

/* Slots of one pool lie side by side, as close as buffers get. */
void hazard_neighbours_never_blocked(void)
{
    enum { N = 9 };
    zc_comm *comm = open_self();
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;
    volatile char *slot[N];

    options.slot_size = 2 * PAGE;
    options.initial = N;
    CHECK_OK(zc_pool_open(&options, &pool));
    for (int i = 0; i < N; i++) {
        slot[i] = zc_pool_alloc(pool);
        CHECK(slot[i]);
        memset((char *)slot[i], i, 2 * PAGE);
    }
    loop_hold(comm, true);
    char *in = ALLOC(N * 2 * PAGE);
    for (int i = 0; i < N; i += 2) {
        CHECK_OK(zc_irecv(in + i * 2 * (ptrdiff_t)PAGE, 2 * PAGE, 0, i, comm));
        CHECK_OK(zc_send((char *)slot[i], 2 * PAGE, 0, i, comm));
    }
    zc_stats before = stats_now();
    for (int i = 1; i < N; i += 2) {
        slot[i][0] = 'a';
        slot[i][2 * PAGE - 1] = 'b';
        memset((char *)slot[i], 'c', 2 * PAGE);
    }
    CHECKF(stats_now().faults == before.faults, "%llu faults",
           (unsigned long long)(stats_now().faults - before.faults));
    for (int i = 0; i < N; i += 2)
        slot[i][5] = 'd';
    loop_hold(comm, false);
    for (int i = 0; i < N; i += 2) {
        CHECK_OK(zc_wait(in + i * 2 * (ptrdiff_t)PAGE, NULL));
        CHECK_BYTES(in + i * 2 * (ptrdiff_t)PAGE, 2 * PAGE, (unsigned char)i);
    }
    for (int i = 0; i < N; i++)
        CHECK_OK(zc_free((char *)slot[i]));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_pool_close(pool));
}

/* One buffer, many messages, each of other contents, that leave in any order. */
static void many(enum loop_order order)
{
    enum { N = 24 };
    zc_comm *comm = open_self();
    size_t length = 40000;

    for (unsigned seed = 1; seed < 6; seed++) {
        char *buffer = ALLOC(length), *in[N];

        loop_hold(comm, true);
        for (unsigned i = 0; i < N; i++) {
            in[i] = ALLOC(length);
            CHECK_OK(zc_irecv(in[i], length, 0, 5, comm));
            if (i % 3 != 2) /* every third goes out with the contents of the one before */
                pattern_fill(buffer, length, i);
            CHECK_OK(zc_send(buffer, length, 0, 5, comm));
        }
        pattern_fill(buffer, length, 1000);
        CHECK_OK(zc_progress(comm));
        CHECK(loop_held(comm) == N);
        for (unsigned left = N; left; left--) {
            CHECK(loop_deliver(comm, 1, order, seed + left) == 1);
            ((volatile char *)buffer)[left] ^= 1; /* between any two */
        }
        for (unsigned i = 0; i < N; i++) {
            CHECK_OK(zc_wait(in[i], NULL));
            CHECK_PATTERN(in[i], length, i % 3 != 2 ? i : i - 1);
            CHECK_OK(zc_free(in[i]));
        }
        for (unsigned left = N; left; left--)
            ((volatile char *)buffer)[left] ^= 1;
        CHECK_PATTERN(buffer, length, 1000);
        CHECK_OK(zc_free(buffer));
    }
    CHECK_OK(zc_close(comm));
}

void hazard_many_in_flight_newest_first(void)
{
    many(LOOP_NEWEST_FIRST);
}

void hazard_many_in_flight_shuffled(void)
{
    many(LOOP_SHUFFLED);
}

void hazard_several_peers(void)
{
    enum { N = 4, ROUNDS = 5 };
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm[N];
    size_t length = 70000;
    char *buffer = ALLOC(length), *in[N][ROUNDS];

    options.policy = ZC_POLICY_PROTECT;
    ranks_open(comm, N, &options);
    for (int i = 0; i < N; i++)
        loop_hold(comm[i], true);
    for (unsigned r = 0; r < ROUNDS; r++) {
        pattern_fill(buffer, length, r);
        for (int i = 0; i < N; i++) {
            in[i][r] = ALLOC(length);
            CHECK_OK(zc_irecv(in[i][r], length, 0, 3, comm[i]));
            CHECK_OK(zc_send(buffer, length, i, 3, comm[0]));
        }
    }
    memset(buffer, 'x', length);
    for (int i = N; i-- > 0;) {
        CHECK_OK(zc_progress(comm[i]));
        CHECK(loop_deliver(comm[i], ROUNDS, i % 2 ? LOOP_NEWEST_FIRST : LOOP_SHUFFLED, 9) == ROUNDS);
        memset(buffer, 'x', length);
        for (unsigned r = 0; r < ROUNDS; r++) {
            CHECK_OK(zc_wait(in[i][r], NULL));
            CHECK_PATTERN(in[i][r], length, r);
            CHECK_OK(zc_free(in[i][r]));
        }
    }
    CHECK_BYTES(buffer, length, 'x');
    CHECK_OK(zc_free(buffer));
    ranks_close(comm, N);
}

/* The bug of the paper's code: the first completion unprotects what a second send still needs. */
void hazard_released_by_the_last(void)
{
    enum { N = 3 };
    static const enum loop_order orders[] = {LOOP_OLDEST_FIRST, LOOP_NEWEST_FIRST};
    zc_comm *comm = open_self();
    size_t length = 50000;

    for (size_t o = 0; o < COUNT(orders); o++)
        for (unsigned landed = 1; landed < N; landed++) {
            char *buffer = ALLOC(length), *in[N];

            loop_hold(comm, true);
            pattern_fill(buffer, length, landed);
            for (int i = 0; i < N; i++) {
                in[i] = ALLOC(length);
                CHECK_OK(zc_irecv(in[i], length, 0, 6, comm));
                CHECK_OK(zc_send(buffer, length, 0, 6, comm));
            }
            CHECK_OK(zc_progress(comm));
            CHECK(loop_deliver(comm, landed, orders[o], 0) == landed);
            CHECK_OK(zc_progress(comm));
            zc_stats before = stats_now();
            ((volatile char *)buffer)[0] ^= 1;
            ((volatile char *)buffer)[length - 1] ^= 1;
            expect_conflict(&before);
            loop_hold(comm, false);
            for (int i = 0; i < N; i++) {
                CHECK_OK(zc_wait(in[i], NULL));
                CHECK_PATTERN(in[i], length, landed);
                CHECK_OK(zc_free(in[i]));
            }
            CHECK_OK(zc_free(buffer));
        }
    CHECK_OK(zc_close(comm));
}

/* Messages of overlapping parts of a buffer: a page is needed until the last of them has left. */
void hazard_partial_ranges_share_pages(void)
{
    static const struct {
        size_t at, length;
    } part[] = {{0, 6000}, {5000, 12000}, {8192, 4096}, {17000, 13000}, {100, 29900}};
    enum { N = COUNT(part) };
    zc_comm *comm = open_self();

    for (unsigned seed = 0; seed < 20; seed++) {
        char *buffer = ALLOC(30000), *kept = malloc(30000), *in[N];
        uint64_t random = seed;

        CHECK(kept);
        loop_hold(comm, true);
        pattern_fill(buffer, 30000, seed);
        pattern_fill(kept, 30000, seed);
        for (unsigned i = 0; i < N; i++) {
            in[i] = ALLOC(part[i].length);
            CHECK_OK(zc_irecv(in[i], part[i].length, 0, 7, comm));
            CHECK_OK(zc_send(buffer + part[i].at, part[i].length, 0, 7, comm));
        }
        CHECK_OK(zc_progress(comm));
        for (unsigned i = 0; i < N; i++) {
            size_t at = random_below(&random, 30000);

            ((volatile char *)buffer)[at] = 'y';
            kept[at] = 'y';
            CHECK(memcmp(buffer, kept, 30000) == 0);
            CHECK(loop_deliver(comm, 1, LOOP_SHUFFLED, seed + i) == 1);
        }
        char *sent = malloc(30000);
        CHECK(sent);
        pattern_fill(sent, 30000, seed);
        for (unsigned i = 0; i < N; i++) {
            CHECK_OK(zc_wait(in[i], NULL));
            CHECK(memcmp(in[i], sent + part[i].at, part[i].length) == 0);
            CHECK_OK(zc_free(in[i]));
        }
        CHECK(memcmp(buffer, kept, 30000) == 0);
        CHECK_OK(zc_free(buffer));
        free(kept);
        free(sent);
    }
    CHECK_OK(zc_close(comm));
}

/* Without protection the same stores do tear the message: the tests can see. Here they go through the wire
 * address, which a guard of the same buffer gives, while the message is held. */
void hazard_control_tears(void)
{
    zc_comm *comm = open_self();
    struct flight f;
    struct zc_guard guard;
    zc_status status;

    flight_start(&f, comm, 64 * KIB, 1);
    CHECK_OK(zc_guard(f.buffer, f.length, ZC_DENY_STORES, &guard));
    ((volatile char *)guard.wire)[30000] ^= 1;
    CHECK_OK(zc_unguard(&guard));
    CHECK(loop_deliver(comm, 1, LOOP_OLDEST_FIRST, 0) == 1);
    CHECK_OK(zc_wait(f.in, &status));
    CHECKF(pattern_differs(f.in, f.length, f.seed) == 30000, "the store through the wire address was not seen");
    flight_release(&f);
    CHECK_OK(zc_close(comm));
}
