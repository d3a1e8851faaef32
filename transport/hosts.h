/* SPDX-License-Identifier: MIT
 *
 * Which processes of an MPI communicator are of one host, in the sense that they can meet over shm: of one user, one
 * pid namespace and one run-time directory as well. ZC_HOST divides a host further. */
#ifndef ZC_TRANSPORT_HOSTS_H
#define ZC_TRANSPORT_HOSTS_H

#include <stdbool.h>

#include "core/error.h"

enum { HOSTS_NAME_BYTES = 49 };

struct hosts {
    int rank, size;
    int here;                    /* ranks of this one's host */
    int most;                    /* of the host that has most of them; 1: no two ranks can meet */
    bool *with;                  /* by rank: of this one's host? */
    char name[HOSTS_NAME_BYTES]; /* for them to meet by, which nobody else has */
    struct kept_error lonely;    /* why this rank can meet nobody, if it cannot */
    struct bootstrap *bootstrap;
};

/* Of *comm, an MPI_Comm. Collective. 0 or an error. */
int hosts_find(const void *comm, struct hosts *hosts);

void hosts_end(struct hosts *hosts);

#endif
