/* SPDX-License-Identifier: MIT
 *
 * Cases of the interposition library: rank 0 and rank 1 run the same one. */
#ifndef TESTS_SHIM_CASES_H
#define TESTS_SHIM_CASES_H

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>

#include "check.h"
#include "pattern.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wstringop-overflow" /* takes MPI_STATUSES_IGNORE for an array */
#endif

extern int rank, peer; /* 0 and 1, or 1 and 0 */
extern bool threads;   /* MPI_THREAD_MULTIPLE */

enum { SIZES = 4 };
extern const int sizes[SIZES]; /* bytes of messages, to either side of what MPI takes at once */

/* A buffer of the pools, filled with a pattern. */
void *buffer(size_t size, unsigned seed);

/* Lets the other rank go on to its next call of this: what one does before happens before what the other does after. */
void meet(void);

/* So long that what is in flight would be over, if nothing kept it. */
void nap(void);

/* sends.c */
void isend_overwrite(void), isend_many(void), isend_free(void), isend_strided(void), pack_behind(void),
    request_free(void), bsend(void), bsend_both(void), bsend_unprotected(void), bsend_too_large(void),
    buffer_detach(void), ibsend_detach(void), ibsend(void), persistent(void), completions(void), one_handle(void),
    completed_elsewhere(void);
/* receives.c */
void irecv_touch(void), irecv_beside(void), irecv_cancel(void), halo(void), recv_beside_send(void),
    recv_into_send(void), start_beside_send(void), sendrecv(void), irecv_beside_lock(void), fiber(void),
    exchange_columns(void), column_beside_row(void), receive_twice(void);
/* collectives.c */
void collectives(void), nonblocking_collectives(void), reduce_scatter(void), reduce_between_groups(void);
/* system.c */
void system_calls(void), streams(void), refused_lists(void), long_lists(void), after_jump(void);
/* others.c */
void bsend_init(void), one_sided(void), windows(void), bottom(void), window_meanwhile(void), alloc_mem_full(void),
    files(void), alignment(void), errors_returned(void);
#if MPI_VERSION >= 4
void isendrecv(void), large_counts(void), persistent_collectives(void), partitioned(void);
#endif

#endif
