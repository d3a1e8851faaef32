/* SPDX-License-Identifier: MIT
 *
 * Bytes that can be told apart: each place of each pattern has its own value, so that a torn, shifted or
 * swapped message never looks right. */
#ifndef TESTS_PATTERN_H
#define TESTS_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#define PATTERN_SAME ((size_t)-1)

void pattern_fill(void *bytes, size_t length, uint64_t seed);

/* The first offset at which the bytes are not the pattern's, or PATTERN_SAME. */
size_t pattern_differs(const void *bytes, size_t length, uint64_t seed);

uint64_t pattern_hash(const void *bytes, size_t length);

/* A generator of random numbers (splitmix64): one word of state, any seed is good. */
uint64_t random_next(uint64_t *state);
uint64_t random_below(uint64_t *state, uint64_t bound);

#endif
