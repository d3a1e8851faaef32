/* SPDX-License-Identifier: MIT
 *
 * mpiexec -n 1|2 mpi_levels CASE: thread levels below MPI_THREAD_MULTIPLE, arguments that only MPI has, and the
 * order of MPI_Init, zc and MPI_Finalize. */
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "check.h"
#include "pattern.h"
#include "ranks.h"
#include "zc_mpi.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BIG ((size_t)3000000)

#if ZC_WITH_VERBS
#define BAD_PARAMETER "verbs:x?port=zz"
#define BAD_PARAMETER_ERROR "verbs: port=zz, expected 1..255"
#else
#define BAD_PARAMETER "shm?wait=0"
#define BAD_PARAMETER_ERROR "shm: wait=0, expected 1..86400"
#endif

static zc_comm *comm;
static int rank, size;

static void start(int level)
{
    zc_options options = ZC_OPTIONS_INIT;
    int provided;

    MPI_Init_thread(NULL, NULL, level, &provided);
    CHECKF(provided == level, "asked for level %d, got %d", level, provided);
    options.policy = ZC_POLICY_PROTECT;
    if (level < MPI_THREAD_MULTIPLE)
        options.conflict = ZC_CONFLICT_WAIT; /* which cannot be had there: stores go on all the same */
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &comm));
    rank = zc_rank(comm);
    size = zc_size(comm);
}

static void finish(void)
{
    CHECK_OK(zc_close(comm));
    MPI_Finalize();
}

/* All that one thread can do: send, overwrite, receive, receive in place, irecv and wait. */
static void exchange(void)
{
    int next = (rank + 1) % size, prev = (rank + size - 1) % size;
    char *buffer = ALLOC(BIG), *in = ALLOC(BIG);

    for (unsigned i = 0; i < 5; i++) {
        pattern_fill(buffer, BIG, (unsigned)rank * 100 + i);
        if (i % 2)
            CHECK_OK(zc_irecv(in, BIG, prev, 1, comm));
        CHECK_OK(zc_send(buffer, BIG, next, 1, comm));
        memset(buffer, 'o', BIG);
        if (i % 2)
            CHECK_OK(zc_wait(in, NULL));
        else
            CHECK_OK(zc_recv(in, BIG, prev, 1, comm, NULL));
        CHECK_PATTERN(in, BIG, (unsigned)prev * 100 + i);
        CHECK_BYTES(buffer, BIG, 'o');
        CHECK_OK(zc_send(buffer, BIG, next, 2, comm));
        CHECK_OK(zc_recv(buffer, BIG, prev, 2, comm, NULL));
        CHECK_OK(zc_writable(buffer));
    }
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
}

/* Every call that would enter MPI. `in` is being received into. */
static void *refused(void *in)
{
    char *buffer = ALLOC(1000);
    const void *list[] = {in, buffer};
    void *got = NULL;
    int found = 55, done = 55, index = 55;

    CHECK_FAILS(zc_send(buffer, 10, 0, 1, comm), -EPERM, "MPI_THREAD");
    CHECK_IS(zc_send_free(buffer, 10, 0, 1, comm), -EPERM);
    CHECK_IS(zc_recv(buffer, 10, 0, 1, comm, NULL), -EPERM);
    CHECK_IS(zc_recv_alloc(&got, 0, 1, comm, NULL), -EPERM);
    CHECK_IS(zc_irecv(buffer, 10, 0, 1, comm), -EPERM);
    CHECK_IS(zc_sendrecv(buffer, 10, 0, 1, buffer, 10, 0, 1, comm, NULL), -EPERM);
    CHECK_IS(zc_probe(0, 1, comm, NULL), -EPERM);
    CHECK_IS(zc_iprobe(0, 1, comm, &found, NULL), -EPERM);
    CHECK_IS(zc_flush(comm), -EPERM);
    CHECK_IS(zc_progress(comm), -EPERM);
    CHECK_IS(zc_close(comm), -EPERM);
    CHECK_FAILS(zc_wait(in, NULL), -EPERM, "zc_wait: MPI was initialised for one thread");
    CHECK_FAILS(zc_wait_any(1, list, &index, NULL), -EPERM, "zc_wait_any: MPI was initialised for one thread");
    CHECK_IS(zc_cancel(in), -EPERM);
    CHECK(!got && found == 55 && index == 55);
    CHECK_OK(zc_test(in, &done, NULL)); /* looks, and lets the other thread do the rest */
    CHECK(done == 0);
    CHECK_OK(zc_wait_any(2, list, &index, NULL)); /* the other one is done */
    CHECK(index == 1);
    CHECK_OK(zc_free(buffer)); /* not given up */
    return NULL;
}

