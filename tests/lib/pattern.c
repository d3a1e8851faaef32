/* SPDX-License-Identifier: MIT */
#include "pattern.h"

#include <string.h>

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= UINT64_C(0xd6e8feb86659fd93);
    x ^= x >> 29;
    return x;
}

static uint64_t word(uint64_t seed, size_t i)
{
    return mix(seed * UINT64_C(0x9e3779b97f4a7c15) + i + 1);
}

void pattern_fill(void *bytes, size_t length, uint64_t seed)
{
    unsigned char *p = bytes;

    for (size_t i = 0; i < length; i += sizeof(uint64_t)) {
        uint64_t w = word(seed, i);

        memcpy(p + i, &w, length - i < sizeof w ? length - i : sizeof w);
    }
}

size_t pattern_differs(const void *bytes, size_t length, uint64_t seed)
{
    const unsigned char *p = bytes;

    for (size_t i = 0; i < length; i += sizeof(uint64_t)) {
        uint64_t w = word(seed, i);
        size_t n = length - i < sizeof w ? length - i : sizeof w;

        if (memcmp(p + i, &w, n) != 0)
            for (size_t k = 0; k < n; k++)
                if (p[i + k] != ((unsigned char *)&w)[k])
                    return i + k;
    }
    return PATTERN_SAME;
}

uint64_t pattern_hash(const void *bytes, size_t length)
{
    const unsigned char *p = bytes;
    uint64_t h = length + UINT64_C(0x9e3779b97f4a7c15);

    for (size_t i = 0; i < length; i += sizeof(uint64_t)) {
        uint64_t w = 0;

        memcpy(&w, p + i, length - i < sizeof w ? length - i : sizeof w);
        h = (h ^ w) * UINT64_C(0x9fb21c651e98df25);
        h ^= h >> 31;
    }
    return h;
}

uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return bound ? random_next(state) % bound : 0;
}
