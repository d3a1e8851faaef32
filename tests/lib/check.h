/* SPDX-License-Identifier: MIT
 *
 * Checks for every kind of test process: a Criterion worker, a rank's thread, a child under mpiexec.
 * A failed check says where and why on stderr and aborts, which all of those notice; Criterion's own
 * assertions jump out of the test and so must not be used off its main thread. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "zc.h"

/* What this thread is doing, for the message of a failed check; may be NULL. */
extern _Thread_local const char *check_scene;

/* Called before a failed check aborts, to say more; may be NULL. */
extern void (*check_last_words)(void);

_Noreturn void check_failed(const char *file, int line, const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void check_result(const char *file, int line, const char *call, int result, int expected);
void check_says(const char *file, int line, const char *text);

#define CHECK(condition) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition, "does not hold"))

/* The same with a message: CHECKF(a == b, "a is %d", a). */
#define CHECKF(condition, ...) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__))

/* A call of zc returns exactly this. */
#define CHECK_IS(call, expected) check_result(__FILE__, __LINE__, #call, (call), (expected))
#define CHECK_OK(call) CHECK_IS(call, 0)

/* A call of zc fails with this error, and zc_errmsg() contains `text`. */
#define CHECK_FAILS(call, expected, text)                                                                              \
    (check_result(__FILE__, __LINE__, #call, (call), (expected)), check_says(__FILE__, __LINE__, (text)))

/* The bytes are those that pattern_fill(…, seed) wrote. */
void check_pattern(const char *file, int line, const void *bytes, size_t length, unsigned long long seed);
#define CHECK_PATTERN(bytes, length, seed) check_pattern(__FILE__, __LINE__, (bytes), (length), (seed))

/* The bytes are all `value`. */
void check_bytes(const char *file, int line, const void *bytes, size_t length, unsigned char value);
#define CHECK_BYTES(bytes, length, value) check_bytes(__FILE__, __LINE__, (bytes), (length), (value))

/* Nothing has left this thread's signals blocked, or the thread safe from being cancelled. */
void check_signals(const char *file, int line);
#define CHECK_SIGNALS() check_signals(__FILE__, __LINE__)

/* zc_alloc that must succeed. */
void *check_alloc(const char *file, int line, size_t size);
#define ALLOC(size) check_alloc(__FILE__, __LINE__, (size))

zc_stats stats_now(void);

#endif
