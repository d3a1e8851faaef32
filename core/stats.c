/* SPDX-License-Identifier: MIT */
#include "core/stats.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "core/error.h"
#include "core/thread.h"

static void nothing(zc_stats *stats)
{
    (void)stats;
}

void (*_Atomic stats_gather)(zc_stats *stats) = nothing;

/* ---- lines of threads ---- */

_Thread_local struct often *stats_own __attribute__((tls_model("initial-exec")));
static _Thread_local __attribute__((tls_model("initial-exec"))) bool asked;

static _Atomic uint32_t lines; /* a bit for each that is taken */

_Static_assert(COUNTING_THREADS <= 32, "a bit each");

/* What it counted stays, and the next thread that takes the line goes on from there. */
static void give_back(void *line)
{
    stats_own = NULL;
    atomic_fetch_and_explicit(&lines, ~(UINT32_C(1) << ((struct often *)line - live.often)), memory_order_release);
}

struct often *stats_take(void)
{
    if (asked)
        return NULL;
    asked = true;
    uint32_t taken = atomic_load(&lines);
    int line;
    do {
        line = ~taken ? __builtin_ctz(~taken) : COUNTING_THREADS;
        if (line >= COUNTING_THREADS)
            return NULL;
    } while (!atomic_compare_exchange_weak(&lines, &taken, taken | UINT32_C(1) << line));
    if (thread_keeps(THREAD_COUNTS, give_back, &live.often[line]))
        stats_own = &live.often[line];
    else
        give_back(&live.often[line]);
    return stats_own;
}

/* ---- the sum ---- */

int zc_stats_get(zc_stats *stats)
{
    if (!stats || stats->size < sizeof stats->size)
        return fail(-EINVAL, "zc_stats_get: set stats->size to sizeof(zc_stats) first");
    zc_stats now = {.size = stats->size};
    struct counters sum;
    live_sum(&live, &sum);
#define X(name) now.name = sum.name;
    ZC_STATS(X)
#undef X
    void (*gather)(zc_stats *) = atomic_load(&stats_gather);
    gather(&now);
    memcpy(stats, &now, stats->size < sizeof now ? stats->size : sizeof now);
    return 0;
}
