/* SPDX-License-Identifier: MIT */
#include "transport/peers.h"

#include <errno.h>

#include "core/error.h"

/* ---- what never comes ---- */

static int lost(const struct peers *peers, int rank)
{
    const char *why;
    int error = peers->lost(peers, rank, &why);
    return error && !why ? -ECANCELED : error;
}

/* Why a receive from `src` that meets no message never will: 0 if it may; -ECANCELED where the peer has left. */
static int unreachable(const struct peers *peers, int src)
{
    if (src != ZC_ANY_SOURCE)
        return lost(peers, src);
    /* A message from this rank itself could still come, but who waits for any waits for others, if there are any. */
    int error = peers->size > 1 ? -ECANCELED : 0;
    for (int i = 0; i < peers->size; i++) {
        int of_rank = i == peers->rank ? -ECANCELED : lost(peers, i);
        if (!of_rank)
            return 0;
        if (of_rank != -ECANCELED)
            error = of_rank;
    }
    return error;
}

int peers_gone(const struct peers *peers, int rank, int error)
{
    const char *why;
    if (rank == ZC_ANY_SOURCE)
        return fail(error, "zc: all other ranks are lost or have closed their communicators");
    peers->lost(peers, rank, &why);
    return fail(error, "zc: rank %d %s%s", rank, why ? "is lost: " : "has closed its communicator", why ? why : "");
}

int peers_give_up(struct peers *peers, struct op *receive)
{
    int error = unreachable(peers, receive->in.match.source);
    if (!error)
        return 0;
    match_remove(&peers->queue, &receive->in.match);
    if (error != -ECANCELED)
        return peers_gone(peers, receive->in.match.source, error);
    peers_over(peers, receive, error); /* as one that was there before the peer left */
    return 0;
}

void peers_lose_receives(struct peers *peers)
{
    peers->any_lost = true;
    for (struct match *match = peers->queue.receives.first, *next; match; match = next) {
        next = match->next;
        int error = unreachable(peers, match->source);
        if (!error)
            continue;
        match_remove(&peers->queue, match);
        peers_fail(peers, op_of_match(match), error);
    }
}

/* ---- what has come ---- */

/* A message that matches, described, or NULL with *error if there will be none. */
static struct match *find(struct peers *peers, int src, int tag, zc_status *status, int *error)
{
    struct match *message = match_probe(&peers->queue, src, tag);
    *error = message || !peers->any_lost ? 0 : unreachable(peers, src);
    if (*error)
        peers_gone(peers, src, *error);
    if (message)
        *status = match_status(message);
    else
        peers->looked = true;
    return message;
}

int peers_probe(struct endpoint *endpoint, int src, int tag, zc_status *status)
{
    struct peers *peers = endpoint->state;
    int error;
    lock_take(&peers->lock);
    const struct match *message = find(peers, src, tag, status, &error);
    lock_drop(&peers->lock);
    return message ? 1 : error;
}

int peers_take(struct endpoint *endpoint, int src, int tag, zc_status *status, struct taken *taken)
{
    struct peers *peers = endpoint->state;
    int error;
    lock_take(&peers->lock);
    struct match *message = find(peers, src, tag, status, &error);
    if (message) {
        match_remove(&peers->queue, message);
        taken->native = (uintptr_t)message; /* its first member */
    }
    lock_drop(&peers->lock);
    return message ? 1 : error;
}
