/* SPDX-License-Identifier: MIT
 *
 * Pages that move between size classes: only those without use for long, and nothing is lost by it. */
#include "alloc/reclaim.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "alloc/heap.h"
#include "apart.h"
#include "loop.h"
#include "pattern.h"
#include "ranks.h"
#include "system.h"
#include "tests/unit/pools.h"

TestSuite(reclaim, .timeout = 60);

enum {
    ONE = 128 << 10, /* the class that loses pages */
    ONES = 64,
    OTHER = 320 << 10, /* the one that grows; nobody's neighbour */
    OTHERS = 40
};

/* Takes n buffers of a size, stores to all of them, looks whether it is there, and frees them. */
static void turn_over(size_t size, int n)
{
    char **p = calloc((size_t)n, sizeof *p);
    for (int i = 0; i < n; i++) {
        pattern_fill(p[i] = ALLOC(size), size, (unsigned)i);
        CHECK_SIGNALS();
    }
    for (int i = 0; i < n; i++) {
        CHECK_PATTERN(p[i], size, (unsigned)i);
        CHECK_OK(zc_free(p[i]));
    }
    free(p);
}

/* One buffer more each time, so that the pool grows each time. */
static void grow_others(void (*meanwhile)(void))
{
    for (int n = 1; n <= OTHERS; n++) {
        turn_over(OTHER, n);
        if (meanwhile)
            meanwhile();
    }
}

static size_t slots_of(size_t size)
{
    return stats_of(heap_pool(size, 1)).slots;
}

/* kB of the first segment of its pool. */
static long held_kb(size_t size)
{
    return system_smaps_kb(heap_pool(size, 1)->segments->user, "Rss");
}

Test(reclaim, pages_move_to_where_they_are_needed)
{
    turn_over(ONE, ONES);
    struct segment *segment = heap_pool(ONE, 1)->segments;
    long before = system_smaps_kb(segment->user, "Rss");
    CHECK(slots_of(ONE) == ONES);
    grow_others(NULL);
    CHECKF(slots_of(ONE) < ONES * 3 / 4, "%zu slots still have their pages", slots_of(ONE));
    size_t allocated = (size_t)ONES * ONE + (size_t)OTHERS * (OTHERS + 1) / 2 * OTHER;
    CHECKF((ONES - slots_of(ONE)) * ONE <= allocated / 64 + ONE, "only %zu slots have their pages", slots_of(ONE));
    CHECKF(system_smaps_kb(segment->user, "Rss") < before, "%ld kB are still there", before);
    CHECK(held_kb(OTHER) > 0);

    turn_over(ONE, ONES); /* which have to be found again */
    CHECK(slots_of(ONE) == ONES);
    CHECK_OK(zc_pool_trim(heap_pool(ONE, 1), NULL));
    CHECK(slots_of(ONE) == 0);
    turn_over(ONE, ONES);
}

static void use_ones(void)
{
    CHECK(slots_of(ONE) == ONES);
    turn_over(ONE, ONES);
}

Test(reclaim, what_is_needed_again_stays)
{
    turn_over(ONE, ONES);
    grow_others(use_ones);
    CHECK(slots_of(ONE) == ONES);
}

Test(reclaim, where_much_is_in_use_what_little_lies_idle_stays)
{
    turn_over(ONE, ONES);
    for (int i = 0; i < 3 * ONES; i++)
        ALLOC(ONE);
    turn_over(ONE, ONES);
    grow_others(NULL);
    CHECK(slots_of(ONE) == 4 * ONES);
}

Test(reclaim, pools_of_ones_own_keep_theirs)
{
    char *p[ONES];
    zc_pool *pool = open_small(ONE);
    for (int i = 0; i < ONES; i++)
        p[i] = alloc_in(pool);
    for (int i = 0; i < ONES; i++)
        CHECK_OK(zc_free(p[i]));
    size_t slots = stats_of(pool).slots;
    grow_others(NULL);
    CHECK(stats_of(pool).slots == slots);
}

static int add(void *context, struct segment *segment)
{
    (void)context, (void)segment;
    return 0;
}

static void remove_it(void *context, struct segment *segment)
{
    (void)context, (void)segment;
}

Test(reclaim, what_a_device_has_pinned_stays)
{
    struct registrar registrar = {.add = add, .remove = remove_it, .pins = true};
    turn_over(ONE, ONES);
    CHECK_OK(registrar_attach(&registrar));
    grow_others(NULL);
    CHECK(slots_of(ONE) == ONES);
    registrar_detach(&registrar);
}

static void refuse(const void *argument)
{
    (void)argument;
    deny_system_call(SYS_madvise, 2, MADV_REMOVE, EPERM);
    turn_over(ONE, ONES);
    grow_others(NULL);
    CHECK(slots_of(ONE) == ONES && slots_of(OTHER) == OTHERS);
    turn_over(ONE, ONES);
}

