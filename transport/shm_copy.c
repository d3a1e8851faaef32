/* SPDX-License-Identifier: MIT
 *
 * Copying messages that caches do not hold. memcpy reads each line that it is about to overwrite, and drops others for
 * it; stores that go past the caches do neither. The C library does so too, but from three quarters of what it takes
 * for the size of the last cache, which on virtual machines may be right, or many times what there is. So both ways are
 * tried here, to see which is faster. */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "core/clock.h"
#include "transport/shm.h"

#ifdef __SSE2__

enum {
    PAST_CACHES = 8 << 20, /* bytes; below, caches hold both sides */
    TRIAL_EVERY = 64,      /* copies, one is made the way that was slower */
    LINE = 64,
    AHEAD = 16 * LINE
};

/* What they took, in ns for a MiB: within caches and past them; 0: not tried yet. */
static _Atomic uint64_t paces[2];
static _Atomic unsigned copies;

static void copy_line(__m128i *to, const __m128i *from)
{
    _mm_prefetch((const char *)from + AHEAD, _MM_HINT_NTA);
    for (int i = 0; i < 4; i++)
        _mm_stream_si128(to + i, _mm_loadu_si128(from + i));
}

static void copy_past_caches(char *to, const char *from, size_t length)
{
    size_t first = -(uintptr_t)to % LINE, lines = (length - first) / LINE, done = first + lines * LINE;
    memcpy(to, from, first);
    for (size_t i = 0; i < lines; i++)
        copy_line((__m128i *)(uintptr_t)(to + first + i * LINE), (const __m128i *)(uintptr_t)(from + first + i * LINE));
    _mm_sfence(); /* such stores are ordered by nothing else */
    memcpy(to + done, from + done, length - done);
}

static bool goes_past_caches(void)
{
    uint64_t within = atomic_load_explicit(&paces[false], memory_order_relaxed);
    uint64_t past = atomic_load_explicit(&paces[true], memory_order_relaxed);
    bool trial = atomic_fetch_add_explicit(&copies, 1, memory_order_relaxed) % TRIAL_EVERY == TRIAL_EVERY - 1;
    return (past < within) != trial;
}

void shm_copy(char *to, const char *from, size_t length)
{
    if (length < PAST_CACHES) {
        memcpy(to, from, length);
        return;
    }
    uint64_t start = clock_ns();
    bool past = goes_past_caches();
    if (past)
        copy_past_caches(to, from, length);
    else
        memcpy(to, from, length);
    uint64_t pace = (clock_ns() - start) / (length >> 20) + 1;
    uint64_t before = atomic_load_explicit(&paces[past], memory_order_relaxed);
    atomic_store_explicit(&paces[past], before ? (3 * before + pace) / 4 : pace, memory_order_relaxed);
}

#else

void shm_copy(char *to, const char *from, size_t length)
{
    memcpy(to, from, length);
}

#endif
