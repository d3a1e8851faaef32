/* SPDX-License-Identifier: MIT
 *
 * Cases: who may meet, and what comes of it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

void case_rank_is_taken(void)
{
    zc_comm *comm[2], *another = NULL;

    ranks_open(comm, 2, NULL);
    char address[96];
    ranks_address(address, sizeof address, 0, 1, 2);
    CHECK_FAILS(zc_open(address, NULL, &another), -EEXIST, "rank 1 is taken");
    CHECK(!another);
    ranks_close(comm, 2);
}

void case_not_all_come(void)
{
    zc_comm *comm = NULL;

    CHECK_FAILS(zc_open("shm:alone?rank=0&size=2&wait=1", NULL, &comm), -ETIMEDOUT, "rank 1 of 2 has not come");
    CHECK(!comm);
}

/* A rank that is there, says what another process is told, and goes. */
static void with_rank_0(void (*other)(void))
{
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        zc_comm *comm = NULL;

        CHECK_FAILS(zc_open("shm:two?rank=0&size=2&wait=2", NULL, &comm), -ETIMEDOUT, "rank 1");
        exit(0);
    }
    while (files_left() == 0)
        usleep(1000);
    other();
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void as_one_of_three(void)
{
    zc_comm *comm = NULL;

    CHECK_FAILS(zc_open("shm:two?rank=1&size=3&wait=20", NULL, &comm), -EINVAL, "opened with another size");
}

void case_another_size(void)
{
    with_rank_0(as_one_of_three);
}

/* The hello of that rank, with nothing wrong in it. */
static struct packet hello_of(int32_t rank)
{
    return (struct packet){.kind = PACKET_HELLO,
                           .page_bytes = 4096,
                           .rank = rank,
                           .size = 2,
                           .protocol = SHM_PROTOCOL,
                           .pids = pid_namespace()};
}

/* Connects by hand and says hello as given: the other side closes the connection. */
static void say(const struct packet *hello)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct packet answer;
    int fd = -1, got, sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s/zc/two.0", getenv("XDG_RUNTIME_DIR"));
    while (connect(sock, (struct sockaddr *)&address, sizeof address)) { /* it is bound, and about to listen */
        CHECKF(errno == ECONNREFUSED, "%s", strerror(errno));
        usleep(1000);
    }
    CHECK_OK(packet_send(sock, hello, -1));
    while ((got = packet_receive(sock, &answer, &fd)) >= 0) {
        if (got == 1 && fd >= 0)
            close(fd);
        usleep(1000);
    }
    CHECK(got == -ECONNRESET);
    close(sock);
}

static void as_another_version(void)
{
    struct packet hello = hello_of(1);

    strcpy(hello.protocol, "zc shm 0");
    say(&hello);
    strcpy(hello.protocol, SHM_PROTOCOL);
    hello.page_bytes = 65536;
    say(&hello);
    hello.page_bytes = 4096; /* right, but for the board */
    say(&hello);
}

void case_another_version(void)
{
    with_rank_0(as_another_version);
}

static void as_another_user(void)
{
    struct packet hello = hello_of(1);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    /* Still able to enter the directory. */
    CHECK(seteuid(65534) == 0 && syscall(SYS_capget, &header, data) == 0);
    data[0].effective = data[0].permitted;
    CHECK(syscall(SYS_capset, &header, data) == 0);
    say(&hello);
    CHECK(seteuid(0) == 0);
}

void case_another_user(void)
{
    if (geteuid() != 0) {
        printf("skipped: only root can be another user\n");
        return;
    }
    with_rank_0(as_another_user);
}

