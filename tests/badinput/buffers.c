/* SPDX-License-Identifier: MIT
 *
 * Bad arguments of the allocator and of access to buffers: each is an error that names it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pattern.h"
#include "ranks.h"
#include "transport/loop.h"

TestSuite(buffers, .timeout = 60);

/* As zc prints pointers. */
static const char *pointer(const void *p)
{
    static char text[32];

    snprintf(text, sizeof text, "%p", p);
    return text;
}

/* A call that returns NULL sets errno and says something. */
#define CHECK_NULL(call, error)                                                                                        \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        void *got = (call);                                                                                            \
        CHECKF(got == NULL && errno == (error), #call " is %p, errno %d, not %d", got, errno, (error));                \
        CHECKF(zc_errmsg()[0], #call " says nothing");                                                                 \
    } while (0)

Test(buffers, impossible_sizes)
{
    CHECK_NULL(zc_alloc(SIZE_MAX), ENOMEM);
    CHECK_NULL(zc_alloc(SIZE_MAX - 4096), ENOMEM);
    CHECK_NULL(zc_alloc(SIZE_MAX / 2 + 1), ENOMEM);
    CHECK_NULL(zc_alloc((size_t)1 << 47), ENOMEM);
    CHECK_NULL(zc_calloc(SIZE_MAX / 2, 3), ENOMEM);
    CHECK_NULL(zc_calloc((size_t)1 << 33, (size_t)1 << 33), ENOMEM);
    CHECK_NULL(zc_aligned_alloc(4096, SIZE_MAX - 100), ENOMEM);
    /* Nothing is broken by that. */
    char *p = zc_calloc(10, 10);
    CHECK(p);
    CHECK_BYTES(p, 100, 0);
    CHECK_NULL(zc_realloc(p, SIZE_MAX - 5000), ENOMEM);
    CHECK_BYTES(p, 100, 0);
    CHECK(zc_usable_size(p) >= 100);
    CHECK_OK(zc_free(p));
}

Test(buffers, no_bytes)
{
    char *p = zc_alloc(0), *q = zc_calloc(0, 7);

    CHECK(p && q && p != q);
    p[0] = 1;
    CHECK(q[0] == 0 && zc_usable_size(p) >= 1);
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_free(q));
    CHECK_OK(zc_free(NULL));
    CHECK(zc_usable_size(NULL) == 0 && zc_owns(NULL) == 0);
}

Test(buffers, waste_and_alignment)
{
    for (size_t size = 1; size < (size_t)9 << 20; size += size / 7 + 1) {
        char *p = ALLOC(size);
        size_t pages = (size + 4095) / 4096 * 4096, usable = zc_usable_size(p);

        CHECK((uintptr_t)p % 4096 == 0);
        CHECKF(usable >= size && usable <= pages + pages / 4, "%zu bytes for %zu", usable, size);
        CHECK_OK(zc_free(p));
    }
}

Test(buffers, alignments)
{
    CHECK_NULL(zc_aligned_alloc(0, 10), EINVAL);
    CHECK_NULL(zc_aligned_alloc(24, 10), EINVAL);
    CHECK(strstr(zc_errmsg(), "24"));
    CHECK_NULL(zc_aligned_alloc((size_t)4 << 20, 10), EINVAL);
    CHECK(strstr(zc_errmsg(), "4194304"));
    for (size_t alignment = 1; alignment <= (size_t)2 << 20; alignment *= 2) {
        char *p[3];

        for (int i = 0; i < 3; i++) {
            p[i] = zc_aligned_alloc(alignment, 5000);
            CHECKF(p[i] && (uintptr_t)p[i] % alignment == 0, "%p for %zu", (void *)p[i], alignment);
            memset(p[i], i, 5000);
        }
        for (int i = 0; i < 3; i++) {
            CHECK_BYTES(p[i], 5000, (unsigned char)i);
            CHECK_OK(zc_free(p[i]));
        }
    }
}

