/* SPDX-License-Identifier: MIT */
#include "races.h"

static NOINLINE void early(char *buf)
{
    memset(buf, 1, SIZE);
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    if (!BUGGY)
        early(buf);
    MPI_Irecv(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    if (BUGGY)
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