/* Runs it as the first process of a pid namespace, which cannot see who is outside. */
static void in_pid_namespace(void)
{
    int status;

    CHECKF(unshare(CLONE_NEWPID) == 0, "%s", strerror(errno));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        zc_comm *comm = NULL;

        CHECK_FAILS(zc_open("shm:two?rank=1&size=2&wait=2", NULL, &comm), -EPERM, "another pid namespace");
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

void case_another_pid_namespace(void)
{
    if (geteuid() != 0) {
        printf("skipped: only root can make a pid namespace\n");
        return;
    }
    with_rank_0(in_pid_namespace);
}

void case_open_directory(void)
{
    char path[64];
    zc_comm *comm = NULL;

    snprintf(path, sizeof path, "%s/zc", getenv("XDG_RUNTIME_DIR"));
    CHECK(mkdir(path, 0755) == 0);
    CHECK_FAILS(zc_open("shm:x", NULL, &comm), -EPERM, "755");
    rmdir(path);
    CHECK(symlink("/tmp", path) == 0);
    CHECK_FAILS(zc_open("shm:x", NULL, &comm), -ENOTDIR, path);
    unlink(path);
    setenv("XDG_RUNTIME_DIR", "/proc/nowhere", 1);
    CHECK_FAILS(zc_open("shm:x", NULL, &comm), -ENOENT, "/proc/nowhere");
    setenv("XDG_RUNTIME_DIR", "/", 1);
    *strrchr(path, '/') = 0;
    setenv("XDG_RUNTIME_DIR", path, 1);
}

static void be_killed(int rank)
{
    open_rank(rank, 2);
    tell(1);
    pause();
}

enum { MANY = 100, OPENED = 1000000, SEEN };

static void count_signal(int number)
{
    static int count;

    (void)number;
    tell(++count);
}

static void open_amid_signals(int rank)
{
    struct sigaction action = {.sa_handler = count_signal}; /* they end system calls that wait */
    struct itimerval every = {{0, 1000}, {0, 1000}}, none = {{0, 0}, {0, 0}};

    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0);
    zc_comm *comm = open_rank(rank, 1);
    CHECK(setitimer(ITIMER_REAL, &none, NULL) == 0);
    tell(OPENED);
    await(SEEN);
    CHECK_OK(zc_close(comm));
}

/* They let nobody into the directory who has not its lock. */
void case_signals_while_meeting(void)
{
    pid_t child;
    int directory;

    CHECK_OK(directory_open(&directory));
    CHECK(flock(directory, LOCK_EX) == 0);
    children_start(1, open_amid_signals, &child);
    await(MANY);
    CHECKF(files_left() == 0, "%d files are there", files_left());
    CHECK(flock(directory, LOCK_UN) == 0);
    await(OPENED);
    tell(SEEN);
    children_end(1, &child);
    close(directory);
}

/* Who has it is stopped: nobody comes in, but all others go on, and may leave. */
void case_lock_is_kept(void)
{
    zc_comm *comm = NULL, *pair[2];
    pid_t child;
    int directory;
    char byte;

    children_start(1, be_killed, &child);
    zc_comm *other = open_rank(1, 2);
    await(1);
    ranks_open(pair, 2, NULL);
    CHECK_OK(directory_open(&directory));
    CHECK(flock(directory, LOCK_EX) == 0);
    CHECK_FAILS(zc_open("shm:late?wait=1", NULL, &comm), -ETIMEDOUT, "directory's lock");
    child_kill(&child);
    CHECK_IS(zc_recv(&byte, 1, 0, 5, other, NULL), -ECONNRESET);
    ranks_close(pair, 2);
    CHECK_OK(zc_close(other));
    CHECK(flock(directory, LOCK_UN) == 0);
    close(directory);
    CHECK_OK(zc_open("shm:late", NULL, &comm)); /* what they left behind goes */
    CHECK_OK(zc_close(comm));
}

/* All were killed: what they left behind is in nobody's way, and goes when any communicator is opened. */
static void after_the_killed(const char *address)
{
    pid_t child[2];
    zc_comm *comm = NULL, *other = NULL;

    children_start(2, be_killed, child);
    await(1);
    for (int i = 0; i < 2; i++)
        kill(child[i], SIGKILL);
    for (int i = 0; i < 2; i++)
        CHECK(waitpid(child[i], NULL, 0) == child[i]);
    CHECK(files_left() == 2);
    CHECK_OK(zc_open(address, NULL, &comm));
    CHECKF(files_left() == 1, "%d files are left", files_left());
    /* Who lives stays. */
    CHECK_FAILS(zc_open("shm:other?rank=0&size=2&wait=1", NULL, &other), -ETIMEDOUT, "rank 1");
    CHECK(files_left() == 1);
    CHECK_IS(zc_open(address, NULL, &other), -EEXIST);
    CHECK_OK(zc_close(comm));
}

