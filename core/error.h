/* SPDX-License-Identifier: MIT
 *
 * Errors: a negative errno and, for the thread, a message that says what was done to what. */
#ifndef ZC_CORE_ERROR_H
#define ZC_CORE_ERROR_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

enum { ERROR_BYTES = 512 }; /* of a message, its end included */

/* Sets the thread's message, which may be an argument itself: zc_errmsg(). */
void error_say(const char *format, ...) __attribute__((cold, format(printf, 1, 2)));

/* The same, as the value to return: `error`, a negative errno; a macro so that compilers see that it is one. */
#define fail(error, ...) (error_say(__VA_ARGS__), (error))

/* For functions that return a pointer: set errno, are NULL. */
#define null_with(error) (errno = -(error), NULL)
#define fail_null(error, ...) (error_say(__VA_ARGS__), null_with(error))

/* An error for calls to come, of what is done once. */
struct kept_error {
    int error; /* 0: none */
    char message[ERROR_BYTES];
};

/* Keeps `error` and the thread's message. */
void error_keep(struct kept_error *kept, int error);

/* Returns what was kept, and sets the message if it is an error. */
int error_again(const struct kept_error *kept);

/* Puts the thread's message back, where what has failed since is no error of the call. */
void error_restore(const struct kept_error *kept);

/* As strerror, but it takes no lock, which the caller of malloc, that is to say of this library, might hold. */
const char *error_text(int error);

/* Prints the thread's message on stderr, for misuse whose return code few callers look at. */
void error_print(void);

/* Text for a signal handler: no stdio, no heap, cut where it is full. */
struct text {
    size_t length;
    char bytes[520]; /* a whole message of zc_errmsg(), and its frame */
};

void text_add(struct text *t, const char *s);
void text_add_number(struct text *t, uint64_t n);
void text_add_address(struct text *t, const void *address);
void text_print(const struct text *t); /* to stderr */

#endif
