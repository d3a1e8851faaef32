/* SPDX-License-Identifier: MIT
 *
 * What renaming a slot needs, reserved while sends of it are in flight: a spare and mappings. All with the slot
 * locked. */
#ifndef ZC_PROTECT_RESERVE_H
#define ZC_PROTECT_RESERVE_H

#include "alloc/pool.h"
#include "protect/backend.h"
#include "protect/maps.h"

static inline void slot_unreserve(struct slot *slot)
{
    if (!slot->reserved)
        return;
    struct zc_pool *pool = slot_pool(slot);
    slot->reserved = false;
    maps_unclaim(backend_of(pool)->rename);
    pool_unclaim(pool);
}

/* A claimed spare, and mappings to go with it; or neither. */
static inline void slot_reserve_with(struct slot *slot, struct zc_pool *pool)
{
    slot->reserved = maps_claim(backend_of(pool)->rename);
    if (!slot->reserved)
        pool_unclaim(pool);
}

/* Reserves what renaming the slot needs, if it is there. */
static inline bool slot_reserve_now(struct slot *slot)
{
    struct zc_pool *pool = slot_pool(slot);
    if (!slot->reserved && pool_try_claim(pool))
        slot_reserve_with(slot, pool);
    return slot->reserved;
}

/* The same, if it can be had at all. Returns with the lock taken, perhaps anew. */
struct backing *slot_reserve(struct slot *slot, struct backing *backing);

#endif
