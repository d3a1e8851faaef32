/* SPDX-License-Identifier: MIT
 *
 * Two ranks of MPI, of which one sends to the other: in windows, the next of which starts when the receiver has all of
 * the last, by each of several variants in turn. */
#ifndef ZC_BENCH_PAIR_H
#define ZC_BENCH_PAIR_H

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zc_mpi.h"

enum { PAIR_SENDER, PAIR_RECEIVER };
enum { PAIR_DATA = 1, PAIR_CREDIT };
enum { PAIR_WINDOW = 16, PAIR_VARIANTS = 4, PAIR_ROUNDS = 15 };

struct pair {
    int rank, other;
    MPI_Comm mpi;
    zc_comm *zc;
    size_t size;
    void *buf;    /* of zc_alloc, on both sides */
    uint64_t sum; /* of what was read, so that it is */
};

/* What the receiver does with a message. */
typedef void pair_look(struct pair *pair, const void *data);

/* Both sides of a window. */
typedef void pair_window(struct pair *pair, pair_look *look);

struct pair_case {
    const char *suite, *name;
    pair_look *look;
    int messages; /* a window */
    bool rate;    /* messages a second are measured, instead of nanoseconds a message */
    struct {
        const char *name;
        pair_window *window;
    } variants
        [PAIR_VARIANTS]; /* the first is compared with all others, and the second with itself: that is the noise */
};

/* Both ranks. `transport` as in zc_options. */
void pair_open(struct pair *pair, int argc, char **argv, const char *transport);
void pair_close(struct pair *pair);

/* A buffer of the size, filled on the sender's side. */
void pair_buffer(struct pair *pair, size_t size);

/* Prints the rows of the case; returns what the first variant took or, with `rate`, did, on the sender's side. Each
 * byte of a window is checked before the rounds and after. */
double pair_measure(struct pair *pair, const struct pair_case *kase, size_t size, bool quick);

void pair_ignore(struct pair *pair, const void *data); /* a look that is none */

/* Windows of MPI: MPI_Isend and MPI_Recv; and there and back again. */
void pair_window_mpi(struct pair *pair, pair_look *look);
void pair_pass_mpi(struct pair *pair, pair_look *look);

/* What ends a window: an empty message. */
void pair_credit(struct pair *pair);

#endif
