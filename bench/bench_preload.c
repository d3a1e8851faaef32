/* SPDX-License-Identifier: MIT
 *
 * What the malloc preload costs against plain mimalloc, LD_PRELOAD=libmimalloc.so.2: a build of this project, and what
 * is different by design, fork. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/lib/bench.h"

enum { MAX_ROUNDS = 25, FORKS = 9, SMALL_TIMES = 2000000 };

static char preload[PATH_MAX];
static const char mimalloc[] = "libmimalloc.so.2";

static const size_t forked[] = {0, 1 << 20, 16 << 20, 64 << 20, 256 << 20};
enum { RESULTS = LENGTH(forked) + 1 };

/* ---- run with a preload ---- */

/* Live memory in blocks of a MiB; microseconds from fork until the child has been waited for. */
static double fork_with(size_t live)
{
    static char *blocks[256];
    double times[FORKS];

    for (size_t i = 0; i < live >> 20; i++)
        if (!blocks[i] && (blocks[i] = malloc(1 << 20)))
            memset(blocks[i], 1, 1 << 20);
    for (int i = 0; i < FORKS; i++) {
        double start = bench_now();
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, NULL, 0) != pid)
            bench_die("preload: fork: %s", strerror(errno));
        times[i] = 1e6 * (bench_now() - start);
    }
    return bench_median(times, FORKS);
}

/* ns for malloc and free of small blocks, of which a few live. */
static double small(void)
{
    void *volatile blocks[64] = {NULL};
    double start = bench_now();

    for (unsigned i = 0; i < SMALL_TIMES; i++) {
        free(blocks[i % LENGTH(blocks)]);
        blocks[i % LENGTH(blocks)] = malloc(16 + i * 7 % 1000);
    }
    return 1e9 * (bench_now() - start) / SMALL_TIMES;
}

static int child(void)
{
    printf("%.6g\n", small());
    for (size_t i = 0; i < LENGTH(forked); i++)
        printf("%.6g\n", fork_with(forked[i]));
    return 0;
}

/* ---- the others ---- */

/* Runs a command with a preload, its output to `out`, and waits for it. Dies if it fails. */
static void run(const char *library, int out, struct rusage *usage, const char *const argv[])
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        setenv("LD_PRELOAD", library, 1);
        dup2(out, STDOUT_FILENO);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, usage) != pid || status != 0)
        bench_die("preload: %s %s with %s failed", argv[0], argv[1], library);
}

static void measure_child(const char *library, double results[RESULTS])
{
    int fds[2];
    struct rusage usage;

    if (pipe(fds))
        bench_die("preload: pipe: %s", strerror(errno));
    run(library, fds[1], &usage, (const char *const[]){"/proc/self/exe", "--child", NULL});
    close(fds[1]);
    FILE *file = fdopen(fds[0], "r");
    for (size_t i = 0; i < RESULTS; i++) {
        char line[64];
        if (!file || !fgets(line, sizeof line, file))
            bench_die("preload: the child said too little");
        results[i] = strtod(line, NULL);
    }
    fclose(file);
}

static double columns[3][RESULTS][MAX_ROUNDS]; /* zc, mimalloc, mimalloc again */

static void rows(const char *name, const char *unit, size_t size, int threads, size_t result, int rounds)
{
    double(*column[3])[MAX_ROUNDS];
    size_t n = (size_t)rounds;

    for (int v = 0; v < 3; v++)
        column[v] = &columns[v][result];
    double zc = bench_median_ratio(*column[0], *column[1], n), again = bench_median_ratio(*column[2], *column[1], n);
    bench_row(&(struct row){"preload", name, "zc", size, threads, bench_median(*column[0], n), unit, "mimalloc", zc});
    bench_row(&(struct row){"preload", name, "mimalloc", size, threads, bench_median(*column[1], n), unit, "mimalloc",
                            again});
}

static void calls_and_forks(int rounds)
{
    for (int round = 0; round < rounds; round++)
        for (int turn = 0; turn < 3; turn++) {
            int v = (turn + round) % 3;
            double results[RESULTS];
            measure_child(v == 0 ? preload : mimalloc, results);
            for (size_t i = 0; i < RESULTS; i++)
                columns[v][i][round] = results[i];
        }
    rows("small", "ns", 0, 1, 0, rounds);
    for (size_t i = 0; i < LENGTH(forked); i++)
        rows("fork", "us", forked[i], 1, i + 1, rounds);
}

/* Seconds, and the KiB of the largest process. */
static void builds(int rounds)
{
    char folder[] = "/tmp/bench_preload.XXXXXX";
    struct rusage usage;
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

    if (!mkdtemp(folder) || null < 0)
        bench_die("preload: %s: %s", folder, strerror(errno));
    run("", null, &usage,
        (const char *const[]){"cmake", "-S", ".", "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
                              "-DCMAKE_C_COMPILER_LAUNCHER=", "-DZC_BUILD_TESTS=OFF", "-DZC_BUILD_PROGRAMS=OFF", NULL});
    for (int round = -1; round < rounds; round++) /* the first warms up */
        for (int turn = 0; turn < 3; turn++) {
            int v = (turn + round + 3) % 3;
            bench_say("preload: build %d of %d", 3 * round + turn + 1, 3 * rounds);
            run("", null, &usage, (const char *const[]){"cmake", "--build", folder, "-t", "clean", NULL});
            double start = bench_now();
            run(v == 0 ? preload : mimalloc, null, &usage, (const char *const[]){"cmake", "--build", folder, NULL});
            if (round < 0)
                continue;
            columns[v][0][round] = bench_now() - start;
            columns[v][1][round] = (double)usage.ru_maxrss;
        }
    rows("build", "s", 0, (int)sysconf(_SC_NPROCESSORS_ONLN), 0, rounds);
    rows("build-peak", "KiB", 0, (int)sysconf(_SC_NPROCESSORS_ONLN), 1, rounds);
    run("", null, &usage, (const char *const[]){"rm", "-r", folder, NULL});
    close(null);
}

int main(int argc, char **argv)
{
    bool quick = false, is_child = false;
    const struct flag flags[] = {{"--quick", &quick}, {"--child", &is_child}};

    bench_flags(argc, argv, flags, LENGTH(flags));
    if (is_child)
        return child();
    char self[PATH_MAX - 64];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = 0;
    *strrchr(self, '/') = 0;
    snprintf(preload, sizeof preload, "%s/../shim/libzc-malloc.so", self);
    if (access(preload, R_OK))
        bench_die("preload: there is no %s", preload);
    bench_say("preload: small blocks and forks");
    calls_and_forks(quick ? 3 : 9);
    builds(quick ? 3 : 9);
    return 0;
}
