/* SPDX-License-Identifier: MIT
 *
 * Cases: a peer is killed. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

#define BIG (8 * MIB)

static void victim(int rank)
{
    zc_comm *comm = open_rank(rank, 3);
    char *out = ALLOC(BIG);
    zc_view view;

    pattern_fill(out, BIG, 6);
    CHECK_OK(zc_recv_view(&view, 0, 1, comm));
    CHECK_OK(zc_send(out, BIG, 0, 2, comm));
    CHECK_OK(zc_send(out, BIG, 0, 2, comm));
    tell(1);
    pause();
}

static void survivor(int rank)
{
    zc_comm *comm = open_rank(rank, 3);
    char *out = ALLOC(BIG), *in = ALLOC(BIG), *never = ALLOC(10000);
    zc_view view;
    zc_status status;

    pattern_fill(out, BIG, 5);
    CHECK_OK(zc_irecv(never, 10000, 1, 99, comm)); /* was never sent */
    CHECK_OK(zc_send(out, BIG, 1, 1, comm));       /* is lent to it */
    CHECK_OK(zc_send(out, BIG, 1, 9, comm));       /* is offered, and not taken */
    CHECK_OK(zc_recv_view(&view, 1, 2, comm));
    await(1); /* all has been sent */
    tell(2);
    CHECK_IS(zc_wait(never, &status), -ECONNRESET);
    CHECK(status.error == -ECONNRESET);
    CHECK_FAILS(zc_send(out, 10, 1, 2, comm), -ECONNRESET, "rank 1 is lost");
    CHECK_IS(zc_flush(comm), -ECONNRESET);
    CHECK_OK(zc_flush(comm));
    /* Its holds are gone, */
    zc_stats before = stats_now();
    memset(out, 2, BIG);
    CHECK(stats_now().conflicts == before.conflicts);
    /* what it has lent is still there, and what it has sent, too, */
    CHECK_PATTERN(view.data, BIG, 6);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_recv(in, BIG, 1, 2, comm, NULL));
    CHECK_PATTERN(in, BIG, 6);
    CHECK_IS(zc_recv(in, 10, 1, 2, comm, NULL), -ECONNRESET);
    /* and others are undisturbed. */
    for (unsigned i = 0; i < 10; i++) {
        pattern_fill(out, MIB, i);
        CHECK_OK(zc_send(out, MIB, 2, 3, comm));
        CHECK_OK(zc_recv(in, MIB, 2, 3, comm, NULL));
        CHECK_PATTERN(in, MIB, i);
    }
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(never));
    CHECK_OK(zc_close(comm));
}

static void echo(int rank)
{
    zc_comm *comm = open_rank(rank, 3);
    char *buffer = ALLOC(MIB);

    for (unsigned i = 0; i < 10; i++) {
        CHECK_OK(zc_recv(buffer, MIB, 0, 3, comm, NULL));
        CHECK_OK(zc_send(buffer, MIB, 0, 3, comm));
    }
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_close(comm));
}

static void three(int rank)
{
    (rank == 0 ? survivor : rank == 1 ? victim : echo)(rank);
}

void case_killed(void)
{
    pid_t child[3];

    children_start(3, three, child);
    await(2);
    child_kill(&child[1]);
    children_end(3, child);
}

/* ---- at any time ---- */

/* All that there is, in both directions, for ever. */
static void chatter(int rank)
{
    zc_comm *comm = open_rank(rank, 2);
    char *out = ALLOC(300000), *in = ALLOC(300000);
    unsigned n = 0;
    int error = 0;

    for (; !error; n++) {
        size_t length = n % 3 == 0 ? 10 : n % 3 == 1 ? 5000 : 300000;
        zc_view view;

        pattern_fill(out, 100, n);
        error = zc_send(out, length, 1 - rank, 4, comm);
        if (!error && n % 2)
            error = zc_recv(in, length, 1 - rank, 4, comm, NULL);
        else if (!error && !(error = zc_recv_view(&view, 1 - rank, 4, comm)))
            error = zc_release(&view);
        if (n == 100)
            tell(1);
    }
    CHECK_IS(error, -ECONNRESET);
    memset(out, 1, 300000);
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(in));
    zc_close(comm);
}

void case_killed_at_any_time(void)
{
    for (unsigned i = 0; i < 20; i++) {
        pid_t child[2];

        tell(0);
        children_start(2, chatter, child);
        await(1);
        usleep(i * 317);
        child_kill(&child[1]);
        children_end(2, child);
        CHECKF(files_left() == 0, "%d files are left", files_left());
    }
}

/* ---- while there is always a message of others ---- */

static bool by_polls; /* else by receives that find theirs at once */

