/* SPDX-License-Identifier: MIT
 *
 * All communicators of the process, and the progress that is made on them. */
#ifndef ZC_TRANSPORT_PROGRESS_H
#define ZC_TRANSPORT_PROGRESS_H

#include <stdbool.h>

#include "zc.h"

struct op;
struct waiting;

/* Polls in vain of one that waits where nothing wakes it, before others may run; a guess. */
enum { COMM_SPINS = 2000 };

/* May this thread, which is in a zc call, call its transport? */
bool comm_callable(const zc_comm *comm);

/* It is open from now on; it is not, and no other thread is inside of it, but those that this waits for. */
void comm_enlist(zc_comm *comm);
void comm_delist(zc_comm *comm);

/* For one that waits at a communicator that others may close meanwhile: it does not end until it is left. False: it is
 * closed. */
bool comm_enter(zc_comm *comm);
void comm_leave(zc_comm *comm);

/* May one that waits so at it sleep, rather than poll? */
bool comm_sleeps(zc_comm *comm, const struct waiting *waiting);

/* The first of those that are open; who is at one that leaves the list meanwhile goes on from there by `next`. */
struct zc_comm *comm_list(void);

/* Looks for what is over, on all. */
void comm_poll_all(void);

/* The same on one, a zc_comm, for somebody who comes back: the helper thread, or a program that makes progress. */
void comm_look(void *at);

/* The same on this one, and now and then on the others: for a call that a program may repeat until something is there.
 * `finding`: there was in the last ones, so more is likely to wait. */
void comm_poll_in_turn(zc_comm *comm, bool finding);

/* The same for a loop that waits, at `urgent` in any case: lets others run when it takes long. */
void comm_poll_waiting(zc_comm *comm, struct op *urgent, struct waiting *waiting);

#endif
