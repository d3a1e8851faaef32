/* SPDX-License-Identifier: MIT
 *
 * Raw system calls of the library, which a test makes itself, or not: it defines on_syscall. */
#ifndef ZC_TESTS_UNIT_INTERPOSE_H
#define ZC_TESTS_UNIT_INTERPOSE_H

#include <dlfcn.h>
#include <stdarg.h>
#include <unistd.h>

/* Instead of each. Its result is the call's; -1 with errno as of libc's syscall(2). */
static long on_syscall(long number, const long a[6]);

static long real_syscall(long number, const long a[6])
{
    static long (*real)(long, ...);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* It reads six arguments whether or not the caller has given as many, as the C library's does. */
// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
__attribute__((no_sanitize("address"))) long syscall(long number, ...)
{
    va_list list;
    va_start(list, number);
    long a[6];
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    return on_syscall(number, a);
}

#endif
