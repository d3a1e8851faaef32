/* SPDX-License-Identifier: MIT
 *
 * Receives, and what happens beside them. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "cases.h"

/* With threads, the first touch of a page waits until the message is there; without, it does not, and nothing hangs.
 * Nor does it of a page that is not all the message's. */
void irecv_touch(void)
{
    for (int i = 0; i < SIZES; i++) {
        size_t size = (size_t)sizes[i];
        MPI_Request request;
        volatile char *in = buffer(size, 1);
        void *out = buffer(size, 2);
        if (rank == 0) {
            MPI_Irecv((void *)(uintptr_t)in, sizes[i], MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
            meet();
            char seen = in[size / 2], expected = ((char *)out)[size / 2];
            if (threads && size > 4096)
                CHECK(seen == expected);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
            CHECK_PATTERN((void *)(uintptr_t)in, size, 2);
        } else {
            meet();
            nap();
            MPI_Send(out, sizes[i], MPI_BYTE, peer, 7, MPI_COMM_WORLD);
        }
        MPI_Free_mem((void *)(uintptr_t)in);
        MPI_Free_mem(out);
    }
}

/* Bytes of the page that are not received into, and that the message comes from in the end. */
void irecv_beside(void)
{
    enum { SIZE = 10 };
    MPI_Request requests[2];
    char *buf = buffer(100, 1), *out = buf + 50;
    for (int at = 0; at < 100; at += 80) {
        MPI_Irecv(buf + at, SIZE, MPI_BYTE, rank, 7, MPI_COMM_WORLD, &requests[0]);
        pattern_fill(out, SIZE, (unsigned)at);
        MPI_Isend(out, SIZE, MPI_BYTE, rank, 7, MPI_COMM_WORLD, &requests[1]);
        MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
        CHECK_PATTERN(buf + at, SIZE, (unsigned)at);
    }
    MPI_Free_mem(buf);
}

/* A lock of the program may lie beside its bytes, at both ends, and be waited for in the kernel. */
void irecv_beside_lock(void)
{
    enum { ROOM = 64, SIZE = 100000 };
    MPI_Request request;
    char *buf = buffer(ROOM + SIZE + ROOM, 1);
    int *locks[] = {(int *)(void *)buf, (int *)(void *)(buf + ROOM + SIZE)};
    *locks[0] = *locks[1] = 0;
    MPI_Irecv(buf + ROOM, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
    for (int i = 0; i < 2; i++)
        CHECK(syscall(SYS_futex, locks[i], FUTEX_WAIT_PRIVATE, 1, NULL) == -1 && errno == EAGAIN);
    meet();
    char *out = buffer(SIZE, 2);
    MPI_Send(out, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf + ROOM, SIZE, 2);
    MPI_Free_mem(out);
    MPI_Free_mem(buf);
}

/* A fiber's stack may be a buffer, from and into which it sends and receives. */
static void on_stack(void)
{
    enum { SIZE = 80000 };
    char data[SIZE];
    for (unsigned round = 0; round < 5; round++) {
        MPI_Request request;
        if (rank == 0) {
            pattern_fill(data, SIZE, round);
            MPI_Isend(data, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
        } else {
            MPI_Irecv(data, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
        }
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        CHECK_PATTERN(data, SIZE, round);
    }
}

void fiber(void)
{
    enum { STACK = 1 << 20 };
    static ucontext_t here, there;
    getcontext(&there);
    there.uc_stack.ss_sp = buffer(STACK, 0);
    there.uc_stack.ss_size = STACK;
    there.uc_link = &here;
    makecontext(&there, on_stack, 0);
    swapcontext(&here, &there);
    MPI_Free_mem(there.uc_stack.ss_sp);
}

void irecv_cancel(void)
{
    MPI_Request request;
    MPI_Status status;
    int cancelled;
    char *in = buffer(100000, 1);
    MPI_Irecv(in, 100000, MPI_BYTE, peer, 99, MPI_COMM_WORLD, &request);
    MPI_Cancel(&request);
    MPI_Wait(&request, &status);
    MPI_Test_cancelled(&status, &cancelled);
    CHECK(cancelled);
    CHECK_PATTERN(in, 100000, 1);
    MPI_Free_mem(in);
}

/* Edges and interior share pages, and nobody may wait for a page. */
void halo(void)
{
    enum { CELLS = 3000 };
    double *row = buffer((CELLS + 2) * sizeof *row, 1);
    for (int way = 0; way < 4; way++) {
        for (int i = 0; i < CELLS + 2; i++)
            row[i] = rank * 1000 + way;
        double *edge = rank == 0 ? row + CELLS : row + 1, *ghost = rank == 0 ? row + CELLS + 1 : row;
        MPI_Request requests[2];
        int n = 0;
        if (way != 1)
            MPI_Irecv(ghost, 1, MPI_DOUBLE, peer, way, MPI_COMM_WORLD, &requests[n++]);
        if (way == 0) {
            MPI_Send(edge, 1, MPI_DOUBLE, peer, way, MPI_COMM_WORLD);
        } else if (way == 2) {
            MPI_Ssend_init(edge, 1, MPI_DOUBLE, peer, way, MPI_COMM_WORLD, &requests[n]);
            MPI_Start(&requests[n++]);
        } else {
            MPI_Isend(edge, 1, MPI_DOUBLE, peer, way, MPI_COMM_WORLD, &requests[n++]);
        }
        for (int i = 1; i <= CELLS; i++) /* while all of it is in flight */
            if (&row[i] != edge)
                ((volatile double *)row)[i] += 1;
        if (way == 1)
            MPI_Irecv(ghost, 1, MPI_DOUBLE, peer, way, MPI_COMM_WORLD, &requests[n++]);
        if (way == 2)
            MPI_Wait(&requests[1], MPI_STATUS_IGNORE), MPI_Request_free(&requests[1]), n = 1;
        MPI_Waitall(n, requests, MPI_STATUSES_IGNORE);
        CHECK(*ghost == peer * 1000 + way);
        for (int i = 1; i <= CELLS; i++)
            CHECKF(row[i] == rank * 1000 + way + (&row[i] != edge), "cell %d is %g", i, row[i]);
    }
    MPI_Free_mem(row);
}

/* Into one half while the other half is being sent, which is then overwritten. */
void recv_beside_send(void)
{
    enum { HALF = 150000 };
    MPI_Request request;
    char *buf = buffer((size_t)2 * HALF, 1);
    for (unsigned round = 0; round < 5; round++) {
        pattern_fill(buf, HALF, (unsigned)rank + round);
        MPI_Isend(buf, HALF, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
        MPI_Recv(buf + HALF, HALF, MPI_BYTE, peer, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        memset(buf, 0xee, HALF);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        CHECK_BYTES(buf, HALF, 0xee);
        CHECK_PATTERN(buf + HALF, HALF, (unsigned)peer + round);
    }
}

/* Into blocks beside what is being sent, of which the end is waited for: who waits makes progress. */
void start_beside_send(void)
{
    enum { HALF = 150000 };
    MPI_Datatype strided;
    MPI_Request requests[2];
    MPI_Type_vector(HALF / 2, 1, 2, MPI_BYTE, &strided);
    MPI_Type_commit(&strided);
    char *buf = buffer((size_t)2 * HALF, 1);
    if (rank == 0) {
        MPI_Recv_init(buf + HALF, 1, strided, peer, 8, MPI_COMM_WORLD, &requests[0]);
        MPI_Isend(buf, HALF, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &requests[1]);
        MPI_Start(&requests[0]);
        MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
        for (int i = 0; i < HALF; i += 2)
            CHECK(buf[HALF + i] == 'x');
        MPI_Request_free(&requests[0]);
    } else {
        char *in = buffer(HALF, 2);
        MPI_Recv(in, HALF, MPI_BYTE, peer, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        CHECK_PATTERN(in, HALF, 1);
        memset(buf, 'x', (size_t)2 * HALF);
        MPI_Send(buf, 1, strided, peer, 8, MPI_COMM_WORLD);
        MPI_Free_mem(in);
    }
    MPI_Free_mem(buf);
    MPI_Type_free(&strided);
}

enum { ROWS = 300 }; /* of a square matrix */

static MPI_Datatype column(int rows)
{
    MPI_Datatype type;
    MPI_Type_vector(rows, 1, ROWS, MPI_DOUBLE, &type);
    MPI_Type_commit(&type);
    return type;
}

static double *fill(double *matrix, int round)
{
    for (int i = 0; i < ROWS * ROWS; i++)
        matrix[i] = rank * 1000000 + round * 1000 + i % ROWS;
    return matrix;
}

/* Of `rows` elements, each `stride` from the one before, which are the peer's of its column `from`, and of the round;
 * what is beside is as it was. */
static void expect_column(const double *first, int rows, int from, int round)
{
    for (int i = 0; i < rows; i++) {
        double got = first[(size_t)i * ROWS], beside = first[(size_t)i * ROWS + 1];
        CHECKF(got == peer * 1000000 + round * 1000 + from, "row %d is %g in round %d", i, got, round);
        CHECKF(beside >= rank * 1000000 + round * 1000, "beside row %d is %g in round %d", i, beside, round);
    }
}

/* Neighbours exchange columns of a matrix: one call reads and writes the same allocation, not all of it. */
void exchange_columns(void)
{
    double *matrix = buffer(ROWS * ROWS * sizeof *matrix, 1);
    for (int round = 0; round < 4; round++) {
        int rows = round % 2 ? ROWS : 3; /* of which MPI takes three at once */
        MPI_Datatype type = column(rows);
        double *edge = matrix + ROWS - 2, *ghost = matrix;
        fill(matrix, round);
        MPI_Sendrecv(edge, 1, type, peer, 7, ghost, 1, type, peer, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        expect_column(ghost, rows, ROWS - 2, round);

        const int ones[] = {1, 1}, from[] = {0, 0}, to[] = {0, sizeof *matrix};
        const MPI_Datatype types[] = {type, type};
        MPI_Request request;
        fill(matrix, round);
        MPI_Alltoallw(edge, ones, from, types, ghost, ones, to, types, MPI_COMM_WORLD);
        expect_column(ghost + peer, rows, ROWS - 2, round);
        fill(matrix, round);
        MPI_Ialltoallw(edge, ones, from, types, ghost, ones, to, types, MPI_COMM_WORLD, &request);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        expect_column(ghost + peer, rows, ROWS - 2, round);
        MPI_Type_free(&type);
    }
    MPI_Free_mem(matrix);
}

static void *send_row(void *row)
{
    MPI_Ssend(row, ROWS, MPI_DOUBLE, peer, 8, MPI_COMM_WORLD);
    return NULL;
}

/* A thread waits in MPI for its row to be received, which happens when another one has received a column. */
void column_beside_row(void)
{
    pthread_t thread;
    MPI_Datatype type = column(ROWS);
    double *matrix = fill(buffer(ROWS * ROWS * sizeof *matrix, 1), 0);
    if (rank == 0) {
        pthread_create(&thread, NULL, send_row, matrix + ROWS * 2);
        nap();
        MPI_Recv(matrix, 1, type, peer, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        expect_column(matrix, ROWS, 5, 0);
        pthread_join(thread, NULL);
    } else {
        MPI_Ssend(matrix + 5, 1, type, peer, 7, MPI_COMM_WORLD);
        MPI_Recv(matrix, ROWS, MPI_DOUBLE, peer, 8, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        CHECK(matrix[ROWS - 1] == ROWS - 1);
    }
    MPI_Type_free(&type);
    MPI_Free_mem(matrix);
}

/* Several receives into the same bytes are a mistake, but without zc they end, as programs that measure speed know. */
void receive_twice(void)
{
    enum { N = 4 };
    for (int i = 0; i < SIZES; i++) {
        MPI_Request requests[2 * N];
        char *in = buffer((size_t)sizes[i], 1), *out = buffer((size_t)sizes[i], 2);
        for (int j = 0; j < N; j++)
            MPI_Irecv(in, sizes[i], MPI_BYTE, peer, j, MPI_COMM_WORLD, &requests[j]);
        for (int j = 0; j < N; j++)
            MPI_Isend(out, sizes[i], MPI_BYTE, peer, j, MPI_COMM_WORLD, &requests[N + j]);
        MPI_Waitall(2 * N, requests, MPI_STATUSES_IGNORE);
        CHECK_PATTERN(in, (size_t)sizes[i], 2);

        pattern_fill(out, (size_t)sizes[i], 3);
        MPI_Irecv(in, sizes[i], MPI_BYTE, peer, 0, MPI_COMM_WORLD, &requests[0]);
        MPI_Isend(out, sizes[i], MPI_BYTE, peer, 1, MPI_COMM_WORLD, &requests[1]);
        MPI_Recv(in, sizes[i], MPI_BYTE, peer, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Send(out, sizes[i], MPI_BYTE, peer, 0, MPI_COMM_WORLD);
        MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
        CHECK_PATTERN(in, (size_t)sizes[i], 3);
        MPI_Free_mem(in);
        MPI_Free_mem(out);
    }
}

/* Into the very bytes that are being sent; a message that is shorter than the buffer leaves the rest as it was. */
void recv_into_send(void)
{
    enum { SIZE = 150000, SHORT = 70000 };
    MPI_Request request;
    MPI_Status status;
    int length;
    char *buf = buffer(SIZE, (unsigned)rank);
    MPI_Isend(buf, SHORT, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
    MPI_Recv(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &status);
    MPI_Get_count(&status, MPI_BYTE, &length);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK(length == SHORT);
    char *expected = malloc(SIZE);
    pattern_fill(expected, SIZE, (unsigned)rank);
    pattern_fill(expected, SHORT, (unsigned)peer);
    CHECK(memcmp(buf, expected, SIZE) == 0);
    free(expected);
}

void sendrecv(void)
{
    enum { SIZE = 100000 };
    MPI_Request request;
    char *buf = buffer(SIZE, (unsigned)rank), *in = buffer(SIZE, 9);
    MPI_Isend(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request); /* so that it is guarded */
    MPI_Sendrecv(buf, SIZE, MPI_BYTE, peer, 8, in, SIZE, MPI_BYTE, peer, 8, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK_PATTERN(in, SIZE, (unsigned)peer);
    MPI_Sendrecv_replace(buf, SIZE, MPI_BYTE, peer, 9, peer, 9, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, SIZE, (unsigned)peer);
    MPI_Recv(in, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK_PATTERN(in, SIZE, (unsigned)peer);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    /* Into what it sends, which MPI forbids, and does. */
    MPI_Sendrecv(in, SIZE, MPI_BYTE, peer, 8, in, SIZE, MPI_BYTE, peer, 8, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK_PATTERN(in, SIZE, (unsigned)rank);
}
