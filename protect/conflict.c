/* SPDX-License-Identifier: MIT */
#include "protect/conflict.h"

#include <stdlib.h>

#include "core/clock.h"
#include "core/signals.h"
#include "core/stats.h"
#include "protect/helper.h"
#include "protect/lend.h"
#include "protect/pages.h"
#include "protect/policy.h"

enum {
    SLICE_NS = 5000000, /* sleep at most this long, then kick the helper again */
    SPINS = 1000,       /* progress calls of a waiting zc call before it lets others run */
    SPIN_NAP_NS = 20000
};

static void no_progress(void) {}

void (*_Atomic conflict_progress)(void) = no_progress;

static bool never(void)
{
    return false;
}

static const struct zc_interposer no_interposer = {
    .inside = never, .threads = never, .serial = never, .progress = no_progress};

const struct zc_interposer *_Atomic conflict_interposer = &no_interposer;

static void describe_access(struct text *text, const struct conflict *c, const struct slot *slot, size_t offset)
{
    text_add(text, "thread ");
    text_add_number(text, (uint64_t)(c->thread ? c->thread : sys_tid()));
    text_add(text, " touches byte ");
    text_add_number(text, offset);
    text_add(text, " of the buffer at ");
    text_add_address(text, slot_user(slot));
}

static void tell(const char *what, const struct conflict *c, const struct slot *slot, size_t offset,
                 const struct hold *hold)
{
    struct text text = {0};
    text_add(&text, "zc: ");
    text_add(&text, what);
    describe_access(&text, c, slot, offset);
    text_add(&text, " while it ");
    hold->rules->describe(hold, &text);
    text_add(&text, "\n");
    text_print(&text);
}

/* ---- loans ---- */

/* Tells of the loans in the list that hold bytes which are touched. True: that is to be fatal. */
static bool sighted(const struct slot *slot, const struct hold *list, const struct conflict *c, bool freed)
{
    void (*observe)(const struct zc_sighting *) = conflict_interposer->sighted;
    bool fatal = false;
    for (const struct hold *hold = list; hold; hold = hold->next) {
        if (!hold->rules->lent || !hold_overlaps(hold, c->offset, c->length) || loan_of(hold)->lawful)
            continue;
        struct zc_sighting sighting = {.loan = loan_of(hold),
                                       .buffer = slot_user(slot),
                                       .offset = hold->offset > c->offset ? hold->offset : c->offset,
                                       .store = c->store,
                                       .freed = freed};
        if (observe)
            observe(&sighting);
        else if (hold->rules->on_conflict >= ZC_ON_CONFLICT_REPORT)
            tell("conflict: ", c, slot, sighting.offset, hold);
        fatal |= hold->rules->on_conflict == ZC_ON_CONFLICT_ABORT;
    }
    return fatal;
}

/* Tells of every loan of the bytes that are touched: other bytes of a page are the program's own. */
static void sight(const struct slot *slot, const struct backing *backing, const struct conflict *c, bool freed)
{
    bool fatal = sighted(slot, slot->receives, c, freed);
    if (c->store)
        fatal |= sighted(slot, backing->sends, c, freed);
    if (fatal)
        abort();
}

static bool any_lent(const struct hold *hold)
{
    while (hold && !hold->rules->lent)
        hold = hold->next;
    return hold;
}

void conflict_freed(const struct slot *slot, const struct backing *backing)
{
    if (!any_lent(slot->receives) && !any_lent(backing->sends))
        return;
    struct conflict all = {.length = slot_segment(slot)->slot_size, .store = true};
    sight(slot, backing, &all, true);
}

/* Gives up protecting pages of a receive that was lent, for an access that cannot wait for it, since nobody could end
 * it meanwhile. Drops the lock. */
static void give_way(struct slot *slot, struct backing *backing, struct hold *hold, const struct conflict *c)
{
    sight(slot, backing, c, false);
    hold->protects = false;
    slot_settle(slot, backing);
    slot_unlock(backing);
}

/* ---- conflicts ---- */

/* The access will not end well: hands it to the communicator's error handler. Drops the lock. */
static void refuse(struct slot *slot, struct backing *backing, const struct hold *hold, const struct conflict *c,
                   int error, const char *why)
{
    const struct hold_rules *rules = hold->rules;
    struct text text = {0};
    describe_access(&text, c, slot, c->offset);
    text_add(&text, why);
    hold->rules->describe(hold, &text);
    text.bytes[text.length < sizeof text.bytes ? text.length : sizeof text.bytes - 1] = 0;
    slot_unlock(backing);
    uint64_t closed;
    if (c->signals)
        signals_pause(c->signals, &closed);
    rules->touched(rules, error, text.bytes);
    if (c->signals)
        signals_resume(&closed);
}

