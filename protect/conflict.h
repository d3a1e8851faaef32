/* SPDX-License-Identifier: MIT
 *
 * Ending a conflict: what a thread does that wants to touch a page and may not yet. */
#ifndef ZC_PROTECT_CONFLICT_H
#define ZC_PROTECT_CONFLICT_H

#include "protect/hold.h"

/* How far whoever met a conflict has come in ending it. */
struct conflict {
    bool call;  /* a zc call, which makes progress itself; else an access, for which the helper does */
    bool store; /* else it only loads these bytes of the slot: */
    size_t offset, length;
    bool stored;         /* into what is being sent */
    bool told;           /* that it takes long */
    int thread;          /* that touches; 0: the one that runs this */
    const void *signals; /* of an access in this thread: the mask that was interrupted, for while it sleeps */
    bool asleep;         /* it was put to sleep, and a signal may have taken it elsewhere since */
    unsigned spins;      /* of a call */
    uint64_t start;      /* clock at the first wait; 0: none yet */
    uint64_t deadline;   /* when a send is renamed away */
    int error;           /* of a failed receive that a call met */
    /* What to do before the next step: */
    uint64_t sleep_ns; /* sleep so long, or 0 */
    uint32_t event;    /* or until the slot's event is not this any more */
};

enum conflict_end {
    CONFLICT_GOES_ON, /* there is more to do */
    CONFLICT_AGAIN,   /* the access has to be tried again for going on */
    CONFLICT_ENDED,   /* the page is accessible now, or was made so */
    CONFLICT_NONE,    /* no hold and no protection of ours was in the way */
    CONFLICT_DEAD     /* the slot is not live */
};

/* Takes a step, which never sleeps, towards making the page at `offset` of the slot accessible for a load or a
 * store. */
enum conflict_end conflict_step(struct conflict *conflict, struct slot *slot, size_t offset, bool store);

/* All steps, in a handler that interrupted code with the signal mask `signals`: makes the page at `offset` of the slot
 * accessible for a load or a store. Ends an idle protection, waits for receives, and waits for sends as long as their
 * rules say before the slot is renamed. */
enum conflict_end conflict_resolve(struct slot *slot, size_t offset, bool store, const void *signals);

/* The same for all bytes of [offset, offset + length), as a call where that can make progress: for system calls, which
 * no fault can stop. 0, or the error of a failed receive. */
int conflict_touch(struct slot *slot, size_t offset, size_t length, bool store);

/* The buffer is given back while loans of it are in force. Locked. */
void conflict_freed(const struct slot *slot, const struct backing *backing);

/* What the interposition library handed down (protect/lend.h); one that does nothing at first. */
struct zc_interposer;
extern const struct zc_interposer *_Atomic conflict_interposer;

/* How zc calls make progress while they wait; set by the transport layer, none at first. */
extern void (*_Atomic conflict_progress)(void);

/* Which holds are in the way of a call. */
enum conflict_with {
    WITH_RECEIVES = 1,
    WITH_SENDS = 2,
    WITH_BOTH = 3,
    BUT_LOANS = 4 /* none to be received into, and none that is read until a call returns: another loan goes beside */
};

/* Waits for or ends what holds bytes [offset, offset + length) of the slot, protected or not, and returns the
 * slot's backing in *out, locked: the bytes may be used through the wire mapping. Without receives it is pages that are
 * needed, and no mistake to send from them. 0, or the error of a failed receive, with nothing locked. */
int conflict_own(struct slot *slot, size_t offset, size_t length, enum conflict_with with, struct backing **out);

#endif
