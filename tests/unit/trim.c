/* SPDX-License-Identifier: MIT
 *
 * Trimming a pool whose backings were mixed by renames: between slots, and between segments. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "alloc/cache.h"
#include "alloc/pool.h"
#include "loop.h"
#include "pattern.h"
#include "protect/inherit.h"
#include "ranks.h"
#include "tests/unit/interpose.h"
#include "tests/unit/pools.h"

/* zc calls the kernel through this alone: the n-th mremap that duplicates a mapping, as a trim does, fails; or the n-th
 * registration of pages with userfaultfd. */
static int fail_at;
static bool fail_registrations;

static bool may_fail(long number, const long a[6])
{
    return fail_registrations ? number == SYS_ioctl && a[1] == (long)UFFDIO_REGISTER
                              : number == SYS_mremap && a[1] == 0;
}

/* Called once, before pages are populated. */
static void (*_Atomic populating)(void);

static long on_syscall(long number, const long a[6])
{
    if (may_fail(number, a) && fail_at && --fail_at == 0) {
        errno = ENOMEM;
        return -1;
    }
    void (*call)(void) = NULL;
    if (number == SYS_madvise && a[2] == MADV_POPULATE_WRITE && (call = atomic_exchange(&populating, NULL)))
        call();
    return real_syscall(number, a);
}

static size_t displaced(zc_pool *pool, bool other_segment)
{
    size_t n = 0;
    for (struct segment *s = pool->segments; s; s = s->next)
        for (uint32_t i = 0; s->mapped && i < s->carved; i++) {
            struct slot *slot = segment_slot(s, i);
            struct backing *backing = slot->backing;
            const char *shown = arena_user_of(backing_wire(backing));
            CHECK(backing->slot == slot);
            n += other_segment ? arena_segment(shown) != s : backing != slot_home(slot);
        }
    return n;
}

/* Every carved slot shows, in its user mapping, the pages that its backing says. */
static void check_mappings(zc_pool *pool)
{
    uint64_t mark = 1;
    for (struct segment *s = pool->segments; s; s = s->next)
        for (uint32_t i = 0; s->mapped && i < s->carved; i++, mark++) {
            struct slot *slot = segment_slot(s, i);
            if (slot_is(slot, SLOT_STALE))
                continue;
            char *wire = backing_wire(slot->backing);
            for (size_t at = 0; at < pool->slot_size; at += PAGE_BYTES) {
                const volatile uint64_t *user = (uint64_t *)(slot_user(slot) + at);
                uint64_t *word = (uint64_t *)(wire + at), before = *word;
                *word = mark;
                CHECKF(*user == mark, "slot %u, byte %zu", slot_id(slot), at);
                *word = before;
            }
        }
}

enum { MIXED = 150, MIXED_SIZE = 40960 };

static char *mixed[MIXED];
static uint64_t contents[MIXED];

/* Sends each buffer, stores to it while it is in flight, and receives. */
static void rename_all(zc_comm *comm, uint64_t *serial)
{
    static char got[MIXED_SIZE];
    uint64_t sent[MIXED];
    for (int i = 0; i < MIXED; i++) {
        if (!mixed[i])
            continue;
        CHECK_OK(zc_send(mixed[i], MIXED_SIZE, 0, i, comm));
        sent[i] = contents[i];
        pattern_fill(mixed[i], MIXED_SIZE, contents[i] = ++*serial);
    }
    for (int i = 0; i < MIXED; i++) {
        int k = MIXED - 1 - i; /* the newest first, so that slots come back in another order */
        if (!mixed[k])
            continue;
        CHECK_OK(zc_recv(got, MIXED_SIZE, 0, k, comm, NULL));
        CHECK_PATTERN(got, MIXED_SIZE, sent[k]);
    }
}

