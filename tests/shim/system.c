/* SPDX-License-Identifier: MIT
 *
 * System calls on buffers in flight, which would fail with EFAULT. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cases.h"

enum { SIZE = 50000 };

static MPI_Request request;

static char *guarded(unsigned seed)
{
    char *buf = buffer(SIZE, seed);
    MPI_Isend(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
    return buf;
}

/* The message was not changed by what happened to the buffer. */
static void done(char *buf, unsigned seed)
{
    char *in = buffer(SIZE, 0);
    MPI_Recv(in, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK_PATTERN(in, SIZE, seed);
    MPI_Free_mem(in);
    MPI_Free_mem(buf);
}

/* From one end to the other, a part at a time: it is more than a pipe holds. */
void system_calls(void)
{
    int ends[2];
    char *out = buffer(SIZE, 100), *buf;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);

    buf = guarded(1);
    CHECK(write(ends[0], out, SIZE) == SIZE);
    CHECK(recv(ends[1], buf, SIZE, MSG_WAITALL) == SIZE);
    CHECK_PATTERN(buf, SIZE, 100);
    done(buf, 1);

    buf = guarded(2);
    CHECK(send(ends[0], buf, SIZE, 0) == SIZE); /* reading is fine */
    struct iovec parts[2] = {{buf, 20000}, {buf + 20000, SIZE - 20000}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    memset(buf, 0, SIZE);
    CHECK(recvmsg(ends[1], &message, MSG_WAITALL) == SIZE);
    CHECK_PATTERN(buf, SIZE, 2);
    done(buf, 2);

    /* Two messages at once, each in two parts. */
    int packets[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, packets) == 0);
    buf = guarded(6);
    struct mmsghdr both[2] = {
        {.msg_hdr = {.msg_iov = (struct iovec[]){{out, 100}, {out + 100, 20000}}, .msg_iovlen = 2}},
        {.msg_hdr = {.msg_iov = (struct iovec[]){{out + 20100, SIZE - 20100}}, .msg_iovlen = 1}}};
    CHECK(sendmmsg(packets[0], both, 2, 0) == 2);
    both[0].msg_hdr.msg_iov = (struct iovec[]){{buf, 100}, {buf + 100, 20000}};
    both[1].msg_hdr.msg_iov = (struct iovec[]){{buf + 20100, SIZE - 20100}};
    CHECK(recvmmsg(packets[1], both, 2, 0, NULL) == 2);
    CHECK(both[0].msg_len == 20100 && both[1].msg_len == SIZE - 20100);
    CHECK_PATTERN(buf, SIZE, 100);
    done(buf, 6);

    FILE *file = tmpfile();
    buf = guarded(3);
    CHECK(pwrite(fileno(file), out, SIZE, 0) == SIZE);
    CHECK(pread(fileno(file), buf, SIZE, 0) == SIZE);
    CHECK_PATTERN(buf, SIZE, 100);
    done(buf, 3);

    buf = guarded(4);
    CHECK(preadv(fileno(file), (struct iovec[]){{buf, SIZE / 2}, {buf + SIZE / 2, SIZE / 2}}, 2, 0) == SIZE);
    CHECK_PATTERN(buf, SIZE, 100);
    done(buf, 4);
    fclose(file);

    /* What is being received into waits for the message. */
    if (!threads)
        return;
    buf = buffer(SIZE, 5);
    MPI_Irecv(buf, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD, &request);
    if (rank == 0)
        MPI_Send(out, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD);
    CHECK(write(ends[0], buf, SIZE) == SIZE);
    if (rank == 1)
        MPI_Send(out, SIZE, MPI_BYTE, peer, 7, MPI_COMM_WORLD);
    char *in = buffer(SIZE, 6);
    CHECK(recv(ends[1], in, SIZE, MSG_WAITALL) == SIZE);
    CHECK_PATTERN(in, SIZE, 100);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
}

void streams(void)
{
    FILE *file = tmpfile();
    char *out = buffer(SIZE, 100), *buf = guarded(1);
    CHECK(fwrite(out, 1, SIZE, file) == SIZE);
    rewind(file);
    CHECK(fread(buf, 1, SIZE, file) == SIZE);
    CHECK_PATTERN(buf, SIZE, 100);
    done(buf, 1);
    fclose(file);
}

#define CHECK_REFUSED(call, why) (errno = 0, CHECK((call) == -1 && errno == (why)))

