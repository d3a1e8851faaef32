/* SPDX-License-Identifier: MIT */
#include "transport/shm_ring.h"

#include <string.h>

_Static_assert(sizeof(struct cell) == CELL_WORDS * sizeof(uint64_t), "a cell is a cache line");

enum { LETTER_UNIT = 64 };

/* Looks at how much the peer has taken. */
static bool update(struct ring *ring)
{
    uint64_t taken = atomic_load_explicit(&ring->theirs->taken, memory_order_acquire);
    if (taken < ring->taken || taken > ring->put)
        return false;
    if (taken > ring->taken)
        ring->letters_taken = ring->letters_end[(taken - 1) % RING_CELLS];
    ring->taken = taken;
    return true;
}

/* Where a letter would start, in the sequence of all bytes: one does not go around the end. */
static uint64_t letter_start(const struct ring *ring, size_t length)
{
    uint64_t at = ring->letters_put % RING_LETTERS;
    return at + length > RING_LETTERS ? ring->letters_put + RING_LETTERS - at : ring->letters_put;
}

static bool has_room(const struct ring *ring, uint64_t start, size_t length)
{
    return ring->put - ring->taken < RING_CELLS && start + length - ring->letters_taken <= RING_LETTERS;
}

enum ring_put ring_open(struct ring *ring, struct cell *cell, size_t length, char **to)
{
    bool inside = cell->kind == CELL_WHOLE && length <= RING_TINY;
    size_t letter = inside ? 0 : (length + LETTER_UNIT - 1) / LETTER_UNIT * LETTER_UNIT;
    uint64_t start = letter_start(ring, letter);
    if (!has_room(ring, start, letter)) {
        if (!update(ring))
            return RING_BROKEN;
        if (!has_room(ring, start, letter))
            return RING_FULL;
    }
    *to = cell->tiny;
    if (letter) {
        cell->at = start % RING_LETTERS;
        *to = ring->mine->letters + cell->at;
        ring->letters_put = start + letter;
    }
    return RING_PUT;
}

void ring_close(struct ring *ring, struct cell *cell)
{
    uint64_t index = ring->put % RING_CELLS, words[CELL_WORDS];
    ring->letters_end[index] = ring->letters_put;
    cell->stamp = ++ring->put;
    memcpy(words, cell, sizeof words);
    for (int i = 1; i < CELL_WORDS; i++)
        atomic_store_explicit(&ring->mine->cells[index][i], words[i], memory_order_relaxed);
    atomic_store_explicit(&ring->mine->cells[index][0], words[0], memory_order_release);
}

enum ring_put ring_put(struct ring *ring, struct cell *cell, const void *bytes, size_t length)
{
    char *to;
    enum ring_put done = ring_open(ring, cell, length, &to);
    if (done != RING_PUT)
        return done;
    if (length)
        memcpy(to, bytes, length);
    ring_close(ring, cell);
    return RING_PUT;
}

bool ring_get(const struct ring *ring, struct cell *cell)
{
    const _Atomic uint64_t *from = ring->theirs->cells[ring->got % RING_CELLS];
    uint64_t words[CELL_WORDS] = {ring->got + 1};
    if (!ring_ready(ring))
        return false;
    for (int i = 1; i < CELL_WORDS; i++)
        words[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
    memcpy(cell, words, sizeof *cell);
    return true;
}

void ring_take(struct ring *ring)
{
    atomic_store_explicit(&ring->mine->taken, ++ring->got, memory_order_release);
}

const char *ring_bytes(const struct ring *ring, const struct cell *cell)
{
    if (cell->kind == CELL_WHOLE && cell->length <= RING_TINY)
        return cell->tiny;
    if (cell->length > RING_EAGER || cell->at > RING_LETTERS - cell->length)
        return NULL;
    return ring->theirs->letters + cell->at;
}
