/* SPDX-License-Identifier: MIT
 *
 * Calls that came with MPI-4, and those that use the program's own address, with buffers that were left protected: what
 * the kernel stores to those would fail with EFAULT. The environment says that all sends protect, and leave it so. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cases.h"

enum { N = 400000, HALF = N / 2, TAG = 7 };

static char *buf, *other; /* of N bytes */
static MPI_Request request;

/* A system call, not the library's, puts back what is there. */
static bool is_protected(char *at)
{
    int ends[2];
    CHECK(pipe(ends) == 0 && syscall(SYS_write, ends[1], at, 1) == 1);
    bool failed = syscall(SYS_read, ends[0], at, 1) != 1;
    close(ends[0]), close(ends[1]);
    return failed;
}

static void send_buf(void)
{
    MPI_Isend(buf, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &request);
    MPI_Recv(other, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
}

/* Fills it, and leaves it protected; `other` holds the same then. */
static char *left_protected(unsigned seed)
{
    pattern_fill(buf, N, seed);
    send_buf();
    send_buf();
    CHECK(is_protected(buf));
    return buf;
}

static void allocate(void)
{
    buf = buffer(N, 0);
    other = buffer(N, 0);
}

static void deallocate(void)
{
    MPI_Free_mem(buf);
    MPI_Free_mem(other);
}

#if MPI_VERSION >= 4
void isendrecv(void)
{
    allocate();
    for (unsigned round = 0; round < 4; round++) {
        left_protected(round);
        MPI_Isendrecv(other, N, MPI_BYTE, peer, TAG, buf, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &request);
        memset(other, 0xee, N);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        CHECK_PATTERN(buf, N, round);

        pattern_fill(buf, N, round + 100 + (unsigned)rank);
        send_buf();
        MPI_Isendrecv_replace(buf, N, MPI_BYTE, peer, TAG, peer, TAG, MPI_COMM_WORLD, &request);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        CHECK_PATTERN(buf, N, round + 100 + (unsigned)peer);
    }
    deallocate();
}

void large_counts(void)
{
    const MPI_Count halves[] = {HALF, HALF};
    const MPI_Aint swapped[] = {HALF, 0};
    const MPI_Datatype bytes[] = {MPI_BYTE, MPI_BYTE};
    allocate();

    left_protected(1);
    MPI_Isend_c(other, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &request);
    memset(other, 0, N);
    MPI_Recv_c(buf, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, N, 1);

    left_protected(2);
    MPI_Bcast_c(rank == 0 ? other : buf, N, MPI_BYTE, 0, MPI_COMM_WORLD);
    CHECK_PATTERN(buf, N, 2);

    left_protected(3);
    memset(other, 'a' + rank, N);
    MPI_Alltoallv_c(other, halves, swapped, MPI_BYTE, buf, halves, swapped, MPI_BYTE, MPI_COMM_WORLD);
    CHECK_BYTES(buf, HALF, 'b');
    CHECK_BYTES(buf + HALF, HALF, 'a');

    left_protected(4);
    memset(other, 'a' + rank, N);
    MPI_Ialltoallw_c(other, halves, swapped, bytes, buf, halves, swapped, bytes, MPI_COMM_WORLD, &request);
    memset(other, 0, N);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK_BYTES(buf, HALF, 'b');
    CHECK_BYTES(buf + HALF, HALF, 'a');

    MPI_Count position = 0;
    left_protected(5);
    MPI_Unpack_c(other, N, &position, buf, N, MPI_BYTE, MPI_COMM_SELF);
    CHECK(position == N);
    CHECK_PATTERN(buf, N, 5);

    /* The value is taken at once, without a buffer attached. */
    left_protected(6);
    MPI_Bsend_c(buf, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD);
    memset(buf, 0, N);
    MPI_Recv(other, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK_PATTERN(other, N, 6);

    MPI_Request again;
    MPI_Send_init_c(buf, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &again);
    for (unsigned round = 0; round < 3; round++) {
        pattern_fill(buf, N, round);
        MPI_Start(&again);
        memset(buf, 0, N);
        MPI_Recv(other, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Wait(&again, MPI_STATUS_IGNORE);
        CHECK_PATTERN(other, N, round);
    }
    MPI_Request_free(&again);
    deallocate();
}

/* While the request lives, MPI may use the buffer where the program has it. */
static void expect_kept(MPI_Request *lives)
{
    memset(buf, 1, N);
    send_buf();
    send_buf();
    CHECK(!is_protected(buf));
    MPI_Request_free(lives);
    left_protected(1);
}

void persistent_collectives(void)
{
    MPI_Request again;
    allocate();
    left_protected(1);
    MPI_Bcast_init(buf, N, MPI_BYTE, 0, MPI_COMM_WORLD, MPI_INFO_NULL, &again);
    CHECK(!is_protected(buf));
    for (unsigned round = 0; round < 4; round++) {
        pattern_fill(buf, N, rank == 0 ? round : 1000);
        send_buf();
        MPI_Start(&again);
        MPI_Wait(&again, MPI_STATUS_IGNORE);
        CHECK(again != MPI_REQUEST_NULL);
        CHECK_PATTERN(buf, N, round);
    }
    expect_kept(&again);
    deallocate();
}

void partitioned(void)
{
    enum { PARTS = 4 };
    MPI_Request both[2];
    allocate();
    left_protected(1);
    MPI_Precv_init(buf, PARTS, N / PARTS, MPI_BYTE, peer, TAG + 1, MPI_COMM_WORLD, MPI_INFO_NULL, &both[0]);
    CHECK(!is_protected(buf));
    char *from = buffer(N, 0);
    MPI_Psend_init(from, PARTS, N / PARTS, MPI_BYTE, peer, TAG + 1, MPI_COMM_WORLD, MPI_INFO_NULL, &both[1]);
    for (unsigned round = 0; round < 3; round++) {
        pattern_fill(from, N, round);
        MPI_Startall(2, both);
        for (int part = 0; part < PARTS; part++)
            MPI_Pready(part, both[1]);
        MPI_Waitall(2, both, MPI_STATUSES_IGNORE);
        CHECK_PATTERN(buf, N, round);
    }
    MPI_Request_free(&both[1]);
    expect_kept(&both[0]);
    MPI_Free_mem(from);
    deallocate();
}
#endif

/* Both ranks send before they receive, which without a buffered value would wait for ever. */
void bsend_init(void)
{
    MPI_Request again;
    allocate();
    MPI_Bsend_init(buf, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &again);
    for (unsigned round = 0; round < 4; round++) {
        pattern_fill(buf, N, round);
        MPI_Start(&again);
        MPI_Wait(&again, MPI_STATUS_IGNORE);
        memset(buf, 0, N);
        MPI_Recv(other, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        CHECK_PATTERN(other, N, round);
    }
    MPI_Request_free(&again);
    CHECK(again == MPI_REQUEST_NULL);
    deallocate();
}

void one_sided(void)
{
    char *shown;
    MPI_Win win;
    allocate();
    MPI_Win_allocate(N, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &shown, &win);
    memset(shown, 'a' + rank, N);

    left_protected(1);
    MPI_Win_fence(0, win);
    MPI_Get(buf, N, MPI_BYTE, peer, 0, N, MPI_BYTE, win);
    CHECK(!is_protected(buf));
    MPI_Win_fence(0, win);
    CHECK_BYTES(buf, N, 'a' + peer);

    left_protected(2);
    MPI_Win_lock(MPI_LOCK_SHARED, peer, 0, win);
    MPI_Rget(buf, N, MPI_BYTE, peer, 0, N, MPI_BYTE, win, &request);
    CHECK(!is_protected(buf));
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Win_unlock(peer, win);
    CHECK_BYTES(buf, N, 'a' + peer);

    meet();
    left_protected(3);
    MPI_Win_lock(MPI_LOCK_EXCLUSIVE, peer, 0, win);
    MPI_Fetch_and_op(other, buf, MPI_BYTE, peer, 0, MPI_REPLACE, win);
    CHECK(!is_protected(buf));
    MPI_Win_unlock(peer, win);
    CHECK(buf[0] == 'a' + peer);
    MPI_Win_free(&win);
    deallocate();
}

/* Named by its absolute address. */
void bottom(void)
{
    MPI_Datatype here;
    MPI_Aint at;
    int length = N;
    allocate();
    MPI_Get_address(buf, &at);
    MPI_Type_create_hindexed(1, &length, &at, MPI_BYTE, &here);
    MPI_Type_commit(&here);
    left_protected(1);
    pattern_fill(other, N, 2);
    MPI_Sendrecv(other, N, MPI_BYTE, peer, TAG, MPI_BOTTOM, 1, here, peer, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, N, 2);

    left_protected(3);
    pattern_fill(other, N, 4);
    MPI_Irecv(MPI_BOTTOM, 1, here, peer, TAG, MPI_COMM_WORLD, &request);
    MPI_Send(other, N, MPI_BYTE, peer, TAG, MPI_COMM_WORLD);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, N, 4);
    MPI_Type_free(&here);
    deallocate();
}

static void expect_shown(bool shown)
{
    memset(buf, 's', N);
    send_buf();
    send_buf();
    CHECK(is_protected(buf) == !shown);
}

/* What others may store to is not protected. */
void windows(void)
{
    MPI_Win win, dynamic;
    allocate();
    left_protected(1);
    MPI_Win_create(buf, N, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &win);
    CHECK(!is_protected(buf));
    expect_shown(true);
    MPI_Win_fence(0, win);
    MPI_Put(other, N, MPI_BYTE, peer, 0, N, MPI_BYTE, win);
    MPI_Win_fence(0, win);
    CHECK_BYTES(buf, N, 's');
    MPI_Win_create_dynamic(MPI_INFO_NULL, MPI_COMM_WORLD, &dynamic);
    MPI_Win_attach(dynamic, buf, HALF);
    MPI_Win_free(&win);
    expect_shown(true);
    MPI_Win_detach(dynamic, buf);
    expect_shown(false);
    MPI_Win_free(&dynamic);
    deallocate();
}

/* As by another thread: while a window is being freed, when its handle is free already, another one is made. */
static MPI_Win made_meanwhile = MPI_WIN_NULL;
static bool make_meanwhile;

__attribute__((visibility("default"))) int PMPI_Win_free(MPI_Win *win)
{
    static int (*next)(MPI_Win *);
    MPI_Win freed = win ? *win : MPI_WIN_NULL;
    if (!next) {
        void *found = dlsym(RTLD_NEXT, "PMPI_Win_free");
        memcpy(&next, &found, sizeof next);
    }
    int code = next(win);
    if (make_meanwhile) {
        MPI_Win_create(buf, N, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &made_meanwhile);
        CHECK(made_meanwhile == freed); /* or it tests nothing */
    }
    return code;
}

void window_meanwhile(void)
{
    MPI_Win win;
    allocate();
    MPI_Win_create(other, N, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &win);
    make_meanwhile = true;
    MPI_Win_free(&win);
    make_meanwhile = false;
    expect_shown(true);
    MPI_Win_free(&made_meanwhile);
    expect_shown(false);
    deallocate();
}

/* ZC_POOLS has room for two of these, with a fall-back for more: MPI's own memory is better, since MPI knows it. */
void alloc_mem_full(void)
{
    enum { COUNT = 5, SIZE = 1 << 20 };
    char *all[COUNT];
    for (int i = 0; i < COUNT; i++) {
        CHECK(MPI_Alloc_mem(SIZE, MPI_INFO_NULL, &all[i]) == MPI_SUCCESS);
        memset(all[i], i, SIZE);
        CHECK(zc_owns(all[i]) == (i < 2));
    }
    for (int i = 0; i < COUNT; i++) {
        CHECK_BYTES(all[i], SIZE, i);
        CHECK(MPI_Free_mem(all[i]) == MPI_SUCCESS);
    }
}

void alignment(void)
{
    enum { COUNT = 4 };
    static const size_t alignments[] = {64, 65536, 2 << 20, 4 << 20}; /* the last is MPI's to do, or not */
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
        char text[16], *all[COUNT];
        MPI_Info info;
        snprintf(text, sizeof text, "%zu", alignments[i]);
        MPI_Info_create(&info);
        MPI_Info_set(info, "mpi_minimum_memory_alignment", text);
        for (int j = 0; j < COUNT; j++) {
            CHECK(MPI_Alloc_mem(100000, info, &all[j]) == MPI_SUCCESS);
            memset(all[j], j, 100000);
            CHECK(zc_owns(all[j]) ? (uintptr_t)all[j] % alignments[i] == 0 : alignments[i] > 2 << 20);
        }
        for (int j = 0; j < COUNT; j++)
            MPI_Free_mem(all[j]);
        MPI_Info_free(&info);
    }
}

static int told; /* of errors */

static void tell(MPI_Comm *comm, int *code, ...)
{
    (void)comm, (void)code;
    told++;
}

/* What is wrong with a call is told to whom the program has named for that, once. */
void errors_returned(void)
{
    const int counts[] = {N, N};
    MPI_Errhandler handler;
    MPI_Request *volatile nowhere = NULL;
    MPI_Win *volatile no_win = NULL;
    void *volatile no_address = NULL;
    MPI_Comm comm;
    allocate();
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    CHECK(MPI_Send(buf, 10, MPI_DATATYPE_NULL, peer, TAG, comm) != MPI_SUCCESS);
    CHECK(MPI_Isend(buf, 10, MPI_DATATYPE_NULL, peer, TAG, comm, &request) != MPI_SUCCESS);
    CHECK(MPI_Bsend(buf, 10, MPI_DATATYPE_NULL, peer, TAG, comm) != MPI_SUCCESS);
    CHECK(MPI_Bcast(buf, 10, MPI_DATATYPE_NULL, 0, comm) != MPI_SUCCESS);
    CHECK(MPI_Gatherv(other, 10, MPI_BYTE, buf, counts, counts, MPI_DATATYPE_NULL, rank, comm) != MPI_SUCCESS);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Isend(buf, N, MPI_BYTE, peer, TAG, comm, &request);
    CHECK(MPI_Start(&request) != MPI_SUCCESS);
    CHECK(MPI_Send_init(buf, N, MPI_BYTE, peer, TAG, comm, nowhere) != MPI_SUCCESS);
    CHECK(MPI_Start(nowhere) != MPI_SUCCESS);
    CHECK(MPI_Cancel(nowhere) != MPI_SUCCESS);
    CHECK(MPI_Request_free(nowhere) != MPI_SUCCESS);
    CHECK(MPI_Wait(nowhere, MPI_STATUS_IGNORE) != MPI_SUCCESS);
    CHECK(MPI_Win_create(buf, N, 1, MPI_INFO_NULL, MPI_COMM_SELF, no_win) != MPI_SUCCESS);
    CHECK(MPI_Win_free(no_win) != MPI_SUCCESS);
    CHECK(MPI_Alloc_mem(N, MPI_INFO_NULL, no_address) != MPI_SUCCESS);
    MPI_Recv(other, N, MPI_BYTE, peer, TAG, comm, MPI_STATUS_IGNORE);
    MPI_Wait(&request, MPI_STATUS_IGNORE);

    MPI_Comm_create_errhandler(tell, &handler);
    MPI_Comm_set_errhandler(comm, handler);
    CHECK(MPI_Bsend(counts, -1, MPI_INT, peer, TAG, comm) != MPI_SUCCESS && told == 1);
    MPI_Errhandler_free(&handler);
    MPI_Comm_free(&comm);
    deallocate();
}

static MPI_File open_file(char name[32])
{
    MPI_File file;
    int fd;
    strcpy(name, "/tmp/zc-shim-XXXXXX");
    fd = mkstemp(name);
    CHECK(fd >= 0 && syscall(SYS_write, fd, other, N) == N);
    close(fd);
    CHECK(MPI_File_open(MPI_COMM_SELF, name, MPI_MODE_RDWR, MPI_INFO_NULL, &file) == MPI_SUCCESS);
    return file;
}

#if MPI_VERSION >= 4
static void use_large_counts(MPI_File file)
{
    pattern_fill(buf, N, 11);
    MPI_File_iwrite_at_c(file, 0, buf, N, MPI_BYTE, &request);
    memset(buf, 0, N);
    MPI_Wait(&request, MPI_STATUS_IGNORE);

    left_protected(3);
    MPI_File_read_at_c(file, 0, buf, N, MPI_BYTE, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, N, 11);

    left_protected(4);
    MPI_File_iread_at_c(file, 0, buf, N, MPI_BYTE, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, N, 11);

    left_protected(5);
    MPI_File_read_at_all_begin_c(file, 0, buf, N, MPI_BYTE);
    MPI_File_read_at_all_end(file, buf, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, N, 11);
}
#endif

void files(void)
{
    char name[32];
    allocate();
    pattern_fill(other, N, 9);
    MPI_File file = open_file(name);

    left_protected(1);
    MPI_File_iread_at(file, 0, buf, N, MPI_BYTE, &request);
    (void)((volatile char *)buf)[HALF]; /* nobody could wait for it */
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, N, 9);

    left_protected(2);
    MPI_File_read_at_all_begin(file, 0, buf, N, MPI_BYTE);
    MPI_File_read_at_all_end(file, buf, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, N, 9);

    /* What is stored after the call is not in the file. */
    pattern_fill(buf, N, 10);
    MPI_File_iwrite_at(file, 0, buf, N, MPI_BYTE, &request);
    memset(buf, 0, N);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_File_read_at(file, 0, buf, N, MPI_BYTE, MPI_STATUS_IGNORE);
    CHECK_PATTERN(buf, N, 10);

#if MPI_VERSION >= 4
    use_large_counts(file);
#endif
    MPI_File_close(&file);
    unlink(name);
    deallocate();
}
