/* SPDX-License-Identifier: MIT
 *
 * The least that a message through shared memory takes: it is copied to memory that both processes map, a word says
 * that it is there, and it is copied out. No matching, no queue, no sleep, nothing is checked. */
#ifndef ZC_BENCH_BARE_H
#define ZC_BENCH_BARE_H

#include "bench/lib/pair.h"

enum { BARE_MOST = 4096 }; /* bytes of a message */

/* Both ranks. */
void bare_open(const struct pair *pair);
void bare_close(void);

/* There and back again. */
void bare_pass(struct pair *pair, pair_look *look);

#endif