/* One more message of its own is under way than it has taken, so that no look finds nothing. */
static void busy(int rank)
{
    enum { TURNS = 100000 };
    zc_comm *comm = open_rank(rank, 2);
    char *in = ALLOC(1), byte = 0;
    int error = 0;

    if (rank == 1) {
        tell(1);
        pause();
    }
    await(2); /* it was killed */
    CHECK_OK(zc_send(&byte, 1, 0, 8, comm));
    for (unsigned i = 0; i < TURNS && !error; i++) {
        error = zc_send(&byte, 1, 1, 6, comm);
        CHECK_OK(zc_send(&byte, 1, 0, 8, comm));
        if (by_polls) {
            CHECK_OK(zc_irecv(in, 1, 0, 8, comm));
            CHECK_OK(zc_wait(in, NULL));
        } else {
            CHECK_OK(zc_recv(&byte, 1, 0, 8, comm, NULL));
        }
    }
    CHECK_IS(error, -ECONNRESET);
    zc_close(comm);
}

void case_killed_amid_traffic(void)
{
    for (int i = 0; i < 2; i++) {
        pid_t child[2];

        by_polls = i > 0;
        tell(0);
        children_start(2, busy, child);
        await(1);
        child_kill(&child[1]);
        tell(2);
        children_end(2, child);
    }
}

/* ---- another one in its place ---- */

static void *sleep_until_noticed(void *argument)
{
    zc_comm *comm = argument;
    char byte;

    CHECK_IS(zc_recv(&byte, 1, 1, 5, comm, NULL), -ECONNRESET);
    return NULL;
}

static bool rarely; /* nothing is called but a send now and then */

static void stays(int rank)
{
    CHECK(setenv("ZC_FAULT_TIMEOUT", "1000000", 1) == 0); /* nothing else wakes a sleeper */
    zc_comm *comm = open_rank(rank, 2);
    char byte = 0;

    tell(1);
    pthread_t sleeper = thread_start(sleep_until_noticed, comm);
    await(2); /* it is killed */
    thread_join(sleeper);
    tell(3);
    while (zc_send(&byte, 1, 1, 6, comm) == -ECONNRESET) {
        if (rarely)
            usleep(10000);
        else
            CHECK_OK(zc_progress(comm));
    }
    CHECK_OK(zc_recv(&byte, 1, 1, 7, comm, NULL));
    CHECK_OK(zc_close(comm));
}

static void comes_and_goes(int rank)
{
    open_rank(rank, 2);
    pause();
}

static void takes_over(int rank)
{
    char byte;
    zc_comm *comm = open_rank(1, 2);

    (void)rank;
    CHECK_OK(zc_recv(&byte, 1, 0, 6, comm, NULL));
    CHECK_OK(zc_send(&byte, 1, 0, 7, comm));
    CHECK_OK(zc_close(comm));
}

static void first_two(int rank)
{
    (rank == 0 ? stays : comes_and_goes)(rank);
}

static void replace(void)
{
    pid_t child[2], third;

    tell(0);
    children_start(2, first_two, child);
    await(1);
    usleep(20000); /* it sleeps by now */
    CHECK(kill(child[1], SIGKILL) == 0);
    tell(2);
    CHECK(waitpid(child[1], NULL, 0) == child[1]);
    child[1] = 0;
    await(3);
    children_start(1, takes_over, &third);
    children_end(1, &third);
    children_end(2, child);
}

void case_replaced(void)
{
    replace();
    rarely = true;
    replace();
}

/* ---- many in its place, and others that only knock ---- */

enum { KILLED = 5, KNOCKS = 20, KEPT_LENGTH = 20000 };

static unsigned listed(const struct link *link)
{
    unsigned n = 0;

    for (; link; link = link->next)
        n++;
    return n;
}

/* Connects by hand, and goes. */
static void knock(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s/zc/case%d.0", getenv("XDG_RUNTIME_DIR"), ranks_process);
    CHECK(connect(sock, (struct sockaddr *)&address, sizeof address) == 0);
    close(sock);
}

static void outlives(int rank)
{
    zc_comm *comm = open_rank(rank, 2);
    const struct shm *shm = shm_of(comm);
    zc_view kept, view;

    CHECK(zc_fd(comm) >= 0); /* each poll looks who comes and goes */
    for (int i = 0; i < KILLED; i++) {
        int error;
        while ((error = zc_recv_view(i ? &view : &kept, 1, 1, comm)) == -ECONNRESET)
            CHECK_OK(zc_progress(comm));
        CHECK_OK(error);
        if (i)
            CHECK_OK(zc_release(&view));
        tell(i + 1);
    }
    for (int i = 0; i < KNOCKS; i++) {
        knock();
        CHECK_OK(zc_progress(comm));
    }
    while (!shm->peers[1]->error)
        CHECK_OK(zc_progress(comm));
    for (int i = 0; i < 100; i++)
        CHECK_OK(zc_progress(comm));
    CHECKF(listed(shm->links) == 2, "%u links are listed", listed(shm->links));
    CHECKF(listed(shm->retired) == 1, "%u links are kept", listed(shm->retired)); /* for what is lent */
    CHECK_PATTERN(kept.data, KEPT_LENGTH, 3);
    CHECK_OK(zc_release(&kept));
    CHECK_OK(zc_close(comm));
}

