/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pattern.h"

_Thread_local const char *check_scene;
void (*check_last_words)(void);

void check_failed(const char *file, int line, const char *what, const char *format, ...)
{
    char text[1024];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s:%d: %s%s%s: %s\n", file, line, check_scene ? check_scene : "", check_scene ? ": " : "", what,
            text);
    if (check_last_words)
        check_last_words();
    fflush(NULL);
    abort();
}

void check_result(const char *file, int line, const char *call, int result, int expected)
{
    if (result != expected)
        check_failed(file, line, call, "is %d (%s), not %d; zc_errmsg: \"%s\"", result,
                     result < 0 ? zc_strerror(result) : "no error", expected, zc_errmsg());
}

void check_says(const char *file, int line, const char *text)
{
    if (!strstr(zc_errmsg(), text))
        check_failed(file, line, "zc_errmsg()", "\"%s\" does not name \"%s\"", zc_errmsg(), text);
}

void check_pattern(const char *file, int line, const void *bytes, size_t length, unsigned long long seed)
{
    size_t at = pattern_differs(bytes, length, seed);

    if (at != PATTERN_SAME)
        check_failed(file, line, "pattern", "byte %zu of %zu is 0x%02x (pattern %llu)", at, length,
                     ((const volatile unsigned char *)bytes)[at], seed);
}

void check_bytes(const char *file, int line, const void *bytes, size_t length, unsigned char value)
{
    const volatile unsigned char *p = bytes;

    for (size_t i = 0; i < length; i++)
        if (p[i] != value)
            check_failed(file, line, "bytes", "byte %zu of %zu is 0x%02x, not 0x%02x", i, length, p[i], value);
}

void check_signals(const char *file, int line)
{
    sigset_t blocked;
    int cancel;

    if (pthread_sigmask(SIG_BLOCK, NULL, &blocked) || sigismember(&blocked, SIGTERM))
        check_failed(file, line, "signals", "are still blocked");
    if (pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &cancel) || cancel != PTHREAD_CANCEL_ENABLE)
        check_failed(file, line, "cancellation", "is still off");
}

void *check_alloc(const char *file, int line, size_t size)
{
    void *p = zc_alloc(size);

    if (!p)
        check_failed(file, line, "zc_alloc", "%zu bytes: %s; zc_errmsg: \"%s\"", size, strerror(errno), zc_errmsg());
    return p;
}

zc_stats stats_now(void)
{
    zc_stats stats = {.size = sizeof stats};

    CHECK_OK(zc_stats_get(&stats));
    return stats;
}
