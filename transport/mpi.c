/* SPDX-License-Identifier: MIT */
#include "transport/mpi.h"

#include <errno.h>
#include <stdlib.h>

#include "core/error.h"
#include "transport/op.h"

enum {
    /* So that a poll takes about the same time however much is in flight; the numbers are guesses. */
    WINDOW = 64, /* sends, or receives, looked at in one poll, in turn */
    RECEIVES = 4 /* receives that one poll ends, each by a call of its own */
};

int mpi_failed(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING];
    int length;
    MPI_Error_string(code, text, &length);
    return fail(-EIO, "zc: %s failed: %.*s", what, length, text);
}

/* ---- requests in flight ---- */

int mpi_make_room(struct requests *requests)
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

/* ---- sending and receiving ---- */

/* It costs MPI hardly more than for one. */
void mpi_settle(const struct mpi *mpi, unsigned count)
{
    MPI_Request requests[SETTLED];
    MPI_Status *volatile none = MPI_STATUSES_IGNORE; /* in MPICH an address that gcc takes for a mistake */
    for (unsigned i = 0; i < count; i++)
        requests[i] = mpi->sent;
    MPI_Waitall((int)count, requests, none);
}

static bool has_left(struct mpi *mpi, MPI_Request request)
{
    if (request != mpi->sent || request == MPI_REQUEST_NULL)
        return false;
    if (atomic_fetch_add_explicit(&mpi->unsettled, 1, memory_order_relaxed) % SETTLED == SETTLED - 1)
        mpi_settle(mpi, SETTLED);
    return true;
}

static int mpi_send(struct endpoint *endpoint, struct op *op, const void *wire, size_t length, int dst, int tag)
{
    struct mpi *mpi = endpoint->state;
    MPI_Request request;
    int count, sent = 0;
    MPI_Datatype type = mpi_type_for(length, &count);
    int code = MPI_Isend(wire, count, type, dst, tag, mpi->comm, &request);
    mpi_type_done(type);
    if (code == MPI_SUCCESS && has_left(mpi, request))
        return 1;
    if (code == MPI_SUCCESS && length <= EAGER)
        code = MPI_Test(&request, &sent, MPI_STATUS_IGNORE);
    if (code != MPI_SUCCESS)
        return mpi_failed(code, "MPI_Isend");
    if (sent)
        return 1;
    lock_take(&mpi->lock);
    int error = mpi_make_room(&mpi->sends);
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
    bool told = code == MPI_SUCCESS || class == MPI_ERR_TRUNCATE; /* else the status may be as it was */
    if (told)
        MPI_Test_cancelled(status, &cancelled);
    int error = cancelled ? -ECANCELED : class == MPI_ERR_TRUNCATE ? -EMSGSIZE : code == MPI_SUCCESS ? 0 : -EIO;
    size_t length = error ? 0 : mpi_length_of(status); /* how much of a truncated message was kept, MPI does not say */
    told = told && !cancelled;
    op_received(op, told ? status->MPI_SOURCE : op->peer, told ? status->MPI_TAG : op->tag, length, error);
}

int mpi_start_receive(struct mpi *mpi, struct op *op, int code, MPI_Request request)
{
    MPI_Status status;
    int over = 0;
    if (code != MPI_SUCCESS) {
        lock_drop(&mpi->lock);
        return mpi_failed(code, "MPI_Irecv");
    }
    if (!op->hold.named) {
        mpi_testing = true;
        code = MPI_Test(&request, &over, &status);
        mpi_testing = false;
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
    int error = mpi_make_room(&mpi->receives);
    if (error) {
        lock_drop(&mpi->lock);
        lock_drop(&mpi->matching);
        return error;
    }
    MPI_Datatype type = mpi_type_for(cap, &count);
    int code = MPI_Irecv(wire, count, type, mpi_source(src), mpi_tag(tag), mpi->comm, &request);
    mpi_note_taken(mpi);
    lock_drop(&mpi->matching);
    mpi_type_done(type);
    return mpi_start_receive(mpi, op, code, request);
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

/* Tests one receive, and takes it out if it is over. Locked. */
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

/* The same for a window of them, of which one at most is taken out. One that was truncated ends with an error, which
 * MPI_Testsome might tell of another's instead. */
static bool harvest_receives(struct requests *receives, struct over *over)
{
    int index = MPI_UNDEFINED, done = 0;
    int window = receives->count - receives->cursor < WINDOW ? receives->count - receives->cursor : WINDOW;
    over->code = MPI_Testany(window, receives->native + receives->cursor, &index, &done, &over->status);
    if (index == MPI_UNDEFINED || index < 0) {
        move_on(receives, window);
        return false;
    }
    over->op = receives->ops[receives->cursor + index];
    untrack(receives, over->op);
    move_on(receives, index);
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
    mpi_testing = true;
    /* The urgent one is in its own place, unless another thread has ended it. */
    if (urgent && urgent->in.index < (size_t)receives->count && receives->ops[urgent->in.index] == urgent)
        n += harvest_receive(receives, (int)urgent->in.index, &over[n]);
    move_on(receives, 0);
    for (int i = 0; i < RECEIVES && receives->count && harvest_receives(receives, &over[n]); i++)
        n++;
    if (mpi->sends.count)
        n += harvest_sends(&mpi->sends, over + n);
    mpi_testing = false;
    count_requests(mpi);
    lock_drop(&mpi->lock);
    for (int i = 0; i < n; i++)
        complete(over[i].op, over[i].code, &over[i].status);
}

/* What makes MPI take in its peers' messages is a test of a request that is not over. A probe stops at the first
 * message that is there, and one for a message that is not there looks through them all. */
static bool mpi_take_in(struct endpoint *endpoint)
{
    struct mpi *mpi = endpoint->state;
    int over, there = 1;
    if (!lock_try(&mpi->lock))
        return true;
    if (mpi->endless != MPI_REQUEST_NULL || mpi_start_endless(&mpi->endless) == 0)
        MPI_Test(&mpi->endless, &over, MPI_STATUS_IGNORE);
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, mpi->comm, &there,
               MPI_STATUS_IGNORE); /* takes in nothing where it finds any */
    lock_drop(&mpi->lock);
    return there;
}

bool mpi_busy(const struct endpoint *endpoint)
{
    const struct mpi *mpi = endpoint->state;
    return atomic_load_explicit(&mpi->in_flight, memory_order_relaxed) != 0;
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

/* ---- the table ---- */

const struct transport mpi_transport = {.scheme = "mpi",
                                        .check = address_check_bare,
                                        .open = mpi_open,
                                        .close = mpi_close,
                                        .send = mpi_send,
                                        .receive = mpi_receive,
                                        .receive_now = mpi_receive_now,
                                        .poll = mpi_poll,
                                        .take_in = mpi_take_in,
                                        .tend = mpi_tend,
                                        .probe_takes_in = true,
                                        .cancel = mpi_cancel,
                                        .probe = mpi_probe,
                                        .take = mpi_take,
                                        .receive_taken = mpi_receive_taken,
                                        .give_back = mpi_give_back};
