/* SPDX-License-Identifier: MIT
 *
 * The MPI transport: Isend and Irecv on wire addresses, over a communicator of its own. */
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/lock.h"
#include "transport/comm.h"
#include "transport/op.h"
#include "zc_mpi.h"

enum {
    WINDOW = 64,           /* requests looked at in one poll, in turn */
    EAGER = 8192,          /* MPICH over UCX takes messages up to 8255 bytes at once; others are near that */
    WIRE_UP_BYTES = 65536, /* surely a rendezvous */
    CHUNK = 1 << 30        /* bytes of the derived type for messages of more than INT_MAX */
};

/* Requests in flight and whose they are: parallel arrays, without gaps. The lock is held while MPI tests them,
 * so that no two threads test the same; whoever finds it taken has nothing to do. */
struct mpi {
    MPI_Comm comm;
    lock lock;
    int count, room, cursor;
    MPI_Request *requests;
    struct op **ops;
};

static int mpi_failed(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING];
    int length;
    MPI_Error_string(code, text, &length);
    return fail(-EIO, "zc: %s failed: %.*s", what, length, text);
}

/* ---- opening and closing ---- */

static void finalize_at_exit(void)
{
    int done;
    MPI_Finalized(&done);
    if (!done)
        MPI_Finalize();
}

/* Attributes of MPI_COMM_SELF are deleted first in MPI_Finalize: what is in flight ends there. */
static int on_finalize(MPI_Comm comm, int key, void *value, void *extra)
{
    (void)comm, (void)key, (void)value, (void)extra;
    comm_close_all(&mpi_transport);
    return MPI_SUCCESS;
}

static void watch_finalize(void)
{
    static bool watched;
    int key;
    if (watched)
        return;
    watched = true;
    MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, on_finalize, &key, NULL);
    MPI_Comm_set_attr(MPI_COMM_SELF, key, NULL);
}

static int initialise(void)
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
    atexit(finalize_at_exit);
    return 0;
}

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

static int mpi_open(const struct address *address, void *native, struct endpoint *endpoint)
{
    if (*address->name || address->count)
        return fail(-EINVAL, "zc_open: mpi takes no name and no parameters");
    int error = native ? 0 : initialise();
    struct mpi *mpi = error ? NULL : calloc(1, sizeof *mpi);
    if (!mpi)
        return error ? error : fail(-ENOMEM, "zc_open: no memory");
    MPI_Comm from = native ? *(MPI_Comm *)native : MPI_COMM_WORLD;
    int level, there, *tag_most;
    MPI_Query_thread(&level);
    int code = MPI_Comm_dup(from, &mpi->comm);
    if (code != MPI_SUCCESS) {
        free(mpi);
        return mpi_failed(code, "MPI_Comm_dup");
    }
    MPI_Comm_set_errhandler(mpi->comm, MPI_ERRORS_RETURN);
    MPI_Comm_get_attr(mpi->comm, MPI_TAG_UB, (void *)&tag_most, &there);
    *endpoint = (struct endpoint){.state = mpi,
                                  .tag_most = there ? *tag_most : 32767,
                                  .eager = EAGER,
                                  .any_thread = level == MPI_THREAD_MULTIPLE,
                                  .serialized = level == MPI_THREAD_SERIALIZED};
    MPI_Comm_rank(mpi->comm, &endpoint->rank);
    MPI_Comm_size(mpi->comm, &endpoint->size);
    error = wire_up(mpi->comm, endpoint->rank, endpoint->size);
    if (error) {
        MPI_Comm_free(&mpi->comm);
        free(mpi);
        return error;
    }
    watch_finalize();
    return 0;
}

static void mpi_close(struct endpoint *endpoint)
{
    struct mpi *mpi = endpoint->state;
    MPI_Comm_free(&mpi->comm);
    free(mpi->requests);
    free(mpi->ops);
    free(mpi);
}

/* ---- counts beyond int ---- */

/* A type of `length` bytes, or MPI_BYTE with *count where int is enough. */
static MPI_Datatype type_for(size_t length, int *count)
{
    if (length <= INT_MAX) {
        *count = (int)length;
        return MPI_BYTE;
    }
    MPI_Datatype chunk, chunks, both;
    size_t rest = length % CHUNK;
    MPI_Type_contiguous(CHUNK, MPI_BYTE, &chunk);
    MPI_Type_contiguous((int)(length / CHUNK), chunk, &chunks);
    MPI_Type_create_struct(2, (int[]){1, (int)rest}, (MPI_Aint[]){0, (MPI_Aint)(length - rest)},
                           (MPI_Datatype[]){chunks, MPI_BYTE}, &both);
    MPI_Type_commit(&both);
    MPI_Type_free(&chunk);
    MPI_Type_free(&chunks);
    *count = 1;
    return both;
}

static void type_done(MPI_Datatype type)
{
    if (type != MPI_BYTE)
        MPI_Type_free(&type);
}

