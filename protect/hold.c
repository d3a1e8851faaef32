/* SPDX-License-Identifier: MIT */
#include "protect/hold.h"

#include <stdlib.h>
#include <string.h>

#include "alloc/cache.h"
#include "core/clock.h"
#include "core/stats.h"
#include "protect/backend.h"
#include "protect/exchange.h"
#include "protect/maps.h"
#include "protect/pages.h"
#include "protect/policy.h"

/* ---- what a rename needs ---- */

static void unreserve(struct slot *slot)
{
    if (!slot->reserved)
        return;
    struct zc_pool *pool = slot_pool(slot);
    slot->reserved = false;
    maps_unclaim(backend_of(pool)->rename);
    pool_unclaim(pool);
}

/* Claims a spare. Growing the pool for it may take long, and is done without the slot's lock: returns with it taken
 * again, and then everything about the slot may have changed. */
static struct backing *claim(struct slot *slot, struct backing *backing, bool *claimed)
{
    struct zc_pool *pool = slot_pool(slot);
    *claimed = pool_try_claim(pool);
    if (*claimed)
        return backing;
    slot_unlock(backing);
    *claimed = pool_claim(pool) == 0;
    return slot_lock(slot);
}

/* A claimed spare, and mappings to go with it; or neither. */
static void reserve_with(struct slot *slot, struct zc_pool *pool)
{
    slot->reserved = maps_claim(backend_of(pool)->rename);
    if (!slot->reserved)
        pool_unclaim(pool);
}

/* Reserves what renaming the slot needs, if it is there. */
static bool reserve_now(struct slot *slot)
{
    struct zc_pool *pool = slot_pool(slot);
    if (!slot->reserved && pool_try_claim(pool))
        reserve_with(slot, pool);
    return slot->reserved;
}

/* The same, if it can be had at all. Returns with the lock taken, perhaps anew. */
static struct backing *reserve(struct slot *slot, struct backing *backing)
{
    bool claimed;
    if (slot->reserved)
        return backing;
    backing = claim(slot, backing, &claimed);
    if (claimed && slot->reserved)
        pool_unclaim(slot_pool(slot));
    else if (claimed)
        reserve_with(slot, slot_pool(slot));
    return backing;
}

/* ---- sends ---- */

bool slot_receiving(const struct slot *slot)
{
    for (const struct hold *hold = slot->receives; hold; hold = hold->next)
        if (!hold->landed)
            return true;
    return false;
}

static void insert(struct hold **at, struct hold *hold)
{
    hold->next = *at;
    hold->link = at;
    if (hold->next)
        hold->next->link = &hold->next;
    *at = hold;
}

static void unlink_hold(struct hold *hold)
{
    *hold->link = hold->next;
    if (hold->next)
        hold->next->link = hold->link;
}

/* Takes a send hold; where to send from. */
static const char *link_send(struct hold *hold, struct backing *backing, bool guarded)
{
    hold->backing = backing;
    hold->guarded = guarded;
    slot_share(hold->slot);
    insert(&backing->sends, hold);
    return backing_wire(backing) + hold->offset;
}

bool slot_closed(const struct slot *slot)
{
    for (const struct hold *hold = slot->receives; hold; hold = hold->next)
        if (hold_closed(hold))
            return true;
    return false;
}

static bool protectable(const struct slot *slot)
{
    return !slot->pinned && !slot->awaited && !slot_closed(slot);
}

static inline bool guarded_already(const struct hold *hold)
{
    return pages_guarded(hold->slot, hold_first_page(hold), hold_end_page(hold));
}

/* Better copied, since that makes a receiver faster that is behind? */
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
        return !better_copied(hold) &&
               (guarded_already(hold) || policy_protects(slot_pool(hold->slot), hold->slot, hold->length));
    }
}

/* Protects the slot for a send that may be held, the slot being reserved. */
static bool guard_send(struct hold *hold)
{
    struct slot *slot = hold->slot;
    uint32_t first = hold_first_page(hold);
    hold->resent = guarded_already(hold);
    if (hold->resent) {
        policy_resent(slot);
        return true;
    }
    if (!pages_guard(slot, first, hold_end_page(hold) - first, PROT_READ))
        return false;
    policy_protected(slot);
    return true;
}

