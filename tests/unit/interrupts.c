/* SPDX-License-Identifier: MIT
 *
 * What comes in the middle of a call, at the worst instant, just as it calls the kernel: signals, and cancellation. */
#include <signal.h>
#include <sys/stat.h>

#include "apart.h"
#include "core/trace.h"
#include "invariants.h"
#include "protect/lend.h"
#include "tests/unit/interpose.h"
#include "transport/comm.h"

TestSuite(interrupts, .timeout = 60);

static long when = -1; /* this system call is made: once, that thread */
static void (*then)(void);

static long on_syscall(long number, const long a[6])
{
    if (number == when) {
        when = -1;
        then();
    }
    return real_syscall(number, a);
}

/* ---- a handler of the application's ---- */

static struct backing *before, *after;
static volatile int calls, held;

static void look(int number)
{
    (void)number;
    calls++;
    held += lock_mine(&before->lock) + lock_mine(&after->lock);
}

static void interrupt(void)
{
    CHECK(raise(SIGUSR1) == 0);
    CHECK(calls == 0); /* not yet */
}

/* Interrupts the next exchange of pages with those of the spare slot on top of the free list. */
static void interrupt_exchange(const char *b)
{
    cache_drain(slot_pool(slot_at(b)));
    before = backing_of(b);
    after = atomic_load(&slot_by_id((uint32_t)atomic_load(&slot_pool(slot_at(b))->head))->backing);
    CHECK(signal(SIGUSR1, look) != SIG_ERR);
    when = SYS_mremap;
    then = interrupt;
}

static void check_interrupted(const char *b)
{
    CHECK(calls == 1 && held == 0);
    CHECK(backing_of(b) == after);
    CHECK_SIGNALS();
}

Test(interrupts, no_lock_is_held_by_what_a_rename_lets_in)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    interrupt_exchange(b);
    CHECK_OK(zc_writable(b));
    check_interrupted(b);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}

Test(interrupts, no_lock_is_held_by_what_a_landing_lets_in)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b, 2 * PAGE, 0, 2, comm));
    struct slot *bounce = slot_at(b)->receives->bounce;
    post_pattern(comm, 2, 2 * PAGE, 2);
    interrupt_exchange(b);
    after = atomic_load(&bounce->backing);
    CHECK_OK(zc_wait(b, NULL));
    check_interrupted(b);
    CHECK_PATTERN(b, 2 * PAGE, 2);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}

/* read(2) and write(2) are for handlers, too, under the shim as well. */
Test(interrupts, a_handlers_system_call_does_not_wait_for_what_it_interrupted)
{
    char *b = buffer(1, 1);
    struct backing *backing = slot_lock_briefly(slot_find(b));
    CHECK_OK(zc_lend_touch(b, PAGE, false));
    CHECK_OK(zc_lend_touch(b, PAGE, true));
    lock_drop(&backing->lock);
    CHECK_OK(zc_free(b));
}

/* A program may block even the signals that zc lets through, and take them by sigwait(3). */
Test(interrupts, what_is_blocked_stays_blocked)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    sigset_t set;
    int number = 0;
    sigemptyset(&set);
    sigaddset(&set, SIGTRAP);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0 && raise(SIGTRAP) == 0);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm)); /* with signals closed, since it protects */
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK(sigwait(&set, &number) == 0 && number == SIGTRAP);
    CHECK_OK(zc_close(comm));
}

/* ---- cancellation ---- */

static void *with_pending(void *body)
{
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL) == 0);
    CHECK(pthread_cancel(pthread_self()) == 0);
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL) == 0);
    (*(void (**)(void))body)();
    CHECK_SIGNALS();
    return NULL;
}

/* The body is called by a thread that is cancelled at the first cancellation point. */
static void check_no_cancellation_point(void (*body)(void))
{
    pthread_t thread = thread_start(with_pending, &body);
    void *result;
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result != PTHREAD_CANCELED);
}

static void grow_and_trim(void)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool;
    size_t released;
    options.slot_size = HUGE_BYTES;
    CHECK_OK(zc_pool_open(&options, &pool)); /* the first: of the process's files as well */
    CHECK_OK(zc_free(slot_in(pool)));
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released > 0);
    CHECK_OK(zc_free(slot_in(pool)));
    CHECK_OK(zc_pool_close(pool));
}

Test(interrupts, pools_are_no_cancellation_points)
{
    check_no_cancellation_point(grow_and_trim);
}

Test(interrupts, hidden_pools_are_no_cancellation_points)
{
    segment_hide();
    check_no_cancellation_point(grow_and_trim);
}

static void print(void)
{
    error_say("nothing is the matter");
    error_print();
}

Test(interrupts, messages_are_no_cancellation_points)
{
    check_no_cancellation_point(print);
}

static void trace_often(void)
{
    enum { RECORDS = 1 << 16 }; /* more than are mapped at a time */
    for (int i = 0; i < RECORDS; i++)
        trace_write(TRACE_ALLOC, NULL, 1, 1);
}

Test(interrupts, traces_are_no_cancellation_points)
{
    char name[64], path[96];
    snprintf(name, sizeof name, "/tmp/zc-interrupts-test");
    snprintf(path, sizeof path, "%s.%d", name, (int)getpid());
    CHECK_OK(trace_open(name));
    deny_system_call(SYS_fallocate, -1, 0, EOPNOTSUPP); /* as on some file systems: libc writes instead */
    struct stat before, after;
    CHECK(stat(path, &before) == 0);
    check_no_cancellation_point(trace_often);
    CHECK(stat(path, &after) == 0 && unlink(path) == 0 && after.st_size > before.st_size);
}

static void *wait_for_either(void *bufs)
{
    int index;
    zc_wait_any(2, bufs, &index, NULL);
    return NULL;
}

/* Naps are where it ends. Nobody is left to wait for in zc_close. */
Test(interrupts, a_wait_that_is_cancelled_is_at_no_communicator)
{
    zc_comm *comm = loop_strict();
    char *received = buffer(1, 1), *guarded = buffer(1, 2);
    const void *bufs[] = {received, guarded};
    struct zc_guard guard;
    void *result;
    CHECK_OK(zc_irecv(received, PAGE, 0, 1, comm));
    CHECK_OK(zc_guard(guarded, PAGE, ZC_DENY_STORES, &guard));
    pthread_t waiter = thread_start(wait_for_either, bufs);
    CHECK(pthread_cancel(waiter) == 0 && pthread_join(waiter, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
    CHECK(!atomic_load(&comm->inside));
    CHECK_OK(zc_unguard(&guard));
    CHECK_OK(zc_close(comm));
}
