/* SPDX-License-Identifier: MIT */
#include "core/thread.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "core/error.h"

int thread_spawn(void *(*body)(void *), const char *what)
{
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, body, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return fail(-ENOMEM, "zc: the %s thread cannot be started: %s", what, strerror(error));
    pthread_detach(thread);
    return 0;
}
