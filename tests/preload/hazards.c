/* SPDX-License-Identifier: MIT
 *
 * preload_hazards NAME: an ordinary program, run with libzc-malloc.so in LD_PRELOAD. */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "preload.h"
#include "system.h"

bool pooled(const void *ptr)
{
    FILE *file = fopen("/proc/self/maps", "re");
    char line[512];
    bool found = false;

    CHECK(file);
    while (fgets(line, sizeof line, file)) {
        char *end;
        uintptr_t first = strtoul(line, &end, 16), last = strtoul(end + 1, NULL, 16);

        if (first <= (uintptr_t)ptr && (uintptr_t)ptr < last)
            found = strstr(line, "/memfd:zc ") != NULL;
    }
    fclose(file);
    return found;
}

void child_passes(pid_t child)
{
    int status;

    CHECK(child > 0);
    while (waitpid(child, &status, 0) < 0)
        CHECK(errno == EINTR);
    CHECKF(status == 0, "the child ended with status %#x", (unsigned)status);
}

/* Compilers know these functions too well. */
static void *(*volatile allocate)(size_t) = malloc;
static void *(*volatile allocate_zeroed)(size_t, size_t) = calloc;
static void *(*volatile reallocate)(void *, size_t) = realloc;
static void *(*volatile reallocate_array)(void *, size_t, size_t) = reallocarray;

/* realloc keeps what both sizes have, across the threshold in both directions. */
static void family(void)
{
    static const size_t sizes[] = {1,       100, 65535,    65536, 65537,   100, 300 * KIB, 301 * KIB,
                                   3 * MIB, MIB, 70 * KIB, 1000,  5 * MIB, 16,  200 * KIB, 150 * KIB};
    char *p = NULL;
    size_t before = 0;

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        p = reallocate(p, sizes[i]);
        CHECK(p);
        CHECK_PATTERN(p, before < sizes[i] ? before : sizes[i], i ? i - 1 : 0);
        CHECKF(malloc_usable_size(p) >= sizes[i], "%zu of %zu", malloc_usable_size(p), sizes[i]);
        pattern_fill(p, sizes[i], i);
        before = sizes[i];
    }
    free(p);
    char *large = allocate(64 * KIB), *small = allocate(64 * KIB - 1);
    CHECK(pooled(large) && !pooled(small));
    CHECK((uintptr_t)large % 4096 == 0);
    free(large);
    free(small);
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    p = reallocate_array(NULL, 1000, 1000);
    CHECK(p && pooled(p));
    free(p);
    p = reallocate(NULL, MIB);
    CHECK(p && pooled(p));
    CHECK(reallocate(p, 0) == NULL); /* and frees it, as in glibc, small or large */
    CHECK(reallocate(allocate(100), 0) == NULL);
}

static void alignment(void)
{
    for (size_t align = 8; align <= 4 * MIB; align *= 2)
        for (size_t size = 24; size <= 3 * MIB; size = size * 5 + 3) {
            void *p[3] = {NULL};
            CHECK(posix_memalign(&p[0], align, size) == 0);
            p[1] = memalign(align, size);
            p[2] = aligned_alloc(align, (size + align - 1) / align * align);
            for (int i = 0; i < 3; i++) {
                CHECKF(p[i] && (uintptr_t)p[i] % align == 0, "%d: %p, %zu bytes at %zu", i, p[i], size, align);
                CHECK(malloc_usable_size(p[i]) >= size);
                memset(p[i], i, size);
            }
            for (int i = 0; i < 3; i++)
                free(p[i]);
        }
    static const size_t odd[][2] = {{0, 1}, {3, 4}, {48, 64}, {3 * KIB, 4 * KIB}, {1500 * KIB, 2 * MIB}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        void *p = memalign(odd[i][0], MIB);
        CHECKF(p && (uintptr_t)p % odd[i][1] == 0, "%p at %zu", p, odd[i][0]);
        free(p);
    }
    char *v = valloc(100 * KIB), *pv = pvalloc(100 * KIB + 1);
    CHECK((uintptr_t)v % 4096 == 0 && (uintptr_t)pv % 4096 == 0 && malloc_usable_size(pv) >= 104 * KIB);
    free(v);
    free(pv);
}

