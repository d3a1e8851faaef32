/* SPDX-License-Identifier: MIT
 *
 * Addresses: user and wire halves, slots, backings and segments follow from one another by arithmetic. */
#include "alloc/arena.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc/pool.h"
#include "apart.h"
#include "check.h"
#include "invariants.h"
#include "pattern.h"
#include "ranks.h"
#include "system.h"

Test(arena, opens_once)
{
    CHECK(!arena_has(&arena) && !arena_has(NULL));
    CHECK(!slot_find(&arena) && !slot_find(NULL));
    CHECK_OK(arena_open());
    struct arena first = arena;
    CHECK_OK(arena_open());
    CHECK(memcmp(&first, &arena, sizeof arena) == 0);
    CHECK((uintptr_t)arena.user % HUGE_BYTES == 0);
    CHECK((uintptr_t)arena.wire % HUGE_BYTES == 0);
    CHECK(arena.span >= (size_t)1 << 28);
    CHECK(arena.wire == arena.user + arena.span);
}

Test(arena, halves_end_where_they_end)
{
    CHECK_OK(arena_open());
    CHECK(arena_has(arena.user) && arena_has(arena.user + arena.span - 1));
    CHECK(!arena_has(arena.user - 1) && !arena_has(arena.user + arena.span));
    CHECK(arena_has_wire(arena.wire) && arena_has_wire(arena.wire + arena.span - 1));
    CHECK(!arena_has_wire(arena.wire - 1) && !arena_has_wire(arena.wire + arena.span));
    CHECK(!arena_has(NULL) && !arena_has(&arena) && !arena_has_wire(&arena));
}

Test(arena, everything_follows_from_an_address)
{
    uint64_t random = 1;

    CHECK_OK(arena_open());
    size_t pages = arena.span >> PAGE_SHIFT;
    for (int i = 0; i < 10000; i++) {
        size_t page = i == 0 ? 0 : i == 1 ? pages - 1 : random_below(&random, pages);
        char *user = arena.user + page * PAGE_BYTES;
        struct entry *entry = arena_entry(user + random_below(&random, PAGE_BYTES));
        CHECK(entry == &arena.entries[page]);
        CHECK(slot_id(&entry->slot) == page);
        CHECK(slot_by_id((uint32_t)page) == &entry->slot);
        CHECK(slot_user(&entry->slot) == user);
        CHECK(slot_home(&entry->slot) == &entry->backing);
        CHECK(arena_wire_of(user) == user + arena.span);
        CHECK(backing_wire(&entry->backing) == arena_wire_of(user));
        CHECK(arena_segment(user) == NULL);
        CHECK(slot_find(user) == NULL);
    }
}

Test(arena, ranges_are_taken_once)
{
    CHECK_OK(arena_open());
    char *a = arena_take(1), *b = arena_take(HUGE_BYTES), *c = arena_take(HUGE_BYTES + 1), *d = arena_take(1);
    CHECK((uintptr_t)a % HUGE_BYTES == 0);
    CHECK(b == a + HUGE_BYTES && c == b + HUGE_BYTES && d == c + 2 * HUGE_BYTES);
    CHECK(arena_has(a) && arena_has(d));
}

Test(arena, is_used_up_without_harm)
{
    CHECK_OK(arena_open());
    CHECK(!arena_take(arena.span + 1));
    char *most = arena_take(arena.span - HUGE_BYTES);
    CHECK(most == arena.user);
    CHECK(!arena_take(HUGE_BYTES + 1));
    CHECK(arena_take(HUGE_BYTES) == most + arena.span - HUGE_BYTES);
    CHECK(!arena_take(1));

    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;
    options.slot_size = 4096;
    CHECK_FAILS(zc_pool_open(&options, &pool), -ENOMEM, "4096-byte slots");
    CHECK(!pool);
}

enum { TAKERS = 4, TAKEN = 2000 };
static char *ranges[TAKERS * TAKEN];

static void *take_many(void *argument)
{
    char **mine = argument;
    for (int i = 0; i < TAKEN; i++)
        mine[i] = arena_take(HUGE_BYTES * (size_t)(1 + i % 3));
    return NULL;
}

