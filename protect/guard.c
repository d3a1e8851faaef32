/* SPDX-License-Identifier: MIT */
#include "protect/guard.h"

#include <pthread.h>
#include <stdlib.h>

#include "core/lock.h"
#include "core/options.h"
#include "core/thread.h"
#include "protect/conflict.h"
#include "protect/open.h"
#include "protect/range.h"
#include "protect/sweep.h"

static void describe_own(const struct hold *hold, struct text *text)
{
    (void)hold;
    text_add(text, "is guarded by the program");
}

/* Another thread may end them at any time, so waiting makes sense. */
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

const struct hold_rules *guard_rules(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, open_once);
    return &rules;
}

/* What a struct zc_guard stands for. Recycled and never freed, so that a copy of one that has ended is known as
 * such. */
struct guard {
    struct hold hold;   /* first */
    struct guard *next; /* of the free ones */
    uint64_t turn;      /* in force where the program's says the same */
};

static lock guards; /* also their turns */
static struct guard *free_guards;

static struct guard *take_guard(void)
{
    lock_take(&guards);
    struct guard *guard = free_guards;
    if (guard)
        free_guards = guard->next;
    lock_drop(&guards);
    return guard ? guard : calloc(1, sizeof *guard);
}

static void give_guard(struct guard *guard)
{
    lock_take(&guards);
    guard->next = free_guards;
    free_guards = guard;
    lock_drop(&guards);
}

/* Whoever comes first ends it. */
static bool end_turn(struct guard *guard, uint64_t turn)
{
    lock_take(&guards);
    bool in_force = guard->turn == turn;
    guard->turn += in_force;
    lock_drop(&guards);
    return in_force;
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
            sweep();
            continue;
        }
        /* Whoever waits for sends of the buffer is served first. But perhaps nobody waits any more, or the wait lasts
         * until the peer receives: so end the sends as a store would. */
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
            sweep();
            swept = true;
            continue;
        }
        if (error)
            return fail(error, "zc_guard: %s",
                        error == -EBUSY ? "a receive, perhaps one that failed, or a guard holds some of these bytes"
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
        error = protect_open(); /* memory of the malloc preload needs no handler until it is protected */
    if (!error && slot_is_stack(range.slot))
        error = fail(-EINVAL, "zc_guard: %p is in the stack of this thread", buf);
    if (error)
        return error;
    struct guard *own = take_guard();
    if (!own)
        return fail(-ENOMEM, "zc_guard: no memory");
    struct hold *hold = &own->hold;
    *hold = (struct hold){.slot = range.slot, .offset = range.offset, .length = len, .rules = guard_rules()};
    const char *reads = NULL;
    char *writes = NULL;
    size_t size = range.offset + range.left;
    if (len == 0) /* holds nothing */
        reads = slot_wire(range.slot) + range.offset;
    else
        error = deny == ZC_DENY_STORES ? guard_stores(hold, size, &reads) : guard_all(hold, size, &writes);
    if (error) {
        give_guard(own);
        return error;
    }
    *guard = (struct zc_guard){
        .wire = writes ? writes : (void *)(uintptr_t)reads, .length = len, .hold = own, .turn = own->turn};
    return 0;
}

int zc_unguard(struct zc_guard *guard)
{
    if (!guard)
        return 0;
    struct guard *own = guard->hold;
    if (own && arena.forked)
        return fail(-EPERM, "zc_unguard: a forked child cannot use its parent's guard");
    if (!own || !end_turn(own, guard->turn))
        return fail(-EINVAL, "zc_unguard: the guard is not in force: ended twice, or never begun?");
    if (own->hold.backing)
        hold_end(&own->hold);
    else if (own->hold.length)
        hold_withdraw(&own->hold);
    give_guard(own);
    *guard = (struct zc_guard){0};
    return 0;
}

int zc_pin(void *buf, void **wire)
{
    struct range range;
    struct backing *backing;
    int error = range_find_own(buf, 1, "zc_pin", &range);
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
    int error = range_find_own(buf, 1, "zc_unpin", &range);
    if (error)
        return error;
    struct backing *backing = slot_lock(range.slot);
    bool pinned = range.slot->pinned;
    range.slot->pinned = false;
    slot_unlock(backing);
    return pinned ? 0 : fail(-EINVAL, "zc_unpin: the buffer at %p is not pinned", buf);
}
