/* SPDX-License-Identifier: MIT
 *
 * The pools of the process: how they are opened, counted and closed. */
#include <stdlib.h>
#include <string.h>

#include "alloc/cache.h"
#include "alloc/debug.h"
#include "alloc/hooks.h"
#include "alloc/pool.h"
#include "core/error.h"
#include "core/options.h"
#include "core/stats.h"
#include "core/sys.h"
#include "core/trace.h"

static pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER;
static struct zc_pool *pools;  /* open and closed; none is ever freed */
static uint64_t closed_allocs; /* of pools that were closed, all freed again */

void pools_tidy(void)
{
    pthread_mutex_lock(&pools_lock);
    struct zc_pool *pool = pools;
    pthread_mutex_unlock(&pools_lock);
    for (; pool; pool = pool->next)
        pool_tidy(pool);
}

/* ---- statistics ---- */

/* Slots with the application: those taken that no cache has. Other threads may go on meanwhile. */
static size_t live_beside(struct zc_pool *pool, const struct cached *cached)
{
    size_t taken = atomic_load(&pool->taken);
    return taken > cached->slots ? taken - cached->slots : 0;
}

static void gather(zc_stats *stats)
{
    if (arena.forked)
        return;
    pthread_mutex_lock(&pools_lock);
    stats->allocs = stats->frees = closed_allocs;
    for (struct zc_pool *pool = pools; pool; pool = pool->next) {
        if (!pool->open)
            continue;
        struct cached cached = cache_count(pool);
        uint64_t allocs = atomic_load(&pool->allocs) + cached.allocs;
        size_t count = live_beside(pool, &cached); /* perhaps with some that are not among `allocs` yet */
        stats->allocs += allocs;
        stats->frees += allocs > count ? allocs - count : 0;
    }
    pthread_mutex_unlock(&pools_lock);
}

/* Counts what its slots are used for, one after the other, while others go on. */
static void look_at_slots(const struct segment *segment, zc_pool_stats *now)
{
    for (uint32_t i = 0; i < segment->carved; i++) {
        struct slot *slot = segment_slot(segment, i);
        struct backing *backing = slot_lock(slot);
        bool in_flight = backing->sends || slot->receives;
        now->in_flight += in_flight;
        now->idle_protected += !in_flight && slot_is(slot, SLOT_LIVE) && slot->protected_pages;
        now->waste += !in_flight && !slot_is(slot, SLOT_LIVE) && !slot_is(slot, SLOT_BARE);
        slot_unlock(backing);
    }
}

static int check_open(const struct zc_pool *pool, const char *call)
{
    if (!pool || !pool->open)
        return fail(-EINVAL, "%s: %s", call, pool ? "the pool is closed" : "pool is NULL");
    if (arena.forked)
        return fail(-EPERM, "%s: a forked child cannot use its parent's pool", call);
    return 0;
}

int zc_pool_stats_get(zc_pool *pool, zc_pool_stats *stats)
{
    int error = check_open(pool, "zc_pool_stats_get");
    if (error)
        return error;
    if (!stats || stats->size < sizeof stats->size)
        return fail(-EINVAL, "zc_pool_stats_get: set stats->size to sizeof(zc_pool_stats) first");
    struct cached cached = cache_count(pool);
    size_t live = live_beside(pool, &cached), peak = atomic_load(&pool->peak);
    zc_pool_stats now = {.size = stats->size,
                         .slot_size = pool->slot_size,
                         .live = live,
                         .peak = live + cached.slack > peak ? live + cached.slack : peak,
                         .cap = pool->cap,
                         .allocs = atomic_load(&pool->allocs) + cached.allocs,
                         .fallbacks = atomic_load(&pool->fallbacks),
                         .over_cap = atomic_load(&pool->over_cap),
                         .cached = cached.slots,
                         .renamed = atomic_load(&pool->renamed),
                         .refills = atomic_load(&pool->refills)};
    pthread_mutex_lock(&pool->growth);
    for (struct segment *segment = pool->segments; segment; segment = segment->next) {
        now.segments += segment->mapped;
        now.hugetlb_missed += segment->mapped && pool->hugetlb && !segment->hugetlb;
        now.slots += segment->carved;
        look_at_slots(segment, &now);
    }
    for (uint32_t id = pool->bare; id != NONE; id = atomic_load(&slot_by_id(id)->next))
        now.slots--;
    pthread_mutex_unlock(&pool->growth);
    memcpy(stats, &now, stats->size < sizeof now ? stats->size : sizeof now);
    return 0;
}