static int by_address(const void *a, const void *b)
{
    char *const *p = a, *const *q = b;
    return *p < *q ? -1 : *p > *q;
}

Test(arena, threads_take_different_ranges)
{
    pthread_t threads[TAKERS];
    size_t total = 0;

    CHECK_OK(arena_open());
    for (int i = 0; i < TAKERS; i++)
        threads[i] = thread_start(take_many, &ranges[i * TAKEN]);
    for (int i = 0; i < TAKERS; i++)
        thread_join(threads[i]);
    for (int i = 0; i < TAKEN; i++)
        total += TAKERS * HUGE_BYTES * (size_t)(1 + i % 3);
    qsort(ranges, TAKERS * TAKEN, sizeof ranges[0], by_address);
    CHECK(ranges[0] == arena.user);
    for (int i = 1; i < TAKERS * TAKEN; i++)
        CHECK(ranges[i] >= ranges[i - 1] + HUGE_BYTES);
    CHECK(arena_take(1) == arena.user + total); /* nothing was lost either */
}

/* ---- slots ---- */

static zc_pool *open_pool(size_t slot_size, enum zc_huge huge)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;
    options.slot_size = slot_size;
    options.huge = huge;
    CHECK_OK(zc_pool_open(&options, &pool));
    return pool;
}

static struct slot *claim(zc_pool *pool)
{
    CHECK_OK(pool_claim(pool));
    return pool_pop(pool);
}

Test(arena, every_byte_of_a_slot_names_it)
{
    zc_pool *pool = open_pool(3 * PAGE_BYTES, ZC_HUGE_NEVER);
    struct slot *slots[1000];

    for (int i = 0; i < 1000; i++) /* several segments */
        slots[i] = claim(pool);
    CHECK(pool->segments->next != NULL);
    for (int i = 0; i < 1000; i++) {
        char *user = slot_user(slots[i]);
        CHECK((uintptr_t)user % PAGE_BYTES == 0);
        CHECK(slot_pool(slots[i]) == pool);
        for (size_t at = 0; at < 3 * PAGE_BYTES; at += at % PAGE_BYTES ? 1 : PAGE_BYTES - 1)
            CHECK(slot_find(user + at) == slots[i]);
        CHECK(slot_find(user - 1) != slots[i] && slot_find(user + 3 * PAGE_BYTES) != slots[i]);
        CHECK(slot_find(arena_wire_of(user)) == NULL);
        CHECK(slots[i]->backing == slot_home(slots[i]) && slots[i]->backing->slot == slots[i]);
    }
}

Test(arena, only_carved_slots_are_found)
{
    zc_pool *pool = open_pool(PAGE_BYTES, ZC_HUGE_NEVER);

    claim(pool);
    struct segment *segment = pool->segments;
    CHECK(segment->carved > 0 && segment->carved < segment->slots);
    CHECK(slot_find(segment->user + (segment->carved - 1) * segment->stride) != NULL);
    CHECK(slot_find(segment->user + segment->carved * segment->stride) == NULL);
    CHECK(slot_find(segment->user + segment->length - 1) == NULL);
    CHECK(slot_find(pool->scratch) == NULL);
}

Test(arena, gaps_between_huge_slots_are_nobodys)
{
    size_t size = HUGE_BYTES + PAGE_BYTES;
    zc_pool *pool = open_pool(size, ZC_HUGE_AUTO);
    struct slot *a = claim(pool), *b = claim(pool);

    CHECK(pool->stride == 2 * HUGE_BYTES);
    CHECK((uintptr_t)slot_user(a) % HUGE_BYTES == 0 && (uintptr_t)slot_user(b) % HUGE_BYTES == 0);
    CHECK(slot_find(slot_user(a) + size - 1) == a);
    CHECK(slot_find(slot_user(a) + size) == NULL);
    CHECK(slot_find(slot_user(a) + pool->stride - 1) == NULL);
    CHECK(slot_find(slot_user(b) + size - 1) == b);
}

