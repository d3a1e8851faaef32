/* SPDX-License-Identifier: MIT
 *
 * Progress, which a call that waits makes on all communicators of the process: a peer may do what this one waits for
 * only after something is over on another one, and that may take a poll here. */
#include "transport/progress.h"

#include <sched.h>

#include "core/clock.h"
#include "core/stats.h"
#include "core/thread.h"
#include "protect/conflict.h"
#include "transport/comm.h"

enum {
    OTHERS_EVERY = 16,  /* polls of one communicator, then all others are; */
    OTHERS_SELDOM = 64, /* or so many probes in quick succession */
    POLLED_EVERY = 16,  /* of those, what is in flight is looked at */
    SAMPLED_EVERY = 32, /* probes of a thread, SAMPLED of them are timed: */
    SAMPLED = 4,
    SELDOM_NS = 3000 /* between two that have so much time that a look more, of 100 ns, does not count */
};

/* How long a thread sleeps between two looks at what cannot wake it: an eighth of the time for which nothing has
 * happened, so that looking costs ever less; at least the first of these, at most the second where anything is in
 * flight there, and else the third. No wait gets longer by more than that eighth. All of them are chosen and not
 * measured. */
enum { SLICES = 8 };
static const uint64_t slice_least_ns = 1000000, slice_busy_ns = 4000000, slice_most_ns = 1000000000;

/* Guards the list. Held while communicators are polled or watched for somebody who waits on another one: who closes one
 * marks it as closed under the lock, and nobody is inside of it afterwards. Taken before the locks of transports, and
 * not held by a thread that sleeps. The number is for knowing without the lock that there is but one. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct zc_comm *list;   /* of those that are open */
static struct zc_comm *closed; /* their memory stays, so that to use one is noticed */
static uint32_t past;          /* what had happened on those that are closed */
static _Atomic unsigned opened;

static bool several(void)
{
    return atomic_load_explicit(&opened, memory_order_relaxed) > 1;
}

/* Every so many times that this thread asks. */
static bool my_turn(unsigned every)
{
    static _Thread_local __attribute__((tls_model("initial-exec"))) unsigned turn;
    return ++turn % every == 0;
}

/* A thread that must not call MPI leaves what goes over it to others. */
bool comm_callable(const zc_comm *comm)
{
    return comm->endpoint.any_thread || comm->endpoint.serialized || pthread_equal(comm->owner, pthread_self());
}

/* ---- the list ---- */

/* A forked child that called on them would speak for its parent. Their list changes by one store at a time: another
 * thread of the parent may have been about to, but no more. */
static void disown_all(void)
{
    for (struct zc_comm *comm = list; comm; comm = comm->next)
        atomic_store(&comm->open, false);
    atomic_store(&opened, 0);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, disown_all);
}

static uint32_t events_of(const zc_comm *comm)
{
    const struct endpoint *endpoint = &comm->endpoint;
    return endpoint->sleeping ? endpoint->sleeping->events(endpoint->sleeps_at) : 0;
}

static void wake(const zc_comm *comm)
{
    if (comm->endpoint.sleeping)
        comm->endpoint.sleeping->wake(comm->endpoint.sleeps_at);
}

void comm_enlist(zc_comm *comm)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, watch_forks);
    pthread_mutex_lock(&list_lock);
    atomic_store(&comm->open, true);
    comm->next = list;
    list = comm;
    atomic_store(&live.comms, comm);
    atomic_fetch_add(&opened, 1);
    for (const struct zc_comm *other = comm->next; other; other = other->next)
        if (atomic_load(&other->open))
            wake(other); /* from now on it has to watch this one as well */
    pthread_mutex_unlock(&list_lock);
}

void comm_delist(zc_comm *comm)
{
    struct zc_comm **at = &list;
    pthread_mutex_lock(&list_lock);
    while (*at != comm)
        at = &(*at)->next;
    *at = comm->next; /* which stays: who is at this one without the lock goes on from there */
    comm->closed = closed;
    closed = comm;
    atomic_store(&live.comms, list);
    atomic_store(&comm->open, false);
    atomic_fetch_sub(&opened, 1);
    past += events_of(comm);
    pthread_mutex_unlock(&list_lock);
    while (atomic_load(&comm->inside)) {
        wake(comm);
        sched_yield();
    }
}

/* Either this sees that it is closed, or comm_delist sees that somebody is inside. */
bool comm_enter(zc_comm *comm)
{
    atomic_fetch_add(&comm->inside, 1);
    if (atomic_load(&comm->open))
        return true;
    comm_leave(comm);
    return false;
}

void comm_leave(zc_comm *comm)
{
    atomic_fetch_sub(&comm->inside, 1);
}

struct zc_comm *comm_list(void)
{
    pthread_mutex_lock(&list_lock);
    struct zc_comm *first = list;
    pthread_mutex_unlock(&list_lock);
    return first;
}

/* ---- polling ---- */

static void tend(const zc_comm *comm)
{
    if (comm->transport->tend)
        comm->transport->tend();
}

/* `thorough`: also where nothing is in flight here, but peers may be unable to get rid of what they send. True: there
 * is such. */
