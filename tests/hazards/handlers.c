/* SPDX-License-Identifier: MIT
 *
 * Hazards: the application's own signal handlers, and threads and calls that end in the middle of a wait. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc/segment.h"
#include "apart.h"
#include "hazard.h"

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

    CHECK(sigaction(number, &action, NULL) == 0);
}

static volatile char *volatile touched;

static void touch(int number)
{
    (void)number;
    touched[0]++;
}

/* Every 200 us, wherever the thread is. */
static timer_t touch_often(void)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec often = {{0, 200000}, {0, 200000}};

    handle(SIGALRM, touch, SA_RESTART);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &often, NULL) == 0);
    return timer;
}

/* The handler stores while the thread is anywhere, inside calls that protect the same buffer as well. */
void hazard_handler_touches_buffer(void)
{
    enum { ROUNDS = 400 };
    zc_comm *comm = open_self();
    char *in = ALLOC(64 * KIB), *buffer = ALLOC(64 * KIB);
    struct itimerspec never = {{0, 0}, {0, 0}};

    memset(buffer, 0, 64 * KIB);
    touched = buffer;
    timer_t timer = touch_often();
    for (int i = 0; i < ROUNDS; i++) {
        buffer[PAGE] = (char)i;
        CHECK_OK(zc_send(buffer, 64 * KIB, 0, 1, comm));
        buffer[PAGE] = (char)(i + 1);
        CHECK_OK(zc_recv(in, 64 * KIB, 0, 1, comm, NULL));
        CHECKF(in[PAGE] == (char)i, "message %d holds %d", i, in[PAGE]);
    }
    CHECK(timer_settime(timer, 0, &never, NULL) == 0);
    handle(SIGALRM, SIG_DFL, 0);
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}

/* Documented: a re-send of what was not written has no time to block signals, and is met sooner or later. Here at once,
 * by a handler that comes where such a send has the slot locked. */
void hazard_aborts_in_handler_during_resend(void)
{
    zc_comm *comm = open_self();
    char *buffer = ALLOC(4 * KIB);

    memset(buffer, 0, 4 * KIB);
    CHECK_OK(zc_send(buffer, 4 * KIB, 0, 1, comm));
    touched = buffer;
    handle(SIGUSR1, touch, SA_RESTART);
    slot_lock_briefly(slot_find(buffer));
    CHECK(raise(SIGUSR1) == 0);
}

static sigjmp_buf out;

static void jump_out(int number)
{
    siglongjmp(out, number);
}

static void *interrupt(void *argument)
{
    usleep(30000); /* so that it waits, most of the time; right either way */
    CHECK(pthread_kill(*(pthread_t *)argument, SIGINT) == 0);
    return NULL;
}

/* Ctrl-C handlers of the old kind leave whatever it was that took so long. */
void hazard_handler_jumps_out_of_wait(void)
{
    zc_comm *comm = open_self();
    pthread_t self = pthread_self();
    char *in = ALLOC(64 * KIB);

    handle(SIGINT, jump_out, 0);
    for (volatile int i = 0; i < 20; i++) {
        static pthread_t thread;

        CHECK_OK(zc_irecv(in, 64 * KIB, 0, 5, comm));
        if (sigsetjmp(out, 1) == 0) {
            thread = thread_start(interrupt, &self);
            (void)*(volatile char *)in;
            CHECKF(false, "the touch went on");
        }
        CHECK_SIGNALS();
        thread_join(thread);
        CHECK_OK(zc_cancel(in));
        memset(in, 'i', 64 * KIB);
    }
    struct flight f;
    flight_start(&f, comm, 64 * KIB, 1);
    flight_land(&f);
    flight_release(&f);
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}

static atomic_bool waiting;

static void *touch_received(void *argument)
{
    struct flight *f = argument;

    atomic_store(&waiting, true);
    (void)*(volatile char *)f->in;
    pthread_testcancel();
    return NULL;
}

/* A wait in a fault is no cancellation point: the request takes effect at the next one, and nothing is left held. */
void hazard_cancel_during_wait(void)
{
    zc_comm *comm = open_self();
    struct flight f;
    void *result;

    flight_start(&f, comm, 64 * KIB, 1);
    pthread_t thread = thread_start(touch_received, &f);
    while (!atomic_load(&waiting))
        sched_yield();
    usleep(10000);
    CHECK(pthread_cancel(thread) == 0);
    flight_land(&f);
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    flight_release(&f);
    CHECK_OK(zc_close(comm));
}

static void *store_and_exit(void *argument)
{
    struct flight *f = argument;

    ((volatile char *)f->buffer)[3] = 'x';
    pthread_exit(NULL);
}

/* A thread that ends with its own conflict just over, and with messages of its own on the way. */
void hazard_thread_exits_in_flight(void)
{
    zc_comm *comm = open_self();

    for (unsigned i = 0; i < 20; i++) {
        struct flight f;

        flight_start(&f, comm, 64 * KIB, i);
        thread_join(thread_start(store_and_exit, &f));
        CHECK(f.buffer[3] == 'x');
        flight_land(&f);
        flight_release(&f);
    }
    CHECK_OK(zc_close(comm));
}

