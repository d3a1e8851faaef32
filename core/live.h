/* SPDX-License-Identifier: MIT
 *
 * Counters of the process, one a field of struct zc_stats, in a page that other processes can look at (zc top). They
 * are nowhere else, so that showing them costs nothing.
 *
 * The page is a memfd called LIVE_NAME, mapped over the variable `live`. Who may look into /proc/PID (the same user)
 * finds it among the descriptors there and can map it, but only to read: it is sealed. Nothing is left behind, however
 * the process ends. Where no memfd can be had, `live` is ordinary memory, and nobody sees it. */
#ifndef ZC_CORE_LIVE_H
#define ZC_CORE_LIVE_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/sys.h"
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
/* Counted by calls that take so little time that counting matters; never in a handler. */
#define ZC_STATS_OFTEN(X)                                                                                              \
    X(sends) X(sends_empty) X(sends_inline) X(sends_protected) X(sends_free) X(sends_copied) X(sends_foreign)          \
    X(receives)
// clang-format on

struct counters {
#define X(name) _Atomic uint64_t name;
    ZC_STATS(X)
#undef X
};

/* What one thread counts, to be added: a line of its own, so that plain loads and stores do. */
struct often {
#define X(name) _Atomic uint64_t name;
    ZC_STATS_OFTEN(X)
#undef X
};

enum { COUNTING_THREADS = 32 }; /* further ones share the counters of all */

#define LIVE_NAME "zc-live"
#define LIVE_MAGIC "zc live"

struct live {
    _Alignas(PAGE_SIZE_) char magic[8]; /* "" until the page is shown */
    char version[16];                   /* what these addresses point to is for readers of the same version */
    uint64_t pid;
    /* Addresses in this process: of its struct arena, and of the first of its struct zc_pool and struct zc_comm. */
    const void *_Atomic arena;
    const void *_Atomic pools;
    const void *_Atomic comms;
    struct counters counters;
    _Alignas(64) struct often often[COUNTING_THREADS];
};

_Static_assert(sizeof(struct often) == 64, "one line");
_Static_assert(sizeof(struct live) == PAGE_SIZE_, "one page");

extern struct live live;

/* Shows the page, once. What other threads count meanwhile may be lost. */
void live_open(void);

/* It is not to be shown: for a process that does not know that it has zc, and takes the numbers of its descriptors for
 * its own. */
void live_hide(void);

/* The counters of a page, those of threads added. */
static inline void live_sum(const struct live *page, struct counters *sum)
{
#define LOAD(at) atomic_load_explicit(&(at), memory_order_relaxed)
#define X(name) atomic_init(&sum->name, LOAD(page->counters.name));
    ZC_STATS(X)
#undef X
    for (int i = 0; i < COUNTING_THREADS; i++) {
#define X(name) atomic_init(&sum->name, LOAD(sum->name) + LOAD(page->often[i].name));
        ZC_STATS_OFTEN(X)
#undef X
    }
#undef LOAD
}

#endif