Test(buffers, zeroed_though_recycled)
{
    for (int i = 0; i < 20; i++) {
        unsigned char *p = zc_calloc(100, 1000);

        CHECK(p);
        CHECK_BYTES(p, 100000, 0);
        memset(p, 0xff, zc_usable_size(p));
        CHECK_OK(zc_free(p));
    }
}

Test(buffers, free_of_what_is_no_buffer)
{
    int local;
    char *p = ALLOC(20000), *other = malloc(100);

    memset(p, 7, 20000);
    CHECK_FAILS(zc_free(p + 1), -EINVAL, pointer(p + 1));
    CHECK_FAILS(zc_free(p + 4096), -EINVAL, pointer(p + 4096));
    CHECK_FAILS(zc_free(&local), -EINVAL, pointer(&local));
    CHECK_FAILS(zc_free(other), -EINVAL, pointer(other));
    CHECK_FAILS(zc_free((void *)(uintptr_t)64), -EINVAL, "0x40");
    CHECK(zc_usable_size(p + 1) == 0 && zc_usable_size(&local) == 0 && zc_usable_size(other) == 0);
    CHECK(zc_owns(p + 19999) == 1 && zc_owns(&local) == 0 && zc_owns(other) == 0);
    CHECK_BYTES(p, 20000, 7);
    CHECK_OK(zc_free(p));
    CHECK_FAILS(zc_free(p), -EINVAL, pointer(p));
    CHECK(zc_usable_size(p) == 0 && zc_owns(p) == 0);
    free(other);
}

/* After a refused second free the slot is given out once, not twice. */
Test(buffers, double_free_gives_no_slot_twice)
{
    enum { N = 200 };
    char *p[N];

    for (int i = 0; i < 5; i++) {
        p[i] = ALLOC(5000);
        CHECK_OK(zc_free(p[i]));
        CHECK_IS(zc_free(p[i]), -EINVAL);
    }
    for (int i = 0; i < N; i++) {
        p[i] = ALLOC(5000);
        memset(p[i], i, 5000);
    }
    for (int i = 0; i < N; i++) {
        CHECK_BYTES(p[i], 5000, (unsigned char)i);
        CHECK_OK(zc_free(p[i]));
    }
}

Test(buffers, realloc)
{
    int local = 5;
    char *p = zc_realloc(NULL, 1000);

    CHECK(p);
    memset(p, 3, 1000);
    CHECK_NULL(zc_realloc(p + 8, 2000), EINVAL);
    CHECK(strstr(zc_errmsg(), pointer(p + 8)));
    CHECK_NULL(zc_realloc(&local, 2000), EINVAL);
    CHECK_BYTES(p, 1000, 3);
    errno = 5;
    CHECK(zc_realloc(p, 0) == NULL && errno == 0);
    CHECK_IS(zc_free(p), -EINVAL);
    CHECK_NULL(zc_realloc(p, 10), EINVAL);
}

static zc_pool_stats stats_of(zc_pool *pool)
{
    zc_pool_stats stats = {.size = sizeof stats};

    CHECK_OK(zc_pool_stats_get(pool, &stats));
    return stats;
}

