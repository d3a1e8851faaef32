/* SPDX-License-Identifier: MIT */
#include "protect/policy.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "core/clock.h"
#include "core/sys.h"

enum {
    SCALE = 8,              /* estimates count eighths of a send */
    ESTIMATE_MOST = 255,    /* of a slot, just below 32 sends a write: it remembers no more */
    LONG_RUN = 4,           /* sends that tell something before the run is over */
    SEEN_MOST = 128,        /* sends of a pool that its estimate is made of: the older half is forgotten */
    BACKOFF_MOST = 5,       /* copy at most 32 sends before the next trial, to notice when a pattern changes */
    TRIAL_SHARE = 50,       /* trials may take 1/50 of the time that a pool is in use, */
    TRIAL_CREDIT = 1000000, /* and so many ns to begin with */
    PAID_BACK = 64,         /* sends, in which what is paid once should be paid back */
    LOOK_EVERY = 32,        /* protections there is a copy, to see what copies cost now */
    PACES = 16,             /* of receivers are remembered, for each way to send */
    READERS_NS = 30000,     /* for one that waits, asleep, for a page table that another one changes or reads */
    FEED_WARM = 16,         /* messages after a change that show nothing yet: copies go to cold slots first */
    FEED_PAUSE = 48,        /* messages between the first trials of the other way, */
    FEED_PAUSE_MOST = 8192, /* and between later ones that changed nothing */
    FED_BELOW = 2 << 20,    /* bytes; from there on copies would take most of the sender's time */
    PROMPT = 8              /* a prompt receiver takes a message in no more than so many copies' time */
};

/* In zc_pool.costs. Averages are of nanoseconds for a whole slot; races between updates lose one observation. */
struct costs {
    _Atomic uint32_t average[COSTS];
    _Atomic uint16_t seen, written; /* sends while protected, and stores that ended that */
    /* ns that trials may take, and the clock when some of those were earned last */
    _Atomic uint64_t credit, last;
    _Atomic uint32_t protections; /* that were sure to pay */
    /* What policy_feeds says now, what it says but for a trial, how many messages were taken since that began, and how
     * many will be until the next trial. */
    _Atomic bool feeds, feeding;
    _Atomic uint16_t taken, pause;
    _Atomic uint8_t timed; /* messages, since the last multiple of PACES */
    /* What receivers took for messages that were sent [0] from the slot, [1] from a copy; ns for a whole slot. */
    _Atomic uint32_t paces[2][PACES];
    _Atomic uint8_t next[2]; /* the oldest of them */
};

_Static_assert(sizeof(struct costs) <= sizeof((struct zc_pool *)0)->costs, "costs fit into the pool");

static struct costs *costs_of(struct zc_pool *pool)
{
    return (struct costs *)pool->costs;
}

/* What the probe found, for pools that have not observed anything yet. */
static struct {
    uint64_t call, page, copy_page, fault; /* ns */
} seed = {2000, 100, 200, 5000};

static _Atomic bool read_by_peers;

