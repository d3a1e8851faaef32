/* SPDX-License-Identifier: MIT
 *
 * Threads over MPI, in a process alone: what holds of the transport whatever the ranks are. */
#include "invariants.h"
#include "transport/comm.h"
#include "transport/mpi.h"

enum { PENDING = 100, ROUNDS = 10000, EACH = 64 };

static zc_comm *comm;
static _Atomic bool stop;

static void *poll_on(void *unused)
{
    (void)unused;
    while (!atomic_load(&stop))
        CHECK_OK(zc_progress(comm));
    return NULL;
}

static void *ping(void *argument)
{
    int tag = (int)(uintptr_t)argument;
    char out[EACH], in[EACH];
    for (int i = 0; i < ROUNDS; i++) {
        memset(out, i, EACH);
        CHECK_OK(zc_send(out, EACH, 0, tag, comm));
        CHECK_OK(zc_recv(in, EACH, 0, tag, comm, NULL));
        CHECK_BYTES(in, EACH, (unsigned char)i);
    }
    return NULL;
}

/* With more in flight than one poll looks at, a blocking receive is looked at by itself; another thread may have
 * found it over meanwhile, and its place may be another's. */
Test(mpi, blocking_receives_among_many_and_other_threads)
{
    CHECK_OK(zc_open("mpi", NULL, &comm));
    char *b = ALLOC(PENDING * EACH);
    for (int i = 0; i < PENDING; i++)
        CHECK_OK(zc_irecv(b + (size_t)i * EACH, EACH, 0, 1000, comm));
    pthread_t poller = thread_start(poll_on, NULL), pings[3];
    for (size_t i = 0; i < 3; i++)
        pings[i] = thread_start(ping, (void *)i);
    for (int i = 0; i < 3; i++)
        thread_join(pings[i]);
    atomic_store(&stop, true);
    thread_join(poller);
    for (int i = 0; i < PENDING; i++)
        CHECK_OK(zc_cancel(b + (size_t)i * EACH));
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

static _Atomic unsigned tests; /* of single requests */
static bool fails;             /* the next one of many: one is over, and what became of it is not said */

/* In the place of MPI's. */
int MPI_Test(MPI_Request *request, int *flag, MPI_Status *status)
{
    tests++;
    return PMPI_Test(request, flag, status);
}

int MPI_Testany(int count, MPI_Request array_of_requests[], int *indx, int *flag, MPI_Status *status)
{
    if (!fails)
        return PMPI_Testany(count, array_of_requests, indx, flag, status);
    fails = false;
    *indx = 0;
    PMPI_Cancel(&array_of_requests[0]);
    PMPI_Wait(&array_of_requests[0], MPI_STATUS_IGNORE);
    memset(status, 0x77, sizeof *status);
    return MPI_ERR_OTHER;
}

/* So is the receive that zc_wait names, which is not to wait for its turn among all others. */
Test(mpi, a_receive_that_is_waited_for_among_many)
{
    enum { WAITS = 20, TESTS = 8 /* in one wait; four of them of others in turn */ };
    CHECK_OK(zc_open("mpi", NULL, &comm));
    char *b = ALLOC(PENDING * EACH), *in = ALLOC(EACH);
    for (int i = 0; i < PENDING; i++)
        CHECK_OK(zc_irecv(b + (size_t)i * EACH, EACH, 0, 1000, comm));
    unsigned in_waits = 0;
    for (int i = 0; i < WAITS; i++) {
        CHECK_OK(zc_irecv(in, EACH, 0, 1, comm));
        CHECK_OK(zc_send("there", 5, 0, 1, comm));
        unsigned before = tests;
        CHECK_OK(zc_wait(in, NULL));
        in_waits += tests - before;
    }
    CHECKF(in_waits <= WAITS * TESTS, "%u tests in %d waits", in_waits, (int)WAITS);
    for (int i = 0; i < PENDING; i++)
        CHECK_OK(zc_cancel(b + (size_t)i * EACH));
    CHECK_OK(zc_close(comm));
}

/* Nor are others that are looked at in turn, as for a touch, to take long to be seen. */
Test(mpi, a_receive_is_seen_soon_among_many)
{
    enum { LOOKS = 4 };
    CHECK_OK(zc_open("mpi", NULL, &comm));
    char *b = ALLOC(PENDING * EACH), *in = ALLOC(EACH);
    for (int i = 0; i < PENDING; i++)
        CHECK_OK(zc_irecv(b + (size_t)i * EACH, EACH, 0, 1000, comm));
    for (int i = 0; i < 10; i++) {
        int looks = 0, done = 0;
        CHECK_OK(zc_irecv(in, EACH, 0, 1, comm));
        CHECK_OK(zc_send("there", 5, 0, 1, comm));
        for (; !done; looks++)
            CHECK_OK(zc_test(in, &done, NULL));
        CHECKF(looks <= LOOKS, "seen by look %d", looks);
    }
    for (int i = 0; i < PENDING; i++)
        CHECK_OK(zc_cancel(b + (size_t)i * EACH));
    CHECK_OK(zc_close(comm));
}

/* The same, step by step: a request that is over has no place any more. */
Test(mpi, an_urgent_request_that_is_over)
{
    zc_status status;
    char out[EACH], *b;
    CHECK_OK(zc_open("mpi", NULL, &comm));
    char *first = ALLOC(EACH);
    CHECK_OK(zc_irecv(first, EACH, 0, 0, comm));
    b = ALLOC(PENDING * EACH);
    for (int i = 1; i < PENDING; i++)
        CHECK_OK(zc_irecv(b + (size_t)i * EACH, EACH, 0, i, comm));
    struct op *op = op_of(slot_at(first)->receives);
    memset(out, 7, EACH);
    CHECK_OK(zc_send(out, EACH, 0, 0, comm));
    while (!op->hold.landed)
        CHECK_OK(zc_progress(comm));
    /* Now the last one has the place of the first; it is over, too, and nobody has looked. */
    CHECK_OK(zc_send(out, EACH, 0, PENDING - 1, comm));
    mpi_transport.poll(&comm->endpoint, op);
    CHECK(op->status.tag == 0);
    CHECK_OK(zc_wait(b + (size_t)(PENDING - 1) * EACH, &status));
    CHECK(status.tag == PENDING - 1);
    CHECK_OK(zc_wait(first, &status));
    CHECK(status.tag == 0);
    CHECK_OK(zc_close(comm));
}

/* A receive may leave room for more than MPI's counts can say. */
Test(mpi, receives_of_almost_no_limit)
{
    char out[EACH], in[EACH];
    CHECK_OK(zc_open("mpi", NULL, &comm));
    for (int shift = 0; shift < 3; shift++) {
        zc_status status;
        memset(out, shift, EACH);
        CHECK_OK(zc_send(out, EACH, 0, shift, comm));
        CHECK_OK(zc_recv(in, PTRDIFF_MAX >> shift, 0, shift, comm, &status));
        CHECK(status.length == EACH);
        CHECK_BYTES(in, EACH, (unsigned char)shift);
    }
    CHECK_OK(zc_close(comm));
}

/* A message to oneself is over when it is received, which is after the poll of the zc_send that posted it: each poll
 * finds one that is not over yet, and must come back to it. */
Test(mpi, old_sends_are_looked_at_however_many_follow)
{
    char bytes[EACH] = {0};
    CHECK_OK(zc_open("mpi", NULL, &comm));
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_OK(zc_send(bytes, EACH, 0, 1, comm));
        CHECK_OK(zc_recv(bytes, EACH, 0, 1, comm, NULL));
    }
    CHECK(atomic_load(&comm->sending) < PENDING);
    CHECK_OK(zc_close(comm));
}

