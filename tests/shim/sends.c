/* SPDX-License-Identifier: MIT
 *
 * Sends, whose buffers are overwritten at once. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cases.h"

static void overwrite(void *buf, size_t size)
{
    memset(buf, 0xee, size);
}

static void receive(int size, unsigned seed)
{
    void *into = malloc((size_t)size);
    MPI_Recv(into, size, MPI_BYTE, peer, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK_PATTERN(into, (size_t)size, seed);
    free(into);
}

void isend_overwrite(void)
{
    for (int i = 0; i < SIZES; i++) {
        size_t size = (size_t)sizes[i];
        if (rank == 0) {
            MPI_Request request;
            void *buf = buffer(size, 1);
            for (unsigned round = 0; round < 5; round++) {
                pattern_fill(buf, size, round);
                MPI_Isend(buf, sizes[i], MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
                overwrite(buf, size);
                meet();
                MPI_Wait(&request, MPI_STATUS_IGNORE);
                CHECK(request == MPI_REQUEST_NULL);
                CHECK_BYTES(buf, size, 0xee);
            }
            MPI_Free_mem(buf);
        } else {
            for (unsigned round = 0; round < 5; round++) {
                meet();
                receive(sizes[i], round);
            }
        }
    }
}

/* The same bytes twice, and parts of them, all in flight at once. */
void isend_many(void)
{
    enum { SIZE = 300000, PART = 100000 };
    if (rank == 0) {
        MPI_Request requests[4];
        char *buf = buffer(SIZE, 3);
        MPI_Isend(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &requests[0]);
        MPI_Isend(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &requests[1]);
        overwrite(buf, SIZE);
        pattern_fill(buf + PART, PART, 4);
        MPI_Isend(buf + PART, PART, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &requests[2]);
        overwrite(buf, SIZE);
        pattern_fill(buf + 5, 50, 5);
        MPI_Isend(buf + 5, 50, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &requests[3]);
        overwrite(buf, SIZE);
        meet();
        MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
        CHECK_BYTES(buf, SIZE, 0xee);
    } else {
        meet();
        receive(SIZE, 3);
        receive(SIZE, 3);
        receive(PART, 4);
        receive(50, 5);
    }
}

void isend_free(void)
{
    enum { SIZE = 200000 };
    if (rank == 0) {
        MPI_Request request;
        void *buf = buffer(SIZE, 1);
        MPI_Isend(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
        MPI_Free_mem(buf);
        void *other = buffer(SIZE, 2);
        meet();
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        CHECK_PATTERN(other, SIZE, 2);
    } else {
        meet();
        receive(SIZE, 1);
    }
}

/* Every second block of a buffer. The blocks between are received into meanwhile, which must not wait. */
void isend_strided(void)
{
    enum { BLOCKS = 200, BLOCK = 1000 };
    MPI_Datatype strided;
    MPI_Type_vector(BLOCKS, BLOCK, 2 * BLOCK, MPI_BYTE, &strided);
    MPI_Type_commit(&strided);
    MPI_Request requests[2];
    char *buf = buffer((size_t)BLOCKS * BLOCK * 2, 1);
    for (int i = 0; i < BLOCKS; i++)
        pattern_fill(buf + 2 * i * BLOCK, BLOCK, (unsigned)(rank * BLOCKS + i));
    MPI_Irecv(buf + BLOCK, 1, strided, peer, 7, MPI_COMM_WORLD, &requests[0]);
    MPI_Isend(buf, 1, strided, peer, 7, MPI_COMM_WORLD, &requests[1]);
    for (int i = 0; i < BLOCKS; i++)
        overwrite(buf + 2 * i * BLOCK, BLOCK);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < BLOCKS; i++) {
        CHECK_BYTES(buf + 2 * i * BLOCK, BLOCK, 0xee);
        CHECK_PATTERN(buf + (2 * i + 1) * BLOCK, BLOCK, (unsigned)(peer * BLOCKS + i));
    }
    MPI_Type_free(&strided);
}

