/* SPDX-License-Identifier: MIT */
#include "protect/fault.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

#include "alloc/debug.h"
#include "core/signals.h"
#include "core/stats.h"
#include "protect/conflict.h"
#include "protect/open.h"

enum {
    DEPTH_MOST = 8,   /* faults inside handlers that interrupted a waiting fault */
    REPEATS_MOST = 3, /* faults at one address that found nothing to do */
    HANDLERS_MOST = 4 /* handlers chained to */
};

static struct sigaction previous[HANDLERS_MOST]; /* by age */
static _Atomic int handlers;

/* Initial-exec, so that the first access in a handler allocates nothing. */
#define HANDLER_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))
/* Error handlers, earlier handlers and those that interrupt a wait may leave by a long jump. What they leave behind is
 * recognised by its frame: later ones lie above it (all are on the signal stack, if there is one); of a chain, by the
 * context as well. Where a later frame lies below, what was left counts as a fault that still waits. */
HANDLER_LOCAL struct {
    int level;
    const char *frames[DEPTH_MOST + 1]; /* from the outermost on */
} depth;
HANDLER_LOCAL struct chained {
    int level;           /* how far down the chain this thread is */
    const char *frame;   /* of the call to the handler there, */
    const void *context; /* which was given this */
} chained;
HANDLER_LOCAL struct {
    const void *address;
    uint32_t event;
    int count;
} repeat;

/* Without a way to know, taking a load for a store is safe: it only waits when it need not. */
static bool is_store(const void *context)
{
#if defined(__x86_64__)
    return ((const ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
    (void)context;
    return true;
#endif
}

static void die_of(int signal)
{
    struct sigaction fatal = {.sa_handler = SIG_DFL};
    sigaction(signal, &fatal, NULL);
}

/* As the kernel would have called it. */
static void chain(int signal, siginfo_t *info, void *context)
{
    int level = handlers - 1 - chained.level;
    bool synchronous = info->si_code > 0;
    struct sigaction *action = level >= 0 ? &previous[level] : NULL;
    if (!action || action->sa_handler == SIG_DFL || (action->sa_handler == SIG_IGN && synchronous)) {
        die_of(signal);
        if (!synchronous) /* sent by kill(2): it would not happen again by itself */
            pthread_kill(pthread_self(), signal);
        return;
    }
    if (action->sa_handler == SIG_IGN)
        return;
    struct sigaction now = *action;
    if (now.sa_flags & SA_RESETHAND) {
        action->sa_handler = SIG_DFL;
        action->sa_flags = 0;
    }
    sigset_t mask = now.sa_mask, before;
    if (!(now.sa_flags & SA_NODEFER))
        sigaddset(&mask, signal);
    pthread_sigmask(SIG_BLOCK, &mask, &before);
    struct chained outer = chained;
    chained = (struct chained){outer.level + 1, __builtin_frame_address(0), context};
    if (now.sa_flags & SA_SIGINFO)
        now.sa_sigaction(signal, info, context);
    else
        now.sa_handler(signal);
    chained = outer;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void fault_in_handler(const void *address)
{
    struct text text = {0};
    text_add(&text, "zc: a signal handler touched the buffer at ");
    text_add_address(&text, address);
    text_add(&text, ", which the zc call that it interrupted is just working on; block the signal around that call\n");
    text_print(&text);
    abort();
}

static void report_child(const void *address)
{
    struct text text = {0};
    text_add(&text, "zc: a forked child touched its parent's buffer at ");
    text_add_address(&text, address);
    text_add(&text, "; zc memory is not inherited: copy what the child needs before fork, or exec\n");
    text_print(&text);
}

/* A fault that found nothing to do is repeated by the processor. Somebody else has just released the page; or
 * the fault has a cause that zc knows nothing of, and comes again although nothing changed. */
static bool worth_retrying(const void *address, uint32_t event)
{
    if (repeat.address != address || repeat.event != event) {
        repeat.address = address;
        repeat.event = event;
        repeat.count = 0;
    }
    count(faults_spurious);
    return ++repeat.count < REPEATS_MOST;
}

/* True if the access can be tried again. */
static bool handle(const siginfo_t *info, const void *context)
{
    const char *address = info->si_addr;
    if (info->si_code <= 0 || !arena_has(address))
        return false;
    if (arena.forked) {
        report_child(address);
        return false;
    }
    struct slot *slot = slot_find(address);
    if (!slot)
        debug_explain(address);
    if (!slot || depth.level > DEPTH_MOST)
        return false;
    count(faults);
    if (lock_mine(&atomic_load(&slot->backing)->lock))
        fault_in_handler(address);
    size_t offset = (size_t)(address - slot_user(slot));
    uint32_t event = atomic_load(&slot->event);
    switch (conflict_resolve(slot, offset, is_store(context), &((const ucontext_t *)context)->uc_sigmask)) {
    case CONFLICT_ENDED:
        repeat.address = NULL;
        return true;
    case CONFLICT_NONE:
        return worth_retrying(address, event);
    default: /* a freed buffer */
        return false;
    }
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
    int error = errno;
    const char *frame = __builtin_frame_address(0);
    /* A handler that was chained to passes its fault back. Any other fault begins a chain of its own: that of such a
     * handler, or of code that such a handler has jumped to. */
    struct chained outer = chained;
    bool passed = chained.level > 0 && chained.context == context && frame < chained.frame;
    if (!passed)
        chained = (struct chained){0};
    while (depth.level > 0 && frame >= depth.frames[depth.level - 1])
        depth.level--;
    int level = depth.level;
    if (level <= DEPTH_MOST)
        depth.frames[depth.level++] = frame;
    signals_enter();
    bool retry = !passed && handle(info, context);
    depth.level = level;
    if (!retry) {
        uint64_t closed;
        signals_pause(&((const ucontext_t *)context)->uc_sigmask, &closed); /* the kernel does the same at return */
    }
    signals_leave();
    if (!retry)
        chain(signal, info, context);
    chained = outer;
    errno = error;
}

void fault_reinstall(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct sigaction now, ours = {.sa_sigaction = on_fault, .sa_flags = SA_ONSTACK | SA_SIGINFO | SA_NODEFER};
    signals_fill(&ours.sa_mask);
    pthread_mutex_lock(&lock);
    sigaction(SIGSEGV, NULL, &now);
    if (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_fault) {
        /* One more than can be remembered replaces the newest. */
        int newest = handlers < HANDLERS_MOST ? handlers : HANDLERS_MOST - 1;
        previous[newest] = now;
        atomic_store(&handlers, newest + 1); /* other threads may be in the handler */
        sigaction(SIGSEGV, &ours, NULL);
    }
    pthread_mutex_unlock(&lock);
}

void fault_check(void)
{
    static atomic_flag told = ATOMIC_FLAG_INIT;
    struct sigaction now;
    sigaction(SIGSEGV, NULL, &now);
    if (now.sa_sigaction == on_fault || atomic_flag_test_and_set(&told))
        return;
    struct text text = {0};
    text_add(&text,
             "zc: a handler for SIGSEGV was installed after zc's. Unless it passes on the faults that it does not "
             "know, stores to buffers in flight end the process: call zc_reinstall()\n");
    text_print(&text);
}

int zc_reinstall(void)
{
    int error = protect_open();
    if (!error)
        fault_reinstall();
    return error;
}
