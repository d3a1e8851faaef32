/* SPDX-License-Identifier: MIT
 *
 * Suite alloc. Variants: zc, mimalloc (baseline), jemalloc, glibc; all are asked for buffers aligned to a page. Times
 * are ns an operation:
 *
 *   first-byte         allocate, store to the first byte, free; one thread, and two at once
 *   producer-consumer  one thread allocates and stores to the first byte, another reads that and frees
 *   larson             each thread replaces random ones of a thousand live buffers, and its successor frees them
 *   xmalloc            one thread allocates batches of buffers and another frees them
 *   live               allocate and store to the first byte, with a million live buffers; baseline: with a thousand
 *
 * In larson and xmalloc (the patterns of the benchmarks of those names) `size` is the largest of random sizes from 4 KiB
 * on, small ones as likely as large ones, and a byte of each page is stored to. Memory is MiB that the pattern added to
 * the process (pages that are mapped twice count once), in a process of its own:
 *
 *   larson-memory, xmalloc-memory     at most, as sampled
 *   live-metadata, live-page-tables   what a million live buffers need besides; baseline: what they hold
 *
 * The other allocators are loaded with dlopen(RTLD_LOCAL), so that nothing but this uses them.
 *
 *   --quick   fewer sizes, rounds and live buffers */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/lib/bench.h"
#include "zc.h"

enum { PAGE = 4096, MAX_THREADS = 2, MAX_ROUNDS = 32 };

/* ---- allocators ---------------------------------------------------------------------------------------------- */

static void *zc_aligned(size_t size, size_t alignment)
{
    (void)alignment; /* zc aligns to a page whatever is asked */
    return zc_alloc(size);
}

static void zc_free_void(void *ptr)
{
    zc_free(ptr);
}

static void *(*jemalloc_aligned_alloc)(size_t alignment, size_t size);

static void *jemalloc_aligned(size_t size, size_t alignment)
{
    return jemalloc_aligned_alloc(alignment, size);
}

static void *glibc_aligned(size_t size, size_t alignment)
{
    return aligned_alloc(alignment, size);
}

static struct variant {
    const char *name;
    void *(*alloc)(size_t size, size_t alignment);
    void (*free)(void *ptr);
} variants[] = {{"mimalloc", NULL, NULL}, /* first: the baseline */
                {"zc", zc_aligned, zc_free_void},
                {"jemalloc", jemalloc_aligned, NULL},
                {"glibc", glibc_aligned, free},
                {"mimalloc", NULL, NULL}}; /* once more, for the spread */

enum { VARIANTS = LENGTH(variants), AGAIN = VARIANTS - 1 };

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

static void load(const char *library, const char *alloc_name, void **alloc, const char *free_name, void **free)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        bench_die("alloc: %s", dlerror());
    *alloc = dlsym(handle, alloc_name);
    *free = dlsym(handle, free_name);
    if (!*alloc || !*free)
        bench_die("alloc: %s has no %s", library, alloc_name);
}

static void load_all(void)
{
    load("libmimalloc.so.2", "mi_malloc_aligned", (void **)&variants[0].alloc, "mi_free", (void **)&variants[0].free);
    load("libjemalloc.so.2", "aligned_alloc", (void **)&jemalloc_aligned_alloc, "free", (void **)&variants[2].free);
    variants[AGAIN] = variants[0];
}

static void *must_have(const struct variant *variant, size_t size)
{
    void *ptr = variant->alloc(size, PAGE);
    if (!ptr)
        bench_die("alloc: %s: no memory of %zu bytes", variant->name, size);
    return ptr;
}

/* ---- threads that start together ----------------------------------------------------------------------------- */

