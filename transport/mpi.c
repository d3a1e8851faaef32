/* SPDX-License-Identifier: MIT
 *
 * The MPI transport: Isend and Irecv on wire addresses, over a communicator of its own. */
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/lock.h"
#include "transport/comm.h"
#include "transport/mpi.h"
#include "transport/op.h"

enum {
    WINDOW = 64,           /* sends looked at in one poll, in turn */
    SETTLED = 32,          /* requests of messages that have left, which are given back to MPI together */
    RECEIVES = 4,          /* receives looked at, each by a call of its own */
    EAGER = 8192,          /* MPICH over UCX takes messages up to 8255 bytes at once; others are near that */
    WIRE_UP_BYTES = 65536, /* surely a rendezvous */
    CHUNK = 1 << 30        /* bytes of the derived type for messages of more than INT_MAX */
};

/* Requests in flight and whose they are: parallel arrays, without gaps. */
struct requests {
    int count, room, cursor;
    MPI_Request *native;
    struct op **ops;
};

/* Sends and receives are apart because they are tested differently. The lock is held while MPI tests, so that no two
 * threads test the same; whoever finds it taken has nothing to do. */
struct mpi {
    MPI_Comm comm;
    lock matching;              /* whoever takes messages out of what MPI_Iprobe sees; taken before the other one */
    _Atomic uint64_t taken;     /* changes after each call that may have */
    MPI_Request sent;           /* what MPI_Isend returns of messages that have left, or MPI_REQUEST_NULL, */
    _Atomic unsigned unsettled; /* and how often it has; SETTLED of them at a time were waited for */
    lock lock;
    struct requests sends, receives;
    _Atomic int in_flight; /* of both: where it is 0, a poll has nothing to do */
    MPI_Request endless;   /* of which nothing comes: what there is to test where nothing is in flight */
};

/* What this thread's last probe found. It is still there, and MPI_Recv has not to wait for it, unless something was
 * taken since: then `taken` differs. (Who takes something that was there when this thread read `taken`, changes it
 * afterwards, and before `matching` comes free.) */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    const struct endpoint *endpoint; /* of a communicator, which is never freed; or NULL */
    uint64_t taken;
    int src, tag; /* as asked */
    zc_status found;
} seen;

static int mpi_failed(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING];
    int length;
    MPI_Error_string(code, text, &length);
    return fail(-EIO, "zc: %s failed: %.*s", what, length, text);
}

/* ---- errors of tests ---- */

/* MPICH hands errors of MPI_Test, such as a truncated message's, to the handler of MPI_COMM_WORLD whatever the
 * communicator of the request, and by default that ends the job. Where the default is in force, this one takes its
 * place: it leaves errors of zc's own tests to zc, and ends the job for all others. */
static _Thread_local __attribute__((tls_model("initial-exec"))) bool testing;

