/* SPDX-License-Identifier: MIT
 *
 * A race of a program for a message buffer: what is written down when it is seen, and told later. */
#ifndef ZC_SHIM_RACE_H
#define ZC_SHIM_RACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { FRAMES_MOST = 32 };

struct stack {
    int depth;
    bool exact; /* the first is where a fault happened; others are where calls return to */
    uintptr_t pc[FRAMES_MOST];
};

struct race {
    /* Who touches what: */
    int thread;
    bool store, freed;
    const char *buffer; /* its start */
    size_t offset;      /* of the byte that is touched */
    struct stack by;
    /* What is in flight there: */
    const char *call;
    int peer, tag; /* -1: any, or none */
    bool receives;
    size_t first, length; /* bytes of the buffer */
    struct stack posted;
};

/* Writes down the calls that led here, from the point of a fault if this is a signal handler. Signal-safe. */
void stack_walk(struct stack *stack);

/* Functions, files and lines of a stack, from elfutils; not signal-safe. Text has a line a frame; JSON is an array. */
void stack_print_text(const struct stack *stack, FILE *out);
void stack_print_json(const struct stack *stack, FILE *out);

/* Tells races, each once, on standard error and in the file of that name. */
void report_open(const char *name, int rank, int size);
void report_race(const struct race *race);

/* How many messages were watched, and how many not, by where their buffers lie. */
struct watched {
    _Atomic uint64_t watched, on_stack, is_static, elsewhere;
};

void report_close(const struct watched *watched, uint64_t lost);

#endif
