/* SPDX-License-Identifier: MIT
 *
 * Hazards: SIGSEGV that is not zc's reaches whoever had it before, as the kernel would have called it. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "hazard.h"

static volatile struct {
    int calls;
    int number, code;
    void *address;
    void *frame; /* an address on the stack of the handler */
    sigset_t mask;
} seen;

static void *foreign_page(void)
{
    void *page = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(page != MAP_FAILED);
    return page;
}

static void *volatile opened; /* what the handlers open up, so that the touch goes on */

static void note(int number, siginfo_t *info, void *context)
{
    int here;

    (void)context;
    seen.calls++;
    seen.number = number;
    seen.code = info ? info->si_code : 0;
    seen.address = info ? info->si_addr : NULL;
    seen.frame = &here;
    pthread_sigmask(SIG_BLOCK, NULL, (sigset_t *)&seen.mask);
    if (opened)
        mprotect(opened, PAGE, PROT_READ | PROT_WRITE);
}

static void note_old(int number)
{
    note(number, NULL, NULL);
}

static void install(void (*handler)(int, siginfo_t *, void *), void (*old_style)(int), int flags)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    if (handler)
        action.sa_sigaction = handler;
    else
        action.sa_handler = old_style;
    action.sa_flags = flags;
    sigaddset(&action.sa_mask, SIGUSR1);
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
}

/* Faults that are zc's own, which no other handler may see. */
static void own_faults(zc_comm *comm)
{
    int calls = seen.calls;

    expect_conflicts(comm);
    CHECK(seen.calls == calls);
}

static void *touch_foreign(void *page)
{
    opened = page;
    *(volatile char *)page = 1;
    opened = NULL;
    return NULL;
}

static void expect_foreign(void *page)
{
    int calls = seen.calls;

    touch_foreign(page);
    CHECKF(seen.calls == calls + 1, "%d calls", seen.calls - calls);
    CHECK(seen.number == SIGSEGV);
}

void hazard_foreign_to_siginfo_handler(void)
{
    install(note, NULL, SA_SIGINFO);
    zc_comm *comm = open_self();

    for (int i = 0; i < 3; i++) {
        void *page = foreign_page();

        own_faults(comm);
        expect_foreign(page);
        CHECK(seen.address == page && seen.code == SEGV_ACCERR);
    }
    CHECK_OK(zc_close(comm));
    expect_foreign(foreign_page()); /* with no communicator left */
}

void hazard_foreign_to_old_handler(void)
{
    install(NULL, note_old, 0);
    zc_comm *comm = open_self();

    for (int i = 0; i < 3; i++) {
        own_faults(comm);
        expect_foreign(foreign_page());
    }
    CHECK_OK(zc_close(comm));
}

void hazard_foreign_to_handler_of_thread(void)
{
    install(note, NULL, SA_SIGINFO);
    zc_comm *comm = open_self();
    void *page = foreign_page();

    own_faults(comm);
    thread_join(thread_start(touch_foreign, page));
    CHECK(seen.calls == 1 && seen.address == page);
    own_faults(comm);
    CHECK_OK(zc_close(comm));
}

/* The mask of the handler's own sigaction holds while it runs, and no longer. */
void hazard_foreign_handler_mask(void)
{
    sigset_t before, after;

    install(note, NULL, SA_SIGINFO);
    zc_comm *comm = open_self();
    own_faults(comm);
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    expect_foreign(foreign_page());
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    CHECK(sigismember((sigset_t *)&seen.mask, SIGSEGV) == 1);
    CHECK(sigismember((sigset_t *)&seen.mask, SIGUSR1) == 1);
    CHECK(sigismember((sigset_t *)&seen.mask, SIGUSR2) == 0);
    for (int s = 1; s < 32; s++)
        CHECKF(sigismember(&before, s) == sigismember(&after, s), "signal %d", s);
    own_faults(comm);
    CHECK_OK(zc_close(comm));
}

void hazard_foreign_handler_on_alternate_stack(void)
{
    size_t size = 256 * KIB;
    stack_t stack = {.ss_sp = malloc(size), .ss_size = size};

    CHECK(stack.ss_sp && sigaltstack(&stack, NULL) == 0);
    install(note, NULL, SA_SIGINFO | SA_ONSTACK);
    zc_comm *comm = open_self();
    own_faults(comm);
    expect_foreign(foreign_page());
    CHECK((char *)seen.frame >= (char *)stack.ss_sp && (char *)seen.frame < (char *)stack.ss_sp + size);
    own_faults(comm);
    CHECK_OK(zc_close(comm));
}

static sigjmp_buf out;

static void jump(int number, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    seen.calls++;
    siglongjmp(out, number);
}

/* Runtimes leave their handlers by a jump: nothing of zc's may then be left behind. */
void hazard_foreign_handler_jumps(void)
{
    install(jump, NULL, SA_SIGINFO);
    zc_comm *comm = open_self();
    volatile char *page = foreign_page();

    for (volatile int i = 0; i < 40; i++) {
        if (sigsetjmp(out, 1) == 0) {
            *page = 1;
            CHECKF(false, "the touch went on");
        }
        CHECK(seen.calls == i + 1);
        if (i % 4 == 0)
            own_faults(comm);
    }
    CHECK_OK(zc_close(comm));
}

