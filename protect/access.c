/* SPDX-License-Identifier: MIT
 *
 * Access without faults: explicit forms of what a fault does, and the application's own holds. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/options.h"
#include "core/stats.h"
#include "core/thread.h"
#include "protect/conflict.h"
#include "protect/fault.h"
#include "protect/pages.h"
#include "protect/policy.h"
#include "protect/range.h"
#include "protect/sweep.h"

static void describe_own(const struct hold *hold, struct text *text)
{
    (void)hold;
    text_add(text, "is guarded by the program");
}

/* For holds of the program itself: another thread may end them at any time, so waiting makes sense. */
static struct hold_rules rules = {
    .policy = ZC_POLICY_PROTECT, .release = ZC_RELEASE_EAGER, .helper = true, .describe = describe_own};

/* The rest, which variables say. */
static void open_once(void)
{
    const struct options *options;
    if (options_get(&options))
        return; /* cannot be: then nobody has a buffer */
    rules.conflict = options->conflict;
    rules.on_conflict = options->on_conflict;
    rules.on_timeout = options->on_timeout;
    rules.timeout_ns = options->fault_timeout_ms * 1000000;
}

static void open_rules(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, open_once);
}

int zc_writable(void *buf)
{
    struct range range;
    struct backing *backing;
    int error = range_find_own(buf, 0, "zc_writable", &range);
    if (error)
        return error;
    struct slot *slot = range.slot;
    error = conflict_own(slot, 0, range.offset + range.left, WITH_BOTH, &backing);
    if (error)
        return fail(error, "zc_writable: a receive into the buffer at %p failed", buf);
    if (slot->guard_pages)
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

int zc_write(void *dst, const void *src, size_t n)
{
    struct range to, from;
    struct backing *backing;
    int error = range_find_own(dst, n, "zc_write", &to);
    if (!error)
        error = range_find(src, n, "zc_write", &from);
    if (error)
        return error;
    bool between = from.slot && from.slot != to.slot;
    if (between)
        open_rules();
    if (from.slot) {
        error = conflict_own(from.slot, from.offset, n, WITH_RECEIVES, &backing);
        if (error)
            return fail(error, "zc_write: a receive into the source at %p failed", src);
        slot_unlock(backing);
    }
    error = between ? own_alone(&to, n, &backing) : conflict_own(to.slot, to.offset, n, WITH_BOTH, &backing);
    if (error)
        return fail(error, "zc_write: a receive into the buffer at %p failed", dst);
    char *wire = backing_wire(backing);
    if (between) {
        /* One lock at a time: a hold keeps the destination's pages while the source is locked. It writes, so no send
         * may be in flight from them: a store would rename them away. */
        struct hold own = {.slot = to.slot, .offset = to.offset, .length = n, .rules = &rules};
        hold_own(&own);
        slot_unlock(backing);
        hold_copy_out(from.slot, from.offset, n, wire + to.offset);
        hold_withdraw(&own);
        return 0;
    }
    if (n)
        memmove(wire + to.offset, from.slot ? wire + from.offset : src, n);
    slot_unlock(backing);
    return 0;
}

static int guard_stores(struct hold *hold, size_t size, const char **wire)
{
    bool again = false;
    while (!(*wire = hold_send(hold))) {
        struct backing *backing = slot_lock(hold->slot);
        bool closed = slot_closed(hold->slot), awaited = hold->slot->awaited, pinned = hold->slot->pinned;
        slot_unlock(backing);
        if (closed)
            return fail(-EBUSY, "zc_guard: a receive into the buffer is in flight, or failed and was not waited for");
        if (pinned)
            return fail(-EBUSY, "zc_guard: the buffer is pinned, so that an early store could not go on");
        if (!awaited && again)
            return fail(-ENOMEM, "zc_guard: no spare slot or no mappings are left to protect the buffer");
        again = !awaited; /* perhaps it was until now */
        if (!awaited) {
            maps_sweep();
            continue;
        }
        /* Who waits for sends is served first. That may be nobody any more, or not end before the peer receives: so
         * end them as a store would. */
        int error = conflict_own(hold->slot, 0, size, WITH_SENDS, &backing);
        if (error)
            return error;
        slot_unlock(backing);
    }
    return 0;
}

static int guard_all(struct hold *hold, size_t size, char **wire)
{
    for (bool swept = false;;) {
        struct backing *backing;
        int error = conflict_own(hold->slot, 0, size, WITH_SENDS, &backing);
        if (!error) {
            slot_unlock(backing);
            error = hold_receive(hold, true, wire);
        }
        if (error == -ENOMEM && !swept) {
            maps_sweep();
            swept = true;
            continue;
        }
        if (error)
            return fail(error, "zc_guard: %s",
                        error == -EBUSY ? "a receive or guard holds some of these bytes already"
                                        : "no mappings are left to protect the buffer");
        if (!hold->bounce)
            return 0;
        hold_withdraw(hold); /* another thread sent it meanwhile */
    }
}

int zc_guard(void *buf, size_t len, enum zc_deny deny, struct zc_guard *guard)
{
    struct range range;
    if (!guard)
        return fail(-EINVAL, "zc_guard: guard is NULL");
    if (deny != ZC_DENY_STORES && deny != ZC_DENY_ALL)
        return fail(-EINVAL, "zc_guard: deny %d, expected ZC_DENY_STORES or ZC_DENY_ALL", (int)deny);
    int error = range_find_own(buf, len, "zc_guard", &range);
    if (!error)
        error = fault_open(); /* memory of the malloc preload needs no handler until it is protected */
    if (error)
        return error;
    open_rules();
    struct hold *hold = calloc(1, sizeof *hold);
    if (!hold)
        return fail(-ENOMEM, "zc_guard: no memory");
    *hold = (struct hold){.slot = range.slot, .offset = range.offset, .length = len, .rules = &rules};
    const char *reads = NULL;
    char *writes = NULL;
    size_t size = range.offset + range.left;
    error = deny == ZC_DENY_STORES ? guard_stores(hold, size, &reads) : guard_all(hold, size, &writes);
    if (error) {
        free(hold);
        return error;
    }
    *guard = (struct zc_guard){.wire = writes ? writes : (void *)(uintptr_t)reads, .length = len, .hold = hold};
    return 0;
}

int zc_unguard(struct zc_guard *guard)
{
    if (!guard)
        return 0;
    struct hold *hold = guard->hold;
    if (!hold)
        return fail(-EINVAL, "zc_unguard: the guard is not in force: ended twice, or never begun?");
    if (arena.forked)
        return fail(-EPERM, "zc_unguard: a forked child cannot use its parent's guard");
    if (hold->backing)
        hold_end(hold);
    else
        hold_withdraw(hold);
    free(hold);
    *guard = (struct zc_guard){0};
    return 0;
}

int zc_pin(void *buf, void **wire)
{
    struct range range;
    struct backing *backing;
    int error = range_find_own(buf, 0, "zc_pin", &range);
    if (!error)
        error = conflict_own(range.slot, 0, range.offset + range.left, WITH_SENDS, &backing);
    if (error)
        return error;
    range.slot->pinned = true;
    slot_share(range.slot);
    if (wire)
        *wire = backing_wire(backing) + range.offset;
    slot_unlock(backing);
    return 0;
}

int zc_unpin(void *buf)
{
    struct range range;
    int error = range_find_own(buf, 0, "zc_unpin", &range);
    if (error)
        return error;
    struct backing *backing = slot_lock(range.slot);
    bool pinned = range.slot->pinned;
    range.slot->pinned = false;
    slot_unlock(backing);
    return pinned ? 0 : fail(-EINVAL, "zc_unpin: the buffer at %p is not pinned", buf);
}
