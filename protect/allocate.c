/* SPDX-License-Identifier: MIT
 *
 * The application's buffers: malloc's family on top of slots and holds. */
#include <stdlib.h>
#include <string.h>

#include "alloc/cache.h"
#include "alloc/debug.h"
#include "alloc/heap.h"
#include "core/options.h"
#include "core/sized.h"
#include "core/stats.h"
#include "core/trace.h"
#include "protect/conflict.h"
#include "protect/fallback.h"
#include "protect/open.h"

int zc_pool_open(const zc_pool_options *given, zc_pool **pool)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    if (!pool)
        return fail(-EINVAL, "zc_pool_open: pool is NULL");
    int error = sized_take(&options, sizeof options, given, "zc_pool_open", "ZC_POOL_OPTIONS_INIT");
    if (!error)
        error = protect_open();
    if (!error)
        error = heap_open(); /* for its variables, which are refused by all calls that open anything */
    return error ? error : pool_open(&options, pool);
}

/* At the cap of a pool that does not grow. */
static void *alloc_past(struct zc_pool *pool, size_t alignment, size_t size)
{
    if (pool->full != ZC_FULL_FALLBACK)
        return fail_null(-ENOMEM, "zc_alloc: the pool of %zu-byte slots is at its cap of %zu live slots",
                         pool->slot_size, pool->cap);
    void *ptr = fallback_alloc(alignment, size);
    atomic_fetch_add(&pool->fallbacks, ptr != NULL);
    atomic_fetch_add(&live.counters.fallbacks, ptr != NULL);
    return ptr;
}

/* Where the thread's cache has none. */
static void *alloc_slowly(struct zc_pool *pool, size_t alignment, size_t size)
{
    struct slot *slot;
    int error = protect_open();
    if (!error)
        error = cache_refill(pool, &slot);
    if (error > 0)
        return alloc_past(pool, alignment, size);
    if (error)
        return null_with(error);
    slot_acquire_from(pool, slot, size);
    return slot_user(slot);
}

static void *alloc_from(struct zc_pool *pool, size_t alignment, size_t size)
{
    struct slot *slot = cache_pop(pool->index); /* a thread that has a cache has opened what there is to open */
    if (!slot)
        return alloc_slowly(pool, alignment, size);
    slot_acquire(slot);
    return slot_user(slot);
}

static void *alloc_aligned(size_t alignment, size_t size)
{
    if (alignment == 0 || (alignment & (alignment - 1)) || alignment > HUGE_BYTES)
        return fail_null(-EINVAL, "zc_aligned_alloc: alignment %zu, expected a power of two up to %zu", alignment,
                         HUGE_BYTES);
    int error = heap_opened() ? 0 : protect_open(); /* which pools need to know of */
    if (error)
        return null_with(error);
    struct zc_pool *pool = heap_pool(size, alignment);
    void *ptr = pool ? alloc_from(pool, alignment, size) : NULL;
    if (ptr)
        trace(TRACE_ALLOC, ptr, alignment, size);
    return ptr;
}

/* Where more is to be done than to hand out a slot of the thread's cache: there is none (NULL), it is protected, or
 * there is a trace. */
static __attribute__((noinline)) void *alloc_otherwise(struct slot *slot, size_t size)
{
    if (!slot)
        return alloc_aligned(1, size);
    slot_acquire(slot);
    trace(TRACE_ALLOC, slot_user(slot), 1, size);
    return slot_user(slot);
}

/* Aligned to a page. */
static inline void *alloc_quickly(size_t size)
{
    struct slot *slot = heap_pop(size);
    if (!slot || slot->protected_pages || tracing())
        return alloc_otherwise(slot, size);
    slot_acquire_bare(slot);
    return slot_user(slot);
}

void *zc_alloc(size_t size)
{
    return alloc_quickly(size);
}

void *zc_aligned_alloc(size_t alignment, size_t size)
{
    bool pages_do = alignment && alignment <= PAGE_BYTES && !(alignment & (alignment - 1));
    return pages_do ? alloc_quickly(size) : alloc_aligned(alignment, size);
}

void *zc_pool_alloc(zc_pool *pool)
{
    if (!pool || !pool->open)
        return fail_null(-EINVAL, "zc_pool_alloc: %s", pool ? "the pool is closed" : "pool is NULL");
    return alloc_from(pool, 1, pool->slot_size);
}

