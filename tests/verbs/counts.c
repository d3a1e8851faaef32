/* SPDX-License-Identifier: MIT
 *
 * Counts registrations: the program's own definitions come before those of libibverbs. */
#include <dlfcn.h>
#include <infiniband/verbs.h>

#include "cases.h"

#undef ibv_reg_mr

unsigned long registered, deregistered;

static _Thread_local int depth; /* the one may call the other */

static void enter(void)
{
    if (depth++ == 0)
        __atomic_add_fetch(&registered, 1, __ATOMIC_RELAXED);
}

static struct ibv_mr *leave(struct ibv_mr *region)
{
    depth--;
    return region;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t length, int access)
{
    struct ibv_mr *(*real)(struct ibv_pd *, void *, size_t, int) = dlsym(RTLD_NEXT, "ibv_reg_mr");
    enter();
    return leave(real(pd, address, length, access));
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *address, size_t length, uint64_t iova, unsigned int access)
{
    struct ibv_mr *(*real)(struct ibv_pd *, void *, size_t, uint64_t, unsigned int) =
        dlsym(RTLD_NEXT, "ibv_reg_mr_iova2");
    enter();
    return leave(real(pd, address, length, iova, access));
}

int ibv_dereg_mr(struct ibv_mr *region) // NOLINT(readability-inconsistent-declaration-parameter-name)
{
    int (*real)(struct ibv_mr *) = dlsym(RTLD_NEXT, "ibv_dereg_mr");
    __atomic_add_fetch(&deregistered, 1, __ATOMIC_RELAXED);
    return real(region);
}
