/* SPDX-License-Identifier: MIT
 *
 * Pools, as many tests open and look at them. */
#ifndef TESTS_POOLS_H
#define TESTS_POOLS_H

#include "alloc/pool.h"
#include "check.h"

static inline zc_pool_options small_slots(size_t slot_size)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = slot_size;
    options.huge = ZC_HUGE_NEVER;
    options.full = ZC_FULL_GROW;
    return options;
}

static inline zc_pool *open_with(const zc_pool_options *options)
{
    zc_pool *pool = NULL;
    CHECK_OK(zc_pool_open(options, &pool));
    CHECK(pool);
    return pool;
}

static inline zc_pool *open_small(size_t slot_size)
{
    zc_pool_options options = small_slots(slot_size);
    return open_with(&options);
}

static inline zc_pool_stats stats_of(zc_pool *pool)
{
    zc_pool_stats stats = {.size = sizeof stats};
    CHECK_OK(zc_pool_stats_get(pool, &stats));
    return stats;
}

static inline char *alloc_in(zc_pool *pool)
{
    char *p = zc_pool_alloc(pool);
    CHECKF(p, "%s", zc_errmsg());
    return p;
}

#endif
