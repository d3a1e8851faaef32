/* SPDX-License-Identifier: MIT
 *
 * Pools that grow, are at their caps, and are trimmed. */
#include "alloc/pool.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pattern.h"
#include "ranks.h"
#include "tests/unit/pools.h"

/* ---- the machine's memory ---- */

static bool tiny; /* the machine, from now on */

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
int sysinfo(struct sysinfo *info)
{
    *info = (struct sysinfo){.totalram = tiny ? 1 << 10 : 1 << 30, .totalswap = tiny ? 1 << 10 : 0, .mem_unit = 4096};
    return 0;
}

/* Nothing is asked of the kernel that it would kill somebody for. */
Test(pool_limits, no_more_than_the_machine_has)
{
    zc_pool_options options = small_slots(4096);
    zc_pool *pool;
    zc_free(zc_alloc(1));
    tiny = true;
    char *most = zc_alloc(8 << 20);
    CHECK(most);
    CHECK(!zc_alloc((8 << 20) + 1) && errno == ENOMEM && strstr(zc_errmsg(), "more than this machine has"));
    options.initial = 2049;
    CHECK_IS(zc_pool_open(&options, &pool), -ENOMEM);
    CHECK(strstr(zc_errmsg(), "2049 initial slots"));
    options.slot_size = 1; /* which a page is needed for */
    CHECK_IS(zc_pool_open(&options, &pool), -ENOMEM);
    CHECK(strstr(zc_errmsg(), "2049 initial slots of 4096 bytes"));
    options.initial = 2048;
    CHECK_OK(zc_pool_open(&options, &pool));
    CHECK_OK(zc_pool_close(pool));
    CHECK_OK(zc_free(most));
}

/* ---- growth ---- */

Test(pool_limits, grows_by_segments_of_twice_the_size)
{
    zc_pool *pool = open_small(64 << 10);
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

Test(pool_limits, a_slot_larger_than_a_segment_is_its_own)
{
    zc_pool *pool = open_small((size_t)70 << 20);
    char *p = alloc_in(pool), *q = alloc_in(pool);
    p[0] = p[(70 << 20) - 1] = q[0] = q[(70 << 20) - 1] = 1;
    CHECK(stats_of(pool).segments == 2);
    zc_free(p);
    zc_free(q);
    size_t released = 0;
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released == (size_t)140 << 20);
}

Test(pool_limits, initial_slots_are_made_at_once)
{
    zc_pool_options options = small_slots(4096);
    options.initial = 3000;
    zc_pool *pool = open_with(&options);
    CHECK(stats_of(pool).slots == 3000);
    uint64_t segments = stats_now().segments;
    for (int i = 0; i < 3000; i++)
        CHECK(pool_try_claim(pool));
    CHECK(!pool_try_claim(pool));
    CHECK(stats_now().segments == segments);
}

enum { THERE = 200 };

static void *take_what_is_there(void *argument)
{
    char *p[THERE];
    for (int i = 0; i < THERE; i++)
        p[i] = alloc_in(argument);
    CHECK_OK(zc_free(alloc_in(open_small(64 << 10))));
    for (int i = 0; i < THERE; i++)
        CHECK_OK(zc_free(p[i]));
    return NULL;
}

Test(pool_limits, does_not_keep_others_while_it_grows, .timeout = 30)
{
    zc_pool_options options = small_slots(4096);
    options.initial = THERE + 64; /* what a cache may take at a time */
    zc_pool *pool = open_with(&options);
    pthread_mutex_lock(&pool->growth); /* as a thread that grows it */
    thread_join(thread_start(take_what_is_there, pool));
    pthread_mutex_unlock(&pool->growth);
    CHECK(stats_of(pool).live == 0);
}

/* ---- at the cap ---- */

static zc_pool *open_capped(size_t cap, enum zc_full full)
{
    zc_pool_options options = small_slots(8192);
    options.cap = cap;
    options.full = full;
    return open_with(&options);
}

Test(pool_limits, full_grow)
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

Test(pool_limits, full_fail)
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

Test(pool_limits, full_fallback)
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

static _Atomic bool holds_up, held_up; /* who hands out a fall-back, with its lock taken */

/* (Its header has names of ours.) */
void *tsearch(const void *key, void **root, int (*compare)(const void *, const void *))
{
    static void *(*real)(const void *, void **, int (*)(const void *, const void *));
    while (atomic_load(&holds_up)) {
        atomic_store(&held_up, true);
        sched_yield();
    }
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "tsearch");
    return real(key, root, compare);
}

static void *alloc_another(void *pool)
{
    return zc_pool_alloc(pool);
}

/* A child has no thread that would let go of it. */
Test(pool_limits, full_fallback_in_a_child)
{
    zc_pool *pool = open_capped(1, ZC_FULL_FALLBACK);
    int status;
    alloc_in(pool);
    char *c = zc_pool_alloc(pool);
    if (!c)
        cr_skip_test("mimalloc is not installed: %s", zc_errmsg());
    atomic_store(&holds_up, true);
    pthread_t other = thread_start(alloc_another, pool);
    while (!atomic_load(&held_up))
        sched_yield();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(10);
        _exit(zc_usable_size(c) != 0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    atomic_store(&holds_up, false);
    thread_join(other);
    CHECKF(status == 0, "the child ended with status %#x", (unsigned)status);
}

static void *alloc_one_at_a_time(void *argument)
{
    for (int i = 0; i < 50000; i++)
        CHECK_OK(zc_free(alloc_in(argument)));
    return NULL;
}

Test(pool_limits, a_cap_is_not_reached_too_early, .timeout = 60)
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

Test(pool_limits, a_refused_attempt_takes_nothing, .timeout = 60)
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

Test(pool_limits, trim_gives_whole_segments_back)
{
    enum { N = 200 };
    char *p[N];
    zc_pool *pool = open_small(64 << 10);
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

Test(pool_limits, trim_leaves_claimed_slots)
{
    zc_pool *pool = open_small(4096);
    CHECK_OK(pool_claim(pool));
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK(stats_of(pool).segments == 1);
    CHECK(slot_find(slot_user(pool_pop(pool))) != NULL);
}

static zc_pool *trimmed;

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
            mine[k] = alloc_in(trimmed);
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
        CHECK_OK(zc_pool_trim(trimmed, NULL));
        stats_of(trimmed);
    }
    return NULL;
}

Test(pool_limits, allocates_while_it_is_trimmed, .timeout = 60)
{
    pthread_t threads[3], trimmer;
    trimmed = open_small(64 << 10);
    for (int i = 0; i < 3; i++)
        threads[i] = thread_start(alloc_while_trimming, (void *)(uintptr_t)(i + 1));
    trimmer = thread_start(trim_on, NULL);
    for (int i = 0; i < 3; i++)
        thread_join(threads[i]);
    stop = true;
    thread_join(trimmer);
    CHECK(stats_of(trimmed).live == 0);
    CHECK_OK(zc_pool_close(trimmed));
}
