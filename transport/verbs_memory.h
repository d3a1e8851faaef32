/* SPDX-License-Identifier: MIT
 *
 * The memory regions of segments with one protection domain: one a segment, over its wire mapping, found by address
 * in constant time and without a lock. */
#ifndef ZC_TRANSPORT_VERBS_MEMORY_H
#define ZC_TRANSPORT_VERBS_MEMORY_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stddef.h>

#include "alloc/segment.h"

struct memory {
    struct registrar registrar;
    struct ibv_pd *pd;
    int access;
    bool late;                       /* a segment is registered when it is first needed, not when it is mapped */
    _Atomic bool optional;           /* a segment that cannot be registered goes without */
    _Atomic size_t bytes;            /* registered now */
    struct ibv_mr *_Atomic *regions; /* by the first granule of the segment */
};

/* Registers what there is, unless late, and what will be. 0; -ENOMEM with a message that names what is short. */
int memory_open(struct memory *memory, struct ibv_pd *pd, int access, bool late, bool optional);

/* Deregisters all. Nothing may be in flight. */
void memory_close(struct memory *memory);

/* The region of a wire address, or NULL: foreign memory, or a segment that goes without. */
struct ibv_mr *memory_find(const struct memory *memory, const void *wire);

/* Says why registering `length` bytes failed. Returns -ENOMEM. */
int memory_refused(const struct ibv_pd *pd, size_t length, size_t registered, int error);

#endif
