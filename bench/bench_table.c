/* SPDX-License-Identifier: MIT
 *
 * Suite table: the table of examples/, with the grid that docs/performance.md speaks of. Each rank becomes the example,
 * which prints the rows. With two ranks: all sizes, mixes, keys and other work, and a slow client; with more: GETs
 * mostly. tracked is there twice: its ratio to itself is the noise.
 *
 *   --quick   a few cells of the grid, in short rounds */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/bench.h"

#define COMMON "--csv", "-", "--variants", "blocking,tracked,copied,paper,zc,zc-inplace,tracked"
#define SLOW "--and", "--get", "95", "--keys", "uniform", "--work", "20", "--slow", "200"

static const char *const two[] = {COMMON,
                                  "--rounds",
                                  "5",
                                  "--seconds",
                                  "0.03",
                                  "--get",
                                  "95,50",
                                  "--keys",
                                  "uniform,zipf",
                                  "--work",
                                  "0,20",
                                  "--size",
                                  "4K,64K,256K,1M,2M,4M",
                                  SLOW,
                                  "--size",
                                  "64K,1M,4M",
                                  NULL};
static const char *const two_quick[] = {COMMON,         "--rounds", "5",       "--seconds", "0.03", "--get",
                                        "95,50",        "--keys",   "uniform", "--work",    "20",   "--size",
                                        "4K,64K,1M,4M", SLOW,       "--size",  "1M",        NULL};
static const char *const more[] = {COMMON,   "--rounds",     "5",      "--seconds", "0.05",   "--get",          "95",
                                   "--keys", "uniform,zipf", "--work", "20",        "--size", "64K,256K,1M,4M", NULL};
static const char *const more_quick[] = {COMMON, "--rounds", "5",  "--seconds", "0.05",   "--get",
                                         "95",   "--work",   "20", "--size",    "64K,1M", NULL};

/* The example, from where this program is: build/PRESET/bench/bench_table. */
static char *table_path(const char *program)
{
    static const char path[] = "../examples/table";
    const char *slash = strrchr(program, '/');
    size_t folder = slash ? (size_t)(slash + 1 - program) : 0;
    char *result = malloc(folder + sizeof path);

    memcpy(result, program, folder);
    memcpy(result + folder, path, sizeof path);
    return result;
}

int main(int argc, char **argv)
{
    enum { MOST = 64 };
    bool quick = false;
    const struct flag flags[] = {{"--quick", &quick}};
    const char *args[MOST] = {NULL};

    bench_flags(argc, argv, flags, LENGTH(flags));
    bench_under_mpiexec(argv, "2");
    const char *ranks = getenv("PMI_SIZE");
    const char *const *options =
        ranks && strcmp(ranks, "2") != 0 ? (quick ? more_quick : more) : (quick ? two_quick : two);
    args[0] = table_path(argv[0]);
    for (int i = 0; options[i]; i++)
        args[i + 1] = options[i];
    execv(args[0], (char **)args);
    bench_die("%s: %s: %s", argv[0], args[0], strerror(errno));
}