/* More is packed behind what is being sent, and unpacked from behind what is being received: no conflict. */
void pack_behind(void)
{
    enum { PART = 100000, TAG = 7 };
    MPI_Request request;
    int position = 0;
    char *from = buffer(PART, 1), *packed = buffer((size_t)2 * PART, 0);
    MPI_Pack(from, PART, MPI_BYTE, packed, 2 * PART, &position, MPI_COMM_WORLD);
    MPI_Isend(packed, position, MPI_PACKED, peer, TAG, MPI_COMM_WORLD, &request);
    uint64_t before = stats_now().conflicts;
    MPI_Pack(from, PART, MPI_BYTE, packed, 2 * PART, &position, MPI_COMM_WORLD);
    CHECK(stats_now().conflicts == before);
    MPI_Recv(from, PART, MPI_PACKED, peer, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK_PATTERN(from, PART, 1);

    int behind = PART;
    MPI_Irecv(packed, PART, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &request);
    MPI_Unpack(packed, 2 * PART, &behind, from, PART, MPI_BYTE, MPI_COMM_WORLD);
    CHECK_PATTERN(from, PART, 1);
    MPI_Send(from, PART, MPI_BYTE, peer, TAG, MPI_COMM_WORLD);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK_PATTERN(packed, PART, 1);
    MPI_Free_mem(from);
    MPI_Free_mem(packed);
}

void request_free(void)
{
    enum { SIZE = 200000 };
    if (rank == 0) {
        MPI_Request request;
        void *buf = buffer(SIZE, 1);
        MPI_Isend(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
        MPI_Request_free(&request);
        CHECK(request == MPI_REQUEST_NULL);
        overwrite(buf, SIZE);
        meet();
    } else {
        meet();
        receive(SIZE, 1);
    }
}

/* From the pools, from elsewhere, and strided, without an attached buffer. */
void bsend(void)
{
    for (int i = 0; i < SIZES; i++) {
        int size = sizes[i] / 2 * 2;
        if (rank == 0) {
            MPI_Datatype halves;
            MPI_Type_vector(size / 2, 1, 2, MPI_BYTE, &halves);
            MPI_Type_commit(&halves);
            char *ours = buffer((size_t)size, 1), *theirs = malloc((size_t)size), *apart = malloc((size_t)size);
            pattern_fill(theirs, (size_t)size, 2);
            pattern_fill(apart, (size_t)size / 2, 3);
            for (int at = size / 2 - 1; at >= 0; at--)
                apart[2 * at] = apart[at];
            MPI_Bsend(ours, size, MPI_BYTE, peer, 7, MPI_COMM_WORLD);
            overwrite(ours, (size_t)size);
            MPI_Bsend(theirs, size, MPI_BYTE, peer, 7, MPI_COMM_WORLD);
            overwrite(theirs, (size_t)size);
            MPI_Bsend(apart, 1, halves, peer, 7, MPI_COMM_WORLD);
            overwrite(apart, (size_t)size);
            meet();
            free(apart);
            free(theirs);
            MPI_Free_mem(ours);
            MPI_Type_free(&halves);
        } else {
            meet();
            receive(size, 1);
            receive(size, 2);
            receive(size / 2, 3);
        }
    }
}

/* Head to head, which blocking sends would not survive. */
void bsend_both(void)
{
    for (unsigned round = 0; round < 10; round++) {
        void *buf = buffer(1 << 20, (unsigned)rank + round);
        MPI_Bsend(buf, 1 << 20, MPI_BYTE, peer, 7, MPI_COMM_WORLD);
        MPI_Free_mem(buf);
        receive(1 << 20, (unsigned)peer + round);
    }
}

/* Of a size that MPI takes at once, while nobody receives and nothing is left to protect the buffer with. */
void bsend_unprotected(void)
{
    enum { N = 3000, SIZE = 8000 };
    void *buf = buffer(SIZE, 0);
    if (rank == 1)
        nap();
    for (unsigned i = 0; i < N; i++) {
        pattern_fill(buf, SIZE, i);
        if (rank == 0)
            MPI_Bsend(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD);
        else
            receive(SIZE, i);
    }
    MPI_Free_mem(buf);
}

/* Over before anybody has received it. */
void ibsend(void)
{
    for (int i = 0; i < SIZES; i++) {
        if (rank == 0) {
            MPI_Request requests[2];
            int index, done = 0;
            void *buf = buffer((size_t)sizes[i], 1);
            MPI_Ibsend(buf, sizes[i], MPI_BYTE, peer, 7, MPI_COMM_WORLD, &requests[0]);
            MPI_Irecv(NULL, 0, MPI_BYTE, peer, 8, MPI_COMM_WORLD, &requests[1]);
            MPI_Waitany(2, requests, &index, MPI_STATUS_IGNORE);
            CHECK(index == 0);
            overwrite(buf, (size_t)sizes[i]);
            MPI_Test(&requests[1], &done, MPI_STATUS_IGNORE);
            CHECK(!done);
            meet();
            MPI_Wait(&requests[1], MPI_STATUS_IGNORE);
            MPI_Free_mem(buf);
        } else {
            meet();
            MPI_Send(NULL, 0, MPI_BYTE, peer, 8, MPI_COMM_WORLD);
            receive(sizes[i], 1);
        }
    }
}

/* Waits for buffered messages alone: another one that nobody asks for any more is not received before. */
void buffer_detach(void)
{
    enum { SIZE = 4 << 20 };
    if (rank == 0) {
        MPI_Request request;
        char attached[100 + MPI_BSEND_OVERHEAD];
        void *buf = buffer(SIZE, 1), *detached;
        int size;
        MPI_Buffer_attach(attached, sizeof attached);
        MPI_Isend(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
        MPI_Request_free(&request);
        MPI_Bsend(buf, 100, MPI_BYTE, peer, 8, MPI_COMM_WORLD);
        MPI_Buffer_detach(&detached, &size);
        CHECK(detached == attached && size == sizeof attached);
        meet();
        MPI_Free_mem(buf);
    } else {
        MPI_Recv(buffer(100, 0), 100, MPI_BYTE, peer, 8, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        meet();
        receive(SIZE, 1);
    }
}

/* One of MPI_Ibsend, too, whose request the program still has. */
void ibsend_detach(void)
{
    enum { SIZE = 4 << 20 };
    _Atomic int *receiving; /* of rank 1's */
    MPI_Win win;
    MPI_Aint bytes;
    int unit, size;
    MPI_Win_allocate_shared(rank == 1 ? sizeof *receiving : 0, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &receiving, &win);
    MPI_Win_shared_query(win, 1, &bytes, &unit, &receiving);
    if (rank == 1)
        *receiving = 0;
    meet();
    if (rank == 0) {
        MPI_Request request;
        char attached[100 + MPI_BSEND_OVERHEAD];
        void *buf = buffer(SIZE, 1), *detached;
        MPI_Buffer_attach(attached, sizeof attached);
        MPI_Ibsend(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
        MPI_Buffer_detach(&detached, &size);
        CHECK(*receiving);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        MPI_Free_mem(buf);
    } else {
        nap();
        *receiving = 1;
        receive(SIZE, 1);
    }
    MPI_Win_free(&win);
}

/* n blocks of 4 KiB, one to each `stride` of them, of which there is no copy to be had: an error, and not a part of
 * it. */
static void expect_no_copy(const void *buf, int n, int stride)
{
    MPI_Datatype block, all;
    MPI_Type_contiguous(4096, MPI_BYTE, &block);
    MPI_Type_vector(n, 1, stride, block, &all);
    MPI_Type_commit(&all);
    CHECK(MPI_Bsend(buf, 1, all, MPI_PROC_NULL, 7, MPI_COMM_WORLD) != MPI_SUCCESS);
    MPI_Type_free(&block);
    MPI_Type_free(&all);
}

/* Sizes that an int would make small ones of. */
void bsend_too_large(void)
{
    size_t size = ((size_t)1 << 40) + 4096;
    void *buf = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(buf != MAP_FAILED);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    expect_no_copy(buf, (1 << 28) + 1, 1);
    expect_no_copy(buf, (1 << 20) + 1, 2);
    munmap(buf, size);
}

void persistent(void)
{
    for (int i = 0; i < SIZES; i++) {
        MPI_Request requests[2];
        size_t size = (size_t)sizes[i];
        char *out = buffer(size, 1), *in = buffer(size, 2);
        MPI_Send_init(out, sizes[i], MPI_BYTE, peer, 7, MPI_COMM_WORLD, &requests[0]);
        MPI_Recv_init(in, sizes[i], MPI_BYTE, peer, 7, MPI_COMM_WORLD, &requests[1]);
        const MPI_Request before[2] = {requests[0], requests[1]};
        for (unsigned round = 0; round < 5; round++) {
            pattern_fill(out, size, round + (unsigned)rank);
            if (round % 2)
                MPI_Startall(2, requests);
            else
                MPI_Start(&requests[0]), MPI_Start(&requests[1]);
            overwrite(out, size);
            if (round < 3) {
                MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
            } else {
                MPI_Wait(&requests[1], MPI_STATUS_IGNORE);
                MPI_Wait(&requests[0], MPI_STATUS_IGNORE);
            }
            CHECK(memcmp(before, requests, sizeof before) == 0);
            CHECK_PATTERN(in, size, round + (unsigned)peer);
        }
        int done;
        MPI_Status status;
        MPI_Test(&requests[1], &done, &status); /* not started: over, and empty */
        CHECK(done && status.MPI_SOURCE == MPI_ANY_SOURCE);
        MPI_Request_free(&requests[0]);
        MPI_Request_free(&requests[1]);
        MPI_Free_mem(in);
        MPI_Free_mem(out);
    }
}

/* Each of the calls that complete requests, with some that are not zc's between. */
void completions(void)
{
    enum { N = 40, SIZE = 20000 };
    for (int way = 0; way < 7; way++) {
        MPI_Request requests[2 * N];
        char *out[N], *in[N];
        int left = 2 * N, seen = 0;
        for (int i = 0; i < N; i++) {
            in[i] = i % 3 ? buffer(SIZE, 0) : malloc(SIZE);
            out[i] = i % 4 ? buffer(SIZE, 0) : malloc(SIZE);
            pattern_fill(out[i], SIZE, (unsigned)(rank * N + i));
            MPI_Irecv(in[i], SIZE, MPI_BYTE, peer, i, MPI_COMM_WORLD, &requests[i]);
        }
        for (int i = 0; i < N; i++) {
            MPI_Isend(out[i], SIZE, MPI_BYTE, peer, i, MPI_COMM_WORLD, &requests[N + i]);
            if (i % 4)
                overwrite(out[i], SIZE);
        }
        while (left > 0) {
            int index = MPI_UNDEFINED, n = 0, flag = 0, indices[2 * N];
            MPI_Status statuses[2 * N];
            switch (way) {
            case 0:
                MPI_Waitall(2 * N, requests, statuses);
                n = 2 * N;
                break;
            case 1:
                MPI_Testall(2 * N, requests, &flag, statuses);
                n = flag ? 2 * N : 0;
                break;
            case 2:
                MPI_Waitany(2 * N, requests, &index, statuses);
                n = 1;
                break;
            case 3:
                MPI_Testany(2 * N, requests, &index, &flag, statuses);
                n = flag;
                break;
            case 4:
                MPI_Waitsome(2 * N, requests, &n, indices, statuses);
                break;
            case 5:
                MPI_Testsome(2 * N, requests, &n, indices, statuses);
                break;
            default:
                MPI_Wait(&requests[seen++], statuses);
                n = 1;
                break;
            }
            CHECK(n != MPI_UNDEFINED);
            if (index != MPI_UNDEFINED && index < N)
                CHECK(statuses[0].MPI_TAG == index);
            left -= n;
        }
        for (int i = 0; i < N; i++) {
            CHECK(requests[i] == MPI_REQUEST_NULL && requests[N + i] == MPI_REQUEST_NULL);
            CHECK_PATTERN(in[i], SIZE, (unsigned)(peer * N + i));
            i % 3 ? (void)MPI_Free_mem(in[i]) : free(in[i]);
            i % 4 ? (void)MPI_Free_mem(out[i]) : free(out[i]);
        }
    }
}

/* MPI may give out one handle for several small messages that are over at once. */
void one_handle(void)
{
    enum { N = 100 };
    if (rank == 0) {
        MPI_Request requests[N];
        char *buf[N];
        for (int i = 0; i < N; i++) {
            buf[i] = buffer(64, (unsigned)i);
            MPI_Isend(buf[i], 64, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &requests[i]);
        }
        for (int i = N - 1; i >= 0; i--) {
            overwrite(buf[i], 64);
            MPI_Wait(&requests[i], MPI_STATUS_IGNORE);
            CHECK(requests[i] == MPI_REQUEST_NULL);
            overwrite(buf[i], 64);
        }
    } else {
        for (unsigned i = 0; i < N; i++)
            receive(64, i);
    }
}

/* Somebody completes requests without the shim, and MPI gives their handles out again. (Not where threads wait for
 * receives: they would ask for a request that is no more.) */
void completed_elsewhere(void)
{
    enum { SIZE = 800000, ROUNDS = 5 };
    char *buf = buffer(SIZE, 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        MPI_Request request;
        if (rank == 0) {
            nap();
            pattern_fill(buf, SIZE, round);
            MPI_Send(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD);
            meet();
        } else {
            MPI_Irecv(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
            PMPI_Wait(&request, MPI_STATUS_IGNORE);
            CHECK_PATTERN(buf, SIZE, round);
            meet();
        }
    }
    MPI_Free_mem(buf);
}