struct task {
    void *(*body)(void *task);
    const struct variant *variant;
    size_t size;
    long count;
    pthread_barrier_t *start;
    void *with;      /* ring or set */
    uint64_t random; /* state */
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

/* One task a body, otherwise alike. */
static void fill_tasks(struct task *tasks, int n, const struct variant *variant, size_t size, long count)
{
    for (int i = 0; i < n; i++)
        tasks[i] = (struct task){.variant = variant, .size = size, .count = count, .random = (uint64_t)i + 1};
}

/* ---- random sizes ---------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* From a page to `most`, evenly over the doublings. */
static size_t random_size(uint64_t *state, size_t most)
{
    unsigned doublings = 1;
    while ((size_t)PAGE << (doublings + 1) <= most)
        doublings++;
    size_t low = (size_t)PAGE << next_random(state) % doublings;
    return low + next_random(state) % low;
}

/* A buffer of random size, every page of it used. */
static void *random_buffer(struct task *task)
{
    size_t size = random_size(&task->random, task->size);
    volatile char *ptr = must_have(task->variant, size);
    for (size_t at = 0; at < size; at += PAGE)
        ptr[at] = 1;
    return (void *)ptr;
}

/* ---- first-byte ------------------------------------------------------------------------------------------------ */

static void *first_byte_body(void *arg)
{
    struct task *task = arg;

    pthread_barrier_wait(task->start);
    double start = bench_now();
    for (long i = 0; i < task->count; i++) {
        volatile char *ptr = must_have(task->variant, task->size);
        *ptr = 1;
        task->variant->free((void *)ptr);
    }
    task->took = bench_now() - start;
    return NULL;
}

static double first_byte(const struct variant *variant, size_t size, int threads, long count)
{
    struct task tasks[MAX_THREADS];

    fill_tasks(tasks, threads, variant, size, count);
    for (int i = 0; i < threads; i++)
        tasks[i].body = first_byte_body;
    return run_tasks(tasks, threads);
}

/* ---- producer-consumer and xmalloc ------------------------------------------------------------------------------- */

enum { PLACES = 64, BATCH = 64, BATCHES = 8 };

struct ring {
    atomic_long put;
    void *items[PLACES]; /* also keeps the two counters on lines of their own */
    atomic_long taken;
};

static void ring_put(struct ring *ring, long i, long places, void *item)
{
    while (i - atomic_load_explicit(&ring->taken, memory_order_acquire) == places)
        sched_yield();
    ring->items[i % places] = item;
    atomic_store_explicit(&ring->put, i + 1, memory_order_release);
}

static void *ring_take(struct ring *ring, long i, long places)
{
    while (atomic_load_explicit(&ring->put, memory_order_acquire) == i)
        sched_yield();
    void *item = ring->items[i % places];
    atomic_store_explicit(&ring->taken, i + 1, memory_order_release);
    return item;
}

static void *producer(void *arg)
{
    struct task *task = arg;

    pthread_barrier_wait(task->start);
    for (long i = 0; i < task->count; i++) {
        volatile char *ptr = must_have(task->variant, task->size);
        *ptr = 1;
        ring_put(task->with, i, PLACES, (void *)ptr);
    }
    return NULL;
}

static void *consumer(void *arg)
{
    struct task *task = arg;

    pthread_barrier_wait(task->start);
    double start = bench_now();
    for (long i = 0; i < task->count; i++) {
        volatile char *ptr = ring_take(task->with, i, PLACES);
        if (*ptr != 1)
            bench_die("alloc: %s: a byte was lost", task->variant->name);
        task->variant->free((void *)ptr);
    }
    task->took = bench_now() - start;
    return NULL;
}

static void *batch_producer(void *arg)
{
    struct task *task = arg;

    pthread_barrier_wait(task->start);
    for (long i = 0; i < task->count / BATCH; i++) {
        void **batch = calloc(BATCH, sizeof *batch);
        for (int j = 0; j < BATCH; j++)
            batch[j] = random_buffer(task);
        ring_put(task->with, i, BATCHES, batch);
    }
    return NULL;
}

static void *batch_consumer(void *arg)
{
    struct task *task = arg;

    pthread_barrier_wait(task->start);
    double start = bench_now();
    for (long i = 0; i < task->count / BATCH; i++) {
        void **batch = ring_take(task->with, i, BATCHES);
        for (int j = 0; j < BATCH; j++)
            task->variant->free(batch[j]);
        free(batch);
    }
    task->took = bench_now() - start;
    return NULL;
}

static double hand_over(void *(*from)(void *), void *(*to)(void *), const struct variant *variant, size_t size,
                        long count)
{
    struct ring ring = {.put = 0};
    struct task tasks[2];

    fill_tasks(tasks, 2, variant, size, count);
    tasks[0].body = from;
    tasks[1].body = to;
    tasks[0].with = tasks[1].with = &ring;
    return run_tasks(tasks, 2);
}

static double producer_consumer(const struct variant *variant, size_t size, int threads, long count)
{
    (void)threads;
    return hand_over(producer, consumer, variant, size, count);
}

/* As many buffers as can ever be on their way, so that none has to be made while the time is taken. */
static void fill_once(const struct variant *variant, size_t size)
{
    void *ptrs[PLACES + 2];

    for (int i = 0; i < PLACES + 2; i++)
        ptrs[i] = must_have(variant, size);
    for (int i = 0; i < PLACES + 2; i++)
        variant->free(ptrs[i]);
}

static double xmalloc(const struct variant *variant, size_t size, int threads, long count)
{
    (void)threads;
    return hand_over(batch_producer, batch_consumer, variant, size, count);
}

/* ---- larson ------------------------------------------------------------------------------------------------------ */

enum { SET = 1000, GENERATIONS = 4 };

static void *larson_body(void *arg)
{
    struct task *task = arg;
    void **set = task->with;

    pthread_barrier_wait(task->start);
    double start = bench_now();
    for (long i = 0; i < task->count; i++) {
        size_t k = next_random(&task->random) % SET;
        task->variant->free(set[k]);
        set[k] = random_buffer(task);
    }
    task->took = bench_now() - start;
    return NULL;
}

static double larson(const struct variant *variant, size_t size, int threads, long count)
{
    struct task tasks[MAX_THREADS];
    void *sets[MAX_THREADS][SET];
    double took = 0;

    fill_tasks(tasks, threads, variant, size, count / GENERATIONS);
    for (int i = 0; i < threads; i++)
        for (int k = 0; k < SET; k++)
            sets[i][k] = random_buffer(&tasks[i]);
    for (int g = 0; g < GENERATIONS; g++) {
        for (int i = 0; i < threads; i++) {
            tasks[i].body = larson_body;
            tasks[i].with = sets[(i + g) % threads];
        }
        took += run_tasks(tasks, threads);
    }
    for (int i = 0; i < threads; i++)
        for (int k = 0; k < SET; k++)
            variant->free(sets[i][k]);
    return took;
}

/* ---- times --------------------------------------------------------------------------------------------------------- */

static const struct bench_case {
    const char *name;
    double (*run)(const struct variant *variant, size_t size, int threads, long count);
    int threads;
    size_t sizes[9]; /* until 0; the first and every second after it are for --quick */
} cases[] = {
    {"first-byte", first_byte, 1, {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20}},
    {"first-byte", first_byte, 2, {4 << 10, 64 << 10, 1 << 20}},
    {"producer-consumer", producer_consumer, 2, {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}},
    {"larson", larson, 2, {64 << 10, 256 << 10}},
    {"xmalloc", xmalloc, 2, {64 << 10, 256 << 10}}};

/* How many operations take about `seconds`. */
static long count_for(const struct bench_case *c, const struct variant *variant, size_t size, double seconds)
{
    enum { LEAST = 4 * PLACES }; /* so that the ring is filled, and what is freed is used again */
    long count = LEAST;

    if (c->run == producer_consumer)
        fill_once(variant, size);
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

    for (size_t v = 0; v < VARIANTS; v++)
        counts[v] = count_for(c, &variants[v], size, seconds);
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < VARIANTS; i++) {
            size_t v = ((size_t)round + i) % VARIANTS;
            values[v][round] = 1e9 * c->run(&variants[v], size, c->threads, counts[v]) / (double)counts[v];
        }
    }
    for (size_t v = 1; v < VARIANTS; v++) {
        double ratio = bench_median_ratio(values[v], values[0], (size_t)rounds);
        bench_row(&(struct row){"alloc", c->name, variants[v].name, size, c->threads,
                                bench_median(values[v], (size_t)rounds), "ns", variants[0].name, ratio});
    }
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

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

