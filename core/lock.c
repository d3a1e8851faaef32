/* SPDX-License-Identifier: MIT */
#include "core/lock.h"

#include "core/sys.h"

enum { SPINS = 100 };

_Thread_local uint32_t lock_known_self __attribute__((tls_model("initial-exec")));

uint32_t lock_learn_self(void)
{
    return lock_known_self = (uint32_t)sys_tid();
}

void lock_wait(lock *l)
{
    for (int spin = 0; spin < SPINS; spin++) {
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

void lock_wake(lock *l)
{
    futex_wake(&l->word);
}
