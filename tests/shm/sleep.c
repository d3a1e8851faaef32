/* SPDX-License-Identifier: MIT
 *
 * Cases: ranks that sleep, and what wakes them. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cases.h"
#include "core/clock.h"
#include "idle.h"

/* A further communicator of this case. */
static zc_comm *open_another(unsigned number, int rank, int size)
{
    char address[96];
    zc_comm *comm = NULL;

    snprintf(address, sizeof address, "shm:case%d-%u?rank=%d&size=%d&wait=20", ranks_process, number, rank, size);
    CHECK_OK(zc_open(address, NULL, &comm));
    return comm;
}

/* ---- idle ---- */

static void wait_idle(int rank, zc_comm *comm)
{
    char byte = 0;

    if (rank == 0) {
        sleep(10);
        CHECK_OK(zc_send(&byte, 1, 1, 1, comm));
        return;
    }
    struct rusage before = idle_starts(RUSAGE_SELF);
    CHECK_OK(zc_recv(&byte, 1, 0, 1, comm, NULL));
    check_idle(RUSAGE_SELF, &before, 10);
}

/* The first two have one communicator, the others several. */
static void idle(int number)
{
    int rank = number % 2;
    zc_comm *comm[4] = {NULL};

    if (number < 2) {
        comm[0] = open_rank(rank, 2);
    } else {
        for (unsigned i = 0; i < 3; i++)
            comm[i] = open_another(i, rank, 2);
        CHECK_OK(zc_open("loop", NULL, &comm[3]));
    }
    wait_idle(rank, comm[0]);
    for (unsigned i = 0; i < 4; i++)
        CHECK_OK(zc_close(comm[i]));
}

void case_idle_uses_no_processor(void)
{
    pid_t child[4];

    children_start(4, idle, child);
    children_end(4, child);
}

/* ---- waiting for a send to leave, or for several things ---- */

enum { LARGE = 100000, PAUSE_US = 2000000 };

/* The first to wait for is a receive, or neither is, and the second one of another communicator, or not. */
static void wait_for_either(zc_comm *comm, zc_comm *other)
{
    char *first = ALLOC(LARGE), *second = ALLOC(LARGE);
    int which = -1;

    CHECK_OK(zc_irecv(first, LARGE, 0, 1, comm));
    CHECK_OK(zc_send(second, LARGE, 0, 2, other));
    tell(1);
    struct rusage before = idle_starts(RUSAGE_SELF);
    CHECK_OK(zc_wait_any(2, (const void *[]){first, second}, &which, NULL));
    check_idle(RUSAGE_SELF, &before, 50);
    CHECK(which == 1);
    CHECK_OK(zc_send(second, LARGE, 0, 2, other));
    tell(2);
    before = idle_starts(RUSAGE_SELF);
    CHECK_OK(zc_wait(second, NULL));
    check_idle(RUSAGE_SELF, &before, 50);
    CHECK_OK(zc_cancel(first));
    CHECK_OK(zc_free(first));
    CHECK_OK(zc_free(second));
}

static void take_late(zc_comm *comm)
{
    char *in = ALLOC(LARGE);

    for (int i = 1; i <= 2; i++) {
        await(i);
        usleep(PAUSE_US);
        CHECK_OK(zc_recv(in, LARGE, 1, 2, comm, NULL));
    }
    CHECK_OK(zc_free(in));
}

static void wait_for_send(int rank)
{
    setenv("ZC_POLICY", "protect", 1); /* what was copied has left */
    zc_comm *comm = open_rank(rank, 2), *other = open_another(1, rank, 2);

    for (int i = 0; i < 2; i++) {
        zc_comm *over = i ? other : comm;
        if (rank == 0)
            take_late(over);
        else
            wait_for_either(comm, over);
        CHECK_OK(zc_flush(over));
        tell(0);
        CHECK_OK(zc_sendrecv(NULL, 0, 1 - rank, 3, NULL, 0, 1 - rank, 3, comm, NULL));
    }
    CHECK_OK(zc_close(other));
    CHECK_OK(zc_close(comm));
}

void case_waiting_for_a_send(void)
{
    pid_t child[2];

    children_start(2, wait_for_send, child);
    children_end(2, child);
}

/* ---- a communicator that is opened while a thread sleeps over another one ---- */

static void *receive_one(void *comm)
{
    char byte;

    CHECK_OK(zc_recv(&byte, 1, 0, 1, comm, NULL));
    return NULL;
}

