/* SPDX-License-Identifier: MIT
 *
 * Memory for pools that are full and may fall back: mimalloc's, which is loaded when it is first needed, for zc
 * alone, since linking it would replace the whole process's malloc. */
#ifndef ZC_PROTECT_FALLBACK_H
#define ZC_PROTECT_FALLBACK_H

#include <stdbool.h>
#include <stddef.h>

/* At least `size` bytes at a page of their own, aligned to `alignment` as well, or NULL with errno ENOMEM and a
 * message. */
void *fallback_alloc(size_t alignment, size_t size);

/* Frees it and returns true; false if it is none of ours. */
bool fallback_free(void *ptr);

/* Does one that was not freed contain it? */
bool fallback_has(const void *ptr);

/* Its usable size; 0 if it is none of ours. */
size_t fallback_size(const void *ptr);

#endif
