/* SPDX-License-Identifier: MIT
 *
 * Exchanging the backings of two slots by exchanging their user mappings: page tables are moved, not made
 * anew, so that no page has to be touched again (three moves of 1 MiB cost half of one fresh mapping
 * and its population here; docs/design.md). */
#ifndef ZC_PROTECT_EXCHANGE_H
#define ZC_PROTECT_EXCHANGE_H

#include <stddef.h>

#include "alloc/pool.h"

/* `slot`, locked by `backing`, gets the backing of `other`, a free slot that only the caller knows; `other`
 * gets `backing`, which keeps its sends. Bytes outside [from, to) are copied over; those inside are what the
 * other backing has. At every moment the slot's user mapping shows the old or the new contents, and pages of
 * receives in flight stay inaccessible. Returns the slot's new backing, locked too. */
struct backing *exchange_backings(struct slot *slot, struct backing *backing, struct slot *other, size_t from,
                                  size_t to);

#endif
