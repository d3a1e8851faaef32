/* SPDX-License-Identifier: MIT
 *
 * Holds: what is in flight on a range of a slot, and the protection that follows from it.
 *
 *   - A *send* hold (a reader) belongs to a backing, whose pages it reads: it stays with them when the slot is
 *     renamed. It denies stores.
 *   - A *receive* hold (a writer) belongs to a slot, whose contents it replaces: the bytes land in the slot's
 *     backing, or in a bounce slot where sends were in flight already. It denies every access.
 *   - Never are both in flight on one backing: a send posted while receives are in flight is copied, a receive
 *     posted while sends are in flight is bounced. (Beside what is read until a call of MPI returns, which protects
 *     nothing, a loan may keep the pages.)
 *
 * For each page of the backing that a slot shows now: a protecting receive in flight => PROT_NONE, else a protecting
 * send in flight => PROT_READ or stricter, else anything. What a page needs is always computed from all holds
 * of the slot (page_need in pages.c), so a page is released by the last hold that needs it.
 *
 * Everything here is done under the lock of the backing that the slot shows (slot_lock). No transport is
 * called (but to put a short message on its way, in hold_look, the transport's lock being taken before), nothing
 * is allocated and no user mapping is touched under it; what is called may sleep in the kernel only. A thread has
 * one such lock at a time, and a second one only of a slot popped from the pool, which nobody else knows. Of two,
 * only the last is dropped by slot_unlock, which lets signals in: a handler that touches a buffer may wait for any
 * thread, and must not find its own thread with a lock. */
#ifndef ZC_PROTECT_HOLD_H
#define ZC_PROTECT_HOLD_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/pool.h"
#include "core/error.h"
#include "zc.h"

struct hold;

/* How conflicts with a hold are handled: of a communicator, or of guards. Outlives its holds. */
struct hold_rules {
    enum zc_conflict conflict;
    enum zc_on_conflict on_conflict;
    enum zc_on_timeout on_timeout;
    enum zc_policy policy;
    enum zc_release release;
    uint64_t timeout_ns;
    bool helper; /* somebody can make progress while a thread waits in a fault */
    bool comm;   /* a communicator's: its holds begin operations (transport/op.h) */
    bool lent;   /* loans (protect/lend.h): their receives protect only pages that are wholly theirs */
    /* Describes the operation, for reports. Signal-safe. */
    void (*describe)(const struct hold *hold, struct text *text);
    /* A bare touch of a receive that failed, or that nobody can wait for. Called in a fault handler, without
     * locks; `message` says what was touched. */
    void (*touched)(const struct hold_rules *rules, int error, const char *message);
    /* A landed receive that nobody has asked about is void: its buffer was freed or received into again. The
     * hold is unlinked; called without locks. */
    void (*dropped)(struct hold *hold);
};

struct hold {
    struct hold *next, **link; /* of the backing's sends or the slot's receives; link points back */
    struct slot *slot;         /* sends: at posting */
    struct backing *backing;   /* sends; NULL for receives */
    struct slot *bounce;       /* receives that land elsewhere: in a slot of the pool, or one for so many bytes */
    size_t offset, length;     /* bytes of the slot */
    const struct hold_rules *rules;
    bool named;    /* a receive that the program asks about by its address */
    bool protects; /* its pages */
    bool behind;   /* a send whose receiver has older messages to take */
    bool resent;   /* a send whose pages were protected already */
    bool landed;   /* a receive that is over and was not yet reported */
    bool unwanted; /* a receive that is being cancelled: if it is, there is nothing to report */
    bool shown;    /* its failure was shown to a bare touch */
    bool inner;    /* pages that are not wholly its own are not protected */
    int error;     /* of a landed receive */
};

/* Does the hold touch any of these bytes? */
static inline bool hold_overlaps(const struct hold *hold, size_t offset, size_t length)
{
    return length && hold->length && offset < hold->offset + hold->length && hold->offset < offset + length;
}

/* Is a receive in flight, or has it failed and was not shown? */
static inline bool hold_closed(const struct hold *receive)
{
    return !receive->landed || (receive->error && !receive->shown);
}

/* Is it over because the program cancelled it? */
static inline bool hold_cancelled(const struct hold *receive)
{
    return receive->landed && receive->unwanted && receive->error == -ECANCELED;
}

/* ---- sends ---- */

/* Decides for `hold`, whose slot, offset, length and rules are set: takes it, and says where to send from; its `resent`
 * says whether that took no system call. NULL: not held, copy the bytes and send those. */
