/* SPDX-License-Identifier: MIT */
#include "races.h"

enum { ROUNDS = 3 };

static NOINLINE void early(char *buf)
{
    memset(buf, 1, SIZE);
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    MPI_Send_init(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    early(buf); /* not started yet */
    for (int round = 0; round < ROUNDS; round++) {
        MPI_Start(&request);
        if (BUGGY)
            early(buf);
        MPI_Wait(&request, IGNORE);
        if (!BUGGY)
            early(buf);
    }
    MPI_Request_free(&request);
    free(buf);
}

static void receiver(void)
{
    receive(ROUNDS);
}
