/* SPDX-License-Identifier: MIT
 *
 * Matching of messages with receives by source and tag, with wildcards, in MPI's order: a message goes to the
 * oldest receive that matches, a receive takes the oldest message that does. For transports that have to do it
 * themselves; the caller locks. */
#ifndef ZC_TRANSPORT_MATCH_H
#define ZC_TRANSPORT_MATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "zc.h"

/* Part of a message or of a receive. */
struct match {
    struct match *next;
    int source, tag; /* of a receive: perhaps ZC_ANY_... */
    size_t length;   /* of a message */
};

struct match_list {
    struct match *first, *last;
};

struct match_queue {
    struct match_list receives, messages; /* unmatched, oldest first */
};

/* A message arrives: returns the receive it goes to, taken out, or keeps the message and returns NULL. */
struct match *match_message(struct match_queue *queue, struct match *message);

/* A receive is posted: returns the message it takes, taken out, or keeps the receive and returns NULL. */
struct match *match_receive(struct match_queue *queue, struct match *receive);

/* The oldest message that a receive would take, or NULL; it stays. */
struct match *match_probe(const struct match_queue *queue, int source, int tag);

/* What a probe says of a message. */
static inline zc_status match_status(const struct match *message)
{
    return (zc_status){.source = message->source, .tag = message->tag, .length = message->length};
}

/* Takes out a receive or a message; false if it is not there (any more). */
bool match_remove(struct match_queue *queue, struct match *match);

#endif
