/* SPDX-License-Identifier: MIT
 *
 * Pools: options, statistics, opening and closing, claims. */
#include "alloc/pool.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pattern.h"
#include "ranks.h"
#include "tests/unit/pools.h"

/* ---- options, statistics, closing ---- */

Test(pool, options_are_checked)
{
    zc_pool *pool = NULL;
    zc_pool_options options = small_slots(4096);

    CHECK_FAILS(zc_pool_open(&options, NULL), -EINVAL, "pool is NULL");
    CHECK_FAILS(zc_pool_open(NULL, &pool), -EINVAL, "ZC_POOL_OPTIONS_INIT");
    options.size = 0;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "ZC_POOL_OPTIONS_INIT");
    options = small_slots(0);
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "slot_size 0");
    options = small_slots(SIZE_MAX);
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "slot_size 18446744073709551615");
    options = small_slots(4096);
    options.cap = 0;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "cap 0");
    options.cap = 3;
    options.initial = 4;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "4 initial slots are more than the cap of 3");
    options = small_slots(4096);
    options.huge = (enum zc_huge)5;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "huge 5");
    options = small_slots(4096);
    options.full = (enum zc_full) - 1;
    CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, "full -1");
    CHECK(!pool);
}

Test(pool, statistics)
{
    zc_pool_options options = small_slots(5000);
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
    zc_pool *pool = open_small(4096);
    CHECK_OK(zc_pool_close(NULL));
    char *p = alloc_in(pool);
    CHECK_FAILS(zc_pool_close(pool), -EBUSY, "1 slots are still live");
    memset(p, 1, 4096);
    CHECK(zc_owns(p));
    zc_free(p);
    zc_stats before = stats_now();
    CHECK_OK(zc_pool_close(pool));
    CHECK(stats_now().allocs == before.allocs && stats_now().frees == before.frees);
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
    zc_pool *pool = open_small(4096), *other = NULL;
    zc_pool_options options = small_slots(8192);
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
    zc_pool *pool = open_small(4096);
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
    zc_pool_options options = small_slots(20000);
    options.cap = 5;
    options.full = ZC_FULL_FAIL;
    zc_pool *pool = open_with(&options);
    char *p = alloc_in(pool);
    zc_free(p);
    CHECK_OK(zc_pool_close(pool));

    zc_pool *other = open_small(40000); /* of another layout */
    CHECK(other != pool);
    zc_pool *again = open_small(20000);
    CHECK(again == pool);
    CHECK(open_small(20000) != pool); /* it is in use */
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
    CHECK_OK(zc_pool_close(open_small(4096)));
    for (int i = 0; i < 100; i++) {
        zc_pool *pool = open_small(4096);
        zc_free(alloc_in(pool));
        CHECK_OK(zc_pool_close(pool));
    }
    char *here = arena_take(1); /* so far: one scratch, one segment */
    CHECK((size_t)(here - arena.user) == 2 * HUGE_BYTES);
}

/* Else a thread that read the list's head before a slot was popped and pushed back would take the list for the same. */
Test(pool, a_list_that_is_as_before_has_another_head)
{
    zc_pool_options options = small_slots(4096);
    options.initial = 2;
    zc_pool *pool = open_with(&options);
    for (int i = 0; i < 3; i++) {
        uint64_t before = atomic_load(&pool->head);
        CHECK_OK(pool_claim(pool));
        pool_push(pool_pop(pool));
        uint64_t after = atomic_load(&pool->head);
        CHECK((uint32_t)after == (uint32_t)before && after != before);
    }
    CHECK_OK(zc_pool_close(pool));
}

/* ---- claims ---- */

Test(pool, recycles)
{
    zc_pool *pool = open_small(3 * 4096);
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
    zc_pool *pool = open_small(4096);

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
    zc_pool *pool = open_small(4096);
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
    hammered = open_small(4096);
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
    zc_pool_options options = small_slots(4096);
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
    hammered = open_small(4096);
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
