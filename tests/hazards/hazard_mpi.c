/* SPDX-License-Identifier: MIT
 *
 * mpiexec -n 2 hazard_mpi NAME: the hazards that are about MPI. Rank 0 is hit; rank 1 receives and checks. The
 * ranks agree on the order of things by messages of the application's own on MPI_COMM_WORLD. */
#include <errno.h>
#include <mpi.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "atomic_add.h"
#include "check.h"
#include "pattern.h"
#include "ranks.h"
#include "zc_mpi.h"

#define PAGE ((size_t)4096)
#define MIB ((size_t)1 << 20)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BIG (16 * MIB + 333)

static zc_comm *comm;
static int rank;

static void start_mpi(int required)
{
    int provided;

    MPI_Init_thread(NULL, NULL, required, &provided);
    CHECK(provided >= required);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
}

static void open_protected(void)
{
    zc_options options = ZC_OPTIONS_INIT;

    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &comm));
    CHECK_IS(zc_rank(comm), rank);
}

static void start(void)
{
    start_mpi(MPI_THREAD_MULTIPLE);
    open_protected();
}

static void finish(void)
{
    CHECK_OK(zc_close(comm));
    MPI_Finalize();
}

/* The application's own messages. */
static void tell(int peer)
{
    MPI_Send(NULL, 0, MPI_BYTE, peer, 77, MPI_COMM_WORLD);
}

