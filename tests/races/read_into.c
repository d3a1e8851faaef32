/* SPDX-License-Identifier: MIT */
/* So does a system call. */
#include <fcntl.h>

#include "races.h"

static NOINLINE void early(char *buf)
{
    int zeros = open("/dev/zero", O_RDONLY);
    if (read(zeros, buf, SIZE) != SIZE)
        abort();
    close(zeros);
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(1, SIZE);
    MPI_Isend(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    if (!BUGGY)
        MPI_Wait(&request, IGNORE);
    early(buf);
    MPI_Wait(&request, IGNORE);
    free(buf);
}

static void receiver(void)
{
    receive(1);
}
