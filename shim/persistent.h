/* SPDX-License-Identifier: MIT
 *
 * Persistent requests: the address that MPI was given when one was made may not be the buffer's pages when it is
 * started, so each start is an operation of its own. */
#ifndef ZC_SHIM_PERSISTENT_H
#define ZC_SHIM_PERSISTENT_H

struct start;

/* NULL is fine. */
void start_free(struct start *start);

#endif
