/* SPDX-License-Identifier: MIT
 *
 * Memory of the library itself, allocated with a lock that is also taken when a segment goes (alloc/segment.h). Where
 * malloc is replaced by zc's pools (shim/malloc.c), to make a segment for it, or to give up others, would wait for that
 * lock. So it comes from where they leave the rest. */
#ifndef ZC_CORE_OWN_MEMORY_H
#define ZC_CORE_OWN_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* As realloc(3). */
void *own_realloc(void *at, size_t size);

/* Is this thread in that? */
bool own_allocates(void);

#endif
