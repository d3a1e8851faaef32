/* SPDX-License-Identifier: MIT
 *
 * Which of two ways is faster from send to send.
 *
 * Part of what copying and protecting cost is not seen by the thread that does it: a copy leaves the bytes in a cache for
 * whoever reads them next, a change of page tables is paid for by the accesses after it. So a pool takes both ways in
 * turn, some sends each, and then the one in which a send followed the other sooner; now and then the other again. */
#ifndef ZC_PROTECT_PACE_H
#define ZC_PROTECT_PACE_H

#include <stdatomic.h>
#include <stdint.h>

enum way { WAY_PROTECT, WAY_COPY, WAYS };

/* Zero at first. Races between threads lose an observation, no more. */
struct pace {
    _Atomic uint32_t sends;    /* so far */
    _Atomic uint32_t way;      /* enum way: of the epoch */
    _Atomic uint64_t start;    /* clock at its begin */
    _Atomic uint32_t ns[WAYS]; /* from send to send, averaged; 0: not known */
};

/* The way of the epoch. */
static inline enum way pace_way(const struct pace *pace)
{
    return (enum way)atomic_load_explicit(&pace->way, memory_order_relaxed);
}

/* One more send; which way should it go? */
enum way pace_next(struct pace *pace);

#endif
