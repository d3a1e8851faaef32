/* SPDX-License-Identifier: MIT
 *
 * Structs of options, whose first member is their size in the header that the caller was compiled with. */
#ifndef ZC_CORE_SIZED_H
#define ZC_CORE_SIZED_H

#include <stddef.h>

/* Fills *own, which has the defaults and is of `size` bytes, from what a caller gives. What a shorter one lacks stays
 * as it is; what a longer one has more must be zero. -EINVAL with a message that names the call, and the macro to start
 * from: also NULL, and a size that cannot be one. */
int sized_take(void *own, size_t size, const void *given, const char *call, const char *macro);

#endif
