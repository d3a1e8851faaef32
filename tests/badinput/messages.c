/* SPDX-License-Identifier: MIT
 *
 * Bad arguments of communicators, messages and completion: each is an error that names it, outputs are left
 * alone, and nothing is sent or lost. */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "pattern.h"
#include "ranks.h"
#include "transport/comm.h"
#include "transport/loop.h"

TestSuite(messages, .timeout = 60);

static zc_comm *open_loop(void)
{
    zc_comm *comm = NULL;

    CHECK_OK(zc_open("loop", NULL, &comm));
    return comm;
}

/* Nothing has been sent by mistake, and what is sent now arrives. */
static void expect_sound(zc_comm *comm)
{
    int found = -1;
    char *p = ALLOC(30000);

    CHECK_OK(zc_iprobe(ZC_ANY_SOURCE, ZC_ANY_TAG, comm, &found, NULL));
    CHECK(found == 0);
    pattern_fill(p, 30000, 1);
    CHECK_OK(zc_send(p, 30000, 0, 3, comm));
    memset(p, 0, 30000);
    CHECK_OK(zc_recv(p, 30000, 0, 3, comm, NULL));
    CHECK_PATTERN(p, 30000, 1);
    CHECK_OK(zc_free(p));
}

Test(messages, send)
{
    zc_comm *comm = open_loop();
    char *p = ALLOC(20000), local[100] = {0};
    size_t usable = zc_usable_size(p);

    memset(p, 1, 20000);
    CHECK_FAILS(zc_send(p, 10, 4711, 1, comm), -EINVAL, "4711");
    CHECK_FAILS(zc_send(p, 10, 1, 1, comm), -EINVAL, "1");
    CHECK_FAILS(zc_send(p, 10, ZC_ANY_SOURCE, 1, comm), -EINVAL, "expected 0..0");
    CHECK_FAILS(zc_send(p, 10, INT_MIN, 1, comm), -EINVAL, "-2147483648");
    CHECK_FAILS(zc_send(p, 10, 0, -5, comm), -EINVAL, "-5");
    CHECK_FAILS(zc_send(p, 10, 0, ZC_ANY_TAG, comm), -EINVAL, "-1");
    CHECK_IS(zc_send(p, usable + 1, 0, 1, comm), -EINVAL);
    CHECK_IS(zc_send(p + 5000, usable - 4999, 0, 1, comm), -EINVAL);
    CHECK_IS(zc_send(p + 1, SIZE_MAX, 0, 1, comm), -EINVAL);
    CHECK_FAILS(zc_send(NULL, 77, 0, 1, comm), -EINVAL, "77");
    CHECK_IS(zc_send(local, 10, 4711, 1, comm), -EINVAL);
    int error = zc_send(local, SIZE_MAX / 2, 0, 1, comm);
    CHECKF(error == -ENOMEM || error == -EINVAL, "%d", error);
    CHECK_FAILS(zc_send(local, SIZE_MAX, 0, 1, comm), -EINVAL, "18446744073709551615 bytes");
    CHECK_FAILS(zc_write(p, local, SIZE_MAX), -EINVAL, "18446744073709551615 bytes");
    CHECK_FAILS(zc_sendrecv(p, 10, 0, 2, local, SIZE_MAX, 0, 1, comm, NULL), -EINVAL, "18446744073709551615 bytes");
    memset(p, 2, 20000);
    CHECK_OK(zc_free(p));
    CHECK_IS(zc_send(p, 10, 0, 1, comm), -EINVAL);
    expect_sound(comm);
    CHECK_OK(zc_close(comm));
}