struct memory_case {
    const struct bench_case *bench;
    const struct variant *variant;
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
    c->bench->run(c->variant, c->size, c->bench->threads, c->count);
    done = true;
    pthread_join(sampler, NULL);
    *bytes = peak - before;
}

static void measure_memory(const struct bench_case *bench, size_t size, bool quick)
{
    enum { CHILDREN = 5 };
    double values[VARIANTS][CHILDREN];
    char name[64];

    snprintf(name, sizeof name, "%s-memory", bench->name);
    for (int child = 0; child < CHILDREN; child++) {
        for (size_t v = 0; v < VARIANTS; v++) {
            struct memory_case c = {bench, &variants[v], size, quick ? 20000 : 100000};
            in_child(memory_body, &c, &values[v][child], 1);
        }
    }
    for (size_t v = 1; v < VARIANTS; v++) {
        double ratio = bench_median_ratio(values[v], values[0], CHILDREN);
        bench_row(&(struct row){"alloc", name, variants[v].name, size, bench->threads,
                                bench_median(values[v], CHILDREN) / (1 << 20), "MiB", variants[0].name, ratio});
    }
}

/* ---- live ---------------------------------------------------------------------------------------------------------- */

enum { BURST = 1000, BURSTS = 200 };

/* Seconds of one allocation and its first byte, the median of bursts. */
static double burst(const struct variant *variant)
{
    double took[BURSTS];
    void *ptrs[BURST];

    for (int i = 0; i < BURSTS; i++) {
        double start = bench_now();
        for (int j = 0; j < BURST; j++) {
            volatile char *ptr = must_have(variant, PAGE);
            *ptr = 1;
            ptrs[j] = (void *)ptr;
        }
        took[i] = (bench_now() - start) / BURST;
        for (int j = 0; j < BURST; j++)
            variant->free(ptrs[j]);
    }
    return bench_median(took, BURSTS);
}

