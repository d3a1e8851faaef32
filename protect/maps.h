/* SPDX-License-Identifier: MIT
 *
 * Mappings are a limited resource (vm.max_map_count): protecting part of one splits it, and when the limit is
 * reached *un*protecting fails as well. So zc claims what the worst split needs before it protects, and keeps
 * a ballast of dummy mappings to throw away should the rest of the process use up what was left. */
#ifndef ZC_PROTECT_MAPS_H
#define ZC_PROTECT_MAPS_H

#include <stdbool.h>

#include "alloc/slot.h"

enum {
    MAPS_SPLIT = 2, /* a range of another protection inside a mapping */
    MAPS_RENAME = 4 /* two slots whose backings are not where their neighbours' are */
};

/* Reads the kernel's limit, less what the process has, and lays out the ballast; or takes `override` (ZC_MAPS, if
 * not 0) for the limit, without ballast. */
void maps_open(unsigned long override);

/* Adds what the slot uses up to the account (sign 1), or takes it off (-1). */
void maps_account(struct slot *slot, int sign);

bool maps_claim(int n); /* signal-safe, as are: */
bool maps_can_claim(int n);
void maps_force(int n); /* where refusing is no choice; negative gives back */
void maps_unclaim(int n);

/* Unmaps some ballast. False if none is left. */
bool maps_drop_ballast(void);

#endif
