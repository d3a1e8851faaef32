/* SPDX-License-Identifier: MIT
 *
 * What the examples of guards on files share. */
#ifndef EXAMPLES_GUARD_H
#define EXAMPLES_GUARD_H

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zc.h>

#define LENGTH ((size_t)1 << 20)

static inline void must(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s failed: %s; %s\n", what, strerror(errno), zc_errmsg());
    exit(1);
}

static inline int all(const char *bytes, char value)
{
    for (size_t i = 0; i < LENGTH; i++)
        if (bytes[i] != value)
            return 0;
    return 1;
}

#endif
