/* SPDX-License-Identifier: MIT */
#include "tools/zc/measure.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/sys.h"

enum { ROUNDS = 9 };

static volatile char *faulting;

static void unprotect_page(int signal)
{
    (void)signal;
    sys_mprotect((void *)(uintptr_t)faulting, PAGE_BYTES, PROT_READ | PROT_WRITE);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t median(uint64_t values[ROUNDS])
{
    qsort(values, ROUNDS, sizeof *values, by_value);
    return values[ROUNDS / 2];
}

static void touch(volatile char *at, size_t size)
{
    for (size_t i = 0; i < size; i += PAGE_BYTES)
        at[i] = 1;
}

static void rounds(char *user, char *other, size_t size, struct costs *costs)
{
    uint64_t copy[ROUNDS], protect[ROUNDS], unprotect[ROUNDS], fault[ROUNDS];
    struct sigaction mine = {.sa_handler = unprotect_page, .sa_flags = SA_NODEFER}, before;
    sigaction(SIGSEGV, &mine, &before);
    faulting = user;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = clock_ns();
        memcpy(other, user, size);
        copy[i] = clock_ns() - start;

        start = clock_ns();
        sys_mprotect(user, size, PROT_READ);
        protect[i] = clock_ns() - start;

        start = clock_ns();
        *faulting = 1;
        fault[i] = clock_ns() - start;

        sys_mprotect(user, size, PROT_READ);
        start = clock_ns();
        sys_mprotect(user, size, PROT_READ | PROT_WRITE);
        unprotect[i] = clock_ns() - start;
        touch(user, size);
    }
    sigaction(SIGSEGV, &before, NULL);
    costs->copy = median(copy);
    costs->protect = median(protect);
    costs->unprotect = median(unprotect);
    costs->fault = median(fault);
}

int measure(size_t size, struct costs *costs)
{
    enum { RW = PROT_READ | PROT_WRITE };
    int fd = memfd_create("zc-measure", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = sys_may_grow(2 * size);
    if (!error && ftruncate(fd, (off_t)(2 * size)))
        error = -errno;
    char *wire = error ? NULL : sys_mmap(NULL, 2 * size, RW, MAP_SHARED, fd, 0);
    char *user = wire ? sys_mmap(NULL, size, RW, MAP_SHARED, fd, 0) : NULL;
    if (user) {
        uint64_t start = clock_ns();
        touch(wire, size);
        costs->touch = clock_ns() - start;
        touch(wire + size, size);
        touch(user, size);
        rounds(user, wire + size, size, costs);
        sys_munmap(user, size);
    } else if (!error) {
        error = -errno;
    }
    if (wire)
        sys_munmap(wire, 2 * size);
    close(fd);
    return error;
}