static void await(int peer)
{
    MPI_Recv(NULL, 0, MPI_BYTE, peer, 77, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

static void receive_pattern(size_t length, int source, int tag, uint64_t seed)
{
    char *in = ALLOC(length);
    zc_status status;

    CHECK_OK(zc_recv(in, length, source, tag, comm, &status));
    CHECK(status.length == length);
    CHECK_PATTERN(in, length, seed);
    CHECK_OK(zc_free(in));
}

/* Rank 1 does not receive before the store is done: it cannot have waited for the message. */
static void stores_in_flight(void)
{
    start();
    for (unsigned kind = 0; kind < 5; kind++) {
        size_t length = kind % 2 ? BIG : 100000;

        if (rank == 0) {
            char *buffer = ALLOC(length), *expected = malloc(length);
            uint64_t value = 1;
            zc_stats before = stats_now();

            CHECK(expected);
            pattern_fill(buffer, length, kind);
            CHECK_OK(zc_send(buffer, length, 1, 1, comm));
            pattern_fill(expected, length, kind);
            for (char *p = buffer; p; p = p == buffer ? expected : NULL)
                switch (kind) {
                case 0:
                    *(volatile char *)p ^= 1;
                    break;
                case 1:
                    memset(p, 7, length);
                    break;
                case 2:
                    atomic_add(p + PAGE, 9);
                    break;
                case 3:
                    memcpy(p + 3 * PAGE - 3, &value, sizeof value);
                    break;
                default:
                    *(volatile char *)(p + length - 1) ^= 1;
                    break;
                }
            CHECK(memcmp(buffer, expected, length) == 0);
            CHECK(stats_now().conflicts > before.conflicts && stats_now().renames > before.renames);
            tell(1);
            CHECK_OK(zc_flush(comm));
            CHECK(memcmp(buffer, expected, length) == 0);
            CHECK_OK(zc_free(buffer));
            free(expected);
        } else {
            await(0);
            receive_pattern(length, 0, 1, kind);
        }
    }
    finish();
}

static void both_send_overwrite_receive(void)
{
    int peer;

    start();
    peer = 1 - rank;
    for (unsigned i = 0; i < 5; i++) {
        char *buffer = ALLOC(BIG);

        pattern_fill(buffer, BIG, 10 * (unsigned)rank + i);
        CHECK_OK(zc_send(buffer, BIG, peer, 1, comm));
        memset(buffer, 'o', BIG);
        receive_pattern(BIG, peer, 1, 10 * (unsigned)peer + i);
        CHECK_BYTES(buffer, BIG, 'o');
        CHECK_OK(zc_free(buffer));
    }
    finish();
}

static void send_receive_in_place(bool asynchronous)
{
    char *buffer = ALLOC(BIG);
    int peer = 1 - rank;

    pattern_fill(buffer, BIG, (unsigned)rank);
    for (int i = 1; i < 7; i++) {
        CHECK_OK(zc_send(buffer, BIG, peer, 1, comm));
        if (asynchronous)
            CHECK_OK(zc_irecv(buffer, BIG, peer, 1, comm));
        else
            CHECK_OK(zc_recv(buffer, BIG, peer, 1, comm, NULL));
        if (asynchronous && i % 2)
            CHECK_OK(zc_wait(buffer, NULL));
        CHECK_PATTERN(buffer, BIG, (unsigned)(i % 2 ? peer : rank));
        if (asynchronous && !(i % 2))
            CHECK_OK(zc_wait(buffer, NULL));
    }
    CHECK_OK(zc_free(buffer));
}

static void send_then_recv_same_buffer(void)
{
    start();
    send_receive_in_place(false);
    finish();
}

static void send_then_irecv_same_buffer(void)
{
    start();
    send_receive_in_place(true);
    finish();
}

static void free_and_realloc_in_flight(void)
{
    start();
    for (unsigned i = 0; i < 4; i++) {
        size_t length = i % 2 ? 100000 : 4 * MIB;

        if (rank == 0) {
            char *buffer = ALLOC(length), *other[4];

            pattern_fill(buffer, length, i);
            CHECK_OK(zc_send(buffer, length, 1, 1, comm));
            if (i < 2) {
                CHECK_OK(zc_free(buffer));
            } else {
                buffer = zc_realloc(buffer, 8 * length);
                CHECK(buffer);
                CHECK_PATTERN(buffer, length, i);
                memset(buffer, 0, length);
                CHECK_OK(zc_free(buffer));
            }
            for (size_t k = 0; k < COUNT(other); k++) {
                other[k] = ALLOC(length);
                memset(other[k], 'f', length);
            }
            tell(1);
            CHECK_OK(zc_flush(comm));
            for (size_t k = 0; k < COUNT(other); k++) {
                CHECK_BYTES(other[k], length, 'f');
                CHECK_OK(zc_free(other[k]));
            }
        } else {
            await(0);
            receive_pattern(length, 0, 1, i);
        }
    }
    finish();
}

/* Rank 0 leaves main with its messages on the way; zc initialised MPI, so zc ends it. Small and large. */
static void exit_in_flight(void)
{
    zc_options options = ZC_OPTIONS_INIT;

    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("mpi", &options, &comm));
    rank = zc_rank(comm);
    if (rank == 0) {
        char *buffer = ALLOC(BIG);

        pattern_fill(buffer, BIG, 1);
        CHECK_OK(zc_send(buffer, 100, 1, 1, comm));
        CHECK_OK(zc_send(buffer, BIG, 1, 1, comm));
        exit(0);
    }
    usleep(300000); /* so that rank 0 is well on its way out; right either way */
    receive_pattern(100, 0, 1, 1);
    receive_pattern(BIG, 0, 1, 1);
    exit(0);
}

/* The same with an application that ends MPI itself and forgets zc. */
static void finalize_in_flight(void)
{
    start();
    if (rank == 0) {
        char *buffer = ALLOC(BIG);

        pattern_fill(buffer, BIG, 1);
        CHECK_OK(zc_send(buffer, 100, 1, 1, comm));
        CHECK_OK(zc_send(buffer, BIG, 1, 1, comm));
        memset(buffer, 'z', BIG);
        MPI_Finalize();
        CHECK_BYTES(buffer, BIG, 'z');
        memset(buffer, 'y', BIG); /* nothing of it is in flight any more */
        CHECK_IS(zc_send(buffer, 10, 1, 1, comm), -EBADF);
        CHECK_OK(zc_free(buffer));
        return;
    }
    usleep(300000);
    receive_pattern(100, 0, 1, 1);
    receive_pattern(BIG, 0, 1, 1);
    MPI_Finalize();
}

/* A receive that nobody will ever match does not keep MPI_Finalize. */
static void finalize_with_receive_in_flight(void)
{
    start();
    char *in = ALLOC(100000);

    memset(in, 'r', 100000);
    CHECK_OK(zc_irecv(in, 100000, 1 - rank, 3, comm));
    MPI_Finalize();
    CHECK_IS(zc_wait(in, NULL), -ECANCELED);
    CHECK_BYTES(in, 100000, 'r');
    CHECK_OK(zc_free(in));
}

/* Children that exit as if they were the program, while messages of their parents are on the way. */
static void fork_child(bool opens)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *other = NULL;
    int status;

    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("mpi", &options, &comm));
    rank = zc_rank(comm);
    char *buffer = ALLOC(BIG);
    pattern_fill(buffer, BIG, (unsigned)rank);
    CHECK_OK(zc_send(buffer, BIG, 1 - rank, 1, comm));
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        if (opens && rank == 0) { /* alone */
            CHECK_FAILS(zc_open("mpi", NULL, &other), -EPERM, "forked child");
            CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, NULL, &other), -EPERM, "forked child");
            CHECK(!other);
        }
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECKF(status == 0, "the child ended with status 0x%x", (unsigned)status);
    memset(buffer, 'f', BIG);
    receive_pattern(BIG, 1 - rank, 1, (unsigned)(1 - rank));
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_close(comm));
}

