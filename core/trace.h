/* SPDX-License-Identifier: MIT
 *
 * A trace of the buffers that zc_alloc and its like hand out, for `zc tune`. With ZC_TRACE=NAME a process writes
 * NAME.PID, or NAME.PID.2 and so on where that is there already; it is complete whenever and however the process ends:
 * records go to a mapping of the file.
 *
 * The file, version 2, in the machine's byte order:
 *
 *   header    one struct trace_header
 *   records   struct trace_record, in the order in which they happened, until one whose `what` is 0, of kind TRACE_END:
 *             perhaps one that the process was killed at. What is behind it is zero. So a file without such an end
 *             was cut short. */
#ifndef ZC_CORE_TRACE_H
#define ZC_CORE_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_MAGIC "zctrace"
enum { TRACE_VERSION = 2, TRACE_ALIGN_SHIFT = 48, TRACE_KIND_SHIFT = 56 };

struct trace_header {
    char magic[8];
    uint32_t version, record_size;
    uint64_t start; /* nanoseconds since 1970 */
    uint32_t pid, unused;
    char command[88]; /* cut where it is full, ends with NUL */
};

enum trace_kind {
    TRACE_END,
    TRACE_ALLOC, /* size: bytes asked for; alignment: 1 where that of a page will do */
    TRACE_FREE /* size 0, alignment 1; perhaps of an address that was not in a TRACE_ALLOC, and then without meaning */
};

struct trace_record {
    uint64_t time; /* nanoseconds since the start */
    uint64_t address;
    /* enum trace_kind << TRACE_KIND_SHIFT | log2 of the alignment << TRACE_ALIGN_SHIFT | size; written last */
    _Atomic uint64_t what;
};

/* Starts a trace to NAME.PID, once, unless `name` is "". 0 or -EINVAL with a message, each time. */
int trace_open(const char *name);

extern _Atomic bool trace_on;

void trace_write(enum trace_kind kind, const void *address, size_t alignment, size_t size);

/* What an allocation pays when there is no trace: a branch. */
static inline bool tracing(void)
{
    return __builtin_expect(atomic_load_explicit(&trace_on, memory_order_relaxed), false);
}

static inline void trace(enum trace_kind kind, const void *address, size_t alignment, size_t size)
{
    if (tracing())
        trace_write(kind, address, alignment, size);
}

#endif
