/* SPDX-License-Identifier: MIT
 *
 * How pages of user mappings are protected: one table of functions for each way. A pool has one for all its slots. */
#ifndef ZC_PROTECT_BACKEND_H
#define ZC_PROTECT_BACKEND_H

#include "alloc/pool.h"

struct backend {
    /* Makes it ready; called for each pool. 0 or -errno with a message. NULL: it always is. */
    int (*open)(void);
    /* Takes charge of pages that were mapped, and populated. 0 or -errno. NULL: nothing to do. */
    int (*mapped)(char *at, size_t length);
    /* Gives whole pages the protection `prot`: PROT_NONE, PROT_READ or PROT_READ | PROT_WRITE. `closed`: some of them
     * may be PROT_NONE now. 0 or -errno; after -ENOMEM some may have got it. Signal-safe. */
    int (*protect)(char *at, size_t length, int prot, bool closed);
    /* The event of an awaited slot has changed. NULL: it is awaited by its futex only. Signal-safe. */
    void (*announce)(void);
    int split;  /* mappings that protecting a range may use up */
    int rename; /* mappings that are claimed for a rename before it is known to happen */
};

extern const struct backend mprotect_backend, userfaultfd_backend;
extern const struct backend *const backends[]; /* by enum zc_protect */

static inline const struct backend *backend_of(const struct zc_pool *pool)
{
    return backends[pool->protect];
}

/* Chooses one for a pool: as `wanted` says, or else as ZC_PROTECT, or another if that cannot be had. 0 or -errno with a
 * message. */
int backend_choose(struct zc_pool *pool, enum zc_protect wanted);

/* Tells the pool's backend of pages that were mapped and populated. 0, or -errno: it cannot protect them. */
int backend_mapped(struct zc_pool *pool, char *user, size_t length);

/* The protection of pages of the pool, with ballast thrown away where mappings run out. 0 or -errno. */
int backend_protect(const struct zc_pool *pool, char *at, size_t length, int prot, bool closed);

/* The same where refusing is no choice: ends the process with a message that says so. */
void backend_must_protect(const struct zc_pool *pool, char *at, size_t length, int prot, bool closed);

#endif
