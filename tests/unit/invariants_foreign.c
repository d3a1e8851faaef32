/* SPDX-License-Identifier: MIT
 *
 * Faults that are not ours, and handlers beside ours. */
#include <setjmp.h>
#include <signal.h>

#include "invariants.h"

/* ---- faults that are not ours ---- */

static sigjmp_buf before_fault;
static volatile sig_atomic_t foreign_faults;

static void jump_back(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    foreign_faults++;
    siglongjmp(before_fault, 1);
}

/* Leaves it by a long jump, as programs do that probe addresses; the mask is as the kernel would set it. */
Test(foreign, the_earlier_handler_gets_it_and_may_jump)
{
    struct sigaction action = {.sa_sigaction = jump_back, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1), *hole = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 1; i <= 20; i++) {
        if (sigsetjmp(before_fault, 1) == 0)
            store(hole, 1);
        CHECK(foreign_faults == i);
        pattern_fill(b, 2 * PAGE, 1);
        CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm)); /* zc's own go on working on this thread */
        store(b, 5);
        CHECK(load(b) == 5);
        CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    }
    CHECK(foreign_faults == 20);
    CHECK_OK(zc_close(comm));
}

/* Stores from further down the stack. */
static __attribute__((noinline)) void store_deeper(char *p)
{
    volatile char room[4 * PAGE];
    room[0] = 0;
    store(p, 1);
    room[sizeof room - 1] = 0;
}

static void *probe(void *unused)
{
    char *hole = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (volatile int i = 0; i < 20; i++) {
        if (sigsetjmp(before_fault, 1) == 0)
            (i % 4 ? store_deeper(hole + i % 2 * PAGE) : store(hole, 1));
        CHECK(foreign_faults == i + 1);
    }
    return unused;
}

/* However deep the stack is then; of a thread that has no other one for signals. */
Test(foreign, the_earlier_handler_may_jump_from_further_down)
{
    struct sigaction action = {.sa_sigaction = jump_back, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    zc_comm *comm = loop_strict();
    thread_join(thread_start(probe, NULL));
    CHECK_OK(zc_close(comm));
}

static void jump_away(zc_comm *comm, int error, const char *message, void *argument)
{
    (void)comm, (void)error, (void)message, (void)argument;
    siglongjmp(before_fault, 1);
}

/* So may an error handler: a failed receive is then never seen, and later conflicts end as before. */
Test(foreign, an_error_handler_may_jump)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    CHECK_OK(zc_set_error_handler(comm, jump_away, NULL));
    for (volatile int i = 0; i < 20; i++) {
        fail_receive(comm, b);
        if (sigsetjmp(before_fault, 1) == 0) {
            load(b);
            CHECK(!"reached");
        }
        CHECK_SIGNALS();
        CHECK_IS(zc_wait(b, NULL), -EIO);
    }
    CHECK(zc_flush(comm) == -EIO);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    store(b, 5);
    CHECK(load(b) == 5);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}

static void *touch_failed(void *argument)
{
    zc_comm *comm = argument;
    char *b = buffer(2, 1);
    for (volatile int i = 0; i < 20; i++) {
        fail_receive(comm, b);
        if (sigsetjmp(before_fault, 1) == 0) {
            (i ? store_deeper(b) : store(b, 1));
            CHECK(!"reached");
        }
        CHECK_IS(zc_wait(b, NULL), -EIO);
    }
    return NULL;
}

/* From further down the stack than the first of them, too. */
Test(foreign, an_error_handler_may_jump_from_further_down)
{
    zc_comm *comm = loop_strict();
    CHECK_OK(zc_set_error_handler(comm, jump_away, NULL));
    thread_join(thread_start(touch_failed, comm));
    CHECK(zc_flush(comm) == -EIO);
    CHECK_OK(zc_close(comm));
}

static char *volatile touched_in_handler;

static void touch_and_open(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    foreign_faults++;
    store(touched_in_handler, 6);
    mprotect((void *)((uintptr_t)info->si_addr & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE);
}

/* An earlier handler that touches a buffer in flight has that conflict ended, too. */
Test(foreign, the_earlier_handler_may_touch_buffers)
{
    struct sigaction action = {.sa_sigaction = touch_and_open, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1), *hole = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    touched_in_handler = b + 1;
    store(hole, 1);
    CHECK(foreign_faults == 1 && load(hole) == 1 && load(b + 1) == 6);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}

static struct sigaction below;

static void pass_on(int signal, siginfo_t *info, void *context)
{
    foreign_faults++;
    below.sa_sigaction(signal, info, context);
}

/* A later handler that passes on to ours, which was put on top again: all get it once, and in order. */
Test(foreign, handlers_above_and_below)
{
    struct sigaction first = {.sa_sigaction = touch_and_open, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &first, NULL);
    zc_comm *comm = loop_strict();
    struct sigaction second = {.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &second, &below);
    zc_comm *other = loop_strict(); /* puts ours on top again */
    char *b = buffer(2, 1), *hole = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    touched_in_handler = b;
    store(hole, 1);
    CHECK(foreign_faults == 2 && load(hole) == 1);
    pattern_fill(b, 2 * PAGE, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    store(b, 5);
    CHECK(foreign_faults == 2);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(other));
    CHECK_OK(zc_close(comm));
}

Test(foreign, errno_stays)
{
    zc_comm *comm = loop_with(ZC_CONFLICT_AUTO, ZC_POLICY_PROTECT, ZC_RELEASE_EAGER);
    char *b = buffer(2, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    errno = 4711;
    store(b, 1);
    CHECK(errno == 4711);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}
