/* SPDX-License-Identifier: MIT */
#include "bench/lib/patterns.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "bench/lib/bench.h"

/* ---- threads that start together ---- */

struct task {
    void *(*body)(void *task);
    const struct allocator *allocator;
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
static void fill_tasks(struct task *tasks, int n, const struct allocator *allocator, size_t size, long count)
{
    for (int i = 0; i < n; i++)
        tasks[i] = (struct task){.allocator = allocator, .size = size, .count = count, .random = (uint64_t)i + 1};
}

/* ---- random sizes ---- */

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
    volatile char *ptr = must_have(task->allocator, size);
    for (size_t at = 0; at < size; at += PAGE)
        ptr[at] = 1;
    return (void *)ptr;
}

/* ---- first-byte ---- */

static void *first_byte_body(void *arg)
{
    struct task *task = arg;

    pthread_barrier_wait(task->start);
    double start = bench_now();
    for (long i = 0; i < task->count; i++) {
        volatile char *ptr = must_have(task->allocator, task->size);
        *ptr = 1;
        task->allocator->free((void *)ptr);
    }
    task->took = bench_now() - start;
    return NULL;
}

double first_byte(const struct allocator *allocator, size_t size, int threads, long count)
{
    struct task tasks[MAX_THREADS];

    fill_tasks(tasks, threads, allocator, size, count);
    for (int i = 0; i < threads; i++)
        tasks[i].body = first_byte_body;
    return run_tasks(tasks, threads);
}

/* ---- producer-consumer and xmalloc ---- */

enum { BATCH = 64, BATCHES = LEAD_MOST + 1 };

struct ring {
    atomic_long put;
    void *items[PLACES]; /* also keeps the two counters on lines of their own */
    atomic_long taken;
    long lead;         /* batches that live at least; negative: as it comes */
    atomic_long freed; /* batches */
};

static void await(atomic_long *counter, long value)
{
    while (atomic_load_explicit(counter, memory_order_acquire) < value)
        sched_yield();
}

static void ring_put(struct ring *ring, long i, long places, void *item)
{
    await(&ring->taken, i - places + 1);
    ring->items[i % places] = item;
    atomic_store_explicit(&ring->put, i + 1, memory_order_release);
}

static void *ring_take(struct ring *ring, long i, long places)
{
    await(&ring->put, i + 1);
    void *item = ring->items[i % places];
    atomic_store_explicit(&ring->taken, i + 1, memory_order_release);
    return item;
}

static void *producer(void *arg)
{
    struct task *task = arg;

    pthread_barrier_wait(task->start);
    for (long i = 0; i < task->count; i++) {
        volatile char *ptr = must_have(task->allocator, task->size);
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
            bench_die("alloc: %s: a byte was lost", task->allocator->name);
        task->allocator->free((void *)ptr);
    }
    task->took = bench_now() - start;
    return NULL;
}

static void *batch_producer(void *arg)
{
    struct task *task = arg;
    struct ring *ring = task->with;

    pthread_barrier_wait(task->start);
    for (long i = 0; i < task->count / BATCH; i++) {
        if (ring->lead >= 0)
            await(&ring->freed, i - ring->lead);
        void **batch = calloc(BATCH, sizeof *batch);
        for (int j = 0; j < BATCH; j++)
            batch[j] = random_buffer(task);
        ring_put(ring, i, BATCHES, batch);
    }
    return NULL;
}

static void *batch_consumer(void *arg)
{
    struct task *task = arg;
    struct ring *ring = task->with;
    long batches = task->count / BATCH;

    pthread_barrier_wait(task->start);
    double start = bench_now();
    for (long i = 0; i < batches; i++) {
        if (ring->lead >= 0)
            await(&ring->put, i + ring->lead < batches ? i + ring->lead + 1 : batches);
        void **batch = ring_take(ring, i, BATCHES);
        for (int j = 0; j < BATCH; j++)
            task->allocator->free(batch[j]);
        free(batch);
        atomic_store_explicit(&ring->freed, i + 1, memory_order_release);
    }
    task->took = bench_now() - start;
    return NULL;
}

static double hand_over(void *(*from)(void *), void *(*to)(void *), const struct allocator *allocator, size_t size,
                        long count, long lead)
{
    struct ring ring = {.lead = lead};
    struct task tasks[2];

    fill_tasks(tasks, 2, allocator, size, count);
    tasks[0].body = from;
    tasks[1].body = to;
    tasks[0].with = tasks[1].with = &ring;
    return run_tasks(tasks, 2);
}

double producer_consumer(const struct allocator *allocator, size_t size, int threads, long count)
{
    (void)threads;
    return hand_over(producer, consumer, allocator, size, count, -1);
}

void fill_once(const struct allocator *allocator, size_t size)
{
    void *ptrs[PLACES + 2];

    for (int i = 0; i < PLACES + 2; i++)
        ptrs[i] = must_have(allocator, size);
    for (int i = 0; i < PLACES + 2; i++)
        allocator->free(ptrs[i]);
}

double xmalloc(const struct allocator *allocator, size_t size, int threads, long count)
{
    (void)threads;
    return hand_over(batch_producer, batch_consumer, allocator, size, count, -1);
}

double xmalloc_in_step(const struct allocator *allocator, size_t size, int lead, long count)
{
    return hand_over(batch_producer, batch_consumer, allocator, size, count, lead);
}

/* ---- larson ---- */

enum { SET = 1000, GENERATIONS = 4 };

static void *larson_body(void *arg)
{
    struct task *task = arg;
    void **set = task->with;

    pthread_barrier_wait(task->start);
    double start = bench_now();
    for (long i = 0; i < task->count; i++) {
        size_t k = next_random(&task->random) % SET;
        task->allocator->free(set[k]);
        set[k] = random_buffer(task);
    }
    task->took = bench_now() - start;
    return NULL;
}

double larson(const struct allocator *allocator, size_t size, int threads, long count)
{
    struct task tasks[MAX_THREADS];
    void *sets[MAX_THREADS][SET];
    double took = 0;

    fill_tasks(tasks, threads, allocator, size, count / GENERATIONS);
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
            allocator->free(sets[i][k]);
    return took;
}
