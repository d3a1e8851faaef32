/* SPDX-License-Identifier: MIT
 *
 * The process-wide pools behind zc_alloc: one for each size class, opened when it is first used, and those
 * that ZC_POOLS asks for. */
#ifndef ZC_ALLOC_HEAP_H
#define ZC_ALLOC_HEAP_H

#include "alloc/cache.h"
#include "alloc/pool.h"

/* Opens the pools of ZC_POOLS, once. 0 or -errno with a message, always the same. */
int heap_open(void);

/* Was it opened? */
bool heap_opened(void);

/* The pool whose slots are the smallest that hold `size` bytes at `alignment` (a power of two up to 2 MiB).
 * NULL with errno and a message. */
struct zc_pool *heap_pool(size_t size, size_t alignment);

enum { HEAP_CACHED = CACHE_BYTES >> PAGE_SHIFT };

/* By pages: index of the pool that serves all sizes of so many, as heap_pool has found. 0: not known, or none does. */
extern _Atomic uint32_t heap_indices[HEAP_CACHED + 1];

/* A slot for `size` bytes of the thread's cache; NULL if there is none. */
static inline struct slot *heap_pop(size_t size)
{
    if (size > CACHE_BYTES)
        return NULL;
    size_t pages = pages_of(size);
    return cache_pop(atomic_load_explicit(&heap_indices[pages], memory_order_relaxed));
}

/* Slot size of the class that holds `size`: four to each doubling, so that less than a quarter is wasted. */
size_t heap_class_size(size_t size);

/* Where the class pools (not those of ZC_POOLS) keep more than `most` bytes of free slots, gives what it can of them
 * back to the system. */
void heap_trim(size_t most);

#endif
