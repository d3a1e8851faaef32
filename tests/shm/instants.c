/* SPDX-License-Identifier: MIT
 *
 * Cases: a peer is killed at one instant after the other, from before it opens its communicator until after it has
 * closed it. Another process takes its rank, at once, and what it has with the one that stays is as ever, in the same
 * communicator or, where the killed one had left that, in the next one. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"
#include "core/clock.h"

enum { STAYS, GOES, RANKS };
enum { LENGTH = 20000, HELLO = 1, OUT, IN, LENT, BYE }; /* tags */

/* The first byte of a message says whose it is: what the killed one had sent may still come. */
enum who { VICTIM = 'v', SUCCESSOR = 's' };

static void fill(char *out, char who)
{
    pattern_fill(out, LENGTH, (unsigned)who);
    out[0] = who;
}

static void check(const char *in, char who)
{
    char expected[LENGTH];

    fill(expected, who);
    CHECK(memcmp(in, expected, LENGTH) == 0);
}

static void goes(char who, bool stop)
{
    zc_comm *comm = open_rank(GOES, RANKS);
    char *buffer = ALLOC(LENGTH);

    fill(buffer, who);
    if (stop)
        raise(SIGSTOP);
    CHECK_OK(zc_send(buffer, 1, STAYS, HELLO, comm));
    CHECK_OK(zc_send(buffer, LENGTH, STAYS, IN, comm));
    CHECK_OK(zc_send(buffer, LENGTH, STAYS, LENT, comm));
    CHECK_OK(zc_recv(buffer, LENGTH, STAYS, OUT, comm, NULL));
    check(buffer, who);
    CHECK_OK(zc_recv(NULL, 0, STAYS, BYE, comm, NULL));
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_close(comm));
}

/* A message of `who`, or the error that it is gone. */
static int receive(zc_comm *comm, char *in, char who)
{
    int error;

    do
        error = zc_recv(in, LENGTH, GOES, IN, comm, NULL);
    while (!error && in[0] != who);
    if (!error)
        check(in, who);
    return error;
}

static int look(zc_comm *comm, char who)
{
    zc_view view;
    int error;
    char whose;

    do {
        if ((error = zc_recv_view(&view, GOES, LENT, comm)))
            return error;
        whose = *(const char *)view.data;
        check(view.data, whose);
        CHECK_OK(zc_release(&view));
    } while (whose != who);
    return 0;
}

/* Who was there to the end, or the error that it is gone. */
static int meet_one(zc_comm *comm, char *buffer)
{
    char who;
    int error = zc_recv(&who, 1, GOES, HELLO, comm, NULL);

    if (error)
        return error;
    CHECK(who == VICTIM || who == SUCCESSOR);
    fill(buffer, who);
    if ((error = zc_send(buffer, LENGTH, GOES, OUT, comm)) || (error = receive(comm, buffer, who)) ||
        (error = look(comm, who)) || (error = zc_send(NULL, 0, GOES, BYE, comm)))
        return error;
    return who;
}

static void stays(int rank)
{
    zc_comm *comm = open_rank(rank, RANKS);
    char *buffer = ALLOC(LENGTH);
    int met;

    while ((met = meet_one(comm, buffer)) != SUCCESSOR) {
        CHECKF(met == VICTIM || met == -ECONNRESET || met == -ECANCELED, "%s", zc_strerror(met));
        CHECK_OK(zc_progress(comm));
        if (met == -ECANCELED) { /* it had left: the successor waits for the next communicator */
            zc_close(comm);
            comm = open_rank(rank, RANKS);
        }
    }
    CHECK_OK(zc_free(buffer));
    zc_close(comm); /* with the error of what was in flight to the killed one, or not */
}

static void succeeds(int rank)
{
    (void)rank;
    goes(SUCCESSOR, false);
}

/* ---- stopping at an instant ---- */

/* Goes on to the next stop. False: the process has ended. A signal of its own is handed on. */
static bool go_on(pid_t child, enum __ptrace_request how, int *signal)
{
    int status;

    CHECKF(ptrace(how, child, NULL, (long)*signal) == 0, "%s", strerror(errno));
    CHECK(waitpid(child, &status, __WALL) == child);
    if (!WIFSTOPPED(status)) {
        CHECKF(status == 0, "the traced process ended with status %#x", (unsigned)status);
        return false;
    }
    *signal = WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status);
    return true;
}

