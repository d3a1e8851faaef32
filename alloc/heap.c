/* SPDX-License-Identifier: MIT */
#include "alloc/heap.h"

#include <stdlib.h>

#include "alloc/pool_spec.h"
#include "alloc/reclaim.h"
#include "core/error.h"
#include "core/options.h"
#include "core/thread.h"

/* Classes 0..3 are 1..4 pages, then (4 + i) << k pages: 5 6 7 8, 10 12 14 16, 20 24 28 32 ... */
enum { CLASSES = 4 * 28, CONFIGURED_MOST = 64 };

static struct zc_pool *_Atomic classes[CLASSES];

/* Pools of ZC_POOLS, by slot size, and the least request that each takes where another class would waste less. */
static struct configured {
    struct zc_pool *pool;
    size_t from;
} configured[CONFIGURED_MOST];
static size_t configured_count;
static struct kept_error configuring;
static _Atomic bool opened; /* without an error */

_Atomic uint32_t heap_indices[HEAP_CACHED + 1];

static unsigned class_of(size_t pages)
{
    if (pages <= 4)
        return pages ? (unsigned)pages - 1 : 0;
    unsigned doubling = 63 - (unsigned)__builtin_clzl(pages - 1) - 2; /* of the step: 4<<d < pages <= 8<<d */
    size_t steps = ((pages - 1) >> doubling) - 3;                     /* 1..4 */
    return 4 * (doubling + 1) + (unsigned)steps - 1;
}

static size_t class_pages(unsigned class)
{
    return class < 4 ? class + 1 : (size_t)(5 + class % 4) << (class / 4 - 1);
}

size_t heap_class_size(size_t size)
{
    return class_pages(class_of(pages_of(size))) << PAGE_SHIFT;
}

static void add_configured(struct zc_pool *pool, size_t from)
{
    size_t at = configured_count++;
    for (; at > 0 && configured[at - 1].pool->slot_size > pool->slot_size; at--)
        configured[at] = configured[at - 1];
    configured[at] = (struct configured){pool, from};
}

static int configure(const char *spec)
{
    for (const char *at = *spec ? spec : NULL; at;) {
        zc_pool_options options = ZC_POOL_OPTIONS_INIT;
        size_t from = ZC_UNLIMITED;
        int start = (int)(at - spec) + 1;
        const char *wanted = pool_spec_parse(&at, &options, &from);
        if (!wanted && configured_count == CONFIGURED_MOST)
            wanted = "no more than 64 pools";
        if (wanted)
            return fail(-EINVAL, "ZC_POOLS=%.100s: at character %d ('%.1s'): expected %s", spec, (int)(at - spec) + 1,
                        at, wanted);
        struct zc_pool *pool;
        int error = pool_open(&options, &pool);
        if (error)
            return fail(error, "ZC_POOLS=%.100s: the pool at character %d: %s", spec, start, zc_errmsg());
        if (options.slot_size != pool->slot_size) {
            error_say("ZC_POOLS=%.100s: at character %d: slots of %zu bytes are rounded up to whole pages, %zu bytes",
                      spec, start, options.slot_size, pool->slot_size);
            error_print();
        }
        add_configured(pool, from);
        at = *at ? at + 1 : NULL;
    }
    return 0;
}

static void configure_once(void)
{
    const struct options *options;
    int error = options_get(&options);
    error_keep(&configuring, error ? error : configure(options->pools));
}

static struct zc_pool *class_pool(unsigned class)
{
    struct zc_pool *pool = atomic_load_explicit(&classes[class], memory_order_acquire);
    if (pool)
        return pool;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = class_pages(class) << PAGE_SHIFT;
    int error = pool_open(&options, &pool);
    if (error)
        return null_with(error);
    struct zc_pool *first = NULL;
    if (!atomic_compare_exchange_strong(&classes[class], &first, pool)) {
        zc_pool_close(pool); /* another thread was here before */
        return first;
    }
    reclaim_from(pool);
    return pool;
}