static _Atomic int step;

/* Takes what the other thread's probe saw; then, while that one waits for a message that is not there, does what must
 * not wait for it. */
static void *take_what_was_seen(void *unused)
{
    (void)unused;
    char in[EACH];
    CHECK_OK(zc_recv(in, EACH, 0, 1, comm, NULL));
    CHECK_BYTES(in, EACH, 1);
    atomic_store(&step, 1);
    while (atomic_load(&step) == 1)
        sched_yield();
    usleep(20000);
    memset(in, 2, EACH);
    CHECK_OK(zc_send(in, EACH, 0, 2, comm));
    CHECK_OK(zc_recv(in, EACH, 0, 2, comm, NULL));
    memset(in, 3, EACH);
    CHECK_OK(zc_send(in, EACH, 0, 1, comm));
    return NULL;
}

Test(mpi, a_message_that_was_seen_and_taken_by_another_thread)
{
    char in[EACH];
    zc_status status;
    CHECK_OK(zc_open("mpi", NULL, &comm));
    memset(in, 1, EACH);
    CHECK_OK(zc_send(in, EACH, 0, 1, comm));
    CHECK_OK(zc_probe(0, 1, comm, &status));
    atomic_store(&step, 0);
    pthread_t other = thread_start(take_what_was_seen, NULL);
    while (!atomic_load(&step))
        sched_yield();
    atomic_store(&step, 2);
    CHECK_OK(zc_recv(in, EACH, 0, 1, comm, &status));
    CHECK_BYTES(in, EACH, 3);
    thread_join(other);
    CHECK_OK(zc_close(comm));
}

