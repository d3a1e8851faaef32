/* SPDX-License-Identifier: MIT
 *
 * Pools: claims, growth, caps, trimming, huge pages, registrars. */
#include "alloc/pool.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "core/stats.h"
#include "pattern.h"
#include "ranks.h"
#include "system.h"

static zc_pool_options of_slots(size_t slot_size)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = slot_size;
    options.huge = ZC_HUGE_NEVER;
    options.full = ZC_FULL_GROW;
    return options;
}

static zc_pool *open_with(const zc_pool_options *options)
{
    zc_pool *pool = NULL;
    CHECK_OK(zc_pool_open(options, &pool));
    CHECK(pool);
    return pool;
}

static zc_pool *open_pool(size_t slot_size)
{
    zc_pool_options options = of_slots(slot_size);
    return open_with(&options);
}

static zc_pool_stats stats_of(zc_pool *pool)
{
    zc_pool_stats stats = {.size = sizeof stats};
    CHECK_OK(zc_pool_stats_get(pool, &stats));
    return stats;
}

static char *alloc_in(zc_pool *pool)
{
    char *p = zc_pool_alloc(pool);
    CHECKF(p, "%s", zc_errmsg());
    return p;
}

/* ---- options, statistics, closing ---- */

Test(pool, options_are_checked)
{
    zc_pool *pool = NULL;
    zc_pool_options options = of_slots(4096);

    CHECK_FAILS(zc_pool_open(&options, NULL), -EINVAL, "pool is NULL");
    CHECK_FAILS(zc_pool_open(NULL, &pool), -EINVAL, "ZC_POOL_OPTIONS_INIT");
    options.size = 0;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "ZC_POOL_OPTIONS_INIT");
    options = of_slots(0);
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "slot_size 0");
    options = of_slots(SIZE_MAX);
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "slot_size 18446744073709551615");
    options = of_slots(4096);
    options.cap = 0;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "cap 0");
    options.cap = 3;
    options.initial = 4;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "4 initial slots are more than the cap of 3");
    options = of_slots(4096);
    options.huge = (enum zc_huge)5;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "huge 5");
    options = of_slots(4096);
    options.full = (enum zc_full) - 1;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "full -1");
    CHECK(!pool);
}

Test(pool, statistics)
{
    zc_pool_options options = of_slots(5000);
    options.initial = 10;
    options.cap = 40;
    zc_pool *pool = open_with(&options);
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.size == sizeof stats && stats.slot_size == 8192 && stats.cap == 40);
    CHECK(stats.segments == 1 && stats.slots == 10 && stats.live == 0 && stats.peak == 0 && stats.allocs == 0);

    char *p = alloc_in(pool), *q = alloc_in(pool);
    zc_free(p);
    p = alloc_in(pool);
    zc_free(q);
    stats = stats_of(pool);
    CHECK(stats.live == 1 && stats.peak == 2 && stats.allocs == 3 && stats.over_cap == 0 && stats.fallbacks == 0);
    CHECK(stats.slots == 10);
    zc_free(p);

    /* Only what fits is filled. */
    memset(&stats, 0xee, sizeof stats);
    stats.size = offsetof(zc_pool_stats, live);
    CHECK_OK(zc_pool_stats_get(pool, &stats));
    CHECK(stats.slots == 10 && stats.live == (size_t)0xeeeeeeeeeeeeeeee);
    stats.size = 3;
    CHECK_FAILS(zc_pool_stats_get(pool, &stats), -EINVAL, "stats->size");
    CHECK_FAILS(zc_pool_stats_get(pool, NULL), -EINVAL, "stats->size");
    CHECK_FAILS(zc_pool_stats_get(NULL, &stats), -EINVAL, "pool is NULL");
    CHECK_OK(zc_pool_close(pool));
}

Test(pool, closing)
{
    zc_pool *pool = open_pool(4096);
    CHECK_OK(zc_pool_close(NULL));
    char *p = alloc_in(pool);
    CHECK_FAILS(zc_pool_close(pool), -EBUSY, "1 slots are still live");
    memset(p, 1, 4096);
    CHECK(zc_owns(p));
    zc_free(p);
    CHECK_OK(zc_pool_close(pool));
    CHECK(slot_find(p) == NULL);
    errno = 0;
    CHECK(!zc_pool_alloc(pool));
    CHECK(errno == EINVAL && strstr(zc_errmsg(), "closed"));
    CHECK(!zc_pool_alloc(NULL));
    CHECK_FAILS(zc_pool_trim(NULL, NULL), -EINVAL, "NULL");
    zc_pool_stats stats = {.size = sizeof stats};
    CHECK_FAILS(zc_pool_close(pool), -EINVAL, "zc_pool_close: the pool is closed");
    CHECK_FAILS(zc_pool_trim(pool, NULL), -EINVAL, "zc_pool_trim: the pool is closed");
    CHECK_FAILS(zc_pool_stats_get(pool, &stats), -EINVAL, "zc_pool_stats_get: the pool is closed");
}

