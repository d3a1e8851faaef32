/* SPDX-License-Identifier: MIT */
#include "core/signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>

#include "core/sys.h"

/* Initial-exec, so that the first access in a handler allocates nothing. */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    bool closed;  /* by signals_close() */
    bool handler; /* by the kernel */
    int cancel;   /* whether the code that it interrupted could be cancelled */
    uint64_t before;
} state;

static void set_mask(int how, const void *mask, void *before)
{
    syscall(SYS_rt_sigprocmask, how, mask, before, sizeof state.before);
}

void signals_fill(void *set)
{
    static const int synchronous[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT};
    sigfillset(set); /* not those that libc keeps for itself: setuid(2) and pthread_cancel(3) go on */
    for (unsigned i = 0; i < sizeof synchronous / sizeof synchronous[0]; i++)
        sigdelset(set, synchronous[i]);
}

bool signals_closed(void)
{
    return state.closed || state.handler;
}

void signals_close(void)
{
    if (signals_closed())
        return;
    sigset_t set;
    signals_fill(&set);
    set_mask(SIG_BLOCK, &set, &state.before); /* added to what the program has blocked */
    state.closed = true;
}

void signals_open(void)
{
    if (!state.closed || state.handler)
        return;
    uint64_t before = state.before;
    state.closed = false;
    set_mask(SIG_SETMASK, &before, NULL);
}

void signals_enter(void)
{
    state.handler = true;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state.cancel);
}

void signals_leave(void)
{
    state.handler = false;
    pthread_setcancelstate(state.cancel, NULL);
}

void signals_pause(const void *interrupted, uint64_t *closed)
{
    signals_leave(); /* whoever comes in may not come back */
    set_mask(SIG_SETMASK, interrupted, closed);
}

void signals_resume(const uint64_t *closed)
{
    set_mask(SIG_SETMASK, closed, NULL);
    signals_enter();
}