/* Of an endpoint that is closed, whose memory is another's now. */
Test(mpi, a_message_that_was_seen_elsewhere)
{
    const struct address address = {.scheme = "mpi", .name = ""};
    MPI_Comm self = MPI_COMM_SELF;
    MPI_Request sent;
    struct endpoint endpoint;
    zc_status status;
    char in[EACH];
    CHECK_OK(zc_open("mpi", NULL, &comm));
    CHECK_OK(mpi_open(&address, &self, &endpoint));
    MPI_Isend(in, EACH, MPI_BYTE, 0, 1, ((struct mpi *)endpoint.state)->comm, &sent);
    while (!mpi_probe(&endpoint, 0, 1, &status))
        sched_yield();
    mpi_close(&endpoint);
    MPI_Wait(&sent, MPI_STATUS_IGNORE);
    CHECK_OK(mpi_open(&address, &self, &endpoint));
    CHECK_IS(mpi_receive_now(&endpoint, in, EACH, 0, 1, &status), -EAGAIN);
    mpi_close(&endpoint);
    CHECK_OK(zc_close(comm));
}

static int refuse(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, struct taken *taken)
{
    (void)endpoint, (void)op, (void)wire, (void)cap, (void)taken;
    return -ENOMEM;
}

/* A message that is lost because there is no memory is over for its sender as well. */
Test(mpi, a_message_that_cannot_be_received)
{
    enum { BIG = 1000000 };
    struct transport refusing = mpi_transport;
    char *out = ALLOC(BIG);
    void *in = NULL;
    CHECK_OK(zc_open("mpi", NULL, &comm));
    CHECK_OK(zc_send(out, BIG, 0, 1, comm));
    refusing.receive_taken = refuse;
    comm->transport = &refusing;
    CHECK_IS(zc_recv_alloc(&in, 0, 1, comm, NULL), -ENOMEM);
    comm->transport = &mpi_transport;
    CHECK(!in);
    CHECK_OK(zc_flush(comm));
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_close(comm));
}

static void *use_and_end(void *unused)
{
    (void)unused;
    char bytes[EACH] = {0};
    CHECK_OK(zc_send(bytes, EACH, 0, 0, comm));
    CHECK_OK(zc_recv(bytes, EACH, 0, 0, comm, NULL));
    CHECK_OK(zc_flush(comm));
    return NULL;
}

/* The operation that a thread keeps for its next call comes back when it ends. */
Test(mpi, operations_of_threads_that_end)
{
    CHECK_OK(zc_open("mpi", NULL, &comm));
    for (int i = 0; i < 3; i++) {
        thread_join(thread_start(use_and_end, NULL));
        CHECK(comm->free_ops && !comm->free_ops->next);
    }
    CHECK_OK(zc_close(comm));
}

/* It is told as what it is, of whom it was asked for. */
Test(mpi, a_receive_that_fails)
{
    zc_status status;
    CHECK_OK(zc_open("mpi", NULL, &comm));
    char *b = ALLOC(EACH);
    CHECK_OK(zc_irecv(b, EACH, 0, 5, comm));
    fails = true;
    CHECK_OK(zc_progress(comm));
    CHECK(!fails);
    CHECK_FAILS(zc_wait(b, &status), -EIO, "from rank 0 with tag 5");
    CHECK(status.source == 0 && status.tag == 5);
    CHECK_OK(zc_close(comm));
}
