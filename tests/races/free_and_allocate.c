/* SPDX-License-Identifier: MIT */
#include "races.h"

static NOINLINE void early(char *buf)
{
    free(buf);
    buf = malloc(SIZE);
    memset(buf, 1, SIZE);
    free(buf);
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    MPI_Isend(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    if (!BUGGY)
        MPI_Wait(&request, IGNORE);
    early(buf);
    MPI_Wait(&request, IGNORE);
}

static void receiver(void)
{
    receive(1);
}
