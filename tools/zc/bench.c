/* SPDX-License-Identifier: MIT
 *
 * zc bench: how fast this host allocates from pools and guards buffers, beside malloc and memcpy. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/options.h"
#include "core/sys.h"
#include "tools/zc/command.h"
#include "zc.h"

enum { ROUNDS = 7 };

static void touch(volatile char *byte)
{
    *byte = 1;
}

static void by_pool(char *buffer, size_t size)
{
    (void)buffer;
    char *p = zc_alloc(size);
    touch(p);
    zc_free(p);
}

static void by_malloc(char *buffer, size_t size)
{
    (void)buffer;
    char *p = aligned_alloc(PAGE_BYTES, size);
    touch(p);
    free(p);
}

static void by_guard(char *buffer, size_t size)
{
    struct zc_guard guard;
    if (zc_guard(buffer, size, ZC_DENY_STORES, &guard) == 0)
        zc_unguard(&guard);
}

static char *target; /* as large as the buffer */

static void by_copy(char *buffer, size_t size)
{
    memcpy(target, buffer, size);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nanoseconds for one, the median of some rounds of about a millisecond. */
static double time_of(void (*what)(char *buffer, size_t size), char *buffer, size_t size)
{
    double times[ROUNDS];
    unsigned repeat = 1;
    for (int round = -1; round < ROUNDS; round++) {
        uint64_t start = clock_ns();
        for (unsigned i = 0; i < repeat; i++)
            what(buffer, size);
        uint64_t passed = clock_ns() - start;
        if (round >= 0) {
            times[round] = (double)passed / repeat;
        } else if (passed < 1000000 && repeat < 1 << 20) { /* not yet a round */
            repeat *= 2;
            round--;
        }
    }
    qsort(times, ROUNDS, sizeof *times, by_value);
    return times[ROUNDS / 2];
}

static int bench(size_t size)
{
    char *buffer = zc_alloc(size), *more = zc_alloc(size), *other = aligned_alloc(PAGE_BYTES, size);
    target = zc_alloc(size);
    if (!buffer || !more || !target)
        return failed("%s", zc_errmsg());
    if (!other)
        return failed("malloc has not %s", size_text(size));
    memset(buffer, 1, size);
    free(other);
    zc_free(more); /* there is one, to be allocated again and again */
    double pool = time_of(by_pool, buffer, size), heap = time_of(by_malloc, buffer, size);
    double guard = time_of(by_guard, buffer, size), copy = time_of(by_copy, buffer, size);
    printf("%10s%14.3f%14.3f%8.2f%14.3f%14.3f%8.2f\n", size_text(size), pool / 1000, heap / 1000, pool / heap,
           guard / 1000, copy / 1000, guard / copy);
    zc_free(target);
    return zc_free(buffer) ? failed("%s", zc_errmsg()) : 0;
}

static int run(int argc, char **argv)
{
    static const size_t usual[] = {4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20};
    const struct flag flags[] = {{NULL, NULL, NULL}};
    int at = parse_flags(argc, argv, flags), status = 0;
    if (at < 0)
        return STATUS_USAGE;
    uint64_t size;
    for (int i = at; i < argc; i++) {
        const char *end = parse_size(argv[i], &size);
        if (!end || *end || size == 0 || size > (uint64_t)1 << 32)
            return misused("%s: expected a size such as 64K, up to 4G", argv[i]);
    }
    printf("%10s%14s%14s%8s%14s%14s%8s\n", "size", "zc_alloc, µs", "malloc, µs", "ratio", "guard, µs", "copy, µs",
           "ratio");
    for (int i = at; i < argc && !status; i++) {
        parse_size(argv[i], &size);
        status = bench(pages_of(size) << PAGE_SHIFT);
    }
    for (size_t i = 0; at == argc && i < sizeof usual / sizeof usual[0] && !status; i++)
        status = bench(usual[i]);
    return status;
}

const struct command command_bench = {
    .name = "bench",
    .arguments = "[SIZE...]",
    .summary = "How fast buffers are allocated and guarded here",
    .help = "For each size, such as 64K or 4M, prints what it takes to allocate a buffer, store to its first byte and\n"
            "free it, from zc and from the C library's malloc (aligned to a page); and to guard it as for a send and\n"
            "end that, against copying it. Medians of 7 rounds; run it when nothing else runs. The suites that\n"
            "docs/performance.md quotes are run by script/bench, in the sources.\n",
    .run = run,
};
