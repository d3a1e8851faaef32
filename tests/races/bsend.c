/* SPDX-License-Identifier: MIT */
/* The buffer of MPI_Bsend is free when it returns, that of MPI_Ibsend when its request is complete. */
#include "races.h"

static NOINLINE void early(char *buf)
{
    memset(buf, 1, SIZE);
}

static void sender(void)
{
    MPI_Request request = MPI_REQUEST_NULL;
    char *buf = calloc(1, SIZE);
    if (BUGGY)
        MPI_Ibsend(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    else
        MPI_Bsend(buf, SIZE, MPI_BYTE, 1, TAG, COMM);
    early(buf);
    MPI_Wait(&request, IGNORE);
    free(buf);
}

static void receiver(void)
{
    receive(1);
}