/* But what needs no MPI. */
static void *release_elsewhere(void *view)
{
    zc_view copy = *(zc_view *)view;
    CHECK_FAILS(zc_forward(view, rank, 8, comm), -EPERM, "MPI_THREAD");
    CHECK_OK(zc_release(view));
    CHECK_FAILS(zc_release(&copy), -EINVAL, "released already");
    return NULL;
}

static zc_comm *open_and_send(const char *text)
{
    zc_comm *opened = NULL;

    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, NULL, &opened));
    if (rank == 0)
        CHECK_OK(zc_send(text, 6, 1, 7, opened));
    return opened;
}

/* What nobody has received goes to nobody, however soon MPI gives a communicator's number to another one: of zc's, or
 * of the program's. */
static void close_with_messages(void)
{
    char in[6];
    MPI_Comm own;

    CHECK_OK(zc_close(open_and_send("stale")));
    zc_comm *second = open_and_send("fresh");
    if (rank == 1) {
        CHECK_OK(zc_recv(in, sizeof in, 0, 7, second, NULL));
        CHECKF(strcmp(in, "fresh") == 0, "it is %s", in);
    }
    CHECK_OK(zc_close(second));
    CHECK_OK(zc_close(open_and_send("stale")));
    MPI_Comm_dup(MPI_COMM_WORLD, &own);
    if (rank == 0)
        MPI_Send("other", 6, MPI_BYTE, 1, 7, own);
    if (rank == 1) {
        MPI_Recv(in, 6, MPI_BYTE, 0, 7, own, MPI_STATUS_IGNORE);
        CHECKF(strcmp(in, "other") == 0, "it is %s", in);
    }
    MPI_Comm_free(&own);
}

static void by_one_thread(int level)
{
    start(level);
    exchange();
    char *in = ALLOC(1000);
    CHECK_OK(zc_irecv(in, 1000, rank, 9, comm));
    thread_join(thread_start(refused, in));
    CHECK_OK(zc_send("hello", 6, rank, 9, comm));
    CHECK_OK(zc_wait(in, NULL));
    CHECK(strcmp(in, "hello") == 0);
    CHECK_OK(zc_free(in));
    zc_view view;
    CHECK_OK(zc_send("hello", 6, rank, 8, comm));
    CHECK_OK(zc_recv_view(&view, rank, 8, comm));
    thread_join(thread_start(release_elsewhere, &view));
    exchange();
    close_with_messages();
    finish();
}

static void single(void)
{
    by_one_thread(MPI_THREAD_SINGLE);
}

static void funneled(void)
{
    by_one_thread(MPI_THREAD_FUNNELED);
}

static void *exchange_elsewhere(void *argument)
{
    (void)argument;
    exchange();
    return NULL;
}

/* Any thread, one at a time. */
static void serialized(void)
{
    start(MPI_THREAD_SERIALIZED);
    exchange();
    thread_join(thread_start(exchange_elsewhere, NULL));
    exchange();
    finish();
}

static void multiple(void)
{
    start(MPI_THREAD_MULTIPLE);
    exchange();
    thread_join(thread_start(exchange_elsewhere, NULL));
    close_with_messages();
    finish();
}