Test(buffers, pool_options)
{
    zc_pool_options good = ZC_POOL_OPTIONS_INIT;
    zc_pool *untouched = (zc_pool *)&good, *pool = untouched;

    good.slot_size = 4096;
    zc_pool_options o = good;

    o.slot_size = 0;
    CHECK_FAILS(zc_pool_open(&o, &pool), -EINVAL, "slot_size");
    o.slot_size = SIZE_MAX;
    int error = zc_pool_open(&o, &pool);
    CHECK(error == -EINVAL || error == -ENOMEM);
    o = good;
    o.cap = 0;
    CHECK_FAILS(zc_pool_open(&o, &pool), -EINVAL, "cap");
    o = good;
    o.initial = 77;
    o.cap = 76;
    CHECK_FAILS(zc_pool_open(&o, &pool), -EINVAL, "77");
    CHECK_FAILS(zc_pool_open(&o, &pool), -EINVAL, "76");
    o = good;
    o.huge = (enum zc_huge)99;
    CHECK_FAILS(zc_pool_open(&o, &pool), -EINVAL, "99");
    o = good;
    o.full = (enum zc_full)98;
    CHECK_FAILS(zc_pool_open(&o, &pool), -EINVAL, "98");
    o = good;
    o.protect = (enum zc_protect)97;
    CHECK_FAILS(zc_pool_open(&o, &pool), -EINVAL, "97");
    o = good;
    o.size = 3;
    CHECK_FAILS(zc_pool_open(&o, &pool), -EINVAL, "3");
    o.size = 0;
    CHECK_IS(zc_pool_open(&o, &pool), -EINVAL);
    CHECK_IS(zc_pool_open(NULL, &pool), -EINVAL);
    CHECK_IS(zc_pool_open(&good, NULL), -EINVAL);
    CHECK(pool == untouched);
    CHECK_OK(zc_pool_close(NULL));
}

/* Shorter ones leave out what they lack, longer ones may set nothing that is not known. */
Test(buffers, pool_options_of_other_versions)
{
    struct {
        zc_pool_options known;
        int later[2];
    } longer = {.known = ZC_POOL_OPTIONS_INIT};
    zc_pool_options shorter = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;

    shorter.size = offsetof(zc_pool_options, cap);
    shorter.slot_size = 4096;
    shorter.initial = 3;
    memset(&shorter.cap, 0, sizeof shorter - offsetof(zc_pool_options, cap));
    CHECK_OK(zc_pool_open(&shorter, &pool));
    CHECK(stats_of(pool).cap == ZC_UNLIMITED && stats_of(pool).slots == 3);
    CHECK_OK(zc_pool_close(pool));

    longer.known.size = sizeof longer;
    longer.known.slot_size = 8192;
    CHECK_OK(zc_pool_open(&longer.known, &pool));
    CHECK(stats_of(pool).slot_size == 8192);
    CHECK_OK(zc_pool_close(pool));
    longer.later[0] = 1;
    CHECK_FAILS(zc_pool_open(&longer.known, &pool), -EINVAL, "is it older?");
}

static zc_pool *small_pool(enum zc_full full)
{
    zc_pool_options o = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;

    o.slot_size = 10000;
    o.initial = 2;
    o.cap = 3;
    o.full = full;
    CHECK_OK(zc_pool_open(&o, &pool));
    return pool;
}

Test(buffers, pool_full_fails)
{
    zc_pool *pool = small_pool(ZC_FULL_FAIL);
    void *p[3];

    for (int i = 0; i < 3; i++)
        CHECK((p[i] = zc_pool_alloc(pool)) && zc_usable_size(p[i]) >= 10000);
    for (int i = 0; i < 3; i++)
        CHECK_NULL(zc_pool_alloc(pool), ENOMEM);
    CHECK(strstr(zc_errmsg(), "3"));
    zc_pool_stats s = stats_of(pool);
    CHECK(s.live == 3 && s.peak == 3 && s.cap == 3 && s.allocs == 3 && s.over_cap == 0 && s.fallbacks == 0);
    CHECK_FAILS(zc_pool_close(pool), -EBUSY, "3");
    CHECK_OK(zc_free(p[0]));
    CHECK((p[0] = zc_pool_alloc(pool)));
    for (int i = 0; i < 3; i++)
        CHECK_OK(zc_free(p[i]));
    CHECK(stats_of(pool).live == 0 && stats_of(pool).peak == 3);
    CHECK_OK(zc_pool_close(pool));
}

