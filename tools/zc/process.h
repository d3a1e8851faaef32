/* SPDX-License-Identifier: MIT
 *
 * What another process does with zc, as seen from outside: its counters are in a page that it shows (core/live.h), and
 * its pools and slots are read where they are, by process_vm_readv(2). It is not stopped and notices nothing, so that
 * what is seen is of several moments. */
#ifndef ZC_TOOLS_PROCESS_H
#define ZC_TOOLS_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "core/live.h"

enum { POOLS_MOST = 512, HOLDERS_MOST = 64 };

struct process {
    pid_t pid;
    char command[64];
    ino_t page; /* that `live` shows */
    const struct live *live;
};

/* Statistics of a pool; zc_pool_stats says what they mean. */
struct pool_view {
    size_t slot_size, slots, live, peak, in_flight, idle_protected, waste, cap;
    uint64_t allocs, renamed, refills, fallbacks, over_cap;
    size_t hugetlb_missed; /* segments */
};

/* Messages with a tag, of all communicators: in flight to a rank, or of a rank and lent to the program. */
struct holder {
    int peer, tag;
    size_t count;
    uint64_t bytes;
    uint64_t since; /* the oldest, by clock_seconds */
};

struct holders {
    size_t count;
    struct holder all[HOLDERS_MOST]; /* that with most bytes first; the last may stand for many */
};

struct view {
    size_t pools;
    struct pool_view pool[POOLS_MOST]; /* by slot size */
    struct holders sends, views;
};

/* Finds its page. 0, or an exit status after it was said what is wrong. */
int process_open(pid_t pid, struct process *process);

/* False once it is gone, or became another program. */
bool process_there(const struct process *process);

/* Looks at its pools. 0 or -errno: -EPERM where it must not, -ESRCH where it is gone. */
int process_look(const struct process *process, struct view *view);

#endif
