/* SPDX-License-Identifier: MIT
 *
 * Views: received messages that are read where they are. A lease is one such message, until its view is released and no
 * operation that passes it on needs it. Leases are recycled and never freed, so that a stale view is known as one. */
#ifndef ZC_TRANSPORT_VIEW_H
#define ZC_TRANSPORT_VIEW_H

#include <stdbool.h>

#include "transport/transport.h"
#include "zc.h"

struct lease {
    zc_comm *comm;
    struct lease *next; /* of the communicator's, all that there ever were */
    bool out;           /* with the program, as the view of this turn */
    uint64_t turn;
    unsigned users; /* the view, sends; 0: free */
    void *copy;     /* a buffer, or */
    struct taken taken;
    const void *data;
    size_t length;
    int source, tag; /* for zc top */
    uint64_t since;  /* by clock_seconds */
};

/* One user of it has done: the last one gives the message back. */
void lease_end(struct lease *lease);

/* The communicator is being closed: ends all that the program still has. */
void lease_end_all(zc_comm *comm);

#endif