/* Protects what was not, or reserves what was not to be had at once; out of the way of a re-send. Drops the lock. */
static __attribute__((noinline)) const char *hold_first(struct hold *hold, struct backing *backing)
{
    struct slot *slot = hold->slot;
    const char *wire = NULL;
    if (protectable(slot) && worth_holding(hold)) {
        backing = reserve(slot, backing);
        if (slot->reserved && protectable(slot) && guard_send(hold))
            wire = link_send(hold, backing, true);
        else
            count(unreserved);
        if (!backing->sends)
            unreserve(slot);
    }
    slot_unlock(backing);
    return wire;
}

/* A re-send of what is protected already takes a few instructions. */
const char *hold_send(struct hold *hold)
{
    struct slot *slot = hold->slot;
    struct backing *backing = slot_lock_briefly(slot);
    if (!guarded_already(hold) || !protectable(slot) || hold->rules->policy == ZC_POLICY_COPY || better_copied(hold) ||
        !reserve_now(slot))
        return hold_first(hold, backing);
    policy_resent(slot);
    hold->resent = true;
    const char *wire = link_send(hold, backing, true);
    lock_drop(&backing->lock);
    return wire;
}

const char *hold_send_given(struct hold *hold)
{
    struct backing *backing = slot_lock(hold->slot);
    const char *wire = slot_receiving(hold->slot) ? NULL : link_send(hold, backing, false);
    slot_unlock(backing);
    return wire;
}

const char *hold_send_tentative(struct hold *hold)
{
    struct backing *backing = slot_lock_briefly(hold->slot);
    const char *wire = protectable(hold->slot) ? link_send(hold, backing, false) : NULL;
    lock_drop(&backing->lock);
    return wire;
}

bool hold_send_keep(struct hold *hold)
{
    /* Stores that came since the message was posted raced with the call. A rename by another thread has
     * already taken the pages out of the slot: then there is nothing to guard. */
    struct slot *slot = hold->slot;
    struct backing *backing = reserve(slot, slot_lock(slot));
    if (backing == hold->backing && slot->reserved) {
        hold->guarded = hold->rules->policy != ZC_POLICY_COPY && !slot_closed(slot) && guard_send(hold);
        if (!hold->guarded) {
            slot_rename(slot, backing);
            return true;
        }
    }
    bool kept = backing != hold->backing || hold->guarded;
    if (!backing->sends)
        unreserve(slot);
    slot_unlock(backing);
    return kept;
}

void hold_copy_out(struct slot *slot, size_t offset, size_t length, char *to)
{
    /* Under the lock, so that the backing cannot be renamed away and used again meanwhile. One in sixteen is
     * timed: the clock costs as much as copying a page. */
    static _Thread_local unsigned turn;
    struct backing *backing = slot_lock(slot);
    bool timed = turn++ % 16 == 0 && length >= PAGE_BYTES;
    uint64_t before = timed ? clock_ns() : 0;
    memcpy(to, backing_wire(backing) + offset, length);
    if (timed)
        policy_observe(slot_pool(slot), COST_COPY, length, clock_ns() - before);
    slot_unlock(backing);
}

bool hold_copy_quickly(struct slot *slot, size_t offset, size_t length, char *to)
{
    struct backing *backing = slot_lock_briefly(slot);
    bool open = !slot->guard_pages && !slot_closed(slot);
    if (open)
        memcpy(to, backing_wire(backing) + offset, length);
    lock_drop(&backing->lock);
    return open;
}

/* The slot's last operation may have ended. True if it is to be pushed, after the lock is dropped. */
static bool retire(struct slot *slot, const struct backing *backing)
{
    return slot_is(slot, SLOT_FREE) && !backing->sends && !slot->receives;
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
    if (hold->guarded && !hold->resent)
        signals_close(); /* its end is likely to need a system call anyway */
    lock_take(&backing->lock);
    unlink_hold(hold);
    struct slot *slot = backing->slot;
    if (!backing->sends) {
        unreserve(slot);
        /* In pieces, it would save no later send a system call. */
        bool useful = slot->guard_whole && lingers(slot, hold);
        if (hold->guarded && slot_is(slot, SLOT_LIVE) && slot->guard_pages && !useful)
            slot_settle(slot, backing);
    }
    if (slot->awaited) {
        slot_announce(slot);
        slot->awaited = backing->sends || slot_receiving(slot);
    }
    bool push = retire(slot, backing);
    slot_unlock(backing);
    if (push)
        pool_push(slot);
}

