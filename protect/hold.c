/* SPDX-License-Identifier: MIT */
#include "protect/hold.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/cache.h"
#include "alloc/debug.h"
#include "core/clock.h"
#include "core/stats.h"
#include "protect/exchange.h"
#include "protect/hold_list.h"
#include "protect/pages.h"
#include "protect/policy.h"
#include "protect/reserve.h"

/* ---- sends ---- */

/* Takes a send hold; where to send from. */
static const char *link_send(struct hold *hold, struct backing *backing, bool protects)
{
    hold->backing = backing;
    hold->protects = protects;
    slot_share(hold->slot);
    hold_insert(&backing->sends, hold);
    return backing_wire(backing) + hold->offset;
}

static bool protectable(const struct slot *slot)
{
    return !slot->pinned && !slot->awaited && !slot_closed(slot);
}

static inline bool protected_already(const struct hold *hold)
{
    size_t first = hold->offset >> PAGE_SHIFT, end = hold->length ? pages_of(hold->offset + hold->length) : first;
    return pages_protected(hold->slot, (uint32_t)first, (uint32_t)end);
}

/* Is it better to copy, as that speeds up a receiver that is behind? */
static inline bool better_copied(const struct hold *hold)
{
    return hold->behind && hold->rules->policy == ZC_POLICY_AUTO && policy_feeds(slot_pool(hold->slot), hold->length);
}

static bool worth_holding(const struct hold *hold)
{
    switch (hold->rules->policy) {
    case ZC_POLICY_COPY:
        return false;
    case ZC_POLICY_PROTECT:
        return true;
    default:
        return protected_already(hold) ? !better_copied(hold)
                                       : !policy_feeds(slot_pool(hold->slot), hold->length) &&
                                             policy_protects(slot_pool(hold->slot), hold->slot, hold->length);
    }
}

static inline void note_resent(struct slot *slot)
{
    if (policy_resent(slot))
        policy_goes_on(slot_pool(slot));
}

/* Protects the slot for a send that may be held, the slot being reserved. */
static bool protect_send(struct hold *hold)
{
    struct slot *slot = hold->slot;
    hold->resent = protected_already(hold);
    if (hold->resent) {
        note_resent(slot);
        return true;
    }
    if (!pages_protect(hold, PROT_READ))
        return false;
    policy_protected(slot);
    return true;
}

/* Protects what was not, or reserves what was not to be had at once; out of the way of a re-send. Drops the lock. */
static __attribute__((noinline)) const char *hold_first(struct hold *hold, struct backing *backing)
{
    struct slot *slot = hold->slot;
    const char *wire = NULL;
    if (protectable(slot) && !slot_is_stack(slot) && worth_holding(hold)) {
        backing = slot_reserve(slot, backing);
        if (slot->reserved && protectable(slot) && protect_send(hold))
            wire = link_send(hold, backing, true);
        else if (hold->rules->comm || hold->rules->lent) /* a guard is no send */
            count(unreserved);
        if (!backing->sends)
            slot_unreserve(slot);
    }
    slot_unlock(backing);
    return wire;
}

/* A re-send of what is protected already takes a few instructions. */
const char *hold_send(struct hold *hold)
{
    struct slot *slot = hold->slot;
    struct backing *backing = slot_lock_briefly(slot);
    if (!protected_already(hold) || !protectable(slot) || hold->rules->policy == ZC_POLICY_COPY ||
        better_copied(hold) || !slot_reserve_now(slot))
        return hold_first(hold, backing);
    note_resent(slot);
    hold->resent = true;
    const char *wire = link_send(hold, backing, true);
    lock_drop(&backing->lock);
    return wire;
}

const char *hold_send_given(struct hold *hold)
{
    struct backing *backing = slot_lock(hold->slot);
    const char *wire = slot_closed(hold->slot) ? NULL : link_send(hold, backing, false);
    slot_unlock(backing);
    return wire;
}

const char *hold_send_tentative(struct hold *hold)
{
    struct slot *slot = hold->slot;
    struct backing *backing = slot_lock_briefly(slot);
    const char *wire = protectable(slot) && !slot_is_stack(slot) ? link_send(hold, backing, false) : NULL;
    lock_drop(&backing->lock);
    return wire;
}

bool hold_send_keep(struct hold *hold)
{
    /* Stores that came since the message was posted raced with the call. A rename by another thread has
     * already taken the pages out of the slot: then there is nothing to protect. */
    struct slot *slot = hold->slot;
    struct backing *backing = slot_reserve(slot, slot_lock(slot));
    if (backing == hold->backing && slot->reserved) {
        hold->protects = hold->rules->policy != ZC_POLICY_COPY && !slot_closed(slot) && protect_send(hold);
        if (!hold->protects) {
            slot_rename(slot, backing);
            return true;
        }
    }
    bool kept = backing != hold->backing || hold->protects;
    if (!backing->sends)
        slot_unreserve(slot);
    slot_unlock(backing);
    return kept;
}

/* Of small ones, one copy in sixteen is timed: the clock costs as much as copying a page. */
static void copy_bytes(struct slot *slot, char *to, const char *from, size_t length)
{
    static _Thread_local unsigned turn;
    bool timed = length >= 16 * PAGE_BYTES || (turn++ % 16 == 0 && length >= PAGE_BYTES);
    uint64_t before = timed ? clock_ns() : 0;
    memcpy(to, from, length);
    if (timed)
        policy_observe(slot_pool(slot), COST_COPY, length, clock_ns() - before);
}

