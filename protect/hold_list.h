/* SPDX-License-Identifier: MIT
 *
 * Holds in the lists of a backing or a slot, as hold.c and hold_receive.c keep them. All with the slot locked, but for
 * holds_drop. */
#ifndef ZC_PROTECT_HOLD_LIST_H
#define ZC_PROTECT_HOLD_LIST_H

#include "protect/hold.h"

static inline void hold_insert(struct hold **at, struct hold *hold)
{
    hold->next = *at;
    hold->link = at;
    if (hold->next)
        hold->next->link = &hold->next;
    *at = hold;
}

static inline void hold_unlink(struct hold *hold)
{
    *hold->link = hold->next;
    if (hold->next)
        hold->next->link = hold->link;
}

/* Over, and of interest to the program alone, which may or may not ask about it. One without a name belongs to a call
 * that has not returned yet. */
static inline bool hold_droppable(const struct hold *receive)
{
    return receive->landed && receive->named;
}

/* Tells the owners of dropped receives. Without locks. */
static inline void holds_drop(struct hold *dropped)
{
    while (dropped) {
        struct hold *next = dropped->next;
        dropped->rules->dropped(dropped);
        dropped = next;
    }
}

/* The slot's last operation may have ended. True if it is to be pushed, after the lock is dropped. */
static inline bool slot_over(struct slot *slot, const struct backing *backing)
{
    return slot_is(slot, SLOT_FREE) && !backing->sends && !slot->receives;
}

#endif