Test(arena, both_mappings_show_the_same_pages)
{
    zc_pool *pool = open_pool(5 * PAGE_BYTES, ZC_HUGE_NEVER);

    for (int i = 0; i < 200; i++) {
        struct slot *slot = claim(pool);
        char *user = slot_user(slot), *wire = backing_wire(slot->backing);
        pattern_fill(user, pool->slot_size, (uint64_t)i);
        CHECK_PATTERN(wire, pool->slot_size, (unsigned)i);
        pattern_fill(wire, pool->slot_size, (uint64_t)i + 1000);
        CHECK_PATTERN(user, pool->slot_size, (unsigned)i + 1000);
    }
}

Test(arena, segments_say_no_more_once_they_are_unmapped)
{
    zc_pool *pool = open_pool(PAGE_BYTES, ZC_HUGE_NEVER);
    struct slot *slot = claim(pool);
    char *user = slot_user(slot);
    size_t released = 0;

    pool_push(slot);
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released == HUGE_BYTES);
    CHECK(arena_segment(user) == NULL && slot_find(user) == NULL);
    CHECK(slot_user(slot) == user); /* entries outlive pages */
    CHECK(claim(pool) != NULL);
    CHECK(slot_find(pool->segments->user) != NULL);
    CHECK(pool->segments->user <= user && user < pool->segments->user + pool->segments->length);
}

/* ---- lookups while segments come and go ---- */

enum { SLOT = 24 << 10 };
static _Atomic bool stop;
static _Atomic size_t found;

/* Whatever a lookup says of a page, it is right about where its slot begins. */
static void *look_up(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    size_t hits = 0;
    while (!stop) {
        char *p = arena.user + random_below(&random, 64 * HUGE_BYTES);
        struct slot *slot = slot_find(p);
        if (!slot)
            continue;
        CHECK(slot_user(slot) <= p && p < slot_user(slot) + SLOT);
        hits++;
    }
    atomic_fetch_add(&found, hits);
    return NULL;
}

Test(arena, lookups_race_with_segments, .timeout = 60)
{
    pthread_t threads[3];
    static struct slot *slots[800];
    zc_pool *pool = open_pool(SLOT, ZC_HUGE_NEVER);

    for (int i = 0; i < 3; i++)
        threads[i] = thread_start(look_up, (void *)(uintptr_t)(i + 1));
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 800; i++) {
            slots[i] = claim(pool);
            CHECK(slot_find(slot_user(slots[i]) + SLOT - 1) == slots[i]);
        }
        for (int i = 0; i < 800; i++)
            pool_push(slots[i]);
        CHECK_OK(zc_pool_trim(pool, NULL));
        CHECK(pool->slots == 0);
    }
    stop = true;
    for (int i = 0; i < 3; i++)
        thread_join(threads[i]);
    CHECK(found > 0);
}

/* ---- small address spaces ---- */

static int status_with_limit(size_t bytes, void (*body)(void))
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct rlimit limit = {bytes, bytes};
        CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
        body();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void opens_smaller(void)
{
    CHECK_OK(arena_open());
    CHECK(arena.span >= (size_t)1 << 28 && arena.span < (size_t)1 << 40);
    char *p = zc_alloc(100000);
    CHECK(p);
    memset(p, 1, 100000);
    CHECK(!zc_alloc(arena.span));
    CHECK(!zc_alloc(arena.span / 4 + 1));
    CHECK(errno == ENOMEM);
}

static size_t kib(const char *label)
{
    return (size_t)system_number("/proc/self/status", label);
}

/* The program has other uses for what addresses it may have. */
static void leaves_three_quarters(void)
{
    size_t before = kib("VmSize:") << 10, left = ((size_t)16 << 30) - before;
    CHECK_OK(arena_open());
    size_t taken = (kib("VmSize:") << 10) - before;
    CHECKF(taken <= left / 4 + (16 << 20), "%zu bytes of %zu", taken, left);
    CHECK(4 * arena.span > left / 4); /* and no less than it may have */
}

static void opens_smallest(void)
{
    CHECK_OK(arena_open());
    CHECK(arena.span == 1 << 28);
}

static void cannot_open(void)
{
    CHECK_FAILS(arena_open(), -ENOMEM, "ulimit -v");
    CHECK_FAILS(arena_open(), -ENOMEM, "RLIMIT_AS");
    CHECK(!zc_alloc(1));
    CHECK(errno == ENOMEM);
    CHECK(!slot_find(&arena) && zc_owns(&arena) == 0);
}