Test(reclaim, a_refusal_loses_nothing)
{
    apart(refuse, NULL);
}

/* Whose addresses and protection are as messages left them. */
Test(reclaim, messages_stay_intact)
{
    static const size_t sizes[] = {32 << 10, 48 << 10, ONE, OTHER, 1 << 20};
    enum { SIZES = sizeof sizes / sizeof sizes[0], MOST = 24 };
    static char got[1 << 20];
    zc_comm *comm = loop_renaming(ZC_RELEASE_AUTO);
    uint64_t random = 7, renames = stats_now().renames;
    size_t most[SIZES] = {0}, lost = 0;

    for (int round = 0; round < 500; round++) {
        char *p[MOST];
        size_t which = (size_t)round / 25 % SIZES, size = sizes[which];
        int n = 1 + (int)random_below(&random, MOST);
        for (int i = 0; i < n; i++) {
            p[i] = ALLOC(size);
            pattern_fill(p[i], size, (unsigned)i);
            CHECK_OK(zc_send(p[i], size, 0, i, comm));
            if (random_below(&random, 2))
                *(volatile char *)p[i] = 1;
            if (random_below(&random, 2)) {
                CHECK_OK(zc_free(p[i]));
                p[i] = NULL;
            }
        }
        for (int i = 0; i < n; i++) {
            CHECK_OK(zc_recv(got, size, 0, i, comm, NULL));
            CHECK_PATTERN(got, size, (unsigned)i);
            CHECK_OK(zc_free(p[i]));
        }
        size_t slots = slots_of(size);
        lost += slots < most[which];
        most[which] = slots > most[which] ? slots : most[which];
    }
    CHECK(stats_now().renames > renames);
    CHECKF(lost > 0, "no page has moved");
    CHECK_OK(zc_close(comm));
}

/* Stored to while all are in flight, they get the pages of as many spares, which show theirs from then on. */
Test(reclaim, what_another_slot_shows_stays)
{
    static char got[ONE];
    char *p[ONES];
    zc_comm *comm = loop_renaming(ZC_RELEASE_AUTO);
    for (int i = 0; i < ONES; i++) {
        pattern_fill(p[i] = ALLOC(ONE), ONE, 0);
        CHECK_OK(zc_send(p[i], ONE, 0, 0, comm));
    }
    for (int i = 0; i < ONES; i++) {
        struct slot *slot = slot_find(p[i]);
        pattern_fill(p[i], ONE, (unsigned)i);
        CHECK(slot->backing != slot_home(slot));
    }
    for (int i = 0; i < ONES; i++)
        CHECK_OK(zc_recv(got, ONE, 0, 0, comm, NULL));
    CHECK(stats_of(heap_pool(ONE, 1)).waste >= ONES);
    grow_others(NULL);
    for (int i = 0; i < ONES; i++)
        CHECK_PATTERN(p[i], ONE, (unsigned)i);
    turn_over(ONE, ONES);
    CHECK_OK(zc_close(comm));
}

Test(reclaim, guards_are_lifted)
{
    static char got[ONE];
    char *p[ONES];
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    for (int i = 0; i < ONES; i++)
        p[i] = ALLOC(ONE);
    loop_resend(comm, p, ONES, got, ONE);
    for (int i = 0; i < ONES; i++) {
        CHECK(slot_find(p[i])->protected_pages);
        CHECK_OK(zc_free(p[i]));
    }
    size_t slots = slots_of(ONE);
    grow_others(NULL);
    CHECK(slots_of(ONE) < slots);
    turn_over(ONE, ONES);
    CHECK_OK(zc_close(comm));
}

static void *turn_all_over(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    for (int round = 0; round < 100; round++)
        turn_over((32 << 10) + random_below(&random, 480 << 10), 1 + (int)random_below(&random, 16));
    return NULL;
}

Test(reclaim, threads_move_pages_at_once)
{
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++)
        threads[i] = thread_start(turn_all_over, (void *)(i + 1));
    for (int i = 0; i < 4; i++)
        thread_join(threads[i]);
}

/* ---- slots of the next class ---- */

Test(reclaim, idle_slots_of_the_next_class_serve)
{
    turn_over(96 << 10, 8);
    size_t slots = slots_of(96 << 10);
    char *p[4];
    for (int i = 0; i < 4; i++) {
        p[i] = ALLOC(80 << 10); /* which has a class of its own */
        CHECK(zc_usable_size(p[i]) == 96 << 10);
    }
    CHECK(slots_of(96 << 10) == slots);
    for (int i = 0; i < 4; i++)
        CHECK_OK(zc_free(p[i]));
    CHECK(zc_usable_size(ALLOC(68 << 10)) == 80 << 10); /* of which those would waste more than a quarter */
}
