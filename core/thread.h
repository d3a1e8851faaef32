/* SPDX-License-Identifier: MIT
 *
 * Threads: those of the library, and what is done when one of the application's ends. */
#ifndef ZC_CORE_THREAD_H
#define ZC_CORE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* Starts a detached thread that takes no signals: they are for the application's. `what` names it for the message.
 * 0 or -ENOMEM with a message. */
int thread_spawn(void *(*body)(void *), const char *what);

/* pthread_once(3), in which the thread is not cancelled: what is half done would be done again. */
void thread_once(pthread_once_t *done, void (*body)(void));

/* What a thread keeps for itself and gives back at its end, in this order: what comes later may serve what comes
 * before. */
enum thread_kept { THREAD_OP, THREAD_CACHES, THREAD_COUNTS, THREAD_KEPT };

/* Has `give_back(argument)` called when this thread ends; once more if a destructor of the application that runs later
 * asks anew. False: that cannot be. */
bool thread_keeps(enum thread_kept what, void (*give_back)(void *argument), void *argument);

#endif
