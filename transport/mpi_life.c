/* SPDX-License-Identifier: MIT */
#include "transport/mpi.h"

#include <errno.h>
#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/error.h"
#include "transport/comm.h"

/* A program that exits because of an error, of MPI perhaps (MPI_Abort calls exit), is not to be held up by what is in
 * flight, nor may MPI be called from within. One that exits well, with sends that nobody receives, gets a message. MPI
 * is none of a forked child's business. */
static void finalize_at_exit(int status, void *process)
{
    int done;
    if (getpid() != (pid_t)(intptr_t)process || status != 0)
        return;
    MPI_Finalized(&done);
    if (done)
        return;
    if (comm_close_all_of_mpi(false))
        MPI_Finalize();
    else
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
}

/* Attributes of MPI_COMM_SELF are deleted first in MPI_Finalize: what is in flight ends there. */
static int on_finalize(MPI_Comm comm, int key, void *value, void *extra)
{
    (void)comm, (void)key, (void)value, (void)extra;
    comm_close_all_of_mpi(true);
    while (!mpi_free_parted())
        sched_yield();
    return MPI_SUCCESS;
}

void mpi_watch_finalize(void)
{
    static bool watched;
    int key;
    if (watched)
        return;
    watched = true;
    MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, on_finalize, &key, NULL);
    MPI_Comm_set_attr(MPI_COMM_SELF, key, NULL);
}

int mpi_initialise(void)
{
    int done, level;
    MPI_Finalized(&done);
    if (done)
        return fail(-EPERM, "zc_open: MPI is finalised");
    MPI_Initialized(&done);
    if (done)
        return 0;
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
    if (code != MPI_SUCCESS)
        return fail(-EIO, "zc_open: MPI_Init_thread failed with code %d", code);
    on_exit(finalize_at_exit, (void *)(intptr_t)getpid());
    return 0;
}
