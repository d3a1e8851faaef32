/* SPDX-License-Identifier: MIT
 *
 * Segments of pools: huge pages, and who is told of them. */
#include "alloc/pool.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "ranks.h"
#include "system.h"
#include "tests/unit/pools.h"

/* ---- libc's functions, by which others learn of pages that go ---- */

static const char *watched;
static int told, told_wire;

static void notice(const char *at, size_t length)
{
    const char *wire = watched ? arena_wire_of(watched) : NULL;
    told += watched && at <= watched && watched < at + length;
    told_wire += wire && at <= wire && wire < at + length;
}

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
    if (flags & MAP_FIXED)
        notice(at, length);
    void *mapped = sys_mmap(at, length, prot, flags, fd, offset);
    return mapped ? mapped : MAP_FAILED;
}

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
int madvise(void *at, size_t length, int advice)
{
    if (advice == MADV_REMOVE)
        notice(at, length);
    return (int)syscall(SYS_madvise, at, length, advice);
}

/* As MPI with a cache of registrations does. */
Test(pool_segments, pages_do_not_go_unseen)
{
    zc_pool *pool = open_small(64 << 10);
    char *p = alloc_in(pool);
    size_t released;
    watched = p;
    CHECK(segment_punch(pool->segments, arena_wire_of(p)));
    CHECKF(told == 1 && told_wire == 1, "%d, %d", told, told_wire);
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released > 0);
    CHECKF(told == 2 && told_wire == 2, "%d, %d", told, told_wire);
}

/* ---- huge pages ---- */

/* Collapsing needs a kernel that has it and a free huge page. */
static bool kernel_collapses(void)
{
    int fd = memfd_create("test", 0);
    bool collapses = false;
    CHECK(fd >= 0 && ftruncate(fd, 2 * HUGE_BYTES) == 0);
    char *area = mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(area != MAP_FAILED);
    for (size_t at = 0; at < 2 * HUGE_BYTES; at += PAGE_BYTES)
        area[at] = 1;
    char *aligned = (char *)(((uintptr_t)area + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));
    collapses = aligned == area && madvise(aligned, HUGE_BYTES, MADV_COLLAPSE) == 0;
    if (aligned != area) { /* file offset and address must agree */
        char *again = mmap(aligned, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
        collapses = again == aligned && madvise(aligned, HUGE_BYTES, MADV_COLLAPSE) == 0;
    }
    munmap(area, 2 * HUGE_BYTES);
    close(fd);
    return collapses;
}

static void check_huge(const char *p, long kb)
{
    long user = system_smaps_kb(p, "ShmemPmdMapped"), wire = system_smaps_kb(arena_wire_of(p), "ShmemPmdMapped");
    CHECKF(user >= kb, "the user mapping has %ld kB in huge pages, expected %ld", user, kb);
    CHECKF(wire >= kb, "the wire mapping has %ld kB in huge pages, expected %ld", wire, kb);
}

Test(pool_segments, large_slots_are_huge)
{
    if (!kernel_collapses())
        cr_skip_test("this kernel cannot collapse a memfd into huge pages now");
    zc_pool_options options = small_slots(4 << 20);
    options.huge = ZC_HUGE_AUTO;
    zc_pool *pool = open_with(&options);
    check_huge(alloc_in(pool), 4 << 10);
    options.slot_size = (5 << 20) / 2;
    pool = open_with(&options);
    char *p = alloc_in(pool);
    check_huge(p, 2 << 10);
    CHECK(system_smaps_kb(p, "ShmemPmdMapped") <= 2 << 10); /* the rest of it is not worth a huge page */
    check_huge(alloc_in(open_small(4 << 20)), 0);
}

Test(pool_segments, small_slots_are_not_huge_unless_asked)
{
    char *p = alloc_in(open_small(4 << 20)); /* ZC_HUGE_NEVER */
    CHECK(system_smaps_kb(p, "ShmemPmdMapped") == 0);
    zc_pool_options options = small_slots(1 << 20);
    options.huge = ZC_HUGE_AUTO;
    p = alloc_in(open_with(&options));
    CHECK(system_smaps_kb(p, "ShmemPmdMapped") == 0);
}

Test(pool_segments, small_slots_share_huge_pages)
{
    if (!kernel_collapses())
        cr_skip_test("this kernel cannot collapse a memfd into huge pages now");
    static const size_t sizes[] = {4096, 20480, 28672, 65536, 1 << 20, 3 << 19};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        zc_pool_options options = small_slots(sizes[i]);
        options.huge = ZC_HUGE_ALWAYS;
        options.initial = 1;
        zc_pool *pool = open_with(&options);
        for (size_t all = 0; all < (3 << 20); all += sizes[i])
            alloc_in(pool);
        for (struct segment *s = pool->segments; s; s = s->next)
            check_huge(s->user, (long)(s->carved * s->stride >> 10));
    }
}

