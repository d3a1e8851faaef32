/* SPDX-License-Identifier: MIT
 *
 * mpiexec -n 1 -env ZC_HOST a … auto_cases EXPECTED: what transport auto is here, by its ranks' hosts: "shm", "mpi" or
 * "auto", which three ranks on hosts a, b and a then show by itself; or "refused": shm for ranks of two hosts. */
#include <errno.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "pattern.h"
#include "transport/comm.h"
#include "transport/shm.h"
#include "zc_mpi.h"

enum { FIRST, FAR, NEAR }; /* of rank 0 */

#define BIG ((size_t)200000)

static int rank;

static zc_comm *open_over(const char *transport)
{
    zc_comm *comm = NULL;
    zc_options options = ZC_OPTIONS_INIT;

    options.transport = transport;
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &options, &comm));
    return comm;
}

static void send_number(unsigned number, int dst, int tag, zc_comm *comm)
{
    CHECK_OK(zc_send(&number, sizeof number, dst, tag, comm));
}

/* Ranks of other hosts keep no processor of this one busy. */
static void crowded_by_its_own(zc_comm *comm)
{
    const struct shm *shm = comm->endpoint.sleeps_at;

    CHECK(shm->crowded == ((rank == FAR ? 1 : 2) > sysconf(_SC_NPROCESSORS_ONLN)));
}

/* Rank 0 looks at what each shows it. */
static void lent_if_near(zc_comm *comm)
{
    zc_view view;
    char *out = ALLOC(BIG);

    pattern_fill(out, BIG, (unsigned)rank);
    if (rank != FIRST) {
        CHECK_OK(zc_send(out, BIG, FIRST, 1, comm));
        CHECK_OK(zc_recv(out, BIG, FIRST, 2, comm, NULL));
        CHECK_PATTERN(out, BIG, NEAR);
    } else {
        uint64_t lent = stats_now().views_lent;
        CHECK_OK(zc_recv_view(&view, FAR, 1, comm));
        CHECK_PATTERN(view.data, BIG, FAR);
        CHECK(stats_now().views_lent == lent);
        CHECK_OK(zc_release(&view));
        CHECK_OK(zc_recv_view(&view, NEAR, 1, comm));
        CHECK_PATTERN(view.data, BIG, NEAR);
        CHECK(stats_now().views_lent == lent + 1);
        CHECK_OK(zc_forward(&view, FAR, 2, comm)); /* by MPI, from the other's memory */
        CHECK_OK(zc_forward(&view, NEAR, 2, comm));
        CHECK_OK(zc_release(&view));
    }
    CHECK_OK(zc_free(out));
}

/* Receives that name a rank and are older or younger than one that does not, from each of the two in turn. */
static void in_order(zc_comm *comm)
{
    enum { RECEIVES = 5, PAGE = 4096 };

    if (rank != FIRST) {
        unsigned go;
        CHECK_OK(zc_recv(&go, sizeof go, FIRST, 3, comm, NULL));
        for (unsigned i = 0; i < RECEIVES; i++)
            send_number(i, FIRST, 4 + (int)i % 2, comm);
        return;
    }
    for (int peer = FAR; peer <= NEAR; peer++) {
        /* Message i has tag 4 + i % 2. The 2nd receive takes message 1, and so on. */
        static const int tags[RECEIVES] = {4, ZC_ANY_TAG, 4, ZC_ANY_TAG, 4};
        static const unsigned expected[RECEIVES] = {0, 1, 2, 3, 4};
        const int sources[RECEIVES] = {peer, ZC_ANY_SOURCE, peer, peer, ZC_ANY_SOURCE};
        char *in = ALLOC(RECEIVES * PAGE);
        for (int i = 0; i < RECEIVES; i++)
            CHECK_OK(zc_irecv(in + i * PAGE, sizeof(unsigned), sources[i], tags[i], comm));
        send_number(0, peer, 3, comm);
        for (int i = 0; i < RECEIVES; i++) {
            zc_status status;
            unsigned got;
            CHECK_OK(zc_wait(in + i * PAGE, &status));
            CHECK(status.source == peer);
            memcpy(&got, in + i * PAGE, sizeof got);
            CHECKF(got == expected[i], "receive %d got message %u of rank %d", i, got, peer);
        }
        CHECK_OK(zc_free(in));
    }
}

/* Nothing that is waited for comes: the wildcard, and one behind it. Then one goes, and the other is told. */
static void end_without_message(zc_comm *comm)
{
    zc_comm *second = open_over("auto");
    char *in = ALLOC(BIG);
    unsigned byte = 0;

    if (rank == FIRST) {
        CHECK_OK(zc_irecv(in, 4096, ZC_ANY_SOURCE, 6, second));
        CHECK_OK(zc_irecv(in + 4096, 4096, NEAR, 6, second));
        CHECK_OK(zc_irecv(in + 8192, 4096, NEAR, 6, second));
        CHECK_OK(zc_cancel(in + 4096));
        send_number(0, NEAR, 3, comm);
        CHECK_IS(zc_wait(in + 8192, NULL), -ECANCELED);
        CHECK_OK(zc_cancel(in));
        send_number(0, FAR, 3, comm);
    } else {
        CHECK_OK(zc_recv(&byte, sizeof byte, FIRST, 3, comm, NULL));
    }
    CHECK_OK(zc_close(second));
    CHECK_OK(zc_free(in));
}

