/* SPDX-License-Identifier: MIT
 *
 * Pages that move between size classes.
 *
 * A class keeps the slots it once needed. Where needs vary, classes reach their peaks at different times, and all that
 * they keep is the sum of their peaks. So when a pool is about to grow, pools that *lend* (those of the size classes;
 * nobody has said how many slots they are to have) first give up the pages of as many slots, but only of slots that
 * they have not needed for long: no more than the least that each had free during the last two epochs. An epoch is over
 * when EPOCH times the bytes that there are have been allocated. So a pool that does not grow makes no system call, and
 * what is needed again and again stays, as in a program that goes from one class to the next and back. And since pages
 * that have to be found again cost more than a pass over them, only one in SHARE of those allocated may move, and none
 * while less than three eighths of what is in use lies idle.
 *
 * A slot without pages is one that could not be populated (zc_pool.bare): the pool grows into it first. Slots that show
 * another's backing keep their pages, and all do while a registrar pins them. */
#ifndef ZC_ALLOC_RECLAIM_H
#define ZC_ALLOC_RECLAIM_H

#include "alloc/pool.h"

/* From now on the pool lends. It is never closed. */
void reclaim_from(struct zc_pool *pool);

/* Takes pages for `bytes` from pools that lend, or fewer. Does not wait for other threads. No locks of pools held. */
void reclaim(size_t bytes);

#endif
