/* SPDX-License-Identifier: MIT
 *
 * A mutex of four bytes that a signal handler may take: no allocation, no cancellation point, nothing but
 * one futex word. It is never held by a thread that touches a user mapping, so a fault handler that takes
 * it waits for a running thread at most.
 *
 * The word is 0 or the thread that has it, with a bit for somebody asleep (U. Drepper, "Futexes Are Tricky", mutex
 * 2). */
#ifndef ZC_CORE_LOCK_H
#define ZC_CORE_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

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

/* This thread, or 0 until it is known. Initial-exec, so that the first access in a handler allocates nothing. */
extern _Thread_local uint32_t lock_known_self __attribute__((tls_model("initial-exec")));

/* What is rare, out of the way of what is not. */
uint32_t lock_learn_self(void) __attribute__((cold));
void lock_wait(lock *l) __attribute__((cold)); /* takes it when it comes free */
void lock_wake(lock *l) __attribute__((cold)); /* whoever sleeps on it */

static inline uint32_t lock_self(void)
{
    return lock_known_self ? lock_known_self : lock_learn_self();
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
    if (!lock_try(l))
        lock_wait(l);
}

static inline void lock_drop(lock *l)
{
    if (atomic_exchange_explicit(&l->word, 0, memory_order_release) & LOCK_ASLEEP)
        lock_wake(l);
}

/* The thread that has it, or 0. */
static inline uint32_t lock_owner(lock *l)
{
    return atomic_load_explicit(&l->word, memory_order_relaxed) & ~LOCK_ASLEEP;
}

static inline bool lock_mine(lock *l)
{
    return lock_owner(l) == lock_self();
}

#endif
