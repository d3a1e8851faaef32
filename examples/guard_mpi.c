/* SPDX-License-Identifier: MIT
 *
 * Buffers handed to non-blocking collectives of MPI, and touched at once: `mpiexec -n N guard_mpi`.
 *
 * What to look at are broadcast() and sum(): guard, give the wire address to MPI, go on, and unguard after MPI_Wait. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include <zc_mpi.h>

enum { WORDS = 1 << 18 };

static int rank, size;

static void must(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "guard_mpi: rank %d: %s failed: %s\n", rank, what, zc_errmsg());
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1); /* not reached, which compilers do not know */
}

static void fill(int *words, int value)
{
    for (int i = 0; i < WORDS; i++)
        words[i] = value + i;
}

static int holds(const int *words, int value, int step)
{
    for (int i = 0; i < WORDS; i++)
        if (words[i] != value + i * step)
            return 0;
    return 1;
}

/* The root stores to its buffer as soon as it has handed it over, and the others get what it held before. */
static void broadcast(int *buffer)
{
    struct zc_guard guard;
    MPI_Request request;
    fill(buffer, rank == 0 ? 100 : -1);
    must(zc_guard(buffer, WORDS * sizeof *buffer, rank == 0 ? ZC_DENY_STORES : ZC_DENY_ALL, &guard) == 0, "zc_guard");
    MPI_Ibcast(guard.wire, WORDS, MPI_INT, 0, MPI_COMM_WORLD, &request);
    if (rank == 0)
        fill(buffer, 200);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    must(zc_unguard(&guard) == 0, "zc_unguard");
    must(holds(buffer, rank == 0 ? 200 : 100, 1), "the broadcast");
}

/* Each rank stores to its own addends at once. */
static void sum(int *addends, int *result)
{
    struct zc_guard in, out;
    MPI_Request request;
    fill(addends, rank);
    must(zc_guard(addends, WORDS * sizeof *addends, ZC_DENY_STORES, &in) == 0, "zc_guard");
    must(zc_guard(result, WORDS * sizeof *result, ZC_DENY_ALL, &out) == 0, "zc_guard");
    MPI_Iallreduce(in.wire, out.wire, WORDS, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &request);
    fill(addends, -7);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    must(zc_unguard(&in) == 0 && zc_unguard(&out) == 0, "zc_unguard");
    must(holds(result, size * (size - 1) / 2, size), "the sum");
    must(holds(addends, -7, 1), "keeping what was stored meanwhile");
}

int main(void)
{
    MPI_Init(NULL, NULL);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int *a = zc_alloc(WORDS * sizeof *a), *b = zc_alloc(WORDS * sizeof *b);
    must(a && b, "zc_alloc");
    broadcast(a);
    sum(a, b);
    if (rank == 0)
        printf("guard_mpi: broadcast and sum over %d ranks, all buffers touched at once\n", size);
    zc_free(a);
    zc_free(b);
    MPI_Finalize();
    return 0;
}