/* A message that comes when its receiver has closed is dropped, whatever that rank waits for then. */
static void close_before_message_comes(void)
{
    zc_comm *other = NULL;

    start();
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, NULL, &other));
    if (rank == 0) {
        char *buffer = ALLOC(BIG);

        await(1);
        CHECK_OK(zc_send_free(buffer, BIG, 1, 1, comm));
        CHECK_OK(zc_close(comm));
        CHECK_OK(zc_send(NULL, 0, 1, 2, other));
    } else {
        CHECK_OK(zc_close(comm));
        tell(0);
        CHECK_OK(zc_recv(NULL, 0, 0, 2, other, NULL));
    }
    CHECK_OK(zc_close(other));
    MPI_Finalize();
}

static void fork_child_exits(void)
{
    fork_child(false);
}

/* That would be MPI's affair, and so its parent's. */
static void fork_child_opens(void)
{
    fork_child(true);
}

/* Before there is a communicator: MPI is initialised all the same. And by a fork that calls no handlers. */
static void fork_child_exits_without_zc(void)
{
    pid_t (*const forks[])(void) = {fork, _Fork};
    zc_options options = ZC_OPTIONS_INIT;
    int status;

    options.transport = "pigeon";
    CHECK_FAILS(zc_open("mpi", &options, &comm), -EINVAL, "pigeon");
    for (size_t i = 0; i < COUNT(forks); i++) {
        pid_t child = forks[i]();
        if (child == 0) {
            alarm(30);
            exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child);
        CHECKF(status == 0, "the child ended with status 0x%x", (unsigned)status);
    }
    CHECK_OK(zc_open("mpi", NULL, &comm));
    rank = zc_rank(comm);
    CHECK_OK(zc_send("hello", 6, 1 - rank, 1, comm));
    CHECK_OK(zc_recv((char[6]){0}, 6, 1 - rank, 1, comm, NULL));
    CHECK_OK(zc_close(comm));
}

static atomic_int in_call;

static void *own_mpi_recv(void *argument)
{
    (void)argument;
    atomic_store(&in_call, 1);
    await(1);
    return NULL;
}

static void *own_zc_recv(void *argument)
{
    (void)argument;
    atomic_store(&in_call, 1);
    receive_pattern(200000, 1, 9, 9);
    return NULL;
}

/* Another thread of rank 0 sits in a call, and may hold MPI's lock, when the store comes. It is let go
 * only after the stores. */
static void fault_while_thread_in(void *(*call)(void *))
{
    pthread_t thread;

    start();
    if (rank == 0) {
        char *buffer = ALLOC(BIG);

        thread = thread_start(call, NULL);
        while (!atomic_load(&in_call))
            sched_yield();
        for (unsigned i = 0; i < 5; i++) {
            usleep(2000);
            pattern_fill(buffer, BIG, i);
            CHECK_OK(zc_send(buffer, BIG, 1, 1, comm));
            memset(buffer, 's', BIG);
        }
        tell(1);
        CHECK_OK(zc_flush(comm));
        CHECK_OK(zc_send(NULL, 0, 1, 2, comm));
        thread_join(thread);
        CHECK_BYTES(buffer, BIG, 's');
        CHECK_OK(zc_free(buffer));
    } else {
        await(0);
        for (unsigned i = 0; i < 5; i++)
            receive_pattern(BIG, 0, 1, i);
        CHECK_OK(zc_recv(NULL, 0, 0, 2, comm, NULL));
        if (call == own_mpi_recv) {
            tell(0);
        } else {
            char *last = ALLOC(200000);

            pattern_fill(last, 200000, 9);
            CHECK_OK(zc_send_free(last, 200000, 0, 9, comm));
        }
    }
    finish();
}

