/* SPDX-License-Identifier: MIT */
#include "core/stats.h"

#include <errno.h>
#include <string.h>

#include "core/error.h"

static void nothing(zc_stats *stats)
{
    (void)stats;
}

void (*_Atomic stats_gather)(zc_stats *stats) = nothing;

int zc_stats_get(zc_stats *stats)
{
    if (!stats || stats->size < sizeof stats->size)
        return fail(-EINVAL, "zc_stats_get: set stats->size to sizeof(zc_stats) first");
    zc_stats now = {.size = stats->size};
#define X(name) now.name = atomic_load_explicit(&live.counters.name, memory_order_relaxed);
    ZC_STATS(X)
#undef X
    void (*gather)(zc_stats *) = atomic_load(&stats_gather);
    gather(&now);
    memcpy(stats, &now, stats->size < sizeof now ? stats->size : sizeof now);
    return 0;
}
