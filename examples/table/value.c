/* SPDX-License-Identifier: MIT
 *
 * Values that show whether they are torn. */
#include <inttypes.h>
#include <stdio.h>

#include "table.h"

enum { WORD = sizeof(uint64_t), HEADER_WORDS = sizeof(struct value_header) / WORD, BLOCK_WORDS = 64 };

_Static_assert(HEADER_WORDS % 4 == 0 && VALUE_ALIGN / WORD % 4 == 0, "what follows the header is whole fours of words");

#define ODD UINT64_C(0x9e3779b97f4a7c15)

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Word i of the value is base + i * ODD: cheap to make and to check, many words at a time. */
static uint64_t base_of(uint64_t key, uint64_t version)
{
    return mix(mix(key + 1) ^ version);
}

void value_fill(void *value, size_t size, uint64_t key, uint64_t version)
{
    uint64_t *words = value;
    uint64_t base = base_of(key, version);
    struct value_header *header = value;

    for (size_t i = HEADER_WORDS; i < size / WORD; i++)
        words[i] = base + i * ODD;
    header->key = key;
    header->version = version;
    header->size = size;
    header->checksum = mix(base ^ size);
}

size_t value_check(const void *value, size_t size, uint64_t key)
{
    const uint64_t *words = value;
    const struct value_header *header = value;
    uint64_t base = base_of(header->key, header->version);
    size_t n = size / WORD;
    size_t i = HEADER_WORDS;

    if (header->key != key || header->size != size || header->checksum != mix(base ^ size))
        return 0;
    while (i < n) {
        /* No exit inside a block, and four words at once: one by one, this would be slower than memory. */
        size_t end = i + BLOCK_WORDS < n ? i + BLOCK_WORDS : n;
        uint64_t first = 0, second = 0, third = 0, fourth = 0, expected = base + i * ODD;
        for (size_t j = i; j < end; j += 4, expected += 4 * ODD) {
            first |= words[j] ^ expected;
            second |= words[j + 1] ^ (expected + ODD);
            third |= words[j + 2] ^ (expected + 2 * ODD);
            fourth |= words[j + 3] ^ (expected + 3 * ODD);
        }
        if (first | second | third | fourth) {
            while (words[i] == base + i * ODD)
                i++;
            return i * WORD;
        }
        i = end;
    }
    return size;
}

/* The version near `guess`, of any client, that has `word` at place i; or `unknown`. */
static bool version_of(uint64_t word, size_t i, uint64_t key, uint64_t guess, int clients, uint64_t *version)
{
    enum { NEAR = 100000 };
    uint64_t base = word - i * ODD;
    uint64_t put = VERSION_PUT(guess);
    uint64_t from = put > NEAR ? put - NEAR : 0;

    if (base == base_of(key, 0)) {
        *version = 0;
        return true;
    }
    for (int client = 1; client <= clients; client++) {
        for (uint64_t p = from; p < put + NEAR; p++) {
            if (base == base_of(key, VERSION(client, p))) {
                *version = VERSION(client, p);
                return true;
            }
        }
    }
    return false;
}

void value_show_torn(const void *value, size_t size, uint64_t key, size_t offset, const char *variant, int clients)
{
    const struct value_header *header = value;
    const uint64_t *words = value;
    uint64_t other;

    fprintf(stderr, "torn value: %s, key %" PRIu64 ", %zu bytes: ", variant, key, size);
    if (offset == 0) {
        fprintf(stderr,
                "the header is damaged: key %" PRIu64 ", version %#" PRIx64 ", size %" PRIu64 ", checksum %#" PRIx64
                "\n",
                header->key, header->version, header->size, header->checksum);
        return;
    }
    fprintf(stderr, "begins with PUT %" PRIu64 " of client %u, but at offset %zu ", VERSION_PUT(header->version),
            VERSION_CLIENT(header->version), offset);
    if (version_of(words[offset / WORD], offset / WORD, key, header->version, clients, &other))
        fprintf(stderr, "goes on with PUT %" PRIu64 " of client %u\n", VERSION_PUT(other), VERSION_CLIENT(other));
    else
        fprintf(stderr, "holds %#" PRIx64 ", of no version known\n", words[offset / WORD]);
}
