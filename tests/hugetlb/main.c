/* SPDX-License-Identifier: MIT
 *
 * Pools of hugetlb pages: where they come from, what protection by 2 MiB means, and what happens when there are none.
 * `reserved` runs where 24 are free, `exhausted` where 2 are. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apart.h"
#include "pattern.h"
#include "system.h"
#include "tests/unit/invariants.h"
#include "tests/unit/pools.h"

TestSuite(reserved, .timeout = 60);
TestSuite(exhausted, .timeout = 60);

static zc_pool_options of_slots(size_t slot_size, size_t initial)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = slot_size;
    options.initial = initial;
    options.huge = ZC_HUGE_HUGETLB;
    return options;
}

static zc_pool *open_pool(size_t slot_size, size_t initial)
{
    zc_pool_options options = of_slots(slot_size, initial);
    return open_with(&options);
}

/* Neither free nor spoken for. */
static size_t free_pages(void)
{
    return system_number("/proc/meminfo", "HugePages_Free:") - system_number("/proc/meminfo", "HugePages_Rsvd:");
}

static bool is_hugetlb(const void *p)
{
    return system_smaps_kb(p, "KernelPageSize") == 2048;
}

static char *filled(zc_pool *pool, unsigned seed)
{
    char *p = slot_in(pool);
    pattern_fill(p, pool->slot_size, seed);
    return p;
}

/* ---- reserved ---- */

Test(reserved, pages_are_taken_as_asked_for_and_given_back)
{
    size_t before = free_pages();
    zc_pool *pool = open_pool(2 << 20, 7);
    CHECKF(before - free_pages() == 7, "%zu of 7 pages were taken", before - free_pages());
    char *p[8];
    for (int i = 0; i < 8; i++)
        p[i] = slot_in(pool);
    CHECK(is_hugetlb(p[7]) && is_hugetlb(arena_wire_of(p[7])));
    CHECK(before - free_pages() == 8 && stats_of(pool).hugetlb_missed == 0 && stats_of(pool).slots == 8);
    for (int i = 0; i < 8; i++)
        CHECK_OK(zc_free(p[i]));
    CHECK_OK(zc_pool_close(pool));
    CHECK(free_pages() == before);
}

Test(reserved, slots_are_whole_pages)
{
    zc_pool *pool = open_pool((2 << 20) + 1, 1);
    CHECK(pool->slot_size == 4 << 20 && pool->stride == 4 << 20);
    zc_pool_options options = of_slots(4 << 20, 1);
    options.huge = ZC_HUGE_ALWAYS;
    CHECK_OK(zc_pool_close(pool));
    CHECK(!is_hugetlb(slot_in(open_with(&options)))); /* which does not take over the addresses of the other */
}

Test(reserved, a_store_renames)
{
    zc_comm *comm = loop_strict();
    zc_pool *pool = open_pool(4 << 20, 2);
    const size_t size = 4 << 20, at = 3 << 20;
    char *p = filled(pool, 1);
    uint64_t renames = stats_now().renames;
    CHECK_OK(zc_send(p, size, 0, 1, comm));
    CHECK(!kernel_writes(p) && !kernel_writes(p + at) && kernel_reads(p));
    store(p + at, 'x');
    CHECK(stats_now().renames == renames + 1 && load(p + at) == 'x');
    CHECK(is_hugetlb(p) && backing_of(p) != slot_home(slot_at(p)));
    CHECK_OK(zc_send(p, size, 0, 2, comm));
    CHECK_MESSAGE(comm, 1, 0, size, 1);
    char *in = malloc(size), *want = malloc(size);
    CHECK(in && want);
    pattern_fill(want, size, 1);
    want[at] = 'x';
    CHECK_OK(zc_recv(in, size, 0, 2, comm, NULL));
    CHECK(memcmp(in, want, size) == 0);
    CHECK_OK(zc_flush(comm));
    CHECK_REST(pool);
    free(in);
    free(want);
    CHECK_OK(zc_close(comm));
}

/* The other pages of a slot are not in the way; the other bytes of a page are. */
Test(reserved, protection_is_by_2_mib)
{
    zc_comm *comm = loop_strict();
    zc_pool *pool = open_pool(6 << 20, 2);
    char *p = filled(pool, 2);
    const size_t page = 2 << 20;
    CHECK_OK(zc_send(p + page + 4096, page / 2 + page, 0, 1, comm)); /* of the second and third */
    CHECK(kernel_writes(p + page - 1) && !kernel_writes(p + page) && !kernel_writes(p + 3 * page - 1));
    uint64_t renames = stats_now().renames;
    store(p, 'x');
    CHECK(stats_now().renames == renames);
    store(p + page, 'x');
    CHECK(stats_now().renames == renames + 1);
    CHECK_MESSAGE(comm, 1, page + 4096, page / 2 + page, 2);
    CHECK_OK(zc_close(comm));
}

