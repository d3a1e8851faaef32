/* SPDX-License-Identifier: MIT
 *
 * Addresses of communicators: scheme[:name][?key=value[&key=value]...] */
#ifndef ZC_TRANSPORT_ADDRESS_H
#define ZC_TRANSPORT_ADDRESS_H

#include <stdint.h>

enum { ADDRESS_KEYS = 10, ADDRESS_BYTES = 256 };

struct address {
    const char *scheme, *name; /* name "" if there is none */
    struct {
        const char *key, *value;
    } parameters[ADDRESS_KEYS];
    int count;
    const char *origin, *whole; /* for errors: the variable or option that it stands in, and all of it; or NULL */
    char text[ADDRESS_BYTES];   /* what the pointers point into */
};

/* 0, or -EINVAL with a message that points at the place. */
int address_parse(const char *text, struct address *address);

/* The number of a key, or `initial` where it is not given. -EINVAL with a message if it is not a number of
 * least..most. */
int address_number(const struct address *address, const char *key, uint64_t least, uint64_t most, uint64_t initial,
                   uint64_t *value);

/* The value of a key, or `initial` where it is not given. */
const char *address_text(const struct address *address, const char *key, const char *initial);

/* -EINVAL with a message if there is a key that is not in `known`, which ends with NULL. */
int address_check_keys(const struct address *address, const char *const known[]);

/* -EINVAL with a message if there is a name or a parameter. */
int address_check_bare(const struct address *address);

/* What stands at `origin` could not be opened: puts that before the thread's message, and what was to be `expected`
 * there ("" or ", expected ..."). Nothing where there is no origin. Returns `error`. */
int address_refused(const char *origin, const char *whole, const char *expected, int error);

#endif
