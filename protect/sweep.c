/* SPDX-License-Identifier: MIT */
#include "protect/sweep.h"

#include "protect/maps.h"
#include "protect/pages.h"

static bool in_use(const struct slot *slot)
{
    return slot_is(slot, SLOT_LIVE) && !slot_is_private(slot); /* others are not protected, and change without a lock */
}

static bool settle_idle(struct segment *segment)
{
    for (uint32_t i = 0; i < segment->carved; i++) {
        struct slot *slot = segment_slot(segment, i);
        if (!in_use(slot))
            continue;
        struct backing *backing = slot_lock(slot);
        if (in_use(slot) && slot->maps > MAPS_SPLIT * slot_holds(slot, backing))
            slot_settle(slot, backing);
        slot_unlock(backing);
    }
    return true;
}

void sweep(void)
{
    segments_visit(settle_idle);
    pools_tidy();
}