Test(messages, send_free)
{
    zc_comm *comm = open_loop();
    char *p = ALLOC(20000), local[100] = {0}, *other = malloc(100);

    memset(p, 1, 20000);
    CHECK_IS(zc_send_free(p + 8, 10, 0, 1, comm), -EINVAL);
    CHECK_IS(zc_send_free(local, 10, 0, 1, comm), -EINVAL);
    CHECK_IS(zc_send_free(other, 10, 0, 1, comm), -EINVAL);
    CHECK_IS(zc_send_free(NULL, 0, 0, 1, comm), -EINVAL);
    CHECK_FAILS(zc_send_free(p, 10, 4711, 1, comm), -EINVAL, "4711");
    CHECK_FAILS(zc_send_free(p, 10, 0, -9, comm), -EINVAL, "-9");
    CHECK_IS(zc_send_free(p, zc_usable_size(p) + 1, 0, 1, comm), -EINVAL);
    /* It is still the caller's. */
    CHECK_BYTES(p, 20000, 1);
    CHECK_OK(zc_send_free(p, 0, 0, 1, comm));
    CHECK_IS(zc_send_free(p, 10, 0, 1, comm), -EINVAL);
    CHECK_IS(zc_free(p), -EINVAL);
    CHECK_OK(zc_recv(NULL, 0, 0, 1, comm, NULL));
    free(other);
    expect_sound(comm);
    CHECK_OK(zc_close(comm));
}

Test(messages, receive)
{
    zc_comm *comm = open_loop();
    char *p = ALLOC(20000), *foreign = malloc(100);
    size_t usable = zc_usable_size(p);
    zc_status status, before;
    void *got = foreign;

    memset(&status, 0x3a, sizeof status);
    before = status;
    /* There is a message, which none of these may take. */
    CHECK_OK(zc_send("hello", 6, 0, 1, comm));
    CHECK_FAILS(zc_recv(p, 10, 4711, 1, comm, &status), -EINVAL, "4711");
    CHECK_FAILS(zc_recv(p, 10, -2, 1, comm, &status), -EINVAL, "rank -2, expected 0..0 or ZC_ANY_SOURCE (MPI's");
    CHECK_FAILS(zc_recv(p, 10, 0, -7, comm, &status), -EINVAL, "-7");
    CHECK_IS(zc_recv(p, usable + 1, 0, 1, comm, &status), -EINVAL);
    CHECK_IS(zc_recv(p + usable - 1, 2, 0, 1, comm, &status), -EINVAL);
    CHECK_FAILS(zc_recv(NULL, 88, 0, 1, comm, &status), -EINVAL, "88");
    CHECK_FAILS(zc_recv(foreign, SIZE_MAX, 0, 1, comm, &status), -EINVAL, "18446744073709551615 bytes");
    CHECK_FAILS(zc_recv((void *)-4096, 5000, 0, 1, comm, &status), -EINVAL, "5000 bytes");
    CHECK_FAILS(zc_recv_alloc(&got, 4711, 1, comm, &status), -EINVAL, "4711");
    CHECK_FAILS(zc_recv_alloc(&got, 0, -7, comm, &status), -EINVAL, "-7");
    CHECK_IS(zc_recv_alloc(NULL, 0, 1, comm, &status), -EINVAL);
    CHECK_FAILS(zc_irecv(p, 10, 4711, 1, comm), -EINVAL, "4711");
    CHECK_FAILS(zc_irecv(p, 10, 0, -7, comm), -EINVAL, "-7");
    CHECK_IS(zc_irecv(p, usable + 1, 0, 1, comm), -EINVAL);
    CHECK_IS(zc_irecv(p + 100, usable, 0, 1, comm), -EINVAL);
    CHECK_FAILS(zc_irecv(foreign, 100, 0, 1, comm), -EINVAL, "zc memory");
    CHECK_IS(zc_irecv(NULL, 10, 0, 1, comm), -EINVAL);
    CHECK_FAILS(zc_sendrecv(p, 10, 4711, 2, p, 10, 0, 1, comm, &status), -EINVAL, "4711");
    CHECK_FAILS(zc_probe(4711, 1, comm, &status), -EINVAL, "zc_probe: rank 4711");
    CHECK_FAILS(zc_probe(0, -7, comm, &status), -EINVAL, "-7");
    int found = 55;
    CHECK_FAILS(zc_iprobe(4711, 1, comm, &found, &status), -EINVAL, "4711");
    CHECK_IS(zc_iprobe(0, 1, comm, NULL, &status), -EINVAL);
    CHECK(memcmp(&status, &before, sizeof status) == 0 && got == foreign && found == 55);
    CHECK_OK(zc_recv(p, 10, 0, 1, comm, &status));
    CHECK(status.length == 6 && memcmp(p, "hello", 6) == 0);
    CHECK_OK(zc_free(p));
    CHECK_IS(zc_recv(p, 10, 0, 1, comm, &status), -EINVAL);
    CHECK_IS(zc_irecv(p, 10, 0, 1, comm), -EINVAL);
    free(foreign);
    expect_sound(comm);
    CHECK_OK(zc_close(comm));
}

