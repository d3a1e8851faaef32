/* SPDX-License-Identifier: MIT
 *
 * Receive holds. */
#include <string.h>

#include "alloc/heap.h"
#include "core/stats.h"
#include "protect/exchange.h"
#include "protect/hold_list.h"
#include "protect/pages.h"
#include "protect/reserve.h"

/* Is it in the way of `hold`: in flight, or one that failed, which another receive may replace, but no guard? */
static bool stays(const struct hold *other, const struct hold *hold)
{
    return !hold_droppable(other) || (hold_closed(other) && !hold->rules->comm);
}

static bool in_the_way(const struct hold *hold)
{
    for (const struct hold *other = hold->slot->receives; other; other = other->next)
        if (stays(other, hold) && hold_overlaps(other, hold->offset, hold->length))
            return true;
    return false;
}

/* Unlinks the receives that `hold` overlaps, all landed, as a list. */
static struct hold *replace(const struct hold *hold)
{
    struct hold *dropped = NULL;
    for (struct hold *other = hold->slot->receives, *next; other; other = next) {
        next = other->next;
        if (hold_overlaps(other, hold->offset, hold->length)) {
            hold_unlink(other);
            hold_insert(&dropped, other);
        }
    }
    return dropped;
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

/* ---- bounces ---- */

static bool being_sent(const struct hold *hold, const struct backing *backing, size_t length)
{
    for (const struct hold *send = backing->sends; send; send = send->next)
        if (hold_overlaps(send, hold->offset, length))
            return true;
    return false;
}

/* Exchanging backings costs three moves of page tables and a copy of the rest. Where it is not needed, it pays only if
 * the message fills nearly all of a large slot. */
static bool nearly_all(const struct hold *hold, size_t length)
{
    size_t size = slot_segment(hold->slot)->slot_size;
    return length >= size - size / 4 && size >= HUGE_BYTES;
}

/* Only a slot of its pool can be exchanged with the hold's. */
static bool can_exchange(const struct hold *hold, const struct slot *bounce)
{
    return slot_pool(bounce) == slot_pool(hold->slot);
}

/* Where the bytes land in a bounce slot: where the slot has them, if the two can be exchanged, else at the start. */
static char *bounce_wire(const struct hold *hold, const struct slot *bounce)
{
    return slot_wire(bounce) + (can_exchange(hold, bounce) ? hold->offset : 0);
}

/* Takes a bounce slot, without the slot's lock. NULL if there is none. */
static struct slot *take_bounce(const struct hold *hold, bool exchange)
{
    struct zc_pool *own = slot_pool(hold->slot), *pool = exchange ? own : heap_pool(hold->length, 1);
    if (!pool || pool->slot_size >= own->slot_size)
        pool = own;
    return pool_claim(pool) == 0 ? pool_pop(pool) : NULL;
}

/* Takes the bounce slot that the hold needs beside sends, if any; growing a pool for it may take long, and is done
 * without the slot's lock. Returns with it taken again. Whether landing will be an exchange is known from now on: while
 * the receive is in flight, nothing is sent from the slot's own pages any more. */
static struct backing *bounce_beside(const struct hold *hold, struct backing *backing, struct slot **bounce)
{
    *bounce = NULL;
    while (backing->sends) {
        bool exchange = being_sent(hold, backing, hold->length) || nearly_all(hold, hold->length);
        if (*bounce && (!exchange || can_exchange(hold, *bounce)))
            break;
        slot_unlock(backing);
        if (*bounce)
            pool_push(*bounce);
        *bounce = take_bounce(hold, exchange);
        backing = slot_lock(hold->slot);
        if (!*bounce)
            break;
    }
    return backing;
}

/* ---- beginning ---- */

/* Of a lent receive, pages that it shares are left open: beside its bytes may be a lock of the program, whose system
 * calls would fail. */
static void open_shared(struct hold *hold)
{
    size_t unit = slot_pool(hold->slot)->unit * PAGE_BYTES;
    hold->inner = true;
    hold->protects = (hold->offset + unit - 1) / unit < (hold->offset + hold->length) / unit;
}

int hold_receive(struct hold *hold, bool protects, char **wire)
{
    struct slot *slot = hold->slot, *bounce;
    struct hold *dropped = NULL;
    hold->backing = NULL;
    hold->bounce = NULL;
    hold->landed = hold->unwanted = hold->shown = hold->inner = false;
    hold->error = 0;
    hold->protects = protects;
    if (protects && hold->rules->lent)
        open_shared(hold);

    struct backing *backing = bounce_beside(hold, slot_lock(slot), &bounce);
    int error = in_the_way(hold) ? -EBUSY : 0;
    if (!error && backing->sends && !bounce)
        error = -ENOMEM;
    if (!error && hold->protects && !pages_protect(hold, PROT_NONE))
        error = -ENOMEM;
    if (!error) {
        dropped = replace(hold);
        if (backing->sends) {
            hold->bounce = bounce;
            bounce = NULL;
            count(receives_bounced);
        }
        link_receive(hold);
        *wire = hold->bounce ? bounce_wire(hold, hold->bounce) : backing_wire(backing) + hold->offset;
    }
    slot_unlock(backing);
    if (bounce)
        pool_push(bounce);
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

/* ---- ending ---- */

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
    hold->bounce = NULL;
    /* Only where nobody would be left to store to the old pages; without need, where there are mappings for it. */
    bool exchange = !written_by_others(slot, hold) &&
                    (being_sent(hold, backing, length) || (nearly_all(hold, length) && maps_can_claim(MAPS_RENAME)));
    if (exchange && !slot->pinned && can_exchange(hold, bounce)) {
        struct backing *fresh = exchange_backings(slot, backing, bounce, hold->offset, hold->offset + length);
        slot_unreserve(slot); /* what was in flight keeps the old backing: nothing is left to rename for */
        bool push = slot_over(bounce, backing);
        lock_drop(&backing->lock); /* and not slot_unlock: see hold.h */
        if (push)
            pool_push(bounce);
        return fresh;
    }
    memcpy(backing_wire(backing) + hold->offset, bounce_wire(hold, bounce), length);
    pool_push(bounce);
    return backing;
}

/* Of no bytes, at the very end of its buffer: no pointer names it. */
static bool nameless(const struct hold *hold)
{
    return hold->length == 0 && hold->offset == slot_segment(hold->slot)->slot_size;
}

/* A receive is over. The slot stays as it is if it was freed: the bytes have nowhere to go. False: it was unlinked, as
 * nobody will ask for it. */
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
    keep = keep && !hold_cancelled(hold) && !nameless(hold) && !(freed && hold->named);
    if (!keep)
        hold_unlink(hold);
    if (exchanged)
        slot_settle(slot, backing); /* its mappings are new */
    else if (hold->protects && !freed)
        slot_settle_over(slot, backing, hold);
    slot_announce(slot);
    slot->awaited = slot->awaited && (backing->sends || slot_receiving(slot));
    bool push = slot_over(slot, backing);
    slot_unlock(backing);
    if (push)
        pool_push(slot);
    return keep;
}

bool hold_landed(struct hold *hold, size_t length, int error)
{
    return !finish(hold, length, error, true);
}

void hold_done(struct hold *hold, size_t length)
{
    struct slot *slot = hold->slot;
    struct backing *backing = slot_lock_briefly(slot);
    bool plain = !hold->protects && !hold->bounce && !slot->awaited && slot_is(slot, SLOT_LIVE);
    if (plain) /* nothing follows from its end */
        hold_unlink(hold);
    lock_drop(&backing->lock);
    if (plain)
        return;
    finish(hold, length, 0, false);
}

void hold_withdraw(struct hold *hold)
{
    finish(hold, 0, 0, false);
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
    if (hold->error && hold->protects) /* unless a touch was shown them, its pages are still closed */
        slot_settle_over(slot, backing, hold);
}
