/* SPDX-License-Identifier: MIT
 *
 * How ZC_POOLS describes a pool. */
#ifndef ZC_ALLOC_POOL_SPEC_H
#define ZC_ALLOC_POOL_SPEC_H

#include <stddef.h>

#include "zc.h"

/* One `SIZE:SLOTS[:from=SIZE][:cap=N][:huge|:hugetlb|:hugetlb-only|:small][:grow|:fallback|:fail]` with an optional
 * `:mprotect` or `:userfaultfd`, from *at to its end. NULL; or what was wanted at *at, where it was not understood. */
const char *pool_spec_parse(const char **at, zc_pool_options *options, size_t *from);

#endif
