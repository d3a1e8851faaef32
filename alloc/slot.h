/* SPDX-License-Identifier: MIT
 *
 * Metadata of slots and backings, out of their pages. alloc/ links a slot to its backing and keeps free
 * slots in lists; the other fields are for protect/, and zero when a slot is first made.
 *
 * A slot always has exactly one backing and a backing exactly one slot: a rename exchanges the backings of
 * two slots. Everything about a slot is guarded by the lock of the backing it shows now; see slot_lock. */
#ifndef ZC_ALLOC_SLOT_H
#define ZC_ALLOC_SLOT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/lock.h"
#include "core/signals.h"

struct hold;

struct backing {
    struct hold *sends; /* readers in flight, newest first; also guards that deny stores */
    struct slot *slot;  /* that shows it */
    lock lock;
    uint32_t cache; /* where threads cache the slot beside it: its pool's index, at hand when it is freed */
};

enum slot_state {
    SLOT_FREE,      /* in the pool, a spare, a bounce, or on its way back */
    SLOT_LIVE,      /* the application's */
    SLOT_BARE,      /* out of the pool since its pages could not be had */
    SLOT_COLLECTED, /* free, and taken out of the pool by a trim */
    SLOT_STALE      /* out of the pool since a trim failed: its user mapping shows what another slot shows */
};

struct slot {
    struct backing *_Atomic backing;
    struct hold *receives;    /* unreported receives, oldest first; also guards that deny everything */
    _Atomic uint32_t next;    /* free list: id of the next slot */
    _Atomic uint32_t event;   /* futex: changes when a hold of the slot ends or it is renamed */
    uint32_t protected_first; /* pages that may be protected, from the slot's start */
    uint32_t protected_pages; /* 0: all is read-write */
    _Atomic uint8_t state;    /* enum slot_state, and SLOT_SHARED; see slot_is */
    /* History of its protection (protect/policy.c). */
    uint8_t run, estimate, skip, backoff;
    bool pinned : 1;           /* renaming is forbidden */
    bool protected_whole : 1;  /* every one of them is, none was released singly */
    bool protected_closed : 1; /* some may be closed to loads, too */
    bool reserved : 1;         /* a spare slot and mappings are claimed for renaming it */
    bool awaited : 1;          /* somebody waits for an event: wake, and copy later sends */
    uint16_t maps;             /* mappings that its protection may have split off */
};

/* Added to its state: held or pinned since it became live. Others may be at it, and its lock is needed. */
enum { SLOT_SHARED = 0x80 };

/* A slot's state changes with its owner, and others may look at it: a trim, zc_owns, a second zc_free. It orders
 * nothing. */
static inline bool slot_is(const struct slot *slot, enum slot_state state)
{
    return (atomic_load_explicit(&slot->state, memory_order_relaxed) & ~SLOT_SHARED) == state;
}

/* Live, and not shared. */
static inline bool slot_is_private(const struct slot *slot)
{
    return atomic_load_explicit(&slot->state, memory_order_relaxed) == SLOT_LIVE;
}

/* Until its state changes. Locked. */
static inline void slot_share(struct slot *slot)
{
    uint8_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);
    atomic_store_explicit(&slot->state, state | SLOT_SHARED, memory_order_relaxed);
}

static inline void slot_become(struct slot *slot, enum slot_state state)
{
    atomic_store_explicit(&slot->state, (uint8_t)state, memory_order_relaxed);
}

/* What is known of its protection is void: it has a new owner. */
static inline void slot_forget(struct slot *slot)
{
    slot->run = slot->estimate = slot->skip = slot->backoff = 0;
}

/* A free slot that shows `backing`, without history. */
static inline void slot_init(struct slot *slot, struct backing *backing)
{
    backing->sends = NULL;
    backing->slot = slot;
    atomic_store_explicit(&slot->backing, backing, memory_order_relaxed);
    slot->receives = NULL;
    slot->protected_first = slot->protected_pages = 0;
    slot_become(slot, SLOT_FREE);
    slot->pinned = slot->protected_whole = slot->protected_closed = false;
    slot->reserved = slot->awaited = false;
    slot->maps = 0;
    slot_forget(slot);
}

/* Locks the backing that the slot shows, and returns it. A rename may exchange it until the lock is had. A handler of
 * the application that ran now, and touched the buffer, would wait for what it interrupted: so this is for sections
 * of a few instructions. */
static inline struct backing *slot_lock_briefly(struct slot *slot)
{
    for (;;) {
        struct backing *backing = atomic_load_explicit(&slot->backing, memory_order_acquire);
        lock_take(&backing->lock);
        if (atomic_load_explicit(&slot->backing, memory_order_relaxed) == backing)
            return backing;
        lock_drop(&backing->lock);
    }
}

/* The same, with this thread's signals blocked if the buffer is protected, so that a touch could fault. */
static inline struct backing *slot_lock(struct slot *slot)
{
    for (;;) {
        struct backing *backing = slot_lock_briefly(slot);
        if (!slot->protected_pages || signals_closed())
            return backing;
        lock_drop(&backing->lock);
        signals_close();
    }
}

/* Drops the lock of the backing that a slot shows or showed. */
static inline void slot_unlock(struct backing *backing)
{
    lock_drop(&backing->lock);
    signals_open();
}

#endif