static void sends_once(int rank)
{
    zc_comm *comm = open_rank(1, 2);
    char *out = ALLOC(KEPT_LENGTH);

    (void)rank;
    pattern_fill(out, KEPT_LENGTH, 3);
    CHECK_OK(zc_send(out, KEPT_LENGTH, 0, 1, comm));
    pause();
}

/* They leave nothing behind but what is still looked at. */
void case_lost_links_go(void)
{
    pid_t staying, child;

    children_start(1, outlives, &staying);
    for (int i = 0; i < KILLED; i++) {
        children_start(1, sends_once, &child);
        await(i + 1);
        child_kill(&child);
    }
    children_end(1, &staying);
}

/* ---- nobody is left ---- */

static void *wait_for_any(void *argument)
{
    char byte;

    CHECK_FAILS(zc_recv(&byte, 1, ZC_ANY_SOURCE, 9, argument, NULL), -ECANCELED, "from rank any with tag 9");
    return NULL;
}

static void leaves(int rank)
{
    zc_comm *comm = open_rank(rank, 3);
    char byte = (char)rank;

    if (rank != 0) {
        CHECK_OK(zc_send(&byte, 1, 0, 7, comm));
        await(rank);
        CHECK_OK(zc_close(comm));
        return;
    }
    char *in = ALLOC(10);
    int done;
    CHECK_OK(zc_irecv(in, 10, ZC_ANY_SOURCE, 8, comm));
    pthread_t waiter = thread_start(wait_for_any, comm);
    tell(1);
    CHECK_IS(zc_recv(&byte, 1, 1, 8, comm, NULL), -ECANCELED);
    CHECK_OK(zc_test(in, &done, NULL));
    CHECK(!done); /* rank 2 is still there */
    tell(2);
    CHECK_IS(zc_wait(in, NULL), -ECANCELED);
    thread_join(waiter);
    for (int i = 0; i < 2; i++) /* what they had sent is still there, */
        CHECK_OK(zc_recv(&byte, 1, ZC_ANY_SOURCE, 7, comm, NULL));
    CHECK_FAILS(zc_probe(ZC_ANY_SOURCE, 7, comm, NULL), -ECANCELED, "all other ranks"); /* and no more will come */
    CHECK_OK(zc_irecv(in, 10, ZC_ANY_SOURCE, 7, comm));
    CHECK_IS(zc_wait(in, NULL), -ECANCELED);
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}

/* A receive from any rank ends when all others have closed in order. A rank that is alone from the start may send to
 * itself. */
void case_all_others_closed(void)
{
    pid_t child[3];

    children_start(3, leaves, child);
    children_end(3, child);

    zc_comm *comm = open_rank(0, 1);
    char *in = ALLOC(10);
    CHECK_OK(zc_irecv(in, 10, ZC_ANY_SOURCE, 1, comm));
    CHECK_OK(zc_send("self", 5, 0, 1, comm));
    CHECK_OK(zc_wait(in, NULL));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}

/* ---- a child of the victim keeps nothing alive ---- */

static void forks(int rank)
{
    zc_comm *comm = open_rank(rank, 2);
    char byte;

    if (rank == 1) {
        if (fork() == 0) {
            tell(1);
            await(2);
            exit(0);
        }
        pause();
    }
    CHECK_IS(zc_recv(&byte, 1, 1, 5, comm, NULL), -ECONNRESET);
    tell(2);
    CHECK_OK(zc_close(comm));
}

void case_forked_child_hides_nothing(void)
{
    pid_t child[2];

    children_start(2, forks, child);
    await(1);
    child_kill(&child[1]);
    children_end(2, child);
}

/* ---- nor does one that is forked while a communicator is closed, and it keeps what is not of that ---- */

static _Atomic int awaited = -1; /* a descriptor */

/* Another thread opens something by the number that was just closed, and forks. */
static void take_and_fork(int fd)
{
    int status;

    CHECK(dup2(STDERR_FILENO, fd) == fd);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(fcntl(fd, F_GETFD) < 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECKF(status == 0, "descriptor %d was closed in the child", fd);
}

/* In the place of the C library's, and a cancellation point as well. */
int close(int fd)
{
    pthread_testcancel();
    int expected = fd, error = (int)syscall(SYS_close, fd);

    if (error == 0 && atomic_compare_exchange_strong(&awaited, &expected, -1))
        take_and_fork(fd), error = (int)syscall(SYS_close, fd);
    return error;
}

void case_forked_amid_closing(void)
{
    zc_comm *comm[2];

    ranks_open(comm, 2, NULL);
    const struct link *link = shm_of(comm[0])->peers[1];
    pid_t child = _Fork(); /* as after the list of what it is to close was left */
    CHECK(child >= 0);
    if (child == 0)
        for (;;)
            pause();
    atomic_store(&awaited, shm_of(comm[1])->listener);
    CHECK_OK(zc_close(comm[1]));
    CHECK(atomic_load(&awaited) == -1);
    for (int i = 0; i < 1000 && !link->error; i++)
        CHECK_OK(zc_progress(comm[0]));
    CHECK(link->error);
    child_kill(&child);
    CHECK_OK(zc_close(comm[0]));
}