static void replace(int number, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    signal(number, SIG_DFL);
}

/* A later handler that asks nobody is told of, and zc_reinstall() undoes the damage. (See hazards.c for the line.) */
void hazard_reinstalled(void)
{
    zc_comm *comm = open_self();
    struct sigaction action = {.sa_sigaction = replace, .sa_flags = SA_SIGINFO};

    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    for (unsigned i = 0; i < 70; i++) {
        struct flight f;

        flight_start(&f, comm, 8 * KIB, i);
        flight_land(&f);
        flight_release(&f);
    }
    CHECK_OK(zc_reinstall());
    CHECK_OK(zc_reinstall());
    expect_conflicts(comm);
    CHECK_OK(zc_close(comm));
}

/* The smallest stack that the system allows for handlers is enough for zc's. */
void hazard_small_alternate_stack(void)
{
    size_t size = (size_t)sysconf(_SC_MINSIGSTKSZ) + 4 * KIB;
    stack_t stack = {.ss_sp = malloc(size), .ss_size = size};
    zc_comm *comm = open_self();

    CHECK(stack.ss_sp && sigaltstack(&stack, NULL) == 0);
    expect_conflicts(comm);
    CHECK_OK(zc_close(comm));
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, NULL) == 0);
    free(stack.ss_sp);
}

/* Ways to start a program, with messages in flight: the parent's buffers are none of its business. */
void hazard_other_programs(void)
{
    struct flight f;
    char *argv[] = {"sh", "-c", "exit 6", NULL}, line[16] = "";
    pid_t child;
    int status;

    flight_start(&f, open_self(), 64 * KIB, 1);
    CHECK(posix_spawn(&child, "/bin/sh", NULL, NULL, argv, environ) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 6);
    child = vfork();
    if (child == 0) {
        execv("/bin/sh", argv);
        _exit(1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 6);
    status = system("exit 8");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 8);
    FILE *pipe = popen("echo zc", "r");
    CHECK(pipe && fgets(line, sizeof line, pipe) && strcmp(line, "zc\n") == 0 && pclose(pipe) == 0);

    zc_stats before = stats_now();
    ((volatile char *)f.buffer)[7] ^= 1;
    expect_conflict(&before);
    flight_land(&f);
    flight_release(&f);
    CHECK_OK(zc_close(f.comm));
}

/* setuid(2) interrupts all threads, those that wait in a fault as well, and waits for their answers. */
void hazard_setuid_during_wait(void)
{
    zc_comm *comm = open_self();
    struct flight f;

    flight_start(&f, comm, 64 * KIB, 1);
    pthread_t thread = thread_start(touch_received, &f);
    while (!atomic_load(&waiting))
        sched_yield();
    usleep(10000);
    CHECK(setuid(getuid()) == 0);
    flight_land(&f);
    thread_join(thread);
    flight_release(&f);
    CHECK_OK(zc_close(comm));
}

/* Where protection is refused from some time on, sends are copied. */
void hazard_mprotect_refused(void)
{
    zc_comm *comm = open_self();

    deny_system_call(SYS_mprotect, -1, 0, EPERM);
    char *buffer = ALLOC(64 * KIB), *in = ALLOC(64 * KIB);
    zc_stats before = stats_now();
    pattern_fill(buffer, 64 * KIB, 3);
    CHECK_OK(zc_send(buffer, 64 * KIB, 0, 1, comm));
    memset(buffer, 0, 64 * KIB);
    CHECK_OK(zc_recv(in, 64 * KIB, 0, 1, comm, NULL));
    CHECK_PATTERN(in, 64 * KIB, 3);
    CHECK(on_userfaultfd() || stats_now().sends_copied == before.sends_copied + 1);
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
    _exit(0); /* exit handlers of others, LeakSanitizer's for one, would want to protect something */
}

/* And what was protected before cannot be opened: a clear death, and no endless loop of faults. */
void hazard_dies_of_refused_mprotect(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    char *buffer = ALLOC(64 * KIB), *in = ALLOC(64 * KIB);

    options.policy = ZC_POLICY_PROTECT;
    options.release = ZC_RELEASE_LAZY;
    CHECK_OK(zc_open("loop", &options, &comm));
    CHECK_OK(zc_send(buffer, 64 * KIB, 0, 1, comm));
    CHECK_OK(zc_recv(in, 64 * KIB, 0, 1, comm, NULL));
    CHECK_OK(zc_flush(comm));
    deny_system_call(SYS_mprotect, -1, 0, EPERM);
    *(volatile char *)buffer = 1;
    _exit(0);
}

/* A peer that never receives: a store that waits says so, and by option ends the process. */
void hazard_aborts_on_peer_that_never_receives(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm[2];
    char *buffer = ALLOC(64 * KIB);

    options.policy = ZC_POLICY_PROTECT;
    options.conflict = ZC_CONFLICT_WAIT;
    options.on_timeout = ZC_ON_TIMEOUT_ABORT;
    options.fault_timeout_ms = 100;
    ranks_open(comm, 2, &options);
    CHECK_OK(zc_send(buffer, 64 * KIB, 1, 4711, comm[0]));
    *(volatile char *)buffer = 1;
}
