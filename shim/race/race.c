/* SPDX-License-Identifier: MIT
 *
 * libzc-race.so: watches what a program does with its message buffers. Where a race is seen, perhaps in a signal
 * handler, it is only written down, in a ring that is there already; a thread tells it. */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/sys.h"
#include "shim/observer.h"
#include "shim/race/race.h"

enum {
    RING = 256,
    STACK_MOST = 64 << 20 /* bytes above this frame that are taken for the stack */
};
static const uint64_t PATIENCE_NS = 5000000000; /* for the thread that tells, of who ends the process */
static const uint64_t BRIEF_PATIENCE_NS = 1000000000;

enum entry_state { EMPTY, SEEN };

static struct {
    _Atomic int state;
    struct race race;
} ring[RING];
static _Atomic uint32_t seen; /* entries that were ever taken; the thread that tells sleeps on it */
static _Atomic uint32_t told; /* of these */
static _Atomic uint64_t lost; /* found the ring full */
static struct watched watched;
static bool fatal; /* the process ends after the first */

/* A race is told of before the program goes on, which it may not do for long. Unless the thread that tells was once
 * kept from it by something that the one which touches holds: then nobody waits any more. */
static _Atomic bool kept_from_it;

/* ---- where it happens ---- */

static void posted(void *room)
{
    struct stack *stack = room;
    stack_walk(stack);
    atomic_fetch_add_explicit(&watched.watched, 1, memory_order_relaxed);
}

static void unwatched(const void *buffer)
{
    Dl_info info;
    const char *here = __builtin_frame_address(0);
    _Atomic uint64_t *kind = (const char *)buffer > here && (const char *)buffer - here < STACK_MOST ? &watched.on_stack
                             : dladdr(buffer, &info) ? &watched.is_static
                                                     : &watched.elsewhere;
    atomic_fetch_add_explicit(kind, 1, memory_order_relaxed);
}

static bool await_told(uint32_t all, uint64_t patience_ns)
{
    uint64_t until = clock_ns() + patience_ns;
    uint32_t now;
    while ((now = atomic_load(&told)) < all && clock_ns() < until)
        futex_wait(&told, now, patience_ns / 100);
    return now >= all;
}

static void sighted(const struct zc_sighting *sighting)
{
    const struct zc_loan *loan = sighting->loan;
    uint32_t at = atomic_load(&seen);
    do {
        if (at - atomic_load(&told) >= RING) {
            atomic_fetch_add(&lost, 1);
            return;
        }
    } while (!atomic_compare_exchange_weak(&seen, &at, at + 1));
    struct race *race = &ring[at % RING].race;
    race->thread = sys_tid();
    race->store = sighting->store;
    race->freed = sighting->freed;
    race->buffer = sighting->buffer;
    race->offset = sighting->offset;
    race->call = loan->call;
    race->peer = loan->peer;
    race->tag = loan->tag;
    race->receives = loan->hold.backing == NULL;
    race->first = loan->hold.offset;
    race->length = loan->hold.length;
    memcpy(&race->posted, loan->origin, sizeof race->posted);
    stack_walk(&race->by);
    atomic_store(&ring[at % RING].state, SEEN);
    futex_wake(&seen);
    if (fatal) {
        await_told(at + 1, PATIENCE_NS);
        abort();
    }
    if (!atomic_load(&kept_from_it) && !await_told(at + 1, BRIEF_PATIENCE_NS))
        atomic_store(&kept_from_it, true);
}

/* ---- telling ---- */

static void *tell(void *unused)
{
    (void)unused;
    for (;;) {
        uint32_t at = atomic_load(&told);
        if (atomic_load(&ring[at % RING].state) != SEEN) {
            futex_wait(&seen, at, UINT64_MAX); /* one that is being written down wakes again */
            continue;
        }
        report_race(&ring[at % RING].race);
        atomic_store(&ring[at % RING].state, EMPTY);
        atomic_fetch_add(&told, 1);
        futex_wake(&told);
    }
    return NULL;
}

static void began(int rank, int size)
{
    const char *file = getenv("ZC_RACE"), *abort_too = getenv("ZC_RACE_ABORT");
    pthread_t thread;
    sigset_t all, before;
    fatal = abort_too && strcmp(abort_too, "on") == 0;
    report_open(file && *file ? file : "/dev/null", rank, size);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's threads' */
    if (pthread_create(&thread, NULL, tell, NULL) == 0)
        pthread_detach(thread);
    else
        fputs("zc race: no thread can be started to tell of races\n", stderr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void ended(void)
{
    await_told(atomic_load(&seen), PATIENCE_NS);
    report_close(&watched, atomic_load(&lost));
}

__attribute__((constructor)) static void load(void)
{
    static const struct zc_observer observer = {.room = sizeof(struct stack),
                                                .posted = posted,
                                                .unwatched = unwatched,
                                                .sighted = sighted,
                                                .began = began,
                                                .ended = ended};
    zc_shim_observe(&observer);
}
