/* SPDX-License-Identifier: MIT
 *
 * Suite alloc. Variants: zc, mimalloc (baseline), jemalloc, glibc; all are asked for buffers aligned to a page. Times
 * are ns an operation:
 *
 *   first-byte         allocate, store to the first byte, free; one thread, and two at once
 *   producer-consumer  one thread allocates and stores to the first byte, another reads that and frees
 *   larson             each thread replaces random ones of a thousand live buffers, and its successor frees them
 *   xmalloc            one thread allocates batches of buffers and another frees them
 *   live               allocate and store to the first byte, with a million live buffers; baseline: with a thousand;
 *                      without glibc
 *
 * In larson and xmalloc (the patterns of the benchmarks of those names) `size` is the largest of random sizes from 4
 * KiB on, small ones as likely as large ones, and a byte of each page is stored to. Memory is MiB that the pattern
 * added to the process (pages that are mapped twice count once), in a process of its own. How many buffers of xmalloc
 * live at once would depend on how far one thread happens to get ahead of the other, so here they go in turns: the
 * first is 0, 1 or 7 batches of 64 ahead, for each allocator the same:
 *
 *   larson-memory, xmalloc-memory-LEAD
 *                                     at most, as sampled
 *   live-metadata, live-page-tables   what a million live buffers need besides; baseline: what they hold
 *
 *   --quick   fewer sizes, rounds and live buffers */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/lib/allocators.h"
#include "bench/lib/bench.h"
#include "bench/lib/patterns.h"

enum { ROUNDS = 9 };

/* ---- times ---- */

static const struct bench_case {
    const char *name;
    double (*run)(const struct allocator *allocator, size_t size, int threads, long count);
    int threads;     /* xmalloc_in_step: the lead */
    size_t sizes[9]; /* until 0; the first and every second after it are for --quick */
} cases[] = {
    {"first-byte", first_byte, 1, {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20}},
    {"first-byte", first_byte, 2, {4 << 10, 64 << 10, 1 << 20}},
    {"producer-consumer", producer_consumer, 2, {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}},
    {"larson", larson, 2, {64 << 10, 256 << 10}},
    {"xmalloc", xmalloc, 2, {64 << 10, 256 << 10}}};

/* How many operations take about `seconds`. */
static long count_for(const struct bench_case *c, const struct allocator *allocator, size_t size, double seconds)
{
    /* So that the ring is filled, and what is freed is used again. */
    const long least = c->run == first_byte ? 16 : 4 * PLACES;
    long count = least;

    if (c->run == producer_consumer)
        fill_once(allocator, size);
    c->run(allocator, size, c->threads, count); /* warms up */
    for (;;) {
        double took = c->run(allocator, size, c->threads, count);
        if (took > seconds / 4)
            return least + (long)((double)count * seconds / took);
        count *= 4;
    }
}

static void measure(const struct bench_case *c, size_t size, int rounds, double seconds)
{
    double values[ALLOCATORS][ROUNDS];
    long counts[ALLOCATORS];

    for (size_t v = 0; v < ALLOCATORS; v++)
        counts[v] = count_for(c, &allocators[v], size, seconds);
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < ALLOCATORS; i++) {
            size_t v = ((size_t)round + i) % ALLOCATORS;
            values[v][round] = 1e9 * c->run(&allocators[v], size, c->threads, counts[v]) / (double)counts[v];
        }
    }
    for (size_t v = 1; v < ALLOCATORS; v++) {
        double ratio = bench_median_ratio(values[v], values[0], (size_t)rounds);
        bench_row(&(struct row){"alloc", c->name, allocators[v].name, size, c->threads,
                                bench_median(values[v], (size_t)rounds), "ns", allocators[0].name, ratio});
    }
}

/* ---- memory ---- */

/* A number of kB of one of the process's files in /proc, in bytes. */
static double proc_bytes(const char *path, const char *field)
{
    char line[256];
    double kb = 0;
    FILE *file = fopen(path, "re");

    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            kb = strtod(line + strlen(field), NULL);
    if (file)
        fclose(file);
    return 1024 * kb;
}

static double pages_held(void)
{
    return proc_bytes("/proc/self/smaps_rollup", "Pss:");
}

