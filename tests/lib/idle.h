/* SPDX-License-Identifier: MIT
 *
 * How idle a process or thread was. Neither figure grows when others keep the processors busy. */
#ifndef TESTS_LIB_IDLE_H
#define TESTS_LIB_IDLE_H

#include <sys/resource.h>

#include "check.h"

enum { IDLE_US_MOST = 200000 };

/* `who` as of getrusage. */
static inline struct rusage idle_starts(int who)
{
    struct rusage now;

    CHECK(getrusage(who, &now) == 0);
    return now;
}

static inline long idle_us(const struct timeval *time)
{
    return time->tv_sec * 1000000L + time->tv_usec;
}

/* It has used next to no processor time since, and was woken less than so often. */
static inline void check_idle(int who, const struct rusage *before, long wakes_most)
{
    struct rusage after = idle_starts(who);
    long us =
        idle_us(&after.ru_utime) + idle_us(&after.ru_stime) - idle_us(&before->ru_utime) - idle_us(&before->ru_stime);
    long wakes = after.ru_nvcsw - before->ru_nvcsw;

    CHECKF(us < IDLE_US_MOST, "it used %ld us of a processor", us);
    CHECKF(wakes < wakes_most, "it was woken %ld times", wakes);
}

#endif
