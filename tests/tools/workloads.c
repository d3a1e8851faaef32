/* SPDX-License-Identifier: MIT
 *
 * usage: workloads multigrid|server|pencils|aligned|wait|view|become|decoy|refused
 *
 * Three programs whose buffers the default pools serve with more memory than they need. Prints the bytes of memory
 * that the process ended up with, and the seconds that it took.
 *
 * `wait` has sends in flight, says "ready", and waits for the end of its standard input. `become` says so and becomes
 * `wait` at the first byte; `decoy` has an empty file of the name of the page that zc top looks at. `refused` becomes
 * what the variable ZC names, with `info --quick`, where userfaultfd is refused as in a container. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "apart.h"
#include "check.h"
#include "core/clock.h"
#include "core/live.h"
#include "loop.h"

static void *filled(size_t size)
{
    return memset(ALLOC(size), 1, size);
}

/* Cycles through levels of ever coarser grids: each has buffers for its edges, which it gives back before the next
 * level makes its own. */
static void multigrid(void)
{
    enum { CYCLES = 20, BUFFERS = 32 };
    char *edges[BUFFERS];
    for (int cycle = 0; cycle < CYCLES; cycle++) {
        for (size_t edge = (size_t)1 << 20; edge >= 64 << 10; edge = edge * 3 / 4) {
            for (int i = 0; i < BUFFERS; i++)
                edges[i] = filled(edge);
            for (int i = 0; i < BUFFERS; i++)
                CHECK_OK(zc_free(edges[i]));
        }
    }
}

/* Answers bursts of requests of one kind after the other; a message is a power of two of bytes and a header. */
static void server(void)
{
    enum { ROUNDS = 60, BURST = 32, HEADER = 64 };
    static const size_t kinds[] = {64 << 10, 256 << 10, 1 << 20};
    zc_comm *comm;
    CHECK_OK(zc_open("loop", NULL, &comm));
    for (int round = 0; round < ROUNDS; round++) {
        size_t length = kinds[round % 3] + HEADER;
        for (int i = 0; i < BURST; i++)
            CHECK_OK(zc_send_free(filled(length), length, 0, 0, comm));
        for (int i = 0; i < BURST; i++) {
            void *message;
            CHECK_OK(zc_recv_alloc(&message, 0, 0, comm, NULL));
            CHECK_OK(zc_free(message));
        }
    }
    CHECK_OK(zc_close(comm));
}

/* Turns an array of unequal sides round and round, as a Fourier transform in three dimensions would: each time it needs
 * buffers for as many peers, of another size. */
static void pencils(void)
{
    enum { STEPS = 60, PEERS = 24 };
    static const size_t sides[] = {(size_t)900 << 10, (size_t)1000 << 10, (size_t)1100 << 10};
    char *peers[PEERS];
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < PEERS; i++)
            peers[i] = filled(sides[step % 3]);
        for (int i = 0; i < PEERS; i++)
            CHECK_OK(zc_free(peers[i]));
    }
}

/* Slots of its sizes would not be so aligned. */
static void aligned(void)
{
    enum { BUFFERS = 24 };
    char *peers[BUFFERS];
    for (int i = 0; i < BUFFERS; i++) {
        peers[i] = zc_aligned_alloc((size_t)64 << 10, (size_t)1100 << 10);
        CHECK(peers[i]);
    }
    CHECK_OK(zc_free(filled(5000)));
    for (int i = 0; i < BUFFERS; i++)
        CHECK_OK(zc_free(peers[i]));
}

static void await_input(void)
{
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF)
        ;
}

static void send_and_wait(void)
{
    static char in[100000];
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    for (int i = 0; i < 3; i++)
        CHECK_OK(zc_send_free(filled(100000), 100000, 0, 7, comm));
    CHECK_OK(zc_send_free(filled(1000000), 1000000, 0, 8, comm));
    CHECK_OK(zc_send(in, 50000, 0, 5, comm)); /* by copy */
    CHECK_OK(zc_send(filled(100000), 100000, 0, 6, comm));
    CHECK_OK(zc_recv(in, sizeof in, 0, 6, comm, NULL));
    await_input();
}

/* Looks at what it has sent itself. */
static void view(void)
{
    zc_comm *comm;
    zc_view views[3];
    char *out = filled(500000);
    CHECK_OK(zc_open("shm:view", NULL, &comm));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(zc_send(out, 500000, 0, 9, comm));
        CHECK_OK(zc_recv_view(&views[i], 0, 9, comm));
    }
    CHECK_OK(zc_release(&views[1]));
    CHECK_OK(zc_progress(comm)); /* the sender learns of it */
    await_input();
    CHECK_OK(zc_close(comm));
}

static void become(void)
{
    char byte;
    CHECK_OK(zc_free(ALLOC(100)));
    puts("ready");
    fflush(stdout);
    CHECK(read(STDIN_FILENO, &byte, 1) == 1);
    execl("/proc/self/exe", "workloads", "wait", NULL);
}

static void decoy(void)
{
    CHECK(memfd_create(LIVE_NAME, 0) >= 0);
    await_input();
}

static void refused(void)
{
    deny_system_call(SYS_ioctl, 1, 0xAA00, EACCES); /* USERFAULTFD_IOC_NEW */
    deny_system_call(SYS_userfaultfd, -1, 0, EPERM);
    const char *zc = getenv("ZC");
    CHECK(zc);
    execl(zc, "zc", "info", "--quick", NULL);
}

/* A page counts once, however often it is mapped. */
static unsigned long long resident_bytes(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    unsigned long long kib = 0;
    CHECK(file);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, "Pss:", 4) == 0)
            kib = strtoull(line + 4, NULL, 10);
    fclose(file);
    CHECK(kib);
    return kib << 10;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } workloads[] = {{"multigrid", multigrid}, {"server", server},      {"pencils", pencils},
                     {"aligned", aligned},     {"wait", send_and_wait}, {"view", view},
                     {"become", become},       {"decoy", decoy},        {"refused", refused}};
    for (size_t i = 0; argc == 2 && i < sizeof workloads / sizeof workloads[0]; i++) {
        if (strcmp(workloads[i].name, argv[1]) == 0) {
            uint64_t start = clock_ns();
            workloads[i].run();
            double seconds = (double)(clock_ns() - start) / 1e9;
            printf("%llu %.6f\n", resident_bytes(), seconds);
            return 0;
        }
    }
    fputs("usage: workloads multigrid|server|pencils|aligned|wait|view|become|decoy|refused\n", stderr);
    return 2;
}
