/* SPDX-License-Identifier: MIT
 *
 * Completion by buffer. */
#include <sched.h>
#include <time.h>

#include "core/stats.h"
#include "protect/conflict.h"
#include "protect/pages.h"
#include "protect/range.h"
#include "transport/comm.h"

enum { NAP_NS = 20000 }; /* where nothing tells of what is waited for: as protect/conflict.c naps */

enum found { FOUND_DONE, FOUND_BUSY, FOUND_REFUSED };

/* The communicator that the send is over, unless that is being closed; `leave` it afterwards. NULL for what is no
 * message: a loan or a guard. */
static zc_comm *enter(const struct hold *send)
{
    zc_comm *comm = send->rules->comm ? ((const struct op *)send)->comm : NULL;
    return comm && comm_callable(comm) && comm_enter(comm) ? comm : NULL;
}

/* Looks at what `range` names. FOUND_DONE: it is reported, in *status, whose error is set. FOUND_BUSY: *comm is where
 * to wait, to be left by comm_leave; or NULL. FOUND_REFUSED: *comm is a receive's, and not for this thread. *awaited is
 * the receive that was found busy last, or NULL, to be given back by op_free: if another thread cancels it, that is
 * told. */
static enum found look(const struct range *range, struct op **awaited, zc_status *status, zc_comm **comm)
{
    struct slot *slot = range->slot;
    struct backing *backing = slot_lock(slot);
    struct hold *hold = hold_receive_at(slot, range->offset);
    const struct hold *other;
    struct op *over = NULL; /* for this caller */
    enum found found = FOUND_DONE;
    *status = (zc_status){.source = -1, .tag = -1};
    if (awaited && *awaited && hold_cancelled(&(*awaited)->hold)) {
        *status = (*awaited)->status;
    } else if (hold && !hold->landed) {
        *comm = op_of(hold)->comm;
        found = comm_callable(*comm) ? FOUND_BUSY : FOUND_REFUSED;
        if (awaited && *awaited != op_of(hold)) {
            over = *awaited;
            *awaited = op_of(hold);
            atomic_fetch_add(&(*awaited)->users, 1);
        }
        if (found == FOUND_BUSY && !comm_enter(*comm))
            *comm = NULL;
    } else if (hold) {
        hold_report(hold, backing);
        over = op_of(hold);
        *status = over->status;
    } else if ((other = page_holder(slot, backing, (uint32_t)(range->offset >> PAGE_SHIFT)))) {
        found = FOUND_BUSY;
        *comm = enter(other);
        slot->awaited = true; /* later sends are copied, so that this ends */
    }
    slot_unlock(backing);
    if (over)
        op_free(over);
    return found;
}

/* There is no communicator to wait at. */
static void wait_anywhere(struct waiting *waiting)
{
    conflict_progress();
    if (++waiting->polls <= COMM_SPINS)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
}

int zc_wait(const void *buf, zc_status *status)
{
    struct range range;
    zc_status result;
    zc_comm *comm;
    struct op *awaited = NULL;
    struct waiting waiting = {0};
    enum found found;
    int error = range_find_own(buf, 1, "zc_wait", &range);
    if (error)
        return error;
    while ((found = look(&range, &awaited, &result, &comm)) == FOUND_BUSY) {
        if (waiting.polls == 0)
            count(waits);
        if (comm) {
            comm_poll_waiting(comm, awaited, &waiting);
            comm_leave(comm);
        } else {
            wait_anywhere(&waiting);
        }
    }
    if (awaited)
        op_free(awaited);
    return found == FOUND_DONE ? comm_report(&result, "zc_wait", status) : comm_examine(comm, "zc_wait");
}

int zc_test(const void *buf, int *done, zc_status *status)
{
    struct range range;
    zc_status result;
    zc_comm *comm;
    if (!done)
        return fail(-EINVAL, "zc_test: done is NULL");
    int error = range_find_own(buf, 1, "zc_test", &range);
    if (error)
        return error;
    conflict_progress();
    enum found found = look(&range, NULL, &result, &comm);
    if (found == FOUND_BUSY && comm)
        comm_leave(comm);
    *done = found == FOUND_DONE;
    return *done ? comm_report(&result, "zc_test", status) : 0;
}

