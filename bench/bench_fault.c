/* SPDX-License-Identifier: MIT
 *
 * Suite fault. Cases:
 *
 *   idle-fault      the first store to a buffer that was re-sent and left protected, until it is done; ns. Variants zc;
 *                   bare (baseline): shared memory of the same size and kind of pages, one buffer of several in a
 *                   mapping, mprotect(PROT_READ), and a handler of SIGSEGV that does nothing but
 *                   mprotect(PROT_READ | PROT_WRITE); bare-alone: the same with a mapping for each buffer, which the
 *                   kernel need neither split nor merge, and of which a process can have 65,530
 *   fault-beside    an idle-fault on 4 KiB while messages of 4 KiB of other buffers are in flight, the first 8,000
 *                   protected and the others copied: the look-up; ns. Variants: 100000, and 10 (baseline)
 *   start-up        two processes that send one message of 64 KiB, from mpiexec to its exit; ms. Variants: zc (first
 *                   zc_alloc and zc_send) and mpi (baseline)
 *   start-up-extra  how much longer zc takes; ms, and as a ratio to 50 ms
 *
 *   --quick   fewer rounds */
#include <errno.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/lib/bench.h"
#include "zc_mpi.h"

enum { MAX_ROUNDS = 512, HUGE_PAGE = 2 << 20, SENDS = 2, BUFFERS = 3 };

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* since Linux 6.1 */
#endif

/* ---- idle-fault: bare ---- */

struct bare {
    char *memory, *wire; /* the same pages twice, as zc has them */
    size_t size;
    size_t before, mapped; /* bytes mapped in front of the buffer, and in all */
};

static const struct bare *faulting;

static void bare_handler(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    (void)context;
    if (mprotect(faulting->memory, faulting->size, PROT_READ | PROT_WRITE))
        abort();
}