/* In a forked child a pool would unmap what the child does not have, and tell registrars of it. */
Test(pool, a_forked_child_has_no_pools)
{
    zc_pool *pool = open_pool(4096), *other = NULL;
    zc_pool_options options = of_slots(8192);
    zc_pool_stats stats = {.size = sizeof stats};
    zc_free(alloc_in(pool));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_FAILS(zc_pool_open(&options, &other), -EPERM, "forked child");
        CHECK(!zc_pool_alloc(pool));
        CHECK_FAILS(zc_pool_trim(pool, NULL), -EPERM, "forked child");
        CHECK_FAILS(zc_pool_stats_get(pool, &stats), -EPERM, "forked child");
        CHECK_FAILS(zc_pool_close(pool), -EPERM, "forked child");
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_OK(zc_pool_close(pool));
}

Test(pool, closing_waits_for_what_is_in_flight)
{
    zc_comm *comm;
    zc_options options = ZC_OPTIONS_INIT;
    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("loop", &options, &comm));
    zc_pool *pool = open_pool(4096);
    char *p = alloc_in(pool), got[4096];
    pattern_fill(p, 4096, 1);
    CHECK_OK(zc_send(p, 4096, 0, 0, comm));
    CHECK_OK(zc_free(p));
    CHECK_FAILS(zc_pool_close(pool), -EBUSY, "in flight");
    CHECK_OK(zc_recv(got, sizeof got, 0, 0, comm, NULL));
    CHECK_PATTERN(got, 4096, 1);
    CHECK_OK(zc_pool_close(pool));
    CHECK_OK(zc_close(comm));
}

Test(pool, a_closed_pool_is_taken_over)
{
    zc_pool_options options = of_slots(20000);
    options.cap = 5;
    options.full = ZC_FULL_FAIL;
    zc_pool *pool = open_with(&options);
    char *p = alloc_in(pool);
    zc_free(p);
    CHECK_OK(zc_pool_close(pool));

    zc_pool *other = open_pool(40000); /* of another layout */
    CHECK(other != pool);
    zc_pool *again = open_pool(20000);
    CHECK(again == pool);
    CHECK(open_pool(20000) != pool); /* it is in use */
    zc_pool_stats stats = stats_of(again);
    CHECK(stats.cap == ZC_UNLIMITED && stats.peak == 0 && stats.allocs == 0 && stats.slots == 0);
    CHECK(alloc_in(again) == p); /* the same addresses */
    for (int i = 0; i < 9; i++)
        alloc_in(again);
    CHECK(stats_of(again).live == 10);
}

Test(pool, opening_and_closing_uses_no_address_up)
{
    CHECK_OK(arena_open());
    CHECK_OK(zc_pool_close(open_pool(4096)));
    for (int i = 0; i < 100; i++) {
        zc_pool *pool = open_pool(4096);
        zc_free(alloc_in(pool));
        CHECK_OK(zc_pool_close(pool));
    }
    char *here = arena_take(1); /* so far: one scratch, one segment */
    CHECK((size_t)(here - arena.user) == 2 * HUGE_BYTES);
}

/* ---- claims ---- */

Test(pool, recycles)
{
    zc_pool *pool = open_pool(3 * 4096);
    char *p = alloc_in(pool);
    size_t slots = stats_of(pool).slots;
    for (int i = 0; i < 1000; i++) {
        pattern_fill(p, 100, (uint64_t)i);
        zc_free(p);
        CHECK(alloc_in(pool) == p);
        CHECK_PATTERN(p, 100, (unsigned)i); /* as it was left */
    }
    CHECK(stats_of(pool).slots == slots);
}

