/* SPDX-License-Identifier: MIT
 *
 * A request that is never over: a generalised one, which costs no more than to test it. */
#include <errno.h>
#include <mpi.h>
#include <stddef.h>

#include "transport/mpi.h"

static int query(void *state, MPI_Status *status)
{
    (void)state;
    MPI_Status_set_elements(status, MPI_BYTE, 0);
    MPI_Status_set_cancelled(status, 0);
    return MPI_SUCCESS;
}

static int let_go(void *state)
{
    (void)state;
    return MPI_SUCCESS;
}

static int cancel(void *state, int over)
{
    (void)state, (void)over;
    return MPI_SUCCESS;
}

int mpi_start_endless(MPI_Request *request)
{
    return MPI_Grequest_start(query, let_go, cancel, NULL, request) == MPI_SUCCESS ? 0 : -EIO;
}

void mpi_end_endless(MPI_Request *request)
{
    if (*request == MPI_REQUEST_NULL)
        return;
    MPI_Grequest_complete(*request);
    MPI_Wait(request, MPI_STATUS_IGNORE);
}
