/* SPDX-License-Identifier: MIT
 *
 * Buffers and their shadows. */
#include <stdlib.h>

#include "actor.h"
#include "check.h"
#include "pattern.h"

size_t some_size(struct actor *a)
{
    switch (below(a, 8)) {
    case 0:
        return 1 + below(a, PAGE);
    case 1:
    case 2:
        return 1 + below(a, 5 * PAGE);
    case 3:
        return (1 + below(a, 40)) * PAGE;
    case 4:
        return 1 + below(a, 1200 * KIB);
    default:
        return 1 + below(a, 160 * KIB);
    }
}

void fill(struct actor *a, unsigned char *bytes, unsigned char *shadow, size_t length)
{
    uint64_t seed = random_next(&a->random);

    pattern_fill(bytes, length, seed);
    pattern_fill(shadow, length, seed);
}

void adopt(struct buffer *b, void *bytes, size_t size)
{
    b->bytes = bytes;
    b->size = size;
    b->shadow = malloc(size ? size : 1);
    CHECK(b->shadow);
}

void new_buffer(struct actor *a, struct buffer *b)
{
    size_t size = some_size(a);

    adopt(b, ALLOC(size), size);
    note(a, "alloc %zu: %p", size, (void *)b->bytes);
    fill(a, b->bytes, b->shadow, size);
}

struct buffer *some_buffer(struct actor *a)
{
    struct buffer *b = &a->buffer[below(a, BUFFERS)];

    if (!b->bytes)
        new_buffer(a, b);
    return b;
}

struct buffer *buffer_for(struct actor *a, size_t length)
{
    struct buffer *b = some_buffer(a);

    for (int tries = 0; tries < 8 && b->size < length; tries++)
        b = some_buffer(a);
    return b;
}

void verify(struct actor *a, struct buffer *b)
{
    settle(a, b, 0, b->size);
    note(a, "verify %p", (void *)b->bytes);
    for (size_t i = 0; i < b->size; i++)
        if (((volatile unsigned char *)b->bytes)[i] != b->shadow[i])
            CHECKF(false, "byte %zu of the buffer of %zu at %p is 0x%02x, not 0x%02x", i, b->size, (void *)b->bytes,
                   b->bytes[i], b->shadow[i]);
}

void drop(struct buffer *b)
{
    free(b->shadow);
    *b = (struct buffer){0};
}

void free_buffer(struct actor *a, struct buffer *b)
{
    for (struct receive *r = a->oldest, *next; r; r = next) {
        next = r->next;
        if (r->state != IN_FLIGHT || r->buffer != b)
            continue;
        if (sure(a, r) && r->source != ZC_ANY_SOURCE && r->tag != ZC_ANY_TAG) {
            r->state = UNSEEN;
            a->in_flight--;
        } else {
            settle(a, b, r->at, r->cap);
            next = a->oldest; /* the list has changed */
        }
    }
    note(a, "free %p", (void *)b->bytes);
    CHECK_OK(zc_free(b->bytes));
    drop(b);
    settle_landed(a);
}
