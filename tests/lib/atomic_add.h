/* SPDX-License-Identifier: MIT */
#ifndef TESTS_ATOMIC_ADD_H
#define TESTS_ATOMIC_ADD_H

#include <stdint.h>

/* An atomic store to memory that may be protected. ThreadSanitizer turns C's atomics into calls that fault while
 * they hold a lock of its own, which the atomics of zc's handler then wait for: hence the instruction itself. */
static inline void atomic_add(void *word, uint64_t n)
{
#if defined(__x86_64__)
    __asm__ __volatile__("lock addq %1, (%0)" : : "r"(word), "r"(n) : "memory", "cc");
#else
    __atomic_fetch_add((uint64_t *)word, n, __ATOMIC_SEQ_CST);
#endif
}

#endif
