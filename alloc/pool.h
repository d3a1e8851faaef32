/* SPDX-License-Identifier: MIT
 *
 * A pool: free slots of one size, in segments that are mapped as they are needed.
 *
 * Free slots are a Treiber stack whose head is the id of the first slot and a tag in one word, so that a slot
 * that was popped and pushed meanwhile is noticed. Entries are never unmapped, so reading the `next` of a slot
 * that somebody else just popped is harmless.
 *
 * `spare` counts free slots that nobody has a claim on. Whoever wants a slot claims one first (pool_claim),
 * which grows the pool if need be, and may take it much later (pool_pop), in a fault handler too: pushes come
 * before the count and claims before pops, so a claimed slot is always there. That is how protecting a buffer
 * reserves what its rename will need. The application's slots come and go by way of thread caches (alloc/cache.h). */
#ifndef ZC_ALLOC_POOL_H
#define ZC_ALLOC_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "alloc/segment.h"
#include "core/lock.h"
#include "zc.h"

struct cache;

struct zc_pool {
    size_t slot_size, stride;
    bool huge;
    bool hugetlb, hugetlb_only; /* the huge pages are reserved ones */
    bool debug;                 /* alloc/debug.h */
    bool open;
    enum zc_full full;
    enum zc_protect protect; /* never the default */
    size_t cap;              /* live slots */
    uint32_t unit;           /* pages that have one protection: 512 for hugetlb, else 1 */
    uint32_t index;          /* of its caches, in struct caches */
    uint32_t cache_most;     /* slots that a thread may keep (alloc/cache.h) */
    _Alignas(64) _Atomic uint64_t head;
    _Atomic long spare;
    _Atomic long idle;    /* the least that `spare` was since somebody set this, or about that */
    _Atomic size_t taken; /* slots that are live or in the caches of threads */
    _Atomic size_t peak;  /* of live slots */
    _Atomic uint64_t allocs, fallbacks, over_cap, renamed, refills;
    lock cache_lock;
    struct cache *caches;
    pthread_mutex_t growth; /* segments, carving, trimming */
    struct segment *segments;
    size_t slots;  /* in mapped segments */
    uint32_t bare; /* list of slots that could not be populated */
    char *scratch; /* a slot's worth of user addresses, for exchanging mappings */
    lock scratch_lock;
    /* For protect/: what protecting and copying slots of this size costs here. Zero at first. */
    _Alignas(64) unsigned char costs[256];
    struct zc_pool *next;
    /* Of a pool whose pages may move to others (alloc/reclaim.h). */
    struct zc_pool *next_lender;
    long idle_before;
};

/* Opens a pool. Takes over a closed one of the same layout, so that its addresses are used again. */
int pool_open(const zc_pool_options *options, struct zc_pool **out);

/* Makes up to n slots. How many were made, or -ENOMEM with a message. */
int pool_grow(struct zc_pool *pool, uint32_t n);

/* Claims a free slot, growing the pool if there is none. 0 or -ENOMEM with a message. */
int pool_claim(struct zc_pool *pool);

/* The same for up to n slots; returns how many, at least one. */
int pool_claim_many(struct zc_pool *pool, uint32_t n);

/* Claims one only if there is one. Signal-safe. */
bool pool_try_claim(struct zc_pool *pool);

/* Gives claims back. Signal-safe, as are: */
void pool_unclaim(struct zc_pool *pool);
void pool_unclaim_many(struct zc_pool *pool, uint32_t n);

/* Takes slots by as many claims. They are as their last users left them, contents, protection and history included. */
struct slot *pool_pop(struct zc_pool *pool);
void pool_pop_many(struct zc_pool *pool, uint32_t n, uint32_t ids[]);

/* Puts slots back, which nothing may hold any more. */
void pool_push(struct slot *slot);
void pool_push_many(struct zc_pool *pool, const uint32_t ids[], uint32_t n);

/* Keeps a popped slot that has lost its pages, for growth to find. Under `growth`. */
void pool_strip(struct zc_pool *pool, struct slot *slot);

/* Counts up to n more slots as taken. Returns how many; 0 at the cap, unless the pool grows past it. Attempts that are
 * refused are never counted, or another thread might be refused on their account. */
uint32_t pool_admit(struct zc_pool *pool, uint32_t n);
void pool_dismiss(struct zc_pool *pool, uint32_t n);

/* At its cap, and not to grow past it. */
static inline bool pool_full(struct zc_pool *pool)
{
    return pool->full != ZC_FULL_GROW && atomic_load(&pool->taken) >= pool->cap;
}

void pool_raise_peak(struct zc_pool *pool, size_t live);

/* Gives whole segments of which nothing is in use back to the system. 0 or -errno with a message; *released says how
 * many bytes of address space, on failure too. */
int pool_trim(struct zc_pool *pool, size_t *released);

/* Opens what of the pool's free slots is still protected, and gives them the pages that they had at first, where that
 * is possible among themselves: each that has others, or is protected in part, costs mappings. */
void pool_tidy(struct zc_pool *pool);
void pools_tidy(void);

static inline struct zc_pool *slot_pool(const struct slot *slot)
{
    return slot_segment(slot)->pool;
}

#endif