/* ---- receives ---- */

/* Over, and nobody is through with it but the program, which may or may not ask. One without a name belongs to a
 * call that has not returned yet. */
static bool droppable(const struct hold *receive)
{
    return receive->landed && receive->named;
}

/* Unlinks landed receives that `hold` overlaps, as a list. -EBUSY if one is in flight. */
static int replace(struct hold *hold, struct hold **dropped)
{
    for (struct hold *other = hold->slot->receives; other; other = other->next)
        if (!droppable(other) && hold_overlaps(other, hold->offset, hold->length))
            return -EBUSY;
    for (struct hold *other = hold->slot->receives, *next; other; other = next) {
        next = other->next;
        if (hold_overlaps(other, hold->offset, hold->length)) {
            unlink_hold(other);
            insert(dropped, other);
        }
    }
    return 0;
}

static void drop_all(struct hold *dropped)
{
    while (dropped) {
        struct hold *next = dropped->next;
        dropped->rules->dropped(dropped);
        dropped = next;
    }
}

/* At the end: the oldest comes first. */
static void link_receive(struct hold *hold)
{
    struct hold **link = &hold->slot->receives;
    slot_share(hold->slot);
    while (*link)
        link = &(*link)->next;
    insert(link, hold);
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
        backing = claim(slot, backing, &claimed);
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
    drop_all(dropped);
    return error;
}

bool hold_receive_alone(struct hold *hold, char **wire)
{
    struct slot *slot = hold->slot;
    struct backing *backing = slot_lock_briefly(slot);
    bool alone = !backing->sends && !slot->receives;
    if (alone) {
        slot_share(slot);
        insert(&slot->receives, hold);
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
        unreserve(slot); /* what was in flight keeps the old backing: nothing is left to rename for */
        bool push = retire(bounce, backing);
        slot_unlock(backing);
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
    bool freed = !slot_is(slot, SLOT_LIVE);
    if (hold->bounce && !freed && !error && length)
        backing = land(hold, backing, length);
    if (hold->bounce)
        pool_push(hold->bounce);
    hold->bounce = NULL;
    hold->landed = true;
    hold->error = error;
    if (!keep || (freed && hold->named)) /* nobody will ask for it */
        unlink_hold(hold);
    if (hold->guarded && !freed && !(error && keep))
        slot_settle(slot, backing);
    slot_announce(slot);
    slot->awaited = slot->awaited && (backing->sends || slot_receiving(slot));
    bool push = retire(slot, backing);
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
        unlink_hold(hold);
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
    unlink_hold(hold);
    if (hold->error && hold->guarded) /* shown by a call, it is still closed */
        slot_settle(slot, backing);
}

/* ---- the slot as a whole ---- */

bool slot_can_rename(const struct slot *slot)
{
    int more = MAPS_RENAME - backend_of(slot_pool(slot))->rename; /* not claimed before */
    if (!slot->reserved || slot->pinned || !maps_claim(more))
        return false;
    maps_unclaim(more);
    return true;
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
    slot_unlock(fresh);
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
        if (droppable(hold)) {
            unlink_hold(hold);
            insert(&dropped, hold);
        }
    }
    unreserve(slot); /* nobody will store to it again */
    slot_announce(slot);
    slot->awaited = false;
    bool over = retire(slot, backing);
    if (!over)
        pool_dismiss(slot_pool(slot), 1); /* the application's no more */
    slot_unlock(backing);
    if (over)
        cache_give(slot);
    drop_all(dropped);
}

void slot_acquire(struct slot *slot)
{
    if (slot->guard_pages) {
        slot_settle(slot, atomic_load_explicit(&slot->backing, memory_order_relaxed));
        signals_open(); /* without a lock that would do it when dropped */
    }
    slot_acquire_bare(slot);
}