Test(buffers, pool_full_grows)
{
    zc_pool *pool = small_pool(ZC_FULL_GROW);
    void *p[8];

    for (int i = 0; i < 8; i++)
        CHECK((p[i] = zc_pool_alloc(pool)) && zc_owns(p[i]));
    CHECK(stats_of(pool).over_cap == 5 && stats_of(pool).live == 8);
    for (int i = 0; i < 8; i++)
        CHECK_OK(zc_free(p[i]));
    CHECK_OK(zc_pool_close(pool));
}

/* Nor is what was given back to the system, or lies before a buffer, taken for memory of the program's own. */
Test(buffers, no_buffer_is_there_any_more)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_comm *comm;
    zc_pool *pool;

    options.slot_size = 100000;
    CHECK_OK(zc_pool_open(&options, &pool));
    char *p = zc_pool_alloc(pool);
    CHECK(p);
    CHECK_OK(zc_open("loop", NULL, &comm));
    CHECK_OK(zc_free(p));
    for (int trimmed = 0; trimmed < 2; trimmed++) {
        CHECK_FAILS(zc_send(p, 10, 0, 0, comm), -EINVAL, pointer(p));
        CHECK_FAILS(zc_recv(p, 10, 0, 0, comm, NULL), -EINVAL, pointer(p));
        CHECK_FAILS(zc_irecv(p, 10, 0, 0, comm), -EINVAL, "freed");
        CHECK_OK(zc_pool_trim(pool, NULL));
    }
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_pool_close(pool));
}

/* What a pool falls back to is sent by copy, with the same promise, and freed like any buffer. */
Test(buffers, pool_full_falls_back)
{
    zc_pool *pool = small_pool(ZC_FULL_FALLBACK);
    zc_comm *comm = NULL;
    char *p[6], *in = ALLOC(10000);

    CHECK_OK(zc_open("loop", NULL, &comm));
    for (int i = 0; i < 6; i++) {
        CHECK((p[i] = zc_pool_alloc(pool)));
        memset(p[i], i, 10000);
    }
    CHECK(zc_owns(p[2]) == 1 && zc_owns(p[3]) == 0 && zc_owns(p[5]) == 0);
    CHECKF(zc_usable_size(p[5]) >= 10000, "%zu", zc_usable_size(p[5]));
    CHECK(stats_of(pool).fallbacks == 3 && stats_now().fallbacks >= 3);
    CHECK_OK(zc_send(p[5], 10000, 0, 1, comm));
    memset(p[5], 0xff, 10000);
    CHECK_OK(zc_recv(in, 10000, 0, 1, comm, NULL));
    CHECK_BYTES(in, 10000, 5);
    /* There is nothing to protect. */
    struct zc_guard guard;
    CHECK_FAILS(zc_irecv(p[5], 10000, 0, 1, comm), -EINVAL, "is a full pool's fall-back");
    CHECK_FAILS(zc_wait(p[5] + 1, NULL), -EINVAL, "fall-back");
    CHECK_FAILS(zc_writable(p[5] + zc_usable_size(p[5]) - 1), -EINVAL, "fall-back");
    CHECK_FAILS(zc_write(p[5], in, 1), -EINVAL, "fall-back");
    CHECK_FAILS(zc_guard(p[3], 1, ZC_DENY_ALL, &guard), -EINVAL, "fall-back");
    CHECK_FAILS(zc_pin(p[4], NULL), -EINVAL, "fall-back");
    CHECK_FAILS(zc_wait(p[5] + zc_usable_size(p[5]), NULL), -EINVAL, "not zc memory");
    CHECK_OK(zc_write(in, p[5], 10000));
    /* Given up in flight. */
    memset(p[4], 4, 10000);
    CHECK_OK(zc_send_free(p[4], 10000, 0, 1, comm));
    CHECK_OK(zc_recv(p[5], 10000, 0, 1, comm, NULL));
    CHECK_BYTES(p[5], 10000, 4);
    p[5] = zc_realloc(p[5], 50000);
    CHECK(p[5]);
    CHECK_BYTES(p[5], 10000, 4);
    CHECK_OK(zc_free(p[5]));
    for (int i = 0; i < 4; i++) {
        CHECK_BYTES(p[i], 10000, (unsigned char)i);
        CHECK_OK(zc_free(p[i]));
    }
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_pool_close(pool));
}

