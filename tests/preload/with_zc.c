/* SPDX-License-Identifier: MIT
 *
 * preload_with_zc NAME: a program that uses libzc.so, run with libzc-malloc.so in LD_PRELOAD. */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "pattern.h"

enum { MIB = 1 << 20 };

static zc_comm *open_self(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm;

    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("loop", &options, &comm));
    return comm;
}

static void one_arena(void)
{
    char *large = malloc(MIB), *small = malloc(100);

    CHECK(large && small);
    memset(large, 0, MIB);
    memset(small, 0, 100);
    CHECK(zc_owns(large) && !zc_owns(small));
    CHECK(zc_usable_size(large) >= MIB);
    free(large);
    free(small);
    free(zc_alloc(MIB)); /* and the other way */
    CHECK(stats_now().allocs == 2 && stats_now().frees == 2);
}

/* Memory of malloc is sent without a copy, and stored to early. */
static void send_from_malloc(void)
{
    zc_comm *comm = open_self();
    char *out = malloc(MIB), *in = malloc(MIB);

    pattern_fill(out, MIB, 1);
    CHECK_OK(zc_irecv(in, MIB, 0, 1, comm));
    CHECK_OK(zc_send(out, MIB, 0, 1, comm));
    memset(out, 'x', MIB);
    CHECK_PATTERN(in, MIB, 1);
    CHECK(stats_now().sends_foreign == 0 && stats_now().sends_copied == 0);
    CHECK_OK(zc_wait(in, NULL));
    free(out);
    free(in);
    CHECK_OK(zc_close(comm));
}

/* What the mapping of an address allows, as the kernel shows it. */
static void permissions(const void *p, char shown[5])
{
    FILE *file = fopen("/proc/self/maps", "re");
    char line[512];

    CHECK(file);
    while (fgets(line, sizeof line, file)) {
        char *end;
        uintptr_t first = strtoul(line, &end, 16), last = strtoul(end + 1, &end, 16);

        if (first <= (uintptr_t)p && (uintptr_t)p < last)
            snprintf(shown, 5, "%.4s", end + 1);
    }
    fclose(file);
}

/* Memory that was there before zc was opened is protected as ZC_PROTECT=userfaultfd says: by no change of its
 * mapping. */
static void protect_as_asked(void)
{
    char *early = malloc(MIB), shown[5] = "";
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool;

    options.slot_size = 4096;
    options.protect = ZC_PROTECT_USERFAULTFD;
    if (zc_pool_open(&options, &pool) == -ENOTSUP) {
        puts("there is no userfaultfd");
        free(early);
        return;
    }
    zc_comm *comm = open_self();
    char *in = malloc(MIB);
    pattern_fill(early, MIB, 1);
    CHECK_OK(zc_send(early, MIB, 0, 1, comm));
    CHECK(stats_now().sends_protected == 1);
    permissions(early, shown);
    CHECKF(strcmp(shown, "rw-s") == 0, "%s", shown);
    memset(early, 'x', MIB);
    CHECK(stats_now().conflicts == 1);
    CHECK_OK(zc_recv(in, MIB, 0, 1, comm, NULL));
    CHECK_PATTERN(in, MIB, 1);
    free(early);
    free(in);
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_pool_close(pool));
}

static int status_of(pid_t child)
{
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return status;
}

/* A message in flight and an idle protection: the child has the bytes, unprotected. */
static void fork_in_flight(void)
{
    zc_comm *comm = open_self();
    char *out = malloc(MIB), *in = malloc(MIB);

    pattern_fill(out, MIB, 1);
    CHECK_OK(zc_send(out, MIB, 0, 1, comm)); /* nobody receives it yet */
    pid_t child = fork();
    if (child == 0) {
        CHECK_PATTERN(out, MIB, 1);
        memset(out, 'c', MIB);
        CHECK_BYTES(out, MIB, 'c');
        CHECK(stats_now().faults == 0);
        free(out);
        _exit(0);
    }
    CHECK(status_of(child) == 0);
    memset(out, 'p', MIB);
    CHECK_OK(zc_recv(in, MIB, 0, 1, comm, NULL));
    CHECK_PATTERN(in, MIB, 1);
    CHECK_BYTES(out, MIB, 'p');
    free(out);
    free(in);
    CHECK_OK(zc_close(comm));
}

/* What is being received has no bytes yet that a child could have: a touch of it ends the child. */
static void fork_while_receiving(void)
{
    zc_comm *comm = open_self();
    char *out = malloc(MIB), *in = malloc(MIB);

    pattern_fill(out, MIB, 1);
    CHECK_OK(zc_irecv(in, MIB, 0, 1, comm));
    pid_t child = fork();
    if (child == 0) {
        CHECK_PATTERN(out, MIB, 1);
        free(malloc(MIB));
        free(in);
        _exit(0);
    }
    CHECK(status_of(child) == 0);
    child = fork();
    if (child == 0) {
        (void)*(volatile char *)in;
        _exit(0);
    }
    int status = status_of(child);
    CHECKF(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status %#x", (unsigned)status);
    CHECK_OK(zc_send(out, MIB, 0, 1, comm));
    CHECK_PATTERN(in, MIB, 1);
    free(out);
    free(in);
    CHECK_OK(zc_close(comm));
}

/* More is in flight than zc has noted by now, and it makes a larger note of it, while other pools have much that they
 * are to give back. */
static void many_in_flight(void)
{
    enum { LARGE = 4 * MIB, LARGES = 32, LENGTH = 8200, MESSAGES = 4200 };
    char directory[] = "/tmp/zc-preload-test-XXXXXX", path[64], bytes[LENGTH] = "", *large[LARGES];
    zc_comm *comm;

    alarm(60);
    CHECK(mkdtemp(directory) && setenv("XDG_RUNTIME_DIR", directory, 1) == 0);
    CHECK_OK(zc_open("shm:self", NULL, &comm));
    for (int i = 0; i < LARGES; i++)
        CHECK((large[i] = malloc(LARGE)));
    for (int i = 0; i < LARGES; i++)
        free(large[i]);
    for (int i = 0; i < MESSAGES; i++)
        CHECK_OK(zc_send(bytes, LENGTH, 0, 1, comm));
    for (int i = 0; i < MESSAGES; i++)
        CHECK_OK(zc_recv(bytes, LENGTH, 0, 1, comm, NULL));
    CHECK_OK(zc_close(comm));
    snprintf(path, sizeof path, "%s/zc", directory);
    CHECK(rmdir(path) == 0 && rmdir(directory) == 0);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {{"one_arena", one_arena},
             {"send_from_malloc", send_from_malloc},
             {"protect_as_asked", protect_as_asked},
             {"fork_in_flight", fork_in_flight},
             {"fork_while_receiving", fork_while_receiving},
             {"many_in_flight", many_in_flight}};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof cases / sizeof cases[0]; i++)
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].run();
            return 0;
        }
    fprintf(stderr, "usage: preload_with_zc NAME\n");
    return 2;
}
