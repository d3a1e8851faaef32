/* SPDX-License-Identifier: MIT
 *
 * Copying messages that caches do not hold. memcpy reads each line that it is about to overwrite, and drops others for
 * it; stores that go past the caches do neither. The C library does the same, but from three quarters of what it takes
 * for the size of the last cache, which on virtual machines may be many times what there is. */
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "transport/shm.h"

#ifdef __SSE2__

enum {
    PAST_CACHES = 8 << 20, /* bytes; below, caches hold both sides */
    LINE = 64,
    AHEAD = 16 * LINE
};

static void copy_line(__m128i *to, const __m128i *from)
{
    _mm_prefetch((const char *)from + AHEAD, _MM_HINT_NTA);
    for (int i = 0; i < 4; i++)
        _mm_stream_si128(to + i, _mm_loadu_si128(from + i));
}

void shm_copy(char *to, const char *from, size_t length)
{
    if (length < PAST_CACHES) {
        memcpy(to, from, length);
        return;
    }
    size_t first = -(uintptr_t)to % LINE, lines = (length - first) / LINE, done = first + lines * LINE;
    memcpy(to, from, first);
    for (size_t i = 0; i < lines; i++)
        copy_line((__m128i *)(uintptr_t)(to + first + i * LINE), (const __m128i *)(uintptr_t)(from + first + i * LINE));
    _mm_sfence(); /* such stores are ordered by nothing else */
    memcpy(to + done, from + done, length - done);
}

#else

void shm_copy(char *to, const char *from, size_t length)
{
    memcpy(to, from, length);
}

#endif