Test(pool, a_claim_is_a_slot_for_sure)
{
    enum { N = 500 };
    static struct slot *slots[N];
    zc_pool *pool = open_pool(4096);

    for (int i = 0; i < N; i++)
        CHECK_OK(pool_claim(pool));
    for (int i = 0; i < 1000; i++) { /* takes all the rest */
        while (pool_try_claim(pool))
            slots[0] = pool_pop(pool);
        CHECK(!pool_try_claim(pool));
    }
    for (int i = 0; i < N; i++) {
        slots[i] = pool_pop(pool);
        CHECK(slot_find(slot_user(slots[i])) == slots[i]);
        for (int j = 0; j < i; j++)
            CHECK(slots[i] != slots[j]);
    }
}

Test(pool, an_unclaimed_slot_is_there_for_others)
{
    zc_pool *pool = open_pool(4096);
    CHECK(!pool_try_claim(pool)); /* does not grow */
    CHECK(stats_of(pool).slots == 0);
    CHECK_OK(pool_claim(pool));
    long spare = pool->spare;
    pool_unclaim(pool);
    CHECK(pool->spare == spare + 1);
    for (long i = 0; i <= spare; i++)
        CHECK(pool_try_claim(pool));
    CHECK(!pool_try_claim(pool));
    pool_unclaim(pool);
    CHECK(pool_try_claim(pool));
}

/* Threads claim, pop, push and unclaim; each marks the slots it has, so that a slot that two have is seen. */
enum { HOLDERS_MOST = 4, HELD = 40 };

static zc_pool *hammered;

static void *hammer(void *argument)
{
    uint64_t random = (uintptr_t)argument, me = random;
    struct slot *mine[HELD];
    int have = 0, claims = 0;
    for (int i = 0; i < 100000; i++) {
        switch (random_below(&random, 4)) {
        case 0:
            if (have + claims < HELD) {
                CHECK_OK(pool_claim(hammered));
                claims++;
            }
            break;
        case 1:
            if (claims) {
                struct slot *slot = mine[have++] = pool_pop(hammered);
                claims--;
                uint64_t *word = (uint64_t *)slot_user(slot);
                CHECKF(*word == 0, "slot %u belongs to %d", slot_id(slot), (int)*word);
                *word = me;
            }
            break;
        case 2:
            if (have) {
                struct slot *slot = mine[--have];
                uint64_t *word = (uint64_t *)slot_user(slot);
                CHECK(*word == me);
                *word = 0;
                pool_push(slot);
            }
            break;
        default:
            if (claims && random_below(&random, 2)) {
                pool_unclaim(hammered);
                claims--;
            }
        }
    }
    while (claims--)
        pool_unclaim(hammered);
    while (have) {
        *(uint64_t *)slot_user(mine[--have]) = 0;
        pool_push(mine[have]);
    }
    return NULL;
}

static void hammer_with(int n, int trims)
{
    pthread_t threads[HOLDERS_MOST];
    static unsigned char seen[HUGE_BYTES / 4096 * 64];
    hammered = open_pool(4096);
    for (int i = 0; i < n; i++)
        threads[i] = thread_start(hammer, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < trims; i++) {
        CHECK_OK(zc_pool_trim(hammered, NULL));
        usleep(1000);
    }
    for (int i = 0; i < n; i++)
        thread_join(threads[i]);
    /* Each carved slot is in the list once. */
    size_t carved = stats_of(hammered).slots, popped = 0;
    CHECK((size_t)hammered->spare == carved);
    for (; pool_try_claim(hammered); popped++) {
        struct slot *slot = pool_pop(hammered);
        CHECK(!seen[slot_id(slot)]++);
        CHECK(*(uint64_t *)slot_user(slot) == 0);
    }
    CHECKF(popped == carved, "%zu of %zu", popped, carved);
    CHECK((uint32_t)hammered->head == UINT32_MAX);
}

Test(pool, two_threads_lose_nothing, .timeout = 60)
{
    hammer_with(2, 0);
}

Test(pool, four_threads_lose_nothing, .timeout = 60)
{
    hammer_with(4, 0);
}

Test(pool, four_threads_lose_nothing_to_trims, .timeout = 60)
{
    hammer_with(4, 30);
}

/* Few slots, so that the list is often empty, and its first slot often the one that it was before. */
enum { FEW = 3 };
enum { IDS = 4096 };
static _Atomic int owners[IDS];

static struct slot *take_one(void)
{
    if (!pool_try_claim(hammered))
        return NULL;
    struct slot *slot = pool_pop(hammered);
    CHECK(slot_id(slot) < IDS && atomic_fetch_add(&owners[slot_id(slot)], 1) == 0);
    return slot;
}

