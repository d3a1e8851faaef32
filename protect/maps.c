/* SPDX-License-Identifier: MIT */
#include "protect/maps.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "alloc/pool.h"

enum {
    BALLAST_PAGES = 256, /* every second one readable: as many mappings */
    BALLAST_STEP = 16,
    MARGIN = 1024 /* for what the process maps later: libraries, heaps, stacks */
};

static _Atomic long left;
static char *ballast;
static _Atomic int ballast_pages;

static long limit(void)
{
    long most = 65530; /* the kernel's default */
    char line[32] = "";
    FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
    if (file) {
        if (fgets(line, sizeof line, file) && *line >= '0' && *line <= '9')
            most = strtol(line, NULL, 10);
        fclose(file);
    }
    file = fopen("/proc/self/maps", "re");
    if (file) {
        for (int c; (c = fgetc(file)) != EOF;)
            most -= c == '\n';
        fclose(file);
    }
    return most - MARGIN;
}

void maps_account(struct slot *slot, int sign)
{
    bool displaced = atomic_load(&slot->backing) != slot_home(slot);
    maps_force(sign * (slot->maps + (displaced ? MAPS_SPLIT : 0)));
}

void maps_open(unsigned long override)
{
    long most = override ? (long) override : limit();
    /* A limit too small for a ballast is too small for protection: nothing can be claimed then. */
    if (!override && most > 4 * BALLAST_PAGES) {
        ballast = sys_mmap(NULL, BALLAST_PAGES * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; ballast && i < BALLAST_PAGES; i += 2)
            sys_mprotect(ballast + i * PAGE_BYTES, PAGE_BYTES, PROT_READ);
        if (ballast)
            atomic_store(&ballast_pages, BALLAST_PAGES);
        most -= BALLAST_PAGES;
    }
    atomic_store(&left, most > 0 ? most : 0);
}

/* None can be had where some are owed, too. */
static bool enough(long now, int n)
{
    return n == 0 || now >= n;
}

bool maps_can_claim(int n)
{
    return enough(atomic_load_explicit(&left, memory_order_relaxed), n);
}

bool maps_claim(int n)
{
    long now = atomic_load_explicit(&left, memory_order_relaxed);
    while (enough(now, n))
        if (atomic_compare_exchange_weak_explicit(&left, &now, now - n, memory_order_relaxed, memory_order_relaxed))
            return true;
    return false;
}

void maps_force(int n)
{
    atomic_fetch_sub_explicit(&left, n, memory_order_relaxed);
}

void maps_unclaim(int n)
{
    atomic_fetch_add_explicit(&left, n, memory_order_relaxed);
}

bool maps_drop_ballast(void)
{
    int pages = atomic_fetch_sub(&ballast_pages, BALLAST_STEP);
    if (pages < BALLAST_STEP) {
        atomic_fetch_add(&ballast_pages, BALLAST_STEP);
        return false;
    }
    return sys_munmap(ballast + (size_t)(pages - BALLAST_STEP) * PAGE_BYTES, BALLAST_STEP * PAGE_BYTES) == 0;
}
