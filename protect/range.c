/* SPDX-License-Identifier: MIT */
#include "protect/range.h"

#include "core/error.h"

int range_find(const void *ptr, size_t length, const char *call, struct range *range)
{
    struct slot *slot = slot_find(ptr);
    *range = (struct range){.slot = slot};
    if (!slot)
        return 0;
    if (!slot_is(slot, SLOT_LIVE))
        return fail(-EINVAL, "%s: %p is in a buffer that is not live: freed?", call, ptr);
    range->offset = (size_t)((const char *)ptr - slot_user(slot));
    range->left = slot_segment(slot)->slot_size - range->offset;
    if (length > range->left)
        return fail(-EINVAL, "%s: %zu bytes from %p end past the buffer, which has %zu left there", call, length, ptr,
                    range->left);
    return 0;
}

int range_find_own(const void *ptr, size_t length, const char *call, struct range *range)
{
    int error = range_find(ptr, length, call, range);
    if (!error && !range->slot)
        return fail(-EINVAL, "%s: %p is not zc memory (see zc_alloc)", call, ptr);
    return error;
}