static char *bare_map(int fd, const struct bare *bare)
{
    bool huge = bare->size >= HUGE_PAGE;
    size_t align = huge ? HUGE_PAGE : 4096;
    char *room = mmap(NULL, bare->mapped + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (room == MAP_FAILED)
        bench_die("fault: no memory: %s", strerror(errno));
    room += (align - (size_t)room % align) % align;
    char *memory = mmap(room, bare->mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (memory == MAP_FAILED)
        bench_die("fault: mmap: %s", strerror(errno));
    memset(memory, 1, bare->mapped);
    if (huge)
        madvise(memory, bare->mapped, MADV_COLLAPSE);
    return memory + bare->before;
}

/* The middle one of so many buffers in a mapping. */
static struct bare bare_open(size_t size, size_t buffers)
{
    struct bare bare = {.size = size, .before = buffers / 2 * size, .mapped = buffers * size};
    int fd = memfd_create("bench", 0);

    if (fd < 0 || ftruncate(fd, (off_t)bare.mapped))
        bench_die("fault: no memory: %s", strerror(errno));
    bare.wire = bare_map(fd, &bare);
    bare.memory = bare_map(fd, &bare);
    close(fd);
    return bare;
}

static void bare_close(const struct bare *bare)
{
    munmap(bare->memory - bare->before, bare->mapped);
    munmap(bare->wire - bare->before, bare->mapped);
}

/* ns. As much is copied before as when zc sends, so that caches are as cold. Its own handler is there only meanwhile:
 * zc's would pass the fault on, and that is not what is measured. */
static double bare_fault(const struct bare *bare, char *received)
{
    struct sigaction action = {.sa_sigaction = bare_handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct sigaction before;

    faulting = bare;
    sigaction(SIGSEGV, &action, &before);
    if (mprotect(bare->memory, bare->size, PROT_READ))
        bench_die("fault: mprotect: %s", strerror(errno));
    for (int i = 0; i < SENDS; i++)
        memcpy(received, bare->wire, bare->size);
    double start = bench_now();
    *(volatile char *)bare->memory = 2;
    double took = bench_now() - start;
    sigaction(SIGSEGV, &before, NULL);
    return 1e9 * took;
}

/* ---- idle-fault: zc ---- */

/* ns. The options of `comm` make sure that the buffer is protected and stays so. */
static double zc_fault(char *buf, char *received, size_t size, zc_comm *comm)
{
    for (int i = 0; i < SENDS; i++) {
        bench_must(zc_send(buf, size, 0, 1, comm), "zc_send");
        bench_must(zc_recv(received, size, 0, 1, comm, NULL), "zc_recv");
        bench_must(zc_flush(comm), "zc_flush");
    }
    double start = bench_now();
    *(volatile char *)buf = 2;
    return 1e9 * (bench_now() - start);
}

static uint64_t idle_faults(void)
{
    zc_stats stats = {.size = sizeof stats};

    zc_stats_get(&stats);
    return stats.faults_idle;
}

static void idle_fault(size_t size, int rounds, zc_comm *comm)
{
    double zc[MAX_ROUNDS], base[MAX_ROUNDS], again[MAX_ROUNDS], lone[MAX_ROUNDS];
    char *buf = zc_alloc(size);
    char *received = zc_alloc(size);

    if (!buf || !received)
        bench_die("zc_alloc: %s", zc_errmsg());
    memset(buf, 1, size);
    struct bare bare = bare_open(size, BUFFERS);
    struct bare alone = bare_open(size, 1);
    uint64_t before = idle_faults();
    for (int round = -2; round < rounds; round++) { /* two to warm up */
        int place = round < 0 ? 0 : round;
        base[place] = bare_fault(&bare, received);
        zc[place] = zc_fault(buf, received, size, comm);
        again[place] = bare_fault(&bare, received);
        lone[place] = bare_fault(&alone, received);
    }
    if (idle_faults() - before != (uint64_t)rounds + 2)
        bench_die("fault: %d stores to %zu idle bytes made %llu faults", rounds + 2, size,
                  (unsigned long long)(idle_faults() - before));
    const struct {
        const char *variant;
        double *times;
        double ratio;
    } rows[] = {{"zc", zc, bench_median_ratio(zc, base, (size_t)rounds)},
                {"bare", base, bench_median_ratio(again, base, (size_t)rounds)}, /* the noise */
                {"bare-alone", lone, bench_median_ratio(lone, base, (size_t)rounds)}};
    for (size_t i = 0; i < LENGTH(rows); i++)
        bench_row(&(struct row){"fault", "idle-fault", rows[i].variant, size, 1,
                                bench_median(rows[i].times, (size_t)rounds), "ns", "bare", rows[i].ratio});
    bare_close(&bare);
    bare_close(&alone);
    zc_free(buf);
    zc_free(received);
}

/* ---- fault-beside ---- */

enum { FEW = 10, MANY = 100000, PROTECTED = 8000, SMALL = 4096, TURNS = 5, FAULTS = 101 };

/* The first n are in flight until `crowd_received`. */
static void crowd_sent(char **crowd, size_t n, zc_comm *protecting, zc_comm *copying)
{
    for (size_t i = 0; i < n; i++)
        bench_must(zc_send(crowd[i], SMALL, 0, 2, i < PROTECTED ? protecting : copying), "zc_send");
}

static void crowd_received(char *received, size_t n, zc_comm *protecting, zc_comm *copying)
{
    for (size_t i = 0; i < n; i++)
        bench_must(zc_recv(received, SMALL, 0, 2, i < PROTECTED ? protecting : copying, NULL), "zc_recv");
}

static void fault_beside(zc_comm *comm)
{
    static char *crowd[MANY];
    static double few[TURNS * FAULTS], many[TURNS * FAULTS];
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *protecting, *copying;
    char *buf = zc_alloc(SMALL), *received = zc_alloc(SMALL);

    options.policy = ZC_POLICY_PROTECT;
    bench_must(zc_open("loop", &options, &protecting), "zc_open");
    options.policy = ZC_POLICY_COPY;
    bench_must(zc_open("loop", &options, &copying), "zc_open");
    for (size_t i = 0; i < MANY; i++) {
        crowd[i] = zc_alloc(SMALL);
        if (!crowd[i] || !buf || !received)
            bench_die("zc_alloc: %s", zc_errmsg());
        memset(crowd[i], 1, SMALL);
    }
    uint64_t before = idle_faults();
    for (int turn = 0; turn < 2 * TURNS; turn++) {
        size_t n = turn % 2 ? MANY : FEW;
        double *to = (turn % 2 ? many : few) + (size_t)(turn / 2) * FAULTS;
        crowd_sent(crowd, n, protecting, copying);
        for (int i = 0; i < FAULTS; i++)
            to[i] = zc_fault(buf, received, SMALL, comm);
        crowd_received(received, n, protecting, copying);
    }
    if (idle_faults() - before < 2 * TURNS * FAULTS)
        bench_die("fault: %d stores made %llu faults", 2 * TURNS * FAULTS,
                  (unsigned long long)(idle_faults() - before));
    double ratio = bench_median_ratio(many, few, TURNS * FAULTS);
    bench_row(&(struct row){"fault", "fault-beside", "100000", SMALL, 1, bench_median(many, TURNS * FAULTS), "ns", "10",
                            ratio});
    bench_row(&(struct row){"fault", "fault-beside", "10", SMALL, 1, bench_median(few, TURNS * FAULTS), "ns", "10", 1});
    for (size_t i = 0; i < MANY; i++)
        zc_free(crowd[i]);
    zc_free(buf);
    zc_free(received);
    bench_must(zc_close(protecting), "zc_close");
    bench_must(zc_close(copying), "zc_close");
}

/* ---- start-up ---- */

enum { MESSAGE = 64 << 10 };

static int child_mpi(void)
{
    int rank, level;
    char *buf = malloc(MESSAGE);

    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    memset(buf, 1, MESSAGE);
    if (rank == 0)
        MPI_Send(buf, MESSAGE, MPI_BYTE, 1, 1, MPI_COMM_WORLD);
    else
        MPI_Recv(buf, MESSAGE, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Finalize();
    free(buf);
    return 0;
}

static int child_zc(void)
{
    int level;
    zc_comm *comm;

    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
    bench_must(zc_open_mpi(MPI_COMM_WORLD, NULL, &comm), "zc_open_mpi");
    char *buf = zc_alloc(MESSAGE);
    if (!buf)
        bench_die("zc_alloc: %s", zc_errmsg());
    memset(buf, 1, MESSAGE);
    if (zc_rank(comm) == 0)
        bench_must(zc_send(buf, MESSAGE, 1, 1, comm), "zc_send");
    else
        bench_must(zc_recv(buf, MESSAGE, 0, 1, comm, NULL), "zc_recv");
    bench_must(zc_close(comm), "zc_close");
    MPI_Finalize();
    return 0;
}

/* ms */
static double launch(const char *program, const char *child)
{
    double start = bench_now();
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        execlp("mpiexec", "mpiexec", "-n", "2", program, child, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
        bench_die("fault: mpiexec -n 2 %s %s failed", program, child);
    return 1e3 * (bench_now() - start);
}

static void start_up(const char *program, int rounds)
{
    double zc[MAX_ROUNDS], mpi[MAX_ROUNDS], extra[MAX_ROUNDS];
    const double bound = 50;

    launch(program, "--child-mpi");
    launch(program, "--child-zc");
    for (int i = 0; i < rounds; i++) {
        mpi[i] = launch(program, "--child-mpi");
        zc[i] = launch(program, "--child-zc");
        extra[i] = zc[i] - mpi[i];
    }
    double ratio = bench_median_ratio(zc, mpi, (size_t)rounds);
    double more = bench_median(extra, (size_t)rounds);
    bench_row(
        &(struct row){"fault", "start-up", "zc", MESSAGE, 1, bench_median(zc, (size_t)rounds), "ms", "mpi", ratio});
    bench_row(&(struct row){"fault", "start-up", "mpi", MESSAGE, 1, bench_median(mpi, (size_t)rounds), "ms", "mpi", 1});
    bench_row(&(struct row){"fault", "start-up-extra", "zc", MESSAGE, 1, more, "ms", "50ms", more / bound});
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {4 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20};
    bool quick = false;
    bool is_mpi = false;
    bool is_zc = false;
    const struct flag flags[] = {{"--quick", &quick}, {"--child-mpi", &is_mpi}, {"--child-zc", &is_zc}};
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm;

    bench_flags(argc, argv, flags, LENGTH(flags));
    if (is_mpi)
        return child_mpi();
    if (is_zc)
        return child_zc();
    bench_say("fault: start-up");
    start_up(argv[0], quick ? 7 : 25);
    options.policy = ZC_POLICY_PROTECT;
    options.release = ZC_RELEASE_LAZY;
    bench_must(zc_open("loop", &options, &comm), "zc_open");
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        bench_say("fault: idle-fault, %zu bytes", sizes[i]);
        idle_fault(sizes[i], quick ? 101 : 401, comm);
    }
    bench_say("fault: fault-beside");
    fault_beside(comm);
    bench_must(zc_close(comm), "zc_close");
    return 0;
}
