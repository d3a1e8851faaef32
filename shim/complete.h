/* SPDX-License-Identifier: MIT
 *
 * Calls that complete requests: MPI is given what stands behind tokens, and what is over gives back what it
 * borrowed. */
#ifndef ZC_SHIM_COMPLETE_H
#define ZC_SHIM_COMPLETE_H

#include <mpi.h>

#include "shim/pending.h"

enum { COMPLETION_FEW = 16 };

struct completion {
    int n;                 /* 0: nothing of this is ours */
    MPI_Request *requests; /* the program's */
    MPI_Request *handles;  /* what MPI is given */
    struct pending **pending;
    MPI_Request few_handles[COMPLETION_FEW];
    struct pending *few_pending[COMPLETION_FEW];
};

MPI_Request *completion_begin_some(struct completion *completion, MPI_Request *requests, int n);
void completion_end_some(struct completion *completion);

/* What to give to MPI for the n requests. */
static inline MPI_Request *completion_begin(struct completion *completion, MPI_Request *requests, int n)
{
    completion->n = 0;
    if (atomic_load_explicit(&pending_count, memory_order_relaxed) == 0)
        return requests;
    return completion_begin_some(completion, requests, n);
}

/* MPI has set what it completed to MPI_REQUEST_NULL. */
static inline void completion_end(struct completion *completion)
{
    if (completion->n)
        completion_end_some(completion);
}

#endif
