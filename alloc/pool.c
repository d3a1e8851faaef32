/* SPDX-License-Identifier: MIT */
#include "alloc/pool.h"

#include <stdlib.h>
#include <string.h>

#include "alloc/cache.h"
#include "alloc/debug.h"
#include "alloc/hooks.h"
#include "alloc/reclaim.h"
#include "core/error.h"
#include "core/options.h"
#include "core/stats.h"
#include "core/sys.h"
#include "core/trace.h"

enum {
    SEGMENT_MOST = 64 << 20, /* bytes, unless one slot is larger */
    CARVE_BYTES = 64 << 10 /* populated at once: at ~1 µs a KiB, no allocation waits for long, and little lies idle */
};

static pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER;
static struct zc_pool *pools;  /* open and closed; none is ever freed */
static uint64_t closed_allocs; /* of pools that were closed, all freed again */

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* ---- the free list ---- */

static uint64_t head_after(uint64_t head, uint32_t first)
{
    return ((head >> 32) + 1) << 32 | first;
}

/* As a chain, in one step. */
void pool_push_many(struct zc_pool *pool, const uint32_t ids[], uint32_t n)
{
    if (n == 0)
        return;
    for (uint32_t i = 1; i < n; i++)
        atomic_store_explicit(&slot_by_id(ids[i - 1])->next, ids[i], memory_order_relaxed);
    for (uint32_t i = 0; pool->debug && i < n; i++)
        debug_poison(slot_by_id(ids[i]));
    struct slot *last = slot_by_id(ids[n - 1]);
    uint64_t head = atomic_load_explicit(&pool->head, memory_order_relaxed);
    do
        atomic_store_explicit(&last->next, (uint32_t)head, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&pool->head, &head, head_after(head, ids[0]), memory_order_release,
                                                  memory_order_relaxed));
    atomic_fetch_add_explicit(&pool->spare, (long)n, memory_order_release);
}

/* While the head has not changed, no slot below it has been pushed or popped, and what was read of the chain is
 * true. Until then anything may be read, the end of the list included. */
void pool_pop_many(struct zc_pool *pool, uint32_t n, uint32_t ids[])
{
    uint64_t head = atomic_load_explicit(&pool->head, memory_order_acquire);
    uint32_t next;
    do {
        next = (uint32_t)head;
        for (uint32_t i = 0; i < n && next != NONE; i++) {
            ids[i] = next;
            next = atomic_load_explicit(&slot_by_id(next)->next, memory_order_relaxed);
        }
    } while (!atomic_compare_exchange_weak_explicit(&pool->head, &head, head_after(head, next), memory_order_acquire,
                                                    memory_order_acquire));
    for (uint32_t i = 0; pool->debug && i < n; i++)
        debug_check_poison(slot_by_id(ids[i]));
}

struct slot *pool_pop(struct zc_pool *pool)
{
    uint32_t id = NONE;
    pool_pop_many(pool, 1, &id);
    return slot_by_id(id);
}

void pool_push(struct slot *slot)
{
    uint32_t id = slot_id(slot);
    pool_push_many(slot_pool(slot), &id, 1);
}

static void note_idle(struct zc_pool *pool, long spare)
{
    if (spare < atomic_load_explicit(&pool->idle, memory_order_relaxed))
        atomic_store_explicit(&pool->idle, spare, memory_order_relaxed);
}

/* Takes up to n of what is spare, and says what that leaves. */
static inline uint32_t take_spare(struct zc_pool *pool, uint32_t n, long *left)
{
    long spare = atomic_load_explicit(&pool->spare, memory_order_relaxed), claimed;
    do {
        if (spare <= 0)
            return 0;
        claimed = spare < (long)n ? spare : (long)n;
        *left = spare - claimed;
    } while (!atomic_compare_exchange_weak_explicit(&pool->spare, &spare, *left, memory_order_acquire,
                                                    memory_order_relaxed));
    return (uint32_t)claimed;
}

static uint32_t try_claim(struct zc_pool *pool, uint32_t n)
{
    long left;
    uint32_t claimed = take_spare(pool, n, &left);
    if (claimed)
        note_idle(pool, left);
    return claimed;
}

