/* SPDX-License-Identifier: MIT
 *
 * Statistics: of pools, and the page that shows a process's counters to others. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc/heap.h"
#include "check.h"
#include "core/stats.h"
#include "loop.h"
#include "ranks.h"
#include "transport/comm.h"
#include "transport/progress.h"

/* ---- pools ---- */

static zc_pool_stats pool_now(zc_pool *pool)
{
    zc_pool_stats stats = {.size = sizeof stats};
    CHECK_OK(zc_pool_stats_get(pool, &stats));
    return stats;
}

static void expect_pool(zc_pool *pool, size_t live, size_t in_flight, size_t idle_protected, uint64_t renamed)
{
    zc_pool_stats now = pool_now(pool);
    CHECKF(now.live == live, "%zu live, expected %zu", now.live, live);
    CHECKF(now.in_flight == in_flight, "%zu in flight, expected %zu", now.in_flight, in_flight);
    CHECKF(now.idle_protected == idle_protected, "%zu idle, expected %zu", now.idle_protected, idle_protected);
    CHECKF(now.renamed == renamed, "%llu renamed", (unsigned long long)now.renamed);
}

Test(live, pool_statistics)
{
    enum { SIZE = 1 << 16 };
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool;
    options.slot_size = SIZE;
    options.initial = 8;
    CHECK_OK(zc_pool_open(&options, &pool));
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);

    expect_pool(pool, 0, 0, 0, 0);
    CHECK(pool_now(pool).waste == 8 && pool_now(pool).slots == 8);
    char *p = zc_pool_alloc(pool), *q = zc_pool_alloc(pool), *in = ALLOC(SIZE);
    CHECK(p && q);
    expect_pool(pool, 2, 0, 0, 0);
    CHECK(pool_now(pool).waste == 6 && pool_now(pool).refills >= 1);
    memset(p, 1, SIZE);
    memset(q, 1, SIZE);
    CHECK_OK(zc_send(p, SIZE, 0, 1, comm));
    CHECK_OK(zc_send(q, SIZE, 0, 1, comm));
    expect_pool(pool, 2, 2, 0, 0);
    ((volatile char *)q)[0] = 2; /* its old pages are in flight now, its new ones are not */
    expect_pool(pool, 2, 2, 0, 1);
    CHECK_OK(zc_free(q));
    expect_pool(pool, 1, 2, 0, 1);
    CHECK(pool_now(pool).waste == pool_now(pool).slots - 2); /* p, and the pages that q was sent from */
    CHECK_OK(zc_recv(in, SIZE, 0, 1, comm, NULL));
    CHECK_OK(zc_recv(in, SIZE, 0, 1, comm, NULL));
    expect_pool(pool, 1, 0, 1, 1);
    CHECK_OK(zc_writable(p));
    expect_pool(pool, 1, 0, 0, 1);
    CHECK_OK(zc_irecv(p, SIZE, 0, 1, comm));
    expect_pool(pool, 1, 1, 0, 1);
    CHECK_OK(zc_cancel(p));
    expect_pool(pool, 1, 0, 0, 1);
    CHECK(pool_now(pool).waste == pool_now(pool).slots - 1);
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}

/* What carries the copy of a message is neither live nor waste. */
Test(live, copies_are_in_flight)
{
    enum { SIZE = 1 << 16, N = 5 };
    zc_comm *comm = loop_with(ZC_CONFLICT_DEFAULT, ZC_POLICY_COPY, ZC_RELEASE_DEFAULT);
    static char foreign[SIZE];
    char *p = ALLOC(SIZE);
    zc_pool *pool = heap_pool(SIZE, 1);
    for (int i = 0; i < N; i++)
        CHECK_OK(zc_send(i % 2 ? p : foreign, SIZE, 0, 1, comm));
    expect_pool(pool, 1, N, 0, 0);
    CHECK(pool_now(pool).waste == pool_now(pool).slots - N - 1);
    for (int i = 0; i < N; i++)
        CHECK_OK(zc_recv(p, SIZE, 0, 1, comm, NULL));
    expect_pool(pool, 1, 0, 0, 0);
    CHECK(pool_now(pool).waste == pool_now(pool).slots - 1);
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_close(comm));
}

/* ---- communicators ---- */