static int add_huge(void *context, struct segment *segment)
{
    ++*(unsigned *)context;
    long kb = system_smaps_kb(arena_wire_of(segment->user), "ShmemPmdMapped");
    CHECKF(kb == (long)(segment->length >> 10), "%ld kB of %zu", kb, segment->length >> 10);
    return 0;
}

static void remove_huge(void *context, struct segment *segment)
{
    (void)context, (void)segment;
}

/* Who pins pages gets huge ones, which would never become huge afterwards. */
Test(pool_segments, huge_before_they_are_pinned)
{
    if (!kernel_collapses())
        cr_skip_test("this kernel cannot collapse a memfd into huge pages now");
    unsigned added = 0;
    zc_pool_options options = small_slots(5 << 19);
    options.huge = ZC_HUGE_ALWAYS;
    alloc_in(open_with(&options)); /* is there before, */
    struct registrar registrar = {.add = add_huge, .remove = remove_huge, .context = &added, .pins = true};
    CHECK_OK(registrar_attach(&registrar));
    options.slot_size = 1 << 20;
    alloc_in(open_with(&options)); /* or comes later */
    CHECKF(added == 2, "%u segments", added);
    registrar_detach(&registrar);
}

/* A slot takes as much memory as was asked for, in whole pages, not what aligns the next one. */
Test(pool_segments, gaps_take_no_memory)
{
    zc_pool_options options = small_slots(HUGE_BYTES + 100);
    options.huge = ZC_HUGE_ALWAYS;
    zc_pool *pool = open_with(&options);
    char *p = alloc_in(pool);
    long kb = system_smaps_kb(p, "Rss");
    CHECKF(kb == (2 << 10) + 4, "%ld kB for one slot", kb);
    options.initial = 3;
    pool = open_with(&options);
    struct segment *segment = pool->segments;
    for (uint32_t i = 0; i < segment->carved; i++)
        CHECK(slot_find(segment->user + i * segment->stride) != NULL);
    kb = system_smaps_kb(segment->user, "Rss");
    CHECKF(kb == (long)segment->carved * ((2 << 10) + 4), "%ld kB for %u slots", kb, segment->carved);
}

/* A program may close what it has not opened, and have files of its own by those numbers. */
Test(pool_segments, closes_no_other_descriptor)
{
    zc_pool *pool = open_small(4096);
    CHECK_OK(zc_free(alloc_in(pool)));
    int fd = pool->segments->fd, other = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(other >= 0 && dup2(other, fd) == fd);
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK(stats_of(pool).segments == 0 && fcntl(fd, F_GETFD) >= 0);
}

/* ---- registrars ---- */

struct record {
    struct registrar registrar;
    struct segment *there[64];
    int n, adds, removes;
    int refuse_at; /* the n-th add is refused; 0: none */
};

static int add(void *context, struct segment *segment)
{
    struct record *record = context;
    CHECK(segment->length > 0 && segment->fd >= 0);
    *(volatile char *)arena_wire_of(segment->user) = 0; /* it is mapped */
    for (int i = 0; i < record->n; i++)
        CHECK(record->there[i] != segment);
    if (++record->adds == record->refuse_at)
        return -ENOSPC;
    record->there[record->n++] = segment;
    return 0;
}

