/* SPDX-License-Identifier: MIT
 *
 * Runs the command of zc record and zc race. */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/zc/command.h"

int run_program(char **argv)
{
    /* Keys that end the command must not end us before we said what was seen, nor its end be lost to an inherited
     * SIG_IGN. The command ignores what we were told to. */
    sigset_t ours;
    sigemptyset(&ours);
    if (signal(SIGINT, SIG_IGN) != SIG_IGN)
        sigaddset(&ours, SIGINT);
    if (signal(SIGQUIT, SIG_IGN) != SIG_IGN)
        sigaddset(&ours, SIGQUIT);
    signal(SIGCHLD, SIG_DFL);

    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigdefault(&attributes, &ours);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    pid_t child;
    int error = posix_spawnp(&child, argv[0], NULL, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    if (error) {
        failed("%s: %s", argv[0], strerror(error));
        return -1;
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return failed("waiting for %s: %s", argv[0], strerror(errno));
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
