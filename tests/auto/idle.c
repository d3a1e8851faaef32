/* SPDX-License-Identifier: MIT
 *
 * mpiexec -n 1 -env ZC_HOST a … auto_idle, on hosts a, b and a: who waits for a rank of its host sleeps, though MPI has
 * to be looked at as well. */
#include <mpi.h>
#include <unistd.h>

#include "check.h"
#include "idle.h"
#include "pattern.h"
#include "zc_mpi.h"

enum { WAITS, FAR, NEAR, RANKS };
enum { SECONDS = 3, WAKES_MOST = 300, MS_A_WAKE = 2 /* with anything in flight */ };

#define BIG ((size_t)300000)

/* Rank NEAR lets it wait. It has receives from FAR in flight on the communicator `beside`, or none. */
static void wait_for_near(int rank, zc_comm *comm, zc_comm *beside)
{
    char byte = 0, *in = ALLOC(4096);

    if (rank == WAITS) {
        if (beside)
            CHECK_OK(zc_irecv(in, 1, FAR, 2, beside));
        double start = MPI_Wtime();
        struct rusage before = idle_starts(RUSAGE_THREAD);
        CHECK_OK(zc_recv(&byte, 1, NEAR, 1, comm, NULL));
        long ms = (long)((MPI_Wtime() - start) * 1000);
        check_idle(RUSAGE_THREAD, &before, beside ? WAKES_MOST + ms / MS_A_WAKE : WAKES_MOST);
        if (beside)
            CHECK_OK(zc_send(&byte, 1, FAR, 3, comm));
        if (beside)
            CHECK_OK(zc_wait(in, NULL));
    } else if (rank == NEAR) {
        sleep(SECONDS);
        CHECK_OK(zc_send(&byte, 1, WAITS, 1, comm));
    } else if (beside) {
        CHECK_OK(zc_recv(&byte, 1, WAITS, 3, comm, NULL));
        CHECK_OK(zc_send(&byte, 1, WAITS, 2, beside));
    }
    CHECK_OK(zc_free(in));
    MPI_Barrier(MPI_COMM_WORLD); /* what is sent in the next step would be there, for all to see */
}

/* What FAR sends lands while it sleeps, or FAR does not come to tell NEAR. */
static void progress_for_far(int rank, zc_comm *comm)
{
    char byte = 0, *large = ALLOC(BIG);

    if (rank == WAITS) {
        CHECK_OK(zc_recv(&byte, 1, NEAR, 4, comm, NULL)); /* NEAR sleeps, too */
        CHECK_OK(zc_irecv(large, BIG, FAR, 5, comm));
        CHECK_OK(zc_recv(&byte, 1, NEAR, 4, comm, NULL));
        CHECK_OK(zc_wait(large, NULL));
        CHECK_PATTERN(large, BIG, 1);
    } else if (rank == FAR) {
        pattern_fill(large, BIG, 1);
        CHECK_OK(zc_send(large, BIG, WAITS, 5, comm));
        CHECK_OK(zc_flush(comm));
        CHECK_OK(zc_send(&byte, 1, NEAR, 6, comm));
    } else {
        CHECK_OK(zc_send(&byte, 1, WAITS, 4, comm));
        CHECK_OK(zc_recv(&byte, 1, FAR, 6, comm, NULL));
        CHECK_OK(zc_send(&byte, 1, WAITS, 4, comm));
    }
    CHECK_OK(zc_free(large));
}

/* The same that FAR sends so much of that MPI has no room for it, before it tells NEAR. */
static void take_in_from_far(int rank, zc_comm *comm)
{
    enum { MANY = 8000, SMALL = 64 };
    char small[SMALL] = {0};

    if (rank == WAITS) {
        CHECK_OK(zc_recv(small, 1, NEAR, 7, comm, NULL));
        for (int i = 0; i < MANY; i++)
            CHECK_OK(zc_recv(small, SMALL, FAR, 8, comm, NULL));
    } else if (rank == FAR) {
        for (int i = 0; i < MANY; i++)
            CHECK_OK(zc_send(small, SMALL, WAITS, 8, comm));
        CHECK_OK(zc_flush(comm));
        CHECK_OK(zc_send(small, 1, NEAR, 9, comm));
    } else {
        CHECK_OK(zc_recv(small, 1, FAR, 9, comm, NULL));
        CHECK_OK(zc_send(small, 1, WAITS, 7, comm));
    }
}

int main(int argc, char *argv[])
{
    int provided, rank;
    zc_comm *both = NULL, *mpi = NULL;
    zc_options options = ZC_OPTIONS_INIT;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    options.transport = "auto";
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &both));
    wait_for_near(rank, both, NULL);
    progress_for_far(rank, both);
    take_in_from_far(rank, both);
    options.transport = "mpi";
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &mpi));
    wait_for_near(rank, both, NULL);
    wait_for_near(rank, both, mpi);
    CHECK_OK(zc_close(mpi));
    CHECK_OK(zc_close(both));
    MPI_Finalize();
    return 0;
}
