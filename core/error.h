/* SPDX-License-Identifier: MIT
 *
 * Errors: a negative errno and, for the thread, a message that says what was done to what. */
#ifndef ZC_CORE_ERROR_H
#define ZC_CORE_ERROR_H

#include <stddef.h>
#include <stdint.h>

/* Sets the thread's message and returns `error`. */
int fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for functions that return a pointer: sets errno, returns NULL. */
void *fail_null(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints the thread's message on stderr, for misuse whose return code few callers look at. */
void error_print(void);

/* Text for a signal handler: no stdio, no heap, cut where it is full. */
struct text {
    size_t length;
    char bytes[512];
};

void text_add(struct text *t, const char *s);
void text_add_number(struct text *t, uint64_t n, unsigned base);
void text_print(const struct text *t); /* to stderr */

#endif