const char *hold_send(struct hold *hold);

/* Takes a send hold that does not protect, for a buffer that the caller gives up, and says where to send from. NULL if
 * receives are in flight, or one failed and was not told of: then copy. */
const char *hold_send_given(struct hold *hold);

/* The same for a message that the transport is likely to take at once, so that nothing needs to be reserved for
 * protection. NULL also where the slot may not be protected. */
const char *hold_send_tentative(struct hold *hold);

/* The transport did not take it at once: protects it, or lets it keep the pages and gives the slot fresh ones. False
 * if neither spares nor mappings are left for that. */
bool hold_send_keep(struct hold *hold);

/* Copies the bytes of a send instead, which it holds only for so long: without a lock, for which signals would be
 * blocked. False, where the slot may not be protected: see that no receive is in the way, and use hold_copy_out. */
bool hold_send_copied(struct hold *hold, char *to);

/* Copies bytes of a slot as they are now. */
void hold_copy_out(struct slot *slot, size_t offset, size_t length, char *to);

/* The backing of a buffer that nothing closes to loads and no page of which is protected, for a short copy of its
 * bytes: locked, until hold_looked by the same thread. NULL: it may be otherwise. */
struct backing *hold_look(struct slot *slot);
void hold_looked(struct backing *backing);

/* The bytes are in flight from a copy, in a slot that is in nobody else's hands: from now on statistics see that. */
void hold_show_copy(struct hold *hold, struct slot *copy);

/* Ends that, if it has begun. */
void hold_hide_copy(struct hold *hold, struct slot *copy);

/* Ends a send hold. Whatever the last one kept is released. */
void hold_end(struct hold *hold);

/* ---- receives ---- */

/* Takes `hold`, which protects its pages or not; *wire says where the bytes are to land. Older landed receives that it
 * overlaps are dropped. 0; -EBUSY: overlaps one in flight, or, of a guard or a loan, one that failed; -ENOMEM. */
int hold_receive(struct hold *hold, bool protects, char **wire);

/* The same for one that does not, where nothing else is in flight or unreported; else false. */
bool hold_receive_alone(struct hold *hold, char **wire);

/* Takes `hold`, without protection, for who stores to the slot's backing: the library itself, or whoever was lent it.
 * Slot locked. */
void hold_own(struct hold *hold);

/* It is over: `length` bytes are where *wire said, or `error`. Returns true if the slot was freed meanwhile, or the
 * receive cancelled: the hold is then unlinked, and nobody will ask for it. One that failed keeps its pages
 * protected. */
bool hold_landed(struct hold *hold, size_t length, int error);

/* The same where nobody will ask for it: unlinks it at once. */
void hold_done(struct hold *hold, size_t length);

/* Never posted: unlinks it and leaves the slot's bytes as they were. */
void hold_withdraw(struct hold *hold);

/* The oldest named receive of the slot whose range contains the offset, or NULL. Slot locked. */
struct hold *hold_receive_at(struct slot *slot, size_t offset);

/* Unlinks a landed receive and releases what it kept. Slot locked by `backing`. */
void hold_report(struct hold *hold, struct backing *backing);

/* ---- the slot as a whole; all with the slot locked by `backing` ---- */

bool slot_receiving(const struct slot *slot);

/* Are pages closed to loads, too: by receives in flight, or by one that failed and was not told of? Protecting them
 * for a send would open them. */
bool slot_closed(const struct slot *slot);

/* Is everything there that renaming it needs? */
bool slot_can_rename(const struct slot *slot);

/* Makes the slot show fresh pages with the same contents; what is in flight keeps the old ones. The slot must
 * be reserved. Drops the lock. */
void slot_rename(struct slot *slot, struct backing *backing);

/* Gives the slot up: it returns to the pool when nothing is in flight any more, perhaps at once. Drops the
 * lock. */
void slot_release(struct slot *slot, struct backing *backing);

/* Makes a slot just taken, which nobody else knows, the application's: everything read-write, no history. */
void slot_acquire(struct slot *slot);

/* The same of one that comes from the pool, not from a cache, and is to hold `size` bytes: ZC_DEBUG watches them. */
void slot_acquire_from(const struct zc_pool *pool, struct slot *slot, size_t size);

/* The same of one from a cache that is not protected, as most. */
static inline void slot_acquire_bare(struct slot *slot)
{
    slot_become(slot, SLOT_LIVE);
    slot_forget(slot);
}

#endif
