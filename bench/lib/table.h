/* SPDX-License-Identifier: MIT
 *
 * Suites that are the table of examples/, with a grid of their own: each rank becomes the example, which prints the
 * rows. */
#ifndef ZC_BENCH_TABLE_H
#define ZC_BENCH_TABLE_H

/* Runs examples/table in the place of this program, with `options` and (may be NULL) `more`, each of which ends with
 * NULL. */
_Noreturn void table_exec(const char *program, const char *const options[], const char *const more[]);

#endif
