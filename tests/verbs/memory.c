/* SPDX-License-Identifier: MIT
 *
 * Cases: what is registered, when, and what happens where nothing can be. */
#include <errno.h>
#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cases.h"
#include "system.h"
#include "zc_verbs.h"

/* One message from rank 0 to rank 1, checked. */
static void pass(zc_comm *comm[], char *out, char *in, size_t length, unsigned n)
{
    pattern_fill(out, length, n);
    CHECK_OK(zc_send(out, length, 1, 1, comm[0]));
    CHECK_OK(zc_irecv(in, length, 0, 1, comm[1]));
    /* Both ranks are this thread's: a large message needs both to look. */
    for (int done = 0; !done;) {
        CHECK_OK(zc_progress(comm[0]));
        CHECK_OK(zc_test(in, &done, NULL));
    }
    CHECK_PATTERN(in, length, n);
}

void case_bad_addresses(void)
{
    static const struct {
        const char *address;
        int error;
        const char *text;
    } bad[] = {{"verbs:nosuch0", -ENODEV, "no RDMA device nosuch0; there are: rxe0"},
               {"verbs:?port=9", -ENODEV, "no port 9"},
               {"verbs:?gid=200", -ENODEV, "no GID 200"},
               {"verbs:?mtu=77", -EINVAL, "256..4096"},
               {"verbs:?mtu=1500", -EINVAL, "expected 256, 512"},
               {"verbs:?unregistered=maybe", -EINVAL, "expected copy"},
               {"verbs:?timeout=9", -EINVAL, "timeout=9, expected 10..3600000"},
               {"verbs:?speed=9", -EINVAL, "no parameter \"speed\""},
               {"verbs:?rank=0&size=2", -EINVAL, "root=HOST:PORT"},
               {"verbs:?rank=2&size=2&root=127.0.0.1:19000", -EINVAL, "rank=2"},
               {"verbs:?rank=0&size=9999&root=127.0.0.1:19000", -EINVAL, "size=9999"},
               {"verbs:?rank=1&size=2&root=127.0.0.1:19000&wait=1", -ETIMEDOUT, "not to be reached"},
               {"verbs:?rank=0&size=2&root=127.0.0.1:19000&wait=1", -ETIMEDOUT, "1 of 2 ranks"},
               {"verbs:?rank=0&size=2&root=192.0.2.1:19000", -EADDRNOTAVAIL, "rank 0's machine"}};
    zc_comm *comm = NULL;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_FAILS(zc_open(bad[i].address, NULL, &comm), bad[i].error, bad[i].text);
    CHECK_OK(zc_open("verbs", NULL, &comm));
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_open("verbs:rxe0?mtu=1024&gid=1&port=1", NULL, &comm));
    CHECK(zc_rank(comm) == 0 && zc_size(comm) == 1);
    CHECK_OK(zc_close(comm));
    CHECKF(registered == deregistered, "%lu, %lu", registered, deregistered);
}

/* RoCE v1 alone does not leave its subnet, and is no choice. */
void case_no_routable_gid(void)
{
    zc_comm *comm = NULL;

    gid_type = IBV_GID_TYPE_ROCE_V1;
    CHECK_FAILS(zc_open("verbs", NULL, &comm), -ENODEV, "port 1 of rxe0 has no GID of type RoCE v2");
    CHECK_FAILS(zc_open("verbs:?gid=1", NULL, &comm), -ENODEV, "rxe0 has no GID 1 of type RoCE v2");
    gid_type = -1;
    CHECK_OK(zc_open("verbs", NULL, &comm));
    CHECK_OK(zc_close(comm));
    CHECKF(registered == deregistered, "%lu, %lu", registered, deregistered);
}