static void give_one(struct slot *slot)
{
    if (!slot)
        return;
    atomic_fetch_sub(&owners[slot_id(slot)], 1);
    pool_push(slot);
}

static void *snatch(void *argument)
{
    (void)argument;
    for (int i = 0; i < 500000; i++) {
        struct slot *a = take_one(), *b = take_one();
        give_one(a); /* now first again, though the second has gone */
        give_one(b);
    }
    return NULL;
}

Test(pool, four_threads_share_three_slots, .timeout = 60)
{
    pthread_t threads[4];
    zc_pool_options options = of_slots(4096);
    options.initial = FEW;
    hammered = open_with(&options);
    for (int i = 0; i < 4; i++)
        threads[i] = thread_start(snatch, NULL);
    for (int i = 0; i < 4; i++)
        thread_join(threads[i]);
    CHECK(hammered->spare == FEW);
    for (int i = 0; i < FEW; i++)
        CHECK(take_one());
    CHECK((uint32_t)hammered->head == UINT32_MAX);
}

static void *claim_some(void *argument)
{
    (void)argument;
    for (int i = 0; i < 2000; i++)
        CHECK_OK(pool_claim(hammered));
    return NULL;
}

Test(pool, claims_of_many_threads_are_all_kept, .timeout = 60)
{
    pthread_t threads[4];
    hammered = open_pool(4096);
    for (int i = 0; i < 4; i++)
        threads[i] = thread_start(claim_some, NULL);
    for (int i = 0; i < 4; i++)
        thread_join(threads[i]);
    while (pool_try_claim(hammered))
        pool_pop(hammered);
    static unsigned char seen[100000];
    for (int i = 0; i < 8000; i++) {
        uint32_t id = slot_id(pool_pop(hammered));
        CHECK(id < sizeof seen && !seen[id]++);
    }
}

/* ---- growth ---- */

Test(pool, grows_by_segments_of_twice_the_size)
{
    zc_pool *pool = open_pool(64 << 10);
    size_t segments = 0;
    for (int i = 0; i < 2000; i++) { /* 125 MiB */
        memset(alloc_in(pool), 1, 1);
        segments = stats_of(pool).segments;
    }
    CHECKF(segments >= 4 && segments <= 8, "%zu segments", segments);
    for (struct segment *s = pool->segments; s; s = s->next)
        CHECK(s->length % HUGE_BYTES == 0 && s->length <= 64 << 20 && s->mapped);
    /* Not all is populated at once. */
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.slots >= 2000 && stats.slots < 2000 + (256 >> 6));
}

Test(pool, a_slot_larger_than_a_segment_is_its_own)
{
    zc_pool *pool = open_pool((size_t)70 << 20);
    char *p = alloc_in(pool), *q = alloc_in(pool);
    p[0] = p[(70 << 20) - 1] = q[0] = q[(70 << 20) - 1] = 1;
    CHECK(stats_of(pool).segments == 2);
    zc_free(p);
    zc_free(q);
    size_t released = 0;
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released == (size_t)140 << 20);
}

Test(pool, initial_slots_are_made_at_once)
{
    zc_pool_options options = of_slots(4096);
    options.initial = 3000;
    zc_pool *pool = open_with(&options);
    CHECK(stats_of(pool).slots == 3000);
    uint64_t segments = stats_now().segments;
    for (int i = 0; i < 3000; i++)
        CHECK(pool_try_claim(pool));
    CHECK(!pool_try_claim(pool));
    CHECK(stats_now().segments == segments);
}

/* ---- at the cap ---- */

static zc_pool *open_capped(size_t cap, enum zc_full full)
{
    zc_pool_options options = of_slots(8192);
    options.cap = cap;
    options.full = full;
    return open_with(&options);
}

Test(pool, full_grow)
{
    zc_pool *pool = open_capped(3, ZC_FULL_GROW);
    char *p[10];
    for (int i = 0; i < 10; i++) {
        p[i] = alloc_in(pool);
        CHECK(zc_owns(p[i]));
    }
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.live == 10 && stats.peak == 10 && stats.over_cap == 7 && stats.fallbacks == 0 && stats.allocs == 10);
    for (int i = 0; i < 10; i++)
        zc_free(p[i]);
    alloc_in(pool);
    CHECK(stats_of(pool).over_cap == 7);
}

