/* SPDX-License-Identifier: MIT
 *
 * Bodies that run apart, in a forked child of a process that has not used zc: for variables and limits, which
 * are looked at once in a process; and system calls that the kernel refuses. */
#ifndef TESTS_APART_H
#define TESTS_APART_H

/* The body must return (a failed check aborts it). */
void apart(void (*body)(const void *argument), const void *argument);

/* From now on, for this thread and those it starts, the system call fails with `error`. With argument >= 0 only
 * where that argument of it has the value. Cannot be undone. */
void deny_system_call(int number, int argument, unsigned value, int error);

/* From now on, a system call of any thread but _exit ends the process by SIGSYS. Cannot be undone. */
void forbid_system_calls(void);

#endif