static bool look_at(zc_comm *comm, bool thorough)
{
    comm_poll(comm, NULL);
    tend(comm);
    return thorough && comm->transport->take_in && comm->transport->take_in(&comm->endpoint);
}

static bool poll_all_but(const zc_comm *own, bool thorough)
{
    bool more = false;
    if (pthread_mutex_trylock(&list_lock) != 0)
        return true; /* somebody is at it, and it is not known */
    for (struct zc_comm *comm = list; comm; comm = comm->next) {
        if (comm != own && atomic_load(&comm->open) && comm_callable(comm))
            more |= look_at(comm, thorough);
    }
    pthread_mutex_unlock(&list_lock);
    return more;
}

void comm_poll_all(void)
{
    poll_all_but(NULL, several() && my_turn(OTHERS_EVERY));
}

/* Each communicator has a count of its own: with one for each thread, which may come to several in turn, one might
 * always be left out. */
void comm_look(void *at)
{
    zc_comm *comm = at;
    bool thorough = several() && atomic_fetch_add_explicit(&comm->looks, 1, memory_order_relaxed) % OTHERS_EVERY == 0;
    look_at(comm, thorough);
}

/* Of this thread. Does it do other things for long between them? Seen by a few of them now and then. */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    unsigned turn;
    bool seldom;
    uint64_t since;
} probes;

static void note_probe(void)
{
    unsigned turn = ++probes.turn % SAMPLED_EVERY;
    if (turn == 0)
        probes.since = clock_ns();
    else if (turn == SAMPLED)
        probes.seldom = clock_ns() - probes.since > SAMPLED * SELDOM_NS;
}

/* MPI takes in a message or two of its peers at a call. Where calls are rare, one that this call could find would be
 * left for the next, so more are taken in. Where they are frequent, that would make probes slower, as would looking at
 * what is in flight, which ends soon enough there. (A thread that comes to several communicators in turn may look so at
 * the same one always: the others are looked at with all others.) */
void comm_poll_in_turn(zc_comm *comm, bool finding)
{
    const struct transport *transport = comm->transport;
    if (transport->take_in)
        note_probe();
    bool often = transport->take_in && !probes.seldom;
    if (!often || !transport->probe_takes_in || probes.turn % POLLED_EVERY == 0)
        comm_poll(comm, NULL);
    if (transport->take_in && !often && finding)
        transport->take_in(&comm->endpoint);
    if (!often || probes.turn % POLLED_EVERY == 0)
        tend(comm);
    if (several() && my_turn(often ? OTHERS_SELDOM : OTHERS_EVERY))
        poll_all_but(comm, true);
}

int zc_progress(zc_comm *comm)
{
    int error = comm_check(comm, "zc_progress");
    if (error)
        return error;
    comm_look(comm);
    if (comm->transport->rearm)
        comm->transport->rearm(&comm->endpoint);
    return 0;
}

int zc_fd(zc_comm *comm)
{
    int error = comm_check(comm, "zc_fd");
    if (!error && !comm->transport->fd)
        error = fail(-ENOTSUP, "zc_fd: over %s there is no descriptor to wait for", comm->transport->scheme);
    return error ? error : comm->transport->fd(&comm->endpoint);
}

/* ---- waiting ---- */

/* Has another thread waited on it since this was asked last? Then that one polls it. Locked. */
static bool is_waited_on(zc_comm *comm)
{
    unsigned waits = atomic_load_explicit(&comm->waits, memory_order_relaxed);
    bool more = waits != comm->waits_seen;
    comm->waits_seen = waits;
    return more;
}

/* No wait gets much longer than it has been anyway: at most one step of what peers wait for is delayed, since from the
 * second one on take_in says that there is something. Where take_in cannot be asked, the slice stays short. */
static uint64_t slice_ns(const struct waiting *waiting, uint64_t now, bool busy)
{
    uint64_t slice = (now - waiting->quiet) / SLICES, most = busy ? slice_busy_ns : slice_most_ns;
    return slice < slice_least_ns ? slice_least_ns : slice > most ? most : slice;
}

static void limit(struct nap *nap, uint64_t deadline)
{
    if (!nap->deadline || deadline < nap->deadline)
        nap->deadline = deadline;
}

/* One that is about to sleep at `comm`.
 *
 * What it waits for may end on any communicator (zc_wait_any), by a poll of its own or of another thread. Between its
 * look at that and its sleep nobody knows of it, so it compares then how much has happened at all endpoints together
 * with what it was before the look: something that ends counts at its endpoint, then looks for who is to be told; one
 * that sleeps watches the endpoints first, and then adds up the counts. So either it sees the count, and looks again,
 * or is seen. The sum never goes back, closed communicators being part of it, so that equal sums mean that nothing has
 * happened.
 *
 * Of several threads at one communicator only the first is in poll(2), and watches others. The rest follow it: they are
 * woken when it wakes, by whatever that was. What happens after one that follows has compared, and before the first one
 * watches, the first one sees, since it compares after that. */
