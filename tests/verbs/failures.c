/* SPDX-License-Identifier: MIT
 *
 * Cases: a peer dies, leaves, or cannot be reached any more. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

#define BIG (32 * MIB)

/* Told among processes. */
static atomic_int *told;

static void share(void)
{
    told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(told != MAP_FAILED);
}

static void tell(int n)
{
    atomic_store(told, n);
}

static void await(int n)
{
    while (atomic_load(told) < n)
        usleep(1000);
}

/* ---- killed in mid-transfer ---- */

/* What the devices have counted. */
static unsigned long counted(const char *what)
{
    unsigned long sum = 0;

    for (int device = 0; device < 2; device++) {
        char path[96], text[32] = "";

        snprintf(path, sizeof path, "/sys/class/infiniband/rxe%d/ports/1/hw_counters/%s", device, what);
        FILE *file = fopen(path, "r");
        if (!file && device)
            continue;
        CHECK(file && fgets(text, sizeof text, file));
        fclose(file);
        sum += strtoul(text, NULL, 10);
    }
    return sum;
}

/* Sends a message of BIG bytes until the devices have sent a part of it. */
static void send_part(char *buffer, zc_comm *comm)
{
    unsigned long before = counted("sent_pkts");

    CHECK_OK(zc_send(buffer, BIG, 0, 1, comm));
    while (counted("sent_pkts") < before + 500) /* of 8192 */
        CHECK_OK(zc_progress(comm));
}

static atomic_bool stored;

static void *store_early(void *argument)
{
    *(volatile char *)argument = 1; /* waits */
    atomic_store(&stored, true);
    return NULL;
}

static void survivor(int rank)
{
    CHECK(setenv("ZC_CONFLICT", "wait", 1) == 0 && setenv("ZC_POLICY", "protect", 1) == 0);
    zc_comm *comm = open_rank(rank, 3);
    char *out = ALLOC(BIG), *in = ALLOC(BIG), *never = ALLOC(10000);
    zc_status status;

    pattern_fill(out, BIG, 5);
    memset(in, 0, BIG);
    CHECK_OK(zc_irecv(in, BIG, 1, 1, comm));       /* is being read when it dies */
    CHECK_OK(zc_irecv(never, 10000, 1, 99, comm)); /* was never sent */
    CHECK_OK(zc_send(out, BIG, 1, 1, comm));       /* is offered, and not taken */
    pthread_t writer = thread_start(store_early, out + BIG / 2);
    usleep(100000);
    CHECK(!atomic_load(&stored));
    tell(1);
    /* The dead one tells nobody. */
    int result = zc_wait(in, &status);
    CHECKF(result == -ECONNRESET || result == -EIO, "%d: %s", result, zc_errmsg());
    CHECK(status.error == result);
    result = zc_wait(never, &status);
    CHECKF(result == -ECONNRESET || result == -EIO, "%d: %s", result, zc_errmsg());
    thread_join(writer); /* it went on */
    /* The buffers are usable, */
    memset(in, 1, BIG);
    memset(out, 2, BIG);
    memset(never, 3, 10000);
    /* the next calls say what happened, */
    result = zc_send(out, 10, 1, 2, comm);
    CHECKF((result == -ECONNRESET || result == -EIO) && strstr(zc_errmsg(), "rank 1 is lost"), "%d: %s", result,
           zc_errmsg());
    result = zc_recv(in, 10, 1, 2, comm, NULL);
    CHECKF(result == -ECONNRESET || result == -EIO, "%d: %s", result, zc_errmsg());
    result = zc_flush(comm);
    CHECKF(result == -ECONNRESET || result == -EIO, "%d: %s", result, zc_errmsg());
    CHECK_OK(zc_flush(comm));
    /* and others are undisturbed. */
    for (unsigned i = 0; i < 10; i++) {
        pattern_fill(out, MIB, i);
        CHECK_OK(zc_send(out, MIB, 2, 3, comm));
        CHECK_OK(zc_recv(in, MIB, 2, 3, comm, NULL));
        CHECK_PATTERN(in, MIB, i);
    }
    tell(2);
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(never));
    CHECK_OK(zc_close(comm));
}

static void victim(int rank)
{
    zc_comm *comm = open_rank(rank, 3);
    char *out = ALLOC(BIG);

    await(1);
    send_part(out, comm);
    raise(SIGKILL);
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
    await(2);
    int result = zc_close(comm);
    CHECKF(result == 0, "%d: %s", result, zc_errmsg());
}