/* What this leaves is noted when the claim ends: most such claims are reservations, and sends have no time for that. */
bool pool_try_claim(struct zc_pool *pool)
{
    long left;
    return take_spare(pool, 1, &left) == 1;
}

void pool_unclaim_many(struct zc_pool *pool, uint32_t n)
{
    if (n)
        note_idle(pool, atomic_fetch_add_explicit(&pool->spare, (long)n, memory_order_release));
}

void pool_unclaim(struct zc_pool *pool)
{
    pool_unclaim_many(pool, 1);
}

/* ---- growth ---- */

/* n: slots that are wanted now. NULL with *error. */
static struct segment *add_segment(struct zc_pool *pool, uint32_t n, int *error)
{
    struct segment *segment = pool->segments;
    while (segment && segment->mapped)
        segment = segment->next;
    if (!segment) {
        /* Twice what there is, so that large pools have few segments and small ones waste little; but reserved pages
         * are too few to take more than is asked for. */
        size_t bytes = pool->slots * pool->stride, most = pool->hugetlb ? n * pool->stride : SEGMENT_MOST;
        bytes = bytes > most ? most : bytes;
        size_t length = round_up(bytes > pool->stride ? bytes : pool->stride, HUGE_BYTES);
        segment = calloc(1, sizeof *segment);
        char *user = segment ? arena_take(length) : NULL;
        if (!user) {
            free(segment);
            *error = fail(-ENOMEM, "zc: no %zu bytes of reserved address space left for a segment", length);
            return NULL;
        }
        *segment = (struct segment){.pool = pool,
                                    .user = user,
                                    .length = length,
                                    .slot_size = pool->slot_size,
                                    .stride = pool->stride,
                                    .slots = (uint32_t)(length / pool->stride),
                                    .next = pool->segments};
        pool->segments = segment;
    }
    segment->huge = pool->huge;
    *error = segment_map(segment);
    if (*error)
        return NULL;
    pool->slots += segment->slots;
    return segment;
}

/* Finds up to n slots without pages: one whose pages could not be had before, or the next of a segment. Returns how
 * many; they follow *first. */
static int carve(struct zc_pool *pool, uint32_t n, struct slot **first)
{
    if (pool->bare != NONE) {
        *first = slot_by_id(pool->bare);
        pool->bare = atomic_load_explicit(&(*first)->next, memory_order_relaxed);
        slot_become((*first), SLOT_FREE);
        return 1;
    }
    struct segment *segment = pool->segments;
    while (segment && (!segment->mapped || segment->carved == segment->slots))
        segment = segment->next;
    int error;
    if (!segment && !(segment = add_segment(pool, n, &error)))
        return error;
    return (int)segment_carve(segment, n, first);
}

void pool_strip(struct zc_pool *pool, struct slot *slot)
{
    slot_become(slot, SLOT_BARE);
    atomic_store_explicit(&slot->next, pool->bare, memory_order_relaxed);
    pool->bare = slot_id(slot);
}

/* Only what others may see change is under the lock: threads that need slots at the same time find pages for them at
 * the same time. Slots that are carved and not yet in the list keep their segment from being trimmed. Returns how many
 * slots were made. */
static int grow(struct zc_pool *pool, uint32_t n)
{
    struct slot *first = NULL;
    pthread_mutex_lock(&pool->growth);
    int carved = carve(pool, n, &first);
    pthread_mutex_unlock(&pool->growth);
    if (carved < 0)
        return carved;
    struct segment *segment = slot_segment(first);
    uint32_t index = segment_index(segment, first);
    int populated = (int)segment_populate(segment, index, (uint32_t)carved);
    for (int i = populated - 1; i >= 0; i--) {
        struct slot *slot = segment_slot(segment, index + (uint32_t)i);
        if (pool->debug)
            debug_made(slot);
        pool_push(slot);
    }
    if (populated == carved)
        return carved;
    pthread_mutex_lock(&pool->growth);
    for (int i = carved - 1; i >= populated; i--)
        pool_strip(pool, segment_slot(segment, index + (uint32_t)i));
    pthread_mutex_unlock(&pool->growth);
    return populated ? populated
                     : fail(-ENOMEM, "zc: no memory for %zu more bytes of slots (or mappings: vm.max_map_count)",
                            pool->slot_size);
}

