/* SPDX-License-Identifier: MIT
 *
 * A mutex of four bytes that a signal handler may take: no allocation, no cancellation point, nothing but
 * one futex word. It is never held by a thread that touches a user mapping, so a fault handler that takes
 * it waits for a running thread at most.
 *
 * The word is 0 or the thread that has it, with a bit for somebody asleep (U. Drepper, "Futexes Are Tricky", mutex 2). */
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

#define LOCK_ASLEEP 0x80000000u

static inline uint32_t lock_self(void)
{
    /* Initial-exec, so that the first access in a handler allocates nothing. */
    static _Thread_local __attribute__((tls_model("initial-exec"))) uint32_t self;
    if (!self)
        self = (uint32_t)sys_tid();
    return self;
}

static inline bool lock_try_as(lock *l, uint32_t owner)
{
    uint32_t free = 0;
    return atomic_compare_exchange_strong_explicit(&l->word, &free, owner, memory_order_acquire, memory_order_relaxed);
}

static inline bool lock_try(lock *l)
{
    return lock_try_as(l, lock_self());
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
    while (!lock_try_as(l, lock_self() | LOCK_ASLEEP)) {
        uint32_t now = atomic_load_explicit(&l->word, memory_order_relaxed);
        if (now &&
            (now & LOCK_ASLEEP || atomic_compare_exchange_strong_explicit(&l->word, &now, now | LOCK_ASLEEP,
                                                                          memory_order_relaxed, memory_order_relaxed)))
            futex_wait(&l->word, now | LOCK_ASLEEP, UINT64_MAX);
    }
}

static inline void lock_drop(lock *l)
{
    if (atomic_exchange_explicit(&l->word, 0, memory_order_release) & LOCK_ASLEEP)
        futex_wake(&l->word);
}

/* Does this thread have it? */
static inline bool lock_mine(lock *l)
{
    return (atomic_load_explicit(&l->word, memory_order_relaxed) & ~LOCK_ASLEEP) == lock_self();
}

#endif
