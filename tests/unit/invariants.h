/* SPDX-License-Identifier: MIT
 *
 * For the tests of the rules of protection: what the kernel says of a page, what a pool at rest must look like,
 * and buffers and messages to set scenes with. Messages go over the loop transport, where a send stays in flight
 * until it is received. */
#ifndef TESTS_INVARIANTS_H
#define TESTS_INVARIANTS_H

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc/cache.h"
#include "check.h"
#include "loop.h"
#include "pattern.h"
#include "protect/hold.h"
#include "protect/maps.h"
#include "protect/pages.h"
#include "protect/policy.h"
#include "ranks.h"
#include "transport/loop.h"
#include "zc.h"

#define PAGE PAGE_BYTES

/* ---- what the kernel says ---- */

/* 'w' read-write, 'r' read-only, '-' no access, '?' not mapped. */
static inline char page_shown(const void *p)
{
    char line[512], shown = '?';
    FILE *file = fopen("/proc/self/maps", "re");
    CHECK(file);
    while (fgets(line, sizeof line, file)) {
        char *end;
        uintptr_t from = strtoull(line, &end, 16), to = strtoull(end + 1, &end, 16);
        if (from <= (uintptr_t)p && (uintptr_t)p < to)
            shown = end[2] == 'w' ? 'w' : end[1] == 'r' ? 'r' : '-';
    }
    fclose(file);
    return shown;
}

/* The pages from `p` on are as in `expected`, one character each. */
static inline void check_pages(int line, const void *p, const char *expected)
{
    char shown[256] = "";
    for (size_t i = 0; expected[i]; i++)
        shown[i] = page_shown((const char *)p + i * PAGE);
    if (strcmp(shown, expected) != 0)
        check_failed(__FILE__, line, "protection of pages", "is %s, not %s", shown, expected);
}
#define CHECK_PAGES(p, expected) check_pages(__LINE__, (p), (expected))

/* Can a system call read, or write, the byte? One that cannot says EFAULT, without a signal. */
static inline bool kernel_reads(const void *p)
{
    static _Thread_local int null;
    if (!null)
        null = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    CHECK(null > 0);
    ssize_t n = pwrite(null, p, 1, 0);
    CHECK(n == 1 || errno == EFAULT);
    return n == 1;
}

static inline bool kernel_writes(void *p)
{
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(zero, p, 1);
    CHECK(n == 1 || errno == EFAULT);
    close(zero);
    return n == 1;
}

/* ---- scenes ---- */

/* Sends are protected at once and released with the last; a store that comes too early renames at once. */
static inline zc_comm *loop_strict(void)
{
    return loop_renaming(ZC_RELEASE_EAGER);
}

static inline zc_pool *pool_of_pages(size_t pages)
{
    zc_pool *pool;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = pages * PAGE;
    options.huge = ZC_HUGE_NEVER;
    CHECK_OK(zc_pool_open(&options, &pool));
    return pool;
}

static inline char *slot_in(zc_pool *pool)
{
    char *p = zc_pool_alloc(pool);
    CHECK(p);
    return p;
}

/* A buffer of `pages` pages of a pool of its own, filled with the pattern of `seed`. */
static inline char *buffer(size_t pages, unsigned seed)
{
    char *p = slot_in(pool_of_pages(pages));
    pattern_fill(p, pages * PAGE, seed);
    return p;
}

static inline void store(char *p, char value)
{
    *(volatile char *)p = value;
}

static inline char load(const char *p)
{
    return *(const volatile char *)p;
}

/* Receives the next message with `tag` and checks that it is `length` bytes of a pattern from byte `at` on. */
static inline void check_message(int line, zc_comm *comm, int tag, size_t at, size_t length, unsigned seed)
{
    char *in = malloc(length + 1), *want = malloc(at + length);
    zc_status status;
    CHECK(in && want);
    pattern_fill(want, at + length, seed);
    CHECK_OK(zc_recv(in, length + 1, 0, tag, comm, &status));
    CHECK(status.length == length);
    for (size_t i = 0; i < length; i++)
        if (in[i] != want[at + i])
            check_failed(__FILE__, line, "message", "byte %zu of %zu differs (pattern %u)", i, length, seed);
    free(in);
    free(want);
}
#define CHECK_MESSAGE(comm, tag, at, length, seed) check_message(__LINE__, (comm), (tag), (at), (length), (seed))

/* Sends `length` bytes of a pattern from memory of its own, which is copied. */
static inline void post_pattern(zc_comm *comm, int tag, size_t length, unsigned seed)
{
    char *out = malloc(length);
    CHECK(out);
    pattern_fill(out, length, seed);
    CHECK_OK(zc_send(out, length, 0, tag, comm));
    free(out);
}

