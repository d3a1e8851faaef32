/* SPDX-License-Identifier: MIT
 *
 * What protect/ does for pools, which know nothing of protection. */
#ifndef ZC_ALLOC_HOOKS_H
#define ZC_ALLOC_HOOKS_H

#include <stddef.h>

#include "zc.h"

struct slot;

struct pool_hooks {
    /* Chooses how `pool`, just opened, is protected, as `wanted` says. 0 or -errno with a message. */
    int (*choose)(struct zc_pool *pool, enum zc_protect wanted);
    /* Pages of slots were mapped at `user`, and populated, that nobody uses yet. 0, or -errno: they cannot be
     * protected, and nobody is to use them. */
    int (*mapped)(struct zc_pool *pool, char *user, size_t length);
    /* Protection uses up mappings, of which protect/ keeps the account. A trim that makes a slot anew calls this with
     * what the slot uses no more (sign -1) and with what it uses then (+1). */
    void (*account)(struct slot *slot, int sign);
    /* Makes a slot that was popped read-write, if that can be done. */
    void (*settle)(struct slot *slot);
};

/* Those that were set last; at first they do nothing. */
const struct pool_hooks *pool_hooks(void);

/* To be set before any pool is opened that needs them. */
void pool_hooks_set(const struct pool_hooks *hooks);

#endif
