/* SPDX-License-Identifier: MIT
 *
 * Cases: what is shown to peers, what limits there are, and sleeping. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"
#include "system.h"

void case_segments_are_read_only(void)
{
    zc_comm *comm[2];
    char *out = ALLOC(100000);
    zc_view view;

    ranks_open(comm, 2, NULL);
    pattern_fill(out, 100000, 3);
    CHECK_OK(zc_send(out, 100000, 1, 1, comm[0]));
    CHECK_OK(zc_recv_view(&view, 0, 1, comm[1]));
    CHECK(stats_now().views_lent == 1);
    const struct mapping *mapping = NULL;
    for (uint32_t i = 0; !mapping; i++)
        mapping = shm_of(comm[1])->peers[0]->mappings[i];
    CHECK(mprotect((void *)(uintptr_t)mapping->at, 4096, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, mapping->fd, 0) == MAP_FAILED && errno == EPERM);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", mapping->fd);
    int again = open(path, O_RDWR);
    CHECK(again < 0 || mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
    CHECK(again < 0 || write(again, "x", 1) == -1);
    CHECK(again < 0 || ftruncate(again, 0) == -1);
    CHECK(again < 0 || fallocate(again, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == -1);
    close(again);
    /* For its owner nothing has changed: a conflict renames, the pool grows. */
    ((volatile char *)out)[5] = 1;
    CHECK_PATTERN(view.data, 100000, 3);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_free(out));
    ranks_close(comm, 2);
}

static unsigned long long resident_most(void)
{
    return system_number("/proc/self/status", "VmHWM:") * KIB;
}

static void copies_once(int rank)
{
    const size_t length = 16 * MIB;
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    char *buffer = ALLOC(length);

    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open(address_of(rank, 2), &options, &comm));
    pattern_fill(buffer, length, (unsigned)rank);
    if (rank == 0) {
        CHECK_OK(zc_send(buffer, length, 1, 1, comm));
        CHECK(stats_now().sends_protected == 1 && stats_now().sends_copied == 0);
    } else {
        unsigned long long before = resident_most();

        CHECK_OK(zc_recv(buffer, length, 0, 1, comm, NULL));
        /* The sender's pages are mapped now. */
        CHECKF(resident_most() < before + length * 3 / 2, "%llu KiB more", (resident_most() - before) / KIB);
        CHECK_PATTERN(buffer, length, 0);
    }
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_close(comm));
}

/* From the sender's pages to the receiver's: neither has the bytes anywhere else. */
void case_copied_once(void)
{
    pid_t child[2];

#ifdef __SANITIZE_THREAD__
    printf("skipped: ThreadSanitizer remembers accesses in memory\n");
    return;
#endif
    children_start(2, copies_once, child);
    children_end(2, child);
}

static unsigned mapped_by(zc_comm *comm, int peer)
{
    unsigned n = 0;
    struct link *link = shm_of(comm)->peers[peer];

    for (uint32_t i = 0; link->mappings && i < SHM_SEGMENTS_MOST; i++)
        n += link->mappings[i] != NULL;
    return n;
}

/* A trimmed segment is unmapped by peers, too, and its addresses can be shown again. */
void case_segments_are_forgotten(void)
{
    zc_comm *comm[2];
    zc_pool *pool;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    char *in = ALLOC(100000);

    options.slot_size = 100000;
    ranks_open(comm, 2, NULL);
    CHECK_OK(zc_pool_open(&options, &pool));
    for (unsigned i = 0; i < 20; i++) {
        size_t released = 0;
        char *out = zc_pool_alloc(pool);

        pattern_fill(out, 100000, i);
        CHECK_OK(zc_send_free(out, 100000, 1, 1, comm[0]));
        CHECK_OK(zc_recv(in, 100000, 0, 1, comm[1], NULL));
        CHECK_PATTERN(in, 100000, i);
        CHECK(mapped_by(comm[1], 0) == 1);
        CHECK_OK(zc_flush(comm[0]));
        CHECK_OK(zc_pool_trim(pool, &released));
        CHECK(released);
        for (int k = 0; k < 1000 && mapped_by(comm[1], 0); k++)
            CHECK_OK(zc_progress(comm[1]));
        CHECK(mapped_by(comm[1], 0) == 0);
    }
    CHECK_OK(zc_pool_close(pool));
    CHECK_OK(zc_free(in));
    ranks_close(comm, 2);
}

/* All at once, and then another one is shown and sent from: whatever else there is to hear first. */
void case_many_segments_are_forgotten(void)
{
    enum { POOLS = 200, LENGTH = 20000 };
    zc_comm *comm[2];
    zc_pool *pool[POOLS];
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_options protect = ZC_OPTIONS_INIT;
    char *out[POOLS], *in = ALLOC(LENGTH);

    options.slot_size = LENGTH;
    protect.policy = ZC_POLICY_PROTECT; /* copies would be of one segment */
    ranks_open(comm, 2, &protect);
    for (unsigned i = 0; i < POOLS; i++) {
        CHECK_OK(zc_pool_open(&options, &pool[i]));
        out[i] = zc_pool_alloc(pool[i]);
        pattern_fill(out[i], LENGTH, i);
        if (i == POOLS - 1)
            break;
        CHECK_OK(zc_send(out[i], LENGTH, 1, 1, comm[0]));
        CHECK_OK(zc_recv(in, LENGTH, 0, 1, comm[1], NULL));
    }
    CHECK_OK(zc_flush(comm[0]));
    for (unsigned i = 0; i < POOLS - 1; i++) {
        CHECK_OK(zc_free(out[i]));
        CHECK_OK(zc_pool_close(pool[i]));
    }
    CHECK_OK(zc_send(out[POOLS - 1], LENGTH, 1, 1, comm[0]));
    CHECK_OK(zc_recv(in, LENGTH, 0, 1, comm[1], NULL));
    CHECK_PATTERN(in, LENGTH, POOLS - 1);
    CHECK_OK(zc_flush(comm[0]));
    CHECK_OK(zc_free(out[POOLS - 1]));
    CHECK_OK(zc_pool_close(pool[POOLS - 1]));
    CHECK_OK(zc_free(in));
    ranks_close(comm, 2);
}