Test(reserved, receives_share_a_page)
{
    zc_comm *comm = loop_strict();
    zc_pool *pool = open_pool(4 << 20, 2);
    char *p = filled(pool, 3);
    const size_t page = 2 << 20;
    CHECK_OK(zc_irecv(p, 4096, 0, 1, comm));
    CHECK_OK(zc_irecv(p + 8192, 4096, 0, 2, comm));
    CHECK(!kernel_reads(p) && !kernel_reads(p + page - 1) && kernel_writes(p + page));
    post_pattern(comm, 1, 4096, 4);
    CHECK_OK(zc_wait(p, NULL));
    CHECK(!kernel_reads(p)); /* the other is still to come */
    post_pattern(comm, 2, 4096, 5);
    CHECK(pattern_differs(p, 4096, 4) == PATTERN_SAME && pattern_differs(p + 8192, 4096, 5) == PATTERN_SAME);
    CHECK(kernel_writes(p));
    CHECK_OK(zc_close(comm));
}

/* A message that covers the slot lands by a rename where the slot is being sent. */
Test(reserved, a_bounced_receive_lands)
{
    zc_comm *comm = loop_strict();
    zc_pool *pool = open_pool(2 << 20, 3);
    size_t size = pool->slot_size;
    char *p = filled(pool, 6);
    CHECK_OK(zc_send(p, size, 0, 1, comm));
    CHECK_OK(zc_irecv(p, size, 0, 2, comm));
    post_pattern(comm, 2, size, 7);
    CHECK_OK(zc_wait(p, NULL));
    CHECK(pattern_differs(p, size, 7) == PATTERN_SAME && is_hugetlb(p));
    CHECK_MESSAGE(comm, 1, 0, size, 6);
    CHECK_OK(zc_flush(comm));
    CHECK_REST(pool);
    CHECK_OK(zc_close(comm));
}

/* A segment is trimmed whose page a free slot of another one shows. */
Test(reserved, a_trim_unmixes)
{
    zc_comm *comm = loop_strict();
    zc_pool *pool = open_pool(2 << 20, 4); /* segments of one, one and two slots */
    size_t size = pool->slot_size, before = free_pages();
    char *p[4], *pair[2];
    int pairs = 0;
    for (int i = 0; i < 4; i++)
        p[i] = slot_in(pool);
    for (int i = 0; i < 4; i++) {
        if (slot_segment(slot_at(p[i]))->slots == 2 && pairs < 2)
            pair[pairs++] = p[i];
        else
            CHECK_OK(zc_free(p[i]));
    }
    CHECK(pairs == 2);
    pattern_fill(pair[1], size, 1);
    CHECK_OK(zc_send(pair[0], size, 0, 1, comm));
    store(pair[0], 1);
    CHECK_OK(zc_recv(NULL, 0, 0, 1, comm, NULL) == -EMSGSIZE ? 0 : -1);
    CHECK_OK(zc_flush(comm));
    CHECK(backing_of(pair[0]) != slot_home(slot_at(pair[0])));
    CHECK_OK(zc_free(pair[0]));
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK(stats_of(pool).segments == 1 && free_pages() == before + 2);
    CHECK(backing_of(pair[0]) == slot_home(slot_at(pair[0])));
    char *again = filled(pool, 2);
    CHECK(again == pair[0] && is_hugetlb(again));
    CHECK(pattern_differs(again, size, 2) == PATTERN_SAME &&
          pattern_differs(arena_wire_of(again), size, 2) == PATTERN_SAME);
    CHECK(pattern_differs(pair[1], size, 1) == PATTERN_SAME);
    CHECK_OK(zc_close(comm));
}

Test(reserved, userfaultfd_is_refused)
{
    zc_pool *pool = NULL;
    zc_pool_options options = of_slots(2 << 20, 0);
    options.protect = ZC_PROTECT_USERFAULTFD;
    CHECK_FAILS(zc_pool_open(&options, &pool), -ENOTSUP, "userfaultfd does not protect hugetlb pages");
}

static void debug_pool(const void *argument)
{
    (void)argument;
    setenv("ZC_DEBUG", "on", 1);
    char *p = slot_in(open_pool(2 << 20, 1));
    CHECK(!is_hugetlb(p) && !kernel_writes(p + (2 << 20)));
}

Test(reserved, debug_has_ordinary_pages)
{
    apart(debug_pool, NULL);
}

static void configured(const void *argument)
{
    size_t before = free_pages();
    setenv("ZC_POOLS", argument, 1);
    char *p = zc_alloc(2 << 20);
    CHECKF(p, "%s", zc_errmsg());
    CHECKF(is_hugetlb(p) && before - free_pages() == 5, "%s: %zu pages", (const char *)argument, before - free_pages());
    CHECK(zc_usable_size(p) == 2 << 20);
}

