/* SPDX-License-Identifier: MIT */
#include "protect/lend.h"

#include <pthread.h>
#include <string.h>

#include "core/options.h"
#include "core/thread.h"
#include "protect/conflict.h"
#include "protect/fault.h"
#include "protect/helper.h"
#include "protect/open.h"
#include "protect/pages.h"
#include "protect/range.h"
#include "protect/reserve.h"

static void describe(const struct hold *hold, struct text *text)
{
    const struct zc_loan *loan = loan_of(hold);
    text_add(text, "is lent to ");
    text_add(text, loan->call);
    if (loan->peer >= 0) {
        text_add(text, ", rank ");
        text_add_number(text, (uint64_t)loan->peer);
    }
    if (loan->tag >= 0) {
        text_add(text, ", tag ");
        text_add_number(text, (uint64_t)loan->tag);
    }
    text_add(text, ", ");
    text_add_number(text, hold->length);
    text_add(text, " bytes from byte ");
    text_add_number(text, hold->offset);
}

static struct hold_rules rules = {.lent = true, .describe = describe};

/* ---- opening ---- */

static void progress(void *unused)
{
    (void)unused;
    conflict_interposer->progress();
}

static struct kept_error opening;

static void open_once(void)
{
    static struct progressor progressor = {.progress = progress};
    const struct options *options;
    int error = protect_open();
    if (!error)
        error = options_get(&options);
    if (!error && conflict_interposer->threads())
        error = helper_attach(&progressor);
    error_keep(&opening, error);
    if (error)
        return;
    rules.helper = conflict_interposer->threads();
    rules.conflict = options->conflict;
    rules.on_conflict = options->on_conflict;
    rules.on_timeout = options->on_timeout;
    rules.policy = options->policy;
    rules.release = options->release;
    rules.timeout_ns = options->fault_timeout_ms * 1000000;
}

/* Fills in the loan of a range, nothing of which is held yet. */
static int begin(struct zc_loan *loan, const void *buf, size_t length, enum zc_lend how, struct range *range)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, open_once);
    int error = error_again(&opening);
    if (!error)
        error = range_find_own(buf, length, loan->call, range);
    loan->how = how;
    loan->copy = NULL;
    loan->tentative = false;
    loan->hold = (struct hold){.slot = range->slot, .offset = range->offset, .length = length, .rules = &rules};
    return error;
}

void zc_interpose(const struct zc_interposer *interposer)
{
    conflict_interposer = interposer;
    if (atomic_load_explicit(&arena.span, memory_order_acquire) && !arena.forked)
        fault_reinstall();
}

bool zc_lend_own(const void *address)
{
    return arena_has_wire(address);
}

/* ---- lending ---- */

/* Keeps the slot's pages where they are, and no more: a receive of no bytes. What is sent meanwhile is copied, so that
 * nothing is renamed. */
static int keep_pages(struct hold *hold, size_t size, char **wire)
{
    struct backing *backing;
    int error = conflict_own(hold->slot, 0, size, WITH_SENDS | BUT_LOANS, &backing);
    if (error)
        return error;
    slot_unreserve(hold->slot);
    hold->length = 0;
    hold->protects = false;
    hold_own(hold);
    if (loan_of(hold)->how == ZC_LEND_OPEN)
        slot_settle(hold->slot, backing);
    *wire = backing_wire(backing) + hold->offset;
    slot_unlock(backing);
    return 0;
}

/* Lends a copy instead. */
static int lend_copy(struct zc_loan *loan, const char **wire)
{
    const struct hold *hold = &loan->hold;
    loan->copy = zc_alloc(hold->length);
    if (!loan->copy)
        return fail(-ENOMEM, "%s: no memory for a copy of %zu bytes", loan->call, hold->length);
    struct slot *slot = slot_find(loan->copy);
    char *to = slot ? slot_wire(slot) : loan->copy; /* a fall-back's */
    hold_copy_out(hold->slot, hold->offset, hold->length, to);
    *wire = to;
    return 0;
}

int zc_lend_read(struct zc_loan *loan, const void *buf, size_t length, enum zc_lend how, bool full, const void **wire)
{
    struct range range;
    struct backing *backing;
    struct hold *hold = &loan->hold;
    const char *from = NULL;
    char *kept = NULL;
    int error = begin(loan, buf, length, how, &range);
    if (!error && full) {
        error = conflict_own(hold->slot, hold->offset, length, WITH_RECEIVES, &backing);
        if (!error)
            slot_unlock(backing);
    }
    if (error)
        return error;
    if (how == ZC_LEND_BRIEF && rules.policy != ZC_POLICY_PROTECT) {
        from = hold_send_tentative(hold);
        loan->tentative = from != NULL;
    }
    if (how == ZC_LEND_CALL) {
        from = hold_send_given(hold);
        error = from ? 0 : keep_pages(hold, range.offset + range.left, &kept);
        from = from ? from : kept;
    } else if (!from) {
        from = hold_send(hold);
        error = from ? 0 : lend_copy(loan, &from);
    }
    if (!error)
        *wire = from;
    return error;
}

int zc_lend_write(struct zc_loan *loan, void *buf, size_t length, enum zc_lend how, bool full, void **wire)
{
    struct range range;
    struct backing *backing;
    struct hold *hold = &loan->hold;
    char *to;
    int error = begin(loan, buf, length, how, &range);
    if (!error && full)
        error = conflict_own(hold->slot, hold->offset, length, WITH_BOTH | BUT_LOANS, &backing);
    if (error)
        return error;
    if (full) {
        slot_unlock(backing);
        bool guarded = how != ZC_LEND_CALL && !slot_is_stack(hold->slot);
        error = hold_receive(hold, guarded, &to);
        if (error == -ENOMEM && guarded) /* what cannot be protected goes without */
            error = hold_receive(hold, false, &to);
    }
    if (!full || error == -EBUSY) /* others are received into some of the bytes */
        error = keep_pages(hold, range.offset + range.left, &to);
    if (error)
        return error;
    if (hold->bounce) /* not all of it may be written, and all comes back */
        hold_copy_out(hold->slot, hold->offset, length, to);
    *wire = to;
    return 0;
}

bool zc_lend_keep(struct zc_loan *loan)
{
    bool kept = !loan->tentative || hold_send_keep(&loan->hold);
    loan->tentative = false;
    return kept;
}

void zc_lend_end(struct zc_loan *loan)
{
    if (loan->copy)
        zc_free(loan->copy);
    else if (loan->hold.backing)
        hold_end(&loan->hold);
    else
        hold_done(&loan->hold, loan->hold.length);
}

int zc_lend_touch(const void *buf, size_t length, bool store)
{
    struct range range;
    int error = range_find_own(buf, 1, "zc_lend_touch", &range);
    if (error)
        return error;
    if (lock_mine(&atomic_load(&range.slot->backing)->lock)) /* a signal handler that interrupted what works on it */
        return 0;
    struct backing *backing = slot_lock(range.slot);
    bool open = range.slot->protected_pages == 0;
    slot_unlock(backing);
    return open ? 0 : conflict_touch(range.slot, range.offset, length < range.left ? length : range.left, store);
}
