/* SPDX-License-Identifier: MIT
 *
 * Memory that the library itself allocates while it holds a lock which is also taken when a segment goes
 * (alloc/segment.h). Where malloc is replaced by zc's pools (shim/malloc.c), such an allocation might make a segment,
 * or give up others, and so wait for the lock that its own thread holds. So there it comes from mimalloc, as all does
 * that the pools do not serve. */
#ifndef ZC_CORE_OWN_MEMORY_H
#define ZC_CORE_OWN_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* As realloc(3). */
void *own_realloc(void *at, size_t size);

/* Is this thread in that? */
bool own_allocates(void);

#endif
