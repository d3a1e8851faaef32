/* SPDX-License-Identifier: MIT
 *
 * The n-th system call of the allocator, or of messages, fails, for every n: an error with a message or a fall-back,
 * with nothing lost and nothing leaked, and all is well again afterwards. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "alloc/cache.h"
#include "alloc/heap.h"
#include "apart.h"
#include "core/stats.h"
#include "loop.h"
#include "pattern.h"
#include "ranks.h"
#include "system.h"
#include "tests/unit/interpose.h"
#include "tests/unit/pools.h"
#include "transport/loop.h"

TestSuite(refusals, .timeout = 120);

/* ---- calls that fail: zc reaches the kernel through these alone ---- */

static _Atomic int fail_at, calls; /* of all threads */
static bool unregistered;          /* userfaultfd takes no more pages */
static const char *failed;

static bool fails(const char *name)
{
    if (!fail_at || atomic_fetch_add(&calls, 1) + 1 != fail_at)
        return false;
    failed = name;
    errno = ENOMEM;
    return true;
}

// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name)
static long on_syscall(long number, const long a[6])
{
    const char *name = number == SYS_mmap         ? "mmap"
                       : number == SYS_munmap     ? "munmap"
                       : number == SYS_madvise    ? "madvise"
                       : number == SYS_mprotect   ? "mprotect"
                       : number == SYS_mremap     ? "mremap"
                       : number == SYS_membarrier ? "membarrier"
                                                  : NULL;
    if (number == SYS_ioctl && a[1] != (long)UFFDIO_WAKE) /* which needs nothing */
        name = "ioctl of userfaultfd";
    if (number == SYS_ioctl && a[1] == (long)UFFDIO_REGISTER && unregistered) {
        errno = ENOMEM;
        return -1;
    }
    return name && fails(name) ? -1 : real_syscall(number, a);
}

void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, at, length, prot, flags, fd, offset);
}

int madvise(void *at, size_t length, int advice)
{
    return (int)syscall(SYS_madvise, at, length, advice);
}

int memfd_create(const char *name, unsigned flags)
{
    return fails("memfd_create") ? -1 : (int)syscall(SYS_memfd_create, name, flags);
}

int ftruncate(int fd, off_t length)
{
    return fails("ftruncate") ? -1 : (int)syscall(SYS_ftruncate, fd, length);
}

int fcntl(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    long argument = va_arg(list, long);
    va_end(list);
    return fails("fcntl") ? -1 : (int)syscall(SYS_fcntl, fd, command, argument);
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)

/* ---- what could leak ---- */

/* kB of memfds of zc that are held, in whatever mapping. */
static long memfd_kb(void)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    bool inside = false;
    long kb = 0;
    CHECK(file);
    while (fgets(line, sizeof line, file)) {
        if (strchr(line, '-') && strchr(line, '-') < strchr(line, ' '))
            inside = strstr(line, "memfd:zc ") != NULL;
        else if (inside && (strncmp(line, "Rss:", 4) == 0 || strstr(line, "e_Hugetlb:") || strstr(line, "d_Hugetlb:")))
            kb += strtol(strchr(line, ':') + 1, NULL, 10);
    }
    fclose(file);
    return kb;
}

/* ---- the scene ---- */

enum { SLOTS_MOST = 60 };

struct scene {
    size_t slot_size;
    int slots;
    enum zc_huge huge;
    int n; /* the call that fails */
};

static void check_counts(zc_pool *pool, size_t live)
{
    zc_pool_stats stats = stats_of(pool);
    CHECKF(stats.live == live && stats.slots == live + stats.cached + (size_t)pool->spare,
           "after %s: %zu slots; %zu live, not %zu; %zu cached, %ld spare", failed, stats.slots, stats.live, live,
           stats.cached, pool->spare);
}

static void *alloc_and_free(void *pool)
{
    zc_free(zc_pool_alloc(pool)); /* its cache goes with the thread */
    return NULL;
}

/* Takes slots until one is refused, or all are there; stores to them. */
static int fill(const struct scene *s, zc_pool *pool, char **p, int n)
{
    while (n < s->slots && (p[n] = zc_pool_alloc(pool))) {
        memset(p[n], n + 1, s->slot_size);
        n++;
    }
    if (n < s->slots) {
        CHECKF(errno == ENOMEM && zc_errmsg()[0], "after %s: errno %d, \"%s\"", failed, errno, zc_errmsg());
        check_counts(pool, (size_t)n);
    }
    return n;
}

static bool *reached; /* shared: there was an n-th call */

