/* SPDX-License-Identifier: MIT
 *
 * Sends with the semantics of MPI_Bsend, and operations that the program has no request of any more. */
#ifndef ZC_SHIM_BUFFERED_H
#define ZC_SHIM_BUFFERED_H

#include <mpi.h>

#include "shim/call.h"

/* Sends as `call`; the message is what the buffer holds now. It may be in flight for longer than the program asks. */
int buffered_send(struct call *call, const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
                  MPI_Request *request);

/* The operation goes on without a request of the program's: its loans end with it. */
void adrift_add(MPI_Request request, struct loans *loans);

/* Looks for what is over; or waits for all of it, or all buffered sends. */
void adrift_progress(void);
void adrift_drain(void);
void adrift_drain_buffered(void);

#endif
