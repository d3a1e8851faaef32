/* SPDX-License-Identifier: MIT */
/* The same bytes twice: both must be over. */
#include "races.h"

static NOINLINE void early(char *buf)
{
    buf[1] = 1;
}

static void sender(void)
{
    MPI_Request requests[2];
    char *buf = calloc(1, SIZE);
    for (int i = 0; i < 2; i++)
        MPI_Isend(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &requests[i]);
    MPI_Wait(&requests[0], IGNORE);
    if (!BUGGY)
        MPI_Wait(&requests[1], IGNORE);
    early(buf);
    MPI_Wait(&requests[1], IGNORE);
    free(buf);
}

static void receiver(void)
{
    receive(1);
    nap();
    receive(1);
}
