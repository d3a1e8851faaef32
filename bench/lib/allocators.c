/* SPDX-License-Identifier: MIT */
#include "bench/lib/allocators.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/bench.h"
#include "zc.h"

static void *zc_aligned(size_t size, size_t alignment)
{
    (void)alignment; /* zc aligns to a page whatever is asked */
    return zc_alloc(size);
}

static void zc_free_void(void *ptr)
{
    zc_free(ptr);
}

static void *(*jemalloc_aligned_alloc)(size_t alignment, size_t size);

static void *jemalloc_aligned(size_t size, size_t alignment)
{
    return jemalloc_aligned_alloc(alignment, size);
}

static void *glibc_aligned(size_t size, size_t alignment)
{
    return aligned_alloc(alignment, size);
}

struct allocator allocators[ALLOCATORS] = {[MIMALLOC] = {"mimalloc", NULL, NULL},
                                           [ZC] = {"zc", zc_aligned, zc_free_void},
                                           [JEMALLOC] = {"jemalloc", jemalloc_aligned, NULL},
                                           [GLIBC] = {"glibc", glibc_aligned, free}};

/* An allocator that is loaded late needs room in the static block of thread-local storage: a tunable of glibc. */
static void make_room_for_tls(char **argv)
{
    static const char tunable[] = "glibc.rtld.optional_static_tls=16384";

    if (getenv("GLIBC_TUNABLES"))
        return;
    setenv("GLIBC_TUNABLES", tunable, 1);
    execv("/proc/self/exe", argv);
    bench_die("%s: cannot start again: %s", argv[0], strerror(errno));
}

static void load(const char *library, const char *alloc_name, void **alloc, const char *free_name, void **free)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        bench_die("alloc: %s", dlerror());
    *alloc = dlsym(handle, alloc_name);
    *free = dlsym(handle, free_name);
    if (!*alloc || !*free)
        bench_die("alloc: %s has no %s", library, alloc_name);
}

void allocators_load(char **argv)
{
    struct allocator *mimalloc = &allocators[MIMALLOC], *jemalloc = &allocators[JEMALLOC];

    make_room_for_tls(argv);
    load("libmimalloc.so.2", "mi_malloc_aligned", (void **)&mimalloc->alloc, "mi_free", (void **)&mimalloc->free);
    load("libjemalloc.so.2", "aligned_alloc", (void **)&jemalloc_aligned_alloc, "free", (void **)&jemalloc->free);
    allocators[AGAIN] = *mimalloc;
}

void *must_have(const struct allocator *allocator, size_t size)
{
    void *ptr = allocator->alloc(size, PAGE);
    if (!ptr)
        bench_die("alloc: %s: no memory of %zu bytes", allocator->name, size);
    return ptr;
}
