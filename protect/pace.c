/* SPDX-License-Identifier: MIT */
#include "protect/pace.h"

#include "core/clock.h"

enum {
    EPOCH = 64,   /* sends */
    TRIALS = 6,   /* epochs at first, in turn */
    RETRIAL = 16, /* then every so many epochs the slower way is tried again */
    BETTER = 20   /* copying has to be faster by one part in so many: its way costs memory and bandwidth, too */
};

static uint32_t pace_of(const struct pace *pace, enum way way)
{
    return atomic_load_explicit(&pace->ns[way], memory_order_relaxed);
}

static enum way faster(const struct pace *pace)
{
    uint32_t protect = pace_of(pace, WAY_PROTECT), copy = pace_of(pace, WAY_COPY);
    return copy + copy / BETTER < protect ? WAY_COPY : WAY_PROTECT;
}

/* A pause of the program, or a time slice that was lost, says nothing of either way: what takes far longer than before
 * counts for twice as long at most. */
static void observe(struct pace *pace, enum way way, uint64_t ns)
{
    uint32_t before = pace_of(pace, way);
    uint32_t now = ns < UINT32_MAX / 2 ? (uint32_t)ns : UINT32_MAX / 2;
    if (before)
        now = (uint32_t)(((uint64_t)before * 3 + (now / 2 < before ? now : 2 * before)) / 4);
    atomic_store_explicit(&pace->ns[way], now ? now : 1, memory_order_relaxed);
}

enum way pace_next(struct pace *pace)
{
    uint32_t sends = atomic_fetch_add_explicit(&pace->sends, 1, memory_order_relaxed);
    enum way way = pace_way(pace);
    if (sends % EPOCH)
        return way;
    uint64_t now = clock_ns();
    if (sends)
        observe(pace, way, (now - atomic_load_explicit(&pace->start, memory_order_relaxed)) / EPOCH);
    uint32_t epoch = sends / EPOCH;
    if (epoch < TRIALS)
        way = epoch % WAYS ? WAY_COPY : WAY_PROTECT;
    else
        way = epoch % RETRIAL ? faster(pace) : faster(pace) == WAY_COPY ? WAY_PROTECT : WAY_COPY;
    atomic_store_explicit(&pace->way, way, memory_order_relaxed);
    atomic_store_explicit(&pace->start, now, memory_order_relaxed);
    return way;
}