static void open_later(int rank)
{
    enum { LENGTH = 300000 };
    char *buffer = ALLOC(LENGTH);
    zc_comm *comm = open_rank(rank, 2), *later;

    if (rank == 0) {
        later = open_another(1, 0, 2);
        await(1);
        pattern_fill(buffer, LENGTH, 1);
        CHECK_OK(zc_send(buffer, LENGTH, 1, 1, later));
        CHECK_OK(zc_flush(later));
        CHECK_OK(zc_send(buffer, 1, 1, 1, comm));
    } else {
        pthread_t thread = thread_start(receive_one, comm);
        usleep(200000); /* it sleeps by now */
        later = open_another(1, 1, 2);
        CHECK_OK(zc_irecv(buffer, LENGTH, 0, 1, later));
        tell(1);
        thread_join(thread);
        CHECK_OK(zc_wait(buffer, NULL));
        CHECK_PATTERN(buffer, LENGTH, 1);
    }
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_close(later));
    CHECK_OK(zc_close(comm));
}

void case_opened_while_asleep(void)
{
    pid_t child[2];

    children_start(2, open_later, child);
    children_end(2, child);
}

/* ---- one that is closed while a thread sleeps over it ---- */

static bool among_others; /* by zc_wait_any */

static void *wait_for_end(void *buffer)
{
    int which;

    CHECK_IS(among_others ? zc_wait_any(1, (const void *[]){buffer}, &which, NULL) : zc_wait(buffer, NULL), -ECANCELED);
    return NULL;
}

void case_closed_while_asleep(void)
{
    for (int i = 0; i < 2; i++) {
        zc_comm *comm = open_another((unsigned)i, 0, 1);
        char *buffer = ALLOC(LARGE);

        among_others = i > 0;
        CHECK_OK(zc_irecv(buffer, LARGE, 0, 1, comm));
        pthread_t thread = thread_start(wait_for_end, buffer);
        while (!atomic_load(&shm_of(comm)->sleeping))
            usleep(1000);
        CHECK(atomic_load(&comm->inside) == 1); /* so its memory is not taken from under it */
        CHECK_OK(zc_close(comm));
        thread_join(thread);
        CHECK_OK(zc_free(buffer));
    }
}

/* ---- waiting over two communicators: what ends over the one wakes who sleeps at the other ---- */

struct either {
    zc_comm *first, *second;
    char *over_first, *over_second;
};

static void either_open(struct either *e)
{
    e->first = open_another(0, 0, 1);
    e->second = open_another(1, 0, 1);
    e->over_first = ALLOC(KIB);
    e->over_second = ALLOC(KIB);
    CHECK_OK(zc_irecv(e->over_first, KIB, 0, 1, e->first)); /* never comes */
    CHECK_OK(zc_irecv(e->over_second, KIB, 0, 1, e->second));
}

static void either_close(struct either *e)
{
    CHECK_OK(zc_cancel(e->over_first));
    CHECK_OK(zc_free(e->over_first));
    CHECK_OK(zc_free(e->over_second));
    CHECK_OK(zc_close(e->first));
    CHECK_OK(zc_close(e->second));
}

/* Has waited for long, and sleeps with its next poll: it has slept, and nothing new has happened since. */
static struct waiting wait_for_long(zc_comm *comm)
{
    const unsigned tired = shm_of(comm)->patience_most + SHM_YIELDS;
    struct waiting waiting = {.napped = true, .deadline = clock_ns() + 1000000};

    while (clock_ns() < waiting.deadline) {
        waiting.polls = tired;
        comm_poll_waiting(comm, NULL, &waiting);
    }
    waiting.deadline = 0;
    waiting.polls = tired;
    return waiting;
}

/* The very poll after which one sleeps takes the message. */
void case_ends_before_sleep(void)
{
    struct either e;

    either_open(&e);
    struct waiting waiting = wait_for_long(e.first);
    CHECK_OK(zc_send("x", 1, 0, 1, e.second));
    comm_poll_waiting(e.first, NULL, &waiting);
    CHECK_OK(zc_wait(e.over_second, NULL));
    either_close(&e);
}

static void *wait_for_any(void *argument)
{
    struct either *e = argument;
    int which = -1;

    CHECK_OK(zc_wait_any(2, (const void *[]){e->over_first, e->over_second}, &which, NULL));
    CHECK(which == 1);
    return NULL;
}

/* Another thread ends it, without a message. */
void case_ended_by_another(void)
{
    struct either e;

    either_open(&e);
    pthread_t thread = thread_start(wait_for_any, &e);
    while (!shm_of(e.second)->watchers)
        usleep(1000);
    CHECK_OK(zc_cancel(e.over_second));
    thread_join(thread);
    either_close(&e);
}