#define CHECK_NO_MEMORY(call) (errno = 0, CHECK((call) == NULL && errno == ENOMEM))

static void errors(void)
{
    char *p = allocate(MIB);
    void *untouched = p;

    pattern_fill(p, MIB, 1);
    CHECK_NO_MEMORY(allocate(PTRDIFF_MAX));
    CHECK_NO_MEMORY(allocate(SIZE_MAX));
    CHECK_NO_MEMORY(allocate_zeroed(SIZE_MAX / 2, 4));
    CHECK_NO_MEMORY(reallocate_array(p, SIZE_MAX / 2, 4));
    CHECK_NO_MEMORY(reallocate(p, PTRDIFF_MAX));
    CHECK_NO_MEMORY(pvalloc(SIZE_MAX));
    CHECK(posix_memalign(&untouched, 24, MIB) == EINVAL && posix_memalign(&untouched, 2, MIB) == EINVAL);
    CHECK(posix_memalign(&untouched, 64, PTRDIFF_MAX) == ENOMEM);
    CHECK(untouched == p);
    CHECK_PATTERN(p, MIB, 1);
    free(p);
}

static void errno_kept(void)
{
    for (size_t size = 100; size < 20 * MIB; size *= 10) {
        errno = 12345;
        void *p = allocate_zeroed(1, size);
        CHECK(p && errno == 12345);
        p = reallocate(p, 2 * size);
        CHECK(p && errno == 12345);
        free(p);
        CHECK(errno == 12345);
    }
}

static void recycled_calloc(void)
{
    for (int i = 0; i < 20; i++) {
        char *p = allocate_zeroed(3, 100 * KIB);
        CHECK(pooled(p));
        CHECK_BYTES(p, 300 * KIB, 0);
        memset(p, 0xff, malloc_usable_size(p));
        free(p);
    }
}

static void huge_realloc(void)
{
    size_t size = MIB;
    char *p = allocate(size);

    pattern_fill(p, size, 7);
    for (; size < 192 * (size_t)MIB; size = size * 3 / 2) {
        p = reallocate(p, size * 3 / 2);
        CHECK(p);
        p[size * 3 / 2 - 1] = 1;
    }
    CHECK_PATTERN(p, MIB, 7);
    p = reallocate(p, MIB);
    CHECK_PATTERN(p, MIB, 7);
    free(p);
}

/* ---- threads ---- */

enum { THREADS = 4, PLACES = 64, ROUNDS = 4000 };

static char *_Atomic places[PLACES]; /* each buffer starts with its length and the seed of the rest */

static void check_and_free(char *buffer)
{
    size_t head[2];

    if (!buffer)
        return;
    memcpy(head, buffer, sizeof head);
    CHECK_PATTERN(buffer + sizeof head, head[0] < 300 ? head[0] : 300, head[1]);
    free(buffer);
}

/* Each buffer is freed by whoever takes its place. */
static void *exchange(void *argument)
{
    uint64_t random = (uintptr_t)argument;

    for (int i = 0; i < ROUNDS; i++) {
        size_t head[2] = {16 + random_below(&random, i % 8 ? 2000 : 300 * KIB), random_next(&random) % 1000};
        char *buffer = allocate(head[0] + sizeof head);
        CHECK(buffer);
        memcpy(buffer, head, sizeof head);
        pattern_fill(buffer + sizeof head, head[0] < 300 ? head[0] : 300, head[1]);
        check_and_free(atomic_exchange(&places[random_below(&random, PLACES)], buffer));
    }
    return NULL;
}

