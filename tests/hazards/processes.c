/* SPDX-License-Identifier: MIT
 *
 * Hazards: fork, and system calls on buffers. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hazard.h"

static int wait_for(pid_t child)
{
    int status;

    CHECK(child > 0);
    while (waitpid(child, &status, 0) < 0)
        CHECK(errno == EINTR);
    return status;
}

/* The parent goes on as if nothing had been: what it sent arrives, what it stores is kept. */
static void parent_unharmed(struct flight *f)
{
    zc_stats before = stats_now();

    ((volatile char *)f->buffer)[7] ^= 1;
    expect_conflict(&before);
    flight_land(f);
    CHECK(pattern_differs(f->buffer, f->length, f->seed) == 7);
    flight_release(f);
    flight_start(f, f->comm, f->length, f->seed + 1);
    flight_land(f);
    flight_release(f);
    CHECK_OK(zc_close(f->comm));
}

void hazard_fork_child_frees(void)
{
    struct flight f;
    char *idle = ALLOC(1000);

    memset(idle, 'i', 1000);
    flight_start(&f, open_self(), 64 * KIB, 1);
    pid_t child = fork();
    if (child == 0) {
        /* Each of these does nothing here. */
        CHECK_OK(zc_free(f.buffer));
        CHECK_OK(zc_free(f.in));
        CHECK_OK(zc_free(idle));
        CHECK_OK(zc_free(NULL));
        errno = 0;
        CHECK(zc_alloc(100) == NULL && errno == EPERM);
        CHECK(zc_errmsg()[0]);
        _exit(7);
    }
    int status = wait_for(child);
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 7, "status 0x%x", (unsigned)status);
    CHECK_BYTES(idle, 1000, 'i');
    CHECK_OK(zc_free(idle));
    parent_unharmed(&f);
}

/* Each call that would reach for what is the parent's. */
static void expect_refusals(struct flight *f, char *idle, zc_pool *pool, struct zc_guard *guard)
{
    zc_comm *comm = f->comm;
    const void *list[] = {idle};
    char byte = 0;
    void *got;
    int number;
    zc_view view;
    zc_pool_stats stats = {.size = sizeof stats};

    CHECK_FAILS(zc_send(&byte, 1, 0, 2, comm), -EPERM, "forked");
    CHECK_IS(zc_send(NULL, 0, 0, 2, comm), -EPERM);
    CHECK_IS(zc_send_free(idle, 10, 0, 2, comm), -EPERM);
    CHECK_IS(zc_recv(&byte, 1, 0, 2, comm, NULL), -EPERM);
    CHECK_IS(zc_recv_alloc(&got, 0, 2, comm, NULL), -EPERM);
    CHECK_IS(zc_recv_view(&view, 0, 2, comm), -EPERM);
    CHECK_IS(zc_irecv(idle, 10, 0, 2, comm), -EPERM);
    CHECK_IS(zc_sendrecv(&byte, 1, 0, 2, &byte, 1, 0, 2, comm, NULL), -EPERM);
    CHECK_IS(zc_probe(0, 2, comm, NULL), -EPERM);
    CHECK_IS(zc_iprobe(0, 2, comm, &number, NULL), -EPERM);
    CHECK_IS(zc_flush(comm), -EPERM);
    CHECK_IS(zc_progress(comm), -EPERM);
    CHECK_IS(zc_fd(comm), -EPERM);
    CHECK_IS(zc_rank(comm), -EPERM);
    CHECK_IS(zc_set_error_handler(comm, NULL, NULL), -EPERM);
    CHECK_IS(zc_close(comm), -EPERM);
    CHECK_FAILS(zc_wait(f->in, NULL), -EPERM, "forked");
    CHECK_IS(zc_test(f->in, &number, NULL), -EPERM);
    CHECK_IS(zc_wait_any(1, list, &number, NULL), -EPERM);
    CHECK_IS(zc_cancel(f->in), -EPERM);
    CHECK_IS(zc_writable(f->buffer), -EPERM);
    CHECK_IS(zc_write(f->buffer, &byte, 1), -EPERM);
    CHECK_IS(zc_guard(idle, 10, ZC_DENY_STORES, guard), -EPERM);
    CHECK_FAILS(zc_unguard(guard), -EPERM, "forked");
    CHECK_IS(zc_pin(idle, NULL), -EPERM);
    CHECK_IS(zc_unpin(idle), -EPERM);
    errno = 0;
    CHECK(zc_realloc(idle, 1001) == NULL && errno == EPERM);
    errno = 0;
    CHECK(zc_pool_alloc(pool) == NULL && errno == EPERM);
    CHECK_IS(zc_pool_stats_get(pool, &stats), -EPERM);
    CHECK_IS(zc_pool_trim(pool, NULL), -EPERM);
    CHECK_IS(zc_pool_close(pool), -EPERM);
    CHECK_IS(zc_reinstall(), -EPERM);
}