static void scene(const void *argument)
{
    const struct scene *s = argument;
    char *p[SLOTS_MOST];
    zc_pool *pool = NULL;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = s->slot_size;
    options.huge = s->huge;
    options.initial = (size_t)s->slots / 2 + 1; /* in several steps, where slots are many */
    int files = system_descriptors();

    fail_at = s->n;
    int error = zc_pool_open(&options, &pool);
    if (error) {
        CHECKF(error == -ENOMEM && zc_errmsg()[0] && !pool, "after %s: %d, \"%s\"", failed, error, zc_errmsg());
        CHECKF(memfd_kb() == 0, "after %s: %ld kB of a pool that was not opened are held", failed, memfd_kb());
        CHECK_OK(zc_pool_open(&options, &pool)); /* only one call fails */
    }
    int n = fill(s, pool, p, 0);
    n = fill(s, pool, p, n);
    CHECKF(n == s->slots, "after %s: %d", failed, n);
    thread_join(thread_start(alloc_and_free, pool));
    for (int i = 0; i < s->slots; i++) {
        CHECK_BYTES(p[i], s->slot_size, (unsigned char)(i + 1));
        CHECK_OK(zc_free(p[i]));
    }
    check_counts(pool, 0);
    error = zc_pool_trim(pool, NULL);
    CHECKF(error == 0 || (error == -ENOMEM && zc_errmsg()[0]), "after %s: %d", failed, error);
    CHECKF(error || memfd_kb() == 0, "after %s: %ld kB were not released", failed, memfd_kb());
    *reached = calls >= fail_at;
    fail_at = 0;

    check_counts(pool, 0);
    CHECK(fill(s, pool, p, 0) == s->slots); /* as if nothing had been */
    for (int i = 0; i < s->slots; i++)
        CHECK_OK(zc_free(p[i]));
    CHECK_OK(zc_pool_close(pool));
    CHECKF(memfd_kb() == 0, "after %s: %ld kB are still held", failed, memfd_kb());
    files += live.magic[0] != 0; /* the page that shows the counters */
    CHECKF(system_descriptors() == files, "after %s: %d files, not %d", failed, system_descriptors(), files);
}

/* With each call refused, until there is no such call. */
static void repeat(void (*body)(const void *n), int least)
{
    int n = 0;
    reached = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(reached != MAP_FAILED);
    do {
        *reached = false;
        n++;
        apart(body, &n);
    } while (*reached);
    CHECKF(n > least, "only %d calls", n);
}

static void fail_each(size_t slot_size, int slots, enum zc_huge huge, int least)
{
    struct scene s = {slot_size, slots, huge, 0};
    reached = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(reached != MAP_FAILED);
    do {
        *reached = false;
        s.n++;
        apart(scene, &s);
    } while (*reached);
    CHECKF(s.n > least, "only %d calls", s.n);
}

Test(refusals, small_slots)
{
    fail_each(4096, SLOTS_MOST, ZC_HUGE_NEVER, 20);
}

Test(refusals, several_segments)
{
    fail_each(256 << 10, 24, ZC_HUGE_NEVER, 40);
}

Test(refusals, huge_slots)
{
    fail_each(3 << 20, 3, ZC_HUGE_ALWAYS, 30);
}

/* With ordinary pages in their place, or (tests/hugetlb) with hugetlb pages. */
Test(refusals, hugetlb_slots)
{
    fail_each(2 << 20, 3, ZC_HUGE_HUGETLB, 20);
    fail_each(4 << 20, 2, ZC_HUGE_HUGETLB, 20);
}

/* ---- pages that move between size classes ---- */

enum {
    IDLE = 128 << 10, /* the class that loses pages */
    IDLES = 16,
    GROWING = 320 << 10,
    GROWINGS = 8
};

/* What is refused, by the one call that fails, is to be had at the next attempt. */
static char *take(size_t size)
{
    char *p = zc_alloc(size);
    if (!p) {
        CHECKF(errno == ENOMEM && zc_errmsg()[0], "after %s: errno %d, \"%s\"", failed, errno, zc_errmsg());
        p = ALLOC(size);
    }
    return p;
}

static void take_and_free(size_t size, int n)
{
    char *p[IDLES];
    for (int i = 0; i < n; i++)
        pattern_fill(p[i] = take(size), size, (unsigned)i);
    for (int i = 0; i < n; i++) {
        CHECK_PATTERN(p[i], size, (unsigned)i);
        CHECK_OK(zc_free(p[i]));
    }
}

/* So much is allocated meanwhile that the other class is seen to be idle, and may give up the pages of one more
 * slot. */
static void grow_to(int n)
{
    for (int i = 0; i < 30; i++)
        CHECK_OK(zc_free(take(GROWING)));
    take_and_free(GROWING, n);
}