/* Where one waits who waits for several. */
struct place {
    zc_comm *comm; /* to be left */
    bool restless; /* something else may come, of which nothing tells */
};

static void leave(struct place *place)
{
    if (place->comm)
        comm_leave(place->comm);
    *place = (struct place){0};
}

/* Waiting at one is waiting at all; but where only polling helps, that has to be the one. NULL: one cannot. */
static void consider(struct place *place, zc_comm *comm, const struct waiting *waiting)
{
    if (comm && (!place->comm || !comm_sleeps(comm, waiting))) {
        bool restless = place->restless;
        leave(place);
        *place = (struct place){comm, restless};
    } else {
        place->restless |= !comm;
        if (comm)
            comm_leave(comm);
    }
}

/* To be anywhere is no reason to keep one open, and who naps may be cancelled. */
static void wait_at(struct place *place, struct waiting *waiting)
{
    bool anywhere = !place->comm || place->restless;
    if (!anywhere)
        comm_poll_waiting(place->comm, NULL, waiting);
    leave(place);
    if (anywhere)
        wait_anywhere(waiting);
}

int zc_wait_any(int n, const void *const bufs[], int *index, zc_status *status)
{
    struct range range;
    struct waiting waiting = {0};
    if (n < 1 || !bufs || !index)
        return fail(-EINVAL, "zc_wait_any: n is %d, bufs %p, index %p: expected n >= 1 and neither NULL", n,
                    (const void *)bufs, (void *)index);
    for (int i = 0; i < n; i++) {
        int error = range_find_own(bufs[i], 1, "zc_wait_any", &range);
        if (error)
            return error;
    }
    for (;;) {
        struct place place = {0};
        int refused = 0;
        for (int i = 0; i < n; i++) {
            zc_status result;
            zc_comm *comm;
            int error = range_find_own(bufs[i], 1, "zc_wait_any", &range);
            enum found found = error ? FOUND_DONE : look(&range, NULL, &result, &comm);
            if (found == FOUND_BUSY) {
                consider(&place, comm, &waiting);
                continue;
            }
            if (found == FOUND_REFUSED) {
                refused = comm_examine(comm, "zc_wait_any");
                continue;
            }
            leave(&place);
            *index = i;
            return error ? error : comm_report(&result, "zc_wait_any", status);
        }
        if (refused) {
            leave(&place);
            return refused;
        }
        if (waiting.polls == 0)
            count(waits);
        wait_at(&place, &waiting);
    }
}

/* Cancels the receive, which ends one way or the other, soon. True: it is cancelled, and nobody will report it. Asked
 * for until then: the thread that posts it may not have come to the transport yet. */
static bool cancel(zc_comm *comm, struct op *op)
{
    for (struct waiting waiting = {0};; comm_poll_waiting(comm, NULL, &waiting)) {
        comm->transport->cancel(&comm->endpoint, op);
        struct backing *backing = slot_lock(op->hold.slot);
        bool landed = op->hold.landed, cancelled = hold_cancelled(&op->hold);
        slot_unlock(backing);
        if (landed)
            return cancelled;
    }
}

int zc_cancel(const void *buf)
{
    struct range range;
    int error = range_find_own(buf, 1, "zc_cancel", &range);
    if (error)
        return error;
    struct backing *backing = slot_lock(range.slot);
    struct hold *hold = hold_receive_at(range.slot, range.offset);
    struct op *op = hold ? op_of(hold) : NULL;
    zc_comm *comm = op ? op->comm : NULL;
    bool landed = hold && hold->landed, entered = false, cancelled = false;
    /* Another thread may report the receive and post the next one meanwhile, which must not be taken for it. */
    if (op && !landed) {
        atomic_fetch_add(&op->users, 1);
        entered = comm_callable(comm) && comm_enter(comm);
        hold->unwanted = hold->unwanted || entered;
    }
    slot_unlock(backing);
    if (!op)
        return fail(-ENOENT, "zc_cancel: no receive into %p (sends cannot be cancelled)", buf);
    if (entered) {
        cancelled = cancel(comm, op);
        comm_leave(comm);
    } else if (!landed) {
        error = comm_examine(comm, "zc_cancel");
    }
    if (!landed)
        op_free(op);
    if (error || cancelled)
        return error;
    return fail(-EALREADY, "zc_cancel: the receive into %p has landed; zc_wait tells of it", buf);
}
