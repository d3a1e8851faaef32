/* SPDX-License-Identifier: MIT */
#ifndef TESTS_USERFAULTFD_H
#define TESTS_USERFAULTFD_H

#include <stdbool.h>

/* Does ZC_PROTECT ask for userfaultfd? */
bool on_userfaultfd(void);

/* To be called first. Where ZC_PROTECT asks for what cannot be had, mprotect would serve, and tests would pass that
 * test something else: the program ends with 77, skipped, or in CI with 1. */
void userfaultfd_or_skip(void);

#endif