/* Lets a little time pass for holds to end: `most_ns` at most. Drops the lock. */
static void let_pass(struct slot *slot, struct backing *backing, struct conflict *c, uint64_t most_ns)
{
    uint64_t slice = c->call ? SPIN_NAP_NS : SLICE_NS;
    if (!c->call || c->spins++ >= SPINS) {
        c->sleep_ns = most_ns < slice ? most_ns : slice;
        slot->awaited = true;
        c->event = atomic_load_explicit(&slot->event, memory_order_relaxed);
    }
    slot_unlock(backing);
}

/* Tells of a receive that failed: a call each time, touches until the error handler has returned, and so lets them see
 * what is there. Drops the lock. */
static void show_failure(struct slot *slot, struct backing *backing, struct hold *hold, struct conflict *c)
{
    if (c->call) {
        c->error = hold->error;
        slot_unlock(backing);
        return;
    }
    refuse(slot, backing, hold, c, hold->error, ", where nothing was received: it ");
    backing = slot_lock(slot);
    /* Another thread may have reported it meanwhile. */
    if (slot_denies(slot, backing, (uint32_t)(c->offset >> PAGE_SHIFT), false) == hold && hold->landed)
        hold->shown = true;
    slot_unlock(backing);
}

static size_t touched_byte(const struct hold *hold, const struct conflict *c)
{
    return c->call ? hold->offset : c->offset;
}

/* What the first step does beside: counts, tells, and says how long to wait. */
static void begin(struct slot *slot, const struct backing *backing, const struct hold *hold, struct conflict *c,
                  uint64_t now)
{
    const struct hold_rules *rules = hold->rules;
    c->start = now;
    /* At most twice the better choice: renaming at once, or having waited. */
    c->deadline = now + policy_cost(slot_pool(slot), COST_RENAME, 0);
    sight(slot, backing, c, false);
    if (hold->backing) {
        count(conflicts);
        if (!rules->lent && rules->on_conflict >= ZC_ON_CONFLICT_REPORT)
            tell("conflict: ", c, slot, touched_byte(hold, c), hold);
        if (!rules->lent && rules->on_conflict == ZC_ON_CONFLICT_ABORT)
            abort();
        policy_written(slot_pool(slot), slot);
        c->stored = !c->call;
    }
    count(waits);
}

/* It takes too long. */
static void complain(const struct slot *slot, const struct hold *hold, struct conflict *c)
{
    c->told = true;
    tell("still waiting: ", c, slot, touched_byte(hold, c), hold);
    if (hold->rules->on_timeout == ZC_ON_TIMEOUT_ABORT)
        abort();
}

/* One step towards the end of a conflict with `hold`, which never sleeps. Drops the lock. */
static void step(struct slot *slot, struct backing *backing, struct hold *hold, struct conflict *c)
{
    const struct hold_rules *rules = hold->rules;
    bool receive = hold->backing == NULL;
    uint64_t now = clock_ns();

    c->sleep_ns = 0;
    if (receive && hold->landed) {
        show_failure(slot, backing, hold, c);
        return;
    }
    /* Another thread must make progress for an access: there may be none, or this one keeps it from doing so. */
    bool alone = !c->call && (!rules->helper || conflict_interposer->inside());
    if (receive && rules->lent && alone) {
        give_way(slot, backing, hold, c);
        return;
    }
    if (receive && !c->call && !rules->helper) {
        refuse(slot, backing, hold, c, -EPERM,
               ", and below MPI_THREAD_MULTIPLE nobody can wait for it here (zc_wait first): it ");
        abort(); /* what is touched is not there */
    }
    if (!c->start)
        begin(slot, backing, hold, c, now);
    bool rename = !receive && slot_can_rename(slot) && (rules->conflict != ZC_CONFLICT_WAIT || alone);
    bool late = rules->conflict == ZC_CONFLICT_COPY || alone || now >= c->deadline;
    if (rename && late) {
        slot_rename(slot, backing);
        return;
    }
    if (now - c->start > rules->timeout_ns && !c->told)
        complain(slot, hold, c);
    let_pass(slot, backing, c, rename ? c->deadline - now : SLICE_NS);
}