Test(buffers, pool_in_flight_cannot_be_closed)
{
    zc_pool_options o = ZC_POOL_OPTIONS_INIT;
    zc_options options = ZC_OPTIONS_INIT;
    zc_pool *pool = NULL;
    zc_comm *comm = NULL;
    char *in = ALLOC(60000), *p;

    o.slot_size = 60000;
    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_pool_open(&o, &pool));
    CHECK_OK(zc_open("loop", &options, &comm));
    CHECK((p = zc_pool_alloc(pool)));
    pattern_fill(p, 60000, 1);
    loop_hold(comm, true);
    CHECK_OK(zc_irecv(in, 60000, 0, 1, comm));
    CHECK_OK(zc_send_free(p, 60000, 0, 1, comm));
    CHECK_FAILS(zc_pool_close(pool), -EBUSY, "flight");
    loop_hold(comm, false);
    CHECK_OK(zc_wait(in, NULL));
    CHECK_PATTERN(in, 60000, 1);
    CHECK_OK(zc_flush(comm));
    CHECK_OK(zc_pool_close(pool));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}

Test(buffers, statistics_of_another_size)
{
    struct {
        zc_stats stats;
        unsigned char after[16];
    } all;
    zc_pool *pool = small_pool(ZC_FULL_FAIL);
    zc_pool_stats part;

    /* An older program: only what it knows of is filled. */
    memset(&all, 0x5c, sizeof all);
    all.stats.size = offsetof(zc_stats, sends);
    CHECK_OK(zc_stats_get(&all.stats));
    CHECK_BYTES(&all.stats.sends, sizeof all - offsetof(zc_stats, sends), 0x5c);
    /* A newer one. */
    all.stats.size = sizeof all;
    CHECK_OK(zc_stats_get(&all.stats));
    CHECK(all.stats.size == sizeof all);
    CHECK_BYTES(all.after, sizeof all.after, 0x5c);
    CHECK_IS(zc_stats_get(NULL), -EINVAL);
    memset(&part, 0x5c, sizeof part);
    part.size = offsetof(zc_pool_stats, live);
    CHECK_OK(zc_pool_stats_get(pool, &part));
    CHECK(part.slot_size >= 10000 && part.slots >= 2);
    CHECK_BYTES(&part.live, sizeof part - offsetof(zc_pool_stats, live), 0x5c);
    CHECK_IS(zc_pool_stats_get(pool, NULL), -EINVAL);
    CHECK_IS(zc_pool_stats_get(NULL, &part), -EINVAL);
    CHECK_OK(zc_pool_close(pool));
}

