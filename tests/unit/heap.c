/* SPDX-License-Identifier: MIT
 *
 * malloc's family, and the pools of ZC_POOLS. */
#include "alloc/heap.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "core/options.h"
#include "pattern.h"
#include "ranks.h"

static size_t pages(size_t size)
{
    return (size + PAGE_BYTES - 1) / PAGE_BYTES;
}

/* ---- size classes ---- */

Test(heap, classes_waste_a_quarter_at_most)
{
    for (size_t size = 1; size < (size_t)1 << 36; size += size < 1 << 22 ? 1 + size / 300 : size / 97) {
        size_t class = heap_class_size(size);
        CHECKF(class >= size && class % PAGE_BYTES == 0, "%zu for %zu", class, size);
        CHECKF(4 * pages(class) <= 5 * pages(size), "%zu for %zu", class, size);
        CHECKF(heap_class_size(class) == class, "%zu", class);
        CHECKF(heap_class_size(class + 1) > class, "%zu", class);
    }
    CHECK(heap_class_size(0) == PAGE_BYTES);
    for (unsigned shift = PAGE_SHIFT; shift < 38; shift++)
        CHECK(heap_class_size((size_t)1 << shift) == (size_t)1 << shift);
}

/* ---- allocation ---- */

Test(heap, alloc)
{
    for (size_t size = 0; size < 5000000; size = size * 3 + 1) {
        char *p = ALLOC(size);
        CHECK((uintptr_t)p % PAGE_BYTES == 0);
        CHECK(zc_usable_size(p) == heap_class_size(size));
        CHECK(zc_owns(p) == 1 && zc_owns(p + zc_usable_size(p) - 1) == 1);
        memset(p, 1, zc_usable_size(p));
        CHECK_OK(zc_free(p));
        CHECK(zc_owns(p) == 0 && zc_usable_size(p) == 0);
    }
    CHECK_OK(zc_free(NULL));
}

Test(heap, too_much_is_refused)
{
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 4095, SIZE_MAX / 2, (size_t)1 << 40};
    CHECK_OK(arena_open());
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        errno = 0;
        CHECK(!zc_alloc(sizes[i]));
        CHECK(errno == ENOMEM);
        CHECK(strstr(zc_errmsg(), "the most is"));
    }
}

/* No two allocations share a page, and none shows the library's own bytes. */
Test(heap, allocations_are_page_isolated)
{
    enum { N = 600 };
    static char *at[N];
    static size_t size[N];
    uint64_t random = 3;

    for (int i = 0; i < N; i++) {
        size[i] = random_below(&random, 30000);
        at[i] = ALLOC(size[i]);
        memset(at[i], i % 251, zc_usable_size(at[i]));
    }
    for (int i = 0; i < N; i++) {
        size_t length = zc_usable_size(at[i]);
        CHECK((uintptr_t)at[i] % PAGE_BYTES == 0 && length % PAGE_BYTES == 0);
        CHECK_BYTES(at[i], length, (unsigned char)(i % 251));
        for (int j = 0; j < i; j++)
            CHECK(at[i] + length <= at[j] || at[j] + zc_usable_size(at[j]) <= at[i]);
    }
    for (int i = 0; i < N; i++)
        CHECK_OK(zc_free(at[i]));
}

Test(heap, freed_slots_are_used_again)
{
    char *p = ALLOC(100000);
    zc_free(p);
    CHECK(ALLOC(100000) == p);
    uint64_t segments = stats_now().segments;
    for (int i = 0; i < 10000; i++)
        zc_free(ALLOC(100000));
    CHECK(stats_now().segments == segments);
}

Test(heap, counts_allocations)
{
    zc_stats before = stats_now();
    char *p = ALLOC(1), *q = zc_calloc(1, 1);
    zc_free(p);
    CHECK(stats_now().allocs == before.allocs + 2);
    CHECK(stats_now().frees == before.frees + 1);
    zc_free(q);
}

Test(heap, calloc_zeroes_what_was_used_before)
{
    for (size_t size = 1; size < 3000000; size = size * 7 + 3) {
        char *p = ALLOC(size);
        memset(p, 0xa5, zc_usable_size(p));
        zc_free(p);
        char *q = zc_calloc(size, 1);
        CHECK(q == p);
        CHECK_BYTES(q, size, 0);
        zc_free(q);
    }
    char *p = zc_calloc(0, 8);
    CHECK(p && zc_usable_size(p) == PAGE_BYTES);
    char *q = zc_calloc(3, 5000);
    CHECK(q && zc_usable_size(q) >= 15000);
    CHECK_BYTES(q, 15000, 0);
}

