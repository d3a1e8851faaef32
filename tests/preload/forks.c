/* SPDX-License-Identifier: MIT
 *
 * Forked children find their memory as it was, and it is their own. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "preload.h"
#include "system.h"

enum { BUFFERS = 12 };

/* Sizes of several pools, of 2 MiB slots too; some neighbours are freed. */
static size_t size_of(int i)
{
    static const size_t sizes[] = {64 * KIB, 64 * KIB, 100 * KIB, MIB, 2 * MIB, 5 * MIB};
    return sizes[i % 6];
}

static void allocate_all(char *buffer[BUFFERS], unsigned long long seed)
{
    for (int i = 0; i < BUFFERS; i++) {
        void *gap = malloc(size_of(i));
        buffer[i] = malloc(size_of(i));
        CHECK(buffer[i]);
        pattern_fill(buffer[i], size_of(i), seed + (unsigned)i);
        free(gap);
    }
}

static void fill_all(char *const buffer[BUFFERS], unsigned long long seed)
{
    for (int i = 0; i < BUFFERS; i++)
        pattern_fill(buffer[i], size_of(i), seed + (unsigned)i);
}

static void check_all(char *const buffer[BUFFERS], unsigned long long seed)
{
    for (int i = 0; i < BUFFERS; i++)
        CHECK_PATTERN(buffer[i], size_of(i), seed + (unsigned)i);
}

static void free_all(char *const buffer[BUFFERS])
{
    for (int i = 0; i < BUFFERS; i++)
        free(buffer[i]);
}

static void signal_peer(int fd)
{
    CHECK(write(fd, "x", 1) == 1);
}

static void await_peer(int fd)
{
    char byte;
    CHECK(read(fd, &byte, 1) == 1);
}

/* Parent and child store in turn; neither sees the other's bytes. */
void fork_both_store(void)
{
    char *buffer[BUFFERS];
    int down[2], up[2];

    CHECK(pipe(down) == 0 && pipe(up) == 0);
    allocate_all(buffer, 100);
    CHECK(pooled(buffer[0]) && pooled(buffer[5]));
    pid_t child = fork();
    if (child == 0) {
        check_all(buffer, 100);
        fill_all(buffer, 200);
        signal_peer(up[1]);
        await_peer(down[0]);
        check_all(buffer, 200);
        _exit(0);
    }
    await_peer(up[0]);
    check_all(buffer, 100);
    fill_all(buffer, 300);
    signal_peer(down[1]);
    child_passes(child);
    check_all(buffer, 300);
    free_all(buffer);
}

/* The child's heap works: what it inherited can be freed and grown, and there is more. */
void fork_child_frees(void)
{
    char *buffer[BUFFERS], *more[BUFFERS];

    allocate_all(buffer, 100);
    pid_t child = fork();
    if (child == 0) {
        allocate_all(more, 400);
        for (int i = 0; i < BUFFERS; i++) {
            buffer[i] = realloc(buffer[i], 2 * size_of(i));
            CHECK(buffer[i]);
        }
        check_all(buffer, 100);
        free_all(buffer);
        check_all(more, 400);
        free_all(more);
        _exit(0);
    }
    child_passes(child);
    check_all(buffer, 100);
    free_all(buffer);
    allocate_all(buffer, 500);
    check_all(buffer, 500);
    free_all(buffer);
}

/* What the child frees of what it inherited goes back to the system, not into a pool that it does not have. */
void fork_child_gives_back(void)
{
    enum { N = 8, SIZE = 4 * MIB };
    char *buffer[N];

    for (int i = 0; i < N; i++) {
        buffer[i] = malloc(SIZE);
        CHECK(pooled(buffer[i]));
        memset(buffer[i], 'a', SIZE);
    }
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < N; i++)
            CHECK_BYTES(buffer[i], SIZE, 'a');
        unsigned long long before = system_number("/proc/self/smaps_rollup", "Rss:");
        for (int i = 0; i < N; i++)
            free(buffer[i]);
        unsigned long long after = system_number("/proc/self/smaps_rollup", "Rss:");
        CHECKF(after + (N - 1) * SIZE / KIB < before, "freeing %d KiB: %llu KiB, then %llu", N * SIZE / KIB, before,
               after);
        _exit(0);
    }
    child_passes(child);
    for (int i = 0; i < N; i++) {
        CHECK_BYTES(buffer[i], SIZE, 'a');
        free(buffer[i]);
    }
}

