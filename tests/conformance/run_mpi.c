/* SPDX-License-Identifier: MIT
 *
 * Runs the suite over MPI: mpiexec -n N conformance_mpi [--transport T] [--big | CASE…]. With --transport, over that one
 * (of zc_options) between the processes that MPI has started. Ends with 0, with 77 if it was skipped, or by abort(3). */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "conformance.h"
#include "zc_mpi.h"

static zc_options options = ZC_OPTIONS_INIT;

static zc_comm *another(struct conf *c, int n)
{
    zc_comm *comm = NULL;

    (void)c;
    (void)n;
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &comm));
    return comm;
}

static void run(const struct conf_case *which, zc_comm *comm)
{
    if (zc_rank(comm) == 0) {
        printf("%s, %d ranks: %s\n", options.transport ? options.transport : "mpi", zc_size(comm), which->name);
        fflush(stdout);
    }
    conf_run(which, comm, another);
}

/* All ranks or none. */
static bool all_fit(zc_comm *comm)
{
    int fits = big_fits(zc_size(comm));

    MPI_Bcast(&fits, 1, MPI_INT, 0, MPI_COMM_WORLD);
    return fits;
}

int main(int argc, char *argv[])
{
    bool over = argc > 2 && strcmp(argv[1], "--transport") == 0;
    int rank, provided, status = 0, arg = over ? 3 : 1;
    unsigned ran = 0;
    zc_comm *comm = NULL;

    if (over) {
        options.transport = argv[2];
        MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
        CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &comm));
    } else {
        CHECK_OK(zc_open("mpi", NULL, &comm));
    }
    rank = zc_rank(comm);
    if (arg < argc && strcmp(argv[arg], "--big") == 0) {
        ran = 1;
        if (all_fit(comm))
            run(&(struct conf_case){"past 2 GiB", case_big}, comm);
        else
            status = 77;
    }
    for (const struct conf_case *which = conf_cases; which->name; which++)
        if (conf_wanted(which, argc - arg, argv + arg)) {
            run(which, comm);
            ran++;
        }
    CHECKF(ran > 0, "there is no such case");
    CHECK_OK(zc_close(comm));
    if (rank == 0 && status)
        printf("skipped: needs 6.5 GiB of memory a rank, and TEST_BIG not 0\n");
    else if (rank == 0)
        printf("%u passed, 0 failed\n", ran);
    if (over)
        MPI_Finalize();
    return status;
}