enum { FEW_NS, MANY_NS, METADATA, PAGE_TABLES, LIVE_NUMBERS };

struct live_case {
    const struct variant *variant;
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
            numbers[FEW_NS] = 1e9 * burst(c->variant);
        live[i] = must_have(c->variant, PAGE);
        *live[i] = 1;
    }
    numbers[METADATA] = pages_held() - held - (double)c->live * PAGE;
    numbers[PAGE_TABLES] = proc_bytes("/proc/self/status", "VmPTE:") - tables;
    numbers[MANY_NS] = 1e9 * burst(c->variant);
}

static void measure_live(const struct variant *variant, size_t live)
{
    double n[LIVE_NUMBERS] = {0}, bytes = (double)live * PAGE;
    const double mib = 1 << 20;

    in_child(live_body, &(struct live_case){variant, live}, n, LIVE_NUMBERS);
    bench_row(
        &(struct row){"alloc", "live", variant->name, PAGE, 1, n[MANY_NS], "ns", "1000-live", n[MANY_NS] / n[FEW_NS]});
    bench_row(&(struct row){"alloc", "live-metadata", variant->name, PAGE, 1, n[METADATA] / mib, "MiB", "buffers",
                            n[METADATA] / bytes});
    bench_row(&(struct row){"alloc", "live-page-tables", variant->name, PAGE, 1, n[PAGE_TABLES] / mib, "MiB", "buffers",
                            n[PAGE_TABLES] / bytes});
}

int main(int argc, char **argv)
{
    bool quick = false;
    const struct flag flags[] = {{"--quick", &quick}};

    bench_flags(argc, argv, flags, LENGTH(flags));
    make_room_for_tls(argv);
    load_all();
    /* What runs in children comes first: zc cannot be used in a child of a process that has used it. */
    size_t live = quick ? 300000 : 1000000;
    for (size_t v = 0; v < AGAIN; v++) {
        bench_say("alloc: live, %s, %zu buffers", variants[v].name, live);
        measure_live(&variants[v], live);
    }
    for (size_t c = 0; c < LENGTH(cases); c++) {
        for (size_t i = 0; cases[c].sizes[i]; i += quick ? 2 : 1) {
            if (cases[c].run != larson && cases[c].run != xmalloc)
                continue;
            bench_say("alloc: memory of %s, up to %zu bytes", cases[c].name, cases[c].sizes[i]);
            measure_memory(&cases[c], cases[c].sizes[i], quick);
        }
    }
    for (size_t c = 0; c < LENGTH(cases); c++) {
        for (size_t i = 0; cases[c].sizes[i]; i += quick ? 2 : 1) {
            bench_say("alloc: %s, %zu bytes, threads: %d", cases[c].name, cases[c].sizes[i], cases[c].threads);
            measure(&cases[c], cases[c].sizes[i], quick ? 5 : 11, quick ? 0.03 : 0.05);
        }
    }
    return 0;
}
