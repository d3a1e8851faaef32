/* SPDX-License-Identifier: MIT
 *
 * Calls that are refused, and others whose ends are rare, keep nothing however often they are made: no memory, no slot,
 * no buffer. */
#include <malloc.h>
#include <sys/syscall.h>

#include "alloc/heap.h"
#include "apart.h"
#include "interpose.h"
#include "invariants.h"
#include "pools.h"
#include "transport/comm.h"

enum { LENGTH = 4 * PAGE, TIMES = 1000, BEFORE = 100 /* until what is kept for later calls is there */ };

static bool no_pages; /* for new slots */

static long on_syscall(long number, const long a[6])
{
    if (no_pages && number == SYS_madvise && a[2] == MADV_POPULATE_WRITE) {
        errno = ENOMEM;
        return -1;
    }
    return real_syscall(number, a);
}

/* From now on there is no slot for what the pool has not claimed yet. */
static void use_up(struct zc_pool *pool)
{
    no_pages = true;
    while (pool_claim(pool) == 0)
        ;
}

static zc_comm *comm;
static char *b;

/* ---- scenes, and the calls that are made in them ---- */

static void nothing(void) {}

static void receive(void)
{
    CHECK_OK(zc_irecv(b, LENGTH, 0, 9, comm));
}

static void receive_beside_a_send(void)
{
    CHECK_OK(zc_send(b, LENGTH, 0, 8, comm));
    CHECK_OK(zc_irecv(b, LENGTH, 0, 9, comm));
    CHECK(slot_at(b)->receives->bounce);
}

static int receive_never(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, int src, int tag)
{
    (void)endpoint, (void)op, (void)wire, (void)cap, (void)src, (void)tag;
    return fail(-EIO, "the transport is gone");
}

static void no_transport(void)
{
    static struct transport gone;
    gone = *comm->transport;
    gone.receive = receive_never;
    comm->transport = &gone;
}

static void no_slots_for_copies(void)
{
    use_up(heap_pool(LENGTH, 1));
}

static void recv_alloc_fails(void)
{
    void *in = &in;
    loop_fail(comm, 1, -EIO);
    post_pattern(comm, 1, LENGTH, 2);
    CHECK_IS(zc_recv_alloc(&in, 0, 1, comm, NULL), -EIO);
    CHECK(in == &in);
}

static void realloc_fails(void)
{
    fail_receive(comm, b);
    CHECK(!zc_realloc(b, 2 * LENGTH) && errno == EIO);
    CHECK_IS(zc_wait(b, NULL), -EIO);
}

static void send_fails(void)
{
    fail_receive(comm, b);
    CHECK_IS(zc_send(b, LENGTH, 0, 2, comm), -EIO);
    CHECK_IS(zc_wait(b, NULL), -EIO);
}

static void irecv_fails(void)
{
    CHECK_IS(zc_irecv(b, LENGTH, 0, 1, comm), -EIO);
    CHECK(kernel_writes(b));
}

static void irecv_is_refused(void)
{
    CHECK_IS(zc_irecv(b, LENGTH, 0, 1, comm), -EBUSY);
}

static void guard_is_refused(void)
{
    struct zc_guard guard;
    CHECK_IS(zc_guard(b, LENGTH, ZC_DENY_STORES, &guard), -EBUSY);
    CHECK_IS(zc_guard(b, LENGTH, ZC_DENY_ALL, &guard), -EBUSY);
}

/* Nobody waits for it: the next one takes its place. */
static void irecv_is_touched(void)
{
    CHECK_OK(zc_irecv(b, LENGTH, 0, 1, comm));
    post_pattern(comm, 1, LENGTH, 2);
    CHECK_OK(zc_progress(comm));
    load(b);
}

static void send_is_copied(void)
{
    char in[LENGTH];
    post_pattern(comm, 1, LENGTH, 2);
    CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
    CHECK_PATTERN(in, sizeof in, 2);
}

static const struct row {
    const char *name;
    void (*begin)(void), (*call)(void);
} rows[] = {{"zc_recv_alloc that fails", nothing, recv_alloc_fails},
            {"zc_realloc of what was not received", nothing, realloc_fails},
            {"zc_send of what was not received", nothing, send_fails},
            {"zc_irecv that the transport refuses", no_transport, irecv_fails},
            {"zc_irecv into what is being received into", receive, irecv_is_refused},
            {"zc_irecv into what is being received into beside a send", receive_beside_a_send, irecv_is_refused},
            {"zc_guard of what is being received into", receive, guard_is_refused},
            {"zc_irecv that is touched only", nothing, irecv_is_touched},
            {"zc_send of a copy that no slot is there for", no_slots_for_copies, send_is_copied}};

/* ---- what is kept ---- */

struct kept {
    size_t heap, slots, used;
    uint64_t buffers;
};

static struct kept kept_now(void)
{
    zc_stats stats = stats_now();
    zc_pool_stats own = stats_of(slot_pool(slot_at(b))), copies = stats_of(heap_pool(LENGTH, 1));
    return (struct kept){.heap = mallinfo2().uordblks,
                         .slots = own.slots + copies.slots,
                         .used = own.live + own.in_flight + copies.live + copies.in_flight,
                         .buffers = stats.allocs - stats.frees};
}