Test(messages, completion)
{
    zc_comm *comm = open_loop();
    char *p = ALLOC(20000), local[100];
    const void *list[2] = {p, local};
    int done = 44, index = 45;

    CHECK_FAILS(zc_wait(local, NULL), -EINVAL, "zc memory");
    CHECK_IS(zc_wait(NULL, NULL), -EINVAL);
    CHECK_IS(zc_test(local, &done, NULL), -EINVAL);
    CHECK_IS(zc_test(p, NULL, NULL), -EINVAL);
    CHECK_IS(zc_cancel(local), -EINVAL);
    CHECK_IS(zc_cancel(p), -ENOENT);
    CHECK_FAILS(zc_wait_any(0, list, &index, NULL), -EINVAL, "0");
    CHECK_FAILS(zc_wait_any(-3, list, &index, NULL), -EINVAL, "-3");
    CHECK_IS(zc_wait_any(1, NULL, &index, NULL), -EINVAL);
    CHECK_IS(zc_wait_any(1, list, NULL, NULL), -EINVAL);
    CHECK_IS(zc_wait_any(2, list, &index, NULL), -EINVAL);
    CHECK(done == 44 && index == 45);
    CHECK_OK(zc_wait_any(1, list, &index, NULL));
    CHECK(index == 0);
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_close(comm));
}

Test(messages, no_communicator)
{
    char *p = ALLOC(20000);
    void *got = p;
    int found = 3;
    zc_view view = {.data = p, .length = 10};

    CHECK_FAILS(zc_send(p, 10, 0, 1, NULL), -EINVAL, "zc_send: the communicator is NULL");
    CHECK_FAILS(zc_send_free(p, 10, 0, 1, NULL), -EINVAL, "zc_send_free: the communicator is NULL");
    CHECK_FAILS(zc_recv(p, 10, 0, 1, NULL, NULL), -EINVAL, "zc_recv: the communicator is NULL");
    CHECK_FAILS(zc_recv_alloc(&got, 0, 1, NULL, NULL), -EINVAL, "zc_recv_alloc: the communicator is NULL");
    CHECK_FAILS(zc_irecv(p, 10, 0, 1, NULL), -EINVAL, "zc_irecv: the communicator is NULL");
    CHECK_FAILS(zc_recv_view(&view, 0, 1, NULL), -EINVAL, "zc_recv_view: the communicator is NULL");
    CHECK_FAILS(zc_forward(&view, 0, 1, NULL), -EINVAL, "zc_forward: the communicator is NULL");
    CHECK_FAILS(zc_fd(NULL), -EINVAL, "zc_fd: the communicator is NULL");
    CHECK_FAILS(zc_sendrecv(p, 10, 0, 1, p, 10, 0, 1, NULL, NULL), -EINVAL, "zc_sendrecv: the communicator is NULL");
    CHECK_FAILS(zc_flush(NULL), -EINVAL, "zc_flush: the communicator is NULL");
    CHECK_FAILS(zc_progress(NULL), -EINVAL, "zc_progress: the communicator is NULL");
    CHECK_FAILS(zc_probe(0, 1, NULL, NULL), -EINVAL, "zc_probe: the communicator is NULL");
    CHECK_FAILS(zc_iprobe(0, 1, NULL, &found, NULL), -EINVAL, "zc_iprobe: the communicator is NULL");
    CHECK_FAILS(zc_set_error_handler(NULL, NULL, NULL), -EINVAL, "zc_set_error_handler: the communicator is NULL");
    CHECK_FAILS(zc_rank(NULL), -EBADF, "zc_rank: the communicator is NULL");
    CHECK_FAILS(zc_size(NULL), -EBADF, "zc_size: the communicator is NULL");
    CHECK(got == p && found == 3 && view.data == p && view.length == 10);
    CHECK_OK(zc_close(NULL));
    CHECK_OK(zc_free(p)); /* not given up */
}

