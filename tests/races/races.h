/* SPDX-License-Identifier: MIT
 *
 * Small programs with a race for a message buffer, each built twice: BUGGY, and corrected. Rank 0 makes the mistake, in
 * a function that is called early(). They know nothing of zc. */
#ifndef TESTS_RACES_H
#define TESTS_RACES_H

#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIZE = 200000, TAG = 5 };

#define COMM MPI_COMM_WORLD
#define IGNORE MPI_STATUS_IGNORE
#define NOINLINE __attribute__((noinline))

/* What rank 0 and rank 1 do. */
static void sender(void);
static void receiver(void);

/* So long that a message which could be over is. */
static inline void nap(void)
{
    usleep(20000);
}

static inline void receive(int messages)
{
    char *in = malloc(SIZE);
    while (messages-- > 0)
        MPI_Recv(in, SIZE, MPI_BYTE, 0, TAG, COMM, IGNORE);
    free(in);
}

int main(int argc, char **argv)
{
    int rank, level;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(COMM, &rank);
    rank == 0 ? sender() : receiver();
    MPI_Finalize();
    return 0;
}

#endif
