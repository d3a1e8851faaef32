/* SPDX-License-Identifier: MIT
 *
 * Thread caches: what threads keep is counted, bounded, within reach, and never in the way of a claim. */
#include "alloc/cache.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "apart.h"
#include "ranks.h"
#include "tests/unit/pools.h"

TestSuite(cache, .timeout = 60);

static zc_pool *open_pool(size_t slot_size, size_t cap, enum zc_full full)
{
    zc_pool *pool = NULL;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = slot_size;
    options.cap = cap;
    options.full = full;
    CHECK_OK(zc_pool_open(&options, &pool));
    return pool;
}

/* Takes n slots, and frees them again. */
static void use(zc_pool *pool, int n)
{
    void **p = calloc((size_t)n, sizeof *p);
    for (int i = 0; i < n; i++)
        p[i] = alloc_in(pool);
    for (int i = 0; i < n; i++)
        CHECK_OK(zc_free(p[i]));
    free(p);
}

/* ---- bounds and counts ---- */

Test(cache, is_bounded_in_slots_and_in_bytes)
{
    static const struct {
        size_t size, most;
    } cases[] = {{4096, 64}, {16384, 16}, {100 << 10, 2}, {256 << 10, 1}, {260 << 10, 0}, {4 << 20, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zc_pool *pool = open_pool(cases[i].size, ZC_UNLIMITED, ZC_FULL_GROW);
        use(pool, 100);
        use(pool, 1); /* not only freed */
        size_t cached = stats_of(pool).cached;
        CHECKF(cached <= cases[i].most && (cached > 0) == (cases[i].most > 0), "%zu of %zu-byte slots are cached",
               cached, cases[i].size);
        CHECK(stats_of(pool).live == 0);
    }
}

static zc_pool *freed_pool;

static void *take_many(void *argument)
{
    void **p = argument;
    for (int i = 0; i < 200; i++)
        p[i] = alloc_in(freed_pool);
    return NULL;
}

Test(cache, is_smaller_while_its_thread_only_frees)
{
    freed_pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    void *p[200];
    thread_join(thread_start(take_many, p));
    for (int i = 0; i < 200; i++) {
        CHECK_OK(zc_free(p[i]));
        CHECKF(stats_of(freed_pool).cached <= CACHE_SLOTS / 8, "%d freed, %zu cached", i + 1,
               stats_of(freed_pool).cached);
    }
    use(freed_pool, 40);
    CHECK(stats_of(freed_pool).cached >= 40);
    use(freed_pool, CACHE_SLOTS); /* as many as there are, and fewer than it has room for */
    CHECK(stats_of(freed_pool).cached <= CACHE_SLOTS);
}

Test(cache, is_counted_apart_from_what_is_live)
{
    zc_pool *pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    zc_stats before = stats_now();
    void *p[150];
    for (size_t i = 0; i < 150; i++) {
        p[i] = alloc_in(pool);
        zc_pool_stats stats = stats_of(pool);
        CHECKF(stats.live == i + 1 && stats.peak == i + 1 && stats.allocs == i + 1, "%zu: %zu live, peak %zu", i + 1,
               stats.live, stats.peak);
        CHECK(stats.live + stats.cached + (size_t)pool->spare == stats.slots);
    }
    for (size_t i = 150; i-- > 0;) {
        CHECK_OK(zc_free(p[i]));
        zc_pool_stats stats = stats_of(pool);
        CHECK(stats.live == i && stats.peak == 150 && stats.allocs == 150);
        CHECK(stats.live + stats.cached + (size_t)pool->spare == stats.slots);
    }
    use(pool, 5);
    CHECK(stats_of(pool).peak == 150 && stats_of(pool).allocs == 155);
    CHECK(stats_now().allocs - before.allocs == 155 && stats_now().frees - before.frees == 155);
    CHECK_OK(zc_pool_close(pool));
    CHECK(stats_now().allocs - before.allocs == 155 && stats_now().frees - before.frees == 155);
}

Test(cache, keeps_no_large_slots_of_a_thread_that_only_frees)
{
    freed_pool = open_pool(100 << 10, ZC_UNLIMITED, ZC_FULL_GROW);
    void *p[200];
    thread_join(thread_start(take_many, p));
    for (int i = 0; i < 200; i++) {
        CHECK_OK(zc_free(p[i]));
        CHECK(stats_of(freed_pool).cached == 0);
    }
    CHECK(freed_pool->spare == 200);
}

/* One thread takes, another frees: the slots go round by the pool, and no more are made. */
struct pipe {
    zc_pool *pool;
    _Atomic(void *) item;
    int n;
};

static void *free_all(void *argument)
{
    struct pipe *pipe = argument;
    for (int i = 0; i < pipe->n; i++) {
        void *p;
        while (!(p = atomic_exchange(&pipe->item, NULL)))
            cpu_relax();
        CHECK_OK(zc_free(p));
    }
    return NULL;
}

Test(cache, slots_freed_by_another_thread_come_back)
{
    struct pipe pipe = {.pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW), .n = 100000};
    pthread_t consumer = thread_start(free_all, &pipe);
    for (int i = 0; i < pipe.n; i++) {
        void *p = alloc_in(pipe.pool), *none = NULL;
        while (!atomic_compare_exchange_weak(&pipe.item, &none, p)) {
            none = NULL;
            cpu_relax();
        }
    }
    thread_join(consumer);
    zc_pool_stats stats = stats_of(pipe.pool);
    CHECK(stats.live == 0 && stats.allocs == (uint64_t)pipe.n);
    CHECKF(stats.slots <= 4 * CACHE_SLOTS, "%zu slots", stats.slots);
}

