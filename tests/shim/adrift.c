/* SPDX-License-Identifier: MIT
 *
 * Who waits for long for buffered messages looks at them more often than an int can count. */
#include <limits.h>
#include <stdlib.h>

#include "check.h"
#include "pattern.h"
#include "shim/buffered.c" // NOLINT(bugprone-suspicious-include): its cursor

const struct zc_observer *observer;

enum { N = 3, SIZE = 1 << 20, TAG = 7 };

int main(int argc, char **argv)
{
    char *buf = malloc(SIZE);
    MPI_Init(&argc, &argv);
    adrift.cursor = INT_MAX - 2;
    for (unsigned i = 0; i < N; i++) {
        pattern_fill(buf, SIZE, i);
        MPI_Bsend(buf, SIZE, MPI_BYTE, 0, TAG, MPI_COMM_SELF);
    }
    CHECK(adrift.count == N);
    adrift_progress();
    CHECK((unsigned)adrift.cursor > INT_MAX);
    for (unsigned i = 0; i < N; i++) {
        MPI_Recv(buf, SIZE, MPI_BYTE, 0, TAG, MPI_COMM_SELF, MPI_STATUS_IGNORE);
        CHECK_PATTERN(buf, SIZE, i);
    }
    adrift_drain();
    MPI_Finalize();
    free(buf);
    return 0;
}