Test(pool, full_fail)
{
    zc_pool *pool = open_capped(3, ZC_FULL_FAIL);
    char *p[3];
    for (int i = 0; i < 3; i++)
        p[i] = alloc_in(pool);
    for (int i = 0; i < 3; i++) {
        errno = 0;
        CHECK(!zc_pool_alloc(pool));
        CHECK(errno == ENOMEM);
        CHECK(strstr(zc_errmsg(), "8192-byte slots is at its cap of 3"));
    }
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.live == 3 && stats.peak == 3 && stats.over_cap == 0 && stats.fallbacks == 0 && stats.allocs == 3);
    zc_free(p[1]);
    CHECK(alloc_in(pool) == p[1]);
    CHECK(!zc_pool_alloc(pool));
}

Test(pool, full_fallback)
{
    zc_pool *pool = open_capped(2, ZC_FULL_FALLBACK);
    char *a = alloc_in(pool), *b = alloc_in(pool), *c = zc_pool_alloc(pool);
    if (!c)
        cr_skip_test("mimalloc is not installed: %s", zc_errmsg());
    CHECK(zc_owns(a) && zc_owns(b) && !zc_owns(c));
    CHECK(zc_usable_size(c) >= 8192);
    memset(c, 1, 8192);
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.live == 2 && stats.fallbacks == 1 && stats.over_cap == 0 && stats.allocs == 2);
    CHECK(stats_now().fallbacks == 1);

    /* Its sends are copied. */
    zc_comm *comm;
    char got[8192];
    CHECK_OK(zc_open("loop", NULL, &comm));
    pattern_fill(c, 8192, 4);
    CHECK_OK(zc_send(c, 8192, 0, 0, comm));
    memset(c, 0, 8192);
    CHECK_OK(zc_recv(got, 8192, 0, 0, comm, NULL));
    CHECK_PATTERN(got, 8192, 4);
    CHECK(stats_now().sends_foreign == 1);
    CHECK_OK(zc_close(comm));

    pattern_fill(c, 8192, 5);
    char *d = zc_realloc(c, 20000); /* out of the fall-back, into a pool */
    CHECK(d && zc_owns(d));
    CHECK_PATTERN(d, 8192, 5);
    CHECK_OK(zc_free(d));
    char *e = zc_pool_alloc(pool);
    CHECK(e && !zc_owns(e));
    CHECK_OK(zc_free(e));
    CHECK_OK(zc_free(a));
    CHECK(alloc_in(pool) == a);
}

static void *alloc_one_at_a_time(void *argument)
{
    for (int i = 0; i < 50000; i++)
        CHECK_OK(zc_free(alloc_in(argument)));
    return NULL;
}

Test(pool, a_cap_is_not_reached_too_early, .timeout = 60)
{
    zc_pool *pool = open_capped(4, ZC_FULL_FAIL);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        threads[i] = thread_start(alloc_one_at_a_time, pool);
    for (int i = 0; i < 4; i++)
        thread_join(threads[i]);
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.live == 0 && stats.peak <= 4 && stats.allocs == 200000);
}

/* One thread frees the only slot and wants it back while another one asks for it. If neither gets it, the
 * other's attempt, which came to nothing, was held against the first. */
enum { ROUNDS = 20000 };
static _Atomic int started, finished;
static _Atomic bool other_got;

static void *ask_for_it(void *argument)
{
    for (int round = 1; round <= ROUNDS; round++) {
        for (int spin = 0; started < round; spin++)
            if (spin > 1000) /* perhaps there is one processor only */
                sched_yield();
        void *got = zc_pool_alloc(argument);
        CHECK_OK(zc_free(got));
        other_got = got != NULL;
        finished = round;
    }
    return NULL;
}

Test(pool, a_refused_attempt_takes_nothing, .timeout = 60)
{
    zc_pool *pool = open_capped(1, ZC_FULL_FAIL);
    pthread_t other = thread_start(ask_for_it, pool);
    for (int round = 1; round <= ROUNDS; round++) {
        void *got = alloc_in(pool);
        started = round;
        for (volatile int spin = 0; spin < round % 64; spin++)
            ;
        CHECK_OK(zc_free(got));
        got = zc_pool_alloc(pool);
        while (finished < round)
            sched_yield();
        CHECKF(got || other_got, "round %d", round);
        CHECK_OK(zc_free(got));
    }
    thread_join(other);
    CHECK(stats_of(pool).live == 0 && stats_of(pool).peak == 1);
}

/* ---- trimming ---- */

