/* SPDX-License-Identifier: MIT
 *
 * Counting, in the page of core/live.h. */
#ifndef ZC_CORE_STATS_H
#define ZC_CORE_STATS_H

#include "core/live.h"

/* Fills in what is counted elsewhere: `allocs` and `frees`, by pools. */
extern void (*_Atomic stats_gather)(zc_stats *stats);

/* This thread's line, or NULL. */
extern _Thread_local struct often *stats_own __attribute__((tls_model("initial-exec")));

/* Takes a line if the thread has not asked for one, and one is left. */
struct often *stats_take(void) __attribute__((cold));

static inline struct often *stats_mine(void)
{
    return stats_own ? stats_own : stats_take();
}

/* Counts one of ZC_STATS_OFTEN, at `mine`, which is what stats_mine says. */
#define count_at(mine, name)                                                                                           \
    do {                                                                                                               \
        if (mine)                                                                                                      \
            atomic_store_explicit(&(mine)->name, atomic_load_explicit(&(mine)->name, memory_order_relaxed) + 1,        \
                                  memory_order_relaxed);                                                               \
        else                                                                                                           \
            count(name);                                                                                               \
    } while (0)

#define count_often(name)                                                                                              \
    do {                                                                                                               \
        struct often *mine = stats_mine();                                                                             \
        count_at(mine, name);                                                                                          \
    } while (0)

#define count(name) atomic_fetch_add_explicit(&live.counters.name, 1, memory_order_relaxed)

#endif