Test(buffers, guard_and_access)
{
    char *p = ALLOC(20000), local[10];
    size_t usable = zc_usable_size(p);
    struct zc_guard guard = {0};
    void *wire = p;

    memset(p, 1, 20000);
    CHECK_IS(zc_unguard(&guard), -EINVAL);
    CHECK_OK(zc_unguard(NULL));
    CHECK_FAILS(zc_guard(p, 100, (enum zc_deny)0, &guard), -EINVAL, "0");
    CHECK_FAILS(zc_guard(p, 100, (enum zc_deny)47, &guard), -EINVAL, "47");
    CHECK_IS(zc_guard(p, usable + 1, ZC_DENY_STORES, &guard), -EINVAL);
    CHECK_IS(zc_guard(p + 1, usable, ZC_DENY_ALL, &guard), -EINVAL);
    CHECK_IS(zc_guard(p + 1, SIZE_MAX, ZC_DENY_ALL, &guard), -EINVAL);
    CHECK_FAILS(zc_guard(local, 1, ZC_DENY_STORES, &guard), -EINVAL, pointer(local));
    CHECK_IS(zc_guard(NULL, 1, ZC_DENY_STORES, &guard), -EINVAL);
    CHECK_IS(zc_guard(p, 100, ZC_DENY_STORES, NULL), -EINVAL);
    CHECK(!guard.wire && !guard.hold && guard.length == 0);

    CHECK_FAILS(zc_write(local, "x", 1), -EINVAL, pointer(local));
    CHECK_IS(zc_write(p + usable - 1, "xy", 2), -EINVAL);
    CHECK_IS(zc_write(p + 1, p, SIZE_MAX), -EINVAL);
    CHECK_FAILS(zc_write(p, NULL, 1), -EINVAL, "src is NULL");
    CHECK_OK(zc_write(p, NULL, 0));
    CHECK_FAILS(zc_writable(local), -EINVAL, pointer(local));
    CHECK_IS(zc_writable(NULL), -EINVAL);
    CHECK_FAILS(zc_pin(local, &wire), -EINVAL, pointer(local));
    CHECK(wire == p);
    CHECK_IS(zc_unpin(local), -EINVAL);
    CHECK_BYTES(p, 20000, 1);
    CHECK_OK(zc_pin(p, NULL));
    CHECK_OK(zc_unpin(p));
    CHECK_OK(zc_free(p));
    /* Freed. */
    CHECK_IS(zc_guard(p, 1, ZC_DENY_STORES, &guard), -EINVAL);
    CHECK_IS(zc_write(p, "x", 1), -EINVAL);
    CHECK_IS(zc_writable(p), -EINVAL);
    CHECK_IS(zc_pin(p, &wire), -EINVAL);
    CHECK_IS(zc_wait(p, NULL), -EINVAL);
    CHECK_IS(zc_cancel(p), -EINVAL);
}

/* Whether a slot follows, and whether that is live. A pointer alone names no byte of the buffer there. */
static void check_empty_at_end_of(char *p, zc_comm *comm)
{
    char *end = p + zc_usable_size(p), *other = ALLOC(100);
    struct zc_guard guard;
    bool live = zc_owns(end);
    int result;

    CHECK_OK(zc_send(end, 0, 0, 1, comm));
    CHECK_OK(zc_sendrecv(end, 0, 0, 2, end, 0, 0, 1, comm, NULL));
    CHECK_OK(zc_recv(end, 0, 0, 2, comm, NULL));
    CHECK_OK(zc_write(end, other, 0));
    CHECK_OK(zc_write(other, end, 0));
    for (enum zc_deny deny = ZC_DENY_STORES; deny <= ZC_DENY_ALL; deny++) {
        CHECK_OK(zc_guard(end, 0, deny, &guard));
        CHECK(guard.length == 0);
        CHECK_OK(zc_unguard(&guard));
    }
    CHECK_OK(zc_irecv(end, 0, 0, 1, comm));
    CHECK_OK(zc_send(end, 0, 0, 1, comm));
    CHECK_IS(zc_send(end - 1, 2, 0, 1, comm), -EINVAL);
    result = live ? 0 : -EINVAL;
    CHECK_IS(zc_wait(end, NULL), result);
    CHECK_IS(zc_writable(end), result);
    memset(p, 1, zc_usable_size(p));
    CHECK_OK(zc_free(other));
}

