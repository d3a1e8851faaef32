/* SPDX-License-Identifier: MIT
 *
 * Sleeping until something happens: one thread of a rank in epoll, for all sockets, and others until it or anybody else
 * has ended an operation. */
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/clock.h"
#include "transport/comm.h"
#include "transport/shm.h"

/* ---- waking others ---- */

void link_wake(struct link *link)
{
    static const struct packet wake = {.kind = PACKET_WAKE};
    if (link->error)
        return;
    atomic_thread_fence(memory_order_seq_cst); /* what was put, before whether it sleeps */
    uint32_t asleep = atomic_load_explicit(&link->ring.theirs->asleep, memory_order_relaxed);
    if (!(asleep & 1) || asleep == link->woken)
        return;
    link->woken = asleep;
    packet_send(link->sock, &wake, -1); /* no room: there is enough to wake it already */
}

void link_wake_for_room(struct link *link)
{
    if (link->error)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&link->ring.theirs->waits, memory_order_relaxed))
        link_wake(link);
}

static void ring_bell(struct shm *shm)
{
    uint64_t one = 1;
    if (write(shm->bell, &one, sizeof one) < 0)
        return; /* it rings already */
}

void shm_happened(struct shm *shm)
{
    atomic_fetch_add(&shm->events, 1);
    if (atomic_load(&shm->sleeping))
        ring_bell(shm);
    if (atomic_load(&shm->followers))
        futex_wake(&shm->events);
}

/* ---- sleeping ---- */

static void set_asleep(struct shm *shm, uint32_t asleep)
{
    for (struct link *link = shm->links; link; link = link->next)
        if (!link->error)
            atomic_store_explicit(&link->ring.mine->asleep, asleep, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* that it sleeps, before what there is */
}

bool shm_doze(struct shm *shm)
{
    bool quiet = true;
    shm->sleeps += 2;
    set_asleep(shm, shm->sleeps | 1);
    for (struct link *link = shm->links; link; link = link->next) {
        if (link->error || !link->greeted)
            continue;
        if (link->sends || link->answers)
            link_push(link); /* perhaps there is room now */
        quiet &= !ring_ready(&link->ring) && !link->broken;
    }
    if (!quiet && shm->watched)
        ring_bell(shm);
    return quiet;
}

static int milliseconds_until(uint64_t deadline)
{
    uint64_t now = clock_ns();
    return !deadline ? -1 : deadline <= now ? 0 : (int)((deadline - now) / 1000000) + 1;
}

/* The first of the threads that sleep. */
static void sleep_first(struct shm *shm, const struct waiting *waiting)
{
    struct epoll_event event;
    shm_lock(shm);
    bool quiet = shm_doze(shm);
    shm_unlock(shm);
    if (quiet && atomic_load(&shm->events) == waiting->seen)
        epoll_wait(shm->epoll, &event, 1, milliseconds_until(waiting->deadline));
    shm_lock(shm);
    atomic_store(&shm->sleeping, false);
    if (!shm->watched)
        set_asleep(shm, 0);
    shm_attend(shm);
    shm_unlock(shm);
    if (atomic_load(&shm->followers))
        shm_happened(shm); /* one of them is the first now */
}

void shm_sleep(struct endpoint *endpoint, struct waiting *waiting)
{
    struct shm *shm = endpoint->state;
    uint32_t events = atomic_load(&shm->events);
    bool none = false;
    if (events != waiting->seen) {
        waiting->seen = events;
        return;
    }
    if (waiting->polls < shm->patience)
        return;
    waiting->polls = 1;
    if (atomic_compare_exchange_strong(&shm->sleeping, &none, true)) {
        if (shm->patience > SHM_PATIENCE_LEAST)
            shm->patience /= 2;
        sleep_first(shm, waiting);
        return;
    }
    atomic_fetch_add(&shm->followers, 1);
    int most = milliseconds_until(waiting->deadline);
    if (atomic_load(&shm->sleeping)) /* still: then it will see that this one follows */
        futex_wait(&shm->events, events, most < 0 ? UINT64_MAX : (uint64_t)most * 1000000);
    atomic_fetch_sub(&shm->followers, 1);
}

int shm_fd(struct endpoint *endpoint)
{
    struct shm *shm = endpoint->state;
    shm_lock(shm);
    shm->watched = true;
    shm_doze(shm);
    shm_unlock(shm);
    return shm->epoll;
}
