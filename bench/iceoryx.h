/* SPDX-License-Identifier: MIT
 *
 * Messages of iceoryx between the two ranks, as a baseline. The sender starts its daemon, and stops it at exit. */
#ifndef ZC_BENCH_ICEORYX_H
#define ZC_BENCH_ICEORYX_H

#include "bench/lib/pair.h"

/* Until the program ends. */
void iceoryx_open(const struct pair *pair);

/* There and back again: copied into a chunk that is lent, and read where it is. */
void iceoryx_pass(struct pair *pair, pair_look *look);

#endif