Test(messages, use_after_close)
{
    zc_comm *comm = open_loop();
    char *p = ALLOC(20000);
    void *got = p;
    int found = 3;
    zc_view view = {.data = p, .length = 10};

    CHECK_OK(zc_close(comm));
    CHECK_IS(zc_recv_view(&view, 0, 1, comm), -EBADF);
    CHECK_IS(zc_forward(&view, 0, 1, comm), -EBADF);
    CHECK(view.data == p && view.length == 10);
    CHECK_IS(zc_fd(comm), -EBADF);
    CHECK_IS(zc_send(p, 10, 0, 1, comm), -EBADF);
    CHECK_IS(zc_send(p, 0, 0, 1, comm), -EBADF);
    CHECK_IS(zc_send_free(p, 10, 0, 1, comm), -EBADF);
    CHECK_IS(zc_recv(p, 10, 0, 1, comm, NULL), -EBADF);
    CHECK_IS(zc_recv_alloc(&got, 0, 1, comm, NULL), -EBADF);
    CHECK_IS(zc_irecv(p, 10, 0, 1, comm), -EBADF);
    CHECK_IS(zc_sendrecv(p, 10, 0, 1, p, 10, 0, 1, comm, NULL), -EBADF);
    CHECK_IS(zc_flush(comm), -EBADF);
    CHECK_IS(zc_progress(comm), -EBADF);
    CHECK_IS(zc_probe(0, 1, comm, NULL), -EBADF);
    CHECK_IS(zc_iprobe(0, 1, comm, &found, NULL), -EBADF);
    CHECK_IS(zc_set_error_handler(comm, NULL, NULL), -EBADF);
    CHECK_IS(zc_rank(comm), -EBADF);
    CHECK_IS(zc_size(comm), -EBADF);
    CHECK_IS(zc_close(comm), -EBADF);
    CHECK(strstr(zc_errmsg(), "zc_close: the communicator is closed") && got == p && found == 3);
    CHECK_OK(zc_free(p));
    /* A new one is not taken for the old one. */
    zc_comm *next = open_loop();
    expect_sound(next);
    CHECK_OK(zc_close(next));
}