/* FAR is alone on its host, which is no error of a call that looks there as well. */
static void errors_are_of_calls(zc_comm *comm)
{
    char byte = 0;

    if (rank == FIRST) {
        CHECK_OK(zc_send(&byte, 1, FAR, 10, comm));
    } else if (rank == FAR) {
        CHECK_FAILS(zc_send(&byte, 1, 7, 10, comm), -EINVAL, "zc_send: rank 7");
        CHECK_OK(zc_recv(&byte, 1, ZC_ANY_SOURCE, 10, comm, NULL));
        CHECKF(strstr(zc_errmsg(), "zc_send: rank 7"), "zc_errmsg: \"%s\"", zc_errmsg());
    }
}

/* Both have sent what nobody receives, and what was looked for came after it. */
static void close_with_what_was_taken(void)
{
    zc_comm *comm = open_over("auto");
    char *out = ALLOC(BIG);
    unsigned number;
    zc_status status;

    if (rank != FIRST) {
        CHECK_OK(zc_send(out, BIG, FIRST, 7, comm));
        send_number(1, FIRST, 8, comm);
    } else {
        for (int i = 0; i < 2; i++)
            CHECK_OK(zc_recv(&number, sizeof number, ZC_ANY_SOURCE, 8, comm, NULL));
        CHECK_OK(zc_probe(NEAR, 7, comm, &status));
        CHECK(status.length == BIG);
    }
    CHECK_OK(zc_close(comm)); /* ends for the senders, too */
    CHECK_OK(zc_free(out));
}

/* It is not for the next one. */
static void close_with_what_was_not(void)
{
    unsigned number = 0;

    for (unsigned i = 0; i < 2; i++) {
        zc_comm *comm = open_over("auto");
        if (rank != FIRST)
            send_number(i, FIRST, 9, comm);
        for (int peer = 1; rank == FIRST && i && peer < zc_size(comm); peer++) {
            CHECK_OK(zc_recv(&number, sizeof number, peer, 9, comm, NULL));
            CHECK(number == i);
        }
        MPI_Barrier(MPI_COMM_WORLD); /* nobody sends to one that has closed */
        CHECK_OK(zc_close(comm));
    }
}

static void refused(void)
{
    zc_comm *comm = NULL;
    zc_options options = ZC_OPTIONS_INIT;

    options.transport = "shm";
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -EINVAL, rank ? "rank 0 is of" : "rank 1 is of");
    options.transport = "auto:x";
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -EINVAL, "no name");
    CHECK_FAILS(zc_open("auto", NULL, &comm), -EINVAL, "zc_open_mpi");
    /* That is not the other's fault. */
    CHECK(setenv("XDG_RUNTIME_DIR", "/proc/nowhere", 1) == 0);
    options.transport = "shm";
    CHECK_FAILS(zc_open_mpi(MPI_COMM_WORLD, &options, &comm), -ENOENT, "/proc/nowhere");
    CHECK(!comm);
}

/* Without a run-time directory, one that is on its own on its host needs none. */
static void nowhere_for_one(void)
{
    unsigned number = 0;

    if (rank == FAR)
        CHECK(setenv("XDG_RUNTIME_DIR", "/proc/nowhere", 1) == 0);
    zc_comm *comm = open_over("auto");
    CHECKF(strcmp(comm->transport->scheme, "auto") == 0, "it is %s", comm->transport->scheme);
    for (int peer = 0; peer < zc_size(comm); peer++)
        send_number((unsigned)rank, peer, 11, comm);
    for (int peer = 0; peer < zc_size(comm); peer++) {
        CHECK_OK(zc_recv(&number, sizeof number, peer, 11, comm, NULL));
        CHECK(number == (unsigned)peer);
    }
    CHECK_OK(zc_close(comm));
}

/* Without a run-time directory, each is on its own. That is no error. */
static void nowhere_to_meet(void)
{
    char byte;

    CHECK(setenv("XDG_RUNTIME_DIR", "/proc/nowhere", 1) == 0);
    CHECK_FAILS(zc_send(&byte, 1, 0, 0, NULL), -EINVAL, "zc_send: the communicator is NULL");
    zc_comm *comm = open_over("auto");
    CHECKF(strstr(zc_errmsg(), "zc_send: the communicator is NULL"), "zc_errmsg: \"%s\"", zc_errmsg());
    CHECKF(strcmp(comm->transport->scheme, "mpi") == 0, "it is %s", comm->transport->scheme);
    CHECK_OK(zc_close(comm));
}

int main(int argc, char *argv[])
{
    int provided;

    CHECKF(argc == 2, "which transport is expected?");
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (strcmp(argv[1], "refused") == 0) {
        refused();
        MPI_Finalize();
        return 0;
    }
    zc_comm *comm = open_over("auto");
    CHECKF(strcmp(comm->transport->scheme, argv[1]) == 0, "it is %s", comm->transport->scheme);
    if (strcmp(argv[1], "auto") == 0) {
        CHECK_FAILS(zc_fd(comm), -ENOTSUP, "auto");
        crowded_by_its_own(comm);
        lent_if_near(comm);
        in_order(comm);
        errors_are_of_calls(comm);
        end_without_message(comm);
        close_with_what_was_taken();
        nowhere_for_one();
    }
    close_with_what_was_not();
    nowhere_to_meet();
    /* What is open ends with MPI. */
    MPI_Finalize();
    CHECK_FAILS(zc_progress(comm), -EBADF, "closed");
    return 0;
}
