/* SPDX-License-Identifier: MIT */
#include "protect/reserve.h"

/* Claims a spare. Growing the pool for it may take long, and is done without the slot's lock: returns with it taken
 * again, and then everything about the slot may have changed. */
static struct backing *slot_claim(struct slot *slot, struct backing *backing, bool *claimed)
{
    struct zc_pool *pool = slot_pool(slot);
    *claimed = pool_try_claim(pool);
    if (*claimed)
        return backing;
    slot_unlock(backing);
    *claimed = pool_claim(pool) == 0;
    return slot_lock(slot);
}

struct backing *slot_reserve(struct slot *slot, struct backing *backing)
{
    bool claimed;
    if (slot->reserved)
        return backing;
    backing = slot_claim(slot, backing, &claimed);
    if (claimed && slot->reserved)
        pool_unclaim(slot_pool(slot));
    else if (claimed)
        slot_reserve_with(slot, slot_pool(slot));
    return backing;
}
