/* SPDX-License-Identifier: MIT */
#include "alloc/debug.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"

enum { CANARY = 0xca, POISON = 0xdf };

/* Beyond the slot in the wire mapping. */
struct record {
    size_t size; /* asked for, when the slot was last taken */
};

size_t debug_gap(size_t slot_size)
{
    size_t alignment = slot_size & -slot_size;
    return alignment < HUGE_BYTES ? alignment : HUGE_BYTES;
}

static size_t size_of_slot(const struct slot *slot)
{
    return slot_segment(slot)->slot_size;
}

static struct record *record_of(const struct slot *slot)
{
    return (struct record *)(arena_wire_of(slot_user(slot)) + size_of_slot(slot));
}

static unsigned char *bytes_of(const struct slot *slot)
{
    return (unsigned char *)slot_wire(slot);
}

/* Where the first byte in [from, to) that is not `value` is; `to` if there is none. */
static size_t find_other(const unsigned char *bytes, size_t from, size_t to, unsigned char value)
{
    while (from < to && bytes[from] == value)
        from++;
    return from;
}

static void tell(size_t byte, const char *what, size_t size, const struct slot *slot)
{
    struct text text = {0};
    text_add(&text, "zc: ZC_DEBUG: byte ");
    text_add_number(&text, byte);
    text_add(&text, what);
    text_add_number(&text, size);
    text_add(&text, " bytes at ");
    text_add_address(&text, slot_user(slot));
    text_add(&text, "\n");
    text_print(&text);
}

void debug_made(struct slot *slot)
{
    const struct segment *segment = slot_segment(slot);
    /* A mapping more for each slot, as long as there are any. */
    sys_mprotect(slot_user(slot) + segment->slot_size, segment->stride - segment->slot_size, PROT_NONE);
}

void debug_taken(struct slot *slot, size_t size)
{
    size = size ? size : 1;
    record_of(slot)->size = size;
    memset(bytes_of(slot) + size, CANARY, size_of_slot(slot) - size);
}

size_t debug_size(const struct slot *slot)
{
    return record_of(slot)->size;
}

void debug_given(const struct slot *slot)
{
    size_t size = debug_size(slot), end = size_of_slot(slot), at = find_other(bytes_of(slot), size, end, CANARY);
    if (at == end)
        return;
    tell(at, " was written of a buffer of ", size, slot);
    abort();
}

void debug_poison(const struct slot *slot)
{
    memset(bytes_of(slot), POISON, size_of_slot(slot));
}

void debug_check_poison(const struct slot *slot)
{
    size_t end = size_of_slot(slot), at = find_other(bytes_of(slot), 0, end, POISON);
    if (at == end)
        return;
    tell(at, " was written after zc_free of a buffer of ", debug_size(slot), slot);
    abort();
}

void debug_explain(const char *address)
{
    const struct segment *segment = arena_segment(address);
    if (!segment || !segment->pool->debug)
        return;
    size_t offset = (size_t)(address - segment->user);
    const struct slot *slot = segment_slot(segment, (uint32_t)(offset / segment->stride));
    size_t at = offset % segment->stride;
    if (at >= segment->slot_size)
        tell(at, " was touched, in the guard page of a buffer of ", debug_size(slot), slot);
}
