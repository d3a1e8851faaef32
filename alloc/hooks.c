/* SPDX-License-Identifier: MIT */
#include "alloc/hooks.h"

#include <stdatomic.h>

#include "alloc/pool.h"

static int choose_default(struct zc_pool *pool, enum zc_protect wanted)
{
    (void)wanted;
    pool->protect = ZC_PROTECT_MPROTECT;
    return 0;
}

static int ignore_mapped(struct zc_pool *pool, char *user, size_t length)
{
    (void)pool;
    (void)user;
    (void)length;
    return 0;
}

static void ignore_account(struct slot *slot, int sign)
{
    (void)slot;
    (void)sign;
}

static void ignore_settle(struct slot *slot)
{
    (void)slot;
}

static const struct pool_hooks none = {choose_default, ignore_mapped, ignore_account, ignore_settle};
static const struct pool_hooks *_Atomic current = &none;

const struct pool_hooks *pool_hooks(void)
{
    return atomic_load_explicit(&current, memory_order_acquire);
}

void pool_hooks_set(const struct pool_hooks *hooks)
{
    atomic_store_explicit(&current, hooks, memory_order_release);
}
