/* SPDX-License-Identifier: MIT */
/* So small that MPI has sent it before MPI_Isend returns; the buffer is still MPI's. */
#include "races.h"

static NOINLINE void early(char *buf)
{
    buf[10] = 1;
}

static void sender(void)
{
    MPI_Request requests[2];
    char *buf[2] = {calloc(1, SIZE), calloc(1, SIZE)};
    MPI_Isend(buf[0], 100, MPI_BYTE, 1, TAG, COMM, &requests[0]);
    MPI_Isend(buf[1], 100, MPI_BYTE, 1, TAG, COMM, &requests[1]);
    MPI_Wait(&requests[1], IGNORE);
    early(buf[BUGGY ? 0 : 1]);
    MPI_Wait(&requests[0], IGNORE);
    free(buf[0]);
    free(buf[1]);
}

static void receiver(void)
{
    receive(2);
}
