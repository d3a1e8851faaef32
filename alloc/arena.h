/* SPDX-License-Identifier: MIT
 *
 * One reservation of address space for the process, in which every address answers for itself:
 *
 *   user half     [user, user + span)    what the application may see
 *   wire half     [wire, wire + span)    the same offsets, for library and transports
 *   entries       64 bytes a page: the slot and the backing that start at that page
 *   segments      one pointer for each 2 MiB
 *
 * So address, slot, backing and wire address follow from one another by arithmetic, without a lock, in a
 * signal handler too. Entries and ranges are never given back, only their pages are: a pointer to a slot or
 * a backing stays valid for the life of the process. */
#ifndef ZC_ALLOC_ARENA_H
#define ZC_ALLOC_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/slot.h"
#include "core/sys.h"

enum { GRANULE_SHIFT = 21 };

struct entry {
    struct slot slot;
    struct backing backing;
};

struct segment;

struct arena {
    char *user, *wire;
    struct entry *entries;
    struct segment *_Atomic *segments;
    /* Bytes of each half. 0 before arena_open, and stored last: any pointer may be asked about meanwhile. */
    _Atomic size_t span;
    /* Those that were taken, from its start: beyond them there are no entries. Stored after these can be read. */
    _Atomic size_t taken;
    bool forked; /* this is a child of the process that opened the arena: nothing of it may be used here */
};

extern struct arena arena;

/* Reserves it, once; later calls return what the first did. 0, -ENOMEM, or -EPERM in a forked child. */
int arena_open(void);

/* In a forked child, where nothing of it is there any more: keeps others from mapping there. A handler of fork does so,
 * unless somebody did before. */
void arena_seal_off(void);

/* A range of the user half (and of the wire half), a multiple of 2 MiB and aligned to it, for ever. NULL when
 * the reservation is used up, or without memory for its entries. */
char *arena_take(size_t length);

/* Bytes of each half that were taken, from its start. */
size_t arena_taken(void);

static inline bool arena_has(const void *p)
{
    size_t span = atomic_load_explicit(&arena.span, memory_order_acquire);
    return (size_t)((const char *)p - arena.user) < span;
}

static inline bool arena_has_wire(const void *p)
{
    size_t span = atomic_load_explicit(&arena.span, memory_order_acquire);
    return (size_t)((const char *)p - arena.wire) < span;
}

static inline char *arena_wire_of(const char *user)
{
    return arena.wire + (user - arena.user);
}

static inline char *arena_user_of(const char *wire)
{
    return arena.user + (wire - arena.wire);
}

static inline struct entry *arena_entry(const char *user)
{
    return &arena.entries[(size_t)(user - arena.user) >> PAGE_SHIFT];
}

/* The entry of the page that starts at `p`, as a slot, or NULL. Only entries of slots are ever live, so that whoever
 * wants a live one need not look for its segment. */
static inline struct slot *arena_start(const void *p)
{
    size_t taken = atomic_load_explicit(&arena.taken, memory_order_acquire);
    bool starts = (size_t)((const char *)p - arena.user) < taken && (uintptr_t)p % PAGE_BYTES == 0;
    return starts ? &arena_entry(p)->slot : NULL;
}

/* The live slot that starts at `p`, or NULL. */
static inline struct slot *arena_live(const void *p)
{
    struct slot *slot = arena_start(p);
    return slot && slot_is(slot, SLOT_LIVE) ? slot : NULL;
}

/* The end of a list of slots: no slot has this id, since the arena has fewer pages. */
static const uint32_t NONE = UINT32_MAX;

static inline uint32_t slot_id(const struct slot *slot)
{
    return (uint32_t)((const struct entry *)slot - arena.entries);
}

static inline struct slot *slot_by_id(uint32_t id)
{
    return &arena.entries[id].slot;
}

static inline char *slot_user(const struct slot *slot)
{
    return arena.user + ((size_t)slot_id(slot) << PAGE_SHIFT);
}

static inline struct backing *slot_home(struct slot *slot)
{
    return &((struct entry *)slot)->backing;
}

static inline char *backing_wire(const struct backing *backing)
{
    const struct entry *entry = (const struct entry *)((const char *)backing - offsetof(struct entry, backing));
    return arena.wire + ((size_t)(entry - arena.entries) << PAGE_SHIFT);
}

/* Where the library finds the bytes that a slot shows now. */
static inline char *slot_wire(const struct slot *slot)
{
    return backing_wire(atomic_load(&slot->backing));
}

/* The segment mapped at `user`, or NULL. */
static inline struct segment *arena_segment(const char *user)
{
    return atomic_load_explicit(&arena.segments[(size_t)(user - arena.user) >> GRANULE_SHIFT], memory_order_acquire);
}

#endif