int heap_open(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int error = arena_open();
    if (error)
        return error;
    thread_once(&once, configure_once);
    error = error_again(&configuring);
    if (!error)
        atomic_store_explicit(&opened, true, memory_order_release);
    return error;
}

bool heap_opened(void)
{
    return atomic_load_explicit(&opened, memory_order_acquire);
}

/* The pool is the one for `size` bytes. It is for as many pages too, if none of ZC_POOLS begins between. */
static void remember(const struct zc_pool *pool, size_t size)
{
    size_t pages = pages_of(size);
    if (pages > HEAP_CACHED || atomic_load_explicit(&heap_indices[pages], memory_order_relaxed) == pool->index)
        return;
    size_t most = pages << PAGE_SHIFT;
    for (size_t i = 0; i < configured_count; i++)
        if (configured[i].from <= most && configured[i].from + PAGE_BYTES > most + 1)
            return;
    atomic_store_explicit(&heap_indices[pages], pool->index, memory_order_relaxed);
}

static struct zc_pool *find_pool(size_t size, size_t alignment)
{
    unsigned class = class_of(pages_of(size));
    size_t slot_size = class_pages(class) << PAGE_SHIFT;
    /* Segments start at 2 MiB, so a slot is aligned if its size is a multiple of the alignment. */
    while (slot_size & (alignment - 1))
        slot_size = class_pages(++class) << PAGE_SHIFT;
    for (size_t i = 0; i < configured_count; i++) {
        struct zc_pool *pool = configured[i].pool;
        bool wanted = pool->slot_size <= slot_size || size >= configured[i].from;
        if (wanted && pool->slot_size >= size && pool->stride % alignment == 0)
            return pool;
    }
    return class_pool(class);
}

/* Where the pool of a class would have to make slots: that of the next one, if slots of it lie idle and waste no more
 * than a quarter. Else the pool itself. */
static struct zc_pool *or_idle(struct zc_pool *pool, size_t size)
{
    size_t pages = pages_of(size);
    unsigned class = class_of(pages);
    struct zc_pool *next = atomic_load_explicit(&classes[class + 1], memory_order_acquire);
    bool wanted = next && 4 * class_pages(class + 1) <= 5 * pages &&
                  atomic_load_explicit(&classes[class], memory_order_relaxed) == pool &&
                  atomic_load_explicit(&pool->spare, memory_order_relaxed) <= 0 &&
                  atomic_load_explicit(&next->spare, memory_order_relaxed) > 0;
    return wanted ? next : pool;
}

struct zc_pool *heap_pool(size_t size, size_t alignment)
{
    int error = heap_opened() ? 0 : heap_open();
    if (error)
        return null_with(error);
    if (size > arena.span / 4)
        return fail_null(-ENOMEM, "zc_alloc: %zu bytes, the most is %zu", size, arena.span / 4);
    struct zc_pool *pool = find_pool(size, alignment);
    if (!pool || alignment > PAGE_BYTES)
        return pool;
    remember(pool, size);
    return or_idle(pool, size);
}

static size_t idle_bytes(struct zc_pool *pool)
{
    long spare = pool ? atomic_load_explicit(&pool->spare, memory_order_relaxed) : 0;
    return spare > 0 ? (size_t)spare * pool->slot_size : 0;
}

void heap_trim(size_t most)
{
    size_t idle = 0;
    for (int i = 0; i < CLASSES; i++)
        idle += idle_bytes(atomic_load_explicit(&classes[i], memory_order_acquire));
    for (int i = CLASSES - 1; i >= 0 && idle > most; i--) {
        struct zc_pool *pool = atomic_load_explicit(&classes[i], memory_order_acquire);
        size_t before = idle_bytes(pool);
        if (before && zc_pool_trim(pool, NULL) == 0)
            idle -= before - idle_bytes(pool);
    }
}
