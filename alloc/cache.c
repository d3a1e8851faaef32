/* SPDX-License-Identifier: MIT */
#include "alloc/cache.h"

#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/thread.h"

/* Of a thread that has not missed a cache yet, and of one that may have none: its destructors run, or it is in a forked
 * child. */
static struct caches fresh, without;

_Thread_local struct caches *thread_caches __attribute__((tls_model("initial-exec"))) = &fresh;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool possible; /* membarrier is there */

/* ---- threads come and go ---- */

/* Of slots so large that it may keep fewer than this many, a thread takes one at a time; it still keeps what it frees,
 * to take it again. */
enum { BATCHED_LEAST = 4 };

static uint32_t batch(const struct zc_pool *pool)
{
    return pool->cache_most < BATCHED_LEAST ? 1 : pool->cache_most < 8 ? 2 : pool->cache_most / 4;
}

/* What a thread keeps that only frees, to give it back together: an eighth, but two where that is less. */
static uint32_t few(const struct zc_pool *pool)
{
    uint32_t eighth = pool->cache_most / 8;
    return pool->cache_most < BATCHED_LEAST ? 0 : eighth < 2 ? 2 : eighth;
}

/* Adds what the cache has counted to the pool's, and starts it anew. */
static void tell_allocs(struct cache *cache, uint64_t anew)
{
    uint64_t allocs = atomic_load_explicit(&cache->allocs, memory_order_relaxed);
    if (allocs)
        atomic_fetch_add(&cache->pool->allocs, allocs);
    atomic_store_explicit(&cache->allocs, anew, memory_order_relaxed);
}

/* What was live at most: all that is taken but for the least that was in the cache, if there is one, which this thread
 * is inside, or which is closed. */
static void note_peak(struct zc_pool *pool, const struct cache *cache)
{
    uint32_t least = cache ? atomic_load_explicit(&cache->least, memory_order_relaxed) : 0;
    pool_raise_peak(pool, atomic_load(&pool->taken) - least);
}

/* Gives the pool the oldest n slots of a cache that this thread is inside, or that is closed. */
static void flush(struct cache *cache, uint32_t n)
{
    struct zc_pool *pool = cache->pool;
    uint32_t left = cache_size(cache) - n;
    note_peak(pool, cache);
    pool_push_many(pool, cache->ids, n);
    pool_dismiss(pool, n);
    memmove(cache->ids, cache->ids + n, left * sizeof cache->ids[0]);
    cache_resize(cache, left);
    atomic_store_explicit(&cache->least, left, memory_order_relaxed);
    tell_allocs(cache, 0);
}

static void thread_ends(void *argument)
{
    struct caches *caches = argument;
    thread_caches = &without; /* destructors that run later may allocate */
    if (arena.forked)
        return;
    for (int i = 1; i <= CACHE_POOLS; i++) {
        struct cache *cache = caches->of[i];
        if (!cache)
            continue;
        struct zc_pool *pool = cache->pool;
        lock_take(&pool->cache_lock); /* nobody is draining it meanwhile */
        *cache->link = cache->next;
        if (cache->next)
            cache->next->link = cache->link;
        flush(cache, cache_size(cache));
        lock_drop(&pool->cache_lock);
        free(cache);
    }
    free(caches);
}

static void child_starts(void)
{
    thread_caches = &without;
}

static void prepare(void)
{
    long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    possible = commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED) && (commands & MEMBARRIER_CMD_GLOBAL) &&
               pthread_atfork(NULL, NULL, child_starts) == 0;
}

/* The thread's cache, which is made if need be; NULL if it goes without. */
static struct cache *cache_of(struct zc_pool *pool)
{
    if (pool->cache_most == 0 || pool->index == 0 || thread_caches == &without)
        return NULL;
    if (thread_caches == &fresh) {
        thread_once(&once, prepare);
        struct caches *caches = possible ? calloc(1, sizeof *caches) : NULL;
        if (!caches || !thread_keeps(THREAD_CACHES, thread_ends, caches)) {
            free(caches);
            return NULL;
        }
        thread_caches = caches;
    }
    struct cache **mine = &thread_caches->of[pool->index];
    struct cache *cache = *mine ? *mine : aligned_alloc(64, sizeof *cache);
    if (!cache || *mine)
        return cache;
    memset(cache, 0, sizeof *cache);
    cache->pool = pool;
    cache->most = few(pool);
    lock_take(&pool->cache_lock);
    cache->next = pool->caches;
    cache->link = &pool->caches;
    if (cache->next)
        cache->next->link = &cache->next;
    pool->caches = cache;
    lock_drop(&pool->cache_lock);
    *mine = cache;
    return cache;
}

/* ---- what other threads keep ---- */

/* The process registers for the quick kind when it first needs a barrier, not when it starts: with several threads,
 * that takes the kernel milliseconds. The slow kind needs no registration. */
static void barrier(void)
{
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0)
        return;
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
        syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}

/* Closes the pool's caches, and returns when nobody is inside. Under its cache_lock. */
static void close_all(struct zc_pool *pool)
{
    struct cache *mine = thread_caches->of[pool->index];
    bool others = false;
    for (struct cache *cache = pool->caches; cache; cache = cache->next) {
        atomic_store_explicit(&cache->closed, true, memory_order_relaxed);
        others |= cache != mine;
    }
    if (others)
        barrier();
    for (struct cache *cache = pool->caches; cache; cache = cache->next)
        for (int spins = 0; atomic_load_explicit(&cache->busy, memory_order_acquire); spins++) {
            cpu_relax();
            if (spins > 100) /* it lost its processor there */
                sched_yield();
        }
}

