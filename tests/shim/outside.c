/* SPDX-License-Identifier: MIT
 *
 * shim_outside before|after: a program that uses zc before MPI_Init, or after MPI_Finalize, when hardly any call of MPI
 * is allowed: MPICH ends the process. */
#include <fcntl.h>
#include <mpi.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "zc.h"

enum { SIZE = 1 << 20 };

static void in_and_out(void)
{
    int level;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
    char *buf = zc_alloc(SIZE), *in = zc_alloc(SIZE);
    MPI_Request request;
    memset(buf, 'a', SIZE);
    MPI_Isend(buf, SIZE, MPI_BYTE, 0, 1, MPI_COMM_WORLD, &request);
    MPI_Recv(in, SIZE, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    zc_free(buf);
    zc_free(in);
    MPI_Finalize();
}

/* Stores and system calls end what a guard denies. */
int main(int argc, char **argv)
{
    int zeros = open("/dev/zero", O_RDONLY);
    struct zc_guard guard;
    char *buf;

    check_scene = argc == 2 ? argv[1] : "none";
    if (argc == 2 && strcmp(argv[1], "after") == 0)
        in_and_out();
    buf = zc_alloc(SIZE);
    memset(buf, 'a', SIZE);
    CHECK(zc_guard(buf, SIZE, ZC_DENY_STORES, &guard) == 0);
    memset(buf, 'b', SIZE);
    zc_unguard(&guard);
    CHECK_BYTES(buf, SIZE, 'b');
    CHECK(zc_guard(buf, SIZE, ZC_DENY_STORES, &guard) == 0);
    CHECK(read(zeros, buf, SIZE) == SIZE);
    zc_unguard(&guard);
    CHECK_BYTES(buf, SIZE, 0);
    zc_free(buf);
    return 0;
}