Test(heap, calloc_of_more_than_there_are_bytes)
{
    errno = 0;
    CHECK(!zc_calloc(SIZE_MAX / 2, 3));
    CHECK(errno == ENOMEM);
    CHECK(strstr(zc_errmsg(), "SIZE_MAX"));
    CHECK(!zc_calloc((size_t)1 << 32, (size_t)1 << 32));
    CHECK(errno == ENOMEM);
}

Test(heap, aligned_alloc)
{
    for (size_t alignment = 1; alignment <= HUGE_BYTES; alignment *= 2) {
        for (size_t size = 1; size < 10000000; size = size * 5 + 77) {
            char *p = zc_aligned_alloc(alignment, size);
            CHECK(p);
            CHECKF((uintptr_t)p % alignment == 0, "%p for %zu", (void *)p, alignment);
            CHECK(zc_usable_size(p) >= size);
            p[0] = p[size - 1] = 1;
            char *q = zc_aligned_alloc(alignment, size);
            CHECK(q && (uintptr_t)q % alignment == 0);
            CHECK_OK(zc_free(p));
            CHECK_OK(zc_free(q));
        }
    }
}

Test(heap, alignments_that_are_none)
{
    static const size_t bad[] = {0, 3, 24, 4095, 4097, HUGE_BYTES + 1, 2 * HUGE_BYTES, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        errno = 0;
        CHECK(!zc_aligned_alloc(bad[i], 10));
        CHECK(errno == EINVAL);
        CHECK(strstr(zc_errmsg(), "power of two"));
    }
}

Test(heap, realloc_keeps_contents)
{
    uint64_t random = 9;
    for (int i = 0; i < 200; i++) {
        size_t size = 1 + random_below(&random, 300000), other = 1 + random_below(&random, 300000);
        char *p = ALLOC(size);
        pattern_fill(p, size, (uint64_t)i);
        char *q = zc_realloc(p, other);
        CHECK(q);
        CHECK_PATTERN(q, size < other ? size : other, (unsigned)i);
        CHECK(zc_usable_size(q) >= other);
        if (q != p)
            CHECK(!zc_owns(p));
        CHECK_OK(zc_free(q));
    }
}

Test(heap, realloc_moves_only_where_it_must)
{
    char *p = ALLOC(16 * PAGE_BYTES);
    CHECK(zc_realloc(p, 16 * PAGE_BYTES) == p);
    CHECK(zc_realloc(p, 4 * PAGE_BYTES) == p); /* four times too large, but not more */
    char *q = zc_realloc(p, 4 * PAGE_BYTES - 1);
    CHECK(q && q != p);
    CHECK(zc_usable_size(q) == 4 * PAGE_BYTES);
    CHECK(zc_realloc(q, 4 * PAGE_BYTES) == q);
    char *r = zc_realloc(q, 4 * PAGE_BYTES + 1);
    CHECK(r && r != q && zc_usable_size(r) == 5 * PAGE_BYTES);
    CHECK_OK(zc_free(r));
    char *small = ALLOC(PAGE_BYTES);
    CHECK(zc_realloc(small, 200) == small && zc_realloc(small, 1) == small); /* there is nothing smaller */
    CHECK_OK(zc_free(small));
}

Test(heap, realloc_at_its_ends)
{
    char *p = zc_realloc(NULL, 100);
    CHECK(p && zc_owns(p));
    pattern_fill(p, 100, 5);
    errno = 0;
    CHECK(!zc_realloc(p, SIZE_MAX));
    CHECK(errno == ENOMEM);
    CHECK_PATTERN(p, 100, 5); /* as it was */
    errno = 77;
    CHECK(!zc_realloc(p, 0));
    CHECK(errno == 0);
    CHECK(!zc_owns(p));
    char foreign[10];
    errno = 0;
    CHECK(!zc_realloc(foreign, 20));
    CHECK(errno == EINVAL);
    char *q = ALLOC(100);
    CHECK(!zc_realloc(q + 1, 20));
    CHECK(errno == EINVAL && zc_owns(q));
    CHECK_OK(zc_free(q));
    CHECK(!zc_realloc(q, 20));
}

