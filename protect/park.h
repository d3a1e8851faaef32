/* SPDX-License-Identifier: MIT
 *
 * Faults that userfaultfd(2) reports, parked until their conflicts have ended. Two threads: one reads messages and does
 * nothing else, since the kernel waits for that while mappings move; the other takes steps towards the end of all
 * conflicts in turn, and never waits for one of them. */
#ifndef ZC_PROTECT_PARK_H
#define ZC_PROTECT_PARK_H

/* Starts both, which serve the descriptor until the process ends. 0 or -ENOMEM with a message. */
int park_open(int descriptor);

/* The event of an awaited slot has changed. Signal-safe. */
void park_announce(void);

#endif
