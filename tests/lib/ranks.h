/* SPDX-License-Identifier: MIT
 *
 * The ranks of a communicator inside this process. */
#ifndef TESTS_RANKS_H
#define TESTS_RANKS_H

#include <pthread.h>

#include "zc.h"

#define RANKS_MAX 8

/* What they talk over: "loop", "shm", or "verbs[:DEVICE]", where a * in DEVICE stands for 0 or 1 by the rank's
 * parity. */
extern const char *ranks_transport;

/* What is added to their addresses: "&key=value…". */
extern const char *ranks_parameters;

/* Names communicators, where ranks are processes: of all of them the same. 0: this process. */
extern int ranks_process;

/* The address of a rank of the communicator with that number. Those of the functions below are numbered from 0. */
void ranks_address(char *address, size_t room, unsigned number, int rank, int size);

/* Opens ranks 0..n-1 of a new communicator; afterwards any thread may use any of them. */
void ranks_open(zc_comm *comm[], int n, const zc_options *options);
void ranks_close(zc_comm *comm[], int n);

/* Runs `body` as n ranks, each a thread that opens and closes its own communicator. */
typedef void rank_body(zc_comm *comm, void *argument);
void ranks_run(int n, const zc_options *options, rank_body *body, void *argument);

/* Starts and joins a thread, checked. */
pthread_t thread_start(void *(*body)(void *), void *argument);
void thread_join(pthread_t thread);

#endif