Test(heap, only_live_starts_can_be_freed)
{
    char *p = ALLOC(3 * PAGE_BYTES), foreign[1];
    void *other = malloc(1);

    CHECK_FAILS(zc_free(p + 1), -EINVAL, "1 bytes inside the buffer");
    CHECK_FAILS(zc_free(p + PAGE_BYTES), -EINVAL, "4096 bytes inside the buffer");
    CHECK_FAILS(zc_free(foreign), -EINVAL, "not zc memory");
    CHECK_FAILS(zc_free(other), -EINVAL, "not zc memory");
    CHECK_FAILS(zc_free(arena_wire_of(p)), -EINVAL, "not zc memory");
    CHECK(zc_owns(p));
    CHECK_OK(zc_free(p));
    CHECK_FAILS(zc_free(p), -EINVAL, "freed twice");
    CHECK_FAILS(zc_free(p + 1), -EINVAL, "freed twice");
    CHECK(ALLOC(3 * PAGE_BYTES) == p); /* once in the pool, not twice */
    CHECK(ALLOC(3 * PAGE_BYTES) != p);
    free(other);
}

Test(heap, usable_size_and_owns_of_other_pointers)
{
    int local;
    CHECK(zc_usable_size(NULL) == 0 && zc_owns(NULL) == 0);
    CHECK(zc_usable_size(&local) == 0 && zc_owns(&local) == 0);
    char *p = ALLOC(2 * PAGE_BYTES);
    CHECK(zc_usable_size(p + 1) == 0 && zc_usable_size(p + PAGE_BYTES) == 0);
    CHECK(zc_owns(p + 1) == 1 && zc_owns(p + 2 * PAGE_BYTES - 1) == 1);
    CHECK(zc_usable_size(arena_wire_of(p)) == 0 && zc_owns(arena_wire_of(p)) == 0);
    CHECK(zc_owns(p + PAGE_BYTES * 100000) == 0);
}

static void *alloc_and_free(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    char *mine[16] = {0};
    size_t size[16];
    for (int i = 0; i < 20000; i++) {
        int k = (int)random_below(&random, 16);
        if (mine[k]) {
            CHECK((unsigned char)mine[k][0] == k + 1 && (unsigned char)mine[k][size[k] - 1] == k + 1);
            CHECK(zc_owns(mine[k]));
            CHECK_OK(zc_free(mine[k]));
            mine[k] = NULL;
        } else {
            size[k] = 1 + random_below(&random, 60000);
            mine[k] = ALLOC(size[k]);
            mine[k][0] = mine[k][size[k] - 1] = (char)(k + 1);
        }
    }
    for (int k = 0; k < 16; k++)
        zc_free(mine[k]);
    return NULL;
}

Test(heap, threads_allocate_and_free, .timeout = 60)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        threads[i] = thread_start(alloc_and_free, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < 4; i++)
        thread_join(threads[i]);
    zc_stats stats = stats_now();
    CHECK(stats.allocs == stats.frees);
}

/* ---- ZC_POOLS ---- */

/* Runs the body in a child, since variables are read once. */
static void with_pools(const char *spec, void (*body)(const char *), const char *argument)
{
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        unsetenv("ZC_HUGE");
        unsetenv("ZC_FULL");
        setenv("ZC_POOLS", spec, 1);
        body(argument);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECKF(status == 0, "ZC_POOLS=%s: status %#x", spec, (unsigned)status);
}

static void uses_configured(const char *argument)
{
    (void)argument;
    char *p = ALLOC(60 << 10);
    struct zc_pool *pool = slot_pool(slot_find(p));
    CHECK(zc_usable_size(p) == 60 << 10);
    CHECK(pool->cap == 30 && pool->full == ZC_FULL_FAIL && !pool->huge && pool->slots >= 20);
    pool = heap_pool(1 << 20, 1);
    CHECK(pool->slot_size == 1 << 20 && pool->huge && pool->cap == ZC_UNLIMITED && pool->full == ZC_FULL_GROW);
    pool = heap_pool((1 << 20) - 5 * PAGE_BYTES, 1); /* a smaller class comes before a configured pool */
    CHECK(pool->slot_size == 1 << 20);
    pool = heap_pool(5000, 1);
    CHECK(pool->slot_size == 2 * PAGE_BYTES && pool->cap == ZC_UNLIMITED);
    CHECK(heap_pool(50 << 10, 1)->slot_size == 56 << 10);
    CHECK(heap_pool(57 << 10, 1)->slot_size == 60 << 10);
    pool = heap_pool(57 << 10, 64 << 10); /* 60K is no multiple of that */
    CHECK(pool->slot_size == 64 << 10);
    CHECK(heap_pool(3 << 20, 1)->full == ZC_FULL_FALLBACK);
}