static void removed(void *context, struct segment *segment)
{
    struct record *record = context;
    int i = 0;
    while (i < record->n && record->there[i] != segment)
        i++;
    CHECKF(i < record->n, "a segment is removed that was not added");
    *(volatile char *)arena_wire_of(segment->user) = 0; /* it is still mapped */
    record->there[i] = record->there[--record->n];
    record->removes++;
}

static void record_init(struct record *record, int refuse_at)
{
    *record = (struct record){.refuse_at = refuse_at};
    record->registrar = (struct registrar){.add = add, .remove = removed, .context = record};
}

Test(pool_segments, registrars_are_told_of_each_segment_once)
{
    struct record early, late;
    record_init(&early, 0);
    record_init(&late, 0);
    CHECK_OK(arena_open());
    CHECK_OK(registrar_attach(&early.registrar));
    CHECK(early.adds == 0);
    zc_pool *pool = open_small(1 << 20);
    char *p[40];
    for (int i = 0; i < 40; i++)
        p[i] = alloc_in(pool);
    int segments = (int)stats_of(pool).segments;
    CHECK(segments > 1 && early.adds == segments);
    CHECK_OK(registrar_attach(&late.registrar));
    CHECK(late.adds == segments && early.adds == segments);
    CHECK(stats_now().registrations == 2 * (uint64_t)segments);
    for (int i = 0; i < 40; i++)
        zc_free(p[i]);
    CHECK(early.removes == 0);
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK(early.removes == segments && late.removes == segments && early.n == 0 && late.n == 0);
    alloc_in(pool);
    CHECK(early.n == 1 && late.n == 1);

    registrar_detach(&early.registrar);
    CHECK(early.n == 0 && late.n == 1);
    registrar_detach(&early.registrar); /* is not attached */
    for (int i = 0; i < 40; i++)
        alloc_in(pool);
    CHECK(early.n == 0 && late.n == (int)stats_of(pool).segments && late.n > 1);
    registrar_detach(&late.registrar);
    CHECK(late.n == 0 && late.adds == late.removes);
}

Test(pool_segments, a_refused_segment_is_undone)
{
    struct record first, second;
    record_init(&first, 0);
    record_init(&second, 2);
    CHECK_OK(arena_open());
    CHECK_OK(registrar_attach(&second.registrar));
    CHECK_OK(registrar_attach(&first.registrar));
    zc_pool *pool = open_small(2 << 20);
    char *p = alloc_in(pool);
    errno = 0;
    CHECK(!zc_pool_alloc(pool));
    CHECKF(errno == ENOSPC, "errno %d", errno);
    CHECK(first.n == 1 && second.n == 1); /* as before */
    zc_pool_stats stats = stats_of(pool);
    CHECK(stats.segments == 1 && stats.live == 1 && stats.slots == 1);
    char *q = alloc_in(pool); /* the third is accepted again */
    CHECK(first.n == 2 && second.n == 2);
    memset(q, 1, 2 << 20);
    zc_free(p);
    zc_free(q);
    CHECK_OK(zc_pool_close(pool));
    CHECK(first.n == 0 && second.n == 0);
}

Test(pool_segments, a_registrar_that_refuses_what_is_there_is_not_attached)
{
    struct record record;
    zc_pool *pool = open_small(2 << 20);
    for (int i = 0; i < 3; i++)
        alloc_in(pool);
    CHECK(stats_of(pool).segments == 2 || stats_of(pool).segments == 3);
    record_init(&record, 2);
    CHECK_FAILS(registrar_attach(&record.registrar), -ENOSPC, "");
    CHECK(record.n == 0 && record.removes == 1);
    while (stats_of(pool).segments < 5)
        alloc_in(pool);
    CHECK(record.adds == 2);
    registrar_detach(&record.registrar);
    CHECK(record.removes == 1);
}
