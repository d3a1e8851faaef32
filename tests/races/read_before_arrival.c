/* SPDX-License-Identifier: MIT */
#include "races.h"

static NOINLINE int early(const char *buf)
{
    return ((const volatile char *)buf)[SIZE / 3];
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    MPI_Irecv(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    if (!BUGGY)
        MPI_Wait(&request, IGNORE);
    early(buf);
    MPI_Wait(&request, IGNORE);
    free(buf);
}

static void receiver(void)
{
    char *buf = calloc(1, SIZE);
    nap();
    MPI_Send(buf, SIZE, MPI_BYTE, 0, TAG, COMM);
    free(buf);
}