/* What is freed in flight does not come back by a cache. */
Test(cache, a_peak_of_buffers_that_are_freed_in_flight)
{
    enum { N = 10 };
    zc_pool *pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    struct zc_guard guards[N];
    void *p[N];
    for (int i = 0; i < N; i++)
        CHECK_OK(zc_guard(p[i] = alloc_in(pool), 4096, ZC_DENY_STORES, &guards[i]));
    for (int i = 0; i < N; i++) {
        CHECK_OK(zc_free(p[i]));
        zc_pool_stats stats = stats_of(pool);
        CHECKF(stats.live == (size_t)(N - 1 - i) && stats.peak == N, "%d freed: %zu live, peak %zu", i + 1, stats.live,
               stats.peak);
    }
    for (int i = 0; i < N; i++)
        CHECK_OK(zc_unguard(&guards[i]));
    CHECK(stats_of(pool).peak == N);
}

static pthread_barrier_t meeting;

enum { EACH = 16 };

static void *live_together(void *pool)
{
    void *p[EACH];
    for (int i = 0; i < EACH; i++)
        p[i] = alloc_in(pool);
    pthread_barrier_wait(&meeting); /* with all of both live */
    for (int i = 0; i < EACH; i++)
        CHECK_OK(zc_free(p[i]));
    pthread_barrier_wait(&meeting); /* and then in caches */
    zc_pool_stats stats = stats_of(pool);
    CHECKF(stats.live == 0 && stats.peak >= 2 * EACH, "%zu live, peak %zu", stats.live, stats.peak);
    pthread_barrier_wait(&meeting);
    return NULL;
}

Test(cache, a_peak_of_several_threads)
{
    zc_pool *pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    CHECK_OK(pthread_barrier_init(&meeting, NULL, 2));
    pthread_t other = thread_start(live_together, pool);
    live_together(pool);
    thread_join(other);
    CHECK_OK(zc_pool_close(pool));
}

/* ---- claims, caps and trims reach what threads keep ---- */

/* A thread that fills its cache, and then sleeps on it until it is told to end. */
struct keeper {
    zc_pool *pool;
    int n;
    pthread_barrier_t full, end;
};

static void *keep(void *argument)
{
    struct keeper *keeper = argument;
    use(keeper->pool, keeper->n);
    pthread_barrier_wait(&keeper->full);
    pthread_barrier_wait(&keeper->end);
    return NULL;
}

static pthread_t keeper_start(struct keeper *keeper, zc_pool *pool, int n)
{
    keeper->pool = pool;
    keeper->n = n;
    pthread_barrier_init(&keeper->full, NULL, 2);
    pthread_barrier_init(&keeper->end, NULL, 2);
    pthread_t thread = thread_start(keep, keeper);
    pthread_barrier_wait(&keeper->full);
    return thread;
}

static void keeper_end(struct keeper *keeper, pthread_t thread)
{
    pthread_barrier_wait(&keeper->end);
    thread_join(thread);
}

