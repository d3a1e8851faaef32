/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "transport/shm.h"

enum { LARGE = 8 << 20, EDGE = 128 };

static void check(size_t to_offset, size_t from_offset, size_t length)
{
    char *from = malloc(LARGE + 4 * EDGE), *to = malloc(LARGE + 4 * EDGE);
    for (size_t i = 0; i < LARGE + 4 * EDGE; i++)
        from[i] = (char)(i * 31 >> 3);
    memset(to, 0x55, LARGE + 4 * EDGE);
    shm_copy(to + EDGE + to_offset, from + from_offset, length);
    cr_assert(memcmp(to + EDGE + to_offset, from + from_offset, length) == 0, "%zu bytes, from +%zu to +%zu", length,
              from_offset, to_offset);
    for (size_t i = 0; i < EDGE; i++) {
        cr_assert_eq(to[to_offset + i], 0x55, "before");
        cr_assert_eq(to[EDGE + to_offset + length + i], 0x55, "after");
    }
    free(from);
    free(to);
}

Test(shm_copy, copies_from_anywhere_to_anywhere)
{
    static const size_t offsets[] = {0, 1, 15, 16, 63, 64};
    for (size_t i = 0; i < 6; i++)
        for (size_t k = 0; k < 6; k++)
            check(offsets[i], offsets[k], LARGE);
}

Test(shm_copy, copies_any_length)
{
    static const size_t lengths[] = {0, 1, LARGE - 1, LARGE, LARGE + 1, LARGE + 63, LARGE + 64, LARGE + 65};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        check(3, 5, lengths[i]);
}