static void three(int rank)
{
    (rank == 0 ? survivor : rank == 1 ? victim : echo)(rank);
}

void case_peer_killed(void)
{
    pid_t child[3];
    int status;

    share();
    children_start(3, three, child);
    CHECK(waitpid(child[1], &status, 0) == child[1] && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    child[1] = 0;
    children_end(3, child);
}

/* ---- the power of its machine fails in mid-transfer ---- */

/* Rank 1 is in the other guest, which ends when it has sent a part. */
void case_guest_killed(void)
{
    const char *node = getenv("GUEST_NODE");
    int rank = node && *node == '1';
    char *buffer = ALLOC(BIG);
    zc_comm *comm = NULL;

    CHECK_OK(
        zc_open(rank == 0 ? "verbs:?rank=0&size=2&root=10.0.0.1:19000" : "verbs:?rank=1&size=2&root=10.0.0.1:19000",
                NULL, &comm));
    if (rank == 1) {
        send_part(buffer, comm);
        execlp("guest-exit", "guest-exit", "0", (char *)NULL);
    }
    CHECK_OK(zc_irecv(buffer, BIG, 1, 1, comm));
    int result = zc_wait(buffer, NULL);
    CHECKF(result == -ECONNRESET || result == -EIO, "%d: %s", result, zc_errmsg());
    memset(buffer, 1, BIG);
    result = zc_send(buffer, BIG, 1, 2, comm);
    CHECKF((result == -ECONNRESET || result == -EIO) && strstr(zc_errmsg(), "rank 1 is lost"), "%d: %s", result,
           zc_errmsg());
    CHECK_OK(zc_send(buffer, BIG, 0, 3, comm));
    CHECK_OK(zc_recv(buffer, BIG, 0, 3, comm, NULL));
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_free(buffer));
}

/* ---- killed while the other only waits ---- */

/* How rank 0 waits. */
static int by_receive(char *buffer, zc_comm *comm)
{
    return zc_recv(buffer, 10000, ZC_ANY_SOURCE, 1, comm, NULL);
}

static int by_probe(char *buffer, zc_comm *comm)
{
    (void)buffer;
    return zc_probe(1, 1, comm, NULL);
}

static int by_take(char *buffer, zc_comm *comm)
{
    void *message;
    (void)buffer;
    return zc_recv_alloc(&message, 1, 1, comm, NULL);
}

/* It is noticed in time, not after so many looks. */
static int by_test(char *buffer, zc_comm *comm)
{
    int done = 0, result = zc_irecv(buffer, 10000, 1, 1, comm);

    for (int looks = 0; !done && !result; looks++) {
        CHECK(looks < 500);
        usleep(100000);
        result = zc_test(buffer, &done, NULL);
    }
    return result;
}

static int (*wait_by)(char *buffer, zc_comm *comm);
static bool leaves_child;

static void waiter(int rank)
{
    zc_comm *comm = open_rank(rank, 2);
    char *buffer = ALLOC(10000);

    if (rank) {
        pid_t child = leaves_child ? fork() : -1;
        if (child) {
            atomic_store(&told[1], child);
            tell(1);
        }
        pause();
    }
    int result = wait_by(buffer, comm);
    CHECKF(result == -ECONNRESET || result == -EIO, "%d: %s", result, zc_errmsg());
    CHECK_OK(zc_close(comm));
}

static void killed_while_waiting(int (*by)(char *buffer, zc_comm *comm))
{
    pid_t child[2];

    share();
    wait_by = by;
    children_start(2, waiter, child);
    await(1);
    usleep(300000);
    CHECK(kill(child[1], SIGKILL) == 0);
    child[1] = 0;
    children_end(2, child);
}

void case_peer_killed_while_idle(void)
{
    killed_while_waiting(by_receive);
    killed_while_waiting(by_test);
}

void case_peer_killed_that_has_forked(void)
{
    leaves_child = true;
    killed_while_waiting(by_receive);
    CHECK(kill(atomic_load(&told[1]), SIGKILL) == 0);
}

/* Of which the transport has nothing posted. */
void case_peer_killed_while_looked_for(void)
{
    killed_while_waiting(by_probe);
    killed_while_waiting(by_take);
}

/* ---- in good order ---- */

static void *leave(void *argument)
{
    zc_comm *comm = argument;
    char *out = ALLOC(MIB);

    pattern_fill(out, MIB, 3);
    for (unsigned i = 0; i < 200; i++)
        CHECK_OK(zc_send(out, 1000, 0, 1, comm));
    CHECK_OK(zc_send(out, MIB, 0, 1, comm));
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_free(out));
    return NULL;
}

