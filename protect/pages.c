/* SPDX-License-Identifier: MIT */
#include "protect/pages.h"

#include "core/clock.h"
#include "core/stats.h"
#include "protect/backend.h"
#include "protect/fault.h"
#include "protect/maps.h"
#include "protect/policy.h"

enum {
    CHECK_EVERY = 64, /* protections: whether the handler is still in place */
    MAPS_EXCESS = 4   /* times the mappings that holds can need: then the account is made up anew */
};

/* What is protected for a hold: all units of pages that it touches, or the inner ones, which are wholly its own. */
static uint32_t first_protected(const struct hold *hold)
{
    uint32_t unit = slot_pool(hold->slot)->unit;
    size_t first = hold->offset + (hold->inner ? unit * PAGE_BYTES - 1 : 0);
    return (uint32_t)(first >> PAGE_SHIFT) & -unit;
}

static uint32_t end_protected(const struct hold *hold)
{
    uint32_t unit = slot_pool(hold->slot)->unit;
    size_t end = hold->offset + hold->length + (hold->length && !hold->inner ? unit * PAGE_BYTES - 1 : 0);
    return (uint32_t)(end >> PAGE_SHIFT) & -unit;
}

static bool covers_page(const struct hold *hold, uint32_t page)
{
    return hold->protects && first_protected(hold) <= page && page < end_protected(hold);
}

/* The same; and so it is up to *end. */
static bool covers_pages(const struct hold *hold, uint32_t page, uint32_t *end)
{
    if (!hold->protects) /* nor need it have a slot: a copy's */
        return false;
    uint32_t first = first_protected(hold), past = end_protected(hold);
    if (first > page && first < *end)
        *end = first;
    if (past > page && past < *end)
        *end = past;
    return first <= page && page < past;
}

void slot_announce(struct slot *slot)
{
    atomic_fetch_add_explicit(&slot->event, 1, memory_order_release);
    if (!slot->awaited)
        return;
    futex_wake(&slot->event);
    const struct backend *backend = backend_of(slot_pool(slot));
    if (backend->announce)
        backend->announce();
}

/* Changes the protection of pages. Protection may be refused (-errno), its end, with `must`, may not. */
static int set_protection(struct slot *slot, uint32_t first, uint32_t pages, int prot, bool must)
{
    struct zc_pool *pool = slot_pool(slot);
    char *at = slot_user(slot) + ((size_t)first << PAGE_SHIFT);
    size_t length = (size_t)pages << PAGE_SHIFT;
    int error = 0;
    signals_close(); /* what takes long is not to be interrupted; slot_unlock() opens them */
    uint64_t before = clock_ns();
    if (must)
        backend_must_protect(pool, at, length, prot, slot->protected_closed);
    else
        error = backend_protect(pool, at, length, prot, slot->protected_closed);
    if (error)
        return error;
    policy_observe(pool, prot & PROT_WRITE ? COST_UNPROTECT : COST_PROTECT, pool->slot_size, clock_ns() - before);
    if (prot & PROT_WRITE)
        count(unprotects);
    else if (count(protects) % CHECK_EVERY == 0)
        fault_check();
    slot_announce(slot);
    return 0;
}

static void clear_protected(struct slot *slot)
{
    maps_unclaim(slot->maps);
    slot->maps = 0;
    slot->protected_pages = 0;
    slot->protected_whole = slot->protected_closed = false;
}

static void extend_protected(struct slot *slot, uint32_t first, uint32_t pages, bool whole)
{
    if (slot->protected_pages == 0) {
        slot->protected_first = first;
        slot->protected_pages = pages;
        slot->protected_whole = whole;
        return;
    }
    uint32_t end = slot->protected_first + slot->protected_pages;
    uint32_t low = first < slot->protected_first ? first : slot->protected_first;
    uint32_t high = first + pages > end ? first + pages : end;
    slot->protected_whole &= whole && first <= end && slot->protected_first <= first + pages;
    slot->protected_first = low;
    slot->protected_pages = high - low;
}

bool pages_protect(const struct hold *hold, int prot)
{
    struct slot *slot = hold->slot;
    uint32_t first = first_protected(hold), pages = end_protected(hold) - first;
    if (pages == 0) /* a hold of no bytes: what is claimed would never be found again, and given back */
        return true;
    int split = backend_of(slot_pool(slot))->split;
    /* More than one for each page, and one after the last, there cannot be. */
    int claim = slot->maps <= slot_pool(slot)->slot_size >> PAGE_SHIFT ? split : 0;
    if (slot->maps > UINT16_MAX - split || !maps_claim(claim))
        return false;
    int error = set_protection(slot, first, pages, prot, false);
    if (error && error != -ENOMEM) {
        maps_unclaim(claim);
        return false;
    }
    slot->maps += claim;
    extend_protected(slot, first, pages, !error);
    slot->protected_closed |= prot == PROT_NONE;
    if (error) /* it may have got half-way */
        slot_settle(slot, atomic_load_explicit(&slot->backing, memory_order_relaxed));
    return !error;
}

/* The laxest protection that the holds on a page allow; the same is true up to *end. */
static int page_need(const struct slot *slot, const struct backing *backing, uint32_t page, uint32_t *end)
{
    int need = PROT_READ | PROT_WRITE;
    for (const struct hold *hold = slot->receives; hold; hold = hold->next)
        if (hold_closed(hold) && covers_pages(hold, page, end))
            need = PROT_NONE;
    for (const struct hold *hold = backing->sends; hold; hold = hold->next)
        if (covers_pages(hold, page, end))
            need &= PROT_READ;
    return need;
}

