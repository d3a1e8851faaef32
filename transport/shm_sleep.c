/* SPDX-License-Identifier: MIT
 *
 * Sleeping until something happens: one thread of a rank in epoll, for all sockets, and others until it or anybody else
 * has ended an operation.
 *
 * Threads that sleep at other endpoints have the epoll of this one among what they poll (watch). So the bell, which
 * tells of what has happened in this process, may have several listeners, each of which has to hear it, but the
 * descriptor is silent for all when one has read it. Hence under the lock: it is rung only while there are such
 * threads, none joins them while it rings, each wakes as it is readable, and the last one that has woken reads it. What
 * happens then is not missed by those that come later: `events` was counted before, and they look at that after they
 * can be seen to sleep (shm_happened, and struct sleeper in progress.c). Nor do they ring it for each other without
 * end: that one has heard it is nothing that happens.
 *
 * The program that polls the descriptor of zc_fd is none of them: it may look rarely, and meanwhile they could not
 * sleep. So that descriptor is an epoll of its own, of the other one and of the chime, which zc_progress alone reads.
 * The program misses nothing: whoever takes cells or packets, or ends an operation, chimes afterwards (shm_happened);
 * zc_progress reads that before the program looks, and then says again that this rank is asleep (shm_rearm), so that
 * either the next cell comes with a packet, which makes the other epoll readable, or a cell is there already, and it
 * chimes again. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/error.h"
#include "core/sys.h"
#include "transport/comm.h"
#include "transport/shm.h"

/* Where ranks outnumber processors, who sleeps shares one with who sends: to be woken by each message would stop the
 * sender for each of them. So it naps first: for NAP_NS, or until OWED_MOST more messages are there, or the sender
 * looks for something itself. */
enum { NAP_NS = 100000, OWED_MOST = 32 };

/* ---- waking others ---- */

/* `owed`: so many times at most from a nap it is not. */
static void wake(struct link *link, unsigned owed)
{
    static const struct packet wake = {.kind = PACKET_WAKE};
    if (link->error)
        return;
    atomic_thread_fence(memory_order_seq_cst); /* what was put, before whether it sleeps */
    uint32_t asleep = atomic_load_explicit(&link->ring.theirs->asleep, memory_order_relaxed);
    if (!(asleep & RING_ASLEEP) || asleep == link->woken)
        return;
    if (asleep & RING_NAPS && link->owed < owed) {
        link->owed++;
        atomic_store_explicit(&link->shm->owes, true, memory_order_relaxed);
        return;
    }
    link->owed = 0;
    link->woken = asleep;
    packet_send(link->sock, &wake, -1); /* no room: there is enough to wake it already */
}

void link_wake(struct link *link)
{
    wake(link, OWED_MOST);
}

void shm_wake_owed(struct shm *shm)
{
    if (!atomic_load_explicit(&shm->owes, memory_order_relaxed))
        return;
    atomic_store_explicit(&shm->owes, false, memory_order_relaxed);
    for (struct link *link = shm->links; link; link = link->next)
        if (link->owed)
            wake(link, 0);
}

void shm_settle(struct shm *shm)
{
    if (!atomic_load_explicit(&shm->owes, memory_order_relaxed))
        return;
    shm_lock(shm);
    shm_wake_owed(shm);
    lock_drop(&shm->common.lock); /* nothing can have ended */
}

void link_wake_for_room(struct link *link)
{
    if (link->error)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&link->ring.theirs->waits, memory_order_relaxed))
        wake(link, 0);
}

/* The system calls are not libc's, in which the thread could be cancelled with the lock. */
static bool ring(int bell)
{
    uint64_t one = 1;
    return syscall(SYS_write, bell, &one, sizeof one) > 0;
}

static bool still(int bell)
{
    uint64_t rings;
    return syscall(SYS_read, bell, &rings, sizeof rings) > 0;
}

