/* SPDX-License-Identifier: MIT
 *
 * The ranks of a loop communicator inside this process. */
#ifndef TESTS_RANKS_H
#define TESTS_RANKS_H

#include <pthread.h>

#include "zc.h"

#define RANKS_MAX 8

/* Opens ranks 0..n-1 of a new loop; afterwards any thread may use any of them. */
void ranks_open(zc_comm *comm[], int n, const zc_options *options);
void ranks_close(zc_comm *comm[], int n);

/* Runs `body` as n ranks, each a thread that opens and closes its own communicator. */
typedef void rank_body(zc_comm *comm, void *argument);
void ranks_run(int n, const zc_options *options, rank_body *body, void *argument);

/* Starts and joins a thread, checked. */
pthread_t thread_start(void *(*body)(void *), void *argument);
void thread_join(pthread_t thread);

#endif
