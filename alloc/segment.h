/* SPDX-License-Identifier: MIT
 *
 * A segment: one sealed memfd, mapped twice, cut into slots of one pool. It never changes size. Its range of
 * addresses and its entries outlive its pages: after segment_unmap it can be mapped again. */
#ifndef ZC_ALLOC_SEGMENT_H
#define ZC_ALLOC_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/arena.h"
#include "core/own_file.h"

struct zc_pool;

struct segment {
    struct zc_pool *pool;
    char *user;
    size_t length;    /* bytes mapped, a multiple of 2 MiB */
    size_t slot_size; /* bytes that a slot uses, whole pages */
    size_t stride;    /* from slot to slot; more than slot_size to align huge slots, or for ZC_DEBUG's guard page */
    uint32_t slots;
    _Atomic uint32_t carved; /* slots that were set up, from the front */
    bool mapped;
    bool hugetlb;         /* of reserved pages */
    _Atomic bool huge;    /* to be collapsed, until the kernel refuses */
    int fd;               /* -1: hidden, closed, or not mapped any more */
    struct own_file own;  /* by `fd` */
    struct segment *next; /* of the pool */
};

/* What wants to know of segments (verbs registers each with its device). `add` runs after a segment is
 * mapped and before its first slot is used: 0, registered; 1, it goes without; or -errno, it is refused. `remove`
 * runs before it is unmapped, whatever `add` said. */
struct registrar {
    int (*add)(void *context, struct segment *segment);
    void (*remove)(void *context, struct segment *segment);
    void *context;
    bool pins; /* `add` may pin all pages, used or not */
    struct registrar *next;
};

/* Tells the registrar of every segment there is and will be. 0, or its first refusal, all undone. */
int registrar_attach(struct registrar *registrar);

/* Removes every segment from it, and tells it of no more. Without effect if it is not attached. */
void registrar_detach(struct registrar *registrar);

/* Segments to come keep no file descriptor: they will be shown to no other process. For a process that does not know
 * that it has zc, takes the numbers of its descriptors for its own, and closes others. */
void segment_hide(void);
bool segment_hidden(void);

/* Maps and publishes `segment`, whose first lines up to `slots` are filled in. 0 or -errno with a message. */
int segment_map(struct segment *segment);

/* Takes the pages away; no slot of it may be in use. */
void segment_unmap(struct segment *segment);

/* Sets up the next slots, n at most and as many as are left, for somebody to populate; returns how many (0: none
 * left), which follow *first. Not for two threads at once. */
uint32_t segment_carve(struct segment *segment, uint32_t n, struct slot **first);

/* Gives slots their pages, in both mappings; returns how many of the n from `index` on got them. */
uint32_t segment_populate(struct segment *segment, uint32_t index, uint32_t n);

/* Takes the pages of one slot's wire address out of both mappings, unless the system refuses or a registrar pins
 * them. */
bool segment_punch(const struct segment *segment, char *wire);

/* Maps bytes [at, at + length) of a backing at `user`, in the place of what is there, as the owner of a slot may have
 * mapped it; populated unless `prot` forbids stores. 0 or -errno. Signal-safe. */
int segment_show(const struct backing *backing, size_t at, size_t length, char *user, int prot);

static inline struct slot *segment_slot(const struct segment *segment, uint32_t index)
{
    return &arena_entry(segment->user + index * segment->stride)->slot;
}

static inline uint32_t segment_index(const struct segment *segment, const struct slot *slot)
{
    return (uint32_t)((size_t)(slot_user(slot) - segment->user) / segment->stride);
}

/* The next mapped segment from granule *i of the arena on, with *i behind it; NULL if there is none. */
struct segment *segment_next(size_t *i);

/* Calls `visit` for one mapped segment after the other, none of which is unmapped meanwhile, while it returns true.
 * False if it did not for one. */
bool segments_visit(bool (*visit)(struct segment *segment));

/* The segment of the application's address `p`, or NULL. */
static inline struct segment *segment_find(const void *p)
{
    return arena_has(p) ? arena_segment(p) : NULL;
}

/* The slot of the segment that `p` lies in, *offset bytes from its start; NULL between slots and past the last. */
static inline struct slot *segment_slot_at(const struct segment *segment, const void *p, size_t *offset)
{
    size_t at = (size_t)((const char *)p - segment->user);
    uint32_t index = (uint32_t)(at >> PAGE_SHIFT) / (uint32_t)(segment->stride >> PAGE_SHIFT);
    *offset = at - index * segment->stride;
    if (index >= atomic_load_explicit(&segment->carved, memory_order_acquire) || *offset >= segment->slot_size)
        return NULL;
    return segment_slot(segment, index);
}

/* The slot of the application's address `p`, or NULL. */
struct slot *slot_find(const void *p);

/* Does the caller's own stack lie in the slot, as that of a fiber does which malloc made? Protected, it would leave no
 * room for the handler of the fault that it causes. */
static inline bool slot_is_stack(const struct slot *slot)
{
    const void *frame = __builtin_frame_address(0);
    return arena_has(frame) && slot_find(frame) == slot;
}

static inline struct segment *slot_segment(const struct slot *slot)
{
    return arena_segment(slot_user(slot));
}

#endif
