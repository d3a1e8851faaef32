/* SPDX-License-Identifier: MIT
 *
 * Copy or protect, and how long to leave protected: decided from what both cost in this process and from how
 * often a buffer was sent between two writes. Decisions change speed, never bytes.
 *
 * A *run* is the number of sends from one protection of a slot until the store that ended it: protection costs
 * one cycle a run (protect, fault, unprotect), copying costs one copy a send. Runs can be seen only while a
 * slot is left protected, and what a copy costs only by copying: so now and then each is tried where the other looks
 * better.
 *
 * That is what the sender pays. The receiver may be the one that others wait for: then a copy delays nothing, being
 * made while the receiver is at an older message, and one that leaves the bytes in a cache can make receiving faster
 * than the memory would. How long receivers take for a message from the slot and for a copy is observed, by pool. */
#ifndef ZC_PROTECT_POLICY_H
#define ZC_PROTECT_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/pool.h"

/* Kinds of work whose cost is averaged, by pool. COST_STORE is all that a store pays which ends a protection: waiting
 * or renaming where the buffer is still in flight, and the system call. */
enum cost { COST_COPY, COST_PROTECT, COST_UNPROTECT, COST_STORE, COST_RENAME, COSTS };

/* Measures a page, a system call and a fault, so that averages start from something. Below a millisecond. */
void policy_open(void);

/* From now on peers read this process's memory through its page tables, as MPI does within a host. Then who protects
 * waits for them, or they for it, asleep, and what it costs them is not seen here. */
void policy_expect_readers(void);

/* One more observation, of `bytes` of a slot of the pool. */
void policy_observe(struct zc_pool *pool, enum cost cost, size_t bytes, uint64_t ns);

/* What it costs for `bytes`, in nanoseconds. */
uint64_t policy_cost(struct zc_pool *pool, enum cost cost, size_t bytes);

/* A receiver took a message, `ns` after the one before if it had nothing else to do between; 0: that was not seen. */
void policy_taken(struct zc_pool *pool, bool copied, size_t bytes, uint64_t ns);

/* Should a send be copied where its receiver is behind, whatever that costs here? Then no protection is begun either:
 * most sends of a run would be copied, and not pay for it. */
bool policy_feeds(struct zc_pool *pool, size_t bytes);

/* Should this send of `bytes` protect the slot, which is not protected now? */
bool policy_protects(struct zc_pool *pool, struct slot *slot, size_t bytes);

/* The slot was protected for a send; the slot was sent again as it is (true: tell policy_goes_on); its protection was
 * ended by a store. */
void policy_protected(struct slot *slot);
bool policy_resent(struct slot *slot);
void policy_written(struct zc_pool *pool, struct slot *slot);

/* A run is long already: other slots need not wait for its end, which may never come, to learn of it. */
void policy_goes_on(struct zc_pool *pool);

/* All sends of the protected slot have left: should it stay protected? */
bool policy_lingers(struct zc_pool *pool, struct slot *slot);

#endif
