/* SPDX-License-Identifier: MIT */
#include "races.h"

static NOINLINE void early(char *buf)
{
    memset(buf, 1, SIZE);
}

/* Whose answer that the message has left is as good as MPI_Wait's. */
static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    int over = 0;
    MPI_Isend(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    if (BUGGY)
        early(buf);
    while (!over)
        MPI_Request_get_status(request, &over, IGNORE);
    if (!BUGGY)
        early(buf);
    MPI_Wait(&request, IGNORE);
    free(buf);
}

static void receiver(void)
{
    receive(1);
}