Test(pool, trim_gives_whole_segments_back)
{
    enum { N = 200 };
    char *p[N];
    zc_pool *pool = open_pool(64 << 10);
    for (int i = 0; i < N; i++)
        memset(p[i] = alloc_in(pool), i, 64 << 10);
    size_t released = 1, segments = stats_of(pool).segments;
    CHECK(segments > 2);
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released == 0 && stats_of(pool).segments == segments); /* there is something live in each */

    for (int i = 0; i < N; i++)
        if (i != 100)
            zc_free(p[i]);
    struct segment *kept = slot_segment(slot_find(p[100]));
    size_t expected = 0;
    for (struct segment *s = pool->segments; s; s = s->next)
        expected += s == kept ? 0 : s->length;
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released == expected);
    CHECK(stats_of(pool).segments == 1);
    CHECK_BYTES(p[100], 64 << 10, 100);
    for (int i = 0; i < N; i++)
        CHECK(slot_find(p[i]) == NULL || slot_segment(slot_find(p[i])) == kept);
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK(stats_of(pool).segments == 1);
    zc_free(p[100]);
    CHECK_OK(zc_pool_trim(pool, &released));
    zc_pool_stats stats = stats_of(pool);
    CHECK(released == kept->length && stats.segments == 0 && stats.slots == 0);

    for (int i = 0; i < N; i++) /* and it can grow again */
        memset(p[i] = alloc_in(pool), i, 64 << 10);
    for (int i = 0; i < N; i++)
        CHECK_BYTES(p[i], 64 << 10, (unsigned char)i);
}

Test(pool, trim_leaves_claimed_slots)
{
    zc_pool *pool = open_pool(4096);
    CHECK_OK(pool_claim(pool));
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK(stats_of(pool).segments == 1);
    CHECK(slot_find(slot_user(pool_pop(pool))) != NULL);
}

static void *alloc_while_trimming(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    char *mine[64] = {0};
    for (int i = 0; i < 30000; i++) {
        int k = (int)random_below(&random, 64);
        if (mine[k]) {
            CHECK_BYTES(mine[k], 64, (unsigned char)(k + 1));
            CHECK_OK(zc_free(mine[k]));
            mine[k] = NULL;
        } else {
            mine[k] = alloc_in(hammered);
            memset(mine[k], k + 1, 64);
        }
        if (i % 5000 == 0)
            for (k = 0; k < 64; k++) {
                zc_free(mine[k]);
                mine[k] = NULL;
            }
    }
    for (int k = 0; k < 64; k++)
        zc_free(mine[k]);
    return NULL;
}

static _Atomic bool stop;

static void *trim_on(void *argument)
{
    (void)argument;
    while (!stop) {
        CHECK_OK(zc_pool_trim(hammered, NULL));
        stats_of(hammered);
    }
    return NULL;
}

Test(pool, allocates_while_it_is_trimmed, .timeout = 60)
{
    pthread_t threads[3], trimmer;
    hammered = open_pool(64 << 10);
    for (int i = 0; i < 3; i++)
        threads[i] = thread_start(alloc_while_trimming, (void *)(uintptr_t)(i + 1));
    trimmer = thread_start(trim_on, NULL);
    for (int i = 0; i < 3; i++)
        thread_join(threads[i]);
    stop = true;
    thread_join(trimmer);
    CHECK(stats_of(hammered).live == 0);
    CHECK_OK(zc_pool_close(hammered));
}

/* ---- huge pages ---- */