void hazard_fork_child_calls(void)
{
    struct flight f;
    struct zc_guard guard;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;
    char *idle = ALLOC(1000);

    options.slot_size = PAGE;
    CHECK_OK(zc_pool_open(&options, &pool));
    CHECK_OK(zc_guard(idle, 1000, ZC_DENY_STORES, &guard));
    flight_start(&f, open_self(), 64 * KIB, 1);
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        expect_refusals(&f, idle, pool, &guard);
#ifdef __SANITIZE_ADDRESS__
        _exit(7); /* its search for leaks waits for locks that another thread may have held at the fork */
#endif
        exit(7);
    }
    int status = wait_for(child);
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 7, "status 0x%x", (unsigned)status);
    CHECK_OK(zc_unguard(&guard));
    CHECK_OK(zc_free(idle));
    CHECK_OK(zc_pool_close(pool));
    parent_unharmed(&f);
}

void hazard_fork_child_execs(void)
{
    struct flight f;

    flight_start(&f, open_self(), 64 * KIB, 1);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "exit 9", (char *)NULL);
        _exit(1);
    }
    int status = wait_for(child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9);
    parent_unharmed(&f);
}

/* The child is ended by a signal, with a message that hazards.c looks for. */
static void child_touches(int store)
{
    struct flight f;
    char *idle = ALLOC(1000);

    memset(idle, 'i', 1000);
    flight_start(&f, open_self(), 64 * KIB, 1);
    for (int which = 0; which < 2; which++) {
        volatile char *touched = which ? f.buffer : idle;
        pid_t child = fork();

        if (child == 0) {
            if (store)
                touched[5] = 1;
            else
                (void)touched[5];
            _exit(0);
        }
        int status = wait_for(child);
        CHECKF(WIFSIGNALED(status), "the child ended with status 0x%x", (unsigned)status);
    }
    CHECK_BYTES(idle, 1000, 'i');
    CHECK_OK(zc_free(idle));
    parent_unharmed(&f);
}

void hazard_fork_child_loads(void)
{
    child_touches(0);
}

void hazard_fork_child_stores(void)
{
    child_touches(1);
}

/* A child that lives for as long as the parent works: it shares no page with it. */
void hazard_fork_in_flight(void)
{
    struct flight f;
    int fds[2];
    char byte;

    CHECK(pipe(fds) == 0);
    flight_start(&f, open_self(), 64 * KIB, 1);
    pid_t child = fork();
    if (child == 0) {
        close(fds[1]);
        void *own = malloc(1000); /* the heap of the child is its own */
        free(own);
        _exit(read(fds[0], &byte, 1) == 0 ? 11 : 12);
    }
    close(fds[0]);
    parent_unharmed(&f);
    close(fds[1]);
    int status = wait_for(child);
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 11, "status 0x%x", (unsigned)status);
}

static void fill_pipe(int fds[2])
{
    char bytes[1000];

    CHECK(pipe(fds) == 0);
    memset(bytes, 'p', sizeof bytes);
    CHECK(write(fds[1], bytes, sizeof bytes) == (ssize_t)sizeof bytes);
}

static void *deliver_soon(void *argument)
{
    usleep(30000); /* lets the system call come first, most of the time; right either way */
    CHECK(loop_deliver(argument, 1, LOOP_OLDEST_FIRST, 0) == 1);
    return NULL;
}

/* With userfaultfd, a system call waits as a touch does. */
static void system_calls_wait(struct flight *f, int fds[2])
{
    zc_stats before = stats_now();
    pthread_t thread = thread_start(deliver_soon, f->comm);
    char bytes[300];

    CHECK(write(fds[1], f->in + 100, 200) == 200);
    thread_join(thread);
    CHECK_OK(zc_wait(f->in, NULL));
    CHECK_PATTERN(f->in, f->length, f->seed);
    CHECK(read(fds[0], bytes, 200) == 200); /* of 'p' */
    CHECK_BYTES(bytes, 200, 'p');
    flight_release(f);
    flight_start(f, f->comm, f->length, 2);
    CHECK(read(fds[0], f->buffer + PAGE - 100, 200) == 200);
    expect_conflict(&before);
    CHECK_BYTES(f->buffer + PAGE - 100, 200, 'p');
    CHECK(write(fds[1], f->buffer, 200) == 200);
}

static void system_calls_fail(struct flight *f, int fds[2])
{
    errno = 0;
    CHECK(read(fds[0], f->buffer + 100, 200) == -1 && errno == EFAULT);
    CHECK_PATTERN(f->buffer, f->length, 1);
    errno = 0;
    CHECK(write(fds[1], f->in, 200) == -1 && errno == EFAULT); /* not even readable */
    CHECK(write(fds[1], f->buffer, 200) == 200);
}

