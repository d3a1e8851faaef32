/* SPDX-License-Identifier: MIT
 *
 * Runs another program and says how it ended: for outcomes that end a process. */
#ifndef TESTS_CHILD_H
#define TESTS_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

struct outcome {
    int status;        /* of waitpid(2) */
    char output[8192]; /* what it wrote to stdout and stderr, as much as fits */
};

/* argv[0] is a path; `environment` is a list of NAME=VALUE that ends with NULL, added to this process's
 * own; it may be NULL. */
void child_run(struct outcome *outcome, const char *const argv[], const char *const environment[]);

/* These abort with the program's output if it ended otherwise. */
void expect_exit(const struct outcome *outcome, int code);
void expect_signal(const struct outcome *outcome, int signal);
void expect_output(const struct outcome *outcome, const char *text);

/* Runs body(0..n-1), each in a child that ends when it returns; children_end waits for those that are not 0, and checks
 * that all went well. */
void children_start(int n, void (*body)(int rank), pid_t child[]);
void children_end(int n, const pid_t child[]);

/* Kills one of them and waits for it, which is 0 then. */
void child_kill(pid_t *child);

#endif
