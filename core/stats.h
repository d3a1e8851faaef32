/* SPDX-License-Identifier: MIT
 *
 * Counters of the process, one a field of struct zc_stats. */
#ifndef ZC_CORE_STATS_H
#define ZC_CORE_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include "zc.h"

// clang-format off
/* The fields of struct zc_stats after `size`, in their order. */
#define ZC_STATS(X)                                                                                                    \
    X(allocs) X(frees) X(fallbacks)                                                                                    \
    X(sends) X(sends_empty) X(sends_inline) X(sends_protected) X(sends_free) X(sends_copied) X(sends_foreign)          \
    X(receives) X(receives_bounced)                                                                                    \
    X(faults) X(faults_idle) X(faults_spurious) X(waits) X(conflicts) X(renames)                                       \
    X(protects) X(unprotects) X(remaps) X(segments) X(registrations) X(unreserved)         \
    X(views_lent)
// clang-format on

struct counters {
#define X(name) _Atomic uint64_t name;
    ZC_STATS(X)
#undef X
};

extern struct counters counters;

/* Fills in what is counted elsewhere: `allocs` and `frees`, by pools. */
extern void (*_Atomic stats_gather)(zc_stats *stats);

#define count(name) atomic_fetch_add_explicit(&counters.name, 1, memory_order_relaxed)

#endif