void hazard_system_call_in_flight(void)
{
    zc_comm *comm = open_self();
    struct flight f;
    int fds[2];

    fill_pipe(fds);
    flight_start(&f, comm, 64 * KIB, 1);
    (on_userfaultfd() ? system_calls_wait : system_calls_fail)(&f, fds);
    CHECK_OK(zc_writable(f.buffer));
    CHECK(read(fds[0], f.buffer + 100, 200) == 200);
    CHECK_BYTES(f.buffer + 100, 200, 'p');
    flight_land(&f);
    CHECK_BYTES(f.buffer + 100, 200, 'p');
    CHECK(read(fds[0], f.in, 100) == 100); /* after zc_wait it is an ordinary buffer */
    flight_release(&f);
    CHECK_OK(zc_close(comm));
}

void hazard_system_call_idle_protected(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    char *buffer = ALLOC(64 * KIB), *in = ALLOC(64 * KIB);
    int fds[2];

    fill_pipe(fds);
    options.policy = ZC_POLICY_PROTECT;
    options.release = ZC_RELEASE_LAZY;
    CHECK_OK(zc_open("loop", &options, &comm));
    pattern_fill(buffer, 64 * KIB, 1);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(zc_send(buffer, 64 * KIB, 0, 1, comm));
        CHECK_OK(zc_recv(in, 64 * KIB, 0, 1, comm, NULL));
        CHECK_PATTERN(in, 64 * KIB, 1);
    }
    CHECK_OK(zc_flush(comm));
    zc_stats before = stats_now();
    errno = 0;
    CHECK(on_userfaultfd() || (read(fds[0], buffer, 200) == -1 && errno == EFAULT));
    CHECK_OK(on_userfaultfd() ? 0 : zc_writable(buffer));
    CHECK(read(fds[0], buffer, 200) == 200);
    CHECK_BYTES(buffer, 200, 'p');
    CHECK(stats_now().conflicts == before.conflicts && stats_now().renames == before.renames);
    /* And a store costs one fault, which the next send's protection needs. */
    CHECK_OK(zc_send(buffer, 64 * KIB, 0, 1, comm));
    CHECK_OK(zc_recv(in, 64 * KIB, 0, 1, comm, NULL));
    CHECK_OK(zc_flush(comm));
    before = stats_now();
    ((volatile char *)buffer)[0] = 'q';
    ((volatile char *)buffer)[60000] = 'q';
    zc_stats now = stats_now();
    CHECKF(now.faults_idle == before.faults_idle + 1, "%llu",
           (unsigned long long)(now.faults_idle - before.faults_idle));
    CHECK(now.renames == before.renames);
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}

/* What another process has got by CMA, as MPI does within a host: of `at` in its parent, or to it. */
static ssize_t copy_between(ssize_t (*call)(pid_t, const struct iovec *, unsigned long, const struct iovec *,
                                            unsigned long, unsigned long),
                            char *own, char *at, size_t length)
{
    struct iovec local = {own, length}, remote = {at, length};

    return call(getppid(), &local, 1, &remote, 1, 0);
}

static int read_by_cma(struct flight *f)
{
    char *own = malloc(f->length);
    ssize_t got = copy_between(process_vm_readv, own, f->in, f->length);

    if (!on_userfaultfd())
        return got == -1 && errno == EFAULT;
    return got == (ssize_t)f->length && pattern_differs(own, f->length, f->seed) == PATTERN_SAME;
}

static int write_by_cma(struct flight *f)
{
    char own[200];

    memset(own, 'c', sizeof own);
    ssize_t put = copy_between(process_vm_writev, own, f->buffer + PAGE - 100, sizeof own);
    return on_userfaultfd() ? put == (ssize_t)sizeof own : put == -1 && errno == EFAULT;
}

static pid_t in_child(int (*run)(struct flight *), struct flight *f)
{
    pid_t child = fork();

    if (child == 0)
        _exit(run(f) ? 13 : 1);
    return child;
}

/* A peer that reads or stores to a guarded buffer from outside waits with userfaultfd, and fails else. */
void hazard_peer_reads_and_writes(void)
{
    struct flight f;

    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    flight_start(&f, open_self(), 64 * KIB, 1);
    int status = wait_for(in_child(write_by_cma, &f));
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 13, "writing ended with 0x%x", (unsigned)status);
    CHECK(f.buffer[PAGE - 101] != 'c' && f.buffer[PAGE + 100] != 'c');
    if (on_userfaultfd())
        CHECK_BYTES(f.buffer + PAGE - 100, 200, 'c');

    pid_t child = in_child(read_by_cma, &f);
    if (!on_userfaultfd())
        status = wait_for(child);
    else
        usleep(30000); /* lets it come first, most of the time; right either way */
    flight_land(&f);
    if (on_userfaultfd())
        status = wait_for(child);
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 13, "reading ended with 0x%x", (unsigned)status);
    flight_release(&f);
    CHECK_OK(zc_close(f.comm));
}
