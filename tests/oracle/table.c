/* SPDX-License-Identifier: MIT
 *
 * The table of announcements: one piece of memory without pointers, so that processes can share it. */
#include "oracle.h"

static const size_t channels = (size_t)RANKS * RANKS * THREADS * TAGS;

/* An actor may send in each of its operations, and to one channel only. */
static size_t capacity(const struct plan *plan)
{
    return plan->ops / (unsigned)(plan->ranks * plan->threads) + 16;
}

size_t table_size(const struct plan *plan)
{
    return sizeof(struct table) + channels * capacity(plan) * sizeof(struct message);
}

struct channel *table_channel(struct table *table, int source, int destination, int thread, int tag)
{
    return &table->channel[source][destination][thread][tag];
}

struct message *table_message(const struct plan *plan, struct table *table, const struct channel *channel, unsigned n)
{
    size_t number = (size_t)(channel - &table->channel[0][0][0][0]);

    return &table->message[number * capacity(plan) + n];
}