/* Of the range, what the holds keep protected. */
struct kept {
    uint32_t low, high; /* pages; none where that is empty */
    int maps;
    bool closed, whole;
};

/* Finds that, and gives each page what its holds need, or only looks. */
static struct kept find_kept(struct slot *slot, const struct backing *backing, bool settle)
{
    uint32_t protected_end = slot->protected_first + slot->protected_pages;
    struct kept kept = {.low = protected_end, .high = slot->protected_first, .whole = true};
    int split = backend_of(slot_pool(slot))->split;
    for (uint32_t page = slot->protected_first, end; page < protected_end; page = end) {
        end = protected_end;
        int need = page_need(slot, backing, page, &end);
        if (settle)
            set_protection(slot, page, end - page, need, true);
        if (need & PROT_WRITE)
            continue;
        kept.whole &= kept.high == slot->protected_first || kept.high == page;
        kept.low = page < kept.low ? page : kept.low;
        kept.high = end;
        kept.maps += split;
        kept.closed |= need == PROT_NONE;
    }
    return kept;
}

bool slot_can_settle(struct slot *slot, const struct backing *backing)
{
    int maps = find_kept(slot, backing, false).maps;
    return maps <= slot->maps || maps_can_claim(maps - slot->maps);
}

void slot_settle(struct slot *slot, const struct backing *backing)
{
    if (slot->protected_pages == 0)
        return;
    struct kept kept = find_kept(slot, backing, true);
    if (kept.low >= kept.high) {
        clear_protected(slot);
        return;
    }
    int maps = kept.maps < UINT16_MAX ? kept.maps : UINT16_MAX;
    slot->protected_first = kept.low;
    slot->protected_pages = kept.high - kept.low;
    maps_force(maps - slot->maps);
    slot->maps = (uint16_t)maps;
    slot->protected_whole = kept.whole;
    slot->protected_closed = kept.closed;
}

int slot_holds(const struct slot *slot, const struct backing *backing)
{
    int holds = 0;
    for (const struct hold *hold = slot->receives; hold; hold = hold->next)
        holds += hold_closed(hold);
    for (const struct hold *hold = backing->sends; hold; hold = hold->next)
        holds++;
    return holds;
}

/* What was claimed for the other mappings stays: they end where holds began or ended since all was settled. */
void slot_settle_over(struct slot *slot, const struct backing *backing, const struct hold *over)
{
    int holds = slot_holds(slot, backing);
    if (holds == 0 || slot->maps > MAPS_EXCESS * MAPS_SPLIT * holds) {
        slot_settle(slot, backing);
        return;
    }
    uint32_t protected_end = slot->protected_first + slot->protected_pages, last = end_protected(over),
             page = first_protected(over);
    page = page > slot->protected_first ? page : slot->protected_first;
    last = last < protected_end ? last : protected_end;
    for (uint32_t end; page < last; page = end) {
        end = last;
        int need = page_need(slot, backing, page, &end);
        if (need == PROT_NONE) /* as they are: another receive's, too */
            continue;
        set_protection(slot, page, end - page, need, true);
        slot->protected_whole &= !(need & PROT_WRITE);
    }
}

void slot_settle_popped(struct slot *slot)
{
    if (slot->protected_pages == 0)
        return;
    bool closed = signals_closed();
    slot_settle(slot, atomic_load_explicit(&slot->backing, memory_order_relaxed));
    if (!closed)
        signals_open(); /* no lock is dropped that would do it */
}

void pages_show(struct slot *slot, uint32_t page)
{
    uint32_t end = page + 1;
    struct backing *backing = slot_lock(slot);
    int need = page_need(slot, backing, page, &end);
    /* The buffer may be freed and trimmed away meanwhile: who touches it all the same comes again. */
    const struct segment *segment = slot_segment(slot);
    if (need != PROT_NONE && segment)
        backend_protect(segment->pool, slot_user(slot) + ((size_t)page << PAGE_SHIFT), PAGE_BYTES, need, true);
    slot_unlock(backing);
}

void pages_bar(struct slot *slot, uint32_t page)
{
    struct backing *backing = slot_lock(slot);
    if (!slot_is(slot, SLOT_LIVE)) {
        sys_mprotect(slot_user(slot) + ((size_t)page << PAGE_SHIFT), PAGE_BYTES, PROT_NONE);
        extend_protected(slot, page, 1, false);
        slot->protected_closed = true;
    }
    slot_unlock(backing);
}

static struct hold *send_at(const struct backing *backing, uint32_t page)
{
    for (struct hold *hold = backing->sends; hold; hold = hold->next)
        if (covers_page(hold, page))
            return hold;
    return NULL;
}

struct hold *page_holder(const struct slot *slot, const struct backing *backing, uint32_t page)
{
    for (struct hold *hold = slot->receives; hold; hold = hold->next)
        if (!hold->rules->comm && !hold->rules->lent && covers_page(hold, page))
            return hold;
    return send_at(backing, page);
}

struct hold *slot_denies(const struct slot *slot, const struct backing *backing, uint32_t page, bool store)
{
    for (struct hold *hold = slot->receives; hold; hold = hold->next)
        if (hold_closed(hold) && covers_page(hold, page))
            return hold;
    return store ? send_at(backing, page) : NULL;
}