void case_stale_sockets(void)
{
    after_the_killed(address_of(0, 1));
}

void case_stale_sockets_of_others(void)
{
    after_the_killed("shm:another");
}

/* ---- a name that is used again ---- */

enum { ROUNDS = 300, REFUSED = 1 };

/* One message each way, of the round. */
static void exchange(int rank, unsigned round, zc_comm *comm)
{
    unsigned other;

    CHECK_OK(zc_send(&round, sizeof round, 1 - rank, 1, comm));
    CHECK_OK(zc_recv(&other, sizeof other, 1 - rank, 1, comm, NULL));
    CHECKF(other == round, "round %u got a message of round %u", round, other);
}

/* Rank 0 comes again while rank 1 is still in the communicator that it has closed: it waits for the next one. */
static void comes_early(int rank)
{
    CHECK(setenv("ZC_PROGRESS", "thread", 1) == 0); /* who comes is dealt with at any time */
    zc_comm *comm = open_rank(rank, 2);
    char address[96];

    exchange(rank, 0, comm);
    if (rank == 0) {
        CHECK_OK(zc_close(comm));
        snprintf(address, sizeof address, "shm:case%d?rank=0&size=2&wait=1", ranks_process);
        CHECK_FAILS(zc_open(address, NULL, &comm), -ETIMEDOUT, "rank 1 of 2 has not come");
        tell(REFUSED);
    } else {
        await(REFUSED);
        CHECK_OK(zc_close(comm));
    }
    comm = open_rank(rank, 2);
    exchange(rank, 1, comm);
    CHECK_OK(zc_close(comm));
}

static void closes_and_opens(int rank)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        zc_comm *comm = open_rank(rank, 2);
        exchange(rank, round, comm);
        CHECK_OK(zc_close(comm));
    }
}

void case_opened_again(void)
{
    pid_t child[2];

    children_start(2, comes_early, child);
    children_end(2, child);
    children_start(2, closes_and_opens, child);
    children_end(2, child);
}

/* ---- a rank that says what is not right ---- */

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | 0x10 /* F_SEAL_FUTURE_WRITE */ };

struct liar {
    int listener;
    const struct packet *hello;
    int board;
};

/* Is rank 0 to the first that connects, until that one goes. */
static void *greet_with(void *argument)
{
    const struct liar *liar = argument;
    struct packet packet;
    int fd, got, sock = accept4(liar->listener, NULL, NULL, SOCK_CLOEXEC);

    CHECK(sock >= 0);
    CHECK_OK(packet_send(sock, liar->hello, liar->board));
    while ((got = packet_receive(sock, &packet, &fd)) >= 0) {
        if (got == 1 && fd >= 0)
            close(fd);
        usleep(1000);
    }
    close(sock);
    return NULL;
}

static void listen_as_rank_0(int listener, struct sockaddr_un *address)
{
    int directory;

    CHECK_OK(directory_open(&directory));
    close(directory);
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address->sun_path, sizeof address->sun_path, "%s/zc/two.0", getenv("XDG_RUNTIME_DIR"));
    CHECK(bind(listener, (struct sockaddr *)address, sizeof *address) == 0 && listen(listener, 0) == 0);
}

