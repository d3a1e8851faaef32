/* SPDX-License-Identifier: MIT
 *
 * The range of a live buffer that a caller names by pointer and length. */
#ifndef ZC_PROTECT_RANGE_H
#define ZC_PROTECT_RANGE_H

#include "alloc/segment.h"

struct range {
    struct slot *slot; /* NULL: not zc memory */
    size_t offset;     /* bytes from the slot's start */
    size_t left;       /* bytes from there to the slot's end */
};

/* An empty range may be at the buffer's end, unless another live one starts there. A pointer alone names a byte: its
 * length is 1. 0, with slot NULL for foreign memory; -EINVAL with a message that names `call` where the buffer is not
 * live or ends before ptr + length, or no memory could be as long. */
int range_find(const void *ptr, size_t length, const char *call, struct range *range);

/* The same, where foreign memory is an error too, and all is -EPERM in a forked child. */
int range_find_own(const void *ptr, size_t length, const char *call, struct range *range);

#endif