static void make_often(const void *argument)
{
    const struct row *row = argument;
    check_scene = row->name;
    comm = loop_strict();
    b = buffer(LENGTH / PAGE, 1);
    row->begin();
    for (int i = 0; i < BEFORE; i++)
        row->call();
    struct kept before = kept_now();
    for (int i = 0; i < TIMES; i++)
        row->call();
    struct kept after = kept_now();
    CHECKF(memcmp(&before, &after, sizeof before) == 0,
           "kept: %zu bytes, then %zu; %zu slots, then %zu; %zu of them used, then %zu; %zu buffers, then %zu",
           before.heap, after.heap, before.slots, after.slots, before.used, after.used, (size_t)before.buffers,
           (size_t)after.buffers);
}

/* What lands beside a send needs a slot of its own: without one it must not land in the message. */
Test(refused, a_receive_beside_a_send_without_a_slot)
{
    comm = loop_strict();
    b = buffer(LENGTH / PAGE, 1);
    CHECK_OK(zc_send(b, LENGTH, 0, 1, comm));
    use_up(slot_pool(slot_at(b)));
    CHECK_FAILS(zc_irecv(b, LENGTH, 0, 2, comm), -ENOMEM, "no spare slot");
    no_pages = false;
    CHECK_PAGES(b, "rrrr");
    CHECK_OK(zc_irecv(b, LENGTH, 0, 2, comm));
    post_pattern(comm, 2, LENGTH, 2);
    CHECK_MESSAGE(comm, 1, 0, LENGTH, 1);
    CHECK_OK(zc_wait(b, NULL));
    CHECK_PATTERN(b, LENGTH, 2);
    CHECK_OK(zc_close(comm));
}

/* A receive that is refused takes nobody's place: what was to be told of an earlier one still is. */
Test(refused, a_receive_without_a_slot_leaves_what_landed)
{
    zc_status status;
    comm = loop_strict();
    b = buffer(LENGTH / PAGE, 1);
    CHECK_OK(zc_send(b, PAGE, 0, 9, comm));
    fail_receive(comm, b);
    CHECK_OK(zc_irecv(b + 2 * PAGE, 100, 0, 2, comm));
    post_pattern(comm, 2, 100, 3);
    CHECK_OK(zc_progress(comm));
    use_up(slot_pool(slot_at(b)));
    CHECK_FAILS(zc_irecv(b, LENGTH, 0, 4, comm), -ENOMEM, "no spare slot");
    no_pages = false;
    CHECK(page_shown(b) == '-');
    CHECK_IS(zc_wait(b, NULL), -EIO);
    CHECK_OK(zc_wait(b + 2 * PAGE, &status));
    CHECK(status.length == 100 && status.tag == 2);
    CHECK_MESSAGE(comm, 9, 0, PAGE, 1);
    CHECK(zc_flush(comm) == -EIO);
    CHECK_OK(zc_close(comm));
}

static uint64_t sends_of_any_kind(const zc_stats *stats)
{
    return stats->sends_empty + stats->sends_inline + stats->sends_protected + stats->sends_free + stats->sends_copied;
}

static int send_never(struct endpoint *endpoint, struct op *op, const void *wire, size_t length, int dst, int tag)
{
    (void)endpoint, (void)op, (void)wire, (void)length, (void)dst, (void)tag;
    return fail(-EIO, "the transport is gone");
}

/* Of what is likely to be taken at once: where the transport fails, and where the one send waits that nothing is left
 * for. */
Test(refused, each_send_is_of_a_kind)
{
    struct transport gone = loop_transport;
    gone.send = send_never;
    comm = loop_strict();
    comm->endpoint.eager = LENGTH;
    b = buffer(LENGTH / PAGE, 1);
    char *in = buffer(LENGTH / PAGE, 2);
    zc_stats before = stats_now();
    comm->transport = &gone;
    CHECK_IS(zc_send(b, LENGTH, 0, 1, comm), -EIO);
    comm->transport = &loop_transport;
    zc_stats after = stats_now();
    CHECK(sends_of_any_kind(&after) - sends_of_any_kind(&before) == after.sends - before.sends);

    CHECK_OK(zc_irecv(in, LENGTH, 0, 1, comm));
    use_up(slot_pool(slot_at(b)));
    CHECK_OK(zc_send(b, LENGTH, 0, 1, comm));
    after = stats_now();
    CHECK(after.sends_inline > before.sends_inline);
    CHECK(sends_of_any_kind(&after) - sends_of_any_kind(&before) == after.sends - before.sends);
    CHECK_OK(zc_wait(in, NULL));
    CHECK_PATTERN(in, LENGTH, 1);
    CHECK_OK(zc_close(comm));
}

/* Of a communicator that is closed, its own memory stays, so that it is known; that of its operations does not. */
static void close_often(const void *unused)
{
    enum { TURNS = 20, IN_FLIGHT = 100 };
    char bytes[100] = {0};
    size_t before = 0;
    (void)unused;
    for (int turn = 0; turn <= TURNS; turn++) {
        zc_comm *closed = loop_strict();
        for (int i = 0; i < IN_FLIGHT; i++)
            CHECK_OK(zc_send(bytes, sizeof bytes, 0, 1, closed));
        for (int i = 0; i < IN_FLIGHT; i++)
            CHECK_OK(zc_recv(bytes, sizeof bytes, 0, 1, closed, NULL));
        CHECK_OK(zc_close(closed));
        if (turn == 0)
            before = mallinfo2().uordblks;
    }
    size_t kept = mallinfo2().uordblks - before;
    CHECKF(kept <= TURNS * 2 * sizeof(struct zc_comm), "%zu bytes are kept of %d", kept, TURNS);
}

Test(refused, operations_end_with_their_communicator)
{
    apart(close_often, NULL);
}

Test(refused, calls_keep_nothing)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        apart(make_often, &rows[i]);
}