/* A list that the kernel refuses is its to refuse. */
void refused_lists(void)
{
    enum { PAGE = 4096 };
    int ends[2], packets[2];
    CHECK(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, packets) == 0 && write(ends[1], "x", 1) == 1);
    char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED && mprotect(pages + PAGE, PAGE, PROT_NONE) == 0);
    struct iovec *last = (struct iovec *)(void *)(pages + PAGE) - 1;
    void *volatile nowhere = pages + PAGE;
    char byte;
    *last = (struct iovec){&byte, 1};

    void *volatile null = NULL;
    CHECK_REFUSED(readv(ends[0], null, 1), EFAULT);
    CHECK_REFUSED(writev(ends[1], null, 1), EFAULT);
    CHECK_REFUSED(sendmsg(packets[0], null, 0), EFAULT);
    CHECK_REFUSED(recvmsg(packets[1], null, 0), EFAULT);
    CHECK_REFUSED(sendmmsg(packets[0], null, 1, 0), EFAULT);
    CHECK_REFUSED(recvmmsg(packets[1], null, 1, 0, NULL), EFAULT);

    CHECK_REFUSED(readv(ends[0], nowhere, 1), EFAULT);
    CHECK_REFUSED(writev(ends[1], nowhere, 1), EFAULT);
    CHECK_REFUSED(readv(ends[0], last, 2), EFAULT);
    CHECK_REFUSED(readv(ends[0], last, IOV_MAX + 1), EINVAL);
    CHECK_REFUSED(readv(ends[0], last, -1), EINVAL);
    CHECK(readv(ends[0], last, 1) == 1 && byte == 'x');

    struct mmsghdr messages[] = {{.msg_hdr = {.msg_iov = last, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = nowhere}}};
    messages[1].msg_hdr.msg_iovlen = 1;
    CHECK_REFUSED(sendmsg(packets[0], nowhere, 0), EFAULT);
    CHECK_REFUSED(sendmsg(packets[0], &messages[1].msg_hdr, 0), EFAULT);
    CHECK_REFUSED(sendmmsg(packets[0], nowhere, 1, 0), EFAULT);
    CHECK(sendmmsg(packets[0], messages, 2, 0) == 1);
    CHECK_REFUSED(recvmsg(packets[1], nowhere, 0), EFAULT);
    CHECK_REFUSED(recvmmsg(packets[1], nowhere, 1, 0, NULL), EFAULT);
    CHECK(recvmsg(packets[1], &messages[0].msg_hdr, 0) == 1);
    munmap(pages, 2 * PAGE);
}

/* Of many buffers; and one that is being received itself. */
void long_lists(void)
{
    enum { PARTS = 1000 };
    struct iovec parts[PARTS];
    FILE *file = tmpfile();
    char *out = buffer(SIZE, 100), *buf = guarded(1);
    CHECK(pwrite(fileno(file), out, SIZE, 0) == SIZE);
    for (int i = 0; i < PARTS; i++)
        parts[i] = (struct iovec){buf + (PARTS - 1 - i) * (SIZE / PARTS), SIZE / PARTS};
    CHECK(preadv(fileno(file), parts, PARTS, 0) == SIZE);
    for (int i = 0; i < PARTS; i++)
        CHECK(memcmp(parts[i].iov_base, out + i * (SIZE / PARTS), SIZE / PARTS) == 0);
    done(buf, 1);
    fclose(file);
    if (!threads)
        return;

    int ends[2];
    struct iovec *list = buffer(SIZE, 0);
    CHECK(pipe(ends) == 0);
    MPI_Irecv(list, SIZE, MPI_BYTE, 0, 7, MPI_COMM_SELF, &request);
    MPI_Send(parts, sizeof parts, MPI_BYTE, 0, 7, MPI_COMM_SELF);
    CHECK(writev(ends[1], list, 3) == 3 * (SIZE / PARTS));
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Free_mem(list);
}

static jmp_buf back;

static void jump(MPI_Comm *comm, int *code, ...)
{
    (void)comm, (void)code;
    longjmp(back, 1);
}

/* Below where MPI was left. */
static __attribute__((noinline)) void read_deeper(size_t room)
{
    volatile char used[room];
    for (size_t i = 0; i < room; i++)
        used[i] = (char)i;
    int zeros = open("/dev/zero", O_RDONLY);
    char *buf = guarded(3);
    CHECK(read(zeros, buf, SIZE) == SIZE);
    done(buf, 3);
    close(zeros);
    CHECK(used[room - 1] == (char)(room - 1));
}

/* An error handler may leave MPI for good. */
void after_jump(void)
{
    int zeros = open("/dev/zero", O_RDONLY);
    struct iovec all = {.iov_len = SIZE};
    MPI_Errhandler handler;
    MPI_Comm_create_errhandler(jump, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    if (setjmp(back) == 0) {
        MPI_Send(NULL, 0, MPI_BYTE, 99, 7, MPI_COMM_WORLD);
        CHECK(false);
    }
    char *buf = guarded(1);
    CHECK(read(zeros, buf, SIZE) == SIZE);
    done(buf, 1);
    all.iov_base = buf = guarded(2);
    CHECK(readv(zeros, &all, 1) == SIZE);
    done(buf, 2);
    close(zeros);
    read_deeper(20000);
    MPI_Errhandler_free(&handler);
}
