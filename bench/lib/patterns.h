/* SPDX-License-Identifier: MIT
 *
 * What programs do with allocators. Each pattern is run `count` times and takes that many seconds. */
#ifndef ZC_BENCH_PATTERNS_H
#define ZC_BENCH_PATTERNS_H

#include "bench/lib/allocators.h"

enum {
    MAX_THREADS = 2,
    PLACES = 64,  /* buffers between producer and consumer */
    LEAD_MOST = 7 /* batches that xmalloc's first thread can be ahead, besides what it makes */
};

/* Allocate, store to the first byte, free. */
double first_byte(const struct allocator *allocator, size_t size, int threads, long count);

/* One of two threads allocates and stores to the first byte, the other reads that and frees. */
double producer_consumer(const struct allocator *allocator, size_t size, int threads, long count);

/* As many buffers as can ever be on their way, so that none has to be made while the time is taken. */
void fill_once(const struct allocator *allocator, size_t size);

/* The same in batches, with random sizes from a page to `size`, small ones as likely as large ones, and every page
 * used. */
double xmalloc(const struct allocator *allocator, size_t size, int threads, long count);

/* The same in strict turns: a batch is freed when `lead` more have been made, and the next one made when that is done.
 * So between `lead` batches and one more live at each time, whatever allocator it is and whoever gets the
 * processors. */
double xmalloc_in_step(const struct allocator *allocator, size_t size, int lead, long count);

/* Each thread replaces random ones of a thousand live buffers of such sizes, and its successor frees them. */
double larson(const struct allocator *allocator, size_t size, int threads, long count);

#endif
