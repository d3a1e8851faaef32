/* SPDX-License-Identifier: MIT */
#include "protect/fallback.h"

#include <dlfcn.h>
#include <pthread.h>
#include <search.h>
#include <stdatomic.h>

#include "core/error.h"
#include "core/sys.h"
#include "core/thread.h"

#ifndef ZC_MIMALLOC_SONAME
#define ZC_MIMALLOC_SONAME "libmimalloc.so.2"
#endif

static struct {
    void *(*alloc)(size_t size, size_t alignment);
    void (*free)(void *ptr);
    size_t (*usable_size)(const void *ptr);
} mimalloc;

/* What was handed out: mimalloc does not know all of its own large blocks. Empty in most processes, which
 * `handed_out` tells without the lock. */
static pthread_mutex_t lock_of_set = PTHREAD_MUTEX_INITIALIZER;
static void *set;
static _Atomic size_t handed_out;

static int by_address(const void *a, const void *b)
{
    return a < b ? -1 : a > b;
}

static void load(void)
{
    void *library = dlopen(ZC_MIMALLOC_SONAME, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return;
    *(void **)&mimalloc.free = dlsym(library, "mi_free");
    *(void **)&mimalloc.usable_size = dlsym(library, "mi_usable_size");
    *(void **)&mimalloc.alloc = dlsym(library, "mi_malloc_aligned");
}

void *fallback_alloc(size_t alignment, size_t size)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, load);
    if (!mimalloc.alloc)
        return fail_null(-ENOMEM,
                         "zc_alloc: the pool is full, and its fall-back %s cannot be loaded (install "
                         "libmimalloc2.0)",
                         ZC_MIMALLOC_SONAME);
    void *ptr = mimalloc.alloc(size, alignment > PAGE_BYTES ? alignment : PAGE_BYTES);
    if (ptr) {
        pthread_mutex_lock(&lock_of_set);
        bool kept = tsearch(ptr, &set, by_address) != NULL;
        pthread_mutex_unlock(&lock_of_set);
        if (kept) {
            atomic_fetch_add(&handed_out, 1);
            return ptr;
        }
        mimalloc.free(ptr);
    }
    return fail_null(-ENOMEM, "zc_alloc: the pool is full, and its fall-back has no %zu bytes", size);
}

/* Of an address and a block, one of several that do not overlap. */
static int by_place(const void *at, const void *block)
{
    size_t past = (uintptr_t)at - (uintptr_t)block;
    return at < block ? -1 : past >= mimalloc.usable_size(block);
}

static bool find(const void *ptr, int (*compare)(const void *, const void *), bool take)
{
    if (atomic_load(&handed_out) == 0)
        return false;
    pthread_mutex_lock(&lock_of_set);
    bool found = (take ? tdelete(ptr, &set, compare) : tfind(ptr, &set, compare)) != NULL;
    pthread_mutex_unlock(&lock_of_set);
    return found;
}

bool fallback_has(const void *ptr)
{
    return find(ptr, by_place, false);
}

bool fallback_free(void *ptr)
{
    if (!find(ptr, by_address, true))
        return false;
    atomic_fetch_sub(&handed_out, 1);
    mimalloc.free(ptr);
    return true;
}

size_t fallback_size(const void *ptr)
{
    return find(ptr, by_address, false) ? mimalloc.usable_size(ptr) : 0;
}