/* Kills a process after so many stops. False: it had ended before. */
static bool kill_after(long stops, bool opened, enum __ptrace_request how)
{
    pid_t child = fork();
    int signal = 0, status;

    CHECK(child >= 0);
    if (child == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        raise(SIGSTOP);
        goes(VICTIM, opened);
        _exit(0); /* a sanitizer does not look for leaks here: it would trace as well */
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    CHECK(ptrace(PTRACE_SETOPTIONS, child, NULL, (long)PTRACE_O_EXITKILL) == 0);
    if (opened)
        go_on(child, PTRACE_CONT, &signal);
    bool there = true;
    while (there && stops-- > 0)
        there = go_on(child, how, &signal);
    if (there)
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, __WALL) == child);
    return there;
}

/* False: it has ended before that instant. */
static bool replaced_at(long stops, bool opened, enum __ptrace_request how)
{
    pid_t staying, successor;

    children_start(1, stays, &staying);
    bool killed = kill_after(stops, opened, how);
    children_start(1, succeeds, &successor);
    children_end(1, &successor);
    children_end(1, &staying);
    CHECKF(files_left() == 0, "%d files are left", files_left());
    return killed;
}

/* ThreadSanitizer's runtime delivers signals itself, and does not run under a tracer. */
static bool can_trace(void)
{
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
    printf("skipped: not under ThreadSanitizer\n");
    return false;
#endif
#endif
    return true;
}

void case_killed_at_each_system_call(void)
{
    if (!can_trace())
        return;
    uint64_t thorough = clock_ns() + 10 * (uint64_t)1000000000;

    for (long n = 0; replaced_at(n, false, PTRACE_SYSCALL); n += clock_ns() < thorough ? 1 : 10)
        ;
}

/* While it sends: a short message, at every third, and longer ones. */
void case_killed_between_instructions(void)
{
    uint64_t thorough = clock_ns() + 20 * (uint64_t)1000000000;
    unsigned seed = 7;

    if (!can_trace())
        return;
    for (long n = 0; n < 1000; n += clock_ns() < thorough ? 3 : 100)
        replaced_at(n, true, PTRACE_SINGLESTEP);
    thorough += 5 * (uint64_t)1000000000;
    for (int i = 0; i < 40; i += clock_ns() < thorough ? 1 : 10)
        replaced_at(rand_r(&seed) % 6000, true, PTRACE_SINGLESTEP);
}

/* ---- the instant at which what it passes on can be seen ---- */

enum { FIRST, PASSES, SEES, CHAIN };

static void first_sender(int rank)
{
    zc_comm *comm = open_rank(rank, CHAIN);
    char *buffer = ALLOC(LENGTH);

    fill(buffer, VICTIM);
    CHECK_OK(zc_send(buffer, LENGTH, PASSES, LENT, comm));
    CHECK_IS(zc_recv(NULL, 0, PASSES, BYE, comm, NULL), -ECONNRESET);
    memset(buffer, 0, LENGTH);
    tell(1);
    CHECK_OK(zc_free(buffer));
    zc_close(comm); /* with the error of the send */
}

static void passes_on(void)
{
    zc_comm *comm = open_rank(PASSES, CHAIN);
    zc_view view;

    CHECK_OK(zc_recv_view(&view, FIRST, LENT, comm));
    raise(SIGSTOP);
    CHECK_OK(zc_forward(&view, SEES, LENT, comm));
    CHECK(false); /* it was killed */
}

/* Traces the one that passes on. */
static void sees_first(void)
{
    pid_t child = fork();
    int signal = 0, status, there = 0;
    zc_view view;

    CHECK(child >= 0);
    if (child == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        passes_on();
    }
    zc_comm *comm = open_rank(SEES, CHAIN);
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    while (!there) {
        CHECK(go_on(child, PTRACE_SINGLESTEP, &signal));
        CHECK_OK(zc_iprobe(PASSES, LENT, comm, &there, NULL));
    }
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, __WALL) == child);
    CHECK_OK(zc_recv_view(&view, PASSES, LENT, comm));
    await(1); /* the first sender has stored to it */
    check(view.data, VICTIM);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_close(comm));
}

static void in_chain(int n)
{
    CHECK(setenv("ZC_POLICY", "protect", 1) == 0);
    if (n == 0)
        first_sender(FIRST);
    else
        sees_first();
}

/* Between instructions, too: at the very first one after which the receiver can see it. */
void case_killed_while_passing_on(void)
{
    pid_t child[2];

    if (!can_trace())
        return;
    children_start(2, in_chain, child);
    children_end(2, child);
}
