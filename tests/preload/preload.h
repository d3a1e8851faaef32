/* SPDX-License-Identifier: MIT */
#ifndef TESTS_PRELOAD_H
#define TESTS_PRELOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "check.h"
#include "pattern.h"

enum { KIB = 1024, MIB = 1024 * KIB };

/* Does the pointer lie in a pool's segment, as the kernel sees it? */
bool pooled(const void *ptr);

/* Waits for a child that must exit with 0. */
void child_passes(pid_t child);

/* forks.c */
void register_handlers(void); /* before all constructors */
void fork_both_store(void);
void fork_child_frees(void);
void fork_child_gives_back(void);
void fork_grandchild(void);
void fork_exec(void);
void fork_among_threads(void);
void fork_after_handlers(void);
void fork_without_memory(void);

#endif
