/* SPDX-License-Identifier: MIT
 *
 * Thread caches: the application's slots, taken and given back without a lock or an atomic operation.
 *
 * A thread keeps up to CACHE_SLOTS free slots of each pool, and at most CACHE_BYTES of them: it refills from the
 * pool, and gives back to it, in batches. One that only frees has little use for them, and keeps an eighth of that, a
 * pair of larger ones and none of the largest. A slot goes into the cache of the thread that frees it, whoever took it.
 * Slots in caches are *taken* from the pool like live ones; claims are on slots in the pool alone, so that a claimed
 * slot is there whatever threads keep.
 *
 * A cache is its thread's, which says with plain stores that it is inside (`busy`), then looks whether it may be
 * (`closed`). Somebody else who needs what caches hold, for a trim or at a pool's cap, pays for both: it closes the
 * caches and calls membarrier(2), after which each thread has either made `busy` visible or will see `closed`; then
 * it waits until nobody is inside. That is never long: no system call is made there. Without membarrier, no thread
 * has a cache. */
#ifndef ZC_ALLOC_CACHE_H
#define ZC_ALLOC_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "alloc/pool.h"

enum {
    CACHE_SLOTS = 64,
    CACHE_BYTES = 256 << 10,
    CACHE_POOLS = 256 /* the first that a process opens, with indices from 1 on; others have 0 and go without */
};

struct cache {
    _Alignas(64) struct zc_pool *pool;
    uint32_t most; /* slots that it may hold; fewer while its thread only frees */
    _Atomic bool busy, closed;
    _Atomic uint32_t count;     /* slots in it */
    _Atomic uint32_t least;     /* that there were since the pool's peak was looked at */
    _Atomic uint64_t allocs;    /* not counted in the pool yet */
    struct cache *next, **link; /* of the pool; under its cache_lock */
    uint32_t ids[CACHE_SLOTS];
};

/* The caches of a thread, by zc_pool.index; the first is always NULL. */
struct caches {
    struct cache *of[CACHE_POOLS + 1];
};

/* Without a cache until the thread first misses one; never NULL. */
extern _Thread_local struct caches *thread_caches __attribute__((tls_model("initial-exec")));

/* Takes a slot for the application and refills the thread's cache, after cache_pop found none. 0; 1: the pool is at
 * its cap and does not grow past it; or -errno with a message. Not signal-safe, as the following. */
int cache_refill(struct zc_pool *pool, struct slot **slot);

/* The part of cache_give where there is no room. */
void cache_overflow(struct slot *slot);

/* A slot of the application's is taken no more, without coming into a cache. */
void cache_dismiss(struct zc_pool *pool);

/* Puts what all threads keep of the pool back into it. */
void cache_drain(struct zc_pool *pool);

/* Slots in caches and what they have not told the pool yet, as seen while their threads go on. */
struct cached {
    size_t slots;
    size_t slack; /* how much higher than now the count of live slots may have been */
    uint64_t allocs;
};

struct cached cache_count(struct zc_pool *pool);

/* ---- the fast path ---- */

static inline uint32_t cache_size(const struct cache *cache)
{
    return atomic_load_explicit(&cache->count, memory_order_relaxed);
}

static inline void cache_resize(struct cache *cache, uint32_t count)
{
    atomic_store_explicit(&cache->count, count, memory_order_relaxed);
}

/* Where there is room. */
static inline void cache_put(struct cache *cache, struct slot *slot)
{
    uint32_t count = cache_size(cache);
    cache->ids[count] = slot_id(slot);
    cache_resize(cache, count + 1);
}

/* The thread's cache with a pool's index, entered; NULL if it has none or must not. */
static inline struct cache *cache_enter(uint32_t index)
{
    struct cache *cache = thread_caches->of[index];
    if (!cache)
        return NULL;
    atomic_store_explicit(&cache->busy, true, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst); /* membarrier makes it a real one when it matters */
    if (!atomic_load_explicit(&cache->closed, memory_order_acquire))
        return cache;
    atomic_store_explicit(&cache->busy, false, memory_order_release);
    return NULL;
}

static inline void cache_leave(struct cache *cache)
{
    atomic_store_explicit(&cache->busy, false, memory_order_release);
}

/* A slot of the thread's cache of the pool with this index; NULL if there is none. */
static inline struct slot *cache_pop(uint32_t index)
{
    struct cache *cache = cache_enter(index);
    struct slot *slot = NULL;
    if (!cache)
        return NULL;
    uint32_t count = cache_size(cache);
    if (count--) {
        slot = slot_by_id(cache->ids[count]);
        cache_resize(cache, count);
        if (count < atomic_load_explicit(&cache->least, memory_order_relaxed))
            atomic_store_explicit(&cache->least, count, memory_order_relaxed);
        uint64_t allocs = atomic_load_explicit(&cache->allocs, memory_order_relaxed);
        atomic_store_explicit(&cache->allocs, allocs + 1, memory_order_relaxed);
    }
    cache_leave(cache);
    return slot;
}

/* Takes back a slot of the application, which nothing holds any more. Finding the pool by the slot's address would
 * take twice as long as the rest. */
static inline void cache_give(struct slot *slot)
{
    struct cache *cache = cache_enter(slot_home(slot)->cache);
    bool room = cache && cache_size(cache) < cache->most;
    if (room)
        cache_put(cache, slot);
    if (cache)
        cache_leave(cache);
    if (!room)
        cache_overflow(slot);
}

#endif
