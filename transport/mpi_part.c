/* SPDX-License-Identifier: MIT
 *
 * What becomes of an endpoint over MPI that is closed. MPI_Comm_free gives a communicator's number back, and a message
 * that nobody received would go to whichever gets it next. So it is freed when there can be none any more: all ranks
 * have closed theirs; each has sent all a last message, and knows that they have dropped it, and what it sent before;
 * and each knows that of all others. That is looked at when another communicator is opened or closed, and by threads
 * that wait on another one, since peers may be waiting until this rank has dropped what they sent. Only MPI_Finalize
 * waits for it. */
#include <stdlib.h>

#include "transport/mpi.h"

enum { CLOSING, TAKING_LEAVE, AGREEING };

/* Those that are not freed yet. */
static lock list_lock;
static struct mpi *list;
static _Atomic bool any; /* are there */

static void drop_messages(const struct mpi *mpi)
{
    MPI_Message message;
    int there = 1;
    while (MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, mpi->comm, &there, &message, MPI_STATUS_IGNORE) == MPI_SUCCESS &&
           there)
        mpi_drop(&message);
}

static int agree(struct mpi *mpi)
{
    mpi->partings = 1;
    return MPI_Ibarrier(mpi->comm, mpi->parting);
}

static int take_leave(struct mpi *mpi)
{
    int code = MPI_SUCCESS;
    MPI_Comm_size(mpi->comm, &mpi->partings);
    for (int rank = 0; rank < mpi->partings; rank++)
        mpi->parting[rank] = MPI_REQUEST_NULL;
    for (int rank = 0; rank < mpi->partings && code == MPI_SUCCESS; rank++)
        code = MPI_Issend(NULL, 0, MPI_BYTE, rank, 0, mpi->comm, &mpi->parting[rank]);
    return code;
}

/* Nothing of it can come any more; or MPI fails. */
static bool parted(struct mpi *mpi)
{
    int over = 0;
    MPI_Status *volatile none = MPI_STATUSES_IGNORE; /* in MPICH an address that gcc takes for a mistake */
    drop_messages(mpi);
    mpi_testing = true;
    int code = MPI_Testall(mpi->partings, mpi->parting, &over, none);
    mpi_testing = false;
    if (code != MPI_SUCCESS || !over)
        return code != MPI_SUCCESS;
    switch (mpi->stage++) {
    case CLOSING:
        return take_leave(mpi) != MPI_SUCCESS;
    case TAKING_LEAVE:
        return agree(mpi) != MPI_SUCCESS;
    default:
        return true;
    }
}

void mpi_part(struct mpi *mpi)
{
    mpi->stage = CLOSING;
    agree(mpi);
    lock_take(&list_lock);
    mpi->next = list;
    list = mpi;
    lock_drop(&list_lock);
    mpi_free_parted();
}

/* Locked; drops the lock. */
static bool free_parted(void)
{
    for (struct mpi **link = &list, *mpi; (mpi = *link);) {
        if (!parted(mpi)) {
            link = &mpi->next;
            continue;
        }
        *link = mpi->next;
        MPI_Comm_free(&mpi->comm);
        free(mpi);
    }
    bool all = !list;
    atomic_store_explicit(&any, !all, memory_order_relaxed);
    lock_drop(&list_lock);
    return all;
}

bool mpi_free_parted(void)
{
    lock_take(&list_lock);
    return free_parted();
}

void mpi_tend(void)
{
    if (atomic_load_explicit(&any, memory_order_relaxed) && lock_try(&list_lock))
        free_parted();
}
