/* SPDX-License-Identifier: MIT
 *
 * Threads of the library. */
#ifndef ZC_CORE_THREAD_H
#define ZC_CORE_THREAD_H

/* Starts a detached thread that takes no signals: they are for the application's. `what` names it for the message.
 * 0 or -ENOMEM with a message. */
int thread_spawn(void *(*body)(void *), const char *what);

#endif