/* Runs the body in a child, which has used no allocator before, and returns the n numbers that it finds. */
static void in_child(void (*body)(const void *argument, double *numbers), const void *argument, double *numbers,
                     size_t n)
{
    int ends[2], status;
    if (pipe(ends))
        bench_die("alloc: pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child < 0)
        bench_die("alloc: fork: %s", strerror(errno));
    if (child == 0) {
        body(argument, numbers);
        _exit(write(ends[1], numbers, n * sizeof *numbers) < 0);
    }
    close(ends[1]);
    ssize_t got = read(ends[0], numbers, n * sizeof *numbers);
    close(ends[0]);
    if (waitpid(child, &status, 0) != child || status || got != (ssize_t)(n * sizeof *numbers))
        bench_die("alloc: a child failed");
}

static _Atomic bool done;
static double peak;

static void *sample(void *arg)
{
    (void)arg;
    do {
        double now = pages_held();
        peak = now > peak ? now : peak;
        usleep(2000);
    } while (!done);
    return NULL;
}

static const struct bench_case memory_cases[] = {
    {"larson-memory", larson, 2, {64 << 10, 256 << 10}},
    {"xmalloc-memory-0", xmalloc_in_step, 0, {256 << 10, 64 << 10}},
    {"xmalloc-memory-1", xmalloc_in_step, 1, {256 << 10, 64 << 10}},
    {"xmalloc-memory-7", xmalloc_in_step, LEAD_MOST, {256 << 10, 64 << 10}}};

struct memory_case {
    const struct bench_case *bench;
    const struct allocator *allocator;
    size_t size;
    long count;
};

static void memory_body(const void *argument, double *bytes)
{
    const struct memory_case *c = argument;
    pthread_t sampler;
    double before = pages_held();

    if (pthread_create(&sampler, NULL, sample, NULL))
        bench_die("alloc: cannot create a thread");
    c->bench->run(c->allocator, c->size, c->bench->threads, c->count);
    done = true;
    pthread_join(sampler, NULL);
    *bytes = peak - before;
}

static void measure_memory(const struct bench_case *bench, size_t size)
{
    enum { CHILDREN = 5 };
    double values[ALLOCATORS][CHILDREN];

    for (int child = 0; child < CHILDREN; child++) {
        for (size_t v = 0; v < ALLOCATORS; v++) {
            struct memory_case c = {bench, &allocators[v], size, 20000};
            in_child(memory_body, &c, &values[v][child], 1);
        }
    }
    for (size_t v = 1; v < ALLOCATORS; v++) {
        double ratio = bench_median_ratio(values[v], values[0], CHILDREN);
        bench_row(&(struct row){"alloc", bench->name, allocators[v].name, size, MAX_THREADS,
                                bench_median(values[v], CHILDREN) / (1 << 20), "MiB", allocators[0].name, ratio});
    }
}

/* ---- live ---- */

enum { BURST = 1000, BURSTS = 200 };

/* Seconds of one allocation and its first byte, the median of bursts. */
static double burst(const struct allocator *allocator)
{
    double took[BURSTS];
    void *ptrs[BURST];

    for (int i = 0; i < BURSTS; i++) {
        double start = bench_now();
        for (int j = 0; j < BURST; j++) {
            volatile char *ptr = must_have(allocator, PAGE);
            *ptr = 1;
            ptrs[j] = (void *)ptr;
        }
        took[i] = (bench_now() - start) / BURST;
        for (int j = 0; j < BURST; j++)
            allocator->free(ptrs[j]);
    }
    return bench_median(took, BURSTS);
}

enum { FEW_NS, MANY_NS, METADATA, PAGE_TABLES, LIVE_NUMBERS };

struct live_case {
    const struct allocator *allocator;
    size_t live;
};

static void live_body(const void *argument, double *numbers)
{
    const struct live_case *c = argument;
    char **live = calloc(c->live, sizeof *live);

    memset(live, 1, c->live * sizeof *live); /* its pages are not to be counted */
    double held = pages_held(), tables = proc_bytes("/proc/self/status", "VmPTE:");
    for (size_t i = 0; i < c->live; i++) {
        if (i == BURST)
            numbers[FEW_NS] = 1e9 * burst(c->allocator);
        live[i] = must_have(c->allocator, PAGE);
        *live[i] = 1;
    }
    numbers[METADATA] = pages_held() - held - (double)c->live * PAGE;
    numbers[PAGE_TABLES] = proc_bytes("/proc/self/status", "VmPTE:") - tables;
    numbers[MANY_NS] = 1e9 * burst(c->allocator);
}

static void measure_live(const struct allocator *allocator, size_t live)
{
    enum { CHILDREN = 3 }; /* pages and caches are luckier in some */
    double n[LIVE_NUMBERS] = {0}, many[CHILDREN], few[CHILDREN], bytes = (double)live * PAGE;
    const double mib = 1 << 20;

    for (int child = 0; child < CHILDREN; child++) {
        in_child(live_body, &(struct live_case){allocator, live}, n, LIVE_NUMBERS);
        many[child] = n[MANY_NS];
        few[child] = n[FEW_NS];
    }
    bench_row(&(struct row){"alloc", "live", allocator->name, PAGE, 1, bench_median(many, CHILDREN), "ns", "1000-live",
                            bench_median_ratio(many, few, CHILDREN)});
    bench_row(&(struct row){"alloc", "live-metadata", allocator->name, PAGE, 1, n[METADATA] / mib, "MiB", "buffers",
                            n[METADATA] / bytes});
    bench_row(&(struct row){"alloc", "live-page-tables", allocator->name, PAGE, 1, n[PAGE_TABLES] / mib, "MiB",
                            "buffers", n[PAGE_TABLES] / bytes});
}

int main(int argc, char **argv)
{
    bool quick = false;
    const struct flag flags[] = {{"--quick", &quick}};

    bench_flags(argc, argv, flags, LENGTH(flags));
    allocators_load(argv);
    /* What runs in children comes first: zc cannot be used in a child of a process that has used it. */
    size_t live = quick ? 300000 : 1000000;
    for (size_t v = 0; v < GLIBC; v++) { /* which takes a minute for them */
        bench_say("alloc: live, %s, %zu buffers", allocators[v].name, live);
        measure_live(&allocators[v], live);
    }
    for (size_t c = 0; c < LENGTH(memory_cases); c++) {
        for (size_t i = 0; memory_cases[c].sizes[i]; i += quick ? 2 : 1) {
            bench_say("alloc: %s, up to %zu bytes", memory_cases[c].name, memory_cases[c].sizes[i]);
            measure_memory(&memory_cases[c], memory_cases[c].sizes[i]);
        }
    }
    for (size_t c = 0; c < LENGTH(cases); c++) {
        for (size_t i = 0; cases[c].sizes[i]; i += quick ? 2 : 1) {
            bench_say("alloc: %s, %zu bytes, threads: %d", cases[c].name, cases[c].sizes[i], cases[c].threads);
            measure(&cases[c], cases[c].sizes[i], quick ? 5 : ROUNDS, quick ? 0.03 : 0.05);
        }
    }
    return 0;
}