Test(buffers, empty_ranges_at_the_end)
{
    enum { SLOTS = 8 };
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;
    zc_comm *comm = NULL;
    char *p[SLOTS], *last = NULL, *freed = NULL;

    options.slot_size = 8192;
    CHECK_OK(zc_pool_open(&options, &pool));
    CHECK_OK(zc_open("loop", NULL, &comm));
    for (unsigned i = 0; i < SLOTS; i++) {
        CHECK(p[i] = zc_pool_alloc(pool));
        last = p[i] > last ? p[i] : last;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        check_empty_at_end_of(p[i], comm); /* those but the last have live neighbours */
    for (unsigned i = 0; i < SLOTS && !freed; i++)
        freed = p[i] + 8192 == last ? last : NULL;
    CHECK(freed);
    CHECK_OK(zc_free(freed));
    check_empty_at_end_of(freed - 8192, comm);
    CHECK_OK(zc_close(comm));
}

/* A copy of a guard stands for the same one, and is known when that has ended, whatever has begun since. */
Test(buffers, copies_of_guards)
{
    char *p = ALLOC(20000);
    for (enum zc_deny deny = ZC_DENY_STORES; deny <= ZC_DENY_ALL; deny++) {
        struct zc_guard guard, next;
        CHECK_OK(zc_guard(p, 100, deny, &guard));
        struct zc_guard copy = guard, another = guard;
        CHECK_OK(zc_unguard(&guard));
        CHECK_FAILS(zc_unguard(&copy), -EINVAL, "not in force");
        CHECK_OK(zc_guard(p, 100, deny, &next));
        CHECK_FAILS(zc_unguard(&copy), -EINVAL, "not in force");
        copy = next;
        CHECK_OK(zc_unguard(&copy));
        CHECK_FAILS(zc_unguard(&next), -EINVAL, "not in force");
        CHECK_FAILS(zc_unguard(&another), -EINVAL, "not in force");
    }
    memset(p, 1, 20000);
    CHECK_OK(zc_free(p));
}

Test(buffers, guards_and_receives_exclude_each_other)
{
    char *p = ALLOC(50000);
    struct zc_guard guard, other;
    zc_comm *comm = NULL;

    CHECK_OK(zc_open("loop", NULL, &comm));
    CHECK_OK(zc_irecv(p, 20000, 0, 1, comm));
    CHECK_IS(zc_guard(p + 19999, 10, ZC_DENY_ALL, &guard), -EBUSY);
    CHECK_IS(zc_guard(p, 10, ZC_DENY_STORES, &guard), -EBUSY);
    CHECK_OK(zc_cancel(p));
    CHECK_OK(zc_guard(p, 20000, ZC_DENY_ALL, &guard));
    CHECK_IS(zc_guard(p + 100, 1, ZC_DENY_ALL, &other), -EBUSY);
    CHECK_OK(zc_unguard(&guard));
    CHECK_OK(zc_guard(p, 20000, ZC_DENY_STORES, &guard));
    CHECK_OK(zc_guard(p, 20000, ZC_DENY_STORES, &other));
    CHECK_OK(zc_unguard(&guard));
    CHECK_OK(zc_unguard(&other));
    memset(p, 0, 50000);
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_close(comm));
}

static void *fail_elsewhere(void *argument)
{
    (void)argument;
    CHECK(zc_errmsg()[0] == 0);
    CHECK_FAILS(zc_free((void *)(uintptr_t)0x50), -EINVAL, "0x50");
    return NULL;
}

Test(buffers, messages_belong_to_threads)
{
    CHECK(zc_errmsg() && zc_errmsg()[0] == 0);
    CHECK_FAILS(zc_free((void *)(uintptr_t)0x40), -EINVAL, "0x40");
    thread_join(thread_start(fail_elsewhere, NULL));
    CHECK(strstr(zc_errmsg(), "0x40"));
    for (int e = -200; e < 300; e++)
        CHECK(zc_strerror(e) && zc_strerror(e)[0]);
    CHECK(zc_strerror(INT32_MIN) && zc_strerror(INT32_MAX));
    CHECK(strcmp(zc_strerror(-EMSGSIZE), zc_strerror(-EBUSY)) != 0);
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", ZC_VERSION_MAJOR, ZC_VERSION_MINOR, ZC_VERSION_PATCH);
    CHECK(strcmp(zc_version(), version) == 0);
}