/* ---- waiting for a send that is only looked at from now on, which no message tells ---- */

void case_lent_before_sleep(void)
{
    zc_comm *comm[2];
    char *out = ALLOC(LARGE);
    zc_view view;

    ranks_open(comm, 2, NULL);
    CHECK_OK(zc_send(out, LARGE, 1, 1, comm[0]));
    CHECK_OK(zc_progress(comm[1])); /* it is there */
    struct waiting waiting = wait_for_long(comm[0]);
    CHECK(comm_sending(comm[0]) == 1);
    CHECK_OK(zc_recv_view(&view, 0, 1, comm[1]));
    comm_poll_waiting(comm[0], NULL, &waiting);
    CHECK(comm_sending(comm[0]) == 0);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_flush(comm[0]));
    CHECK_OK(zc_free(out));
    ranks_close(comm, 2);
}

/* ---- the descriptor of zc_fd, where others take what has come ---- */

static bool is_readable(zc_comm *comm, int ms)
{
    struct pollfd fd = {.fd = zc_fd(comm), .events = POLLIN};

    return poll(&fd, 1, ms) == 1;
}

/* The helper thread does. It is readable until zc_progress. */
void case_descriptor_and_helper(void)
{
    zc_comm *comm = open_rank(0, 1);
    char byte;
    int found;

    CHECK(is_readable(comm, 0)); /* at first: there may have been something before */
    for (int i = 0; i < 100; i++) {
        CHECK_OK(zc_progress(comm));
        CHECK(!is_readable(comm, 0));
        CHECK_OK(zc_send("x", 1, 0, 1, comm));
        comm_look(comm);
        CHECK(is_readable(comm, 0));
        comm_look(comm);
        CHECK(is_readable(comm, 0));
        CHECK_OK(zc_progress(comm));
        CHECK_OK(zc_iprobe(0, 1, comm, &found, NULL));
        CHECK(found);
        CHECK_OK(zc_recv(&byte, 1, 0, 1, comm, NULL));
    }
    CHECK_OK(zc_close(comm));
}

/* A thread that waits for something else does, and sleeps, though the program does not look. */
void case_descriptor_and_sleeper(void)
{
    enum { MESSAGES = 1000 };
    zc_comm *comm = open_rank(0, 1);
    char byte;

    CHECK(zc_fd(comm) >= 0);
    pthread_t thread = thread_start(receive_one, comm);
    for (int i = 0; i < MESSAGES; i++) {
        if (i % 10 == 0)
            usleep(1000);
        CHECK_OK(zc_send("x", 1, 0, 2, comm));
        for (int found = 0; !found;) {
            CHECKF(is_readable(comm, 5000), "nothing told of message %d", i);
            CHECK_OK(zc_progress(comm));
            CHECK_OK(zc_iprobe(0, 2, comm, &found, NULL));
        }
        CHECK_OK(zc_recv(&byte, 1, 0, 2, comm, NULL));
    }
    CHECK_OK(zc_send("x", 1, 0, 2, comm));
    struct rusage before = idle_starts(RUSAGE_SELF);
    sleep(2);
    check_idle(RUSAGE_SELF, &before, 20);
    CHECK(is_readable(comm, 0));
    CHECK_OK(zc_recv(&byte, 1, 0, 2, comm, NULL));
    CHECK_OK(zc_send("x", 1, 0, 1, comm));
    thread_join(thread);
    CHECK_OK(zc_close(comm));
}

/* ---- a thread with a cancellation pending wakes one that sleeps, and leaves no lock behind ---- */

static char *never; /* is received into */

static void wake_by_message(zc_comm *comm)
{
    CHECK_OK(zc_send("x", 1, 0, 2, comm));
}

static void wake_by_end(zc_comm *comm)
{
    (void)comm;
    CHECK_OK(zc_cancel(never));
}

static void look_often(zc_comm *comm)
{
    for (int i = 0; i < 1000; i++)
        CHECK_OK(zc_progress(comm));
}

static void (*const calls[])(zc_comm *comm) = {wake_by_end, wake_by_message, look_often};

struct cancelled {
    zc_comm *comm;
    void (*call)(zc_comm *comm);
};

static void *call_cancelled(void *argument)
{
    const struct cancelled *c = argument;

    pthread_cancel(pthread_self());
    c->call(c->comm);
    return NULL;
}