/* Each segment once, be it there before the communicators or after, and nothing else. */
void case_registered_once(void)
{
    zc_comm *comm[2];
    char *before = ALLOC(300 * KIB);

    CHECK(registered == 0 && stats_now().registrations == 0);
    ranks_open(comm, 2, NULL);
    zc_stats opened = stats_now();
    CHECKF(opened.segments >= 1 && opened.registrations == opened.segments, "%llu of %llu segments",
           (unsigned long long)opened.registrations, (unsigned long long)opened.segments);
    /* The two endpoints have slots of their own. */
    CHECKF(registered == opened.registrations + 2, "%lu", registered);
    char *in = ALLOC(9 * MIB), *out = ALLOC(9 * MIB);
    for (unsigned i = 0; i < 20; i++) {
        pass(comm, out, in, i % 2 ? 9 * MIB : 5000, i);
        pass(comm, before, in, 300 * KIB, i);
        CHECK(registered == stats_now().registrations + 2);
    }
    unsigned long steady = registered;
    for (unsigned i = 0; i < 30; i++) {
        char *again = ALLOC(9 * MIB); /* recycled */
        pass(comm, out, in, 200 * KIB + i, i);
        CHECK_OK(zc_free(again));
        if (i == 4)
            steady = registered;
    }
    CHECKF(registered == steady && deregistered == 0, "%lu, not %lu", registered, steady);
    CHECK(stats_now().registrations == stats_now().segments);
    ranks_close(comm, 2);
    CHECKF(registered == deregistered, "%lu registered, %lu deregistered", registered, deregistered);
    /* What is mapped now is registered by who opens next. */
    ranks_open(comm, 2, NULL);
    pass(comm, before, in, 300 * KIB, 77);
    ranks_close(comm, 2);
    CHECKF(registered == deregistered, "%lu, %lu", registered, deregistered);
}

/* A registered segment is pinned, and would never become huge: it is so before. */
void case_huge_pages(void)
{
    zc_comm *comm = NULL;

    CHECK(setenv("ZC_HUGE", "always", 1) == 0);
    CHECK_OK(zc_open("verbs", NULL, &comm));
    char *buffer = ALLOC(4 * MIB);
    memset(buffer, 1, 4 * MIB);
    CHECK(stats_now().registrations == stats_now().segments);
    long kb = system_smaps_kb(buffer, "ShmemPmdMapped");
    CHECKF(kb >= 4 << 10, "%ld kB are huge", kb);
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_close(comm));
}

static atomic_bool stop;

static void *grow_and_trim(void *argument)
{
    unsigned *rounds = argument;

    while (!atomic_load(&stop)) {
        zc_pool_options options = ZC_POOL_OPTIONS_INIT;
        zc_pool *pool = NULL;
        void *slot[8];

        options.slot_size = 512 * KIB;
        CHECK_OK(zc_pool_open(&options, &pool));
        for (int i = 0; i < 8; i++)
            CHECK((slot[i] = zc_pool_alloc(pool)) != NULL);
        for (int i = 0; i < 8; i++)
            CHECK_OK(zc_free(slot[i]));
        CHECK_OK(zc_pool_trim(pool, NULL));
        CHECK_OK(zc_pool_close(pool));
        ++*rounds;
    }
    return NULL;
}

void case_growth_under_traffic(void)
{
    zc_comm *comm[2];
    unsigned rounds = 0;

    ranks_open(comm, 2, NULL);
    pthread_t thread = thread_start(grow_and_trim, &rounds);
    for (unsigned i = 0; i < 200 || rounds < 5; i++) {
        size_t length = (i % 7 + 1) * 40000;
        char *out = ALLOC(length), *in = ALLOC(length);

        pass(comm, out, in, length, i);
        CHECK_OK(zc_free(out));
        CHECK_OK(zc_free(in));
    }
    atomic_store(&stop, true);
    thread_join(thread);
    CHECK(deregistered > 0);
    ranks_close(comm, 2);
    CHECKF(registered == deregistered, "%lu, %lu", registered, deregistered);
}

static void *send_foreign(void *argument)
{
    zc_comm *comm = argument;
    char *out = malloc(3 * MIB);

    for (unsigned i = 0; i < 5; i++) {
        pattern_fill(out, 3 * MIB, i);
        CHECK_OK(zc_send(out, 3 * MIB, 1, 1, comm));
        memset(out, 0, 3 * MIB);
    }
    free(out);
    CHECK_OK(zc_flush(comm));
    return NULL;
}

/* It goes in parts, through the slots. */
void case_nothing_registered_for_foreign_memory(void)
{
    zc_comm *comm[2];
    char *in = malloc(3 * MIB);

    ranks_open(comm, 2, NULL);
    unsigned long before = registered;
    uint64_t segments = stats_now().segments;
    pthread_t thread = thread_start(send_foreign, comm[0]);
    for (unsigned i = 0; i < 5; i++) {
        zc_status status;

        CHECK_OK(zc_recv(in, 3 * MIB, 0, 1, comm[1], &status));
        CHECK(status.length == 3 * MIB);
        CHECK_PATTERN(in, 3 * MIB, i);
    }
    thread_join(thread);
    CHECK(registered - before == stats_now().segments - segments); /* of bounce slots */
    free(in);
    ranks_close(comm, 2);
}

