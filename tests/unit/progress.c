/* SPDX-License-Identifier: MIT
 *
 * Progress that zc_send makes. */
#include "invariants.h"
#include "transport/comm.h"

enum { MESSAGES = 100, EACH = 100 };

/* A thread may send by turns over several communicators, and wait for nothing. */
Test(progress, sends_by_turns_are_looked_at)
{
    zc_comm *both[2] = {loop_strict(), loop_strict()};
    char bytes[EACH] = {0}, *in = ALLOC(2 * MESSAGES * PAGE);
    for (size_t i = 0; i < 2 * MESSAGES; i++)
        CHECK_OK(zc_irecv(in + i * PAGE, EACH, 0, 1, both[i % 2]));
    for (size_t i = 0; i < 2 * MESSAGES; i++)
        CHECK_OK(zc_send(bytes, EACH, 0, 1, both[i % 2]));
    for (int i = 0; i < 2; i++)
        CHECKF(atomic_load(&both[i]->sending) < MESSAGES / 2, "%ld of communicator %d are in flight",
               atomic_load(&both[i]->sending), i);
    for (int i = 0; i < 2; i++)
        CHECK_OK(zc_close(both[i]));
}
