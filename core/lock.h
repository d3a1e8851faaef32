/* SPDX-License-Identifier: MIT
 *
 * A mutex of four bytes that a signal handler may take: no allocation, no cancellation point, nothing but
 * one futex word. It is never held by a thread that touches a user mapping, so a fault handler that takes
 * it waits for a running thread at most.
 *
 * States: 0 free, 1 taken, 2 taken and somebody sleeps (U. Drepper, "Futexes Are Tricky", mutex 2). */
#ifndef ZC_CORE_LOCK_H
#define ZC_CORE_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/sys.h"

typedef struct lock {
    _Atomic uint32_t word;
} lock;

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static inline bool lock_try(lock *l)
{
    uint32_t free = 0;
    return atomic_compare_exchange_strong_explicit(&l->word, &free, 1, memory_order_acquire, memory_order_relaxed);
}

static inline void lock_take(lock *l)
{
    if (lock_try(l))
        return;
    for (int spin = 0; spin < 100; spin++) {
        cpu_relax();
        if (lock_try(l))
            return;
    }
    while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) != 0)
        futex_wait(&l->word, 2, UINT64_MAX);
}

static inline void lock_drop(lock *l)
{
    if (atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2)
        futex_wake(&l->word);
}

#endif
