/* SPDX-License-Identifier: MIT
 *
 * For programs with verbs code of their own: pool buffers as sources and targets of their work requests.
 *
 *     struct zc_guard guard;
 *     struct ibv_sge sge;
 *     zc_guard(buffer, length, ZC_DENY_STORES, &guard);   // ZC_DENY_ALL where the device writes
 *     zc_mr(&guard, pd, &sge);
 *     ibv_post_send(…, with &sge, …);                     // buffer may be stored to at once
 *     …
 *     zc_unguard(&guard);                                 // at the completion
 *
 * examples/verbs_guard.c is a program that does it. */
#ifndef ZC_VERBS_H
#define ZC_VERBS_H

#include <infiniband/verbs.h>

#include "zc.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills *sge with where the guarded bytes are and the local key of a memory region of `pd` that has them. The memory
 * is registered when it is first asked for, a whole segment of its pool at a time, and stays so until zc_mr_release
 * or until its pool is trimmed: later calls for buffers of the same segment register nothing. The regions allow local
 * writes, and nothing to peers.
 *   -EINVAL    the guard is not in force; NULL
 *   -EPERM     this is a forked child
 *   -EMSGSIZE  it is of more than 4 GiB - 1, which no sge can say
 *   -ENOMEM    the device refuses to register the segment: zc_errmsg() names the limit
 * From any thread. */
ZC_API int zc_mr(const struct zc_guard *guard, struct ibv_pd *pd, struct ibv_sge *sge);

/* Deregisters all that zc_mr registered with `pd`; to be called before ibv_dealloc_pd(pd), when none of its work
 * requests is in flight. -ENOENT if there is nothing; -EPERM in a forked child. */
ZC_API int zc_mr_release(struct ibv_pd *pd);

#ifdef __cplusplus
}
#endif

#endif