static void uses_one_for_many(const char *argument)
{
    (void)argument;
    CHECK(heap_pool(1, 1)->slot_size == PAGE_BYTES);
    CHECK(heap_pool(8 << 10, 1)->slot_size == 2 * PAGE_BYTES); /* less than the pool takes */
    CHECK(heap_pool(10000, 1)->slot_size == 64 << 10);
    CHECK(heap_pool(64 << 10, 1)->slot_size == 64 << 10);
    CHECK(heap_pool((64 << 10) + 1, 1)->slot_size == 256 << 10);
    CHECK(heap_pool((256 << 10) + 1, 1)->slot_size == 320 << 10);
    CHECK(heap_pool(30000, 128 << 10)->slot_size == 256 << 10); /* the first that is aligned */
}

/* As above once a thread has cached slots of each pool, which are found by the number of pages. */
static void uses_cached(const char *argument)
{
    static const struct {
        size_t size, alignment, slot_size;
    } wanted[] = {{1, 1, 4 << 10},           {4096, 8192, 8 << 10},
                  {8 << 10, 1, 8 << 10},     {9999, 1, 12 << 10},
                  {10000, 1, 64 << 10},      {12 << 10, 4096, 64 << 10},
                  {20480, 1, 64 << 10},      {20481, 1, 64 << 10},
                  {64 << 10, 1, 64 << 10},   {(64 << 10) + 1, 1, 256 << 10},
                  {256 << 10, 1, 256 << 10}, {(256 << 10) + 1, 1, 320 << 10}};
    (void)argument;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
            char *p = zc_aligned_alloc(wanted[i].alignment, wanted[i].size);
            CHECKF(zc_usable_size(p) == wanted[i].slot_size, "round %d: %zu bytes in %zu", round, wanted[i].size,
                   zc_usable_size(p));
            CHECK(zc_free(p) == 0);
        }
}

Test(heap, configured_pools_take_smaller_requests)
{
    with_pools("256K:0:from=20K,64K:2:from=10000", uses_one_for_many, NULL);
    with_pools("256K:0:from=20K,64K:2:from=10000", uses_cached, NULL);
}

static void falls_back_aligned(const char *argument)
{
    (void)argument;
    for (int i = 0; i < 4; i++) {
        char *p = zc_aligned_alloc(HUGE_BYTES, HUGE_BYTES);
        CHECKF(p && (uintptr_t)p % HUGE_BYTES == 0, "%p", (void *)p);
        CHECK(zc_owns(p) == (i == 0));
    }
}

/* What a full pool gives instead is aligned as its slots would be. */
Test(heap, configured_pools_fall_back_to_aligned_memory)
{
    with_pools("2M:0:cap=1:small:fallback", falls_back_aligned, NULL);
}

Test(heap, configured_pools)
{
    with_pools("1M:2:huge,60K:20:cap=30:fail:small,3M:0:cap=1:fallback", uses_configured, NULL);
    with_pools("60K:20:small:fail:cap=30,3M:0:fallback,1024K:2:huge:grow", uses_configured, NULL);
}

static void fails_at_the_cap(const char *argument)
{
    (void)argument;
    char *p[3];
    for (int i = 0; i < 3; i++)
        p[i] = ALLOC(64 << 10);
    errno = 0;
    CHECK(!zc_alloc(64 << 10));
    CHECK(errno == ENOMEM && strstr(zc_errmsg(), "cap of 3"));
    zc_free(p[1]);
    CHECK(zc_alloc(64 << 10) == p[1]);
}

Test(heap, a_configured_cap_holds)
{
    with_pools("64K:0:cap=3:fail", fails_at_the_cap, NULL);
    with_pools("64K:3:cap=3:fail", fails_at_the_cap, NULL);
}

static void is_refused(const char *says)
{
    for (int i = 0; i < 2; i++) {
        errno = 0;
        CHECK(!zc_alloc(1));
        CHECKF(errno == EINVAL, "errno %d", errno);
        CHECKF(strstr(zc_errmsg(), says), "\"%s\" is not in \"%s\"", says, zc_errmsg());
        CHECK(strstr(zc_errmsg(), "ZC_POOLS="));
    }
}

