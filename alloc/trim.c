/* SPDX-License-Identifier: MIT
 *
 * Trimming: whole segments go back to the system, also where renames have mixed their pages with others'. */
#include <string.h>

#include "alloc/cache.h"
#include "alloc/hooks.h"
#include "alloc/pool.h"
#include "core/error.h"

static void list_add(uint32_t *list, struct slot *slot)
{
    atomic_store_explicit(&slot->next, *list, memory_order_relaxed);
    *list = slot_id(slot);
}

/* Takes all spare slots out of the pool, marked, and returns them as a list by `next`. */
static uint32_t collect(struct zc_pool *pool)
{
    uint32_t list = NONE;
    while (pool_try_claim(pool)) {
        struct slot *slot = pool_pop(pool);
        slot_become(slot, SLOT_COLLECTED);
        list_add(&list, slot);
    }
    return list;
}

static bool out_of_use(const struct slot *slot)
{
    return slot_is(slot, SLOT_COLLECTED) || slot_is(slot, SLOT_STALE) || slot_is(slot, SLOT_BARE);
}

/* The slot that shows the pages. One that is in use may be renamed meanwhile. */
static struct slot *shown_by(struct backing *backing)
{
    lock_take(&backing->lock);
    struct slot *slot = backing->slot;
    lock_drop(&backing->lock);
    return slot;
}

/* Nobody uses the segment's slots, nor its pages under another slot. */
static bool collected(const struct segment *segment)
{
    for (uint32_t i = 0; i < segment->carved; i++) {
        struct slot *slot = segment_slot(segment, i);
        if (!out_of_use(slot) || !out_of_use(shown_by(slot_home(slot))))
            return false;
    }
    return true;
}

static bool inside(const struct segment *segment, const struct slot *slot)
{
    return slot_segment(slot) == segment;
}

static void renew(struct slot *slot, struct backing *backing, enum slot_state state)
{
    void (*account)(struct slot *, int) = pool_hooks()->account;
    account(slot, -1);
    slot_init(slot, backing);
    slot_become(slot, state);
    account(slot, 1);
}

/* Maps the pages of `backing` under a collected slot. */
static int map_under(struct slot *slot, const struct backing *backing)
{
    size_t size = slot_segment(slot)->slot_size;
    char *user = slot_user(slot);
    int error = segment_show(backing, 0, size, user, PROT_READ | PROT_WRITE);
    if (error)
        return error;
    error = pool_hooks()->mapped(slot_pool(slot), user, size);
    if (error)
        renew(slot, atomic_load(&slot->backing), SLOT_STALE);
    return error;
}

/* Renames have mixed backings between segments. Gives each slot outside that shows a backing of `segment` one
 * that a slot of `segment` shows in exchange. The latter is not mapped again: it is to be unmapped anyway, and
 * should another exchange fail, it is out of the pool until a later trim succeeds. So is one outside that shows its
 * new pages, but cannot be protected. */
static int unmix(struct segment *segment, uint32_t *list)
{
    uint32_t give = 0;
    for (uint32_t i = 0; i < segment->carved; i++) {
        struct backing *home = slot_home(segment_slot(segment, i));
        struct slot *outside = home->slot;
        if (inside(segment, outside))
            continue;
        struct slot *slot;
        struct backing *backing;
        do {
            slot = segment_slot(segment, give++);
            backing = atomic_load(&slot->backing);
        } while (arena_segment(arena_user_of(backing_wire(backing))) == segment);
        bool stale = slot_is(outside, SLOT_STALE);
        int error = map_under(outside, backing);
        if (error)
            return error;
        renew(outside, backing, SLOT_COLLECTED);
        if (stale)
            list_add(list, outside);
        renew(slot, home, SLOT_STALE);
    }
    return 0;
}

/* Exchanging mappings leaves some page behind there, which would keep the memory of its segment. */
static void clear_scratch(struct zc_pool *pool)
{
    lock_take(&pool->scratch_lock);
    sys_reserve(pool->scratch, pool->stride, PROT_NONE);
    lock_drop(&pool->scratch_lock);
}

/* Slots without pages are set up anew with their segments. */
static void forget_bare(struct zc_pool *pool)
{
    uint32_t list = pool->bare;
    pool->bare = NONE;
    while (list != NONE) {
        struct slot *slot = slot_by_id(list);
        list = atomic_load_explicit(&slot->next, memory_order_relaxed);
        if (slot_is(slot, SLOT_BARE))
            list_add(&pool->bare, slot);
    }
}

/* Puts what is collected back into the pool. */
static void put_back(uint32_t list)
{
    while (list != NONE) {
        struct slot *slot = slot_by_id(list);
        list = atomic_load_explicit(&slot->next, memory_order_relaxed);
        if (slot_is(slot, SLOT_COLLECTED)) {
            slot_become(slot, SLOT_FREE);
            pool_push(slot);
        }
    }
}

/* Exchanges the backings of a collected slot and of the one that shows its own, if that is collected, too. Should the
 * second not be mapped, it is out of the pool as in unmix. */
static void send_home(struct slot *slot)
{
    struct backing *away = atomic_load(&slot->backing), *home = slot_home(slot);
    struct slot *other = shown_by(home);
    if (away == home || !slot_is(other, SLOT_COLLECTED) || map_under(slot, home))
        return;
    renew(slot, home, SLOT_COLLECTED);
    renew(other, away, SLOT_COLLECTED);
    if (map_under(other, away))
        slot_become(other, SLOT_STALE);
}

void pool_tidy(struct zc_pool *pool)
{
    pthread_mutex_lock(&pool->growth);
    cache_drain(pool);
    uint32_t list = collect(pool);
    for (uint32_t id = list; id != NONE; id = atomic_load_explicit(&slot_by_id(id)->next, memory_order_relaxed))
        pool_hooks()->settle(slot_by_id(id));
    for (uint32_t id = list; id != NONE; id = atomic_load_explicit(&slot_by_id(id)->next, memory_order_relaxed))
        send_home(slot_by_id(id));
    put_back(list);
    pthread_mutex_unlock(&pool->growth);
}

int pool_trim(struct zc_pool *pool, size_t *released)
{
    int error = 0;
    size_t bytes = 0;
    pthread_mutex_lock(&pool->growth);
    cache_drain(pool);
    uint32_t list = collect(pool);
    for (struct segment *segment = pool->segments; segment && !error; segment = segment->next) {
        if (!segment->mapped || !collected(segment))
            continue;
        error = unmix(segment, &list);
        if (error)
            break;
        for (uint32_t i = 0; i < segment->carved; i++)
            renew(segment_slot(segment, i), slot_home(segment_slot(segment, i)), SLOT_FREE); /* not to be pushed */
        pool->slots -= segment->slots;
        bytes += segment->length;
        segment_unmap(segment);
    }
    if (bytes)
        clear_scratch(pool);
    forget_bare(pool);
    put_back(list);
    pthread_mutex_unlock(&pool->growth);
    *released = bytes;
    return error ? fail(error, "zc_pool_trim: remapping a slot failed: %s", error_text(-error)) : 0;
}
