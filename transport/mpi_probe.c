/* SPDX-License-Identifier: MIT
 *
 * Messages that are there: what they are, and taking them. */
#include <errno.h>
#include <string.h>

#include "transport/mpi.h"

/* What this thread's last probe found. It is still there, and MPI_Recv has not to wait for it, unless something was
 * taken since: then `taken` differs. (Who takes something that was there when this thread read `taken`, changes it
 * afterwards, and before `matching` comes free.) */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    uint64_t number; /* of its struct mpi; 0: nothing */
    uint64_t taken;
    int src, tag; /* as asked */
    zc_status found;
} seen;

static void fill(zc_status *status, const MPI_Status *from)
{
    *status = (zc_status){.source = from->MPI_SOURCE, .tag = from->MPI_TAG, .length = mpi_length_of(from)};
}

int mpi_probe(struct endpoint *endpoint, int src, int tag, zc_status *status)
{
    struct mpi *mpi = endpoint->state;
    MPI_Status found;
    int there;
    uint64_t taken = atomic_load_explicit(&mpi->taken, memory_order_acquire);
    int code = MPI_Iprobe(mpi_source(src), mpi_tag(tag), mpi->comm, &there, &found);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Iprobe");
    if (there) {
        fill(status, &found);
        seen.number = mpi->number;
        seen.taken = taken;
        seen.src = src;
        seen.tag = tag;
        seen.found = *status;
    }
    return there != 0;
}

static bool saw(const struct mpi *mpi, int src, int tag)
{
    return seen.number == mpi->number &&
           ((src == seen.found.source && tag == seen.found.tag) || (src == seen.src && tag == seen.tag));
}

/* MPI has a message of up to EAGER bytes as a whole: there is no need for a request that would then be tested. */
int mpi_receive_now(struct endpoint *endpoint, void *wire, size_t cap, int src, int tag, zc_status *status)
{
    struct mpi *mpi = endpoint->state;
    int there = saw(mpi, src, tag), code = MPI_SUCCESS;
    if (!there && cap > EAGER)
        return 0;
    if (!there && (there = mpi_probe(endpoint, src, tag, status)) <= 0)
        return there < 0 ? there : -EAGAIN;
    seen.number = 0;
    *status = seen.found;
    if (status->length > cap || status->length > EAGER)
        return 0;
    lock_take(&mpi->matching);
    there = atomic_load_explicit(&mpi->taken, memory_order_relaxed) == seen.taken;
    if (there) {
        code = MPI_Recv(wire, (int)status->length, MPI_BYTE, status->source, status->tag, mpi->comm, MPI_STATUS_IGNORE);
        mpi_note_taken(mpi);
    }
    lock_drop(&mpi->matching);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Recv");
    return there ? 1 : -EAGAIN;
}

_Static_assert(sizeof(MPI_Message) <= sizeof(uintptr_t), "a message handle fits into struct taken");

int mpi_take(struct endpoint *endpoint, int src, int tag, zc_status *status, struct taken *taken)
{
    struct mpi *mpi = endpoint->state;
    MPI_Status found;
    MPI_Message message;
    int there;
    lock_take(&mpi->matching);
    int code = MPI_Improbe(mpi_source(src), mpi_tag(tag), mpi->comm, &there, &message, &found);
    mpi_note_taken(mpi);
    lock_drop(&mpi->matching);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Improbe");
    if (there) {
        fill(status, &found);
        memcpy(&taken->native, &message, sizeof message);
    }
    return there != 0;
}

int mpi_receive_taken(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, struct taken *taken)
{
    struct mpi *mpi = endpoint->state;
    MPI_Message message;
    MPI_Request request;
    int count;
    memcpy(&message, &taken->native, sizeof message);
    lock_take(&mpi->lock);
    int error = mpi_make_room(&mpi->receives);
    if (error) {
        lock_drop(&mpi->lock);
        return error;
    }
    MPI_Datatype type = mpi_type_for(cap, &count);
    int code = MPI_Imrecv(wire, count, type, &message, &request);
    mpi_type_done(type);
    return mpi_start_receive(mpi, op, code, request);
}

/* It is received into nothing, which ends its sender's wait. */
void mpi_drop(MPI_Message *message)
{
    mpi_testing = true; /* that it is truncated is no error */
    MPI_Mrecv(NULL, 0, MPI_BYTE, message, MPI_STATUS_IGNORE);
    mpi_testing = false;
}

void mpi_give_back(struct endpoint *endpoint, const struct taken *taken)
{
    (void)endpoint;
    MPI_Message message;
    memcpy(&message, &taken->native, sizeof message);
    mpi_drop(&message);
}
