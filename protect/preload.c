/* SPDX-License-Identifier: MIT */
#include "protect/preload.h"

#include <sys/resource.h>

#include "alloc/cache.h"
#include "alloc/heap.h"
#include "core/error.h"
#include "core/live.h"
#include "core/options.h"
#include "core/own_memory.h"
#include "protect/hold.h"
#include "protect/inherit.h"
#include "protect/open.h"

/* What the pools may keep free when one of them grows: a program that needs other sizes than before shall not keep
 * the memory of both. */
enum { IDLE_MOST = 32 << 20 };

static int sizes(size_t *least, size_t *most)
{
    const struct options *options;
    int error = options_get(&options);
    if (error) {
        error_print();
        return error;
    }
    *least = options->malloc_threshold;
    *most = options->malloc_most;
    return 0;
}

static int open_pools(bool hidden, char **start, size_t *length)
{
    /* The arena's reservation would use up what the program was given. */
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur != RLIM_INFINITY)
        return fail(-ENOMEM, "zc: RLIMIT_AS is set");
    if (hidden) {
        live_hide();
        segment_hide();
    }
    /* Where the program has zc, too, these pools may be protected some day, as it says (ZC_PROTECT). */
    int error = hidden ? 0 : protect_prepare();
    if (!error)
        error = heap_open();
    if (error == -EINVAL)
        error_print();
    if (error)
        return error;
    inherit_open();
    *start = arena.user;
    *length = arena.span;
    return 0;
}

static void *alloc(size_t size, size_t alignment)
{
    if (arena.forked || own_allocates())
        return NULL;
    struct slot *slot = alignment <= PAGE_BYTES ? heap_pop(size) : NULL;
    struct zc_pool *pool = slot ? NULL : heap_pool(size, alignment);
    if (pool)
        slot = cache_pop(pool->index);
    if (pool && !slot && atomic_load_explicit(&pool->spare, memory_order_relaxed) <= 0)
        heap_trim(IDLE_MOST);
    if (!slot && (!pool || cache_refill(pool, &slot)))
        return NULL;
    if (pool)
        slot_acquire_from(pool, slot, size);
    else
        slot_acquire(slot);
    return slot_user(slot);
}

/* Locks may be taken for ever in a child, by threads that it does not have; it needs none for its private copy. */
static void free_inherited(struct slot *slot)
{
    slot_become(slot, SLOT_FREE);
    sys_reserve(slot_user(slot), slot_segment(slot)->slot_size, PROT_NONE);
}

static void free_buffer(void *ptr)
{
    struct slot *slot = arena.forked ? arena_live(ptr) : NULL;
    if (slot)
        free_inherited(slot);
    else
        zc_free(ptr); /* which does nothing in a child */
}

const struct preload preload = {.size = sizeof preload,
                                .sizes = sizes,
                                .open = open_pools,
                                .prepare = inherit_prepare,
                                .parent = inherit_parent,
                                .child = inherit_child,
                                .alloc = alloc,
                                .free = free_buffer,
                                .usable_size = zc_usable_size};