Test(reserved, zc_pools_asks_for_them)
{
    apart(configured, "2M:5:hugetlb");
    apart(configured, "2M:5:hugetlb-only:fail");
    apart(configured, "1M:5:from=64K:hugetlb"); /* rounded up, which stderr says */
}

/* ---- exhausted ---- */

Test(exhausted, ordinary_pages_serve)
{
    zc_comm *comm = loop_strict();
    zc_pool *pool = open_pool(2 << 20, 2);
    CHECK(stats_of(pool).hugetlb_missed == 0 && free_pages() == 0);
    size_t size = pool->slot_size;
    char *p[4];
    for (unsigned i = 0; i < 4; i++)
        p[i] = filled(pool, i);
    CHECK(stats_of(pool).hugetlb_missed == 2 && is_hugetlb(p[0]) && is_hugetlb(p[1]) && !is_hugetlb(p[3]));
    for (int i = 0; i < 4; i++) { /* renames to and from either kind */
        CHECK_OK(zc_send(p[i], size, 0, i, comm));
        store(p[i], 'x');
        CHECK_MESSAGE(comm, i, 0, size, (unsigned)i);
        CHECK_OK(zc_flush(comm));
    }
    CHECK(is_hugetlb(p[1]) + is_hugetlb(p[3]) + is_hugetlb(p[2]) > 0);
    CHECK_REST(pool);
    for (int i = 0; i < 4; i++)
        CHECK_OK(zc_free(p[i]));
    CHECK_OK(zc_pool_close(pool));
    CHECK(free_pages() == 2);
    CHECK_OK(zc_close(comm));
}

Test(exhausted, or_none_if_no_others_will_do)
{
    zc_pool *pool = NULL;
    zc_pool_options options = of_slots(2 << 20, 3);
    options.huge = ZC_HUGE_HUGETLB_ONLY;
    CHECK_FAILS(zc_pool_open(&options, &pool), -ENOMEM, "sysctl vm.nr_hugepages");
    CHECK(!pool && free_pages() == 2);
    options.initial = 1;
    pool = open_with(&options);
    char *p = slot_in(pool), *q = slot_in(pool);
    errno = 0;
    CHECK(!zc_pool_alloc(pool) && errno == ENOMEM && strstr(zc_errmsg(), "no 2097152 bytes of hugetlb pages"));
    CHECK(stats_of(pool).live == 2);
    CHECK_OK(zc_free(p));
    CHECK(zc_pool_alloc(pool) == p);
    (void)q;
}

/* What stderr gets while `spec` is opened and segment after segment misses hugetlb pages. */
static void says_once(const void *spec)
{
    char said[512] = "";
    FILE *file = tmpfile();
    CHECK(file && dup2(fileno(file), STDERR_FILENO) >= 0);
    setenv("ZC_POOLS", spec, 1);
    for (int i = 0; i < 6; i++)
        CHECK(zc_alloc(2 << 20));
    rewind(file);
    CHECK(fread(said, 1, sizeof said - 1, file) > 0);
    CHECKF(strcmp(said,
                  "zc: no 2097152 bytes of hugetlb pages: Cannot allocate memory (sysctl vm.nr_hugepages); ordinary "
                  "huge pages serve instead\n") == 0,
           "%s", said);
}

Test(exhausted, is_said_once)
{
    apart(says_once, "2M:2:hugetlb");
}

static void is_refused(const void *spec)
{
    setenv("ZC_POOLS", spec, 1);
    CHECK(!zc_alloc(1) && errno == ENOMEM);
    CHECKF(strstr(zc_errmsg(), "the pool at character 7: no ") && strstr(zc_errmsg(), "vm.nr_hugepages"), "%s",
           zc_errmsg());
}

Test(exhausted, zc_pools_may_refuse_others)
{
    apart(is_refused, "64K:1,2M:3:hugetlb-only");
}

/* No spare for a rename: the message is copied, and nothing is lost. */
Test(exhausted, a_send_without_a_spare_is_copied)
{
    zc_comm *comm = loop_strict();
    zc_pool_options options = of_slots(4 << 20, 1);
    options.huge = ZC_HUGE_HUGETLB_ONLY;
    zc_pool *pool = open_with(&options);
    char *p = filled(pool, 1);
    uint64_t unreserved = stats_now().unreserved;
    CHECK_OK(zc_send(p, 4 << 20, 0, 1, comm));
    CHECK(stats_now().unreserved == unreserved + 1 && kernel_writes(p));
    CHECK_MESSAGE(comm, 1, 0, 4 << 20, 1);
    CHECK_OK(zc_close(comm));
}