/* A message with tag 2 is to land in `b`, of pattern 1, by way of a bounce: a send was in flight, which has left. */
static inline void receive_after_send(zc_comm *comm, char *b, size_t length)
{
    CHECK_OK(zc_send(b, PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b, length, 0, 2, comm));
    CHECK_MESSAGE(comm, 1, 0, PAGE, 1);
}

/* A receive into the first bytes of `b` that fails, and that nobody has been told of yet. */
static inline void fail_receive(zc_comm *comm, char *b)
{
    loop_fail(comm, 1, -EIO);
    CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
    post_pattern(comm, 1, 100, 2);
    CHECK_OK(zc_progress(comm));
}

static inline struct slot *slot_at(const void *p)
{
    struct slot *slot = slot_find(p);
    CHECK(slot);
    return slot;
}

static inline struct backing *backing_of(const void *p)
{
    return atomic_load(&slot_at(p)->backing);
}

/* Somebody waits for the slot of `p`: returns when that is so. */
static inline void until_awaited(const void *p)
{
    for (bool awaited = false; !awaited; sched_yield()) {
        struct backing *backing = slot_lock(slot_at(p));
        awaited = slot_at(p)->awaited;
        slot_unlock(backing);
    }
}

static inline void until_faults(uint64_t faults)
{
    while (stats_now().faults < faults)
        sched_yield();
}

struct access {
    char *at;
    char value;
    _Atomic bool done;
};

static inline void *store_there(void *argument)
{
    struct access *access = argument;
    store(access->at, access->value);
    atomic_store(&access->done, true);
    return NULL;
}

static inline void *load_there(void *argument)
{
    struct access *access = argument;
    access->value = load(access->at);
    atomic_store(&access->done, true);
    return NULL;
}

/* A single observation might be taken for an outlier. */
static inline void observe_often(struct zc_pool *pool, enum cost cost, uint64_t ns)
{
    for (int i = 0; i < 100; i++)
        policy_observe(pool, cost, pool->slot_size, ns);
}

/* Waits and renames take their measure from what a rename costs: now so long that no test sees it over. */
static inline void make_renames_dear(const char *p)
{
    observe_often(slot_pool(slot_at(p)), COST_RENAME, UINT32_MAX);
    CHECK(policy_cost(slot_pool(slot_at(p)), COST_RENAME, 0) > 3000000000);
}

/* ---- a pool at rest ---- */

/* Nothing is in flight: every slot that is not live is in the free list, once and without a claim on it; slots and
 * backings are pairs; nobody holds, awaits or has reserved anything. */
static inline void check_rest(int line, struct zc_pool *pool)
{
    cache_drain(pool);
    size_t slots = 0, live = 0, listed = 0, claimed = 0;
    for (struct segment *segment = pool->segments; segment; segment = segment->next) {
        for (uint32_t i = 0; i < segment->carved; i++, slots++) {
            struct slot *slot = segment_slot(segment, i);
            struct backing *backing = atomic_load(&slot->backing);
            live += slot_is(slot, SLOT_LIVE);
            claimed += slot->reserved;
            if (backing->slot != slot || backing->sends || backing->lock.word || slot->awaited)
                check_failed(__FILE__, line, "slot at rest", "slot %u is not", i);
            for (struct hold *hold = slot->receives; hold; hold = hold->next)
                if (!hold->landed)
                    check_failed(__FILE__, line, "slot at rest", "slot %u receives", i);
        }
    }
    for (uint32_t id = (uint32_t)atomic_load(&pool->head); id != UINT32_MAX; listed++) {
        struct slot *slot = slot_by_id(id);
        if (!slot_is(slot, SLOT_FREE) || slot_pool(slot) != pool || listed > slots)
            check_failed(__FILE__, line, "free list", "slot %u does not belong there", id);
        id = atomic_load(&slot->next);
    }
    long spare = atomic_load(&pool->spare);
    if (listed != slots - live || spare != (long)listed || claimed || live != atomic_load(&pool->taken))
        check_failed(__FILE__, line, "slots", "of %zu: %zu live (%zu counted), %zu listed, %ld spare, %zu reserved",
                     slots, live, (size_t)atomic_load(&pool->taken), listed, spare, claimed);
}
#define CHECK_REST(pool) check_rest(__LINE__, (pool))

/* What may still be claimed of ZC_MAPS; nobody else may claim meanwhile. */
static inline int maps_left(void)
{
    int n = 0;
    while (maps_claim(1))
        n++;
    maps_unclaim(n);
    return n;
}

#endif