/* Collapsing needs a kernel that has it and a free huge page. */
static bool kernel_collapses(void)
{
    int fd = memfd_create("test", 0);
    bool collapses = false;
    CHECK(fd >= 0 && ftruncate(fd, 2 * HUGE_BYTES) == 0);
    char *area = mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(area != MAP_FAILED);
    for (size_t at = 0; at < 2 * HUGE_BYTES; at += PAGE_BYTES)
        area[at] = 1;
    char *aligned = (char *)(((uintptr_t)area + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));
    collapses = aligned == area && madvise(aligned, HUGE_BYTES, MADV_COLLAPSE) == 0;
    if (aligned != area) { /* file offset and address must agree */
        char *again = mmap(aligned, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
        collapses = again == aligned && madvise(aligned, HUGE_BYTES, MADV_COLLAPSE) == 0;
    }
    munmap(area, 2 * HUGE_BYTES);
    close(fd);
    return collapses;
}

static void check_huge(const char *p, long kb)
{
    long user = system_smaps_kb(p, "ShmemPmdMapped"), wire = system_smaps_kb(arena_wire_of(p), "ShmemPmdMapped");
    CHECKF(user >= kb, "the user mapping has %ld kB in huge pages, expected %ld", user, kb);
    CHECKF(wire >= kb, "the wire mapping has %ld kB in huge pages, expected %ld", wire, kb);
}

Test(pool, large_slots_are_huge)
{
    if (!kernel_collapses())
        cr_skip_test("this kernel cannot collapse a memfd into huge pages now");
    zc_pool_options options = of_slots(4 << 20);
    options.huge = ZC_HUGE_AUTO;
    zc_pool *pool = open_with(&options);
    check_huge(alloc_in(pool), 4 << 10);
    options.slot_size = (5 << 20) / 2;
    pool = open_with(&options);
    char *p = alloc_in(pool);
    check_huge(p, 2 << 10);
    CHECK(system_smaps_kb(p, "ShmemPmdMapped") <= 2 << 10); /* the rest of it is not worth a huge page */
    check_huge(alloc_in(open_pool(4 << 20)), 0);
}

Test(pool, small_slots_are_not_huge_unless_asked)
{
    char *p = alloc_in(open_pool(4 << 20)); /* ZC_HUGE_NEVER */
    CHECK(system_smaps_kb(p, "ShmemPmdMapped") == 0);
    zc_pool_options options = of_slots(1 << 20);
    options.huge = ZC_HUGE_AUTO;
    p = alloc_in(open_with(&options));
    CHECK(system_smaps_kb(p, "ShmemPmdMapped") == 0);
}

Test(pool, small_slots_share_huge_pages)
{
    if (!kernel_collapses())
        cr_skip_test("this kernel cannot collapse a memfd into huge pages now");
    static const size_t sizes[] = {4096, 20480, 28672, 65536, 1 << 20, 3 << 19};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        zc_pool_options options = of_slots(sizes[i]);
        options.huge = ZC_HUGE_ALWAYS;
        options.initial = 1;
        zc_pool *pool = open_with(&options);
        for (size_t all = 0; all < (3 << 20); all += sizes[i])
            alloc_in(pool);
        for (struct segment *s = pool->segments; s; s = s->next)
            check_huge(s->user, (long)(s->carved * s->stride >> 10));
    }
}

static int add_huge(void *context, struct segment *segment)
{
    ++*(unsigned *)context;
    long kb = system_smaps_kb(arena_wire_of(segment->user), "ShmemPmdMapped");
    CHECKF(kb == (long)(segment->length >> 10), "%ld kB of %zu", kb, segment->length >> 10);
    return 0;
}

static void remove_huge(void *context, struct segment *segment)
{
    (void)context, (void)segment;
}

/* Who pins pages gets huge ones, which would never become huge afterwards. */
Test(pool, huge_before_they_are_pinned)
{
    if (!kernel_collapses())
        cr_skip_test("this kernel cannot collapse a memfd into huge pages now");
    unsigned added = 0;
    zc_pool_options options = of_slots(5 << 19);
    options.huge = ZC_HUGE_ALWAYS;
    alloc_in(open_with(&options)); /* is there before, */
    struct registrar registrar = {.add = add_huge, .remove = remove_huge, .context = &added, .pins = true};
    CHECK_OK(registrar_attach(&registrar));
    options.slot_size = 1 << 20;
    alloc_in(open_with(&options)); /* or comes later */
    CHECKF(added == 2, "%u segments", added);
    registrar_detach(&registrar);
}

/* A slot takes as much memory as was asked for, in whole pages, not what aligns the next one. */
Test(pool, gaps_take_no_memory)
{
    zc_pool_options options = of_slots(HUGE_BYTES + 100);
    options.huge = ZC_HUGE_ALWAYS;
    zc_pool *pool = open_with(&options);
    char *p = alloc_in(pool);
    long kb = system_smaps_kb(p, "Rss");
    CHECKF(kb == (2 << 10) + 4, "%ld kB for one slot", kb);
    options.initial = 3;
    pool = open_with(&options);
    struct segment *segment = pool->segments;
    for (uint32_t i = 0; i < segment->carved; i++)
        CHECK(slot_find(segment->user + i * segment->stride) != NULL);
    kb = system_smaps_kb(segment->user, "Rss");
    CHECKF(kb == (long)segment->carved * ((2 << 10) + 4), "%ld kB for %u slots", kb, segment->carved);
}