struct sleeper {
    struct nap nap; /* its first member */
    zc_comm *comm;
    struct waiting *waiting;
    uint64_t now;
    struct zc_comm *watched[NAP_MOST]; /* in the places of their descriptors */
};

/* Has anything happened since it was asked last? */
static bool is_news(struct waiting *waiting)
{
    pthread_mutex_lock(&list_lock);
    uint32_t sum = past;
    for (const struct zc_comm *comm = list; comm; comm = comm->next)
        if (atomic_load(&comm->open))
            sum += events_of(comm);
    pthread_mutex_unlock(&list_lock);
    bool news = sum != waiting->news;
    waiting->news = sum;
    return news;
}

/* True: it wakes the one that sleeps. False: it cannot, or another thread uses it, for which to be woken by each of its
 * messages would be too much; or *ready, since it would at once. */
static bool watch(struct sleeper *sleeper, zc_comm *comm, bool *ready)
{
    struct nap *nap = &sleeper->nap;
    const struct endpoint *endpoint = &comm->endpoint;
    if (!endpoint->sleeping || nap->count == NAP_MOST || is_waited_on(comm))
        return false;
    int fd = endpoint->sleeping->watch(endpoint->sleeps_at);
    *ready |= fd < 0;
    if (fd < 0)
        return false;
    sleeper->watched[nap->count] = comm;
    nap->fds[nap->count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    return true;
}

/* Has all others wake the one that sleeps; or those looked at now and then that do not, or not for all that comes. What
 * the first one may call as well, others leave to it. False: there is something to poll for. */
static bool watch_others(struct sleeper *sleeper, bool first)
{
    bool ready = false;
    pthread_mutex_lock(&list_lock);
    for (struct zc_comm *comm = list; comm && !ready; comm = comm->next) {
        const struct transport *transport = comm->transport;
        if (comm == sleeper->comm || !atomic_load(&comm->open) || !comm_callable(comm) || transport->inside ||
            (!first && comm->endpoint.any_thread))
            continue;
        bool watches = first && watch(sleeper, comm, &ready), tells = comm->endpoint.sleeping || transport->take_in;
        if (!watches || transport->take_in)
            limit(&sleeper->nap,
                  sleeper->now + (tells ? slice_ns(sleeper->waiting, sleeper->now, comm_busy(comm)) : slice_least_ns));
    }
    pthread_mutex_unlock(&list_lock);
    return !ready;
}

static bool may_sleep(struct nap *nap, bool first)
{
    struct sleeper *sleeper = (struct sleeper *)nap;
    return !several() || (watch_others(sleeper, first) && !is_news(sleeper->waiting));
}

static void unwatch(struct zc_comm *const watched[NAP_MOST])
{
    pthread_mutex_lock(&list_lock);
    for (unsigned i = 1; i < NAP_MOST && watched[i]; i++)
        if (atomic_load(&watched[i]->open))
            watched[i]->endpoint.sleeping->unwatch(watched[i]->endpoint.sleeps_at);
    pthread_mutex_unlock(&list_lock);
}

static void sleep_over(zc_comm *comm, struct waiting *waiting)
{
    struct sleeper sleeper = {.nap = {.may = may_sleep, .deadline = waiting->deadline, .count = 1},
                              .comm = comm,
                              .waiting = waiting,
                              .now = clock_ns()};
    if (!waiting->quiet)
        waiting->quiet = sleeper.now;
    if (comm->transport->take_in)
        limit(&sleeper.nap, sleeper.now + slice_ns(waiting, sleeper.now, false));
    comm->endpoint.sleeping->sleep(comm->endpoint.sleeps_at, waiting, &sleeper.nap);
    if (sleeper.nap.count > 1)
        unwatch(sleeper.watched);
    if (clock_ns() < sleeper.nap.deadline)
        waiting->quiet = 0;
}

bool comm_sleeps(zc_comm *comm, const struct waiting *waiting)
{
    const struct transport *transport = comm->transport;
    return comm->endpoint.sleeping && !(transport->must_poll && transport->must_poll(&comm->endpoint, waiting));
}

void comm_poll_waiting(zc_comm *comm, struct op *urgent, struct waiting *waiting)
{
    const struct transport *transport = comm->transport;
    struct endpoint *endpoint = &comm->endpoint;
    comm_poll(comm, urgent);
    waiting->polls++;
    bool sleeps = comm_sleeps(comm, waiting);
    bool enough = sleeps ? endpoint->sleeping->wants_sleep(endpoint->sleeps_at, waiting) : waiting->polls > COMM_SPINS;
    bool turn = enough || waiting->polls % OTHERS_EVERY == 0;
    if (turn)
        tend(comm);
    if (sleeps && turn && transport->take_in && transport->take_in(endpoint))
        waiting->quiet = 0;
    if (several()) {
        atomic_fetch_add_explicit(&comm->waits, 1, memory_order_relaxed);
        if (turn && poll_all_but(comm, true))
            waiting->quiet = 0;
    }
    if (enough && !sleeps)
        sched_yield();
    else if (enough && !(several() && is_news(waiting)))
        sleep_over(comm, waiting);
}