void fork_grandchild(void)
{
    char *buffer[BUFFERS];

    allocate_all(buffer, 100);
    pid_t child = fork();
    if (child == 0) {
        fill_all(buffer, 200);
        pid_t grandchild = fork();
        if (grandchild == 0) {
            check_all(buffer, 200);
            fill_all(buffer, 300);
            free_all(buffer);
            _exit(0);
        }
        child_passes(grandchild);
        check_all(buffer, 200);
        _exit(0);
    }
    child_passes(child);
    check_all(buffer, 100);
    child = fork(); /* and again from the first */
    if (child == 0) {
        check_all(buffer, 100);
        _exit(0);
    }
    child_passes(child);
    free_all(buffer);
}

void fork_exec(void)
{
    char *buffer[BUFFERS];
    struct outcome outcome;

    allocate_all(buffer, 100);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "exit 0", (char *)NULL);
        _exit(1);
    }
    child_passes(child);
    child = vfork(); // NOLINT(clang-analyzer-security.insecureAPI.vfork)
    if (child == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    child_passes(child);
    child_run(&outcome, (const char *const[]){"/bin/sh", "-c", "echo spawned", NULL}, NULL);
    expect_output(&outcome, "spawned");
    FILE *pipe = popen("echo opened", "r");
    char line[16] = "";
    CHECK(pipe && fgets(line, sizeof line, pipe) && strcmp(line, "opened\n") == 0 && pclose(pipe) == 0);
    CHECK(system("exit 0") == 0);
    check_all(buffer, 100);
    free_all(buffer);
}

/* ---- threads that allocate, free and fork ---- */

static _Atomic bool over;

static void *churn(void *argument)
{
    uint64_t random = (uintptr_t)argument;

    while (!atomic_load(&over)) {
        size_t size = 64 * KIB + random_below(&random, 400 * KIB);
        char *p = malloc(size);
        CHECK(p);
        p[0] = p[size - 1] = 1;
        free(p);
    }
    return NULL;
}

static void *fork_often(void *argument)
{
    char *buffer[BUFFERS];
    unsigned long long seed = (uintptr_t)argument;

    allocate_all(buffer, seed);
    for (int i = 0; i < 20; i++) {
        fill_all(buffer, seed + (unsigned)i);
        pid_t child = fork();
        if (child == 0) {
            check_all(buffer, seed + (unsigned)i);
            fill_all(buffer, 1);
            free_all(buffer);
            free(malloc(MIB));
            _exit(0);
        }
        child_passes(child);
    }
    check_all(buffer, seed + 19);
    free_all(buffer);
    return NULL;
}

void fork_among_threads(void)
{
    pthread_t thread[4];

    for (uintptr_t i = 0; i < 4; i++)
        CHECK(pthread_create(&thread[i], NULL, i < 2 ? churn : fork_often, (void *)(i * 1000)) == 0);
    CHECK(pthread_join(thread[2], NULL) == 0 && pthread_join(thread[3], NULL) == 0);
    atomic_store(&over, true);
    CHECK(pthread_join(thread[0], NULL) == 0 && pthread_join(thread[1], NULL) == 0);
}

/* ---- handlers of fork ---- */

/* What a handler stores before the fork, registered before any other but the preload's. */
static struct {
    char *buffer;
    int prepared, seen;
} handled;

static void before_fork(void)
{
    if (handled.buffer)
        memset(handled.buffer, ++handled.prepared, MIB);
}

static void in_child(void)
{
    handled.seen = handled.buffer ? handled.buffer[MIB - 1] : 0;
}

void register_handlers(void)
{
    CHECK(pthread_atfork(before_fork, NULL, in_child) == 0);
}

/* A program's handlers bring its memory into order, or take the locks that keep it so: the child gets what there is
 * after that, and its own handlers find it. */
void fork_after_handlers(void)
{
    handled.buffer = calloc(1, MIB);
    CHECK(pooled(handled.buffer));
    for (int i = 1; i <= 3; i++) {
        memset(handled.buffer, 'a', MIB);
        pid_t child = fork();
        if (child == 0) {
            CHECKF(handled.seen == i, "the handler in the child saw %d, not %d", handled.seen, i);
            CHECK_BYTES(handled.buffer, MIB, i);
            _exit(0);
        }
        child_passes(child);
    }
    free(handled.buffer);
}

/* Without a copy the child says so; a touch would end it. */
void fork_without_memory(void)
{
    char *buffer = malloc(MIB), said[512] = "";
    const struct rlimit none = {MIB, MIB};
    int fds[2], status;

    memset(buffer, 'a', MIB);
    CHECK(pooled(buffer) && pipe(fds) == 0 && dup2(fds[1], STDERR_FILENO) >= 0);
    CHECK(setrlimit(RLIMIT_AS, &none) == 0);
    pid_t child = fork();
    if (child == 0) {
        *(volatile char *)buffer = 'b';
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK(read(fds[0], said, sizeof said - 1) > 0 && strstr(said, "no memory for a forked child's copy"));
    CHECK_BYTES(buffer, MIB, 'a');
    free(buffer);
}