Test(heap, errors_point_at_the_character)
{
    static const struct {
        const char *spec, *says;
    } cases[] = {{"x", "at character 1 ('x'): expected a slot size such as 64K"},
                 {",64K:1", "at character 1 (','): expected a slot size"},
                 {"0:1", "at character 1 ('0'): expected a slot size"},
                 {"-1:1", "at character 1 ('-'): expected a slot size"},
                 {"99999999999999999999:1", "at character 1 ('9'): expected a slot size"},
                 {"64K", "at character 4 (''): expected ':' and a number of slots"},
                 {"64K,1M:1", "at character 4 (','): expected ':' and a number of slots"},
                 {"64K:x", "at character 5 ('x'): expected a number of slots"},
                 {"64K:", "at character 5 (''): expected a number of slots"},
                 {"64k:1", "at character 3 ('k'): expected ':' and a number of slots"},
                 {"64K:1x", "at character 6 ('x'): expected ':', ',' or the end"},
                 {"64K:1:", "at character 7 (''): expected from=SIZE, cap=N"},
                 {"64K:1:big", "at character 7 ('b'): expected from=SIZE, cap=N"},
                 {"64K:1:hugee", "at character 7 ('h'): expected from=SIZE, cap=N"},
                 {"64K:1:hug", "at character 7 ('h'): expected from=SIZE, cap=N"},
                 {"64K:1:huge:cap=", "at character 16 (''): expected a number"},
                 {"64K:1:huge:cap=x", "at character 16 ('x'): expected a number"},
                 {"64K:1:cap=0", "at character 11 ('0'): expected a number"},
                 {"64K:5:cap=4", "at character 11 ('4'): expected a number, at least that of the slots and 1"},
                 {"64K:1:cap=4x", "at character 12 ('x'): expected ':', ',' or the end"},
                 {"64K:1,1M:2:none,5K:3", "at character 12 ('n'): expected from=SIZE, cap=N"},
                 {"64K:1,,", "at character 7 (','): expected a slot size"},
                 {"64K:1,512T:0", "the pool at character 7: zc_pool_open: slot_size 562949953421312"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        with_pools(cases[i].spec, is_refused, cases[i].says);
}

static void has_slot_of(const char *size)
{
    uint64_t bytes;
    CHECK(parse_size(size, &bytes));
    CHECK(heap_pool(bytes, 1)->slot_size == bytes);
}

static void is_too_much(const char *text)
{
    errno = 0;
    CHECKF(!zc_alloc(1) && errno == ENOMEM, "errno %d", errno);
    CHECKF(strstr(zc_errmsg(), text), "%s", zc_errmsg());
}

static void says_on_stderr(const char *text)
{
    char said[512] = "";
    FILE *file = tmpfile();
    CHECK(file && dup2(fileno(file), STDERR_FILENO) >= 0);
    ALLOC(1);
    ALLOC(1);
    rewind(file);
    size_t length = fread(said, 1, sizeof said - 1, file);
    CHECKF(strcmp(said, text) == 0, "%zu bytes: \"%s\"", length, said);
}

Test(heap, rounded_slot_sizes_are_said_once)
{
    with_pools("64K:1,5000:2", says_on_stderr,
               "zc: ZC_POOLS=64K:1,5000:2: at character 7: slots of 5000 bytes are rounded up to whole pages, "
               "8192 bytes\n");
    with_pools("64K:1,8K:2", says_on_stderr, "");
}

/* More than there is: what a pool cannot have at once is said when it is opened, what it may grow to when it does. */
Test(heap, caps_beyond_memory)
{
    with_pools("1G:0:cap=1T:fail", has_slot_of, "1G");
    with_pools("64K:4T", is_too_much, "ZC_POOLS=64K:4T: the pool at character 1: zc_pool_open: 4398046511104 initial");
}

static void has_all(const char *argument)
{
    (void)argument;
    for (size_t i = 1; i <= 64; i++)
        CHECK(heap_pool(i * PAGE_BYTES, 1)->cap == 7);
}

Test(heap, there_may_be_64_configured_pools)
{
    char spec[65 * 16] = "";
    for (int i = 1; i <= 64; i++)
        snprintf(spec + strlen(spec), 16, "%s%dK:0:cap=7", i > 1 ? "," : "", 4 * i);
    with_pools(spec, has_all, NULL);
    strcat(spec, ",1M:0");
    with_pools(spec, is_refused, "expected no more than 64 pools");
}
