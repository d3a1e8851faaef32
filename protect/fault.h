/* SPDX-License-Identifier: MIT
 *
 * The SIGSEGV handler: ends idle protections, waits for conflicts and ends them, and passes every fault that
 * is not zc's on to the handler that was installed before, or to the default action. */
#ifndef ZC_PROTECT_FAULT_H
#define ZC_PROTECT_FAULT_H

/* Puts the handler back on top if something installed its own since (MPI_Init does), which is chained to. */
void fault_reinstall(void);

/* Says once on stderr if something did. Signal-safe. */
void fault_check(void);

/* Ends the process: the handler of another signal touches a buffer whose lock is had by the zc call that it
 * interrupted. */
_Noreturn void fault_in_handler(const void *address);

#endif
