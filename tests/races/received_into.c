/* SPDX-License-Identifier: MIT */
/* Another call of MPI writes what is being sent. */
#include "races.h"

static NOINLINE void early(char *buf)
{
    MPI_Recv(buf, SIZE, MPI_BYTE, 1, TAG, COMM, IGNORE);
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE), *other = calloc(1, SIZE);
    MPI_Isend(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    early(BUGGY ? buf : other);
    MPI_Wait(&request, IGNORE);
    free(other);
    free(buf);
}

static void receiver(void)
{
    char *buf = calloc(1, SIZE);
    MPI_Send(buf, SIZE, MPI_BYTE, 0, TAG, COMM);
    free(buf);
    receive(1);
}
