/* SPDX-License-Identifier: MIT
 *
 * A trace as zc tune needs it: which sizes came and went, in order. */
#ifndef ZC_TOOLS_TRACE_H
#define ZC_TOOLS_TRACE_H

#include <stddef.h>
#include <stdint.h>

struct trace {
    char command[96];
    uint32_t pid;
    uint64_t duration;  /* ns */
    size_t allocations; /* in all */
    size_t aligned;     /* of them, to more than a page: not among the events */
    size_t left;        /* live at the end */
    int64_t *events;    /* bytes asked for, negative where they are freed again; a size of 0 stands as 1 */
    size_t event_count;
};

/* Reads the file at `path`. 0, or an exit status after it was said what is wrong with it. */
int trace_read(const char *path, struct trace *trace);
void trace_drop(struct trace *trace);

#endif
