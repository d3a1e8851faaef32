/* SPDX-License-Identifier: MIT
 *
 * Monotonic nanoseconds. Signal-safe (vDSO). */
#ifndef ZC_CORE_CLOCK_H
#define ZC_CORE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* The same in seconds, for next to nothing. */
static inline uint64_t clock_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (uint64_t)ts.tv_sec;
}

#endif
