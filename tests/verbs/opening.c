/* SPDX-License-Identifier: MIT
 *
 * Cases: opening over MPI, where one that gives up leaves nobody waiting. */
#include <errno.h>
#include <stdatomic.h>

#include "cases.h"
#include "zc_mpi.h"

static const char told[] = "rank 1 could not be opened";

/* Of two ranks the second one has no such device, no memory for its slots, no connection, and in the end nothing
 * amiss. */
void case_one_rank_fails(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL, *other;
    int provided, rank;
    char byte = 0;

    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    options.transport = rank ? "verbs:none" : "verbs";
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -ENODEV, rank ? "no RDMA device none" : told);

    options.transport = "verbs";
    CHECK_OK(zc_open("verbs", NULL, &other));
    regions_most = rank ? registered - deregistered : 0;
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -ENOMEM, rank ? "regions" : told);
    regions_most = 0;

    unanswered = rank ? 1000 : 0;
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -ETIMEDOUT, rank ? "ibv_modify_qp to RTR" : told);
    unanswered = 0;

    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &comm));
    CHECK_OK(zc_sendrecv(&byte, 1, 1 - rank, 1, &byte, 1, 1 - rank, 1, comm, NULL));
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_close(other));
    MPI_Finalize();
}