/* ---- registrars ---- */

struct record {
    struct registrar registrar;
    struct segment *there[64];
    int n, adds, removes;
    int refuse_at; /* the n-th add is refused; 0: none */
};

static int add(void *context, struct segment *segment)
{
    struct record *record = context;
    CHECK(segment->length > 0 && segment->fd >= 0);
    *(volatile char *)arena_wire_of(segment->user) = 0; /* it is mapped */
    for (int i = 0; i < record->n; i++)
        CHECK(record->there[i] != segment);
    if (++record->adds == record->refuse_at)
        return -ENOSPC;
    record->there[record->n++] = segment;
    return 0;
}

static void removed(void *context, struct segment *segment)
{
    struct record *record = context;
    int i = 0;
    while (i < record->n && record->there[i] != segment)
        i++;
    CHECKF(i < record->n, "a segment is removed that was not added");
    *(volatile char *)arena_wire_of(segment->user) = 0; /* it is still mapped */
    record->there[i] = record->there[--record->n];
    record->removes++;
}

static void record_init(struct record *record, int refuse_at)
{
    *record = (struct record){.refuse_at = refuse_at};
    record->registrar = (struct registrar){.add = add, .remove = removed, .context = record};
}

Test(pool, registrars_are_told_of_each_segment_once)
{
    struct record early, late;
    record_init(&early, 0);
    record_init(&late, 0);
    CHECK_OK(arena_open());
    CHECK_OK(registrar_attach(&early.registrar));
    CHECK(early.adds == 0);
    zc_pool *pool = open_pool(1 << 20);
    char *p[40];
    for (int i = 0; i < 40; i++)
        p[i] = alloc_in(pool);
    int segments = (int)stats_of(pool).segments;
    CHECK(segments > 1 && early.adds == segments);
    CHECK_OK(registrar_attach(&late.registrar));
    CHECK(late.adds == segments && early.adds == segments);
    CHECK(stats_now().registrations == 2 * (uint64_t)segments);
    for (int i = 0; i < 40; i++)
        zc_free(p[i]);
    CHECK(early.removes == 0);
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK(early.removes == segments && late.removes == segments && early.n == 0 && late.n == 0);
    alloc_in(pool);
    CHECK(early.n == 1 && late.n == 1);

    registrar_detach(&early.registrar);
    CHECK(early.n == 0 && late.n == 1);
    registrar_detach(&early.registrar); /* is not attached */
    for (int i = 0; i < 40; i++)
        alloc_in(pool);
    CHECK(early.n == 0 && late.n == (int)stats_of(pool).segments && late.n > 1);
    registrar_detach(&late.registrar);
    CHECK(late.n == 0 && late.adds == late.removes);
}

Test(pool, a_refused_segment_is_undone)
{
    struct record first, second;
    record_init(&first, 0);
    record_init(&second, 2);
    CHECK_OK(arena_open());
    CHECK_OK(registrar_attach(&second.registrar));
    CHECK_OK(registrar_attach(&first.registrar));
    zc_pool *pool = open_pool(2 << 20);
    char *p = alloc_in(pool);
    errno = 0;
    CHECK(!zc_pool_alloc(pool));
    CHECKF(errno == ENOSPC, "errno %d", errno);
    CHECK(first.n == 1 && second.n == 1); /* as before */
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.segments == 1 && stats.live == 1 && stats.slots == 1);
    char *q = alloc_in(pool); /* the third is accepted again */
    CHECK(first.n == 2 && second.n == 2);
    memset(q, 1, 2 << 20);
    zc_free(p);
    zc_free(q);
    CHECK_OK(zc_pool_close(pool));
    CHECK(first.n == 0 && second.n == 0);
}

Test(pool, a_registrar_that_refuses_what_is_there_is_not_attached)
{
    struct record record;
    zc_pool *pool = open_pool(2 << 20);
    for (int i = 0; i < 3; i++)
        alloc_in(pool);
    CHECK(stats_of(pool).segments == 2 || stats_of(pool).segments == 3);
    record_init(&record, 2);
    CHECK_FAILS(registrar_attach(&record.registrar), -ENOSPC, "");
    CHECK(record.n == 0 && record.removes == 1);
    while (stats_of(pool).segments < 5)
        alloc_in(pool);
    CHECK(record.adds == 2);
    registrar_detach(&record.registrar);
    CHECK(record.removes == 1);
}