bool hold_send_copied(struct hold *hold, char *to)
{
    const char *from = hold_send_tentative(hold);
    if (!from)
        return false;
    copy_bytes(hold->slot, to, from, hold->length);
    hold_end(hold);
    hold->link = NULL; /* in no list, which hold_hide_copy asks */
    return true;
}

void hold_copy_out(struct slot *slot, size_t offset, size_t length, char *to)
{
    /* Under the lock, so that the backing cannot be renamed away and used again meanwhile. */
    struct backing *backing = slot_lock(slot);
    copy_bytes(slot, to, backing_wire(backing) + offset, length);
    slot_unlock(backing);
}

struct backing *hold_look(struct slot *slot)
{
    struct backing *backing = slot_lock_briefly(slot);
    if (!slot->protected_pages && !slot_closed(slot))
        return backing;
    lock_drop(&backing->lock);
    return NULL;
}

void hold_looked(struct backing *backing)
{
    lock_drop(&backing->lock);
}

void hold_show_copy(struct hold *hold, struct slot *copy)
{
    struct backing *backing = slot_lock_briefly(copy);
    hold_insert(&backing->sends, hold);
    lock_drop(&backing->lock);
}

void hold_hide_copy(struct hold *hold, struct slot *copy)
{
    if (!hold->link)
        return;
    struct backing *backing = slot_lock_briefly(copy);
    hold_unlink(hold);
    lock_drop(&backing->lock);
}

static bool lingers(struct slot *slot, const struct hold *hold)
{
    switch (hold->rules->release) {
    case ZC_RELEASE_EAGER:
        return false;
    case ZC_RELEASE_LAZY:
        return true;
    default:
        return policy_lingers(slot_pool(slot), slot);
    }
}

void hold_end(struct hold *hold)
{
    struct backing *backing = hold->backing;
    if (hold->protects && !hold->resent)
        signals_close(); /* its end is likely to need a system call anyway */
    lock_take(&backing->lock);
    hold_unlink(hold);
    struct slot *slot = backing->slot;
    if (!backing->sends) {
        slot_unreserve(slot);
        /* In pieces, it would save no later send a system call. */
        bool useful = slot->protected_whole && lingers(slot, hold);
        if (hold->protects && slot_is(slot, SLOT_LIVE) && slot->protected_pages && !useful)
            slot_settle(slot, backing);
    }
    if (slot->awaited) {
        slot_announce(slot);
        slot->awaited = backing->sends || slot_receiving(slot);
    }
    bool push = slot_over(slot, backing);
    slot_unlock(backing);
    if (push)
        pool_push(slot);
}

/* ---- the slot as a whole ---- */

bool slot_receiving(const struct slot *slot)
{
    for (const struct hold *hold = slot->receives; hold; hold = hold->next)
        if (!hold->landed)
            return true;
    return false;
}

bool slot_closed(const struct slot *slot)
{
    for (const struct hold *hold = slot->receives; hold; hold = hold->next)
        if (hold_closed(hold))
            return true;
    return false;
}

bool slot_can_rename(const struct slot *slot)
{
    int more = MAPS_RENAME - backend_of(slot_pool(slot))->rename; /* not claimed before */
    assert(!slot->reserved || !slot->pinned);                     /* which takes no sends to reserve for */
    return slot->reserved && maps_can_claim(more);
}

void slot_rename(struct slot *slot, struct backing *backing)
{
    struct zc_pool *pool = slot_pool(slot);
    uint64_t before = clock_ns();
    struct slot *spare = pool_pop(pool);
    struct backing *fresh = exchange_backings(slot, backing, spare, 0, 0);
    slot->reserved = false; /* spent */
    maps_unclaim(backend_of(pool)->rename);
    slot_settle(slot, fresh);
    slot->awaited = slot->awaited && slot_receiving(slot);
    slot_announce(slot);
    futex_wake(&slot->event);
    lock_drop(&fresh->lock); /* and not slot_unlock: see hold.h */
    slot_unlock(backing);
    count(renames);
    atomic_fetch_add_explicit(&pool->renamed, 1, memory_order_relaxed);
    policy_observe(pool, COST_RENAME, pool->slot_size, clock_ns() - before);
}

void slot_release(struct slot *slot, struct backing *backing)
{
    struct hold *dropped = NULL;
    slot_become(slot, SLOT_FREE);
    slot->pinned = false;
    for (struct hold *hold = slot->receives, *next; hold; hold = next) {
        next = hold->next;
        if (hold_droppable(hold)) {
            hold_unlink(hold);
            hold_insert(&dropped, hold);
        }
    }
    slot_unreserve(slot); /* nobody will store to it again */
    slot_announce(slot);
    slot->awaited = false;
    bool over = slot_over(slot, backing);
    if (!over)
        cache_dismiss(slot_pool(slot)); /* the application's no more */
    slot_unlock(backing);
    if (over)
        cache_give(slot);
    holds_drop(dropped);
}

void slot_acquire(struct slot *slot)
{
    if (slot->protected_pages)
        slot_settle_popped(slot);
    slot_acquire_bare(slot);
}

void slot_acquire_from(const struct zc_pool *pool, struct slot *slot, size_t size)
{
    slot_acquire(slot);
    if (pool->debug) {
        debug_taken(slot, size);
        slot_share(slot); /* so that zc_free takes the long way */
    }
}
