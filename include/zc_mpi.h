/* SPDX-License-Identifier: MIT
 *
 * zc over a given MPI communicator. */
#ifndef ZC_MPI_H
#define ZC_MPI_H

#include <mpi.h>

#include "zc.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Opens a zc communicator over the processes of `mpi`, which is duplicated, and may be freed. Collective over `mpi`.
 * MPI must be initialised; zc looks at the thread level: MPI_THREAD_MULTIPLE gives all of the promise, for less see the
 * caveats of zc.h. MPI_Finalize ends what is still open. What the processes talk over is said by options->transport,
 * the same for all. Errors as zc_open(); -EINVAL also: it is not the same; shm, and some are of different hosts; `mpi`
 * is an intercommunicator. Where the variables or the options of one rank are refused, all get an error. Ranks are
 * those of `mpi`; constants of MPI are no arguments of zc (see ZC_ANY_SOURCE). */
ZC_API int zc_open_mpi(MPI_Comm mpi, const zc_options *options, zc_comm **comm);

#ifdef __cplusplus
}
#endif

#endif
