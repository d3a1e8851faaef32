/* SPDX-License-Identifier: MIT
 *
 * Controls of the loop transport: with them a test decides when a message leaves, in which order, and
 * whether it fails. A held message is read from the sender's pages when it is delivered, not before, as
 * a network card would, so that an early store that was not stopped is seen by the receiver. */
#ifndef ZC_TRANSPORT_LOOP_H
#define ZC_TRANSPORT_LOOP_H

#include <stdbool.h>
#include <stddef.h>

#include "zc.h"

enum loop_order { LOOP_OLDEST_FIRST, LOOP_NEWEST_FIRST, LOOP_SHUFFLED };

/* While on, messages *to* `comm` are matched with its receives but not delivered (neither their bytes
 * move nor their sends complete). Turning it off delivers all in order at the next progress. */
void loop_hold(zc_comm *comm, bool on);

/* Delivers up to n of the held, matched messages to `comm` in the given order; `seed` is for LOOP_SHUFFLED.
 * Returns how many. */
size_t loop_deliver(zc_comm *comm, size_t n, enum loop_order order, unsigned seed);

/* How many matched messages are held. */
size_t loop_held(zc_comm *comm);

/* Each matched message to `comm` is delivered only after this many of its progress calls; 0 ends it. */
void loop_delay(zc_comm *comm, unsigned polls);

/* The next n deliveries to `comm` fail with `error` (negative errno), on both sides. */
void loop_fail(zc_comm *comm, size_t n, int error);

#endif
