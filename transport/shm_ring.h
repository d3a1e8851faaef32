/* SPDX-License-Identifier: MIT
 *
 * Boards: what a process shows to one peer, and writes alone; the peer maps it read-only. On it is a ring of cells for
 * the peer to take, with an area of letters for bytes that do not fit into a cell, and how far this process has taken
 * the cells of the peer's board.
 *
 * Nothing on the peer's board is trusted. A cell is copied before it is looked at, and how much the peer says it has
 * taken is believed only as far as it can be true. That is why this is no ring of a library: those of Concurrency Kit
 * keep their mask beside the counters that the peer writes.
 *
 * What takes time is the way of a cache line from one processor to another, so what a short message needs is in two
 * lines side by side, and no line is fetched that tells nothing new: each cell says how much its sender has taken, too,
 * and where all was taken, letters start again at the beginning of their area, which is still in the sender's first
 * cache. */
#ifndef ZC_TRANSPORT_SHM_RING_H
#define ZC_TRANSPORT_SHM_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RING_CELLS = 128,
    RING_LETTERS = 64 << 10, /* bytes */
    RING_EAGER = 8192,       /* a letter has at most so many: as MPI's (mpi.h) */
    RING_TINY = 96,          /* fit into the cell itself */
    CELL_WORDS = 16
};

/* Of a board's `asleep`: its process sleeps; but not for long, and need not be woken before more cells are there. */
enum { RING_ASLEEP = 1, RING_NAPS = 2, RING_SLEEPS = 4 /* counts */ };

enum cell_kind {
    CELL_WHOLE, /* a message: length, tag; its bytes, or where its letter is */
    CELL_OFFER, /* a message: length, tag, id; where it is in the segment of that number and generation, or in none */
    CELL_DONE,  /* has been read or is not wanted any more: id */
    CELL_PULL,  /* is to be sent in parts: id, length (as much as is wanted), reply */
    CELL_PART,  /* the next bytes of it: reply, length, where its letter is */
    CELL_LEFT   /* has been passed on to a rank that is lost, and nobody will say when it has been read: id */
};

/* What a cell says. On the board, bytes that fit into it are in the place of `at` and what follows. */
struct cell {
    uint64_t stamp; /* 1 + its place in the sequence of all cells: it is there */
    uint64_t taken; /* as on the board, when it was put */
    uint64_t length;
    uint32_t kind;
    int32_t tag;
    uint64_t at;
    uint32_t id;    /* the sender's name for an offered message */
    uint32_t reply; /* the receiver's */
    uint32_t segment, generation;
};

enum left { LEFT_NOBODY, LEFT_ALL, LEFT_ONE /* this peer alone, for what it has done */ };

struct board {
    _Alignas(64) _Atomic uint64_t taken;  /* cells of the peer's board */
    _Alignas(64) _Atomic uint32_t asleep; /* RING_ASLEEP: wants to be woken, each time with another number; RING_NAPS */
    _Atomic uint32_t waits;               /* for room on this board */
    _Atomic uint32_t left;                /* enum left: nothing comes after what is here. Stored before the socket is
                                           * closed, so that who sees the end of it sees this; LEFT_NOBODY is a death */
    _Atomic uint32_t views;               /* of the peer's messages, with the program, */
    _Atomic uint32_t passed;              /* and that others were shown, who may look at them when this one is gone */
    _Alignas(128) _Atomic uint64_t cells[RING_CELLS][CELL_WORDS];
    _Alignas(64) char letters[RING_LETTERS];
};

/* The two ends of the pair of boards that this process shares with a peer. */
struct ring {
    struct board *mine;
    const struct board *theirs;
    uint64_t put, taken;                 /* cells on mine, and of these those that the peer is known to have taken */
    uint64_t letters_put, letters_taken; /* bytes */
    uint64_t letters_next;               /* letters_put, once the cell that is open is put */
    uint64_t letters_end[RING_CELLS];    /* with each cell */
    uint64_t got;                        /* cells of theirs */
};

enum ring_put { RING_PUT, RING_FULL, RING_BROKEN /* the peer says what cannot be */ };

/* Puts a cell, with `length` bytes (of at most RING_EAGER) of a letter if they do not fit into it. */
enum ring_put ring_put(struct ring *ring, struct cell *cell, const void *bytes, size_t length);

/* The same in two steps: *to is where the caller copies the bytes before the second one. Without that, nothing was
 * put. */
enum ring_put ring_open(struct ring *ring, struct cell *cell, size_t length, char **to);
void ring_close(struct ring *ring, struct cell *cell);

/* Copies what the next cell of the peer says, if there is one. It stays until ring_take. */
bool ring_get(struct ring *ring, struct cell *cell);
void ring_take(struct ring *ring);

/* Where the bytes of that cell are, that has `length` of them: in itself, or in its letter. NULL: it has no such
 * bytes. */
const char *ring_bytes(const struct ring *ring, const struct cell *cell);

/* Is there a cell? */
static inline bool ring_ready(const struct ring *ring)
{
    return atomic_load_explicit(&ring->theirs->cells[ring->got % RING_CELLS][0], memory_order_acquire) == ring->got + 1;
}

#endif