void case_cancelled(void)
{
    zc_comm *comm = open_rank(0, 1);
    const _Atomic uint32_t *asleep = &shm_of(comm)->peers[0]->ring.mine->asleep;
    char byte;

    never = ALLOC(1);
    CHECK_OK(zc_irecv(never, 1, 0, 3, comm));
    pthread_t sleeper = thread_start(receive_one, comm);
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
        struct cancelled cancelled = {comm, calls[i]};
        void *result;

        while (!atomic_load(&shm_of(comm)->sleeping) || !(atomic_load(asleep) & RING_ASLEEP))
            usleep(1000);
        pthread_t thread = thread_start(call_cancelled, &cancelled);
        CHECK(pthread_join(thread, &result) == 0);
        CHECKF(result == NULL, "call %u was cancelled", i);
    }
    CHECK_OK(zc_recv(&byte, 1, 0, 2, comm, NULL));
    CHECK_OK(zc_send("x", 1, 0, 1, comm));
    thread_join(sleeper);
    CHECK_OK(zc_free(never));
    CHECK_OK(zc_close(comm));
}

/* ---- many that sleep, each over one of several communicators, or two over the same ---- */

enum { COMMS = 3, THREADS = 4, ROUNDS = 300 };

struct sleeper {
    zc_comm *comm;
    int number, rank;
};

/* Sends and receives in turn, after a while for which the peer's thread sleeps or does not. */
static void *take_turns(void *argument)
{
    const struct sleeper *s = argument;
    size_t length = s->number % 2 ? 100000 : 100;
    char *in = ALLOC(length), *out = ALLOC(length);
    unsigned seed = (unsigned)(s->number * 2 + s->rank);

    for (unsigned i = 0; i < ROUNDS; i++) {
        if (i % 2 == (unsigned)s->rank) {
            if (rand_r(&seed) % 4 == 0)
                usleep((unsigned)rand_r(&seed) % 3000);
            pattern_fill(out, length, i);
            CHECK_OK(zc_send(out, length, 1 - s->rank, s->number, s->comm));
        } else {
            CHECK_OK(zc_recv(in, length, 1 - s->rank, s->number, s->comm, NULL));
            CHECK_PATTERN(in, length, i);
        }
    }
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(out));
    return NULL;
}

static void sleep_together(int rank)
{
    zc_comm *comm[COMMS];
    struct sleeper sleepers[THREADS];
    pthread_t threads[THREADS];

    for (unsigned i = 0; i < COMMS; i++)
        comm[i] = open_another(i, rank, 2);
    for (int i = 0; i < THREADS; i++) {
        sleepers[i] = (struct sleeper){.comm = comm[i % COMMS], .number = i, .rank = rank};
        threads[i] = thread_start(take_turns, &sleepers[i]);
    }
    for (int i = 0; i < THREADS; i++)
        thread_join(threads[i]);
    for (unsigned i = 0; i < COMMS; i++)
        CHECK_OK(zc_close(comm[i]));
}

void case_sleepers(void)
{
    pid_t child[2];

    children_start(2, sleep_together, child);
    children_end(2, child);
}

/* ---- more ranks than processors: they nap before they sleep ---- */

enum { NAPS = 100, NAPPERS_MOST = 64 };

static int nappers;

/* A message reaches who naps though its sender does nothing more for it. */
static void nap(int rank)
{
    zc_comm *comm = open_rank(rank, nappers);
    unsigned seed = 1;
    int done = 0;

    for (int i = 1; i <= NAPS; i++) {
        if (rank == 0) {
            usleep((unsigned)rand_r(&seed) % 300);
            CHECK_OK(zc_send(&i, sizeof i, 1, 1, comm));
            await(i);
        } else if (rank == 1) {
            CHECK_OK(zc_recv(&done, sizeof done, 0, 1, comm, NULL));
            CHECK(done == i);
            tell(i);
        }
    }
    for (int other = 2; other < nappers && rank == 0; other++)
        CHECK_OK(zc_send(&done, sizeof done, other, 2, comm));
    if (rank >= 2) {
        struct rusage before = idle_starts(RUSAGE_SELF);
        CHECK_OK(zc_recv(&done, sizeof done, 0, 2, comm, NULL));
        check_idle(RUSAGE_SELF, &before, 50);
    }
    CHECK_OK(zc_close(comm));
}

void case_naps(void)
{
    pid_t child[NAPPERS_MOST];
    long processors = sysconf(_SC_NPROCESSORS_ONLN);

    nappers = (int)(processors < NAPPERS_MOST ? processors + 1 : NAPPERS_MOST);
    nappers = nappers < 3 ? 3 : nappers;
    children_start(nappers, nap, child);
    children_end(nappers, child);
}
