/* SPDX-License-Identifier: MIT
 *
 * The helper thread makes progress for threads that wait in a fault, where no transport may be called. It
 * sleeps until it is kicked. */
#ifndef ZC_PROTECT_HELPER_H
#define ZC_PROTECT_HELPER_H

#include <stdbool.h>
#include <stdint.h>

struct progressor {
    void (*progress)(void *context);
    void *context;
    bool poll; /* also every 100 µs, unasked */
    struct progressor *next;
};

/* Adds what can make progress; starts the thread with the first. 0 or -errno with a message. */
int helper_attach(struct progressor *progressor);

/* Removes it; waits until the helper is not inside of it. */
void helper_detach(struct progressor *progressor);

/* Let the helper make progress until the clock says `time`. Signal-safe. */
void helper_kick(uint64_t time);

#endif