static void on_world_error(MPI_Comm *comm, int *code, ...)
{
    char text[MPI_MAX_ERROR_STRING];
    int length;
    if (testing)
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

/* ---- opening ---- */

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

/* Where two messages that have left have one request, as in MPICH, that one is over, and stays so while one of the two
 * is kept: so have all others that get it. */
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

/* Waits for `count` of the requests that are over. It costs MPI hardly more than for one. */
static void settle(const struct mpi *mpi, unsigned count)
{
    MPI_Request requests[SETTLED];
    MPI_Status statuses[SETTLED];
    for (unsigned i = 0; i < count; i++)
        requests[i] = mpi->sent;
    MPI_Waitall((int)count, requests, statuses);
}

static bool has_left(struct mpi *mpi, MPI_Request request)
{
    if (request != mpi->sent || request == MPI_REQUEST_NULL)
        return false;
    if (atomic_fetch_add_explicit(&mpi->unsettled, 1, memory_order_relaxed) % SETTLED == SETTLED - 1)
        settle(mpi, SETTLED);
    return true;
}

static int mpi_open(const struct address *address, void *native, struct endpoint *endpoint)
{
    if (*address->name || address->count)
        return fail(-EINVAL, "zc_open: mpi takes no name and no parameters");
    int error = native ? 0 : mpi_initialise();
    struct mpi *mpi = error ? NULL : calloc(1, sizeof *mpi);
    if (!mpi)
        return error ? error : fail(-ENOMEM, "zc_open: no memory");
    mpi->endless = MPI_REQUEST_NULL;
    MPI_Comm from = native ? *(MPI_Comm *)native : MPI_COMM_WORLD;
    int level, there, *tag_most;
    MPI_Query_thread(&level);
    int code = MPI_Comm_dup(from, &mpi->comm);
    if (code != MPI_SUCCESS) {
        free(mpi);
        return mpi_failed(code, "MPI_Comm_dup");
    }
    MPI_Comm_set_errhandler(mpi->comm, MPI_ERRORS_RETURN);
    keep_errors_of_tests();
    MPI_Comm_get_attr(mpi->comm, MPI_TAG_UB, (void *)&tag_most, &there);
    *endpoint = (struct endpoint){.state = mpi,
                                  .tag_most = there ? *tag_most : 32767,
                                  .eager = EAGER,
                                  .any_thread = level == MPI_THREAD_MULTIPLE,
                                  .serialized = level == MPI_THREAD_SERIALIZED,
                                  .ends_with_mpi = true};
    MPI_Comm_rank(mpi->comm, &endpoint->rank);
    MPI_Comm_size(mpi->comm, &endpoint->size);
    endpoint->read_by_peers = endpoint->size == 2; /* of more than one receiver, the pace of each is not seen */
    error = wire_up(mpi->comm, endpoint->rank, endpoint->size);
    if (!error)
        error = learn_sent(mpi->comm, endpoint->rank, endpoint->size, &mpi->sent);
    if (error) {
        MPI_Comm_free(&mpi->comm);
        free(mpi);
        return error;
    }
    return 0;
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
    int count;
    if (MPI_Get_count(status, MPI_BYTE, &count) == MPI_SUCCESS && count != MPI_UNDEFINED)
        return (size_t)count;
    MPI_Get_elements_x(status, MPI_BYTE, &bytes);
    return bytes == MPI_UNDEFINED ? 0 : (size_t)bytes;
}

/* ---- requests in flight ---- */

static int make_room(struct requests *requests)
{
    if (requests->count < requests->room)
        return 0;
    int room = requests->room ? 2 * requests->room : WINDOW;
    MPI_Request *native = realloc(requests->native, (size_t)room * sizeof *native);
    if (native)
        requests->native = native;
    struct op **ops = native ? realloc(requests->ops, (size_t)room * sizeof(struct op *)) : NULL;
    if (!ops)
        return fail(-ENOMEM, "zc: no memory for another operation in flight");
    requests->ops = ops;
    requests->room = room;
    return 0;
}

static void count_requests(struct mpi *mpi)
{
    atomic_store_explicit(&mpi->in_flight, mpi->sends.count + mpi->receives.count, memory_order_relaxed);
}

/* There is room. Locked, as is untrack. */
static void track(struct requests *requests, struct op *op, MPI_Request request)
{
    op->in.index = (size_t)requests->count;
    requests->native[requests->count] = request;
    requests->ops[requests->count++] = op;
}

static void untrack(struct requests *requests, struct op *op)
{
    size_t at = op->in.index;
    requests->native[at] = requests->native[--requests->count];
    requests->ops[at] = requests->ops[requests->count];
    requests->ops[at]->in.index = at;
}

/* Past what was tested and is not over; back to the start at the end, now rather than later: what is posted meanwhile
 * would always be tested first, and the older ones never again. */
static void move_on(struct requests *requests, int tested)
{
    requests->cursor += tested;
    if (requests->cursor >= requests->count)
        requests->cursor = 0;
}

static int mpi_send(struct endpoint *endpoint, struct op *op, const void *wire, size_t length, int dst, int tag)
{
    struct mpi *mpi = endpoint->state;
    MPI_Request request;
    int count, sent = 0;
    MPI_Datatype type = type_for(length, &count);
    int code = MPI_Isend(wire, count, type, dst, tag, mpi->comm, &request);
    type_done(type);
    if (code == MPI_SUCCESS && has_left(mpi, request))
        return 1;
    if (code == MPI_SUCCESS && length <= EAGER)
        code = MPI_Test(&request, &sent, MPI_STATUS_IGNORE);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Isend");
    if (sent)
        return 1;
    lock_take(&mpi->lock);
    int error = make_room(&mpi->sends);
    if (!error)
        track(&mpi->sends, op, request);
    count_requests(mpi);
    lock_drop(&mpi->lock);
    if (!error)
        return 0;
    /* Posted, and no memory to remember it by: the one send that waits. */
    code = MPI_Wait(&request, MPI_STATUS_IGNORE);
    return code == MPI_SUCCESS ? 1 : mpi_failed(code, "MPI_Wait");
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
    int error = cancelled ? -ECANCELED : class == MPI_ERR_TRUNCATE ? -EMSGSIZE : code == MPI_SUCCESS ? 0 : -EIO;
    size_t length = error ? 0 : length_of(status); /* how much of a truncated message was kept, MPI does not say */
    op_received(op, cancelled ? op->peer : status->MPI_SOURCE, cancelled ? op->tag : status->MPI_TAG, length, error);
}

/* Something was, perhaps. `matching` is held. */
static void note_taken(struct mpi *mpi)
{
    uint64_t taken = atomic_load_explicit(&mpi->taken, memory_order_relaxed);
    atomic_store_explicit(&mpi->taken, taken + 1, memory_order_release);
}

/* A call that waits for its message takes it at once if it is there already. Locked; drops the lock. */
static int start_receive(struct mpi *mpi, struct op *op, int code, MPI_Request request)
{
    MPI_Status status;
    int over = 0;
    if (code != MPI_SUCCESS) {
        lock_drop(&mpi->lock);
        return mpi_failed(code, "MPI_Irecv");
    }
    if (!op->hold.named) {
        testing = true;
        code = MPI_Test(&request, &over, &status);
        testing = false;
    }
    if (!over && code == MPI_SUCCESS) {
        track(&mpi->receives, op, request);
        count_requests(mpi);
        lock_drop(&mpi->lock);
        return 0;
    }
    lock_drop(&mpi->lock);
    complete(op, code, &status);
    return 0;
}

static int mpi_receive(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, int src, int tag)
{
    struct mpi *mpi = endpoint->state;
    MPI_Request request;
    int count;
    lock_take(&mpi->matching);
    lock_take(&mpi->lock);
    int error = make_room(&mpi->receives);
    if (error) {
        lock_drop(&mpi->lock);
        lock_drop(&mpi->matching);
        return error;
    }
    MPI_Datatype type = type_for(cap, &count);
    int code = MPI_Irecv(wire, count, type, src == ZC_ANY_SOURCE ? MPI_ANY_SOURCE : src,
                         tag == ZC_ANY_TAG ? MPI_ANY_TAG : tag, mpi->comm, &request);
    note_taken(mpi);
    lock_drop(&mpi->matching);
    type_done(type);
    return start_receive(mpi, op, code, request);
}

struct over {
    struct op *op;
    int code;
    MPI_Status status;
};

/* Tests a window of the sends, and takes out those that are over. Locked. Returns how many. */
static int harvest_sends(struct requests *sends, struct over over[WINDOW])
{
    int indices[WINDOW], n = 0;
    MPI_Status statuses[WINDOW];
    int window = sends->count - sends->cursor < WINDOW ? sends->count - sends->cursor : WINDOW;
    int code = MPI_Testsome(window, sends->native + sends->cursor, &n, indices, statuses);
    if (n == MPI_UNDEFINED || n < 0)
        n = 0;
    for (int i = 0; i < n; i++)
        over[i] = (struct over){.op = sends->ops[sends->cursor + indices[i]],
                                .code = code == MPI_ERR_IN_STATUS ? statuses[i].MPI_ERROR : MPI_SUCCESS};
    for (int i = 0; i < n; i++)
        untrack(sends, over[i].op);
    move_on(sends, window - n);
    return n;
}

/* Tests one receive, and takes it out if it is over. Locked. One that was truncated ends with an error, which
 * MPI_Testsome might tell of another's instead. */
static bool harvest_receive(struct requests *receives, int at, struct over *over)
{
    int done = 0;
    over->op = receives->ops[at];
    over->code = MPI_Test(&receives->native[at], &done, &over->status);
    if (!done && over->code == MPI_SUCCESS)
        return false;
    untrack(receives, over->op);
    return true;
}

static void mpi_poll(struct endpoint *endpoint, struct op *urgent)
{
    struct mpi *mpi = endpoint->state;
    struct requests *receives = &mpi->receives;
    struct over over[WINDOW + RECEIVES + 1];
    int n = 0;
    if (atomic_load_explicit(&mpi->in_flight, memory_order_relaxed) == 0 || !lock_try(&mpi->lock))
        return;
    testing = true;
    /* The urgent one is in its own place, unless another thread has ended it. */
    if (urgent && urgent->in.index < (size_t)receives->count && receives->ops[urgent->in.index] == urgent)
        n += harvest_receive(receives, (int)urgent->in.index, &over[n]);
    move_on(receives, 0);
    for (int i = 0; i < RECEIVES && i < receives->count; i++) {
        bool over_now =
            receives->ops[receives->cursor] != urgent && harvest_receive(receives, receives->cursor, &over[n]);
        n += over_now;
        move_on(receives, !over_now);
    }
    if (mpi->sends.count)
        n += harvest_sends(&mpi->sends, over + n);
    testing = false;
    count_requests(mpi);
    lock_drop(&mpi->lock);
    for (int i = 0; i < n; i++)
        complete(over[i].op, over[i].code, &over[i].status);
}

/* A test of a request that is not over is what has MPI take its peers' messages off them: a probe stops at the first one
 * that is there, one for no message looks through them all. */
static void mpi_take_in(struct endpoint *endpoint)
{
    struct mpi *mpi = endpoint->state;
    int over;
    if (!lock_try(&mpi->lock))
        return;
    if (mpi->endless != MPI_REQUEST_NULL || mpi_start_endless(&mpi->endless) == 0)
        MPI_Test(&mpi->endless, &over, MPI_STATUS_IGNORE);
    lock_drop(&mpi->lock);
}

static void mpi_cancel(struct endpoint *endpoint, struct op *op)
{
    struct mpi *mpi = endpoint->state;
    struct requests *receives = &mpi->receives;
    lock_take(&mpi->lock);
    if (op->in.index < (size_t)receives->count && receives->ops[op->in.index] == op)
        MPI_Cancel(&receives->native[op->in.index]);
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
    uint64_t taken = atomic_load_explicit(&mpi->taken, memory_order_acquire);
    int code = MPI_Iprobe(src == ZC_ANY_SOURCE ? MPI_ANY_SOURCE : src, tag == ZC_ANY_TAG ? MPI_ANY_TAG : tag, mpi->comm,
                          &there, &found);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Iprobe");
    if (there) {
        fill(status, &found);
        seen.endpoint = endpoint;
        seen.taken = taken;
        seen.src = src;
        seen.tag = tag;
        seen.found = *status;
    }
    return there != 0;
}

static bool saw(const struct endpoint *endpoint, int src, int tag)
{
    return seen.endpoint == endpoint &&
           ((src == seen.found.source && tag == seen.found.tag) || (src == seen.src && tag == seen.tag));
}

/* MPI has a message of up to EAGER bytes as a whole: there is no need for a request that would then be tested. */
static int mpi_receive_now(struct endpoint *endpoint, void *wire, size_t cap, int src, int tag, zc_status *status)
{
    struct mpi *mpi = endpoint->state;
    int there = saw(endpoint, src, tag), code = MPI_SUCCESS;
    if (!there && cap > EAGER)
        return 0;
    if (!there && (there = mpi_probe(endpoint, src, tag, status)) <= 0)
        return there < 0 ? there : -EAGAIN;
    seen.endpoint = NULL;
    *status = seen.found;
    if (status->length > cap || status->length > EAGER)
        return 0;
    lock_take(&mpi->matching);
    there = atomic_load_explicit(&mpi->taken, memory_order_relaxed) == seen.taken;
    if (there) {
        code = MPI_Recv(wire, (int)status->length, MPI_BYTE, status->source, status->tag, mpi->comm, MPI_STATUS_IGNORE);
        note_taken(mpi);
    }
    lock_drop(&mpi->matching);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Recv");
    return there ? 1 : -EAGAIN;
}

_Static_assert(sizeof(MPI_Message) <= sizeof(uintptr_t), "a message handle fits into struct taken");

static int mpi_take(struct endpoint *endpoint, int src, int tag, zc_status *status, struct taken *taken)
{
    struct mpi *mpi = endpoint->state;
    MPI_Status found;
    MPI_Message message;
    int there;
    lock_take(&mpi->matching);
    int code = MPI_Improbe(src == ZC_ANY_SOURCE ? MPI_ANY_SOURCE : src, tag == ZC_ANY_TAG ? MPI_ANY_TAG : tag,
                           mpi->comm, &there, &message, &found);
    note_taken(mpi);
    lock_drop(&mpi->matching);
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
    int error = make_room(&mpi->receives);
    if (error) {
        lock_drop(&mpi->lock);
        return error;
    }
    MPI_Datatype type = type_for(cap, &count);
    int code = MPI_Imrecv(wire, count, type, &message, &request);
    type_done(type);
    return start_receive(mpi, op, code, request);
}

/* It is received into nothing, which ends its sender's wait. */
static void mpi_give_back(struct endpoint *endpoint, const struct taken *taken)
{
    (void)endpoint;
    MPI_Message message;
    memcpy(&message, &taken->native, sizeof message);
    testing = true; /* that it is truncated is no error */
    MPI_Mrecv(NULL, 0, MPI_BYTE, &message, MPI_STATUS_IGNORE);
    testing = false;
}

/* ---- the table ---- */

static void mpi_close(struct endpoint *endpoint)
{
    struct mpi *mpi = endpoint->state;
    mpi_end_endless(&mpi->endless);
    settle(mpi, atomic_load(&mpi->unsettled) % SETTLED);
    MPI_Wait(&mpi->sent, MPI_STATUS_IGNORE);
    MPI_Comm_free(&mpi->comm);
    free(mpi->sends.native);
    free(mpi->sends.ops);
    free(mpi->receives.native);
    free(mpi->receives.ops);
    free(mpi);
}

const struct transport mpi_transport = {.scheme = "mpi",
                                        .open = mpi_open,
                                        .close = mpi_close,
                                        .send = mpi_send,
                                        .receive = mpi_receive,
                                        .receive_now = mpi_receive_now,
                                        .poll = mpi_poll,
                                        .take_in = mpi_take_in,
                                        .cancel = mpi_cancel,
                                        .probe = mpi_probe,
                                        .take = mpi_take,
                                        .receive_taken = mpi_receive_taken,
                                        .give_back = mpi_give_back};
