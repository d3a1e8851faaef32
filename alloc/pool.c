/* SPDX-License-Identifier: MIT */
#include "alloc/pool.h"

#include <stdlib.h>

#include "alloc/cache.h"
#include "alloc/debug.h"
#include "alloc/hooks.h"
#include "alloc/reclaim.h"
#include "core/error.h"
#include "core/sys.h"

enum {
    SEGMENT_MOST = 64 << 20, /* bytes, unless one slot is larger */
    CARVE_BYTES = 64 << 10 /* populated at once: at ~1 µs a KiB, no allocation waits for long, and little lies idle */
};

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
        size_t length = round_to_huge(bytes > pool->stride ? bytes : pool->stride);
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
 * the same time. Slots that are carved and not yet in the list keep their segment from being trimmed. */
int pool_grow(struct zc_pool *pool, uint32_t n)
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
        int made = pool_grow(pool, (uint32_t)batch);
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
