/* SPDX-License-Identifier: MIT
 *
 * How pages of user mappings are protected: one table of functions for each way. A pool has one for all its slots. */
#ifndef ZC_PROTECT_BACKEND_H
#define ZC_PROTECT_BACKEND_H

#include "alloc/pool.h"

struct backend {
    /* Gives whole pages the protection `prot`: PROT_NONE, PROT_READ or PROT_READ | PROT_WRITE. `closed`: some of them
     * may be PROT_NONE now. 0 or -errno; after -ENOMEM some may have got it. */
    int (*protect)(char *at, size_t length, int prot, bool closed);
    int split; /* mappings that the worst such call uses up */
};

extern const struct backend mprotect_backend;

const struct backend *backend_of(const struct zc_pool *pool);

/* The protection of pages of the pool, with ballast thrown away where mappings run out. 0 or -errno. */
int backend_protect(const struct zc_pool *pool, char *at, size_t length, int prot, bool closed);

/* The same where refusing is no choice: ends the process with a message that says so. */
void backend_must_protect(const struct zc_pool *pool, char *at, size_t length, int prot, bool closed);

#endif
