/* SPDX-License-Identifier: MIT
 *
 * Collectives, on buffers that are in flight or were left protected. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cases.h"

enum { N = 30000, RANKS = 2 };

static MPI_Request in_flight;
static int *busy; /* is being sent */
static int *spare;

/* Sends `busy`, so that it is guarded; the message is received by quiet(). */
static void guard(int value)
{
    for (int i = 0; i < RANKS * N; i++)
        busy[i] = value + i;
    MPI_Isend(busy, RANKS * N, MPI_INT, peer, 7, MPI_COMM_WORLD, &in_flight);
}

static void quiet(int value)
{
    MPI_Recv(spare, RANKS * N, MPI_INT, peer, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Wait(&in_flight, MPI_STATUS_IGNORE);
    for (int i = 0; i < RANKS * N; i++)
        CHECKF(spare[i] == value + i, "element %d of the message is %d, expected %d", i, spare[i], value + i);
}

static void expect(const int *got, int n, int first, int step)
{
    for (int i = 0; i < n; i++)
        CHECKF(got[i] == first + i * step, "element %d is %d, expected %d", i, got[i], first + i * step);
}

/* Each writes into the buffer that is being sent, or reads it. */
void collectives(void)
{
    busy = buffer(RANKS * N * sizeof *busy, 0);
    spare = buffer(RANKS * N * sizeof *busy, 0);
    int *other = buffer(RANKS * N * sizeof *busy, 0), counts[RANKS] = {N / 2, N}, displs[RANKS] = {N / 2, N};
    for (int i = 0; i < RANKS * N; i++)
        other[i] = i;

    guard(1000);
    if (rank == 0)
        memcpy(busy, other, N * sizeof *busy);
    MPI_Bcast(busy, N, MPI_INT, 0, MPI_COMM_WORLD);
    expect(busy, N, 0, 1);
    quiet(1000);

    guard(2000);
    MPI_Allreduce(other, busy, N, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    expect(busy, N, 0, RANKS);
    quiet(2000);

    guard(3000);
    MPI_Allreduce(MPI_IN_PLACE, busy, N, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    expect(busy, N, 6000, RANKS);
    quiet(3000);

    guard(4000);
    MPI_Allgather(other, N, MPI_INT, busy, N, MPI_INT, MPI_COMM_WORLD);
    expect(busy, N, 0, 1);
    expect(busy + N, N, 0, 1);
    quiet(4000);

    guard(5000);
    MPI_Gatherv(other, counts[rank], MPI_INT, busy, counts, displs, MPI_INT, 1, MPI_COMM_WORLD);
    if (rank == 1) {
        expect(busy, N / 2, 5000, 1); /* the gap */
        expect(busy + N / 2, N / 2, 0, 1);
        expect(busy + N, N, 0, 1);
    }
    quiet(5000);

    guard(6000);
    MPI_Scatter(busy, N, MPI_INT, rank == 0 ? MPI_IN_PLACE : (void *)busy, N, MPI_INT, 0, MPI_COMM_WORLD);
    expect(busy, N, 6000 + rank * N, 1);
    quiet(6000);

    guard(7000);
    MPI_Alltoallv(other, (int[]){N, N}, (int[]){N, 0}, MPI_INT, busy, (int[]){N, N}, (int[]){0, N}, MPI_INT,
                  MPI_COMM_WORLD);
    expect(busy, N, rank == 0 ? N : 0, 1);
    expect(busy + N, N, rank == 0 ? N : 0, 1);
    quiet(7000);

    guard(8000);
    MPI_Reduce(rank == 0 ? MPI_IN_PLACE : busy, busy, N, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    expect(busy, N, rank == 0 ? 16000 : 8000, rank == 0 ? 2 : 1);
    quiet(8000);

    int position = 0;
    guard(9000);
    MPI_Unpack(other, N * (int)sizeof *busy, &position, busy, N, MPI_INT, MPI_COMM_WORLD);
    expect(busy, N, 0, 1);
    quiet(9000);
    MPI_Free_mem(other);
}

/* Overwritten, or read, at once. */
void nonblocking_collectives(void)
{
    MPI_Request request;
    busy = buffer(N * sizeof *busy, 0);
    spare = buffer(RANKS * N * sizeof *busy, 0);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < N; i++)
            busy[i] = rank == 0 ? round + i : -1;
        MPI_Ibcast(busy, N, MPI_INT, 0, MPI_COMM_WORLD, &request);
        if (rank == 0)
            memset(busy, 0, N * sizeof *busy);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        if (rank == 1)
            expect(busy, N, round, 1);

        for (int i = 0; i < N; i++)
            busy[i] = rank + i;
        MPI_Iallreduce(busy, spare, N, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &request);
        memset(busy, 0, N * sizeof *busy);
        if (threads)
            expect(spare, N, 1, 2);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        expect(spare, N, 1, 2);

        for (int i = 0; i < N; i++)
            busy[i] = rank * N + i;
        MPI_Igather(busy, N, MPI_INT, spare, N, MPI_INT, 1, MPI_COMM_WORLD, &request);
        memset(busy, 0, N * sizeof *busy);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        if (rank == 1)
            expect(spare, RANKS * N, 0, 1);
    }
}

/* Only recvcounts[rank] elements are received: what lies behind them is the program's, whatever else is in flight in
 * the allocation, and whenever the others join. */
void reduce_scatter(void)
{
    const int counts[RANKS] = {N, N};
    MPI_Request reduced;
    int *in = buffer((size_t)3 * N * sizeof *in, 0), *behind = in + N;
    busy = in + (size_t)2 * N;
    spare = buffer(N * sizeof *spare, 0);
    int *out = buffer((size_t)RANKS * N * sizeof *out, 0);
    for (int way = 0; way < 2; way++) {
        for (int i = 0; i < RANKS * N; i++)
            out[i] = i + way;
        MPI_Isend(busy, N, MPI_INT, peer, 7, MPI_COMM_WORLD, &in_flight);
        if (rank == 1)
            meet();
        if (way == 0)
            MPI_Ireduce_scatter(out, in, counts, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &reduced);
        else
            MPI_Ireduce_scatter_block(out, in, N, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &reduced);
        for (int i = 0; i < N; i++)
            behind[i] = 1000 + i;
        if (rank == 0)
            meet();
        MPI_Wait(&reduced, MPI_STATUS_IGNORE);
        MPI_Recv(spare, N, MPI_INT, peer, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Wait(&in_flight, MPI_STATUS_IGNORE);
        expect(in, N, RANKS * (rank * N + way), RANKS);
        expect(behind, N, 1000, 1);
    }
    MPI_Free_mem(in);
    MPI_Free_mem(spare);
    MPI_Free_mem(out);
}

/* Groups of one and two ranks: there are as many counts as ranks in the own group. */
void reduce_between_groups(void)
{
    MPI_Comm group, both;
    int members, at, others = rank == 0 ? 2 : 1, page = (int)sysconf(_SC_PAGESIZE);
    MPI_Comm_split(MPI_COMM_WORLD, rank > 0, rank, &group);
    MPI_Intercomm_create(group, 0, MPI_COMM_WORLD, rank > 0 ? 0 : 1, 7, &both);
    MPI_Comm_size(group, &members);
    MPI_Comm_rank(group, &at);
    char *pages = mmap(NULL, (size_t)2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED && mprotect(pages + page, (size_t)page, PROT_NONE) == 0);
    int *counts = (int *)(void *)(pages + page) - members;
    int *out = buffer((size_t)2 * N * sizeof *out, 0), *in = buffer((size_t)2 * N * sizeof *in, 0);
    for (int i = 0; i < members; i++)
        counts[i] = 2 * N / members;
    for (int i = 0; i < 2 * N; i++)
        out[i] = i;
    MPI_Reduce_scatter(out, in, counts, MPI_INT, MPI_SUM, both);
    expect(in, counts[at], others * at * N, others);
    MPI_Free_mem(out);
    MPI_Free_mem(in);
    munmap(pages, (size_t)2 * page);
    MPI_Comm_free(&both);
    MPI_Comm_free(&group);
}