/* Nobody can wait for it: an error, which mpi_death.c expects. */
static void touch_below_multiple(void)
{
    start(MPI_THREAD_SINGLE);
    char *in = ALLOC(BIG);

    CHECK_OK(zc_irecv(in, BIG, 0, 1, comm));
    (void)*(volatile char *)in;
    exit(3);
}

static void arguments(void)
{
    zc_comm *untouched = (zc_comm *)&rank, *other = untouched;
    zc_options options = ZC_OPTIONS_INIT;
    char *p = ALLOC(1000);
    int provided, *most, set;

    CHECK_IS(zc_open_mpi(MPI_COMM_WORLD, NULL, &other), -EPERM); /* not before MPI_Init */
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    CHECK_IS(zc_open_mpi(MPI_COMM_NULL, NULL, &other), -EINVAL);
    zc_options transport = ZC_OPTIONS_INIT;
    transport.transport = "loop";
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &transport, &other), -EINVAL, "options.transport is \"loop\"");
    transport.transport = "pigeon";
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &transport, &other), -EINVAL,
                "options.transport is \"pigeon\", expected mpi, shm");
    CHECK_IS(zc_open_mpi(MPI_COMM_WORLD, NULL, NULL), -EINVAL);
    options.policy = (enum zc_policy)77;
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &other), -EINVAL, "77");
    CHECK(other == untouched);
    transport.size = offsetof(zc_options, transport); /* of an older header, which has no such wish */
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &transport, &comm));
    rank = zc_rank(comm);
    size = zc_size(comm);
    CHECK_FAILS(zc_send(p, 10, size, 1, comm), -EINVAL, "rank");
    CHECK_FAILS(zc_send(p, 10, 4711, 1, comm), -EINVAL, "4711");
    CHECK_FAILS(zc_send(p, 10, 0, -3, comm), -EINVAL, "-3");
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &most, &set);
    CHECK(set);
    CHECK_FAILS(zc_send(p, 10, 0, INT_MAX, comm), -EINVAL, "2147483647");
    p[0] = 'p';
    CHECK_OK(zc_send(p, 10, rank, *most, comm));
    /* What MPI says of ranks is nobody here. */
    const int others[] = {MPI_PROC_NULL, MPI_ANY_SOURCE, MPI_ROOT, MPI_UNDEFINED, -1};
    for (size_t i = 0; i < COUNT(others); i++)
        CHECK_FAILS(zc_recv(p, 10, others[i], *most, comm, NULL), -EINVAL, "or ZC_ANY_SOURCE (MPI's constants");
    CHECK_OK(zc_recv(p, 10, rank, *most, comm, NULL));
    CHECK(p[0] == 'p');
    exchange();
    CHECK_OK(zc_close(comm));
    CHECK_IS(zc_send(p, 10, 0, 1, comm), -EBADF);
    MPI_Finalize();
    CHECK_IS(zc_open_mpi(MPI_COMM_WORLD, NULL, &other), -EPERM);
    CHECK_IS(zc_open("mpi", NULL, &other), -EPERM);
    CHECK_OK(zc_free(p));
}

/* Whose ranks are not those of one's own group. What is opened over a half outlives it. */
static void intercommunicator(void)
{
    static const char *const transports[] = {"mpi", "shm", "auto"};
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *untouched = (zc_comm *)&rank, *other = untouched;
    MPI_Comm half, inter;
    int provided, world;

    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world);
    MPI_Comm_split(MPI_COMM_WORLD, world % 2, world, &half);
    MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - world % 2, 7, &inter);
    for (size_t i = 0; i < COUNT(transports); i++) {
        options.transport = transports[i];
        CHECK_FAILS(zc_open_mpi(inter, &options, &other), -EINVAL, "intercommunicator");
        CHECK(other == untouched);
    }
    MPI_Comm_free(&inter);
    CHECK_OK(zc_open_mpi(half, NULL, &comm));
    rank = zc_rank(comm);
    size = zc_size(comm);
    MPI_Comm_free(&half);
    exchange();
    finish();
}