static size_t length_of(const MPI_Status *status)
{
    MPI_Count bytes = 0;
    MPI_Get_elements_x(status, MPI_BYTE, &bytes);
    return bytes == MPI_UNDEFINED ? 0 : (size_t)bytes;
}

/* ---- requests in flight ---- */

static int make_room(struct mpi *mpi)
{
    if (mpi->count < mpi->room)
        return 0;
    int room = mpi->room ? 2 * mpi->room : WINDOW;
    MPI_Request *requests = realloc(mpi->requests, (size_t)room * sizeof *requests);
    if (requests)
        mpi->requests = requests;
    struct op **ops = requests ? realloc(mpi->ops, (size_t)room * sizeof(struct op *)) : NULL;
    if (!ops)
        return fail(-ENOMEM, "zc: no memory for another operation in flight");
    mpi->ops = ops;
    mpi->room = room;
    return 0;
}

/* There is room. Locked, as is untrack. */
static void track(struct mpi *mpi, struct op *op, MPI_Request request)
{
    op->in.index = (size_t)mpi->count;
    mpi->requests[mpi->count] = request;
    mpi->ops[mpi->count++] = op;
}

static void untrack(struct mpi *mpi, struct op *op)
{
    size_t at = op->in.index;
    mpi->requests[at] = mpi->requests[--mpi->count];
    mpi->ops[at] = mpi->ops[mpi->count];
    mpi->ops[at]->in.index = at;
}

static int mpi_send(struct endpoint *endpoint, struct op *op, const void *wire, size_t length, int dst, int tag)
{
    struct mpi *mpi = endpoint->state;
    MPI_Request request;
    int count, sent = 0;
    MPI_Datatype type = type_for(length, &count);
    int code = MPI_Isend(wire, count, type, dst, tag, mpi->comm, &request);
    type_done(type);
    if (code == MPI_SUCCESS && length <= EAGER)
        code = MPI_Test(&request, &sent, MPI_STATUS_IGNORE);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Isend");
    if (sent)
        return 1;
    lock_take(&mpi->lock);
    int error = make_room(mpi);
    if (!error)
        track(mpi, op, request);
    lock_drop(&mpi->lock);
    if (!error)
        return 0;
    /* Posted, and no memory to remember it by: the one send that waits. */
    code = MPI_Wait(&request, MPI_STATUS_IGNORE);
    return code == MPI_SUCCESS ? 1 : mpi_failed(code, "MPI_Wait");
}

static int track_receive(struct mpi *mpi, struct op *op, int code, MPI_Request request)
{
    if (code == MPI_SUCCESS)
        track(mpi, op, request);
    lock_drop(&mpi->lock);
    return code == MPI_SUCCESS ? 0 : mpi_failed(code, "MPI_Irecv");
}

static int mpi_receive(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, int src, int tag)
{
    struct mpi *mpi = endpoint->state;
    MPI_Request request;
    int count;
    lock_take(&mpi->lock);
    int error = make_room(mpi);
    if (error) {
        lock_drop(&mpi->lock);
        return error;
    }
    MPI_Datatype type = type_for(cap, &count);
    int code = MPI_Irecv(wire, count, type, src == ZC_ANY_SOURCE ? MPI_ANY_SOURCE : src,
                         tag == ZC_ANY_TAG ? MPI_ANY_TAG : tag, mpi->comm, &request);
    type_done(type);
    return track_receive(mpi, op, code, request);
}

static void complete(struct op *op, int code, const MPI_Status *status)
{
    int class = MPI_SUCCESS, cancelled = 0;
    if (code != MPI_SUCCESS)
        MPI_Error_class(code, &class);
    if (op->sends) {
        op_sent(op, code == MPI_SUCCESS ? 0 : -EIO);
        return;
    }
    MPI_Test_cancelled(status, &cancelled);
    size_t length = cancelled ? 0 : length_of(status);
    int error = cancelled ? -ECANCELED : class == MPI_ERR_TRUNCATE ? -EMSGSIZE : code == MPI_SUCCESS ? 0 : -EIO;
    if (error == -EMSGSIZE)
        length = op->hold.length;
    op_received(op, cancelled ? op->peer : status->MPI_SOURCE, cancelled ? op->tag : status->MPI_TAG, length, error);
}

/* Tests a window of the requests, and takes out those that are over. Locked. Returns how many. */
static int harvest(struct mpi *mpi, struct op *over[WINDOW], int codes[WINDOW], MPI_Status statuses[WINDOW])
{
    int indices[WINDOW], n = 0;
    if (mpi->cursor >= mpi->count)
        mpi->cursor = 0;
    int window = mpi->count - mpi->cursor < WINDOW ? mpi->count - mpi->cursor : WINDOW;
    int code = MPI_Testsome(window, mpi->requests + mpi->cursor, &n, indices, statuses);
    if (n == MPI_UNDEFINED || n < 0)
        n = 0;
    for (int i = 0; i < n; i++) {
        over[i] = mpi->ops[mpi->cursor + indices[i]];
        codes[i] = code == MPI_ERR_IN_STATUS ? statuses[i].MPI_ERROR : MPI_SUCCESS;
    }
    for (int i = 0; i < n; i++)
        untrack(mpi, over[i]);
    mpi->cursor += window - n;
    return n;
}