/* As an ordinary user with a limit. */
static void limit_memory(size_t bytes)
{
    struct rlimit limit = {bytes, bytes};

    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
}

void case_memlock_refuses_to_open(void)
{
    zc_comm *comm = NULL;

    limit_memory(64 * KIB);
    CHECK_FAILS(zc_open("verbs", NULL, &comm), -ENOMEM, "may lock 64 KiB (RLIMIT_MEMLOCK");
    CHECK(registered == deregistered + 1); /* the one that failed */
    /* Nothing is left of it: without the device all goes on. */
    CHECK_OK(zc_open("loop", NULL, &comm));
    CHECK_OK(zc_close(comm));
}

void case_memlock_refuses_to_grow(void)
{
    zc_comm *comm[2];

    limit_memory(16 * MIB);
    ranks_open(comm, 2, NULL);
    char *out = ALLOC(100 * KIB), *in = ALLOC(100 * KIB);
    errno = 0;
    CHECK(zc_alloc(32 * MIB) == NULL);
    CHECK(errno == ENOMEM);
    CHECKF(strstr(zc_errmsg(), "may lock 16384 KiB (RLIMIT_MEMLOCK") && strstr(zc_errmsg(), "unregistered=copy"), "%s",
           zc_errmsg());
    pass(comm, out, in, 100 * KIB, 1);
    ranks_close(comm, 2);
}

void case_unregistered_is_copied(void)
{
    zc_comm *comm[2];

    limit_memory(16 * MIB);
    ranks_parameters = "&unregistered=copy";
    ranks_open(comm, 2, NULL);
    char *small_out = ALLOC(100 * KIB), *small_in = ALLOC(100 * KIB); /* registered */
    char *out = ALLOC(20 * MIB), *in = ALLOC(20 * MIB);               /* not */
    CHECK(stats_now().registrations < stats_now().segments);
    pass(comm, out, in, 5 * MIB, 1);
    pass(comm, small_out, in, 100 * KIB, 2);
    pass(comm, out, small_in, 100 * KIB, 3);
    pass(comm, small_out, small_in, 100 * KIB, 4);
    ranks_close(comm, 2);
}

/* zc_mr: registered when first asked for, a segment at a time, and again only for another domain. */
void case_own_verbs(void)
{
    int n;
    struct ibv_device **list = ibv_get_device_list(&n);
    struct ibv_context *context = ibv_open_device(list[0]);
    struct ibv_pd *pd[2] = {ibv_alloc_pd(context), ibv_alloc_pd(context)};
    char *buffer = ALLOC(64 * KIB), *other = ALLOC(64 * KIB);
    struct zc_guard guard = {0}, second;
    struct ibv_sge sge, again;

    CHECK_FAILS(zc_mr(&guard, pd[0], &sge), -EINVAL, "not in force");
    CHECK_FAILS(zc_mr(NULL, pd[0], &sge), -EINVAL, "NULL");
    CHECK_FAILS(zc_mr_release(pd[0]), -ENOENT, "nothing is registered");
    CHECK_OK(zc_guard(buffer + 100, 1000, ZC_DENY_STORES, &guard));
    CHECK_OK(zc_guard(other, 64 * KIB, ZC_DENY_ALL, &second));
    CHECK_OK(zc_mr(&guard, pd[0], &sge));
    CHECK(registered == 1 && sge.addr == (uintptr_t)guard.wire && sge.length == 1000);
    CHECK_OK(zc_mr(&second, pd[0], &again));
    CHECK(registered == 1 && again.lkey == sge.lkey && again.length == 64 * KIB);
    CHECK_OK(zc_mr(&guard, pd[1], &again));
    CHECK(registered == 2);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_FAILS(zc_mr(&guard, pd[0], &again), -EPERM, "forked");
        CHECK_FAILS(zc_mr_release(pd[0]), -EPERM, "forked");
        _exit(0);
    }
    children_end(1, &child);
    CHECK_OK(zc_unguard(&guard));
    CHECK_OK(zc_unguard(&second));
    CHECK_OK(zc_mr_release(pd[0]));
    CHECK(deregistered == 1);
    CHECK_OK(zc_mr_release(pd[1]));
    CHECK(deregistered == 2);
    CHECK(ibv_dealloc_pd(pd[0]) == 0 && ibv_dealloc_pd(pd[1]) == 0);
    ibv_close_device(context);
    ibv_free_device_list(list);
}