static void no_locked_memory(void)
{
    struct rlimit none = {0, 0};

    CHECK(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
    start(MPI_THREAD_MULTIPLE);
    exchange();
    finish();
}

static void few_mappings(void)
{
    CHECK(setenv("ZC_MAPS", "4", 1) == 0);
    start(MPI_THREAD_MULTIPLE);
    exchange();
    finish();
}

static void bad_transport(void)
{
    int provided;

    CHECK(setenv("ZC_TRANSPORT", "pigeon:post", 1) == 0);
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, NULL, &comm), -EINVAL,
                "ZC_TRANSPORT is \"pigeon:post\", expected mpi, shm, auto or verbs");
    CHECK(!comm);
    MPI_Finalize();
}

/* The address goes the way of zc_open_mpi: over shm there is a descriptor. MPI is initialised, and finalised at
 * exit. */
static void world(void)
{
    zc_options options = ZC_OPTIONS_INIT;

    CHECK(setenv("ZC_TRANSPORT", "shm", 1) == 0);
    options.transport = "pigeon";
    CHECK_FAILS(zc_open("mpi", &options, &comm), -EINVAL, "options.transport is \"pigeon\", expected mpi, shm");
    CHECK_FAILS(zc_open("mpi:x", NULL, &comm), -EINVAL, "mpi takes no name");
    CHECK_OK(zc_open("mpi", NULL, &comm));
    rank = zc_rank(comm);
    size = zc_size(comm);
    CHECK(size == 2 && zc_fd(comm) >= 0);
    exchange();
    CHECK_OK(zc_close(comm));
    options.transport = "mpi";
    CHECK_OK(zc_open("mpi", &options, &comm));
    CHECK_IS(zc_fd(comm), -ENOTSUP);
    exchange();
}

/* What is taken at once is not kept out by what is in flight, for which the receiver may take its time. */
static void small_past_bound(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    int provided;

    options.max_in_flight = 1;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &comm));
    char *buffer = ALLOC(BIG), small[1000];
    if (zc_rank(comm) == 0) {
        pattern_fill(buffer, BIG, 1);
        pattern_fill(small, sizeof small, 2);
        CHECK_OK(zc_send(buffer, BIG, 1, 1, comm));
        CHECK_OK(zc_send(small, sizeof small, 1, 2, comm));
        CHECK_OK(zc_send(buffer, BIG, 1, 1, comm)); /* waits for the first one */
    } else {
        CHECK_OK(zc_recv(small, sizeof small, 0, 2, comm, NULL));
        CHECK_PATTERN(small, sizeof small, 2);
        for (int i = 0; i < 2; i++) {
            CHECK_OK(zc_recv(buffer, BIG, 0, 1, comm, NULL));
            CHECK_PATTERN(buffer, BIG, 1);
        }
    }
    CHECK_OK(zc_free(buffer));
    finish();
}

/* Errors say where the address stands, but blame it for nothing else. */
static void bad_parameter(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    int provided;

    CHECK(setenv("ZC_TRANSPORT", BAD_PARAMETER, 1) == 0);
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, NULL, &comm), -EINVAL,
                "ZC_TRANSPORT is \"" BAD_PARAMETER "\": zc_open: " BAD_PARAMETER_ERROR);
    options.policy = (enum zc_policy)77;
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -EINVAL, "zc_open: options.policy is 77");
    CHECKF(!strstr(zc_errmsg(), "ZC_TRANSPORT"), "%s", zc_errmsg());
    options.policy = ZC_POLICY_DEFAULT;
    options.transport = "shm?wait=soon";
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -EINVAL,
                "options.transport is \"shm?wait=soon\": zc_open: shm: wait=soon, expected 1..86400");
    options.transport = "auto:x";
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -EINVAL,
                "options.transport is \"auto:x\": zc_open: auto takes no name");
    CHECK(!comm);
    MPI_Finalize();
}

