/* SPDX-License-Identifier: MIT */
/* The buffer of MPI_Bsend is free when it returns, that of MPI_Ibsend when its request is complete, or said to be. */
#include "races.h"

static NOINLINE void early(char *buf)
{
    memset(buf, 1, SIZE);
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    int over = BUGGY;
    MPI_Bsend(buf, SIZE, MPI_BYTE, 1, TAG, COMM);
    early(buf);
    MPI_Ibsend(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    while (!over)
        MPI_Request_get_status(request, &over, IGNORE);
    early(buf);
    MPI_Wait(&request, IGNORE);
    free(buf);
}

static void receiver(void)
{
    nap();
    receive(2);
}
