/* SPDX-License-Identifier: MIT */
#include "races.h"

static NOINLINE void early(char *buf)
{
    buf[SIZE - 1] = 1;
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    MPI_Ibcast(buf, SIZE, MPI_BYTE, 0, COMM, &request);
    if (!BUGGY)
        MPI_Wait(&request, IGNORE);
    early(buf);
    MPI_Wait(&request, IGNORE);
    free(buf);
}

static void receiver(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    MPI_Ibcast(buf, SIZE, MPI_BYTE, 0, COMM, &request);
    MPI_Wait(&request, IGNORE);
    free(buf);
}
