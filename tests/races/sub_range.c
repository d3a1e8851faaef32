/* SPDX-License-Identifier: MIT */
/* Only a part is sent, which starts and ends within a page. */
#include "races.h"

enum { FIRST = 50001, LENGTH = 100002 };

static NOINLINE void early(char *buf, int at)
{
    ((volatile char *)buf)[at] = 1;
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    MPI_Isend(buf + FIRST, LENGTH, MPI_BYTE, 1, TAG, COMM, &request);
    early(buf, BUGGY ? FIRST + LENGTH - 1 : FIRST + LENGTH);
    if (!BUGGY) {
        early(buf, FIRST - 1);
        early(buf, 0);
    }
    MPI_Wait(&request, IGNORE);
    free(buf);
}

static void receiver(void)
{
    receive(1);
}