Test(messages, addresses)
{
    static const struct {
        const char *address;
        int error;
        const char *names;
    } bad[] = {
        {"", -EINVAL, ""},
        {"nonsense", -EINVAL, "nonsense"},
        {"foo:bar", -EINVAL, "foo"},
        {"Loop", -EINVAL, "Loop"},
        {"shm:", -EINVAL, "name"},
        {"shm:a/b", -EINVAL, "a/b"},
        {"shm:.hidden", -EINVAL, ".hidden"},
        {"shm:x?size=257", -EINVAL, "257"},
        {"shm:x?rank=2&size=2", -EINVAL, "rank"},
        {"shm:x?root=y", -EINVAL, "root"},
#if ZC_WITH_VERBS /* no test of this suite runs where there is a device */
        {"verbs:x?rank=0&size=1", -ENODEV, "RDMA device"},
        {"verbs:", -ENODEV, "RDMA device"},
#else
        {"verbs:x?rank=0&size=1", -ENOTSUP, "verbs"},
#endif
        {"loop:a?rank=2&size=2", -EINVAL, "rank=2"},
        {"loop:a?rank=-1&size=2", -EINVAL, "rank=-1"},
        {"loop:a?rank=x&size=2", -EINVAL, "rank=x"},
        {"loop:a?rank=0&size=0", -EINVAL, "size=0"},
        {"loop:a?rank=0&size=-4", -EINVAL, "size=-4"},
        {"loop:a?rank=0&size=2x", -EINVAL, "size=2x"},
        {"loop:a?rank=0&size=99999999999999999999", -EINVAL, "size="},
        {"loop:a?rank=0&size=1&colour=red", -EINVAL, "colour"},
        {"loop:a?rank", -EINVAL, "rank"},
        {"loop:a?=3", -EINVAL, "=3"},
        {"loop:a?rank=0&&size=1", -EINVAL, "loop"},
        {"loop:?rank=0&size=2", -EINVAL, "name"},
        {"mpi:x", -EINVAL, "mpi"},
        {"mpi?rank=0", -EINVAL, "mpi"},
    };
    char long_one[10000] = "loop:";
    zc_comm *untouched = (zc_comm *)long_one, *comm = untouched;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        check_scene = bad[i].address;
        CHECK_FAILS(zc_open(bad[i].address, NULL, &comm), bad[i].error, bad[i].names);
    }
    CHECK_IS(zc_open(NULL, NULL, &comm), -EINVAL);
    memset(long_one + 5, 'n', sizeof long_one - 6);
    CHECK_IS(zc_open(long_one, NULL, &comm), -EINVAL);
    CHECK_IS(zc_open("loop", NULL, NULL), -EINVAL);
    CHECK(comm == untouched);
}

Test(messages, options)
{
    static const char *const names[] = {"conflict", "on_conflict", "policy", "release", "progress", "on_timeout"};
    zc_comm *comm = NULL;
    zc_options good = ZC_OPTIONS_INIT;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (int value = -1; value < 100; value += 88) { /* -1 and 87 */
            zc_options o = good;
            int *field[] = {(int *)&o.conflict, (int *)&o.on_conflict, (int *)&o.policy,
                            (int *)&o.release,  (int *)&o.progress,    (int *)&o.on_timeout};

            *field[i] = value;
            check_scene = names[i];
            CHECK_FAILS(zc_open("loop", &o, &comm), -EINVAL, names[i]);
            CHECK_FAILS(zc_open("loop", &o, &comm), -EINVAL, value < 0 ? "-1" : "87");
        }
    check_scene = NULL;
    good.transport = "shm";
    CHECK_FAILS(zc_open("loop", &good, &comm), -EINVAL, "options.transport is \"shm\"");
    good.transport = NULL;
    good.size = 0;
    CHECK_FAILS(zc_open("loop", &good, &comm), -EINVAL, "ZC_OPTIONS_INIT");
    good.size = (size_t)-1;
    CHECK_FAILS(zc_open("loop", &good, &comm), -EINVAL, "ZC_OPTIONS_INIT");
    CHECK(!comm);
}

/* Options of other versions: shorter ones leave out what they lack, longer ones may set nothing that is not known. */
Test(messages, options_of_other_versions)
{
    struct {
        zc_options known;
        int later[2];
    } longer = {.known = ZC_OPTIONS_INIT};
    zc_options shorter = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL, *closed;

    shorter.size = offsetof(zc_options, policy);
    shorter.conflict = ZC_CONFLICT_COPY;
    shorter.policy = (enum zc_policy)99;
    memset(&shorter.max_in_flight, 0xee, sizeof shorter - offsetof(zc_options, max_in_flight));
    CHECK_OK(zc_open("loop", &shorter, &comm));
    CHECK(comm->rules.conflict == ZC_CONFLICT_COPY && comm->rules.policy == ZC_POLICY_AUTO && !comm->max_in_flight);
    CHECK_OK(zc_close(comm));

    longer.known.size = sizeof longer;
    longer.known.max_in_flight = 7;
    CHECK_OK(zc_open("loop", &longer.known, &comm));
    CHECK(comm->max_in_flight == 7);
    CHECK_OK(zc_close(comm));
    closed = comm;
    longer.later[1] = 1;
    CHECK_FAILS(zc_open("loop", &longer.known, &comm), -EINVAL, "is it older?");
    CHECK(comm == closed);
}