Test(arena, takes_what_address_space_there_is)
{
#if defined(__SANITIZE_ADDRESS__)
    cr_skip_test("AddressSanitizer takes more address space than the test leaves");
#endif
    CHECK(status_with_limit((size_t)16 << 30, opens_smaller) == 0);
    CHECK(status_with_limit((size_t)16 << 30, leaves_three_quarters) == 0);
    CHECK(status_with_limit((size_t)1 << 30, opens_smallest) == 0);
    CHECK(status_with_limit((size_t)256 << 20, cannot_open) == 0);
}

/* ---- locked memory ---- */

/* What is to have pages at once does not make zc have those of all entries there may ever be. */
static void is_locked(const void *when)
{
    struct rlimit limit = {(size_t)64 << 30, (size_t)64 << 30};
    bool first = *(const bool *)when;
    CHECK(mlockall(MCL_CURRENT) == 0);
    size_t before = kib("VmRSS:");
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0); /* or a failure would take the machine's memory */
    CHECK(!first || mlockall(MCL_FUTURE) == 0);
    char *p = ALLOC(100000);
    CHECK(first || mlockall(MCL_CURRENT) == 0);
    memset(p, 1, 100000);
    CHECKF(kib("VmRSS:") < before + (32 << 10), "%zu KiB, before %zu", kib("VmRSS:"), before);
    CHECK_OK(zc_free(p));
    CHECK_FAILS(zc_free(arena.user + arena_taken()), -EINVAL, "not zc memory");
    CHECK(zc_owns(arena.user + arena.span - PAGE_BYTES) == 0);
}

static void may_not_be_locked(const void *argument)
{
    struct rlimit limit = {1 << 20, 1 << 20};
    (void)argument;
    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    CHECK(geteuid() || setresuid(65534, 65534, 65534) == 0);
    CHECK(mlockall(MCL_FUTURE) == 0);
    CHECK_FAILS(arena_open(), -ENOMEM, "RLIMIT_MEMLOCK");
}

Test(arena, takes_little_of_locked_memory)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    cr_skip_test("a sanitizer's memory would be locked too");
#endif
    apart(may_not_be_locked, NULL);
    if (geteuid())
        cr_skip_test("locking memory takes privilege");
    apart(is_locked, &(bool){true});
    apart(is_locked, &(bool){false});
}

static void *open_in_thread(void *argument)
{
    CHECK_OK(arena_open());
    *(char **)argument = arena.user;
    return NULL;
}

Test(arena, threads_open_the_same)
{
    pthread_t threads[4];
    char *users[4];
    for (int i = 0; i < 4; i++)
        threads[i] = thread_start(open_in_thread, &users[i]);
    for (int i = 0; i < 4; i++)
        thread_join(threads[i]);
    for (int i = 0; i < 4; i++)
        CHECK(users[i] == arena.user);
}

/* ---- rule 9: one look-up from address to slot ---- */

Test(rule9, every_address_of_a_slot_and_no_other)
{
    char *b = buffer(3, 1), on_stack;
    struct slot *slot = slot_at(b);
    for (size_t at = 0; at < 3 * PAGE; at += 64)
        CHECK(slot_find(b + at) == slot);
    CHECK(slot_find(b + 3 * PAGE - 1) == slot && slot_find(b + 3 * PAGE) != slot && slot_find(b - 1) != slot);
    CHECK(!slot_find(backing_wire(backing_of(b))) && !slot_find(&on_stack) && !slot_find(NULL));
    CHECK(slot_find((void *)UINTPTR_MAX) == NULL);
    CHECK(sizeof(struct entry) <= 64);
    zc_comm *comm = loop_strict(); /* a rename changes the pages, not the slot */
    CHECK_OK(zc_send(b, 3 * PAGE, 0, 1, comm));
    store(b, 1);
    CHECK(slot_find(b) == slot && slot_user(slot) == b && backing_of(b) != slot_home(slot));
    CHECK(load(backing_wire(backing_of(b))) == 1);
    CHECK_MESSAGE(comm, 1, 0, 3 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}
