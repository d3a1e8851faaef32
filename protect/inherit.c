/* SPDX-License-Identifier: MIT */
#include "protect/inherit.h"

#include <stdatomic.h>
#include <string.h>

#include "protect/hold.h"

static _Atomic bool opened;

/* One fork at a time: from inherit_prepare to inherit_parent or inherit_child. */
static lock forking;

/* A range like the taken part of the arena's user half, with the copies where their buffers are there. */
static struct {
    char *start; /* NULL: nothing was live */
    size_t length;
    uint32_t *closed; /* behind it: ids of the slots that are being received into, which other threads may free */
    size_t closed_count;
    bool failed;
} copy;

/* Room for an id a page. */
static size_t closed_bytes(size_t length)
{
    return pages_of((length >> PAGE_SHIFT) * sizeof *copy.closed) << PAGE_SHIFT;
}

static char *copy_of(const char *user)
{
    return copy.start + (user - arena.user);
}

static bool map_copy(void)
{
    copy.length = arena_taken();
    size_t length = copy.length + closed_bytes(copy.length);
    char *range = sys_reserve(NULL, length + HUGE_BYTES, PROT_READ | PROT_WRITE);
    if (!range)
        return false;
    copy.start = (char *)round_to_huge((uintptr_t)range);
    copy.closed = (uint32_t *)(copy.start + copy.length);
    sys_munmap(range, (size_t)(copy.start - range));
    sys_munmap(copy.start + length, HUGE_BYTES - (size_t)(copy.start - range));
    return true;
}

static void unmap_copy(void)
{
    if (copy.start)
        sys_munmap(copy.start, copy.length + closed_bytes(copy.length));
    copy.start = NULL;
}

/* False without memory. */
static bool copy_slot(struct slot *slot, const struct segment *segment)
{
    char *to = copy_of(slot_user(slot));
    bool done = true;
    struct backing *backing = slot_lock(slot);
    if (!slot_is(slot, SLOT_LIVE)) {
        /* freed meanwhile */
    } else if (slot_closed(slot)) {
        copy.closed[copy.closed_count++] = slot_id(slot);
    } else {
        done = sys_madvise(to, segment->slot_size, MADV_POPULATE_WRITE) == 0;
        if (done)
            memcpy(to, backing_wire(backing), segment->slot_size);
    }
    slot_unlock(backing);
    return done;
}

static bool copy_segment(struct segment *segment)
{
    if (!copy.start && !map_copy())
        return false;
    if (segment->user + segment->length > arena.user + copy.length)
        return true; /* mapped meanwhile */
    sys_madvise(copy_of(segment->user), segment->length, segment->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    for (uint32_t i = 0; i < segment->carved; i++) {
        struct slot *slot = segment_slot(segment, i);
        if (slot_is(slot, SLOT_LIVE) && !copy_slot(slot, segment))
            return false;
    }
    return true;
}

void inherit_prepare(void)
{
    lock_take(&forking);
    copy.closed_count = 0;
    copy.failed = false;
    if (!atomic_load(&opened) || arena.forked)
        return;
    copy.failed = !segments_visit(copy_segment);
    if (copy.failed)
        unmap_copy();
}

void inherit_parent(void)
{
    unmap_copy();
    lock_drop(&forking);
}

void inherit_child(void)
{
    struct segment *segment;
    if (atomic_load(&opened))
        arena_seal_off();
    for (size_t i = 0; copy.start && !copy.failed && (segment = segment_next(&i));)
        if (segment->user + segment->length <= arena.user + copy.length)
            copy.failed = sys_move(copy_of(segment->user), segment->user, segment->length) != 0;
    for (size_t i = 0; copy.start && i < copy.closed_count; i++) {
        struct slot *slot = slot_by_id(copy.closed[i]);
        const struct segment *segment = slot_segment(slot);
        if (segment) /* else it was freed since, and trimmed away */
            sys_mprotect(slot_user(slot), segment->slot_size, PROT_NONE);
    }
    unmap_copy();
    if (copy.failed) {
        struct text text = {0};
        text_add(&text,
                 "zc: no memory for a forked child's copy of its parent's large allocations: exec is fine, touching "
                 "them ends the child; raise the limits or ZC_MALLOC_THRESHOLD\n");
        text_print(&text);
    }
    lock_drop(&forking);
}

void inherit_open(void)
{
    atomic_store(&opened, true);
}
