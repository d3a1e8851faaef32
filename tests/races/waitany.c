/* SPDX-License-Identifier: MIT */
/* One of two is over: which one, MPI_Waitany says. */
#include "races.h"

static NOINLINE void early(char *buf)
{
    buf[7] = 1;
}

static void sender(void)
{
    MPI_Request requests[2];
    int over;
    char *buf[2] = {calloc(1, SIZE), calloc(1, SIZE)};
    for (int i = 0; i < 2; i++)
        MPI_Isend(buf[i], SIZE, MPI_BYTE, 1, TAG, COMM, &requests[i]);
    MPI_Waitany(2, requests, &over, IGNORE);
    early(buf[BUGGY ? 1 - over : over]);
    MPI_Waitall(2, requests, (MPI_Status[2]){0});
    free(buf[0]);
    free(buf[1]);
}

static void receiver(void)
{
    receive(2);
}
