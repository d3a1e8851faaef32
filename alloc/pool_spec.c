/* SPDX-License-Identifier: MIT */
#include "alloc/pool_spec.h"

#include <string.h>

#include "core/options.h"

/* What comes next is taken from *at; or it is left there, and what was wanted is returned. */

static const char *take_size_and_slots(const char **at, zc_pool_options *options)
{
    uint64_t number;
    const char *end = parse_size(*at, &number);
    if (!end || number == 0)
        return "a slot size such as 64K";
    options->slot_size = number;
    *at = end;
    if (**at != ':')
        return "':' and a number of slots";
    end = parse_size(++*at, &number);
    if (!end)
        return "a number of slots";
    options->initial = number;
    *at = end;
    return NULL;
}

static const char *take_cap(const char **at, zc_pool_options *options)
{
    uint64_t number;
    const char *end = parse_size(*at, &number);
    if (!end || number == 0 || number < options->initial)
        return "a number, at least that of the slots and 1";
    options->cap = number;
    *at = end;
    return NULL;
}

static const char *take_from(const char **at, const zc_pool_options *options, size_t *from)
{
    const char *end = parse_size(*at, from);
    if (!end || *from > options->slot_size)
        return "a size, at most that of a slot";
    *at = end;
    return NULL;
}

static const char *take_word(const char **at, zc_pool_options *options)
{
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
    size_t length = strcspn(*at, ":,"), i = 0;
    while (i < sizeof words / sizeof words[0] &&
           (strlen(words[i].word) != length || strncmp(words[i].word, *at, length) != 0))
        i++;
    if (i == sizeof words / sizeof words[0])
        return "from=SIZE, cap=N, huge, hugetlb, hugetlb-only, small, grow, fallback, fail, mprotect or userfaultfd";
    options->huge = words[i].huge ? words[i].huge : options->huge;
    options->full = words[i].full ? words[i].full : options->full;
    options->protect = words[i].protect ? words[i].protect : options->protect;
    *at += length;
    return NULL;
}

static bool skip(const char **at, const char *text)
{
    bool there = strncmp(*at, text, strlen(text)) == 0;
    *at += there ? strlen(text) : 0;
    return there;
}

const char *pool_spec_parse(const char **at, zc_pool_options *options, size_t *from)
{
    const char *wanted = take_size_and_slots(at, options);
    while (!wanted && skip(at, ":")) {
        if (skip(at, "cap="))
            wanted = take_cap(at, options);
        else if (skip(at, "from="))
            wanted = take_from(at, options, from);
        else
            wanted = take_word(at, options);
    }
    if (!wanted && **at && **at != ',')
        wanted = "':', ',' or the end";
    return wanted;
}