void policy_expect_readers(void)
{
    atomic_store_explicit(&read_by_peers, true, memory_order_relaxed);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static volatile char *probe_page;

static void probe_handler(int signal)
{
    (void)signal;
    sys_mprotect((void *)(uintptr_t)probe_page, PAGE_BYTES, PROT_READ | PROT_WRITE);
}

void policy_open(void)
{
    enum { PAGES = 16, ROUNDS = 3 };
    const size_t length = PAGES * PAGE_BYTES;
    char *area = sys_mmap(NULL, 2 * length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!area)
        return;
    sys_madvise(area, 2 * length, MADV_POPULATE_WRITE);
    struct sigaction probe = {.sa_handler = probe_handler, .sa_flags = SA_NODEFER | SA_ONSTACK}, before;
    uint64_t one = UINT64_MAX, many = UINT64_MAX, copy = UINT64_MAX, fault = UINT64_MAX;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t t0 = clock_ns();
        sys_mprotect(area, PAGE_BYTES, PROT_READ);
        uint64_t t1 = clock_ns();
        sys_mprotect(area, PAGE_BYTES, PROT_READ | PROT_WRITE);
        sys_mprotect(area, length, PROT_READ);
        uint64_t t2 = clock_ns();
        sys_mprotect(area, length, PROT_READ | PROT_WRITE);
        uint64_t t3 = clock_ns();
        memcpy(area + length, area, length);
        uint64_t t4 = clock_ns();
        one = least(one, t1 - t0);
        many = least(many, t3 - t2);
        copy = least(copy, t4 - t3);
    }
    /* Other threads may have faults of their own meanwhile; the one real fault is probed only where SIGSEGV
     * still has no handler, which is where nobody expects any, and where this thread does not block it, which
     * would end the process. */
    sigset_t blocked;
    sigaction(SIGSEGV, NULL, &before);
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    if (before.sa_handler == SIG_DFL && !sigismember(&blocked, SIGSEGV)) {
        sigaction(SIGSEGV, &probe, NULL);
        for (int i = 0; i < ROUNDS; i++) {
            sys_mprotect(area, PAGE_BYTES, PROT_READ);
            probe_page = area;
            uint64_t t0 = clock_ns();
            *probe_page = 1;
            fault = least(fault, clock_ns() - t0);
        }
        sigaction(SIGSEGV, &before, NULL);
        seed.fault = fault > one ? fault - one : 1;
    }
    seed.call = one;
    seed.page = many > one ? (many - one) / (PAGES - 1) : 1;
    seed.copy_page = copy / PAGES + 1;
    sys_munmap(area, 2 * length);
}

void policy_observe(struct zc_pool *pool, enum cost cost, size_t bytes, uint64_t ns)
{
    if (bytes == 0)
        return;
    uint64_t whole = ns * pool->slot_size / bytes;
    uint32_t observed = whole < UINT32_MAX ? (uint32_t)whole : UINT32_MAX;
    _Atomic uint32_t *average = &costs_of(pool)->average[cost];
    uint32_t before = atomic_load_explicit(average, memory_order_relaxed);
    /* An outlier, such as a time slice lost in the middle, counts as a fourfold cost at most. So does a first copy,
     * which often goes to memory that was never touched: taken for what copies cost, it would keep from making another.
     */
    uint64_t known = before || cost != COST_COPY ? before : policy_cost(pool, cost, pool->slot_size);
    if (known && observed / 4 > known)
        observed = (uint32_t)least(known * 4, UINT32_MAX);
    uint64_t weight = observed < before ? 3 : 7; /* what is too much is seen seldom */
    uint32_t after = before ? (uint32_t)((before * weight + observed) / (weight + 1)) : observed;
    atomic_store_explicit(average, after ? after : 1, memory_order_relaxed);
}

uint64_t policy_cost(struct zc_pool *pool, enum cost cost, size_t bytes)
{
    uint64_t average = atomic_load_explicit(&costs_of(pool)->average[cost], memory_order_relaxed);
    uint64_t pages = pool->slot_size >> PAGE_SHIFT;
    uint64_t table = pool->huge && pool->slot_size >= HUGE_BYTES ? pages >> 9 : pages;
    if (!average) {
        switch (cost) {
        case COST_STORE:
            return policy_cost(pool, COST_UNPROTECT, bytes);
        case COST_COPY:
            average = pages * seed.copy_page;
            break;
        case COST_RENAME: /* a copy and the exchange of two mappings */
            average = pages * seed.copy_page + 3 * (seed.call + table * seed.page) + seed.call;
            break;
        default:
            average = seed.call + table * seed.page;
        }
    }
    return cost == COST_COPY ? average * bytes / pool->slot_size : average;
}

/* ---- what receivers gain by copies ---- */

