/* SPDX-License-Identifier: MIT
 *
 * Cases: opening where descriptors or room for files run short. */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "cases.h"
#include "idle.h"
#include "system.h"

/* zc_open says what there is too little of, and keeps nothing open. */
void case_no_descriptors(void)
{
    struct rlimit limit, few;
    zc_comm *comm = NULL;

    zc_free(ALLOC(1)); /* its segment has one */
    int before = system_descriptors();
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (rlim_t n = 3; n <= limit.rlim_cur; n++) { /* some may have been inherited */
        few = (struct rlimit){n, limit.rlim_max};
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        int error = zc_open("shm:few", NULL, &comm);
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        if (!error)
            break;
        CHECK(!comm);
        CHECKF(error == -EMFILE || (error == -EPROTO && strstr(zc_errmsg(), "RLIMIT_NOFILE")), "%s: %s",
               zc_strerror(error), zc_errmsg());
        CHECKF(strstr(zc_errmsg(), "RLIMIT_NOFILE") || strstr(zc_errmsg(), strerror(EMFILE)), "%s", zc_errmsg());
        CHECKF(system_descriptors() == before, "%d descriptors are open, not %d", system_descriptors(), before);
    }
    CHECK(comm); /* in the end it fits */
    CHECK_OK(zc_close(comm));
    CHECKF(system_descriptors() == before, "%d descriptors are open, not %d", system_descriptors(), before);
}

static void *wait_in_vain(void *unused)
{
    zc_comm *comm = NULL;

    (void)unused;
    CHECK_FAILS(zc_open("shm:two?rank=0&size=2&wait=2", NULL, &comm), -ETIMEDOUT, strerror(EMFILE));
    return NULL;
}

enum { FULL = 1 };

/* It has none left for who comes, which it says, and sleeps. */
static void without_room(int rank)
{
    struct rlimit limit;

    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    pthread_t waiter = thread_start(wait_in_vain, NULL);
    while (files_left() == 0)
        usleep(1000);
    usleep(10000); /* it has opened all that it needs */
    struct rusage before = idle_starts(RUSAGE_SELF);
    CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){3, limit.rlim_max}) == 0);
    tell(FULL);
    thread_join(waiter);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    check_idle(RUSAGE_SELF, &before, 300 + rank);
}

void case_no_descriptors_for_others(void)
{
    pid_t child;
    zc_comm *comm = NULL;

    children_start(1, without_room, &child);
    await(FULL);
    CHECK_IS(zc_open("shm:two?rank=1&size=2&wait=1", NULL, &comm), -ETIMEDOUT);
    children_end(1, &child);
}

/* ---- descriptors that are sent and not received yet, of which a user may have as many as a process has open ---- */

static void give_up_privileges(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    CHECK(syscall(SYS_capget, &header, data) == 0);
    data[0].effective &= ~(1U << CAP_SYS_RESOURCE | 1U << CAP_SYS_ADMIN);
    CHECK(syscall(SYS_capset, &header, data) == 0);
}

/* Sends so many. */
static void fill_the_way(int sock)
{
    static const struct packet packet = {.kind = PACKET_WAKE};
    int error;

    while ((error = packet_send(sock, &packet, sock)) == 0)
        ;
    CHECK_IS(error, -ETOOMANYREFS);
}

static void *open_second(void *comm)
{
    *(zc_comm **)comm = open_rank(1, 2);
    return NULL;
}

static void *open_first(void *comm)
{
    *(zc_comm **)comm = open_rank(0, 2);
    return NULL;
}

static void await_files(int n)
{
    int directory;

    while (files_left() < n)
        usleep(1000);
    CHECK_OK(directory_open(&directory));
    CHECK(flock(directory, LOCK_EX) == 0); /* who has come has gone on */
    close(directory);
}

/* Who comes cannot hand over its boards at first. */
void case_too_many_descriptors_under_way(void)
{
    zc_comm *comm[2];
    struct rlimit limit;
    int ends[2], next = dup(0);

    give_up_privileges();
    CHECK(next >= 0 && close(next) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next + 50, limit.rlim_max}) == 0);
    pthread_t first = thread_start(open_first, &comm[0]);
    await_files(1);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
    fill_the_way(ends[0]);
    pthread_t second = thread_start(open_second, &comm[1]);
    await_files(2);
    for (int i = 0; i < 2; i++)
        close(ends[i]);
    thread_join(first);
    thread_join(second);
    CHECK_OK(zc_send(NULL, 0, 1, 1, comm[0]));
    CHECK_OK(zc_recv(NULL, 0, 0, 1, comm[1], NULL));
    ranks_close(comm, 2);
}

/* One that comes has a socket, but no board. That is no error of a call of another rank. */
void case_no_board_for_others(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    zc_comm *comm = open_rank(0, 1);
    struct rlimit limit;
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), next = dup(sock);

    snprintf(address.sun_path, sizeof address.sun_path, "%s/zc/case%d.0", getenv("XDG_RUNTIME_DIR"), ranks_process);
    CHECK(connect(sock, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(next >= 0 && close(next) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next + 1, limit.rlim_max}) == 0);
    CHECK_FAILS(zc_send(NULL, 0, 7, 1, comm), -EINVAL, "zc_send: rank 7");
    while (recv(sock, &address, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN) /* it is not turned away yet */
        CHECK_OK(zc_progress(comm));
    CHECKF(strstr(zc_errmsg(), "zc_send: rank 7"), "%s", zc_errmsg());
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    close(sock);
    CHECK_OK(zc_close(comm));
}

/* A board is a file. */
void case_file_size(void)
{
    struct rlimit limit;
    zc_comm *comm = NULL;

    zc_free(ALLOC(1));
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){64 << 10, limit.rlim_max}) == 0);
    int error = zc_open("shm:few", NULL, &comm);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK_FAILS(error, -EFBIG, "ulimit -f");
    CHECK(!comm);
    CHECK_OK(zc_open("shm:few", NULL, &comm));
    CHECK_OK(zc_close(comm));
}
