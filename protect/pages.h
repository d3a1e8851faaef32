/* SPDX-License-Identifier: MIT
 *
 * The protection of a slot's pages: what each page needs follows from all holds of the slot, and what may be
 * protected now is remembered as one range. Pages outside of it are read-write; pages inside may be stricter than their
 * holds need, never laxer. All with the slot locked. */
#ifndef ZC_PROTECT_PAGES_H
#define ZC_PROTECT_PAGES_H

#include "protect/hold.h"

/* Protects the pages of a hold, in whole units of protection, and adds them to the range. False where mappings have run
 * out. */
bool pages_protect(const struct hold *hold, int prot);

/* Is every page from `first` to before `end` protected? */
static inline bool pages_protected(const struct slot *slot, uint32_t first, uint32_t end)
{
    return slot->protected_whole && slot->protected_first <= first &&
           end <= slot->protected_first + slot->protected_pages;
}

/* Puts a page back that is not in the user mapping, as protected as its holds need. */
void pages_show(struct slot *slot, uint32_t page);

/* Closes a page by page protection, whatever the pool's way is, if the slot is not live: until it is taken again, who
 * touches the page gets SIGSEGV, and a system call EFAULT. */
void pages_bar(struct slot *slot, uint32_t page);

/* The send or guard, of either kind, that denies stores to the page, or NULL. */
struct hold *page_holder(const struct slot *slot, const struct backing *backing, uint32_t page);

/* The hold that denies an access to the page, or NULL. Receives come first. */
struct hold *slot_denies(const struct slot *slot, const struct backing *backing, uint32_t page, bool store);

/* Holds in force, each of which may have protected pages of the slot. */
int slot_holds(const struct slot *slot, const struct backing *backing);

/* Are the mappings there that settling the slot needs? Sends of what was protected already have claimed none. */
bool slot_can_settle(struct slot *slot, const struct backing *backing);

/* Gives each page of the range the laxest protection that its holds allow. */
void slot_settle(struct slot *slot, const struct backing *backing);

/* Gives the pages of a receive that is over the laxest protection that others allow, so that one of many costs no
 * more than its own pages; with the last, settles all. */
void slot_settle_over(struct slot *slot, const struct backing *backing, const struct hold *over);

/* slot_settle for a slot that was popped, which nobody else looks at, without its lock. */
void slot_settle_popped(struct slot *slot);

/* Something changed about the slot: wakes whoever sleeps on its event. */
void slot_announce(struct slot *slot);

#endif
