/* SPDX-License-Identifier: MIT */
#include "protect/helper.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "core/clock.h"
#include "core/sys.h"
#include "core/thread.h"

enum { POLL_NS = 100000, SPINS = 200, NAP_NS = 20000 };

static pthread_mutex_t progressors_lock = PTHREAD_MUTEX_INITIALIZER;
static struct progressor *progressors;
static bool started;

/* A kick moves `until` forward, then changes `kicks`; the helper reads `kicks`, then `until`, and sleeps only if
 * `kicks` has not changed since: no kick is slept through. A waiter that is gone (a long jump out of a signal
 * handler) leaves nothing behind, since `until` is a time. */
static _Atomic uint64_t until;
static _Atomic uint32_t kicks;
static _Atomic bool polling;

static void progress_all(void)
{
    pthread_mutex_lock(&progressors_lock);
    for (struct progressor *p = progressors; p; p = p->next)
        p->progress(p->context);
    pthread_mutex_unlock(&progressors_lock);
}

static void nap(long ns)
{
    struct timespec time = {0, ns};
    nanosleep(&time, NULL);
}

static void *help(void *unused)
{
    (void)unused;
    for (unsigned rounds = 0;;) {
        uint32_t seen = atomic_load(&kicks);
        if (clock_ns() < atomic_load(&until)) {
            progress_all();
            /* A short wait is worth a spin; in a long one others need the processor more. */
            if (rounds++ < SPINS)
                sched_yield();
            else
                nap(NAP_NS);
            continue;
        }
        rounds = 0;
        if (atomic_load(&polling)) {
            progress_all();
            futex_wait(&kicks, seen, POLL_NS);
        } else {
            futex_wait(&kicks, seen, UINT64_MAX);
        }
    }
    return NULL;
}

static void update_polling(void)
{
    bool poll = false;
    for (struct progressor *p = progressors; p; p = p->next)
        poll |= p->poll;
    atomic_store(&polling, poll);
    if (poll)
        helper_kick(0);
}

int helper_attach(struct progressor *progressor)
{
    int error = 0;
    pthread_mutex_lock(&progressors_lock);
    if (!started)
        error = thread_spawn(help, "helper");
    started |= !error;
    if (!error) {
        progressor->next = progressors;
        progressors = progressor;
        update_polling();
    }
    pthread_mutex_unlock(&progressors_lock);
    return error;
}

void helper_detach(struct progressor *progressor)
{
    pthread_mutex_lock(&progressors_lock);
    struct progressor **link = &progressors;
    while (*link && *link != progressor)
        link = &(*link)->next;
    if (*link)
        *link = progressor->next;
    update_polling();
    pthread_mutex_unlock(&progressors_lock);
}

void helper_kick(uint64_t time)
{
    uint64_t now = atomic_load(&until);
    while (now < time && !atomic_compare_exchange_weak(&until, &now, time))
        ;
    atomic_fetch_add(&kicks, 1);
    futex_wake(&kicks);
}