Test(trim, keeps_contents_whatever_shows_what, .timeout = 60)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_AUTO);
    zc_pool *pool = open_small(MIXED_SIZE);
    uint64_t random = 5, serial = 0, renames = stats_now().renames;
    size_t total = 0, most_mixed = 0;

    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < MIXED; i++)
            if (!mixed[i])
                pattern_fill(mixed[i] = alloc_in(pool), MIXED_SIZE, contents[i] = ++serial);
        rename_all(comm, &serial);
        size_t others = displaced(pool, true);
        most_mixed = others > most_mixed ? others : most_mixed;

        /* All but a few are freed, so that some segments have nothing live. */
        for (int i = 0; i < MIXED; i++)
            if (random_below(&random, 16)) {
                CHECK_OK(zc_free(mixed[i]));
                mixed[i] = NULL;
            }
        if (round % 3 == 2) /* or all of one segment's addresses, whatever they show */
            for (int i = 0; i < MIXED; i++)
                if (mixed[i] && arena_segment(mixed[i]) == pool->segments) {
                    CHECK_OK(zc_free(mixed[i]));
                    mixed[i] = NULL;
                }
        size_t released = 0;
        CHECK_OK(zc_pool_trim(pool, &released));
        total += released;
        check_mappings(pool);
        for (int i = 0; i < MIXED; i++)
            if (mixed[i])
                CHECK_PATTERN(mixed[i], MIXED_SIZE, contents[i]);
    }
    CHECKF(most_mixed > 20, "only %zu slots showed pages of another segment", most_mixed);
    CHECKF(total >= 8 * HUGE_BYTES, "only %zu bytes were released", total);
    CHECK(stats_now().renames - renames >= 12 * 100);
    for (int i = 0; i < MIXED; i++)
        CHECK_OK(zc_free(mixed[i]));
    CHECK_OK(zc_pool_close(pool));
    CHECK_OK(zc_close(comm));
}

/* ---- what is given back ---- */

/* Memory of zc's memfds that this process still maps somewhere, in lines of /proc/self/maps. */
static int memfd_mappings(void)
{
    FILE *file = fopen("/proc/self/maps", "r");
    char line[512];
    int n = 0;
    CHECK(file);
    while (fgets(line, sizeof line, file))
        n += strstr(line, "memfd:zc ") != NULL;
    fclose(file);
    return n;
}

static void fill(zc_pool *pool, uint64_t *serial)
{
    for (int i = 0; i < MIXED; i++)
        if (!mixed[i])
            pattern_fill(mixed[i] = alloc_in(pool), MIXED_SIZE, contents[i] = ++*serial);
}

static void free_all(void)
{
    for (int i = 0; i < MIXED; i++) {
        CHECK_OK(zc_free(mixed[i]));
        mixed[i] = NULL;
    }
}

Test(trim, leaves_no_memory_mapped)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_AUTO);
    zc_pool *pool = open_small(MIXED_SIZE);
    uint64_t serial = 0;

    fill(pool, &serial);
    rename_all(comm, &serial);
    free_all();
    CHECK(memfd_mappings() > 0);
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECKF(memfd_mappings() == 0, "%d mappings of segments that are gone", memfd_mappings());
    fill(pool, &serial); /* exchanging still works */
    rename_all(comm, &serial);
    for (int i = 0; i < MIXED; i++)
        CHECK_PATTERN(mixed[i], MIXED_SIZE, contents[i]);
}

/* Slots that are given back protected or displaced use up no mapping any more. */
Test(trim, gives_mappings_back)
{
    setenv("ZC_MAPS", "2000", 1);
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    zc_pool *pool = open_small(MIXED_SIZE);
    static char got[MIXED_SIZE];
    uint64_t serial = 0;

    for (int round = 0; round < 20; round++) {
        fill(pool, &serial);
        rename_all(comm, &serial);
        for (int i = 0; i < MIXED; i++) { /* left protected */
            CHECK_OK(zc_send(mixed[i], MIXED_SIZE, 0, 0, comm));
            CHECK_OK(zc_recv(got, MIXED_SIZE, 0, 0, comm, NULL));
        }
        free_all();
        CHECK_OK(zc_pool_trim(pool, NULL));
        CHECK(pool->slots == 0);
        CHECKF(stats_now().unreserved == 0, "round %d: %d sends found no mappings", round, (int)stats_now().unreserved);
    }
}

/* ---- failing ---- */

