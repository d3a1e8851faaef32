/* SPDX-License-Identifier: MIT
 *
 * zc and what it is compared with, all asked for buffers aligned to a page. Those that are not linked are loaded with
 * dlopen(RTLD_LOCAL), so that nothing else uses them. */
#ifndef ZC_BENCH_ALLOCATORS_H
#define ZC_BENCH_ALLOCATORS_H

#include <stddef.h>

enum { PAGE = 4096 };

struct allocator {
    const char *name;
    void *(*alloc)(size_t size, size_t alignment);
    void (*free)(void *ptr);
};

/* The baseline comes first, and once more at the end, for its spread. */
enum { MIMALLOC, ZC, JEMALLOC, GLIBC, AGAIN, ALLOCATORS };

extern struct allocator allocators[ALLOCATORS];

/* Before any other is used. Starts the program again where glibc has no room for them. */
void allocators_load(char **argv);

/* A buffer; ends the program where there is none. */
void *must_have(const struct allocator *allocator, size_t size);

#endif
