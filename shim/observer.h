/* SPDX-License-Identifier: MIT
 *
 * Who wants to know what the program does with its message buffers: the race detector (shim/race), if it is loaded. */
#ifndef ZC_SHIM_OBSERVER_H
#define ZC_SHIM_OBSERVER_H

#include "protect/lend.h"

struct zc_observer {
    /* Bytes to keep of where an operation was posted, and what writes them down; called where it is posted. */
    size_t room;
    void (*posted)(void *room);
    /* An operation that goes on was posted, of memory that zc cannot watch. */
    void (*unwatched)(const void *buffer);
    /* As of the interposer. Signal-safe. */
    void (*sighted)(const struct zc_sighting *sighting);
    void (*began)(int rank, int size); /* MPI was initialised */
    void (*ended)(void);               /* MPI will be finalised */
};

/* For the life of the process, before MPI is initialised. */
ZC_API void zc_shim_observe(const struct zc_observer *observer);

extern const struct zc_observer *observer; /* NULL: none */

static inline size_t observer_room(void)
{
    return observer ? observer->room : 0;
}

/* Messages of zc itself, for whose buffers it answers, need no watching; nor do those of nothing. */
static inline void observer_unwatched(const void *buffer)
{
    if (observer && buffer && !zc_lend_own(buffer))
        observer->unwatched(buffer);
}

#endif