static void mpi_poll(struct endpoint *endpoint, struct op *urgent)
{
    struct mpi *mpi = endpoint->state;
    struct op *over[WINDOW + 1];
    int codes[WINDOW + 1], n = 0;
    MPI_Status statuses[WINDOW + 1];
    if (!lock_try(&mpi->lock))
        return;
    /* With few in flight, the window has the urgent one in it. Another thread may have taken it out and not told yet. */
    size_t at = urgent ? urgent->in.index : 0;
    if (mpi->count > WINDOW && urgent && at < (size_t)mpi->count && mpi->ops[at] == urgent) {
        int done = 0, code = MPI_Test(&mpi->requests[at], &done, &statuses[0]);
        if (done || code != MPI_SUCCESS) {
            over[0] = urgent;
            codes[0] = code;
            untrack(mpi, urgent);
            n = 1;
        }
    }
    if (mpi->count)
        n += harvest(mpi, over + n, codes + n, statuses + n);
    lock_drop(&mpi->lock);
    for (int i = 0; i < n; i++)
        complete(over[i], codes[i], &statuses[i]);
}

static void mpi_cancel(struct endpoint *endpoint, struct op *op)
{
    struct mpi *mpi = endpoint->state;
    lock_take(&mpi->lock);
    for (int i = 0; i < mpi->count; i++)
        if (mpi->ops[i] == op)
            MPI_Cancel(&mpi->requests[i]);
    lock_drop(&mpi->lock);
}

/* ---- probing ---- */

static void fill(zc_status *status, const MPI_Status *from)
{
    *status = (zc_status){.source = from->MPI_SOURCE, .tag = from->MPI_TAG, .length = length_of(from)};
}

static int mpi_probe(struct endpoint *endpoint, int src, int tag, zc_status *status)
{
    struct mpi *mpi = endpoint->state;
    MPI_Status found;
    int there;
    int code = MPI_Iprobe(src == ZC_ANY_SOURCE ? MPI_ANY_SOURCE : src, tag == ZC_ANY_TAG ? MPI_ANY_TAG : tag, mpi->comm,
                          &there, &found);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Iprobe");
    if (there)
        fill(status, &found);
    return there != 0;
}

_Static_assert(sizeof(MPI_Message) <= sizeof(uintptr_t), "a message handle fits into struct taken");

static int mpi_take(struct endpoint *endpoint, int src, int tag, zc_status *status, struct taken *taken)
{
    struct mpi *mpi = endpoint->state;
    MPI_Status found;
    MPI_Message message;
    int there;
    int code = MPI_Improbe(src == ZC_ANY_SOURCE ? MPI_ANY_SOURCE : src, tag == ZC_ANY_TAG ? MPI_ANY_TAG : tag,
                           mpi->comm, &there, &message, &found);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Improbe");
    if (there) {
        fill(status, &found);
        memcpy(&taken->native, &message, sizeof message);
    }
    return there != 0;
}

static int mpi_receive_taken(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, struct taken *taken)
{
    struct mpi *mpi = endpoint->state;
    MPI_Message message;
    MPI_Request request;
    int count;
    memcpy(&message, &taken->native, sizeof message);
    lock_take(&mpi->lock);
    int error = make_room(mpi);
    if (error) {
        lock_drop(&mpi->lock);
        return error;
    }
    MPI_Datatype type = type_for(cap, &count);
    int code = MPI_Imrecv(wire, count, type, &message, &request);
    type_done(type);
    return track_receive(mpi, op, code, request);
}

const struct transport mpi_transport = {.scheme = "mpi",
                                        .open = mpi_open,
                                        .close = mpi_close,
                                        .send = mpi_send,
                                        .receive = mpi_receive,
                                        .poll = mpi_poll,
                                        .cancel = mpi_cancel,
                                        .probe = mpi_probe,
                                        .take = mpi_take,
                                        .receive_taken = mpi_receive_taken};

int zc_open_mpi(MPI_Comm comm, const zc_options *options, zc_comm **out)
{
    static const struct address none = {.scheme = "mpi", .name = ""};
    int done, ended;
    if (!out)
        return fail(-EINVAL, "zc_open_mpi: comm is NULL");
    MPI_Initialized(&done);
    MPI_Finalized(&ended);
    if (!done || ended)
        return fail(-EPERM, "zc_open_mpi: MPI is %s", ended ? "finalised" : "not initialised");
    if (comm == MPI_COMM_NULL)
        return fail(-EINVAL, "zc_open_mpi: the communicator is MPI_COMM_NULL");
    return comm_open(&mpi_transport, &none, &comm, options, out);
}