Test(cache, claims_are_on_slots_of_the_pool_alone)
{
    zc_pool *pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    use(pool, 20);
    CHECK(stats_of(pool).cached > 0);
    while (pool_try_claim(pool))
        ;
    size_t slots = stats_of(pool).slots;
    use(pool, 20); /* from the cache, which holds them still */
    CHECK(stats_of(pool).slots == slots && pool->spare == 0);
    CHECK_OK(pool_claim(pool)); /* a new one */
    CHECK(stats_of(pool).slots > slots);
}

Test(cache, a_cap_is_reached_by_live_slots_alone)
{
    struct keeper keeper;
    zc_pool *pool = open_pool(4096, 10, ZC_FULL_FAIL);
    pthread_t thread = keeper_start(&keeper, pool, 9);
    void *p[10];
    CHECK(stats_of(pool).cached == 9 || stats_of(pool).cached == 10);
    for (int i = 0; i < 10; i++)
        p[i] = alloc_in(pool);
    CHECK(!zc_pool_alloc(pool) && strstr(zc_errmsg(), "at its cap of 10"));
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.live == 10 && stats.peak == 10 && stats.cached == 0);
    for (int i = 0; i < 10; i++)
        CHECK_OK(zc_free(p[i]));
    keeper_end(&keeper, thread);
    CHECK_OK(zc_pool_close(pool));
}

Test(cache, trim_and_close_reach_it)
{
    struct keeper keeper;
    size_t released;
    zc_pool *pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    pthread_t thread = keeper_start(&keeper, pool, 30);
    use(pool, 10);
    CHECK(stats_of(pool).cached >= 40);
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released == HUGE_BYTES && stats_of(pool).cached == 0 && stats_of(pool).slots == 0);
    keeper_end(&keeper, thread);

    thread = keeper_start(&keeper, pool, 30);
    CHECK_OK(zc_pool_close(pool));
    keeper_end(&keeper, thread);
}

/* When no more memory can be had, what threads keep serves claims. */
static void claim_what_is_cached(const void *argument)
{
    (void)argument;
    struct keeper keeper;
    zc_pool *pool = open_pool(64 << 10, ZC_UNLIMITED, ZC_FULL_GROW);
    pthread_t thread = keeper_start(&keeper, pool, 40);
    deny_system_call(SYS_memfd_create, -1, 0, ENOMEM);
    size_t slots = stats_of(pool).segments * (HUGE_BYTES / (64 << 10));
    for (size_t i = 0; i < slots; i++)
        CHECK_OK(pool_claim(pool));
    CHECK(stats_of(pool).cached == 0 && stats_of(pool).slots == slots);
    CHECK_FAILS(pool_claim(pool), -ENOMEM, "memfd_create for a segment of");
    keeper_end(&keeper, thread);
}

Test(cache, serves_claims_when_memory_runs_out)
{
    apart(claim_what_is_cached, NULL);
}

/* ---- threads that end ---- */

Test(cache, goes_back_with_its_thread)
{
    zc_pool *pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    for (int i = 0; i < 50; i++) {
        struct keeper keeper;
        keeper_end(&keeper, keeper_start(&keeper, pool, 100));
    }
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.cached == 0 && stats.live == 0 && stats.allocs == 5000);
    CHECKF(stats.slots <= 128, "%zu slots", stats.slots);
    CHECK(pool->spare == (long)stats.slots && pool->caches == NULL);
}

/* Destructors of others, which may run after that of the caches, may still allocate and free. */
static pthread_key_t late_key;
static zc_pool *late_pool;

static void late(void *p)
{
    static _Thread_local int rounds;
    CHECK_OK(zc_free(p));
    p = alloc_in(late_pool);
    if (rounds++ == 2)
        CHECK_OK(zc_free(p));
    else
        CHECK(pthread_setspecific(late_key, p) == 0); /* once more */
}

static void *leave_one(void *argument)
{
    (void)argument;
    CHECK(pthread_setspecific(late_key, alloc_in(late_pool)) == 0);
    return NULL;
}

Test(cache, is_not_needed_by_late_destructors)
{
    late_pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    CHECK(pthread_key_create(&late_key, late) == 0);
    for (int i = 0; i < 100; i++)
        thread_join(thread_start(leave_one, NULL));
    CHECK(stats_of(late_pool).live == 0 && stats_of(late_pool).cached == 0);
    CHECK_OK(zc_pool_close(late_pool));
}

