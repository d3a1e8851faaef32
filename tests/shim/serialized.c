/* SPDX-License-Identifier: MIT
 *
 * At MPI_THREAD_SERIALIZED, another thread may be in MPI while this one makes a system call: which then leaves MPI
 * alone. */
#include <dlfcn.h>
#include <fcntl.h>
#include <mpi.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "pattern.h"
#include "zc.h"

enum { SIZE = 50000, BESIDE = 100, TAG = 7 };

static bool in_system_call;

__attribute__((visibility("default"))) int PMPI_Request_get_status(MPI_Request request, int *flag, MPI_Status *status)
{
    static int (*next)(MPI_Request, int *, MPI_Status *);
    CHECK(!in_system_call);
    if (!next) {
        void *found = dlsym(RTLD_NEXT, "PMPI_Request_get_status");
        memcpy(&next, &found, sizeof next);
    }
    return next(request, flag, status);
}

/* Into a page that is being sent in part. */
static void read_beside(char *buf)
{
    int zeros = open("/dev/zero", O_RDONLY);
    in_system_call = true;
    CHECK(read(zeros, buf + SIZE, BESIDE) == BESIDE);
    in_system_call = false;
    close(zeros);
}

int main(int argc, char **argv)
{
    int level, rank;
    MPI_Request request;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &level);
    CHECK(level == MPI_THREAD_SERIALIZED);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    char *buf = zc_alloc(SIZE + BESIDE);
    memset(buf, 'b', SIZE + BESIDE);
    if (rank == 0) {
        pattern_fill(buf, SIZE, 1);
        MPI_Isend(buf, SIZE, MPI_BYTE, 1, TAG, MPI_COMM_WORLD, &request);
        read_beside(buf);
        CHECK_PATTERN(buf, SIZE, 1);
        CHECK_BYTES(buf + SIZE, BESIDE, 0);
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
    } else {
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Recv(buf, SIZE, MPI_BYTE, 0, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        CHECK_PATTERN(buf, SIZE, 1);
    }
    zc_free(buf);
    MPI_Finalize();
    return 0;
}
