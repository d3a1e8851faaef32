/* SPDX-License-Identifier: MIT
 *
 * Runs the suite over MPI: mpiexec -n N conformance_mpi [--big | CASE…]. With ZC_TRANSPORT, over that one between the
 * processes that MPI has started; with TEST_ANOTHER, further communicators are over that one. Ends with 0, with 77 if
 * it was skipped, or by abort(3). */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"
#include "zc_mpi.h"

static const char *transport;

static zc_comm *another(struct conf *c, int n)
{
    zc_comm *comm = NULL;
    zc_options options = ZC_OPTIONS_INIT;

    (void)c;
    (void)n;
    options.transport = getenv("TEST_ANOTHER");
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &comm));
    return comm;
}

static void run(const struct conf_case *which, zc_comm *comm)
{
    if (zc_rank(comm) == 0) {
        printf("%s, %d ranks: %s\n", transport ? transport : "mpi", zc_size(comm), which->name);
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
    int rank, provided, status = 0;
    unsigned ran = 0;
    zc_comm *comm = NULL;

    transport = getenv("ZC_TRANSPORT");
    if (transport) {
        MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
        CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, NULL, &comm));
    } else {
        CHECK_OK(zc_open("mpi", NULL, &comm));
    }
    rank = zc_rank(comm);
    if (argc > 1 && strcmp(argv[1], "--big") == 0) {
        ran = 1;
        if (all_fit(comm))
            run(&(struct conf_case){"past 2 GiB", case_big}, comm);
        else
            status = 77;
    }
    for (const struct conf_case *which = conf_cases; which->name; which++)
        if (conf_wanted(which, argc - 1, argv + 1)) {
            run(which, comm);
            ran++;
        }
    CHECKF(ran > 0, "there is no such case");
    CHECK_OK(zc_close(comm));
    if (rank == 0 && status)
        printf("skipped: needs 6.5 GiB of memory a rank, and TEST_BIG not 0\n");
    else if (rank == 0)
        printf("%u passed, 0 failed\n", ran);
    if (transport)
        MPI_Finalize();
    return status;
}
