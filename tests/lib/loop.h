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

#endif
