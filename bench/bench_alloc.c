/* SPDX-License-Identifier: MIT
 *
 * Suite alloc. Variants: zc, mimalloc (baseline), jemalloc, glibc. Cases:
 *
 *   first-byte         allocate, store to the first byte, free; ns; one thread, and two at once
 *   producer-consumer  one thread allocates and stores to the first byte, another reads that and frees; op/s
 *
 * The other allocators are loaded with dlopen(RTLD_LOCAL), so that nothing but this uses them.
 *
 *   --quick   fewer sizes and rounds */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/bench.h"
#include "zc.h"

enum { VARIANTS = 4, MAX_THREADS = 2, MAX_ROUNDS = 32 };

static void zc_free_void(void *ptr)
{
    zc_free(ptr);
}

static struct variant {
    const char *name;
    const char *library; /* NULL: it is here */
    void *(*alloc)(size_t size);
    void (*free)(void *ptr);
} variants[VARIANTS] = {{"mimalloc", "libmimalloc.so.2", NULL, NULL}, /* first: the baseline */
                        {"zc", NULL, zc_alloc, zc_free_void},
                        {"jemalloc", "libjemalloc.so.2", NULL, NULL},
                        {"glibc", NULL, malloc, free}};

/* An allocator that is loaded late needs room in the static block of thread-local storage: a tunable of glibc. */
static void make_room_for_tls(char **argv)
{
    static const char tunable[] = "glibc.rtld.optional_static_tls=16384";

    if (getenv("GLIBC_TUNABLES"))
        return;
    setenv("GLIBC_TUNABLES", tunable, 1);
    execv("/proc/self/exe", argv);
    bench_die("%s: cannot start again: %s", argv[0], strerror(errno));
}