/* A step towards making the page of the first byte accessible. */
static enum conflict_end step_page(struct conflict *c, struct slot *slot)
{
    uint32_t page = (uint32_t)(c->offset >> PAGE_SHIFT);
    struct backing *backing = slot_lock(slot);
    if (!slot_is(slot, SLOT_LIVE)) {
        slot_unlock(backing);
        return CONFLICT_DEAD;
    }
    struct hold *hold = slot_denies(slot, backing, page, c->store);
    if (hold && hold->landed && c->asleep) { /* only who does touch a failed receive is refused */
        slot_unlock(backing);
        return CONFLICT_AGAIN;
    }
    if (hold) {
        step(slot, backing, hold, c);
        return CONFLICT_GOES_ON;
    }
    bool protected = page - slot->protected_first < slot->protected_pages;
    if (slot_is_private(slot)) { /* unprotected; and it may be freed without its lock, and trimmed away */
        slot_unlock(backing);
        return c->start ? CONFLICT_ENDED : CONFLICT_NONE;
    }
    struct zc_pool *pool = slot_pool(slot);
    if (protected) {
        if (!c->start) {
            policy_written(pool, slot);
            count(faults_idle);
        }
        if (!slot_can_settle(slot, backing) && slot_can_rename(slot)) {
            slot_rename(slot, backing);
            return CONFLICT_ENDED;
        }
        slot_settle(slot, backing);
    }
    if (c->stored)
        policy_observe(pool, COST_STORE, pool->slot_size, clock_ns() - c->start);
    else if (protected)
        policy_observe(pool, COST_STORE, pool->slot_size, policy_cost(pool, COST_UNPROTECT, 0));
    slot_unlock(backing);
    return protected || c->start ? CONFLICT_ENDED : CONFLICT_NONE;
}

enum conflict_end conflict_step(struct conflict *c, struct slot *slot, size_t offset, bool store)
{
    c->offset = offset;
    c->length = 1; /* more is not known of an access */
    c->store = store;
    return step_page(c, slot);
}

/* Sleeps as the last step said; a call makes progress. */
static void go_on(const struct conflict *c, struct slot *slot)
{
    if (c->sleep_ns) {
        uint64_t closed;
        if (!c->call)
            helper_kick(clock_ns() + 2 * c->sleep_ns);
        if (c->signals)
            signals_pause(c->signals, &closed);
        futex_wait(&slot->event, c->event, c->sleep_ns);
        if (c->signals)
            signals_resume(&closed);
    }
    if (!c->call)
        return;
    conflict_progress();
    conflict_interposer->progress();
}

/* All steps. */
static enum conflict_end resolve(struct conflict *c, struct slot *slot)
{
    enum conflict_end end;
    while ((end = step_page(c, slot)) == CONFLICT_GOES_ON && !c->error)
        go_on(c, slot);
    return end;
}

enum conflict_end conflict_resolve(struct slot *slot, size_t offset, bool store, const void *signals)
{
    struct conflict conflict = {.offset = offset, .length = 1, .store = store, .signals = signals};
    return resolve(&conflict, slot);
}

int conflict_touch(struct slot *slot, size_t offset, size_t length, bool store)
{
    struct conflict conflict = {0};
    bool call = !conflict_interposer->serial(); /* where no progress can be made, it is as good as an access */
    for (size_t end = offset + length, n; offset < end && !conflict.error; offset += n) {
        n = PAGE_BYTES - offset % PAGE_BYTES;
        n = n < end - offset ? n : end - offset;
        conflict = (struct conflict){.call = call, .offset = offset, .length = n, .store = store};
        resolve(&conflict, slot);
    }
    return conflict.error;
}

/* May another loan go beside this one? What is read until a call returns is not protected, and nothing is reserved to
 * rename it: who waited for it might wait for its own call. Receives into the same bytes are the program's mistake, but
 * without zc they end. */
static bool goes_beside(const struct hold *hold, enum conflict_with with)
{
    return with & BUT_LOANS && hold->rules->lent && (!hold->backing || loan_of(hold)->how == ZC_LEND_CALL);
}

static struct hold *in_the_way(const struct slot *slot, const struct backing *backing, size_t offset, size_t length,
                               enum conflict_with with)
{
    for (struct hold *hold = slot->receives; hold && (with & WITH_RECEIVES); hold = hold->next)
        if (hold_closed(hold) && hold_overlaps(hold, offset, length) && !goes_beside(hold, with))
            return hold;
    for (struct hold *hold = backing->sends; hold && (with & WITH_SENDS); hold = hold->next)
        if (hold_overlaps(hold, offset, length) && !goes_beside(hold, with))
            return hold;
    return NULL;
}

int conflict_own(struct slot *slot, size_t offset, size_t length, enum conflict_with with, struct backing **out)
{
    struct conflict conflict = {.call = true, .offset = offset, .store = (with & WITH_SENDS) != 0};
    conflict.length = with & WITH_RECEIVES ? length : 0;
    for (;;) {
        struct backing *backing = slot_lock(slot);
        struct hold *hold = in_the_way(slot, backing, offset, length, with);
        if (!hold) {
            if (with & BUT_LOANS && !conflict.start && sighted(slot, slot->receives, &conflict, false))
                abort();
            *out = backing;
            return 0;
        }
        step(slot, backing, hold, &conflict);
        if (conflict.error)
            return conflict.error;
        go_on(&conflict, slot);
    }
}
