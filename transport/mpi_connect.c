/* SPDX-License-Identifier: MIT
 *
 * Opening and closing an endpoint over MPI, and whose affair MPI's errors are. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/error.h"
#include "protect/policy.h"
#include "transport/mpi.h"

enum { WIRE_UP_BYTES = 65536 }; /* surely a rendezvous */

/* ---- errors of tests ---- */

/* MPICH hands errors of MPI_Test, such as a truncated message's, to the handler of MPI_COMM_WORLD whatever the
 * communicator of the request, and by default that ends the job. Where the default is in force, this one takes its
 * place: it leaves errors of zc's own tests to zc, and ends the job for all others. */
_Thread_local bool mpi_testing __attribute__((tls_model("initial-exec")));

static void on_world_error(MPI_Comm *comm, int *code, ...)
{
    char text[MPI_MAX_ERROR_STRING];
    int length;
    if (mpi_testing)
        return;
    MPI_Error_string(*code, text, &length);
    fprintf(stderr, "Fatal error in MPI: %.*s\n", length, text);
    MPI_Abort(*comm, *code);
}

static void keep_errors_of_tests(void)
{
    MPI_Errhandler now, ours;
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &now);
    if (now == MPI_ERRORS_ARE_FATAL) {
        MPI_Comm_create_errhandler(on_world_error, &ours);
        MPI_Comm_set_errhandler(MPI_COMM_WORLD, ours);
        MPI_Errhandler_free(&ours);
    }
    MPI_Errhandler_free(&now);
}

/* ---- opening and closing ---- */

/* The first rendezvous with each peer needs the sender inside MPI once, until the peer is connected. A large
 * message each way now means that no conflict has to wait for that later. */
static int wire_up(MPI_Comm comm, int rank, int size)
{
    char *out = calloc(2, WIRE_UP_BYTES), *in = out ? out + WIRE_UP_BYTES : NULL;
    int code = out ? MPI_SUCCESS : MPI_ERR_NO_MEM;
    for (int step = 1; step < size && code == MPI_SUCCESS; step++)
        code = MPI_Sendrecv(out, WIRE_UP_BYTES, MPI_BYTE, (rank + step) % size, 0, in, WIRE_UP_BYTES, MPI_BYTE,
                            (rank - step + size) % size, 0, comm, MPI_STATUS_IGNORE);
    free(out);
    return code == MPI_SUCCESS ? 0 : mpi_failed(code, "connecting to all ranks");
}

/* MPICH gives out one request for all messages that have left. It is over, and stays so while it is kept; so has every
 * later message left that gets it. Whether MPI does that is seen by two messages. */
static int learn_sent(MPI_Comm comm, int rank, int size, MPI_Request *sent)
{
    MPI_Request both[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    int code = MPI_SUCCESS, over = 0;
    for (int i = 0; i < 2 && code == MPI_SUCCESS; i++)
        code = MPI_Isend(NULL, 0, MPI_BYTE, (rank + 1) % size, 0, comm, &both[i]);
    if (code == MPI_SUCCESS && both[0] == both[1])
        code = MPI_Request_get_status(both[0], &over, MPI_STATUS_IGNORE);
    for (int i = 0; i < 2 && code == MPI_SUCCESS; i++)
        code = MPI_Recv(NULL, 0, MPI_BYTE, (rank - 1 + size) % size, 0, comm, MPI_STATUS_IGNORE);
    for (int i = over ? 1 : 0; i < 2 && code == MPI_SUCCESS; i++)
        code = MPI_Wait(&both[i], MPI_STATUS_IGNORE);
    *sent = both[0];
    return code == MPI_SUCCESS ? 0 : mpi_failed(code, "connecting to all ranks");
}

int mpi_open(const struct address *address, void *native, struct endpoint *endpoint)
{
    (void)address; /* which is bare */
    static _Atomic uint64_t opened;
    int level, there, size, *tag_most;
    MPI_Comm_size(*(MPI_Comm *)native, &size);
    struct mpi *mpi = calloc(1, sizeof *mpi + (size_t)size * sizeof *mpi->parting);
    if (!mpi)
        return fail(-ENOMEM, "zc_open: no memory");
    mpi->number = 1 + atomic_fetch_add(&opened, 1);
    mpi->endless = MPI_REQUEST_NULL;
    MPI_Query_thread(&level);
    mpi_free_parted();
    int code = MPI_Comm_dup(*(MPI_Comm *)native, &mpi->comm);
    if (code != MPI_SUCCESS) {
        free(mpi);
        return mpi_failed(code, "MPI_Comm_dup");
    }
    MPI_Comm_set_errhandler(mpi->comm, MPI_ERRORS_RETURN);
    keep_errors_of_tests();
    MPI_Comm_get_attr(mpi->comm, MPI_TAG_UB, (void *)&tag_most, &there);
    *endpoint = (struct endpoint){.state = mpi,
                                  .size = size,
                                  .tag_most = there ? *tag_most : 32767,
                                  .eager = EAGER,
                                  .any_thread = level == MPI_THREAD_MULTIPLE,
                                  .serialized = level == MPI_THREAD_SERIALIZED,
                                  .ends_with_mpi = true};
    MPI_Comm_rank(mpi->comm, &endpoint->rank);
    endpoint->read_by_peers = size == 2; /* of more than one receiver, the pace of each is not seen */
    policy_expect_readers();
    int error = wire_up(mpi->comm, endpoint->rank, size);
    if (!error)
        error = learn_sent(mpi->comm, endpoint->rank, size, &mpi->sent);
    if (error) {
        MPI_Comm_free(&mpi->comm);
        free(mpi);
        return error;
    }
    return 0;
}

void mpi_close(struct endpoint *endpoint)
{
    struct mpi *mpi = endpoint->state;
    mpi_end_endless(&mpi->endless);
    mpi_settle(mpi, atomic_load(&mpi->unsettled) % SETTLED);
    MPI_Wait(&mpi->sent, MPI_STATUS_IGNORE);
    free(mpi->sends.native);
    free(mpi->sends.ops);
    free(mpi->receives.native);
    free(mpi->receives.ops);
    mpi_part(mpi);
}
