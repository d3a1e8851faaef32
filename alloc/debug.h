/* SPDX-License-Identifier: MIT
 *
 * ZC_DEBUG=on: what programs do wrong with their buffers is found where it costs less to find than to suffer.
 *
 *   guard page   behind each slot, closed in the user mapping: a touch past the end faults at once
 *   canary       from the end of what was asked for to the end of the slot, looked at when the buffer is freed
 *   poison       in free slots, looked at when the slot is used again: a store after zc_free is found then
 *
 * A slot's stride has room for the guard. Its page in the wire mapping, which is open, remembers what was asked for. No
 * thread caches such slots. Findings are printed and end the process by abort(3). */
#ifndef ZC_ALLOC_DEBUG_H
#define ZC_ALLOC_DEBUG_H

#include <stddef.h>

#include "alloc/pool.h"

/* Bytes behind a slot for its guard: as aligned as the slot is. */
size_t debug_gap(size_t slot_size);

/* A slot that was just populated. */
void debug_made(struct slot *slot);

/* A slot became the application's, who asked for `size` bytes. */
void debug_taken(struct slot *slot, size_t size);

/* What was asked for. */
size_t debug_size(const struct slot *slot);

/* The application gives a slot up. */
void debug_given(const struct slot *slot);

/* A slot returns to the pool, or is taken from it, by anybody. Signal-safe, as is: */
void debug_poison(const struct slot *slot);
void debug_check_poison(const struct slot *slot);

/* Prints what a touch of `address`, where no slot is, has touched if it is a guard page. */
void debug_explain(const char *address);

#endif
