/* SPDX-License-Identifier: MIT
 *
 * What sending without copies costs on this host, and what it saves: nanoseconds, the median of some rounds. */
#ifndef ZC_TOOLS_MEASURE_H
#define ZC_TOOLS_MEASURE_H

#include <stddef.h>
#include <stdint.h>

struct costs {
    uint64_t copy;      /* of memory that was touched before */
    uint64_t protect;   /* read-write to read-only */
    uint64_t unprotect; /* and back */
    uint64_t fault;     /* a store to a protected page: signal, unprotecting that page, the store again */
    uint64_t touch;     /* the first store to each page of fresh memory */
};

/* Of `size` bytes, whole pages, on pages that are mapped as zc maps its own. 0 or -errno. */
int measure(size_t size, struct costs *costs);

#endif