/* ---- opening ---- */

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int check(const zc_pool_options *options)
{
    if (options->slot_size == 0 || options->slot_size > arena.span / 4)
        return fail(-EINVAL, "zc_pool_open: slot_size %zu, expected 1..%zu", options->slot_size, arena.span / 4);
    if (options->cap == 0)
        return fail(-EINVAL, "zc_pool_open: cap 0, expected 1..ZC_UNLIMITED");
    if (options->initial > options->cap)
        return fail(-EINVAL, "zc_pool_open: %zu initial slots are more than the cap of %zu", options->initial,
                    options->cap);
    if ((unsigned)options->huge > ZC_HUGE_HUGETLB_ONLY)
        return fail(-EINVAL, "zc_pool_open: huge %d, expected one of enum zc_huge", (int)options->huge);
    if ((unsigned)options->full > ZC_FULL_FAIL)
        return fail(-EINVAL, "zc_pool_open: full %d, expected one of enum zc_full", (int)options->full);
    if ((unsigned)options->protect > ZC_PROTECT_USERFAULTFD)
        return fail(-EINVAL, "zc_pool_open: protect %d, expected one of enum zc_protect", (int)options->protect);
    return 0;
}

/* What its addresses and mappings depend on. */
struct layout {
    size_t slot_size, stride;
    bool huge, hugetlb, debug;
};

static struct layout layout_of(const zc_pool_options *options, const struct options *defaults)
{
    enum zc_huge huge = options->huge ? options->huge : defaults->huge;
    /* Guard pages are smaller than hugetlb pages; pages are mapped again by a descriptor. */
    bool hugetlb = huge >= ZC_HUGE_HUGETLB && !defaults->debug && !segment_hidden();
    struct layout layout = {.slot_size = round_up(options->slot_size, hugetlb ? HUGE_BYTES : PAGE_BYTES),
                            .hugetlb = hugetlb,
                            .debug = defaults->debug};
    bool large = layout.slot_size >= HUGE_BYTES;
    layout.huge = huge >= ZC_HUGE_ALWAYS || (huge == ZC_HUGE_AUTO && large);
    layout.stride = layout.slot_size + (layout.debug ? debug_gap(layout.slot_size) : 0);
    if (layout.huge && large)
        layout.stride = round_up(layout.stride, HUGE_BYTES);
    return layout;
}

/* Is there room for the slots made at once, as they are laid out? */
static int check_initial(const zc_pool_options *options, const struct layout *layout)
{
    if (options->initial > arena.span / 4 / layout->stride)
        return fail(-ENOMEM, "zc_pool_open: %zu initial slots of %zu bytes, the most is %zu bytes in all",
                    options->initial, layout->stride, arena.span / 4);
    if (!sys_has(options->initial * layout->slot_size))
        return fail(-ENOMEM, "zc_pool_open: %zu initial slots of %zu bytes are more than this machine has memory for",
                    options->initial, layout->slot_size);
    return 0;
}

static bool has_layout(const struct zc_pool *pool, const struct layout *layout)
{
    return pool->slot_size == layout->slot_size && pool->stride == layout->stride && pool->huge == layout->huge &&
           pool->hugetlb == layout->hugetlb;
}