static void run_threads(int rounds)
{
    pthread_t thread[THREADS];

    for (int round = 0; round < rounds; round++) {
        for (uintptr_t i = 0; i < THREADS; i++)
            CHECK(pthread_create(&thread[i], NULL, exchange, (void *)(round * 100 + i)) == 0);
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_join(thread[i], NULL) == 0);
    }
    for (int i = 0; i < PLACES; i++)
        check_and_free(atomic_exchange(&places[i], NULL));
}

static void threads(void)
{
    run_threads(1);
}

/* What threads leave behind is used by others after they are gone. */
static void thread_exit(void)
{
    run_threads(8);
}

/* ---- start ---- */

static char *earliest, *early;

static void before_all(void)
{
    register_handlers();
    earliest = allocate(200 * KIB);
    pattern_fill(earliest, 200 * KIB, 1);
}

/* Before the constructors of any library, the C library's included. */
__attribute__((section(".preinit_array"), used)) static void (*const preinit)(void) = before_all;

__attribute__((constructor(101))) static void constructor(void)
{
    early = allocate(300 * KIB);
    pattern_fill(early, 300 * KIB, 2);
}

static void before_constructors(void)
{
    CHECK_PATTERN(earliest, 200 * KIB, 1);
    CHECK_PATTERN(early, 300 * KIB, 2);
    CHECK(pooled(early));
    free(earliest);
    free(early);
}