static void fault_while_thread_in_mpi(void)
{
    fault_while_thread_in(own_mpi_recv);
}

static void fault_while_thread_in_zc_recv(void)
{
    fault_while_thread_in(own_zc_recv);
}

/* The application's own MPI calls on a buffer in flight: reading it is fine, receiving into it is, after
 * zc_writable. */
static void own_mpi_calls(void)
{
    start();
    for (unsigned i = 0; i < 3; i++) {
        char *buffer = ALLOC(BIG);

        if (rank == 0) {
            pattern_fill(buffer, BIG, i);
            CHECK_OK(zc_send(buffer, BIG, 1, 1, comm));
            MPI_Send(buffer, (int)BIG, MPI_BYTE, 1, 2, MPI_COMM_WORLD);
            CHECK_OK(zc_writable(buffer));
            MPI_Recv(buffer, (int)BIG, MPI_BYTE, 1, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            CHECK_PATTERN(buffer, BIG, 100 + i);
            tell(1);
            CHECK_OK(zc_flush(comm));
            CHECK_PATTERN(buffer, BIG, 100 + i);
        } else {
            MPI_Recv(buffer, (int)BIG, MPI_BYTE, 0, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            CHECK_PATTERN(buffer, BIG, i);
            pattern_fill(buffer, BIG, 100 + i);
            MPI_Send(buffer, (int)BIG, MPI_BYTE, 0, 3, MPI_COMM_WORLD);
            await(0);
            receive_pattern(BIG, 0, 1, i);
        }
        CHECK_OK(zc_free(buffer));
    }
    finish();
}

/* The touch of a receive in flight, with the message sent only once the toucher may be waiting, and with two
 * threads that wait. */
static void *read_all(void *in)
{
    CHECK_PATTERN(in, BIG, 5);
    return NULL;
}

static void touch_waits(void)
{
    start();
    if (rank == 0) {
        char *in = ALLOC(BIG);
        pthread_t thread;

        CHECK_OK(zc_irecv(in, BIG, 1, 1, comm));
        thread = thread_start(read_all, in);
        tell(1);
        read_all(in);
        thread_join(thread);
        CHECK_OK(zc_wait(in, NULL));
        CHECK_OK(zc_free(in));
    } else {
        char *buffer = ALLOC(BIG);

        await(0);
        usleep(50000);
        pattern_fill(buffer, BIG, 5);
        CHECK_OK(zc_send_free(buffer, BIG, 0, 1, comm));
    }
    finish();
}

static const struct {
    const char *name;
    void (*run)(void);
} hazards[] = {
#define ENTRY(name)                                                                                                    \
    {                                                                                                                  \
#name, name                                                                                                    \
    }
    ENTRY(stores_in_flight),
    ENTRY(both_send_overwrite_receive),
    ENTRY(send_then_recv_same_buffer),
    ENTRY(send_then_irecv_same_buffer),
    ENTRY(free_and_realloc_in_flight),
    ENTRY(exit_in_flight),
    ENTRY(fork_child_exits),
    ENTRY(fork_child_opens),
    ENTRY(fork_child_exits_without_zc),
    ENTRY(close_before_message_comes),
    ENTRY(finalize_in_flight),
    ENTRY(finalize_with_receive_in_flight),
    ENTRY(fault_while_thread_in_mpi),
    ENTRY(fault_while_thread_in_zc_recv),
    ENTRY(own_mpi_calls),
    ENTRY(touch_waits),
};

int main(int argc, char *argv[])
{
    for (size_t i = 0; argc == 2 && i < COUNT(hazards); i++)
        if (strcmp(argv[1], hazards[i].name) == 0) {
            alarm(90);
            check_scene = hazards[i].name;
            hazards[i].run();
            return 0;
        }
    fprintf(stderr, "usage: mpiexec -n 2 %s NAME, one of:\n", argv[0]);
    for (size_t i = 0; i < COUNT(hazards); i++)
        fprintf(stderr, "%s\n", hazards[i].name);
    return 2;
}