/* What was sent before arrives; what would have come after is cancelled. */
void case_peer_leaves(void)
{
    zc_comm *comm[2];

    ranks_open(comm, 2, NULL);
    char *in = ALLOC(MIB), *never = ALLOC(100);
    CHECK_OK(zc_irecv(never, 100, 1, 2, comm[0]));
    pthread_t thread = thread_start(leave, comm[1]);
    for (unsigned i = 0; i < 201; i++)
        CHECK_OK(zc_recv(in, MIB, 1, 1, comm[0], NULL));
    CHECK_PATTERN(in, MIB, 3);
    CHECK_IS(zc_wait(never, NULL), -ECANCELED);
    thread_join(thread);
    CHECK_IS(zc_recv(in, MIB, 1, 1, comm[0], NULL), -ECANCELED);
    CHECK_FAILS(zc_send(in, MIB, 1, 1, comm[0]), -ECONNRESET, "rank 1 has closed its communicator");
    CHECK_OK(zc_send(in, MIB, 0, 5, comm[0]));
    CHECK_OK(zc_recv(in, MIB, 0, 5, comm[0], NULL));
    CHECK_OK(zc_close(comm[0]));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(never));
}

/* ---- the cable ---- */

static void command(const char *line)
{
    CHECKF(system(line) == 0, "%s", line);
}

/* A transfer from rank 0 to rank 1, each with an end of the cable, that is under way. */
static void start_transfer(zc_comm *comm[], char *out, char *in)
{
    pattern_fill(out, BIG, 1);
    CHECK_OK(zc_irecv(in, BIG, 0, 1, comm[1]));
    CHECK_OK(zc_send(out, BIG, 1, 1, comm[0]));
    for (int i = 0; i < 50; i++)
        CHECK_OK(zc_progress(comm[1]));
}

/* Nothing arrives for a while: the device tries again, and nobody is told. It goes on to try for long. */
void case_short_outage(void)
{
    zc_comm *comm[2];
    int done;

    ranks_transport = "verbs:rxe*";
    ranks_parameters = "&timeout=10K";
    ranks_open(comm, 2, NULL);
    char *out = ALLOC(BIG), *in = ALLOC(BIG);
    start_transfer(comm, out, in);
    command("tc qdisc add dev veth0 root netem loss 100%");
    unsigned long before = counted("completer_retry_err");
    do
        CHECK_OK(zc_test(in, &done, NULL));
    while (!done && counted("completer_retry_err") == before);
    CHECKF(!done, "it was over before");
    command("tc qdisc del dev veth0 root");
    CHECK_OK(zc_wait(in, NULL));
    CHECK_PATTERN(in, BIG, 1);
    ranks_close(comm, 2);
}

/* Pulled for longer than the device tries: what is in flight fails. Put back: new communicators work. */
void case_cable_pulled(void)
{
    zc_comm *comm[2];

    ranks_transport = "verbs:rxe*";
    ranks_open(comm, 2, NULL);
    char *out = ALLOC(BIG), *in = ALLOC(BIG);
    start_transfer(comm, out, in);
    command("ip link set veth1 down");
    int result = zc_wait(in, NULL);
    CHECKF(result == -ECONNRESET || result == -EIO, "%d: %s", result, zc_errmsg());
    result = zc_flush(comm[0]);
    CHECKF(result == -ECONNRESET || result == -EIO, "%d: %s", result, zc_errmsg());
    memset(out, 0, BIG);
    memset(in, 0, BIG);
    CHECK_OK(zc_close(comm[0]));
    CHECK_OK(zc_close(comm[1]));
    command("ip link set veth1 up");
    command("until [ $(cat /sys/class/infiniband/rxe?/ports/1/state | grep -c ACTIVE) = 2 ] && "
            "ping -c 1 -W 1 -I veth0 10.0.0.2; do sleep 0.1; done >/dev/null");
    ranks_open(comm, 2, NULL);
    pattern_fill(out, MIB, 2);
    CHECK_OK(zc_send(out, MIB, 1, 1, comm[0]));
    CHECK_OK(zc_irecv(in, MIB, 0, 1, comm[1]));
    CHECK_OK(zc_wait(in, NULL));
    CHECK_PATTERN(in, MIB, 2);
    ranks_close(comm, 2);
}