void *zc_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        return fail_null(-ENOMEM, "zc_calloc: %zu elements of %zu bytes are more than SIZE_MAX", n, size);
    char *ptr = zc_alloc(bytes);
    struct slot *slot = ptr ? slot_find(ptr) : NULL;
    if (slot)
        memset(slot_wire(slot), 0, bytes);
    else if (ptr)
        memset(ptr, 0, bytes); /* a fall-back's */
    return ptr;
}

/* The live slot that starts at `ptr`, or NULL with a message for `call`. */
static struct slot *slot_of(const void *ptr, const char *call)
{
    struct slot *slot = slot_find(ptr);
    if (!slot)
        error_say("%s: %p is not zc memory", call, ptr);
    else if (!slot_is(slot, SLOT_LIVE))
        error_say("%s: the buffer at %p is not live: freed twice?", call, (void *)slot_user(slot));
    else if (slot_user(slot) != ptr)
        error_say("%s: %p lies %zu bytes inside the buffer that starts at %p", call, ptr,
                  (size_t)((const char *)ptr - slot_user(slot)), (void *)slot_user(slot));
    else
        return slot;
    return NULL;
}

static int no_buffer(void)
{
    error_print();
    return -EINVAL;
}

/* Frees a slot that others may be at. */
static int free_locked(struct slot *slot)
{
    struct backing *backing = slot_lock(slot);
    if (!slot_is(slot, SLOT_LIVE)) {
        slot_unlock(backing);
        error_say("zc_free: the buffer at %p is not live: freed twice?", (void *)slot_user(slot));
        return no_buffer();
    }
    if (slot_pool(slot)->debug)
        debug_given(slot);
    conflict_freed(slot, backing);
    slot_release(slot, backing);
    return 0;
}

/* Where it is no slot that the application alone knows, or there is a trace. */
static __attribute__((noinline)) int free_otherwise(void *ptr)
{
    if (!ptr)
        return 0;
    trace(TRACE_FREE, ptr, 1, 0);
    struct slot *slot = arena_live(ptr);
    if (!slot && fallback_free(ptr))
        return 0;
    if (!slot)
        slot = slot_of(ptr, "zc_free"); /* says what is wrong */
    return slot ? free_locked(slot) : no_buffer();
}

int zc_free(void *ptr)
{
    if (arena.forked)
        return 0;
    struct slot *slot = arena_start(ptr);
    if (!slot || !slot_is_private(slot) || tracing())
        return free_otherwise(ptr);
    slot_become(slot, SLOT_FREE);
    cache_give(slot);
    return 0;
}

size_t zc_usable_size(const void *ptr)
{
    struct slot *slot = slot_find(ptr);
    if (!slot) /* a lock may be taken for ever in a child, by a thread that it does not have */
        return arena.forked ? 0 : fallback_size(ptr);
    if (!slot_is(slot, SLOT_LIVE) || slot_user(slot) != ptr)
        return 0;
    bool known = slot_pool(slot)->debug && !arena.forked; /* a child has no copy of that */
    return known ? debug_size(slot) : slot_segment(slot)->slot_size;
}

int zc_owns(const void *ptr)
{
    struct slot *slot = slot_find(ptr);
    return slot && slot_is(slot, SLOT_LIVE);
}

void *zc_realloc(void *ptr, size_t size)
{
    if (!ptr)
        return zc_alloc(size);
    if (size == 0)
        return null_with(zc_free(ptr));
    if (arena.forked)
        return fail_null(-EPERM, "zc_realloc: a forked child cannot use its parent's buffer at %p", ptr);
    bool foreign = fallback_size(ptr) != 0;
    struct slot *slot = foreign ? NULL : slot_of(ptr, "zc_realloc");
    if (!slot && !foreign)
        return null_with(-EINVAL);
    size_t usable = zc_usable_size(ptr);
    if (size <= usable && (usable / 4 <= size || usable <= heap_class_size(size)))
        return ptr;
    char *moved = zc_alloc(size);
    if (!moved)
        return NULL;
    size_t kept = usable < size ? usable : size;
    struct backing *backing = NULL;
    int error = slot ? conflict_own(slot, 0, kept, WITH_RECEIVES, &backing) : 0;
    if (error) {
        zc_free(moved);
        return fail_null(error, "zc_realloc: a receive into the buffer at %p failed", ptr);
    }
    struct slot *to = slot_find(moved);
    memcpy(to ? slot_wire(to) : moved, slot ? backing_wire(backing) : ptr, kept);
    if (slot)
        slot_unlock(backing);
    zc_free(ptr);
    return moved;
}
