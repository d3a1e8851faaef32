/* SPDX-License-Identifier: MIT
 *
 * Messages that are lent to the program. */
#ifndef ZC_TRANSPORT_VIEW_H
#define ZC_TRANSPORT_VIEW_H

#include "zc.h"

struct lease;

/* One user of it has done: the last one gives the message back. */
void lease_end(struct lease *lease);

/* The communicator is being closed: ends all that the program still has. */
void lease_end_all(zc_comm *comm);

#endif
