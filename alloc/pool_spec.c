/* SPDX-License-Identifier: MIT */
#include "alloc/pool_spec.h"

#include <string.h>

#include "core/options.h"

const char *pool_spec_parse(const char *at, zc_pool_options *options, size_t *from, const char **bad,
                            const char **wanted)
{
    uint64_t number;
    *bad = at;
    *wanted = "a slot size such as 64K";
    at = parse_size(at, &number);
    if (!at || number == 0)
        return NULL;
    options->slot_size = number;
    *bad = at;
    *wanted = "':' and a number of slots";
    if (*at++ != ':')
        return NULL;
    *bad = at;
    *wanted = "a number of slots";
    at = parse_size(at, &number);
    if (!at)
        return NULL;
    options->initial = number;
    while (*at == ':') {
        static const struct {
            const char *word;
            enum zc_huge huge;
            enum zc_full full;
            enum zc_protect protect;
        } words[] = {{"huge", ZC_HUGE_ALWAYS, 0, 0},
                     {"hugetlb", ZC_HUGE_HUGETLB, 0, 0},
                     {"hugetlb-only", ZC_HUGE_HUGETLB_ONLY, 0, 0},
                     {"small", ZC_HUGE_NEVER, 0, 0},
                     {"grow", 0, ZC_FULL_GROW, 0},
                     {"fallback", 0, ZC_FULL_FALLBACK, 0},
                     {"fail", 0, ZC_FULL_FAIL, 0},
                     {"mprotect", 0, 0, ZC_PROTECT_MPROTECT},
                     {"userfaultfd", 0, 0, ZC_PROTECT_USERFAULTFD}};
        *bad = ++at;
        *wanted = "from=SIZE, cap=N, huge, hugetlb, hugetlb-only, small, grow, fallback, fail, mprotect or userfaultfd";
        size_t length = strcspn(at, ":,"), i = 0;
        if (strncmp(at, "cap=", 4) == 0) {
            *bad = at += 4;
            *wanted = "a number, at least that of the slots and 1";
            at = parse_size(at, &number);
            if (!at || number == 0 || number < options->initial)
                return NULL;
            options->cap = number;
            continue;
        }
        if (strncmp(at, "from=", 5) == 0) {
            *bad = at += 5;
            *wanted = "a size, at most that of a slot";
            at = parse_size(at, from);
            if (!at || *from > options->slot_size)
                return NULL;
            continue;
        }
        while (i < sizeof words / sizeof words[0] &&
               (strlen(words[i].word) != length || strncmp(words[i].word, at, length) != 0))
            i++;
        if (i == sizeof words / sizeof words[0])
            return NULL;
        options->huge = words[i].huge ? words[i].huge : options->huge;
        options->full = words[i].full ? words[i].full : options->full;
        options->protect = words[i].protect ? words[i].protect : options->protect;
        at += length;
    }
    *bad = at;
    *wanted = "':', ',' or the end";
    return *at == ',' || !*at ? at : NULL;
}