/* When the kernel refuses one of the exchanges, nothing is lost or shown twice, and a later trim goes through. */
static void fail_and_repeat(void)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_AUTO);
    uint64_t serial = 0;
    int failures = 0;

    for (int n = 1; n < 40; n += 3) {
        zc_pool *pool = open_small(MIXED_SIZE);
        fill(pool, &serial);
        rename_all(comm, &serial);
        free_all();
        CHECK(displaced(pool, true) > 0);
        fail_at = n;
        int error = zc_pool_trim(pool, NULL);
        failures += error != 0;
        if (error)
            CHECK(error == -ENOMEM && strstr(zc_errmsg(), "remapping a slot failed"));
        fail_at = 0;
        CHECK_OK(error ? zc_pool_trim(pool, NULL) : 0);
        zc_pool_stats stats = stats_of(pool);
        CHECKF(stats.slots == stats.cached + (size_t)pool->spare, "%zu slots; %zu cached, %ld spare", stats.slots,
               stats.cached, pool->spare);
        fill(pool, &serial);
        check_mappings(pool);
        for (int i = 0; i < MIXED; i++)
            CHECK_PATTERN(mixed[i], MIXED_SIZE, contents[i]);
        rename_all(comm, &serial);
        for (int i = 0; i < MIXED; i++)
            CHECK_PATTERN(mixed[i], MIXED_SIZE, contents[i]);
        free_all();
        CHECK_OK(zc_pool_close(pool));
    }
    CHECKF(failures > 5, "%d", failures);
    CHECK_OK(zc_close(comm));
}

Test(trim, can_fail_and_be_repeated, .timeout = 60)
{
    fail_and_repeat();
}

Test(trim, can_fail_for_want_of_protection, .timeout = 60)
{
    setenv("ZC_PROTECT", "userfaultfd", 1);
    fail_registrations = true;
    fail_and_repeat();
}

/* Where the kernel refuses to protect the second of two slots that get their own pages back, the first has its own. */
Test(trim, a_tidying_that_fails_mixes_nothing_up, .timeout = 60)
{
    setenv("ZC_PROTECT", "userfaultfd", 1);
    zc_comm *comm = loop_renaming(ZC_RELEASE_AUTO);
    zc_pool *pool = open_small(MIXED_SIZE);
    if (pool->protect != ZC_PROTECT_USERFAULTFD)
        cr_skip_test("there is no userfaultfd");
    uint64_t serial = 0;
    fail_registrations = true;
    fill(pool, &serial);
    rename_all(comm, &serial);
    free_all();
    fail_at = 2;
    pool_tidy(pool);
    CHECK(fail_at == 0);
    displaced(pool, false); /* which checks that slots and backings are pairs */
    check_mappings(pool);
    fill(pool, &serial);
    rename_all(comm, &serial);
    for (int i = 0; i < MIXED; i++)
        CHECK_PATTERN(mixed[i], MIXED_SIZE, contents[i]);
    free_all();
    CHECK_OK(zc_pool_close(pool));
    CHECK_OK(zc_close(comm));
}

/* ---- beside a fork ---- */

static struct {
    zc_pool *pool;
    char *buffer;
    _Atomic int tid;
    _Atomic bool copying, trimmed;
} forked;

static void *free_and_trim(void *unused)
{
    size_t released = 0;
    atomic_store(&forked.tid, sys_tid());
    while (!atomic_load(&forked.copying))
        sched_yield();
    CHECK_OK(zc_free(forked.buffer));
    CHECK_OK(zc_pool_trim(forked.pool, &released));
    CHECK(released > 0);
    atomic_store(&forked.trimmed, true);
    return unused;
}

/* Returns when the other thread has trimmed, or sleeps. */
static void let_trim(void)
{
    char path[64], state = 'R';
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", forked.tid);
    atomic_store(&forked.copying, true);
    while (!atomic_load(&forked.trimmed) && state != 'S') {
        sched_yield();
        FILE *file = fopen(path, "r");
        CHECK(!file || fscanf(file, "%*d (%*[^)]) %c", &state) == 1 || atomic_load(&forked.trimmed));
        if (file)
            fclose(file);
    }
}

/* Live buffers are freed by other threads while they are copied for a child: their pages stay until that is done. */
Test(trim, takes_no_pages_that_a_fork_copies)
{
    zc_pool_options options = small_slots(HUGE_BYTES);
    forked.pool = open_with(&options);
    forked.buffer = alloc_in(forked.pool);
    cache_drain(forked.pool);
    memset(forked.buffer, 1, HUGE_BYTES);
    inherit_open();
    pthread_atfork(inherit_prepare, inherit_parent, inherit_child); /* as the preload does */
    pthread_t thread = thread_start(free_and_trim, NULL);
    while (!atomic_load(&forked.tid))
        sched_yield();
    atomic_store(&populating, let_trim);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    thread_join(thread);
    CHECK(atomic_load(&forked.copying) && atomic_load(&forked.trimmed));
}