/* What zc_open of rank 1 says to such a hello of rank 0, with a board of `size` bytes; "": nothing, all is well. */
static void greeted_with(const struct packet *hello, size_t size, int seals, const char *says)
{
    struct sockaddr_un address;
    struct liar liar = {socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), hello,
                        memfd_create("board", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    zc_comm *comm = NULL;

    CHECK(ftruncate(liar.board, (off_t)size) == 0 && fcntl(liar.board, F_ADD_SEALS, seals) == 0);
    listen_as_rank_0(liar.listener, &address);
    pthread_t thread = thread_start(greet_with, &liar);
    int error = zc_open("shm:two?rank=1&size=2&wait=20", NULL, &comm);
    if (*says)
        CHECK_FAILS(error, -EPROTO, says);
    else
        CHECK_OK(error);
    if (comm)
        zc_close(comm);
    thread_join(thread);
    CHECK(unlink(address.sun_path) == 0);
    close(liar.board);
    close(liar.listener);
}

void case_hello_is_checked(void)
{
    struct packet hello = hello_of(0);
    size_t size = (sizeof(struct board) + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);

    greeted_with(&hello, size, SEALS, "");
    greeted_with(&hello, size, SEALS & ~F_SEAL_SHRINK, "its board did not come, or is not sealed"); /* SIGBUS, later */
    greeted_with(&hello, size, SEALS & ~0x10, "its board did not come, or is not sealed");
    greeted_with(&hello, size - PAGE_BYTES, SEALS, "its board did not come, or is not sealed");
    greeted_with(&hello, size + PAGE_BYTES, SEALS, "its board did not come, or is not sealed");
    hello.page_bytes = 65536;
    greeted_with(&hello, size, SEALS, "its pages have another size");
    hello.page_bytes = 4096;
    strcpy(hello.protocol, "zc shm 0");
    greeted_with(&hello, size, SEALS, "it speaks another version of zc");
}

/* ---- one that accepts nobody for a while ---- */

/* Makes room when the first has come in vain. */
static void *accept_late(void *argument)
{
    const struct liar *liar = argument;

    usleep(50000);
    close(accept4(liar->listener, NULL, NULL, SOCK_CLOEXEC));
    return greet_with(argument);
}

void case_backlog_is_full(void)
{
    struct packet hello = hello_of(0);
    struct sockaddr_un address;
    struct liar liar = {socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), &hello, -1};
    int filler = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    zc_comm *comm = NULL;

    listen_as_rank_0(liar.listener, &address);
    CHECK(connect(filler, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK_FAILS(zc_open("shm:two?rank=0&size=2", NULL, &comm), -EEXIST, "rank 0 is taken");
    CHECK_FAILS(zc_open("shm:two?rank=1&size=2&wait=1", NULL, &comm), -ETIMEDOUT, "rank 0 of 2 has not come");
    pthread_t thread = thread_start(accept_late, &liar);
    CHECK_FAILS(zc_open("shm:two?rank=1&size=2&wait=20", NULL, &comm), -EPROTO, "its board did not come");
    thread_join(thread);
    CHECK(unlink(address.sun_path) == 0);
    close(filler);
    close(liar.listener);
}

/* ---- one that computes while the other closes ---- */

enum { EMPTY = 8, FIRST = RING_CELLS - EMPTY, MORE = 15 /* sends after a poll, before the next */, LENGTH = 20000 };
enum { SENT = 1, TAKEN, ALL_SENT, CLOSED };

/* Rank 1 has no room for all that rank 0 answers, and takes nothing in. */
static void computes(int rank)
{
    CHECK(rank == 1 || setenv("ZC_FAULT_TIMEOUT", "50", 1) == 0);
    zc_comm *comm = open_rank(rank, 2);

    char *sent = ALLOC(LENGTH);
    if (rank == 1) {
        for (int i = 0; i < EMPTY; i++) /* without an answer: so that the last of the first polls */
            CHECK_OK(zc_send(NULL, 0, 0, 2, comm));
        for (int i = 0; i < FIRST; i++)
            CHECK_OK(zc_send(sent, LENGTH, 0, 1, comm));
        tell(SENT);
        await(TAKEN);
        for (int i = 0; i < MORE; i++)
            CHECK_OK(zc_send(sent, LENGTH, 0, 1, comm));
        tell(ALL_SENT);
        await(CLOSED);
        CHECK_IS(zc_close(comm), -ECONNRESET);
    } else {
        await(SENT);
        for (int i = 0; i < FIRST; i++)
            CHECK_OK(zc_recv(sent, LENGTH, 1, 1, comm, NULL));
        tell(TAKEN);
        await(ALL_SENT);
        for (int i = 0; i < MORE; i++)
            CHECK_OK(zc_recv(sent, LENGTH, 1, 1, comm, NULL));
        CHECK_OK(zc_close(comm));
        tell(CLOSED);
    }
    CHECK_OK(zc_free(sent));
}

void case_closed_while_other_computes(void)
{
    pid_t child[2];

    children_start(2, computes, child);
    children_end(2, child);
}