/* ---- in steady state ---- */

static const size_t steady_sizes[] = {4096, 5000, 64 << 10, 256 << 10, 1 << 20, 16 << 20};
enum { STEADY_SIZES = sizeof steady_sizes / sizeof steady_sizes[0], STEADY_SET = 8 };

/* Replaces buffers of all sizes, n times. */
static void churn(void *(*set)[STEADY_SET], int n)
{
    for (int i = 0; i < n; i++)
        for (int s = 0; s < STEADY_SIZES; s++) {
            void **place = &set[s][i % STEADY_SET];
            zc_free(*place);
            *place = zc_alloc(steady_sizes[s]);
            *(volatile char *)*place = 1;
        }
}

/* Frees what others allocated, until the process ends. */
static _Atomic(void *) handed;
static _Atomic bool ended;

static void *free_on(void *argument)
{
    while (!ended)
        zc_free(atomic_exchange(&handed, NULL));
    return argument;
}

static void hand_over(int n)
{
    for (int i = 0; i < n; i++) {
        void *p = zc_alloc(4096), *none = NULL;
        while (!atomic_compare_exchange_weak(&handed, &none, p))
            none = NULL;
    }
}

static void steady(const void *argument)
{
    static void *set[STEADY_SIZES][STEADY_SET], *small[4 * CACHE_SLOTS];
    (void)argument;
    thread_start(free_on, NULL);
    for (int i = 0; i < 4 * CACHE_SLOTS; i++) /* more than two threads can keep */
        small[i] = ALLOC(4096);
    for (int i = 0; i < 4 * CACHE_SLOTS; i++)
        CHECK_OK(zc_free(small[i]));
    hand_over(10000);
    churn(set, 100);
    forbid_system_calls();
    churn(set, 1000);
    hand_over(100000);
}

Test(cache, steady_state_makes_no_system_call)
{
    apart(steady, NULL);
}

/* ---- without ---- */

Test(cache, pools_beyond_the_first_go_without)
{
    enum { N = CACHE_POOLS + 20 };
    static zc_pool *pools[N];
    for (int i = 0; i < N; i++)
        pools[i] = open_pool((size_t)(i + 1) << 12, ZC_UNLIMITED, ZC_FULL_GROW);
    zc_pool *same = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    use(same, 10);
    use(pools[0], 10);
    CHECK(stats_of(pools[0]).cached > 0 && stats_of(same).cached == 0);
    CHECK(stats_of(same).allocs == 10 && stats_of(same).peak == 10 && stats_of(same).live == 0);
}

static void refuse_membarrier(const void *argument)
{
    (void)argument;
    deny_system_call(SYS_membarrier, -1, 0, ENOSYS);
    zc_pool *pool = open_pool(4096, 20, ZC_FULL_FAIL);
    use(pool, 20);
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.cached == 0 && stats.peak == 20 && stats.allocs == 20);
    CHECK_OK(zc_pool_close(pool));
}

Test(cache, none_without_membarrier)
{
    apart(refuse_membarrier, NULL);
}

static void *use_there(void *pool)
{
    use(pool, 20);
    pthread_barrier_wait(&meeting);
    pthread_barrier_wait(&meeting); /* its cache is there until then */
    return NULL;
}

/* With several threads, registering takes the kernel milliseconds; the slow kind of barrier needs none. */
static void refuse_registration(const void *argument)
{
    (void)argument;
    deny_system_call(SYS_membarrier, 0, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, EINVAL);
    zc_pool *pool = open_pool(4096, ZC_UNLIMITED, ZC_FULL_GROW);
    use(pool, 20);
    size_t mine = stats_of(pool).cached;
    pthread_t thread;
    CHECK_OK(pthread_barrier_init(&meeting, NULL, 2));
    CHECK_OK(pthread_create(&thread, NULL, use_there, pool));
    pthread_barrier_wait(&meeting);
    CHECK(mine > 0 && stats_of(pool).cached > mine);
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK(stats_of(pool).cached == 0);
    pthread_barrier_wait(&meeting);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(zc_pool_close(pool));
}

Test(cache, needs_no_registration_to_start)
{
    apart(refuse_registration, NULL);
}
