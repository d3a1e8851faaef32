/* SPDX-License-Identifier: MIT */
#include "protect/reserve.h"

/* Growing the pool for a spare may take long, and is done without the slot's lock: then everything about the slot may
 * have changed. */
struct backing *slot_reserve(struct slot *slot, struct backing *backing)
{
    if (slot->reserved)
        return backing;
    struct zc_pool *pool = slot_pool(slot);
    bool claimed = pool_try_claim(pool);
    if (!claimed) {
        slot_unlock(backing);
        claimed = pool_claim(pool) == 0;
        backing = slot_lock(slot);
    }
    if (claimed && slot->reserved)
        pool_unclaim(pool);
    else if (claimed)
        slot_reserve_with(slot, pool);
    return backing;
}