int pool_claim_many(struct zc_pool *pool, uint32_t n)
{
    uint32_t claimed;
    while (!(claimed = try_claim(pool, n))) {
        size_t batch = (pool->huge ? HUGE_BYTES : CARVE_BYTES) / pool->stride; /* small slots share huge pages */
        batch = batch ? batch : 1;
        reclaim(batch * pool->stride);
        int made = grow(pool, (uint32_t)batch);
        if (made < 0) {
            cache_drain(pool); /* threads may still keep some */
            claimed = try_claim(pool, n);
            return claimed ? (int)claimed : made;
        }
    }
    return (int)claimed;
}

int pool_claim(struct zc_pool *pool)
{
    int claimed = pool_claim_many(pool, 1);
    return claimed < 0 ? claimed : 0;
}

/* ---- counts ---- */

uint32_t pool_admit(struct zc_pool *pool, uint32_t n)
{
    size_t taken = atomic_load_explicit(&pool->taken, memory_order_relaxed), room, admitted;
    do {
        room = taken < pool->cap ? pool->cap - taken : 0;
        if (!room && pool->full != ZC_FULL_GROW)
            return 0;
        admitted = n < room ? n : room ? room : 1;
    } while (!atomic_compare_exchange_weak_explicit(&pool->taken, &taken, taken + admitted, memory_order_relaxed,
                                                    memory_order_relaxed));
    if (!room)
        atomic_fetch_add_explicit(&pool->over_cap, 1, memory_order_relaxed);
    return (uint32_t)admitted;
}

void pool_dismiss(struct zc_pool *pool, uint32_t n)
{
    atomic_fetch_sub_explicit(&pool->taken, n, memory_order_relaxed);
}

void pool_raise_peak(struct zc_pool *pool, size_t live)
{
    size_t peak = atomic_load_explicit(&pool->peak, memory_order_relaxed);
    while (live > peak &&
           !atomic_compare_exchange_weak_explicit(&pool->peak, &peak, live, memory_order_relaxed, memory_order_relaxed))
        ;
}

void pools_tidy(void)
{
    pthread_mutex_lock(&pools_lock);
    struct zc_pool *pool = pools;
    pthread_mutex_unlock(&pools_lock);
    for (; pool; pool = pool->next)
        pool_tidy(pool);
}

/* ---- the public calls ---- */

static int check(const zc_pool_options *options)
{
    if (options->slot_size == 0 || options->slot_size > arena.span / 4)
        return fail(-EINVAL, "zc_pool_open: slot_size %zu, expected 1..%zu", options->slot_size, arena.span / 4);
    if (options->cap == 0)
        return fail(-EINVAL, "zc_pool_open: cap 0, expected 1..ZC_UNLIMITED");
    if (options->initial > arena.span / 4 / options->slot_size)
        return fail(-ENOMEM, "zc_pool_open: %zu initial slots of %zu bytes, the most is %zu bytes in all",
                    options->initial, options->slot_size, arena.span / 4);
    if (!sys_has(options->initial * options->slot_size))
        return fail(-ENOMEM, "zc_pool_open: %zu initial slots of %zu bytes are more than this machine has memory for",
                    options->initial, options->slot_size);
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
        int made = grow(pool, left > INT32_MAX ? INT32_MAX : (uint32_t)left);
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

static int check_open(const struct zc_pool *pool, const char *call)
{
    if (!pool || !pool->open)
        return fail(-EINVAL, "%s: %s", call, pool ? "the pool is closed" : "pool is NULL");
    if (arena.forked)
        return fail(-EPERM, "%s: a forked child cannot use its parent's pool", call);
    return 0;
}

/* Counts what its slots are used for, one after the other, while others go on. */
static void look_at_slots(const struct segment *segment, zc_pool_stats *now)
{
    for (uint32_t i = 0; i < segment->carved; i++) {
        struct slot *slot = segment_slot(segment, i);
        struct backing *backing = slot_lock(slot);
        bool in_flight = backing->sends || slot->receives;
        now->in_flight += in_flight;
        now->idle_protected += !in_flight && slot_is(slot, SLOT_LIVE) && slot->guard_pages;
        now->waste += !in_flight && !slot_is(slot, SLOT_LIVE) && !slot_is(slot, SLOT_BARE);
        slot_unlock(backing);
    }
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
