/* SPDX-License-Identifier: MIT
 *
 * Hazards: what is in flight while the program calls nothing of zc, and touches that wait for it long. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hazard.h"
#include "transport/comm.h"

enum { SHORT_MS = 100, TIMES = 3 };

/* Stderr of the process, meanwhile. */
struct listener {
    zc_comm *comm;
    int ends[2], before;
    size_t length;
    char said[2048];
};

static void listen_start(struct listener *l)
{
    l->before = dup(STDERR_FILENO);
    CHECK(l->before >= 0 && pipe(l->ends) == 0);
    CHECK(dup2(l->ends[1], STDERR_FILENO) >= 0 && close(l->ends[1]) == 0);
}

/* Takes in what is said, until that is there or nothing comes any more. */
static void listen_for(struct listener *l, const char *text)
{
    size_t room = sizeof l->said - 1;

    for (ssize_t got = 1; got > 0 && !(text && strstr(l->said, text)); l->length += (size_t)got) {
        got = read(l->ends[0], l->said + l->length, room - l->length);
        CHECK(got >= 0);
    }
}

static void listen_end(struct listener *l)
{
    CHECK(dup2(l->before, STDERR_FILENO) >= 0);
    listen_for(l, NULL);
    fputs(l->said, stderr);
}

static unsigned count(const char *text, const char *part)
{
    unsigned n = 0;

    for (; (text = strstr(text, part)); text++)
        n++;
    return n;
}

static void *send_when_told(void *argument)
{
    struct listener *l = argument;
    char *buffer = ALLOC(64 * KIB);

    pattern_fill(buffer, 64 * KIB, 1);
    listen_for(l, "4711");
    usleep(1000 * TIMES * SHORT_MS); /* would it be said again? Right either way */
    CHECK_OK(zc_send(buffer, 64 * KIB, 0, 4711, l->comm));
    return NULL;
}

/* A touch that has waited for too long says so once, and goes on to wait. With userfaultfd it may be believed to have
 * gone, where it does not come again soon when it is asked: then it is a new one. */
void hazard_message_comes_after_timeout(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    struct listener l = {0};

    options.fault_timeout_ms = SHORT_MS;
    CHECK_OK(zc_open("loop", &options, &l.comm));
    char *in = ALLOC(64 * KIB);
    CHECK_OK(zc_irecv(in, 64 * KIB, 0, 4711, l.comm));
    listen_start(&l);
    pthread_t sender = thread_start(send_when_told, &l);
    (void)*(volatile char *)in;
    thread_join(sender);
    listen_end(&l);
    CHECK_PATTERN(in, 64 * KIB, 1);
    int times = count(l.said, "zc: still waiting: ");
    CHECKF((times == 1 || (times > 1 && on_userfaultfd())) && strstr(l.said, "received into from rank 0, tag 4711"),
           "\"%s\"", l.said);
    CHECK_OK(zc_wait(in, NULL));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(l.comm));
}

/* A send and its receive, without a call of zc after both have started. */
static void call_nothing(const char *progress)
{
    zc_stats before;
    bool thread = strcmp(progress, "thread") == 0;

    CHECK(setenv("ZC_PROGRESS", progress, 1) == 0);
    zc_comm *comm = open_self();
    char *buffer = ALLOC(64 * KIB), *in = ALLOC(64 * KIB);
    pattern_fill(buffer, 64 * KIB, 1);
    CHECK_OK(zc_irecv(in, 64 * KIB, 0, 1, comm));
    before = stats_now();
    CHECK_OK(zc_send(buffer, 64 * KIB, 0, 1, comm));
    CHECK(stats_now().sends_protected == before.sends_protected + 1);
    for (int i = 0; (thread || i < 50) && atomic_load(&comm->sending); i++)
        usleep(1000);
    CHECK((atomic_load(&comm->sending) == 0) == thread); /* calls alone: it stays in flight, however long that is */
    memset(buffer, 'b', 64 * KIB);
    CHECK(stats_now().conflicts == before.conflicts + !thread);
    CHECK_PATTERN(in, 64 * KIB, 1);
    CHECK((stats_now().waits > before.waits) == !thread);
    CHECK_BYTES(buffer, 64 * KIB, 'b');
    CHECK_OK(zc_wait(in, NULL));
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}

void hazard_progress_by_thread(void)
{
    call_nothing("thread");
}

void hazard_progress_by_calls(void)
{
    call_nothing("calls");
}
