/* SPDX-License-Identifier: MIT
 *
 * Threads that come and go take slots of two pools, one of them at its cap now and then, hand them to one another and
 * free them, while another thread trims the pools and reads their statistics. Each buffer says who has it: one that two
 * have, or that was lost, is found. A plain program, so that it also runs under ThreadSanitizer.
 *
 * usage: oracle_pool [SECONDS] */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "alloc/cache.h"
#include "check.h"
#include "pattern.h"
#include "ranks.h"

enum { POOLS = 2, CAP = 100, THREADS = 4, HELD = 40, SHELF = 64, STEPS = 20000 };

static zc_pool *pools[POOLS];
static _Atomic(uint64_t *) shelf[SHELF]; /* buffers on their way to whoever wants them; each holds OFFERED */
static _Atomic bool over;
static _Atomic unsigned long refused, taken;

static const uint64_t OFFERED = 1000000;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Puts a buffer on the shelf, and takes what was there, if anything. */
static uint64_t *swap(uint64_t *mine, uint64_t me, uint64_t *random)
{
    if (mine) {
        CHECKF(*mine == me, "a buffer of thread %d is of %d", (int)me, (int)*mine);
        *mine = OFFERED;
    }
    uint64_t *other = atomic_exchange(&shelf[random_below(random, SHELF)], mine);
    if (other) {
        CHECKF(*other == OFFERED, "a buffer on the shelf is of %d", (int)*other);
        *other = me;
    }
    return other;
}

static void give(uint64_t *buffer, uint64_t me)
{
    if (buffer) {
        CHECKF(*buffer == me, "a buffer of thread %d is of %d", (int)me, (int)*buffer);
        *buffer = 0;
    }
    CHECK_OK(zc_free(buffer));
}

static void *actor(void *argument)
{
    uint64_t me = (uintptr_t)argument, random = me;
    uint64_t *held[HELD] = {0};
    for (int i = 0; i < STEPS; i++) {
        uint64_t **place = &held[random_below(&random, HELD)];
        if (*place && random_below(&random, 2)) {
            give(*place, me);
            *place = NULL;
        } else if (*place || random_below(&random, 8) == 0) {
            *place = swap(*place, me, &random);
        } else {
            *place = zc_pool_alloc(pools[random_below(&random, POOLS)]);
            atomic_fetch_add_explicit(*place ? &taken : &refused, 1, memory_order_relaxed);
            if (*place)
                **place = me; /* recycled: whoever had it has let go of it */
        }
    }
    for (int i = 0; i < HELD; i++)
        give(held[i], me);
    return NULL;
}

/* One actor after the other. */
static void *line(void *argument)
{
    for (uint64_t id = (uintptr_t)argument; !over; id += THREADS)
        thread_join(thread_start(actor, (void *)(uintptr_t)id));
    return NULL;
}

static void open_pools(void)
{
    static const size_t sizes[POOLS] = {4096, 64 << 10};
    for (int i = 0; i < POOLS; i++) {
        zc_pool_options options = ZC_POOL_OPTIONS_INIT;
        options.slot_size = sizes[i];
        if (i == 0) {
            options.cap = CAP;
            options.full = ZC_FULL_FAIL;
        }
        CHECK_OK(zc_pool_open(&options, &pools[i]));
    }
}

static void look(int turn)
{
    zc_pool_stats stats = {.size = sizeof stats};
    CHECK_OK(zc_pool_stats_get(pools[0], &stats));
    CHECKF(stats.live <= CAP + CACHE_SLOTS * THREADS, "%zu live", stats.live); /* counts move while they are read */
    if (turn % 4 == 0)
        CHECK_OK(zc_pool_trim(pools[turn / 4 % POOLS], NULL));
}

int main(int argc, char **argv)
{
    double end = seconds() + (argc > 1 ? strtod(argv[1], NULL) : 3);
    pthread_t threads[THREADS];
    open_pools();
    for (int i = 0; i < THREADS; i++)
        threads[i] = thread_start(line, (void *)(uintptr_t)(i + 1));
    for (int turn = 0; seconds() < end; turn++) {
        look(turn);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    over = true;
    for (int i = 0; i < THREADS; i++)
        thread_join(threads[i]);
    for (int i = 0; i < SHELF; i++)
        CHECK_OK(zc_free(shelf[i]));
    for (int i = 0; i < POOLS; i++)
        CHECK_OK(zc_pool_close(pools[i])); /* nothing is live, and nothing was lost */
    CHECKF(taken > 1000 && refused > 0, "%lu taken, %lu refused", taken, refused);
    printf("%lu taken, %lu refused\n", taken, refused);
    return 0;
}
