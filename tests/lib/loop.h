/* SPDX-License-Identifier: MIT
 *
 * Communicators over loop, as many tests open them. */
#ifndef TESTS_LOOP_H
#define TESTS_LOOP_H

#include "zc.h"

/* A touch that waits for ever, by a fault of the library, says for what before the test's time is over. */
zc_comm *loop_with(enum zc_conflict conflict, enum zc_policy policy, enum zc_release release);

/* Sends are protected at once; a store that comes too early renames at once. */
zc_comm *loop_renaming(enum zc_release release);

/* Fills `n` buffers of `size` bytes with the patterns of their numbers, and sends each twice, into `got`: then they are
 * left protected if they are at all. */
void loop_resend(zc_comm *comm, char *const bufs[], int n, void *got, size_t size);

#endif
