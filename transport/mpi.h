/* SPDX-License-Identifier: MIT
 *
 * What the MPI transport is made of besides itself. MPI's life: it is initialised if nobody has, and communicators of
 * its processes end with it. */
#ifndef ZC_TRANSPORT_MPI_H
#define ZC_TRANSPORT_MPI_H

#include <mpi.h>

/* Unless it is initialised; then the program's exit finalises it. 0 or an error. */
int mpi_initialise(void);

/* From now on MPI_Finalize closes what is still open. */
void mpi_watch_finalize(void);

/* A request that is never over, until it is ended: something to test. 0 or -errno. MPI_REQUEST_NULL ends at once. */
int mpi_start_endless(MPI_Request *request);
void mpi_end_endless(MPI_Request *request);

#endif
