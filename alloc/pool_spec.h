/* SPDX-License-Identifier: MIT
 *
 * How ZC_POOLS describes a pool. */
#ifndef ZC_ALLOC_POOL_SPEC_H
#define ZC_ALLOC_POOL_SPEC_H

#include <stddef.h>

#include "zc.h"

/* One `SIZE:SLOTS[:from=SIZE][:cap=N][:huge|:hugetlb|:hugetlb-only|:small][:grow|:fallback|:fail]` with an optional
 * `:mprotect` or `:userfaultfd`; returns its end, or NULL with *bad at the character that was not understood and *wanted saying what was. */
const char *pool_spec_parse(const char *at, zc_pool_options *options, size_t *from, const char **bad,
                            const char **wanted);

#endif