static void no_handler(void)
{
    struct sigaction now;

    free(allocate(MIB));
    CHECK(sigaction(SIGSEGV, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
}

/* ---- options and limits ---- */

static void threshold(void)
{
    char *p = allocate(4096), *q = allocate(4095);

    CHECK(pooled(p) && !pooled(q));
    free(p);
    free(q);
    run_threads(1);
}

static void most(void)
{
    char *p = allocate(64 * MIB), *q = allocate(64 * MIB + 1);

    CHECK(pooled(p) && !pooled(q));
    free(p);
    free(q);
}

/* A script or a server counts on the numbers of its descriptors, and closes those that it does not know. */
static void hidden_descriptors(void)
{
    int before = dup(0);
    char *p = allocate(MIB);
    int after = dup(0);

    CHECK(pooled(p) && after == before + 1);
    free(p);
}

static unsigned long long resident_pools(void)
{
    return system_number("/proc/self/status", "RssShmem:") * KIB;
}

/* Sizes that a program has left behind do not keep their memory for ever. */
static void idle_memory(void)
{
    size_t sum = 0;

    for (size_t size = MIB; size < 64 * MIB; size += size / 4) {
        char *p = allocate(size);
        CHECK(pooled(p));
        memset(p, 1, size);
        free(p);
        sum += size;
        CHECKF(resident_pools() < size + size / 4 + 100 * MIB, "%llu resident after %zu", resident_pools(), size);
    }
    CHECK(sum > 200 * (size_t)MIB);
    char *small = allocate(MIB), *other = allocate(MIB); /* what was given back is there again */
    CHECK(pooled(small) && pooled(other));
    free(small);
    free(other);
}

/* A pool at its cap leaves the rest to mimalloc. */
static void capped(void)
{
    char *p[4];

    for (int i = 0; i < 4; i++) {
        p[i] = allocate(MIB);
        pattern_fill(p[i], MIB, (uint64_t)i);
    }
    CHECK(pooled(p[0]) && pooled(p[1]) && !pooled(p[2]) && !pooled(p[3]));
    for (int i = 0; i < 4; i++) {
        CHECK_PATTERN(p[i], MIB, (unsigned long long)i);
        free(p[i]);
    }
}

static void address_space_of_child(void)
{
    char *p = allocate(MIB);
    CHECK(p && !pooled(p));
    CHECK_NO_MEMORY(allocate(4096UL * MIB));
    free(p);
}

/* Under RLIMIT_AS nothing is reserved that the program may need. */
static void address_space(void)
{
    static const char command[] = "ulimit -v 1048576; exec /proc/$PPID/exe address_space_of_child";
    struct outcome outcome;

    child_run(&outcome, (const char *const[]){"/bin/sh", "-c", command, NULL}, NULL);
    expect_exit(&outcome, 0);
}

static void file_size_of_child(void)
{
    char *p = allocate(MIB);
    CHECK(p && !pooled(p));
    memset(p, 1, MIB);
    free(p);
}

/* Nor are there pools where no file may be as large as their memory. */
static void file_size(void)
{
    static const char command[] = "ulimit -f 900; exec /proc/$PPID/exe file_size_of_child";
    struct outcome outcome;

    child_run(&outcome, (const char *const[]){"/bin/sh", "-c", command, NULL}, NULL);
    expect_exit(&outcome, 0);
}

static void bad_variable(void)
{
    struct outcome outcome;
    const char *const echo[] = {"/bin/sh", "-c", "echo works", NULL};

    child_run(&outcome, echo, (const char *const[]){"ZC_MALLOC_THRESHOLD=many", NULL});
    expect_exit(&outcome, 0);
    expect_output(&outcome, "ZC_MALLOC_THRESHOLD=many: expected a whole number");
    expect_output(&outcome, "works");
    child_run(&outcome, (const char *const[]){"/proc/self/exe", "bad_pools", NULL},
              (const char *const[]){"ZC_POOLS=64K:1:what", NULL});
    expect_exit(&outcome, 0);
    expect_output(&outcome, "at character 7 ('w')");
}

static void bad_pools(void)
{
    char *p = allocate(MIB);
    CHECK(p && !pooled(p));
    free(p);
}

static void overrunning(void)
{
    enum { SIZE = 100000 };
    char *volatile p = allocate(SIZE);

    CHECK(pooled(p) && malloc_usable_size(p) == SIZE);
    p[SIZE] = 1;
    free(p);
}

/* With ZC_DEBUG, a buffer ends where the program asked, and free says who wrote past that. */
static void overrun(void)
{
    struct outcome outcome;

    child_run(&outcome, (const char *const[]){"/proc/self/exe", "overrunning", NULL}, NULL);
    expect_signal(&outcome, SIGABRT);
    expect_output(&outcome, "byte 100000 was written of a buffer of 100000 bytes");
}

static const struct {
    const char *name;
    void (*run)(void);
} hazards[] = {{"family", family},
               {"alignment", alignment},
               {"errors", errors},
               {"errno_kept", errno_kept},
               {"recycled_calloc", recycled_calloc},
               {"huge_realloc", huge_realloc},
               {"threads", threads},
               {"thread_exit", thread_exit},
               {"before_constructors", before_constructors},
               {"no_handler", no_handler},
               {"threshold", threshold},
               {"most", most},
               {"hidden_descriptors", hidden_descriptors},
               {"idle_memory", idle_memory},
               {"capped", capped},
               {"address_space", address_space},
               {"address_space_of_child", address_space_of_child},
               {"file_size", file_size},
               {"file_size_of_child", file_size_of_child},
               {"bad_variable", bad_variable},
               {"bad_pools", bad_pools},
               {"overrun", overrun},
               {"overrunning", overrunning},
               {"fork_both_store", fork_both_store},
               {"fork_child_frees", fork_child_frees},
               {"fork_child_gives_back", fork_child_gives_back},
               {"fork_grandchild", fork_grandchild},
               {"fork_exec", fork_exec},
               {"fork_among_threads", fork_among_threads},
               {"fork_after_handlers", fork_after_handlers},
               {"fork_without_memory", fork_without_memory}};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof hazards / sizeof hazards[0]; i++)
        if (strcmp(hazards[i].name, argv[1]) == 0) {
            hazards[i].run();
            return 0;
        }
    fprintf(stderr, "usage: preload_hazards NAME\n");
    return 2;
}