static void expect_list(zc_comm *first, zc_comm *second)
{
    CHECK(comm_list() == first && atomic_load(&live.comms) == first);
    CHECK(!first || first->next == second);
    CHECK(!second || !second->next);
}

/* Each wait and test goes through those that are open, and through no others. */
Test(live, closed_communicators_are_not_listed)
{
    zc_comm *comm[3];
    for (int i = 0; i < 3; i++)
        CHECK_OK(zc_open("loop", NULL, &comm[i]));
    CHECK_OK(zc_close(comm[1]));
    expect_list(comm[2], comm[0]);
    CHECK(comm[1]->next == comm[0]); /* for who was there */
    CHECK_OK(zc_close(comm[2]));
    expect_list(comm[0], NULL);
    CHECK_OK(zc_close(comm[0]));
    expect_list(NULL, NULL);
    for (int i = 0; i < 3; i++)
        CHECK_FAILS(zc_progress(comm[i]), -EBADF, "closed");
}

/* ---- the page ---- */

/* A descriptor that another process would find, opened as it would. */
static int open_page(pid_t pid, int flags)
{
    char path[64], name[64];
    for (int fd = 0; fd < 64; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
        ssize_t length = readlink(path, name, sizeof name - 1);
        name[length > 0 ? length : 0] = 0;
        if (strncmp(name, "/memfd:" LIVE_NAME " ", sizeof "/memfd:" LIVE_NAME) == 0)
            return open(path, flags);
    }
    return -1;
}

Test(live, others_see_the_counters)
{
    CHECK_OK(zc_free(ALLOC(1)));
    int fd = open_page(getpid(), O_RDONLY);
    CHECK(fd >= 0);
    const struct live *page = sys_mmap(NULL, sizeof live, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(page && page != &live);
    CHECK(strcmp(page->magic, LIVE_MAGIC) == 0 && strcmp(page->version, zc_version()) == 0);
    CHECK(page->pid == (uint64_t)getpid());
    uint64_t before = page->counters.receives_bounced;
    count(receives_bounced);
    CHECK(page->counters.receives_bounced == before + 1);
}

enum { THREADS = COUNTING_THREADS + 8, COUNTS = 100000 };

static _Atomic int counting;

/* With or without the others at the same time. */
static void *count_many(void *together)
{
    count_often(sends);
    if (!together)
        CHECK(stats_own);
    for (atomic_fetch_add(&counting, 1); together && atomic_load(&counting) < THREADS;)
        sched_yield();
    for (int i = 1; i < COUNTS; i++)
        count_often(sends);
    return NULL;
}

/* Threads have lines of their own while there are any, and leave them to others when they end; nothing is lost. */
Test(live, threads_count_exactly)
{
    pthread_t threads[THREADS];
    struct counters before, after;
    CHECK_OK(zc_free(ALLOC(1)));
    live_sum(&live, &before);
    for (int i = 0; i < THREADS; i++)
        thread_join(thread_start(count_many, NULL));
    atomic_store(&counting, 0);
    for (int i = 0; i < THREADS; i++)
        threads[i] = thread_start(count_many, threads);
    for (int i = 0; i < THREADS; i++)
        thread_join(threads[i]);
    live_sum(&live, &after);
    CHECK(after.sends == before.sends + (uint64_t)2 * THREADS * COUNTS);
    CHECK(stats_now().sends == after.sends);
}

Test(live, others_cannot_write)
{
    CHECK_OK(zc_free(ALLOC(1)));
    int fd = open_page(getpid(), O_RDWR);
    CHECK(fd >= 0);
    CHECK(!sys_mmap(NULL, sizeof live, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) && errno == EPERM);
    CHECK(pwrite(fd, "x", 1, 0) == -1 && errno == EPERM);
    CHECK(ftruncate(fd, 0) == -1 && errno == EPERM);
}

/* A child counts for itself, and does not show its parent's page as its own. */
Test(live, fork)
{
    CHECK_OK(zc_free(ALLOC(1)));
    count(receives_bounced);
    uint64_t before = stats_now().receives_bounced;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        count(receives_bounced);
        _exit(live.counters.receives_bounced == before + 1 && open_page(getpid(), O_RDONLY) < 0 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(stats_now().receives_bounced == before);
    CHECK(open_page(getpid(), O_RDONLY) >= 0);
}
