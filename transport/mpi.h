/* SPDX-License-Identifier: MIT
 *
 * MPI's life: it is initialised if nobody has, and communicators of its processes end with it. */
#ifndef ZC_TRANSPORT_MPI_H
#define ZC_TRANSPORT_MPI_H

/* Unless it is initialised; then the program's exit finalises it. 0 or an error. */
int mpi_initialise(void);

/* From now on MPI_Finalize closes what is still open. */
void mpi_watch_finalize(void);

#endif