struct opener {
    const char *address;
    int result;
    zc_comm *comm;
    atomic_int *done;
};

static void *open_it(void *argument)
{
    struct opener *o = argument;

    o->result = zc_open(o->address, NULL, &o->comm);
    if (o->result)
        atomic_fetch_add(o->done, 1);
    return NULL;
}

/* Of two that want to be the same rank, one is told so while the other waits for the rest. */
static void open_conflicting(const char *a, const char *b, const char *rest, int error)
{
    atomic_int done = 0;
    struct opener opener[] = {{.address = a, .done = &done}, {.address = b, .done = &done}};
    struct opener last = {.address = rest, .done = &done};
    pthread_t thread[2] = {thread_start(open_it, &opener[0]), thread_start(open_it, &opener[1])};

    while (atomic_load(&done) == 0)
        sched_yield();
    int refused = opener[0].result ? 0 : 1;
    CHECK_IS(opener[refused].result, error);
    CHECK(!opener[refused].comm);
    if (rest) {
        open_it(&last);
        CHECK_OK(last.result);
        for (int i = 0; i < 2; i++)
            thread_join(thread[i]);
        CHECK_OK(opener[!refused].result);
        CHECK_OK(zc_close(opener[!refused].comm));
        CHECK_OK(zc_close(last.comm));
    }
}

Test(messages, rank_taken_twice)
{
    open_conflicting("loop:twice?rank=0&size=2", "loop:twice?rank=0&size=2", "loop:twice?rank=1&size=2", -EEXIST);
}

Test(messages, other_size)
{
    open_conflicting("loop:sizes?rank=0&size=2", "loop:sizes?rank=1&size=3", NULL, -EINVAL);
}

struct sender {
    char *buffer;
    zc_comm *comm;
    atomic_bool done;
};

static void *send_it(void *argument)
{
    struct sender *s = argument;

    CHECK_OK(zc_send(s->buffer, 40000, 1, 1, s->comm));
    atomic_store(&s->done, true);
    return NULL;
}

/* More sends in flight than an option allows make zc_send wait, and no more than that. */
Test(messages, max_in_flight)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm[2];
    char *p = ALLOC(40000), *in[4];

    options.policy = ZC_POLICY_PROTECT;
    options.max_in_flight = 4;
    ranks_open(comm, 2, &options);
    loop_hold(comm[1], true);
    for (int i = 0; i < 4; i++) {
        in[i] = ALLOC(40000);
        CHECK_OK(zc_irecv(in[i], 40000, 0, 1, comm[1]));
        memset(p, i, 40000);
        CHECK_OK(zc_send(p, 40000, 1, 1, comm[0])); /* within the bound: none waits */
    }
    struct sender fifth = {.buffer = p, .comm = comm[0]};
    pthread_t thread = thread_start(send_it, &fifth);
    usleep(100000);
    CHECKF(!atomic_load(&fifth.done), "five are in flight");
    CHECK(loop_deliver(comm[1], 1, LOOP_OLDEST_FIRST, 0) == 1);
    thread_join(thread);
    loop_hold(comm[1], false);
    for (int i = 0; i < 4; i++) {
        CHECK_OK(zc_wait(in[i], NULL));
        CHECK_BYTES(in[i], 40000, (unsigned char)i);
    }
    CHECK_OK(zc_recv(in[0], 40000, 0, 1, comm[1], NULL));
    CHECK_BYTES(in[0], 40000, 3);
    for (int i = 0; i < 20; i++) {
        memset(p, i, 40000);
        CHECK_OK(zc_irecv(in[i % 4], 40000, 0, 1, comm[1]));
        CHECK_OK(zc_send(p, 40000, 1, 1, comm[0]));
        CHECK_OK(zc_wait(in[i % 4], NULL));
        CHECK_BYTES(in[i % 4], 40000, (unsigned char)i);
    }
    for (int i = 0; i < 4; i++)
        CHECK_OK(zc_free(in[i]));
    CHECK_OK(zc_free(p));
    ranks_close(comm, 2);
}
