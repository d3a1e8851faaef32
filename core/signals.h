/* SPDX-License-Identifier: MIT
 *
 * Signal handlers of the application kept out of sections in which they must not run. Synchronous signals stay open. */
#ifndef ZC_CORE_SIGNALS_H
#define ZC_CORE_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

/* Blocks this thread's signals, if they are not yet. Signal-safe, as is: */
void signals_close(void);

/* Lets them in again, if signals_close() has blocked them. */
void signals_open(void);

/* Are they blocked? */
bool signals_closed(void);

/* In a handler for which the kernel has blocked them: until signals_leave(), signals_close() and signals_open() do
 * nothing, and the thread is not cancelled. */
void signals_enter(void);
void signals_leave(void);

/* Lets them in meanwhile, with the mask of the interrupted code (the kernel's 64 bits), and keeps the present one. The
 * thread can be cancelled as it could before the signal: a handler that leaves by a long jump would not restore
 * that. */
void signals_pause(const void *interrupted, uint64_t *closed);
void signals_resume(const uint64_t *closed);

/* Fills a sigset_t with what signals_close() blocks. */
void signals_fill(void *set);

#endif
