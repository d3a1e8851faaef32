/* SPDX-License-Identifier: MIT
 *
 * Suite policy: does zc choose well? The table of examples/ on a wider grid, with what zc chooses from beside it:
 * copying, and protection that ends at completion or is left to the next store. Rows of zc and zc-inplace against
 * `best` compare them with the best of blocking, tracked, copied, zc-eager and zc-lazy in the same cell. In each cell
 * all variants take turns, in many short rounds; tracked is there twice, and its ratio to itself is the noise.
 *
 *   --huge    all memory in huge pages, whatever its size; else in small ones
 *   --quick   a part of the grid */
#include "bench/lib/bench.h"
#include "bench/lib/table.h"

#define COMMON                                                                                                         \
    "--suite", "policy", "--csv", "-", "--rounds", "12", "--seconds", "0.0125", "--variants",                          \
        "blocking,tracked,copied,zc-eager,zc-lazy,zc,zc-inplace,tracked"

static const char *const whole[] = {
    COMMON, "--get", "100,95,50,0", "--keys", "uniform,zipf", "--work", "0,20", "--size", "4K,16K,64K,256K,1M,4M,16M",
    NULL};
static const char *const part[] = {COMMON, "--get", "100,95,50,0", "--work", "20", "--size", "4K,64K,256K,1M,4M", NULL};

int main(int argc, char **argv)
{
    bool quick = false;
    bool huge = false;
    const struct flag flags[] = {{"--quick", &quick}, {"--huge", &huge}};

    bench_flags(argc, argv, flags, LENGTH(flags));
    bench_under_mpiexec(argv, "2");
    const char *const pages[] = {"--pages", huge ? "huge" : "small", NULL};
    table_exec(argv[0], quick ? part : whole, pages);
}