static void load(struct variant *variant)
{
    if (!variant->library)
        return;
    void *library = dlopen(variant->library, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        bench_die("alloc: %s", dlerror());
    *(void **)&variant->alloc = dlsym(library, "malloc");
    *(void **)&variant->free = dlsym(library, "free");
    if (!variant->alloc || !variant->free)
        bench_die("alloc: %s has no malloc", variant->library);
}

/* ---- threads that start together ----------------------------------------------------------------------------- */

struct task {
    void *(*body)(void *task);
    const struct variant *variant;
    size_t size;
    long count;
    pthread_barrier_t *start;
    struct ring *ring;
    double took;
};

static double run_tasks(struct task *tasks, int n)
{
    pthread_t threads[MAX_THREADS];
    pthread_barrier_t start;
    double longest = 0;

    pthread_barrier_init(&start, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        tasks[i].start = &start;
        if (pthread_create(&threads[i], NULL, tasks[i].body, &tasks[i]))
            bench_die("alloc: cannot create a thread");
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        longest = tasks[i].took > longest ? tasks[i].took : longest;
    }
    pthread_barrier_destroy(&start);
    return longest;
}

static void *must_have(void *ptr, const struct task *task)
{
    if (!ptr)
        bench_die("alloc: %s: no memory of %zu bytes", task->variant->name, task->size);
    return ptr;
}

/* ---- first-byte ------------------------------------------------------------------------------------------------- */

static void *first_byte_body(void *arg)
{
    struct task *task = arg;

    pthread_barrier_wait(task->start);
    double start = bench_now();
    for (long i = 0; i < task->count; i++) {
        volatile char *ptr = must_have(task->variant->alloc(task->size), task);
        *ptr = 1;
        task->variant->free((void *)ptr);
    }
    task->took = bench_now() - start;
    return NULL;
}

static double first_byte(const struct variant *variant, size_t size, int threads, long count)
{
    struct task tasks[MAX_THREADS];

    for (int i = 0; i < MAX_THREADS; i++)
        tasks[i] = (struct task){.body = first_byte_body, .variant = variant, .size = size, .count = count};
    return run_tasks(tasks, threads);
}

/* ---- producer-consumer ------------------------------------------------------------------------------------------- */

enum { PLACES = 64 };

struct ring {
    atomic_long put;
    void *items[PLACES]; /* also keeps the two counters on lines of their own */
    atomic_long taken;
};

static void *producer(void *arg)
{
    struct task *task = arg;
    struct ring *ring = task->ring;

    pthread_barrier_wait(task->start);
    for (long i = 0; i < task->count; i++) {
        volatile char *ptr = must_have(task->variant->alloc(task->size), task);
        *ptr = 1;
        while (i - atomic_load_explicit(&ring->taken, memory_order_acquire) == PLACES)
            sched_yield();
        ring->items[i % PLACES] = (void *)ptr;
        atomic_store_explicit(&ring->put, i + 1, memory_order_release);
    }
    task->took = 0;
    return NULL;
}

static void *consumer(void *arg)
{
    struct task *task = arg;
    struct ring *ring = task->ring;

    pthread_barrier_wait(task->start);
    double start = bench_now();
    for (long i = 0; i < task->count; i++) {
        while (atomic_load_explicit(&ring->put, memory_order_acquire) == i)
            sched_yield();
        volatile char *ptr = ring->items[i % PLACES];
        atomic_store_explicit(&ring->taken, i + 1, memory_order_release);
        if (*ptr != 1)
            bench_die("alloc: %s: a byte was lost", task->variant->name);
        task->variant->free((void *)ptr);
    }
    task->took = bench_now() - start;
    return NULL;
}

static double producer_consumer(const struct variant *variant, size_t size, int threads, long count)
{
    static void *(*const bodies[MAX_THREADS])(void *) = {producer, consumer};
    struct ring ring = {.put = 0};
    struct task tasks[MAX_THREADS];

    for (int i = 0; i < MAX_THREADS; i++)
        tasks[i] = (struct task){.body = bodies[i], .variant = variant, .size = size, .count = count, .ring = &ring};
    return run_tasks(tasks, threads);
}

/* ---- rounds --------------------------------------------------------------------------------------------------------- */

static const struct bench_case {
    const char *name;
    double (*run)(const struct variant *variant, size_t size, int threads, long count);
    int threads;
    bool rate; /* op/s, else ns an operation */
} cases[] = {{"first-byte", first_byte, 1, false},
             {"first-byte", first_byte, 2, false},
             {"producer-consumer", producer_consumer, 2, true}};

/* How many operations take about `seconds`. */
static long count_for(const struct bench_case *c, const struct variant *variant, size_t size, double seconds)
{
    enum { LEAST = 4 * PLACES }; /* so that the ring is filled, and what is freed is used again */
    long count = LEAST;

    c->run(variant, size, c->threads, count); /* warms up */
    for (;;) {
        double took = c->run(variant, size, c->threads, count);
        if (took > seconds / 4)
            return LEAST + (long)((double)count * seconds / took);
        count *= 4;
    }
}

static void measure(const struct bench_case *c, size_t size, int rounds, double seconds)
{
    double values[VARIANTS][MAX_ROUNDS];
    long counts[VARIANTS];

    for (int v = 0; v < VARIANTS; v++)
        counts[v] = count_for(c, &variants[v], size, seconds);
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < VARIANTS; i++) {
            int v = (round + i) % VARIANTS;
            double took = c->run(&variants[v], size, c->threads, counts[v]);
            values[v][round] = c->rate ? (double)counts[v] / took : 1e9 * took / (double)counts[v];
        }
    }
    for (int v = VARIANTS - 1; v >= 0; v--) {
        double ratio = bench_median_ratio(values[v], values[0], (size_t)rounds);
        bench_row(&(struct row){"alloc", c->name, variants[v].name, size, c->threads,
                                bench_median(values[v], (size_t)rounds), c->rate ? "op/s" : "ns", variants[0].name,
                                ratio});
    }
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20};
    bool quick = false;
    const struct flag flags[] = {{"--quick", &quick}};

    bench_flags(argc, argv, flags, LENGTH(flags));
    make_room_for_tls(argv);
    for (int v = 0; v < VARIANTS; v++)
        load(&variants[v]);
    for (size_t c = 0; c < LENGTH(cases); c++) {
        for (size_t i = 0; i < LENGTH(sizes); i += quick ? 2 : 1) {
            bench_say("alloc: %s, %zu bytes, threads: %d", cases[c].name, sizes[i], cases[c].threads);
            measure(&cases[c], sizes[i], quick ? 5 : 11, quick ? 0.03 : 0.05);
        }
    }
    return 0;
}