void hazard_foreign_reset_handler(void)
{
    install(note, NULL, SA_SIGINFO | SA_RESETHAND);
    zc_comm *comm = open_self();

    own_faults(comm);
    expect_foreign(foreign_page());
    own_faults(comm); /* zc's own is not reset with it */
    CHECK_OK(zc_close(comm));
}

/* Sent, not caused: it has no address. */
void hazard_foreign_raised(void)
{
    install(note, NULL, SA_SIGINFO);
    zc_comm *comm = open_self();

    own_faults(comm);
    raise(SIGSEGV);
    CHECK(seen.calls == 1 && seen.number == SIGSEGV && seen.code == SI_TKILL);
    own_faults(comm);
    CHECK_OK(zc_close(comm));
}

static struct sigaction previous;

static void note_or_chain(int number, siginfo_t *info, void *context)
{
    if (info->si_addr == opened)
        note(number, info, context);
    else if (previous.sa_flags & SA_SIGINFO)
        previous.sa_sigaction(number, info, context);
    else
        abort();
}

/* A handler that came after zc's and passes on what it does not know. */
void hazard_later_handler_that_chains(void)
{
    struct sigaction action;
    zc_comm *comm = open_self();

    own_faults(comm);
    memset(&action, 0, sizeof action);
    action.sa_sigaction = note_or_chain;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    CHECK(sigaction(SIGSEGV, &action, &previous) == 0);
    for (int i = 0; i < 3; i++) {
        own_faults(comm);
        expect_foreign(foreign_page());
    }
    CHECK_OK(zc_close(comm));
}

/* As big as the system lets it be, so that a missing core is not for want of room. */
static void allow_core(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_CORE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_CORE, &limit);
    }
}

void hazard_dies_without_handler(void)
{
    zc_comm *comm = open_self();
    uint64_t *buffer = ALLOC(CORE_WORDS * sizeof *buffer);

    allow_core();
    own_faults(comm);
    for (int i = 0; i < CORE_WORDS; i++)
        buffer[i] = CORE_WORD;
    CHECK_OK(zc_send(buffer, CORE_WORDS * sizeof *buffer, 0, 1, comm));
    *(volatile char *)foreign_page() = 1;
}

void hazard_dies_without_zc(void)
{
    allow_core();
    *(volatile char *)foreign_page() = 1;
}

void hazard_dies_with_ignored(void)
{
    install(NULL, SIG_IGN, 0);
    zc_comm *comm = open_self();

    own_faults(comm);
    *(volatile char *)foreign_page() = 1;
}

void hazard_dies_after_reset(void)
{
    hazard_foreign_reset_handler();
    *(volatile char *)foreign_page() = 1;
}

void hazard_dies_raised(void)
{
    zc_comm *comm = open_self();

    own_faults(comm);
    raise(SIGSEGV);
}

/* While a message is in flight, as well. */
void hazard_dies_after_store_in_flight(void)
{
    zc_comm *comm = open_self();
    struct flight f;

    flight_start(&f, comm, 64 * KIB, 1);
    *(volatile char *)f.buffer = 1;
    volatile uintptr_t nowhere = 16; /* not known to the compiler, which would object */
    *(volatile char *)nowhere = 1;
}

/* Documented: the kernel then asks no handler. */
void hazard_dies_with_sigsegv_blocked(void)
{
    zc_comm *comm = open_self();
    struct flight f;
    sigset_t set;

    flight_start(&f, comm, 64 * KIB, 1);
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    *(volatile char *)f.buffer = 1;
}

void hazard_dies_of_failed_receive(void)
{
    zc_comm *comm = open_self();
    struct flight f;

    flight_start(&f, comm, 64 * KIB, 1);
    loop_fail(comm, 1, -EIO);
    loop_hold(comm, false);
    (void)*(volatile char *)f.in;
}

void hazard_aborts_on_conflict(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    char *buffer = ALLOC(64 * KIB), *in = ALLOC(64 * KIB);

    options.policy = ZC_POLICY_PROTECT;
    options.on_conflict = ZC_ON_CONFLICT_ABORT;
    CHECK_OK(zc_open("loop", &options, &comm));
    loop_hold(comm, true);
    memset(buffer, 1, 64 * KIB);
    CHECK_OK(zc_irecv(in, 64 * KIB, 0, 4711, comm));
    CHECK_OK(zc_send(buffer, 64 * KIB, 0, 4711, comm));
    buffer[100] = 2;
}

void hazard_aborts_on_timeout(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    char *in = ALLOC(64 * KIB);

    options.on_timeout = ZC_ON_TIMEOUT_ABORT;
    options.fault_timeout_ms = 100;
    CHECK_OK(zc_open("loop", &options, &comm));
    CHECK_OK(zc_irecv(in, 64 * KIB, 0, 4711, comm));
    (void)*(volatile char *)in;
}
