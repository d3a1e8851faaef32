/* SPDX-License-Identifier: MIT
 *
 * What the suites share: clock, medians, rows, ranks. */
#ifndef ZC_BENCH_H
#define ZC_BENCH_H

#include <stdbool.h>
#include <stddef.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

double bench_now(void); /* seconds */

double bench_median(double *values, size_t n); /* sorts them */

/* The median of a[i] / b[i]: what disturbs a round disturbs both. */
double bench_median_ratio(const double *a, const double *b, size_t n);

/* A line of CSV on standard output: suite,case,variant,size,threads,value,unit,baseline,ratio */
struct row {
    const char *suite, *name, *variant;
    size_t size;
    int threads;
    double value;
    const char *unit, *baseline;
    double ratio;
};

void bench_row(const struct row *row);

void bench_say(const char *format, ...) __attribute__((format(printf, 1, 2))); /* progress, on standard error */
_Noreturn void bench_die(const char *format, ...) __attribute__((format(printf, 1, 2)));
void bench_must(int rc, const char *what); /* dies with zc's message if rc is not 0 */

/* The only options are flags; dies of any other. Sets those that are there. */
struct flag {
    const char *name;
    bool *set;
};
void bench_flags(int argc, char **argv, const struct flag *flags, size_t n);

/* Starts this program again under mpiexec, unless it is there already. Then, if there is a processor for each rank,
 * binds each to its own: ranks poll, and two on one processor wait for each other's time slices. */
void bench_under_mpiexec(char **argv, const char *ranks);

/* Bytes that are what they should be, in each position. */
void bench_fill(void *buf, size_t size, unsigned seed);
void bench_check(const void *buf, size_t size, unsigned seed, const char *what); /* dies if not */

#endif
