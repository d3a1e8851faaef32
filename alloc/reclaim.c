/* SPDX-License-Identifier: MIT */
#include "alloc/reclaim.h"

#include "alloc/hooks.h"

enum {
    EPOCH = 2,
    EPOCH_LEAST = 1 << 20,
    SHARE = 64,
    LEAST_BYTES = 16 << 10 /* of a slot: each costs a system call or two */
};

static struct zc_pool *_Atomic lenders;
static atomic_flag taking = ATOMIC_FLAG_INIT; /* by one thread at a time, which owns: */
static uint64_t epoch_began;                  /* when so many bytes had been allocated */
static uint64_t moved;                        /* bytes */

void reclaim_from(struct zc_pool *pool)
{
    bool whole_pages = !pool->huge || pool->slot_size >= HUGE_BYTES; /* it has no huge page in common with others */
    if (pool->slot_size < LEAST_BYTES || !whole_pages || pool->hugetlb || pool->protect != ZC_PROTECT_MPROTECT)
        return;
    pool->next_lender = atomic_load(&lenders);
    while (!atomic_compare_exchange_weak(&lenders, &pool->next_lender, pool))
        ;
}

static long load(_Atomic long *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void next_epoch(uint64_t allocated)
{
    epoch_began = allocated;
    for (struct zc_pool *pool = atomic_load(&lenders); pool; pool = pool->next_lender) {
        pool->idle_before = load(&pool->idle);
        atomic_store_explicit(&pool->idle, load(&pool->spare), memory_order_relaxed);
    }
}

/* Bytes that may have moved by now; 0 where little lies idle. */
static uint64_t allowance(void)
{
    uint64_t allocated = 0, taken = 0, spare = 0;
    for (struct zc_pool *pool = atomic_load(&lenders); pool; pool = pool->next_lender) {
        long free = load(&pool->spare);
        allocated += atomic_load_explicit(&pool->allocs, memory_order_relaxed) * pool->slot_size;
        taken += atomic_load_explicit(&pool->taken, memory_order_relaxed) * pool->slot_size;
        spare += free > 0 ? (size_t)free * pool->slot_size : 0;
    }
    if (allocated - epoch_began >= EPOCH * (taken + spare + EPOCH_LEAST))
        next_epoch(allocated);
    return spare > taken / 8 * 3 ? allocated / SHARE : 0;
}

/* Slots that it has had no use for. */
static long surplus(struct zc_pool *pool)
{
    long idle = load(&pool->idle);
    return idle < pool->idle_before ? idle : pool->idle_before;
}

static struct zc_pool *richest(void)
{
    struct zc_pool *found = NULL;
    size_t most = 0;
    for (struct zc_pool *pool = atomic_load(&lenders); pool; pool = pool->next_lender) {
        long slots = surplus(pool);
        if (slots > 0 && (size_t)slots * pool->slot_size > most) {
            most = (size_t)slots * pool->slot_size;
            found = pool;
        }
    }
    return found;
}

/* Takes the pages of a slot that was popped. */
static bool take_pages(struct slot *slot)
{
    struct backing *home = slot_home(slot);
    if (atomic_load_explicit(&slot->backing, memory_order_relaxed) != home)
        return false;
    pool_hooks()->settle(slot);
    return slot->protected_pages == 0 && segment_punch(slot_segment(slot), backing_wire(home));
}

/* Takes the pages of one free slot. */
static bool take_from(struct zc_pool *pool)
{
    if (pthread_mutex_trylock(&pool->growth))
        return false;
    struct slot *slot = pool_try_claim(pool) ? pool_pop(pool) : NULL;
    bool took = slot && take_pages(slot);
    if (took)
        pool_strip(pool, slot);
    else if (slot)
        pool_push(slot);
    pthread_mutex_unlock(&pool->growth);
    return took;
}

void reclaim(size_t bytes)
{
    if (!atomic_load(&lenders) || atomic_flag_test_and_set(&taking))
        return;
    uint64_t most = allowance();
    struct zc_pool *pool;
    for (size_t taken = 0; taken < bytes && moved < most && (pool = richest()); taken += pool->slot_size) {
        long idle = load(&pool->idle);
        bool took = take_from(pool);
        atomic_store_explicit(&pool->idle, idle - 1, memory_order_relaxed);
        pool->idle_before = took ? pool->idle_before - 1 : 0; /* not before the next epoch */
        if (!took)
            break;
        moved += pool->slot_size;
    }
    atomic_flag_clear(&taking);
}
