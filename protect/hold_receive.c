/* SPDX-License-Identifier: MIT
 *
 * Receive holds. */
#include <string.h>

#include "core/stats.h"
#include "protect/exchange.h"
#include "protect/hold_list.h"
#include "protect/pages.h"
#include "protect/reserve.h"

/* Unlinks landed receives that `hold` overlaps, as a list. -EBUSY if one is in flight. */
static int replace(struct hold *hold, struct hold **dropped)
{
    for (struct hold *other = hold->slot->receives; other; other = other->next)
        if (!hold_droppable(other) && hold_overlaps(other, hold->offset, hold->length))
            return -EBUSY;
    for (struct hold *other = hold->slot->receives, *next; other; other = next) {
        next = other->next;
        if (hold_overlaps(other, hold->offset, hold->length)) {
            hold_unlink(other);
            hold_insert(dropped, other);
        }
    }
    return 0;
}

/* At the end: the oldest comes first. */
static void link_receive(struct hold *hold)
{
    struct hold **link = &hold->slot->receives;
    slot_share(hold->slot);
    while (*link)
        link = &(*link)->next;
    hold_insert(link, hold);
}

void hold_own(struct hold *hold)
{
    link_receive(hold);
}

int hold_receive(struct hold *hold, bool guarded, char **wire)
{
    struct slot *slot = hold->slot;
    struct zc_pool *pool = slot_pool(slot);
    bool claimed = false;
    struct hold *dropped = NULL;
    uint32_t first = hold_first_page(hold), pages = hold_end_page(hold) - first;
    hold->backing = NULL;
    hold->bounce = NULL;
    hold->landed = hold->shown = hold->head_open = hold->tail_open = false;
    hold->error = 0;
    hold->guarded = guarded;

    struct backing *backing = slot_lock(slot);
    if (backing->sends)
        backing = slot_claim(slot, backing, &claimed);
    int error = replace(hold, &dropped);
    if (!error && backing->sends) {
        if (claimed)
            hold->bounce = pool_pop(pool);
        else
            error = -ENOMEM;
        claimed = false;
        count(receives_bounced);
    }
    if (!error && guarded && pages && !pages_guard(slot, first, pages, PROT_NONE))
        error = -ENOMEM;
    if (error) {
        if (hold->bounce)
            pool_push(hold->bounce);
        hold->bounce = NULL;
    } else {
        link_receive(hold);
        struct backing *lands = hold->bounce ? atomic_load(&hold->bounce->backing) : backing;
        *wire = backing_wire(lands) + hold->offset;
    }
    slot_unlock(backing);
    if (claimed)
        pool_unclaim(pool);
    holds_drop(dropped);
    return error;
}

bool hold_receive_alone(struct hold *hold, char **wire)
{
    struct slot *slot = hold->slot;
    struct backing *backing = slot_lock_briefly(slot);
    bool alone = !backing->sends && !slot->receives;
    if (alone) {
        slot_share(slot);
        hold_insert(&slot->receives, hold);
        *wire = backing_wire(backing) + hold->offset;
    }
    lock_drop(&backing->lock);
    return alone;
}

/* Is anybody else storing to the backing itself: a receive that was not bounced, or the library? */
static bool written_by_others(const struct slot *slot, const struct hold *hold)
{
    for (const struct hold *other = slot->receives; other; other = other->next)
        if (other != hold && !other->landed && !other->bounce)
            return true;
    return false;
}

/* Moves what landed in the bounce slot into the slot; returns the slot's backing, locked. The bounce slot is
 * given back, with the old backing if that was exchanged. */
static struct backing *land(struct hold *hold, struct backing *backing, size_t length)
{
    struct slot *slot = hold->slot, *bounce = hold->bounce;
    size_t size = slot_segment(slot)->slot_size;
    bool sending = false;
    for (const struct hold *send = backing->sends; send; send = send->next)
        sending |= hold_overlaps(send, hold->offset, length);
    hold->bounce = NULL;
    /* Exchanging costs three moves of page tables and a copy of the rest. Without need, it pays where the
     * message is nearly all of a large slot and nobody would be left to store to the old pages. */
    bool large = length >= size - size / 4 && size >= HUGE_BYTES;
    if (!slot->pinned && (sending || (large && !written_by_others(slot, hold)))) {
        struct backing *fresh = exchange_backings(slot, backing, bounce, hold->offset, hold->offset + length);
        slot_unreserve(slot); /* what was in flight keeps the old backing: nothing is left to rename for */
        bool push = slot_over(bounce, backing);
        lock_drop(&backing->lock); /* and not slot_unlock: see hold.h */
        if (push)
            pool_push(bounce);
        return fresh;
    }
    memcpy(backing_wire(backing) + hold->offset, backing_wire(atomic_load(&bounce->backing)) + hold->offset, length);
    pool_push(bounce);
    return backing;
}

/* A receive is over. The slot stays as it is if it was freed: the bytes have nowhere to go. */
static bool finish(struct hold *hold, size_t length, int error, bool keep)
{
    struct slot *slot = hold->slot;
    struct backing *backing = slot_lock(slot);
    bool freed = !slot_is(slot, SLOT_LIVE), exchanged = false;
    if (hold->bounce && !freed && !error && length) {
        struct backing *old = backing;
        backing = land(hold, backing, length);
        exchanged = backing != old;
    }
    if (hold->bounce)
        pool_push(hold->bounce);
    hold->bounce = NULL;
    hold->landed = true;
    hold->error = error;
    if (!keep || (freed && hold->named)) /* nobody will ask for it */
        hold_unlink(hold);
    if (exchanged)
        slot_settle(slot, backing); /* its guard is new */
    else if (hold->guarded && !freed && !(error && keep))
        slot_settle_over(slot, backing, hold);
    slot_announce(slot);
    slot->awaited = slot->awaited && (backing->sends || slot_receiving(slot));
    bool push = slot_over(slot, backing);
    slot_unlock(backing);
    if (push)
        pool_push(slot);
    return freed;
}

bool hold_landed(struct hold *hold, size_t length, int error)
{
    return finish(hold, length, error, true);
}

void hold_done(struct hold *hold, size_t length)
{
    struct slot *slot = hold->slot;
    struct backing *backing = slot_lock_briefly(slot);
    bool plain = !hold->guarded && !hold->bounce && !slot->awaited && slot_is(slot, SLOT_LIVE);
    if (plain) /* nothing follows from its end */
        hold_unlink(hold);
    lock_drop(&backing->lock);
    if (plain)
        return;
    finish(hold, length, 0, false);
}

bool hold_withdraw(struct hold *hold)
{
    return finish(hold, 0, 0, false);
}

struct hold *hold_receive_at(struct slot *slot, size_t offset)
{
    for (struct hold *hold = slot->receives; hold; hold = hold->next)
        if (hold->named && offset >= hold->offset && offset - hold->offset < (hold->length ? hold->length : 1))
            return hold;
    return NULL;
}

void hold_report(struct hold *hold, struct backing *backing)
{
    struct slot *slot = hold->slot;
    hold_unlink(hold);
    if (hold->error && hold->guarded) /* shown by a call, it is still closed */
        slot_settle_over(slot, backing, hold);
}
