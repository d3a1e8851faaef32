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
        return fail(-ENOMEM, "zc: the %s thread cannot be started: %s", what, error_text(error));
    pthread_detach(thread);
    return 0;
}

void thread_once(pthread_once_t *done, void (*body)(void))
{
    int cancel;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    pthread_once(done, body);
    pthread_setcancelstate(cancel, NULL);
}

/* ---- what a thread keeps ---- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool possible;

static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    bool watched; /* before its key is set, which may allocate, and so ask for this again */
    struct {
        void (*give_back)(void *argument);
        void *argument;
    } kept[THREAD_KEPT];
} self;

static void thread_ends(void *unused)
{
    (void)unused;
    self.watched = false;
    for (int i = 0; i < THREAD_KEPT; i++) {
        void (*give_back)(void *) = self.kept[i].give_back;
        self.kept[i].give_back = NULL;
        if (give_back)
            give_back(self.kept[i].argument);
    }
}

static void prepare(void)
{
    possible = pthread_key_create(&key, thread_ends) == 0;
}

bool thread_keeps(enum thread_kept what, void (*give_back)(void *argument), void *argument)
{
    thread_once(&once, prepare);
    if (!self.watched) {
        self.watched = true;
        self.watched = possible && pthread_setspecific(key, &self) == 0;
    }
    if (!self.watched)
        return false;
    self.kept[what].argument = argument;
    self.kept[what].give_back = give_back;
    return true;
}
