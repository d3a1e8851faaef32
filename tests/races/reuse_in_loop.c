/* SPDX-License-Identifier: MIT */
#include "races.h"

enum { ROUNDS = 5 };

static NOINLINE void early(char *buf, int round)
{
    memset(buf, round, SIZE);
}

/* Two buffers in turn are not enough, if the older one is not waited for. */
static void sender(void)
{
    MPI_Request requests[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    char *buf[2] = {malloc(SIZE), malloc(SIZE)};
    for (int round = 0; round < ROUNDS; round++) {
        int turn = round % 2;
        if (BUGGY)
            early(buf[turn], round);
        MPI_Wait(&requests[turn], IGNORE);
        if (!BUGGY)
            early(buf[turn], round);
        MPI_Isend(buf[turn], SIZE, MPI_BYTE, 1, TAG, COMM, &requests[turn]);
    }
    MPI_Waitall(2, requests, (MPI_Status[2]){0});
    free(buf[0]);
    free(buf[1]);
}

static void receiver(void)
{
    receive(ROUNDS);
}
