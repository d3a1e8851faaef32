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
    pid_t child;
    int error = posix_spawnp(&child, argv[0], NULL, NULL, argv, environ);
    if (error) {
        failed("%s: %s", argv[0], strerror(error));
        return -1;
    }
    /* Keys that end the command must not end us before we said what was seen. */
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return failed("waiting for %s: %s", argv[0], strerror(errno));
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
