/* SPDX-License-Identifier: MIT */
#include "protect/exchange.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/stats.h"
#include "protect/backend.h"
#include "protect/hold.h"
#include "protect/maps.h"
#include "protect/pages.h"

static uint32_t slot_pages(const struct slot *slot)
{
    return (uint32_t)(slot_pool(slot)->slot_size >> PAGE_SHIFT);
}

static void protect(const struct slot *slot, size_t at, size_t length, int prot)
{
    backend_must_protect(slot_pool(slot), slot_user(slot) + at, length, prot, slot->protected_closed);
    count(remaps);
}

static _Noreturn void die(int error)
{
    struct text text = {0};
    text_add(&text, "zc: mapping pages failed during a rename with errno ");
    text_add_number(&text, (uint64_t)-error);
    text_add(&text, error == -EINVAL
                        ? "; that takes Linux 5.14, and valgrind cannot do it (ZC_POLICY=copy needs none)\n"
                        : "; raise vm.max_map_count, or RLIMIT_AS if it was lowered since\n");
    text_print(&text);
    abort();
}

/* Kernels before 6.17 move one mapping at a time. Of several, as where the program has locked a part in memory, they
 * say so (EFAULT) when they have unmapped what is at `to`, where another thread may then map something: so they are
 * asked before. */
static void move(char *from, char *to, size_t length)
{
    if (length > PAGE_BYTES && !sys_is_one_mapping(from, length)) {
        size_t half = pages_of(length / 2) << PAGE_SHIFT;
        move(from, to, half);
        move(from + half, to + half, length - half);
        return;
    }
    int error = sys_move(from, to, length);
    while (error == -ENOMEM && maps_drop_ballast())
        error = sys_move(from, to, length);
    if (error)
        die(error);
    count(remaps);
}

/* Makes the slot show the fresh pages, and the spare those that the slot shows now: bytes [at, at + length). */
static void move_around(const struct zc_pool *pool, char *user, char *spare, size_t at, size_t length)
{
    move(spare + at, pool->scratch + at, length);
    move(user + at, spare + at, length);
    move(pool->scratch + at, user + at, length);
}

/* The same for hugetlb pages, which the kernel does not move. */
static void map_anew(const struct backing *backing, size_t at, size_t length, char *user, int prot)
{
    int error = segment_show(backing, at, length, user + at, prot);
    while (error == -ENOMEM && maps_drop_ballast())
        error = segment_show(backing, at, length, user + at, prot);
    if (error)
        die(error);
    count(remaps);
}

/* Where a run of pages that starts at `page` and is or is not being received into ends. */
static uint32_t run_end(const struct slot *slot, uint32_t page, uint32_t pages, bool *receiving)
{
    uint32_t end = page;
    *receiving = slot_denies(slot, slot->backing, page, false) != NULL;
    if (!slot->receives)
        return pages;
    do
        end++;
    while (end < pages && (slot_denies(slot, slot->backing, end, false) != NULL) == *receiving);
    return end;
}

/* Nobody may store while bytes are copied, not to pages without a hold either. */
static void deny_stores(const struct slot *slot)
{
    uint32_t pages = slot_pages(slot);
    bool receiving, whole = slot->protected_whole && slot->protected_pages == pages;
    for (uint32_t page = 0, end; page < pages && !whole; page = end) {
        end = run_end(slot, page, pages, &receiving);
        if (!receiving)
            protect(slot, (size_t)page << PAGE_SHIFT, (size_t)(end - page) << PAGE_SHIFT, PROT_READ);
    }
}

/* Exchanges what the two show. Is any of it being received into, and closed? */
static bool exchange_mappings(const struct slot *slot, const struct backing *backing, const struct slot *other,
                              const struct backing *fresh)
{
    struct zc_pool *pool = slot_pool(slot);
    char *user = slot_user(slot), *spare = slot_user(other);
    uint32_t pages = slot_pages(slot);
    bool receiving, any = false;

    /* The spare may still be protected from its last use. */
    if (other->protected_pages)
        protect(other, 0, pool->slot_size, PROT_READ | PROT_WRITE);
    lock_take(&pool->scratch_lock);
    for (uint32_t page = 0, end; page < pages; page = end) {
        end = run_end(slot, page, pages, &receiving);
        size_t at = (size_t)page << PAGE_SHIFT, length = (size_t)(end - page) << PAGE_SHIFT;
        any |= receiving;
        if (pool->hugetlb) {
            map_anew(backing, at, length, spare, PROT_READ);
            map_anew(fresh, at, length, user, receiving ? PROT_NONE : PROT_READ | PROT_WRITE);
            continue;
        }
        if (receiving)
            protect(other, at, length, PROT_NONE);
        move_around(pool, user, spare, at, length);
    }
    lock_drop(&pool->scratch_lock);
    return any;
}

static bool displaced(struct slot *slot)
{
    return slot->backing != slot_home(slot);
}

/* The books follow the mappings. */
static void exchange_books(struct slot *slot, struct backing *backing, struct slot *other, struct backing *fresh,
                           bool closed)
{
    uint32_t pages = slot_pages(slot);
    int before = displaced(slot) + displaced(other);
    atomic_store_explicit(&other->backing, backing, memory_order_release);
    atomic_store_explicit(&slot->backing, fresh, memory_order_release);
    backing->slot = other;
    fresh->slot = slot;
    maps_force((displaced(slot) + displaced(other) - before) * MAPS_SPLIT);
    /* Protection went with the mappings. */
    maps_unclaim(other->maps);
    other->maps = slot->maps;
    other->protected_first = 0;
    other->protected_pages = pages;
    other->protected_whole = false; /* settled before it is sent from */
    other->protected_closed = closed || slot->protected_closed;
    slot->maps = 0;
    slot->protected_first = 0;
    slot->protected_pages = closed ? pages : 0; /* those of receives are found again by settling all */
    slot->protected_whole = false;
    slot->protected_closed = closed;
}

struct backing *exchange_backings(struct slot *slot, struct backing *backing, struct slot *other, size_t from,
                                  size_t to)
{
    struct backing *fresh = atomic_load(&other->backing);
    const char *old_bytes = backing_wire(backing);
    char *new_bytes = backing_wire(fresh);
    signals_close();
    deny_stores(slot);
    memcpy(new_bytes, old_bytes, from);
    memcpy(new_bytes + to, old_bytes + to, slot_pool(slot)->slot_size - to);
    bool closed = exchange_mappings(slot, backing, other, fresh);
    lock_take(&fresh->lock);
    exchange_books(slot, backing, other, fresh, closed);
    return fresh;
}
