/* SPDX-License-Identifier: MIT
 *
 * Suite shim: what the interposition library costs a program that does not know it. Case:
 *
 *   netpipe   NetPIPE (NPmpich2), none of whose buffers is zc's; ns a message. Variants: shim (libzc-shim.so preloaded)
 *             and plain (baseline), which is there twice: its ratio to itself is the noise
 *
 *   --quick   fewer rounds */
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/bench.h"

enum { ROUNDS = 15, QUICK_ROUNDS = 5, SIZES_MOST = 64 };
enum { PLAIN, SHIM, AGAIN, RUNS };

/* The build folder, where the library is. */
static char folder[PATH_MAX];

struct point {
    size_t size;
    double ns;
};

static int measure(bool shim, struct point points[SIZES_MOST])
{
    char command[3 * PATH_MAX], line[128], name[] = "/tmp/zc-netpipe-XXXXXX";
    int n = 0, file = mkstemp(name);
    if (file < 0)
        bench_die("shim: no file can be made in /tmp");
    close(file);
    snprintf(command, sizeof command,
             "mpiexec -bind-to core -n 2 %s%s%s NPmpich2 -p 0 -u 65536 -n 300 -o %s >/dev/null 2>&1 </dev/null",
             shim ? "env LD_PRELOAD=" : "", shim ? folder : "", shim ? "/shim/libzc-shim.so" : "", name);
    if (system(command) != 0)
        bench_die("shim: %s: failed", command);
    FILE *in = fopen(name, "r");
    while (in && n < SIZES_MOST && fgets(line, sizeof line, in)) {
        char *rest;
        points[n].size = strtoull(line, &rest, 10);
        double rate = strtod(rest, &rest); /* megabits a second: more digits than the seconds that follow */
        points[n].ns = (double)points[n].size * 8e9 / (rate * 1048576);
        n += rate > 0;
    }
    if (in)
        fclose(in);
    unlink(name);
    return n;
}

int main(int argc, char **argv)
{
    static double ns[RUNS][SIZES_MOST][ROUNDS];
    struct point points[SIZES_MOST] = {0};
    bool quick = false;
    int sizes = 0;
    const struct flag flags[] = {{"--quick", &quick}};
    bench_flags(argc, argv, flags, LENGTH(flags));
    size_t rounds = quick ? QUICK_ROUNDS : ROUNDS;
    if (readlink("/proc/self/exe", folder, sizeof folder - 1) < 0)
        bench_die("shim: /proc/self/exe cannot be read");
    dirname(dirname(folder)); /* in place: it is cut */
    for (size_t round = 0; round < rounds; round++) {
        bench_say("round %zu of %zu", round + 1, rounds);
        for (int turn = 0; turn < RUNS; turn++) {
            int run = (turn + (int)round) % RUNS;
            sizes = measure(run == SHIM, points);
            for (int i = 0; i < sizes; i++)
                ns[run][i][round] = points[i].ns;
        }
    }
    for (int i = 0; i < sizes; i++) {
        for (int run = SHIM; run <= AGAIN; run++) {
            double ratio = bench_median_ratio(ns[run][i], ns[PLAIN][i], rounds);
            struct row row = {"shim",         "netpipe", run == SHIM ? "shim" : "plain",
                              points[i].size, 1,         bench_median(ns[run][i], rounds),
                              "ns",           "plain",   ratio};
            bench_row(&row);
        }
    }
    return 0;
}
