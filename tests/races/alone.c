/* SPDX-License-Identifier: MIT
 *
 * A program of one process, without a race; with an argument, it is dead as soon as it has had one. */
#include <mpi.h>
#include <signal.h>
#include <stdlib.h>

enum { SIZE = 200000 };

static volatile char *buf;

static void race_and_die(void)
{
    MPI_Request request;
    buf = calloc(1, SIZE);
    MPI_Isend((char *)buf, SIZE, MPI_BYTE, 0, 1, MPI_COMM_WORLD, &request);
    buf[1] = 1;
    raise(SIGKILL);
}

int main(int argc, char **argv)
{
    void *taken[2];
    MPI_Init(&argc, &argv);
    for (int i = 0; i < 2; i++)
        MPI_Alloc_mem(SIZE, MPI_INFO_NULL, &taken[i]);
    for (int i = 0; i < 2; i++)
        MPI_Free_mem(taken[i]);
    if (argc > 1)
        race_and_die();
    MPI_Finalize();
    return 0;
}