static void reclaim_scene(const void *argument)
{
    static char got[IDLE];
    char *p[IDLES];
    int files = system_descriptors();
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    for (int i = 0; i < IDLES; i++)
        p[i] = ALLOC(IDLE);
    loop_resend(comm, p, IDLES, got, IDLE);
    for (int i = 0; i < IDLES; i++)
        CHECK_OK(zc_free(p[i])); /* with their guards, to be lifted */
    zc_pool *idle = heap_pool(IDLE, 1);
    size_t slots = stats_of(idle).slots;

    fail_at = *(const int *)argument;
    for (int n = 1; n <= GROWINGS; n++)
        grow_to(n);
    *reached = calls >= fail_at;
    CHECKF(*reached || stats_of(idle).slots < slots, "no page has moved");
    take_and_free(IDLE, IDLES); /* pages are found for what lost its own */
    *reached = calls >= fail_at;
    fail_at = 0;

    zc_pool *pools[] = {idle, heap_pool(GROWING, 1)};
    take_and_free(IDLE, IDLES);
    take_and_free(GROWING, GROWINGS);
    CHECK_OK(zc_close(comm));
    for (int i = 0; i < 2; i++) {
        check_counts(pools[i], 0);
        CHECK_OK(zc_pool_trim(pools[i], NULL));
    }
    CHECKF(memfd_kb() == 0, "after %s: %ld kB are still held", failed, memfd_kb());
    files += live.magic[0] != 0; /* the page that shows the counters */
    CHECKF(system_descriptors() == files, "after %s: %d files, not %d", failed, system_descriptors(), files);
}

Test(refusals, pages_between_size_classes)
{
    repeat(reclaim_scene, 20);
}

/* ---- messages ---- */

enum { BYTES = 64 << 10, ROUNDS = 4 };

/* A message that is stored to while it is held, and one that lands in place; each call may be refused once. Sends that
 * cannot be protected are copied, a receive that cannot be is refused, and a store always goes on: what it needs was
 * claimed before. */
static void message_scene(const void *argument)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    char *buffer = ALLOC(BYTES), *in = ALLOC(BYTES), *place = ALLOC(BYTES);

    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("loop", &options, &comm));
    fail_at = *(const int *)argument;
    for (unsigned i = 0; i < ROUNDS; i++) {
        pattern_fill(buffer, BYTES, i);
        loop_hold(comm, true);
        int posted = zc_irecv(place, BYTES, 0, 1, comm);
        CHECKF(posted == 0 || (posted == -ENOMEM && zc_errmsg()[0]), "after %s: %d", failed, posted);
        int error = zc_send(buffer, BYTES, 0, 1, comm);
        CHECKF(error == 0, "after %s: zc_send is %d: %s", failed, error, zc_errmsg());
        for (size_t at = 0; at < BYTES; at += 4096)
            ((volatile char *)buffer)[at] ^= 1;
        loop_hold(comm, false);
        if (posted == 0)
            CHECK_OK(zc_wait(place, NULL));
        else
            CHECK_OK(zc_recv(place, BYTES, 0, 1, comm, NULL));
        CHECK_PATTERN(place, BYTES, i);
        CHECK_OK(zc_send(place, BYTES, 0, 2, comm));
        CHECK_OK(zc_recv(in, BYTES, 0, 2, comm, NULL));
        CHECK_PATTERN(in, BYTES, i);
        CHECK_OK(zc_writable(place));
    }
    *reached = calls >= fail_at;
    fail_at = 0;
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(place));
    CHECK_OK(zc_close(comm));
}

Test(refusals, messages)
{
    repeat(message_scene, 20);
}

Test(refusals, messages_by_userfaultfd)
{
    setenv("ZC_PROTECT", "userfaultfd", 1);
    repeat(message_scene, 20);
}

/* As where mappings have run out: there is no buffer, rather than one that a receive does not close. */
Test(refusals, pages_that_userfaultfd_does_not_take)
{
    setenv("ZC_PROTECT", "userfaultfd", 1);
    zc_comm *comm = loop_renaming(ZC_RELEASE_AUTO);
    char *in = ALLOC(2 * BYTES), *buffer, *out = calloc(1, BYTES);
    unregistered = true;
    while ((buffer = zc_alloc(BYTES))) { /* until those that were made before have been taken */
        memset(buffer, 1, BYTES);
        CHECK_OK(zc_irecv(buffer, BYTES, 0, 1, comm));
        CHECK_OK(zc_send(out, BYTES, 0, 1, comm));
        CHECK(*(volatile char *)buffer == 0);
    }
    CHECK(errno == ENOMEM && strstr(zc_errmsg(), "vm.max_map_count"));
    unregistered = false;
    CHECK_OK(zc_free(ALLOC(BYTES)));
    CHECK_OK(zc_free(in));
    free(out);
    CHECK_OK(zc_close(comm));
}