/* Does any thread listen to the bell? */
static bool has_listeners(const struct shm *shm)
{
    return atomic_load(&shm->sleeping) || atomic_load(&shm->watchers);
}

/* Tells all threads of this process that wait for something here. */
static void ring_all(struct shm *shm)
{
    if (!shm->rung && has_listeners(shm))
        shm->rung = ring(shm->bell);
    if (!shm->chimed && shm->watched)
        shm->chimed = ring(shm->chime);
}

static void wake_followers(struct shm *shm)
{
    atomic_fetch_add(&shm->events, 1);
    if (atomic_load(&shm->followers))
        futex_wake(&shm->events);
}

void shm_happened(struct shm *shm)
{
    wake_followers(shm);
    if (has_listeners(shm) || shm->watched) {
        shm_lock(shm);
        ring_all(shm);
        lock_drop(&shm->common.lock); /* nothing can have ended */
    }
}

/* ---- sleeping ---- */

static void set_asleep(struct shm *shm, uint32_t asleep)
{
    for (struct link *link = shm->links; link; link = link->next)
        if (!link->error)
            atomic_store_explicit(&link->ring.mine->asleep, asleep, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* that it sleeps, before what there is */
}

/* Has the peer other views since this was asked last? It says so on its board alone, and wakes who sleeps. */
static bool views_changed(struct link *link)
{
    uint32_t before = link->views;
    link->views = atomic_load_explicit(&link->ring.theirs->views, memory_order_relaxed);
    return link->views != before;
}

/* Tells peers that they are to wake this rank, which `naps` only. False if there is something to look at already. */
static bool shm_doze(struct shm *shm, bool naps)
{
    bool quiet = true;
    shm->sleeps += RING_SLEEPS;
    set_asleep(shm, shm->sleeps | RING_ASLEEP | (naps ? RING_NAPS : 0));
    for (struct link *link = shm->links; link; link = link->next) {
        if (link->error || !link->greeted)
            continue;
        if (link->sends.first || link->answers)
            link_push(link); /* perhaps there is room now */
        bool changed = views_changed(link);
        shm->happened |= changed; /* a thread that waits for its sends may have looked before */
        quiet &= !changed && !ring_ready(&link->ring) && !link->broken;
    }
    if (!quiet && (shm->watched || shm->watchers))
        ring_all(shm);
    return quiet;
}

/* A thread has slept. What it has read, another one that sleeps may have been meant by; and that one is to be woken by
 * what comes from now on. */
static void rise(struct shm *shm)
{
    shm->happened = shm_attend(shm);
    if (shm->rung && !has_listeners(shm))
        shm->rung = !still(shm->bell);
    if (!has_listeners(shm) && !shm->watched)
        set_asleep(shm, 0);
    else if (!shm_doze(shm, false))
        ring_all(shm);
}

static uint64_t nanoseconds_until(uint64_t deadline)
{
    uint64_t now = clock_ns();
    return !deadline ? UINT64_MAX : deadline <= now ? 0 : deadline - now;
}

/* The first of the threads that sleep. */
static void sleep_first(struct shm *shm, struct waiting *waiting, struct nap *nap)
{
    bool quiet = nap->may(nap, true);
    shm_lock(shm);
    if (shm_patience(shm) > SHM_PATIENCE_LEAST)
        shm_set_patience(shm, shm_patience(shm) / 2);
    bool naps = shm->crowded && !waiting->napped && !shm->watched && !shm->watchers;
    quiet &= shm_doze(shm, naps) && !shm->rung;
    shm_unlock(shm);
    waiting->napped = true;
    if (quiet && atomic_load(&shm->events) == waiting->seen) {
        uint64_t most = nanoseconds_until(nap->deadline);
        if (naps && most > NAP_NS)
            most = NAP_NS;
        struct timespec time = {(time_t)(most / 1000000000), (long)(most % 1000000000)};
        nap->fds[0] = (struct pollfd){.fd = shm->epoll, .events = POLLIN};
        /* Not libc's, in which the thread could be cancelled: others point to what it waits for, on its stack. */
        syscall(SYS_ppoll, nap->fds, nap->count, most == UINT64_MAX ? NULL : &time, NULL, 0);
    }
    shm_lock(shm);
    atomic_store(&shm->sleeping, false);
    rise(shm);
    shm_unlock(shm);
    if (atomic_load(&shm->followers))
        wake_followers(shm); /* one of them is the first now */
}

static bool wants_sleep(void *at, struct waiting *waiting)
{
    struct shm *shm = at;
    shm_settle(shm);
    uint32_t events = atomic_load(&shm->events);
    if (events != waiting->seen) {
        waiting->seen = events;
        return false;
    }
    unsigned patience = shm_patience(shm);
    if (waiting->polls < patience)
        return false;
    if (shm->crowded && waiting->polls < patience + SHM_YIELDS) {
        sched_yield();
        return false;
    }
    return true;
}

static void sleep_at(void *at, struct waiting *waiting, struct nap *nap)
{
    struct shm *shm = at;
    bool none = false;
    waiting->polls = 1;
    if (atomic_compare_exchange_strong(&shm->sleeping, &none, true)) {
        sleep_first(shm, waiting, nap);
        return;
    }
    atomic_fetch_add(&shm->followers, 1);
    if (atomic_load(&shm->sleeping) && nap->may(nap, false)) /* still: then it will see that this one follows */
        futex_wait(&shm->events, waiting->seen, nanoseconds_until(nap->deadline));
    atomic_fetch_sub(&shm->followers, 1);
}

static uint32_t count_events(const void *at)
{
    const struct shm *shm = at;
    return atomic_load(&shm->events);
}

static int watch(void *at)
{
    struct shm *shm = at;
    shm_lock(shm);
    bool may = !shm->rung;
    if (may) {
        shm->watchers++;
        shm_doze(shm, false);
    }
    shm_unlock(shm);
    return may ? shm->epoll : -1;
}

static void unwatch(void *at)
{
    struct shm *shm = at;
    shm_lock(shm);
    shm->watchers--;
    rise(shm);
    shm_unlock(shm);
}

static void wake_all(void *at)
{
    shm_happened(at);
}

const struct sleeping shm_sleeping = {.wants_sleep = wants_sleep,
                                      .sleep = sleep_at,
                                      .events = count_events,
                                      .watch = watch,
                                      .unwatch = unwatch,
                                      .wake = wake_all};

/* ---- the descriptor of zc_fd ---- */

static int open_outer(struct shm *shm)
{
    struct epoll_event event = {.events = EPOLLIN};
    int outer = epoll_create1(EPOLL_CLOEXEC), chime = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (outer >= 0 && chime >= 0 && !epoll_ctl(outer, EPOLL_CTL_ADD, chime, &event) &&
        !epoll_ctl(outer, EPOLL_CTL_ADD, shm->epoll, &event)) {
        shm->outer = outer;
        shm->chime = chime;
        return 0;
    }
    int error = fail(-errno, "zc_fd: shm: no descriptors: %s (limit: RLIMIT_NOFILE)", error_text(errno));
    if (outer >= 0)
        sys_close(outer);
    if (chime >= 0)
        sys_close(chime);
    return error;
}

int shm_fd(struct endpoint *endpoint)
{
    struct shm *shm = endpoint->state;
    shm_lock(shm);
    bool first = !shm->watched;
    int error = first ? open_outer(shm) : 0;
    if (first && !error) {
        shm->watched = true;
        shm_doze(shm, false);
        ring_all(shm); /* for what has come before */
    }
    shm_unlock(shm);
    return error ? error : shm->outer;
}

void shm_rearm(struct endpoint *endpoint)
{
    struct shm *shm = endpoint->state;
    if (!shm->watched)
        return;
    shm_lock(shm);
    shm->chimed = shm->chimed && !still(shm->chime);
    shm_doze(shm, false);
    shm_unlock(shm);
}