/* The mean of the middle half, which a time slice lost here or there does not touch; 0: not enough is known. */
static uint64_t pace(struct costs *costs, bool copied)
{
    uint32_t sorted[PACES];
    for (int i = 0; i < PACES; i++) {
        uint32_t ns = atomic_load_explicit(&costs->paces[copied][i], memory_order_relaxed);
        int at = i;
        for (; at > 0 && sorted[at - 1] > ns; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = ns;
    }
    uint64_t sum = 0;
    for (int i = PACES / 4; i < PACES - PACES / 4; i++)
        sum += sorted[i];
    return sorted[0] ? sum / (PACES / 2) : 0;
}

/* A copy can save a receiver about as long as it takes itself. Of one that needs much longer for a message, because it
 * does other things meanwhile, that would be a small part, and not worth the sender's time. */
static bool prompt(struct zc_pool *pool, uint64_t pace)
{
    return pace <= PROMPT * policy_cost(pool, COST_COPY, pool->slot_size);
}

/* Copies delay nothing only if they take less time than the receiver would without them. */
static bool hidden(struct zc_pool *pool, uint64_t held)
{
    return policy_cost(pool, COST_COPY, pool->slot_size) <= held - held / 4;
}

/* Could they pay for a receiver of this pace? */
static bool feedable(struct zc_pool *pool, uint64_t held)
{
    return pool->slot_size < FED_BELOW && prompt(pool, held) && hidden(pool, held);
}

/* They do, whether or not the receiver would be prompt without them. */
static bool feeding_pays(struct zc_pool *pool)
{
    uint64_t held = pace(costs_of(pool), false), copied = pace(costs_of(pool), true);
    return held && copied && copied < held - held / 10 && prompt(pool, copied) && hidden(pool, held);
}

/* Begins a trial of the other way, or ends it and sends so from now on. */
static void feed(struct costs *costs, bool feeds, bool trial, uint16_t pause)
{
    atomic_store_explicit(&costs->taken, 0, memory_order_relaxed);
    atomic_store_explicit(&costs->timed, 0, memory_order_relaxed);
    atomic_store_explicit(&costs->pause, pause, memory_order_relaxed);
    atomic_store_explicit(&costs->feeds, feeds, memory_order_relaxed);
    if (!trial)
        atomic_store_explicit(&costs->feeding, feeds, memory_order_relaxed);
}

void policy_taken(struct zc_pool *pool, bool copied, size_t bytes, uint64_t ns)
{
    struct costs *costs = costs_of(pool);
    bool feeds = atomic_load_explicit(&costs->feeds, memory_order_relaxed);
    if (bytes < pool->slot_size / 4 || copied != feeds)
        return; /* posted before the last change, or copied for other reasons */
    uint16_t taken = atomic_fetch_add_explicit(&costs->taken, 1, memory_order_relaxed); /* one thread decides */
    if (taken < FEED_WARM)
        return;
    if (ns) {
        uint64_t whole = least(ns * pool->slot_size / bytes, UINT32_MAX);
        uint8_t at = atomic_fetch_add_explicit(&costs->next[copied], 1, memory_order_relaxed);
        atomic_store_explicit(&costs->paces[copied][at % PACES], (uint32_t)whole, memory_order_relaxed);
        atomic_fetch_add_explicit(&costs->timed, 1, memory_order_relaxed);
    }
    if (taken % PACES)
        return;
    bool tells = atomic_exchange_explicit(&costs->timed, 0, memory_order_relaxed) >= PACES / 2;
    if (taken < FEED_WARM + PACES)
        return;

    bool feeding = atomic_load_explicit(&costs->feeding, memory_order_relaxed);
    uint16_t pause = atomic_load_explicit(&costs->pause, memory_order_relaxed);
    if (feeds != feeding) {
        bool pays = tells && feeding_pays(pool);
        feed(costs, pays, false, pays != feeding ? FEED_PAUSE : (uint16_t)least(2 * pause, FEED_PAUSE_MOST));
    } else if (taken >= pause) {
        pause = pause < FEED_PAUSE ? FEED_PAUSE : pause;
        if (feeding || (tells && feedable(pool, pace(costs, false))))
            feed(costs, !feeding, true, pause);
    } else if (feeding && !(tells && prompt(pool, pace(costs, true)))) {
        feed(costs, false, false, FEED_PAUSE);
    }
}

bool policy_feeds(struct zc_pool *pool, size_t bytes)
{
    return atomic_load_explicit(&costs_of(pool)->feeds, memory_order_relaxed) && bytes >= pool->slot_size / 4;
}

/* ---- what the sender pays ---- */

/* A trial is paid for when it begins, since many may have begun before the first of them is over, and gets its time
 * back if it turns out to pay. */
static void earn(struct costs *costs, uint64_t ns, uint64_t cycle)
{
    uint64_t credit = atomic_load_explicit(&costs->credit, memory_order_relaxed);
    uint64_t most = cycle > TRIAL_CREDIT ? cycle : TRIAL_CREDIT;
    if (credit < most) /* it may have more for a dearer one */
        atomic_store_explicit(&costs->credit, least(credit + ns, most), memory_order_relaxed);
}

/* False: it cannot be afforded. However long nothing was sent, that earns one trial: else a program that sends now and
 * then a lot at once would spend much of that time on trials. */
static bool pay_for_trial(struct costs *costs, uint64_t cycle)
{
    uint64_t now = clock_ns();
    uint64_t last = atomic_load_explicit(&costs->last, memory_order_relaxed);
    atomic_store_explicit(&costs->last, now, memory_order_relaxed);
    earn(costs, !last ? TRIAL_CREDIT : now > last ? least((now - last) / TRIAL_SHARE, cycle) : 0, cycle);
    uint64_t credit = atomic_load_explicit(&costs->credit, memory_order_relaxed);
    if (credit < cycle)
        return false;
    atomic_store_explicit(&costs->credit, credit - cycle, memory_order_relaxed);
    return true;
}

/* Runs that are not over count as well: of a pool in which nothing is written, no other would be seen. */
static void note_seen(struct costs *costs, uint16_t sends, uint16_t stores)
{
    uint16_t seen = (uint16_t)(atomic_load_explicit(&costs->seen, memory_order_relaxed) + sends);
    uint16_t written = (uint16_t)(atomic_load_explicit(&costs->written, memory_order_relaxed) + stores);
    bool enough = seen >= SEEN_MOST;
    atomic_store_explicit(&costs->seen, enough ? seen / 2 : seen, memory_order_relaxed);
    atomic_store_explicit(&costs->written, enough ? written / 2 : written, memory_order_relaxed);
}

static uint32_t estimate_shared(struct costs *costs)
{
    uint32_t seen = atomic_load_explicit(&costs->seen, memory_order_relaxed);
    uint32_t written = atomic_load_explicit(&costs->written, memory_order_relaxed);
    return SCALE * seen / (written ? written : 1);
}

/* One short run may be chance: then what other slots saw counts, too. */
static uint32_t estimate_of(struct costs *costs, const struct slot *slot)
{
    if (slot->estimate && slot->backoff > 1)
        return slot->estimate;
    uint32_t shared = estimate_shared(costs);
    return slot->estimate ? (slot->estimate + shared) / 2 : shared;
}

static uint64_t readers_cost(void)
{
    return atomic_load_explicit(&read_by_peers, memory_order_relaxed) ? READERS_NS : 0;
}

static uint64_t cycle_cost(struct zc_pool *pool)
{
    return policy_cost(pool, COST_PROTECT, 0) + policy_cost(pool, COST_STORE, 0) + seed.fault + readers_cost();
}

/* Who protects a part of a huge page takes its mapping apart, once and for all, and each of its small pages is faulted
 * in by the next touch. Its own are counted: other slots of the page count theirs if they are sent, too. A slot with an
 * estimate was protected before. */
static uint64_t split_cost(const struct zc_pool *pool, const struct slot *slot)
{
    bool splits = pool->huge && pool->slot_size < HUGE_BYTES && !slot->estimate;
    return splits ? (pool->slot_size >> PAGE_SHIFT) * seed.fault : 0;
}

/* What copies cost is seen by copying only. A pool that took them for dearer than they are would go on to protect. */
static bool time_to_look(struct costs *costs)
{
    uint32_t protections = atomic_load_explicit(&costs->protections, memory_order_relaxed) + 1;
    atomic_store_explicit(&costs->protections, protections, memory_order_relaxed);
    return protections % LOOK_EVERY == 0;
}

bool policy_protects(struct zc_pool *pool, struct slot *slot, size_t bytes)
{
    /* A rename is of the whole slot: for a small part of it, copying is the better bet. */
    if (bytes < pool->slot_size / 4)
        return false;
    struct costs *costs = costs_of(pool);
    uint64_t copy = policy_cost(pool, COST_COPY, bytes), split = split_cost(pool, slot), cycle = cycle_cost(pool);
    uint32_t estimate = estimate_of(costs, slot);
    if (estimate && copy * estimate / SCALE > cycle)
        return !time_to_look(costs) && (copy * PAID_BACK >= split || pay_for_trial(costs, split));
    if (slot->skip) {
        slot->skip--;
        return false;
    }
    /* Released at completion, a protection costs no fault: then even a single send may be worth it. But stores come
     * before completion is noticed, too, so it has to be a good deal cheaper. */
    uint64_t once = policy_cost(pool, COST_PROTECT, 0) + policy_cost(pool, COST_UNPROTECT, 0) + readers_cost();
    if (estimate && copy > 2 * (once + split))
        return true;
    if (slot->run == 0) {
        slot->run = 1; /* start by copying; the second send is tried */
        return false;
    }
    return copy > cycle + split || pay_for_trial(costs, cycle + split);
}

void policy_protected(struct slot *slot)
{
    slot->run = 1;
}

void policy_goes_on(struct zc_pool *pool)
{
    note_seen(costs_of(pool), LONG_RUN, 0);
}

bool policy_resent(struct slot *slot)
{
    if (slot->run < ESTIMATE_MOST)
        slot->run++;
    /* The run is at least this long, whatever the average says. */
    if (slot->run * SCALE > slot->estimate)
        slot->estimate = (uint8_t)least((uint64_t)slot->run * SCALE, ESTIMATE_MOST);
    return slot->run % LONG_RUN == 0;
}

void policy_written(struct zc_pool *pool, struct slot *slot)
{
    struct costs *costs = costs_of(pool);
    if (slot->run == 0)
        return;
    uint32_t run = (uint32_t)least((uint64_t)slot->run * SCALE, ESTIMATE_MOST);
    slot->estimate = slot->estimate ? (uint8_t)((slot->estimate * 3 + run) / 4) : (uint8_t)run;
    note_seen(costs, slot->run % LONG_RUN, 1);

    uint64_t cycle = cycle_cost(pool), copies = policy_cost(pool, COST_COPY, pool->slot_size) * slot->run;
    if (copies < cycle) {
        slot->skip = (uint8_t)(1 << slot->backoff);
        slot->backoff += slot->backoff < BACKOFF_MOST;
    } else {
        earn(costs, cycle, cycle);
        slot->skip = slot->backoff = 0;
    }
    slot->run = 1;
}

bool policy_lingers(struct zc_pool *pool, struct slot *slot)
{
    if (slot->run > 1)
        return true;
    uint32_t estimate = estimate_of(costs_of(pool), slot);
    uint64_t pair = policy_cost(pool, COST_PROTECT, 0) + policy_cost(pool, COST_UNPROTECT, 0);
    /* Lingering saves a protection and its end for every send but the first of a run, and costs one fault. */
    if (!estimate || (estimate > SCALE && (estimate - SCALE) * pair / SCALE > seed.fault))
        return true;
    if (slot->skip) {
        slot->skip--;
        return false;
    }
    slot->skip = 1 << BACKOFF_MOST; /* linger once in a while, to see a run */
    return true;
}