/* The first rank's variables or options are fine, the other's are not: that one says why, and nobody waits for it. */
static void bad_at_one_rank(void)
{
    static const char *const transports[] = {"mpi", "shm", "auto"};
    static const char *const bad[] = {"pigeon", "mpi:x", "shm?wait=0", "auto?wait=1"};
    char host[81] = "";
    zc_options options = ZC_OPTIONS_INIT;
    int provided;

    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    memset(host, 'h', sizeof host - 1);
    if (rank)
        CHECK(setenv("ZC_HOST", host, 1) == 0);
    for (size_t i = 1; i < COUNT(transports); i++) {
        options.transport = transports[i];
        CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -EINVAL,
                    rank ? "ZC_HOST" : "rank 1 could not be opened");
    }
    for (size_t i = 0; i < COUNT(transports) * COUNT(bad); i++) {
        options.transport = rank ? bad[i % COUNT(bad)] : transports[i / COUNT(bad)];
        CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -EINVAL,
                    rank ? options.transport : "rank 1 could not be opened");
    }
    MPI_Finalize();
}

/* Each of which is fine. */
static void another_at_one_rank(void)
{
    static const char *const transports[] = {"mpi", "shm", "auto", "shm?wait=5"};
    zc_options options = ZC_OPTIONS_INIT;
    int provided;

    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (size_t i = 0; i < 3; i++) {
        options.transport = transports[(i + (size_t)rank) % 3];
        CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -EINVAL, "expected the same for all");
        CHECKF(strstr(zc_errmsg(), transports[(i + (size_t)!rank) % 3]), "%s", zc_errmsg());
    }
    options.transport = transports[rank ? 1 : 3]; /* is the same */
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &comm));
    size = zc_size(comm);
    exchange();
    finish();
}

/* The same of what is looked at where memory is opened, and of the options. */
static void bad_pools_at_one_rank(void)
{
    int provided;

    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank)
        CHECK(setenv("ZC_POOLS", "64K:4:purple", 1) == 0);
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, NULL, &comm), -EINVAL, rank ? "ZC_POOLS" : "rank 1 could not be opened");
    MPI_Finalize();
}

static void bad_options_at_one_rank(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    int provided;

    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    options.policy = rank ? (enum zc_policy)77 : ZC_POLICY_DEFAULT;
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -EINVAL, rank ? "77" : "rank 1 could not be opened");
    options.policy = ZC_POLICY_DEFAULT;
    options.size = rank ? 1 : sizeof options;
    CHECK_FAILS(zc_open("mpi", &options, &comm), -EINVAL, rank ? "ZC_OPTIONS_INIT" : "rank 1 could not be opened");
    MPI_Finalize();
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
#define ENTRY(name)                                                                                                    \
    {                                                                                                                  \
#name, name                                                                                                    \
    }
    ENTRY(single),
    ENTRY(funneled),
    ENTRY(serialized),
    ENTRY(multiple),
    ENTRY(arguments),
    ENTRY(no_locked_memory),
    ENTRY(few_mappings),
    ENTRY(bad_transport),
    ENTRY(bad_parameter),
    ENTRY(intercommunicator),
    ENTRY(touch_below_multiple),
    ENTRY(small_past_bound),
    ENTRY(world),
    ENTRY(bad_at_one_rank),
    ENTRY(another_at_one_rank),
    ENTRY(bad_pools_at_one_rank),
    ENTRY(bad_options_at_one_rank),
};

int main(int argc, char *argv[])
{
    for (size_t i = 0; argc == 2 && i < COUNT(cases); i++)
        if (strcmp(argv[1], cases[i].name) == 0) {
            alarm(90);
            check_scene = cases[i].name;
            cases[i].run();
            return 0;
        }
    fprintf(stderr, "usage: mpiexec -n N %s CASE, one of:\n", argv[0]);
    for (size_t i = 0; i < COUNT(cases); i++)
        fprintf(stderr, "%s\n", cases[i].name);
    return 2;
}
