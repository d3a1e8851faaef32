/* SPDX-License-Identifier: MIT
 *
 * Suite table: the table of examples/, with the grid that docs/performance.md speaks of. With two ranks: all sizes,
 * mixes, keys and other work, and a slow client; with more: GETs mostly. tracked is there twice: its ratio to itself is
 * the noise.
 *
 *   --quick   a few cells of the grid, in short rounds */
#include <stdlib.h>
#include <string.h>

#include "bench/lib/bench.h"
#include "bench/lib/table.h"

#define COMMON "--csv", "-", "--variants", "blocking,tracked,copied,paper,zc,zc-inplace,zc-report,tracked"
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

int main(int argc, char **argv)
{
    bool quick = false;
    const struct flag flags[] = {{"--quick", &quick}};

    bench_flags(argc, argv, flags, LENGTH(flags));
    bench_under_mpiexec(argv, "2");
    const char *ranks = getenv("PMI_SIZE");
    bool is_more = ranks && strcmp(ranks, "2") != 0;
    table_exec(argv[0], is_more ? (quick ? more_quick : more) : (quick ? two_quick : two), NULL);
}
