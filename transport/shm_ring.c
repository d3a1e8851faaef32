/* SPDX-License-Identifier: MIT */
#include "transport/shm_ring.h"

#include <string.h>

enum { LETTER_UNIT = 64, SAYS_WORDS = sizeof(struct cell) / sizeof(uint64_t), BYTES_FROM = 4 /* word of a cell */ };

_Static_assert(offsetof(struct cell, at) == BYTES_FROM * sizeof(uint64_t) &&
                   RING_TINY == (CELL_WORDS - BYTES_FROM) * sizeof(uint64_t),
               "the bytes of a message fill its cell");

/* Are the bytes in the cell? */
static bool is_tiny(const struct cell *cell, uint64_t length)
{
    return cell->kind == CELL_WHOLE && length <= RING_TINY;
}

/* The peer has taken so many cells. */
static void set_taken(struct ring *ring, uint64_t taken)
{
    ring->taken = taken;
    ring->letters_taken = ring->letters_end[(taken - 1) % RING_CELLS];
}

/* Looks at how much the peer has taken. False: it says what cannot be. */
static bool update(struct ring *ring)
{
    uint64_t taken = atomic_load_explicit(&ring->theirs->taken, memory_order_acquire);
    if (taken < ring->taken || taken > ring->put)
        return false;
    if (taken > ring->taken)
        set_taken(ring, taken);
    return true;
}

/* No letter is on the board: the next one starts at the beginning of the area. */
static void start_again(struct ring *ring)
{
    uint64_t at = ring->letters_put % RING_LETTERS;
    if (at)
        ring->letters_put += RING_LETTERS - at;
    ring->letters_taken = ring->letters_put;
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

/* The lines of a letter are with the peer, which has read it. To ask for all of them at once takes less time than to
 * store to one after the other. (Compilers say prefetchw only where all processors are known to have it; to others it
 * does nothing.) */
static void fetch_for_stores(const char *at, size_t length)
{
    for (size_t i = 0; i < length; i += LETTER_UNIT)
#ifdef __x86_64__
        __asm__ volatile("prefetchw %0" : : "m"(at[i]));
#else
        __builtin_prefetch(at + i, 1);
#endif
}

enum ring_put ring_open(struct ring *ring, struct cell *cell, size_t length, char **to)
{
    size_t letter = is_tiny(cell, length) ? 0 : (length + LETTER_UNIT - 1) / LETTER_UNIT * LETTER_UNIT;
    if (letter && ring->taken == ring->put)
        start_again(ring);
    uint64_t start = letter_start(ring, letter);
    if (!has_room(ring, start, letter)) {
        if (!update(ring))
            return RING_BROKEN;
        if (!has_room(ring, start, letter))
            return RING_FULL;
    }
    *to = (char *)&ring->mine->cells[ring->put % RING_CELLS][BYTES_FROM];
    ring->letters_next = ring->letters_put;
    if (letter) {
        cell->at = start % RING_LETTERS;
        *to = ring->mine->letters + cell->at;
        ring->letters_next = start + letter;
        fetch_for_stores(*to, letter);
    }
    return RING_PUT;
}

void ring_close(struct ring *ring, struct cell *cell)
{
    uint64_t index = ring->put % RING_CELLS, words[SAYS_WORDS];
    int says = is_tiny(cell, cell->length) ? BYTES_FROM : SAYS_WORDS;
    ring->letters_end[index] = ring->letters_put = ring->letters_next;
    cell->stamp = ++ring->put;
    cell->taken = ring->got;
    memcpy(words, cell, sizeof words);
    for (int i = 1; i < says; i++)
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

bool ring_get(struct ring *ring, struct cell *cell)
{
    const _Atomic uint64_t *from = ring->theirs->cells[ring->got % RING_CELLS];
    uint64_t words[SAYS_WORDS] = {ring->got + 1};
    if (!ring_ready(ring)) {
        __builtin_prefetch(
            (const void *)&from[CELL_WORDS / 2]); /* of no use yet, but both come at the same time then */
        return false;
    }
    for (int i = 1; i < SAYS_WORDS; i++)
        words[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
    memcpy(cell, words, sizeof words);
    if (cell->taken > ring->taken && cell->taken <= ring->put) /* nothing follows from what cannot be */
        set_taken(ring, cell->taken);
    return true;
}

void ring_take(struct ring *ring)
{
    atomic_store_explicit(&ring->mine->taken, ++ring->got, memory_order_release);
}

const char *ring_bytes(const struct ring *ring, const struct cell *cell)
{
    if (is_tiny(cell, cell->length))
        return (const char *)&ring->theirs->cells[ring->got % RING_CELLS][BYTES_FROM];
    if (cell->length > RING_EAGER || cell->at > RING_LETTERS - cell->length)
        return NULL;
    return ring->theirs->letters + cell->at;
}