static void send_from_new_segment(int rank)
{
    zc_comm *comm = open_rank(rank, 2);

    if (rank == 0) {
        char *out = ALLOC(MIB);

        pattern_fill(out, MIB, 4);
        await(1);
        CHECK_OK(zc_send(out, MIB, 1, 1, comm));
        CHECK_OK(zc_send(out, MIB, 1, 1, comm));
        CHECK_OK(zc_close(comm));
        return;
    }
    char *in = ALLOC(MIB);
    struct rlimit limit, few;
    zc_view view;
    int next = dup(0);
    CHECK(next >= 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    close(next);
    few = (struct rlimit){(rlim_t)next, limit.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0); /* none is left */
    tell(1);
    CHECK_OK(zc_recv(in, MIB, 0, 1, comm, NULL));
    CHECK_PATTERN(in, MIB, 4);
    CHECK_OK(zc_recv_view(&view, 0, 1, comm)); /* in a copy */
    CHECK(stats_now().views_lent == 0);
    CHECK_PATTERN(view.data, MIB, 4);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
}

/* A receiver that cannot take the descriptor of a segment has its messages sent in parts. */
void case_few_descriptors(void)
{
    pid_t child[2];

    children_start(2, send_from_new_segment, child);
    children_end(2, child);
}

void case_most_views(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm[2];
    zc_view view[3];
    char *out = ALLOC(50000);

    options.max_views = 2;
    ranks_open(comm, 2, &options);
    pattern_fill(out, 50000, 8);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_OK(zc_send(out, 50000, 1, 1, comm[0]));
        CHECK_OK(zc_recv_view(&view[i], 0, 1, comm[1]));
        CHECK(stats_now().views_lent == (i < 2 ? i + 1 : 2));
        CHECK_PATTERN(view[i].data, 50000, 8);
    }
    CHECK_OK(zc_release(&view[0]));
    CHECK_OK(zc_send(out, 50000, 1, 1, comm[0]));
    CHECK_OK(zc_recv_view(&view[0], 0, 1, comm[1]));
    CHECK(stats_now().views_lent == 3);
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(zc_release(&view[i]));
    CHECK_OK(zc_free(out));
    ranks_close(comm, 2);
}

/* Memory does not come from there. */
void case_no_dev_shm(void)
{
    zc_comm *comm[2];
    zc_view view;

    if (geteuid() != 0) {
        printf("skipped: only root can mount\n");
        return;
    }
    CHECKF(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "%s",
           strerror(errno));
    CHECKF(mount("none", "/dev/shm", "tmpfs", MS_RDONLY, "size=4k") == 0, "%s", strerror(errno));
    CHECK(open("/dev/shm/zc-test", O_CREAT | O_WRONLY, 0600) == -1 && errno == EROFS);
    ranks_open(comm, 2, NULL);
    char *out = ALLOC(16 * MIB);
    pattern_fill(out, 16 * MIB, 9);
    CHECK_OK(zc_send(out, 16 * MIB, 1, 1, comm[0]));
    CHECK_OK(zc_recv_view(&view, 0, 1, comm[1]));
    CHECK_PATTERN(view.data, 16 * MIB, 9);
    CHECK(stats_now().views_lent == 1);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_free(out));
    ranks_close(comm, 2);
}

static void polls(int rank)
{
    enum { MESSAGES = 1000 };
    zc_comm *comm = open_rank(rank, 2);
    char *buffer = ALLOC(20000);

    if (rank == 0) {
        for (unsigned i = 0; i < MESSAGES; i++) {
            size_t length = i % 4 == 0 ? 20000 : i % 4 == 1 ? 100 : 1;

            pattern_fill(buffer, length, i);
            CHECK_OK(zc_send(buffer, length, 1, 1, comm));
            if (i % 100 == 0)
                usleep(1000);
        }
        CHECK_OK(zc_recv(buffer, 1, 1, 2, comm, NULL));
    } else {
        struct pollfd fd = {.fd = zc_fd(comm), .events = POLLIN};

        CHECK(fd.fd >= 0);
        for (unsigned i = 0; i < MESSAGES;) {
            zc_status status;
            int found;

            CHECKF(poll(&fd, 1, 10000) == 1, "nothing more came after %u messages", i);
            CHECK_OK(zc_progress(comm));
            while (zc_iprobe(0, 1, comm, &found, &status) == 0 && found) {
                CHECK_OK(zc_recv(buffer, 20000, 0, 1, comm, &status));
                CHECK_PATTERN(buffer, status.length, i);
                i++;
            }
        }
        /* With nothing left to do, and a peer that only waits, it is silent. */
        for (int i = 0; i < 1000 && poll(&fd, 1, 0); i++)
            CHECK_OK(zc_progress(comm));
        CHECK(poll(&fd, 1, 100) == 0);
        CHECK_OK(zc_send(buffer, 1, 0, 2, comm));
    }
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_close(comm));
}

void case_descriptor_to_poll(void)
{
    pid_t child[2];
    zc_comm *loop;

    children_start(2, polls, child);
    children_end(2, child);
    CHECK_OK(zc_open("loop", NULL, &loop));
    CHECK_FAILS(zc_fd(loop), -ENOTSUP, "loop");
    CHECK_OK(zc_close(loop));
}
