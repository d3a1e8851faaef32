/* SPDX-License-Identifier: MIT
 *
 * Sends with the semantics of MPI_Bsend, and operations that the program has no request of any more. */
#ifndef ZC_SHIM_BUFFERED_H
#define ZC_SHIM_BUFFERED_H

#include <mpi.h>

#include "shim/call.h"

/* The operation goes on without a request of the program's: its loans end with it. */
void adrift_add(MPI_Request request, struct loans *loans);

/* Looks for what is over; or waits for all of it. */
void adrift_progress(void);
void adrift_drain(void);

#endif
