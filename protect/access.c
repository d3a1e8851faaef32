/* SPDX-License-Identifier: MIT
 *
 * Access without faults: explicit forms of what a fault does. */
#include <errno.h>
#include <string.h>

#include "protect/conflict.h"
#include "protect/guard.h"
#include "protect/pages.h"
#include "protect/policy.h"
#include "protect/range.h"

int zc_writable(void *buf)
{
    struct range range;
    struct backing *backing;
    int error = range_find_own(buf, 1, "zc_writable", &range);
    if (error)
        return error;
    struct slot *slot = range.slot;
    error = conflict_own(slot, 0, range.offset + range.left, WITH_BOTH, &backing);
    if (error)
        return fail(error, "zc_writable: a receive into the buffer at %p failed", buf);
    if (slot->protected_pages)
        policy_written(slot_pool(slot), slot);
    slot_settle(slot, backing);
    slot_unlock(backing);
    return 0;
}

/* The range of a slot on whose backing no send is in flight at all, locked. */
static int own_alone(const struct range *range, size_t n, struct backing **out)
{
    for (;;) {
        int error = conflict_own(range->slot, range->offset, n, WITH_BOTH, out);
        if (error || !(*out)->sends)
            return error;
        slot_unlock(*out);
        error = conflict_own(range->slot, 0, range->offset + range->left, WITH_SENDS, out);
        if (error)
            return error;
        slot_unlock(*out);
    }
}

/* One lock at a time: a hold keeps the destination's pages while the source is locked. It writes, so no send may be in
 * flight from them: a store would rename them away. */
static int write_between(const struct range *to, const struct range *from, size_t n)
{
    struct hold own = {.slot = to->slot, .offset = to->offset, .length = n, .rules = guard_rules()};
    struct backing *backing;
    int error = own_alone(to, n, &backing);
    if (error)
        return error;
    hold_own(&own);
    slot_unlock(backing);
    hold_copy_out(from->slot, from->offset, n, backing_wire(backing) + to->offset);
    hold_withdraw(&own);
    return 0;
}

/* From memory that zc does not know, or the same slot. */
static int write_within(const struct range *to, const struct range *from, const void *src, size_t n)
{
    struct backing *backing;
    int error = conflict_own(to->slot, to->offset, n, WITH_BOTH, &backing);
    if (error)
        return error;
    char *wire = backing_wire(backing);
    if (n)
        memmove(wire + to->offset, from->slot ? wire + from->offset : src, n);
    slot_unlock(backing);
    return 0;
}

int zc_write(void *dst, const void *src, size_t n)
{
    struct range to, from;
    struct backing *backing;
    int error = range_find_own(dst, n, "zc_write", &to);
    if (!error && !src && n)
        error = fail(-EINVAL, "zc_write: src is NULL and n is %zu", n);
    if (!error)
        error = range_find(src, n, "zc_write", &from);
    if (error)
        return error;
    if (from.slot) {
        error = conflict_own(from.slot, from.offset, n, WITH_RECEIVES, &backing);
        if (error)
            return fail(error, "zc_write: a receive into the source at %p failed", src);
        slot_unlock(backing);
    }
    bool between = from.slot && from.slot != to.slot;
    error = between ? write_between(&to, &from, n) : write_within(&to, &from, src, n);
    return error ? fail(error, "zc_write: a receive into the buffer at %p failed", dst) : 0;
}
