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
 * reserves what its rename will need. */
#ifndef ZC_ALLOC_POOL_H
#define ZC_ALLOC_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "alloc/segment.h"
#include "core/lock.h"
#include "zc.h"

struct zc_pool {
    size_t slot_size, stride;
    bool huge;
    bool open;
    enum zc_full full;
    size_t cap; /* live slots */
    _Alignas(64) _Atomic uint64_t head;
    _Atomic long spare;
    _Atomic size_t live, peak;
    _Atomic uint64_t allocs, fallbacks, over_cap;
    pthread_mutex_t growth; /* segments, carving, trimming */
    struct segment *segments;
    size_t slots;  /* in mapped segments */
    char *scratch; /* a slot's worth of user addresses, for exchanging mappings */
    lock scratch_lock;
    /* For protect/: what protecting and copying slots of this size costs here. Zero at first. */
    _Alignas(64) unsigned char costs[64];
    struct zc_pool *next;
};

/* Opens a pool. Takes over a closed one of the same layout, so that its addresses are used again. */
int pool_open(const zc_pool_options *options, struct zc_pool **out);

/* Claims a free slot, growing the pool if there is none. 0 or -ENOMEM with a message. */
int pool_claim(struct zc_pool *pool);

/* Claims one only if there is one. Signal-safe. */
bool pool_try_claim(struct zc_pool *pool);

/* Gives a claim back. Signal-safe, as are: */
void pool_unclaim(struct zc_pool *pool);

/* Takes a slot by a claim. It is as its last user left it, contents, protection and history included. */
struct slot *pool_pop(struct zc_pool *pool);

/* Puts a slot back, which nothing may hold any more. */
void pool_push(struct slot *slot);

/* Counts one more live slot. False at the cap (nothing is counted) unless the pool grows past it. */
bool pool_admit(struct zc_pool *pool);
void pool_dismiss(struct zc_pool *pool);

/* Protection uses up mappings, of which protect/ keeps the account. A trim that makes a slot anew calls this with
 * what the slot uses no more (sign -1) and with what it uses then (+1). */
extern void (*_Atomic pool_account)(struct slot *slot, int sign);

static inline struct zc_pool *slot_pool(const struct slot *slot)
{
    return slot_segment(slot)->pool;
}

#endif
