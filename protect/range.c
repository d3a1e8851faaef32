/* SPDX-License-Identifier: MIT */
#include "protect/range.h"

#include "core/error.h"
#include "protect/fallback.h"

/* Foreign memory is taken as it is named; but there is none of so many bytes, which may mean "no limit". */
static int check_foreign(const void *ptr, size_t length, const char *call)
{
    if (length > PTRDIFF_MAX || (uintptr_t)ptr + length < (uintptr_t)ptr)
        return fail(-EINVAL, "%s: no memory has %zu bytes from %p", call, length, ptr);
    return 0;
}

/* The live slot that ends at `ptr`: an empty range may be there. */
static bool find_end(const char *ptr, struct range *range)
{
    size_t offset;
    const struct segment *segment = ptr ? segment_find(ptr - 1) : NULL;
    struct slot *slot = segment ? segment_slot_at(segment, ptr - 1, &offset) : NULL;
    if (!slot || !slot_is(slot, SLOT_LIVE) || offset + 1 != segment->slot_size)
        return false;
    *range = (struct range){.slot = slot, .offset = segment->slot_size};
    return true;
}

/* Whose start is not `ptr`. */
static int find_inside(const void *ptr, size_t length, const char *call, struct range *range)
{
    const struct segment *segment = segment_find(ptr);
    *range = (struct range){0};
    range->slot = segment ? segment_slot_at(segment, ptr, &range->offset) : NULL;
    bool live = range->slot && slot_is(range->slot, SLOT_LIVE);
    if (!live && length == 0 && find_end(ptr, range))
        return 0;
    if (!range->slot && arena_has(ptr))
        return fail(-EINVAL, "%s: at %p is no buffer: freed, or before its start?", call, ptr);
    if (!range->slot)
        return check_foreign(ptr, length, call);
    range->left = segment->slot_size - range->offset;
    if (!live)
        return fail(-EINVAL, "%s: %p is in a buffer that is not live: freed?", call, ptr);
    if (length > range->left)
        return fail(-EINVAL, "%s: %zu bytes from %p end past the buffer, which has %zu left there", call, length, ptr,
                    range->left);
    return 0;
}

int range_find(const void *ptr, size_t length, const char *call, struct range *range)
{
    struct slot *slot = arena_live(ptr);
    size_t size = slot ? slot_segment(slot)->slot_size : 0;
    if (!slot || length > size)
        return find_inside(ptr, length, call, range);
    *range = (struct range){.slot = slot, .left = size};
    return 0;
}

int range_find_own(const void *ptr, size_t length, const char *call, struct range *range)
{
    if (arena.forked)
        return fail(-EPERM, "%s: a forked child cannot use its parent's buffer at %p", call, ptr);
    int error = range_find(ptr, length, call, range);
    if (error || range->slot)
        return error;
    if (fallback_has(ptr))
        return fail(-EINVAL,
                    "%s: %p is a full pool's fall-back, which zc_send, zc_recv, zc_realloc and zc_free take, but which "
                    "cannot be protected (see ZC_FULL_FALLBACK)",
                    call, ptr);
    return fail(-EINVAL, "%s: %p is not zc memory (see zc_alloc)", call, ptr);
}