static void open_all(struct zc_pool *pool)
{
    for (struct cache *cache = pool->caches; cache; cache = cache->next)
        atomic_store_explicit(&cache->closed, false, memory_order_release);
}

void cache_drain(struct zc_pool *pool)
{
    lock_take(&pool->cache_lock);
    close_all(pool);
    for (struct cache *cache = pool->caches; cache; cache = cache->next)
        flush(cache, cache_size(cache));
    open_all(pool);
    lock_drop(&pool->cache_lock);
}

/* At the pool's cap: one slot that some thread keeps, all others go back to the pool. NULL if there is none; *full is
 * then whether all that the pool may hand out is live. Nobody is refused on account of slots in caches. */
static struct slot *steal(struct zc_pool *pool, bool *full)
{
    struct slot *slot = NULL;
    lock_take(&pool->cache_lock);
    close_all(pool);
    for (struct cache *cache = pool->caches; cache; cache = cache->next) {
        uint32_t count = cache_size(cache);
        if (count && !slot) {
            slot = slot_by_id(cache->ids[--count]);
            cache_resize(cache, count);
            atomic_fetch_add(&pool->allocs, 1);
        }
        flush(cache, count);
    }
    *full = !slot && pool_full(pool);
    open_all(pool);
    lock_drop(&pool->cache_lock);
    return slot;
}

struct cached cache_count(struct zc_pool *pool)
{
    struct cached sum = {0};
    lock_take(&pool->cache_lock);
    for (struct cache *cache = pool->caches; cache; cache = cache->next) {
        uint32_t count = cache_size(cache);
        uint32_t least = atomic_load_explicit(&cache->least, memory_order_relaxed);
        sum.slots += count;
        sum.allocs += atomic_load_explicit(&cache->allocs, memory_order_relaxed);
        sum.slack += count > least ? count - least : 0;
    }
    lock_drop(&pool->cache_lock);
    return sum;
}

/* ---- batches ---- */

/* Turns up to n claims into taken slots: one for the caller, the others for its cache. Returns how many; 0 at the
 * pool's cap. What is on its way into the cache is inside it, where steal() waits for it. */
static uint32_t refill(struct zc_pool *pool, uint32_t n, struct slot **slot)
{
    uint32_t ids[CACHE_SLOTS];
    struct cache *cache = cache_enter(pool->index);
    n = pool_admit(pool, cache ? n : 1);
    if (n) {
        pool_pop_many(pool, n, ids);
        pool_raise_peak(pool, atomic_load(&pool->taken) - (n - 1));
        if (cache)
            tell_allocs(cache, 1); /* as if the caller's came from it: its thread does not only free */
        else
            atomic_fetch_add(&pool->allocs, 1);
        *slot = slot_by_id(ids[0]);
    }
    if (n && cache) {
        cache->most = pool->cache_most;
        for (uint32_t i = 1; i < n; i++) /* the first of the pool's list will be the first of this */
            cache->ids[n - 1 - i] = ids[i];
        cache_resize(cache, n - 1);
        atomic_store_explicit(&cache->least, n - 1, memory_order_relaxed);
    }
    if (cache)
        cache_leave(cache);
    return n;
}

int cache_refill(struct zc_pool *pool, struct slot **slot)
{
    uint32_t most = cache_of(pool) ? batch(pool) : 1, got;
    atomic_fetch_add_explicit(&pool->refills, 1, memory_order_relaxed);
    do {
        if (pool_full(pool)) {
            bool full;
            struct slot *kept = steal(pool, &full);
            if (kept)
                *slot = kept;
            if (kept || full)
                return kept ? 0 : 1;
        }
        int claimed = pool_claim_many(pool, most);
        if (claimed < 0)
            return claimed;
        got = refill(pool, (uint32_t)claimed, slot);
        pool_unclaim_many(pool, (uint32_t)claimed - got);
    } while (!got);
    return 0;
}

/* Room for one more slot in a cache that this thread is inside. False if it is to keep none. */
static bool make_room(struct cache *cache)
{
    uint32_t count = cache_size(cache);
    if (count >= cache->most) {
        /* Nothing was taken from it since the last time. */
        bool frees = atomic_load_explicit(&cache->allocs, memory_order_relaxed) == 0;
        cache->most = frees ? few(cache->pool) : cache->pool->cache_most;
        if (count)
            flush(cache, frees ? count : (count + 1) / 2);
    }
    return cache->most > 0;
}

void cache_overflow(struct slot *slot)
{
    struct zc_pool *pool = slot_pool(slot);
    struct cache *cache = cache_of(pool) ? cache_enter(pool->index) : NULL;
    bool room = cache && make_room(cache); /* if it has one, and nobody empties it */
    if (room)
        cache_put(cache, slot);
    if (cache)
        cache_leave(cache);
    if (!room) {
        pool_push(slot);
        cache_dismiss(pool);
    }
}

void cache_dismiss(struct zc_pool *pool)
{
    struct cache *cache = cache_enter(pool->index);
    note_peak(pool, cache);
    if (cache)
        cache_leave(cache);
    pool_dismiss(pool, 1);
}