/* A closed one with the layout, or a new one. */
static struct zc_pool *pool_new(const struct layout *layout)
{
    struct zc_pool *pool = pools;
    while (pool && (pool->open || !has_layout(pool, layout)))
        pool = pool->next;
    if (pool)
        return pool;
    atomic_store(&stats_gather, gather);
    pool = aligned_alloc(64, round_up(sizeof *pool, 64));
    char *scratch = pool ? arena_take(layout->stride) : NULL;
    if (!scratch) {
        free(pool);
        return fail_null(-ENOMEM, "zc_pool_open: no memory for a pool of %zu-byte slots", layout->slot_size);
    }
    memset(pool, 0, sizeof *pool);
    pool->index = !pools ? 1 : pools->index && pools->index < CACHE_POOLS ? pools->index + 1 : 0;
    size_t most = CACHE_BYTES / layout->slot_size;
    pool->cache_most = layout->debug ? 0 : most < CACHE_SLOTS ? (uint32_t)most : CACHE_SLOTS;
    pool->bare = NONE;
    pool->slot_size = layout->slot_size;
    pool->stride = layout->stride;
    pool->huge = layout->huge;
    pool->hugetlb = layout->hugetlb;
    pool->unit = layout->hugetlb ? HUGE_BYTES / PAGE_BYTES : 1;
    pool->debug = layout->debug;
    pool->scratch = scratch;
    pthread_mutex_init(&pool->growth, NULL);
    pool->next = pools;
    pools = pool;
    atomic_store(&live.pools, pool);
    return pool;
}

int pool_open(const zc_pool_options *options, struct zc_pool **out)
{
    const struct options *defaults;
    int error = arena_open();
    if (!error)
        error = options_get(&defaults);
    if (!error)
        error = trace_open(defaults->trace);
    if (!error)
        error = check(options);
    if (error)
        return error;
    struct layout layout = layout_of(options, defaults);
    error = check_initial(options, &layout);
    if (error)
        return error;

    pthread_mutex_lock(&pools_lock);
    struct zc_pool *pool = pool_new(&layout);
    if (pool) {
        pool->open = true;
        pool->hugetlb_only = pool->hugetlb && options->huge == ZC_HUGE_HUGETLB_ONLY;
        pool->cap = options->cap;
        pool->full = options->full ? options->full : defaults->full;
        atomic_store(&pool->head, NONE);
        atomic_store(&pool->spare, 0);
        atomic_store(&pool->peak, 0);
        atomic_store(&pool->allocs, 0);
        atomic_store(&pool->fallbacks, 0);
        atomic_store(&pool->over_cap, 0);
        atomic_store(&pool->renamed, 0);
        atomic_store(&pool->refills, 0);
    }
    pthread_mutex_unlock(&pools_lock);
    if (!pool)
        return -ENOMEM;

    error = pool_hooks()->choose(pool, options->protect);
    for (size_t ready = 0; ready < options->initial && !error;) {
        size_t left = options->initial - ready;
        int made = pool_grow(pool, left > INT32_MAX ? INT32_MAX : (uint32_t)left);
        error = made < 0 ? made : 0;
        ready += made > 0 ? (size_t)made : 0;
    }
    if (error) {
        size_t released;
        pool_trim(pool, &released);
        pthread_mutex_lock(&pools_lock);
        pool->open = false;
        pthread_mutex_unlock(&pools_lock);
        return error;
    }
    *out = pool;
    return 0;
}

/* ---- closing ---- */

int zc_pool_trim(zc_pool *pool, size_t *released)
{
    size_t bytes = 0;
    int error = check_open(pool, "zc_pool_trim");
    if (error)
        return error;
    error = pool_trim(pool, &bytes);
    if (released)
        *released = bytes;
    return error;
}

int zc_pool_close(zc_pool *pool)
{
    if (!pool)
        return 0;
    int error = check_open(pool, "zc_pool_close");
    if (error)
        return error;
    size_t released;
    cache_drain(pool);
    size_t live = atomic_load(&pool->taken);
    if (live)
        return fail(-EBUSY, "zc_pool_close: %zu slots are still live", live);
    error = pool_trim(pool, &released);
    if (error)
        return error;
    if (pool->slots)
        return fail(-EBUSY, "zc_pool_close: slots are still in flight");
    pthread_mutex_lock(&pools_lock);
    closed_allocs += atomic_load(&pool->allocs);
    pool->open = false;
    pthread_mutex_unlock(&pools_lock);
    return 0;
}
