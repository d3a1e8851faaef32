/* SPDX-License-Identifier: MIT
 *
 * A program of MPI alone, which knows nothing of zc, run with libzc-malloc.so in LD_PRELOAD: its buffers are pool
 * memory, and MPI carries them as any other. A rank forks while its receive is in flight. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZES = 6, ROUNDS = 30 };

static const int sizes[SIZES] = {1000, 8 << 10, 64 << 10, 300 << 10, 1 << 20, 5 << 20};

_Noreturn static void fail(const char *what, int size)
{
    fprintf(stderr, "ring: %s, %d bytes\n", what, size);
    MPI_Abort(MPI_COMM_WORLD, 1);
    abort();
}

static void expect(const char *bytes, int value, int size)
{
    for (int i = 0; i < size; i++)
        if (bytes[i] != (char)value)
            fail("wrong bytes", size);
}

static void pass_on(int size, int round, int rank, int ranks)
{
    char *out = malloc((size_t)size), *in = calloc(1, (size_t)size);
    MPI_Request requests[2];
    MPI_Status statuses[2];

    if (!out || !in)
        fail("no memory", size);
    memset(out, rank + round, (size_t)size);
    MPI_Irecv(in, size, MPI_CHAR, (rank + ranks - 1) % ranks, round, MPI_COMM_WORLD, &requests[0]);
    MPI_Isend(out, size, MPI_CHAR, (rank + 1) % ranks, round, MPI_COMM_WORLD, &requests[1]);
    pid_t child = round == 3 ? fork() : -1;
    if (child == 0) {
        expect(out, rank + round, size);
        memset(out, 99, (size_t)size);
        _exit(7);
    }
    MPI_Waitall(2, requests, statuses);
    int status = 7 << 8;
    if (child > 0)
        waitpid(child, &status, 0);
    if (status != 7 << 8)
        fail("the child failed", size);
    expect(in, (rank + ranks - 1) % ranks + round, size);
    expect(out, rank + round, size);
    free(out);
    free(in);
}

int main(int argc, char **argv)
{
    int rank, ranks;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < SIZES; i++)
            pass_on(sizes[i], round, rank, ranks);
    char *maps = malloc(1 << 20);
    FILE *file = fopen("/proc/self/maps", "re");
    size_t length = file && maps ? fread(maps, 1, (1 << 20) - 1, file) : 0;
    if (!length)
        fail("no maps", 0);
    maps[length] = 0;
    if (!strstr(maps, "/memfd:zc "))
        fail("no pools", 0);
    fclose(file);
    free(maps);
    MPI_Finalize();
    return 0;
}
