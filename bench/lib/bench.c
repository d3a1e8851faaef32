/* SPDX-License-Identifier: MIT */
#include "bench/lib/bench.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "zc.h"

double bench_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double bench_median_ratio(const double *a, const double *b, size_t n)
{
    double *ratios = malloc(n * sizeof *ratios);

    for (size_t i = 0; i < n; i++)
        ratios[i] = a[i] / b[i];
    double result = bench_median(ratios, n);
    free(ratios);
    return result;
}

void bench_row(const struct row *row)
{
    printf("%s,%s,%s,%zu,%d,%.6g,%s,%s,%.4f\n", row->suite, row->name, row->variant, row->size, row->threads,
           row->value, row->unit, row->baseline, row->ratio);
    fflush(stdout);
}

/* In one write, so that lines of several ranks do not mix. */
static void say(const char *format, va_list args)
{
    char text[512];

    vsnprintf(text, sizeof text, format, args);
    fprintf(stderr, "%s\n", text);
}

void bench_say(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args);
    va_end(args);
}

void bench_die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args);
    va_end(args);
    exit(2);
}

void bench_must(int rc, const char *what)
{
    if (rc)
        bench_die("%s: %s (%s)", what, zc_errmsg(), zc_strerror(rc));
}

void bench_flags(int argc, char **argv, const struct flag *flags, size_t n)
{
    for (int i = 1; i < argc; i++) {
        size_t f = 0;
        while (f < n && strcmp(argv[i], flags[f].name) != 0)
            f++;
        if (f == n)
            bench_die("%s: no option '%s'", argv[0], argv[i]);
        *flags[f].set = true;
    }
}

static long number(const char *text)
{
    return text ? strtol(text, NULL, 10) : 0;
}

static void bind_rank(long rank, long ranks)
{
    cpu_set_t allowed, mine;
    long place = 0;

    if (sched_getaffinity(0, sizeof allowed, &allowed) || ranks > CPU_COUNT(&allowed))
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || place++ != rank)
            continue;
        CPU_ZERO(&mine);
        CPU_SET(cpu, &mine);
        sched_setaffinity(0, sizeof mine, &mine);
        return;
    }
}

void bench_under_mpiexec(char **argv, const char *ranks)
{
    enum { MOST = 32 };
    char *args[MOST + 4] = {"mpiexec", "-n", (char *)(uintptr_t)ranks};

    if (getenv("PMI_RANK")) {
        bind_rank(number(getenv("PMI_RANK")), number(getenv("PMI_SIZE")));
        return;
    }
    for (int i = 0; argv[i] && i < MOST; i++)
        args[3 + i] = argv[i];
    execvp(args[0], args);
    bench_die("%s: mpiexec: %s", argv[0], strerror(errno));
}

static uint64_t word(size_t i, unsigned seed)
{
    return (i + seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

void bench_fill(void *buf, size_t size, unsigned seed)
{
    uint64_t *words = buf;

    for (size_t i = 0; i < size / sizeof *words; i++)
        words[i] = word(i, seed);
}

void bench_check(const void *buf, size_t size, unsigned seed, const char *what)
{
    const uint64_t *words = buf;

    for (size_t i = 0; i < size / sizeof *words; i++)
        if (words[i] != word(i, seed))
            bench_die("%s: wrong bytes at offset %zu of %zu", what, i * sizeof *words, size);
}
