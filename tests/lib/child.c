/* SPDX-License-Identifier: MIT */
#include "child.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define VARIABLES_MAX 512

/* The sanitizers' own SIGSEGV handlers would stand between a test and the default action. */
static const char *const sanitizer[] = {"ASAN_OPTIONS=handle_segv=0:handle_abort=0", "UBSAN_OPTIONS=handle_segv=0",
                                        "TSAN_OPTIONS=handle_segv=0:die_after_fork=0", NULL};

static bool same_variable(const char *a, const char *b)
{
    size_t n = strcspn(a, "=");

    return strncmp(a, b, n) == 0 && b[n] == '=';
}

static void set(const char *list[], size_t *n, const char *variable)
{
    for (size_t i = 0; i < *n; i++)
        if (same_variable(variable, list[i])) {
            list[i] = variable;
            return;
        }
    CHECK(*n + 1 < VARIABLES_MAX);
    list[(*n)++] = variable;
}

static void read_all(int fd, struct outcome *outcome)
{
    size_t used = 0;
    char chunk[4096];

    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        size_t room = sizeof outcome->output - 1 - used;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        if ((size_t)n < room)
            room = (size_t)n;
        memcpy(outcome->output + used, chunk, room);
        used += room;
    }
    outcome->output[used] = 0;
}

void child_run(struct outcome *outcome, const char *const argv[], const char *const environment[])
{
    const char *variables[VARIABLES_MAX];
    size_t n = 0;
    posix_spawn_file_actions_t actions;
    int fds[2];
    pid_t pid;

    for (size_t i = 0; environ[i] && n + 1 < VARIABLES_MAX; i++)
        variables[n++] = environ[i];
    for (size_t i = 0; sanitizer[i]; i++)
        set(variables, &n, sanitizer[i]);
    for (size_t i = 0; environment && environment[i]; i++)
        set(variables, &n, environment[i]);
    variables[n] = NULL;

    CHECK(pipe(fds) == 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", 0, 0);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    posix_spawn_file_actions_addclose(&actions, fds[1]);
    int error = posix_spawn(&pid, argv[0], &actions, NULL, (char *const *)argv, (char *const *)variables);
    posix_spawn_file_actions_destroy(&actions);
    CHECKF(error == 0, "%s: %s", argv[0], strerror(error));
    close(fds[1]);
    read_all(fds[0], outcome);
    close(fds[0]);
    while (waitpid(pid, &outcome->status, 0) < 0)
        CHECK(errno == EINTR);
}

static _Noreturn void unexpected(const struct outcome *outcome, const char *expected, int number)
{
    int s = outcome->status;

    check_failed("child", 0, expected, "expected %d, but it %s %d; it wrote:\n%s", number,
                 WIFEXITED(s) ? "exited with" : "was ended by signal", WIFEXITED(s) ? WEXITSTATUS(s) : WTERMSIG(s),
                 outcome->output);
}

void expect_exit(const struct outcome *outcome, int code)
{
    if (!WIFEXITED(outcome->status) || WEXITSTATUS(outcome->status) != code)
        unexpected(outcome, "exit code", code);
}

void expect_signal(const struct outcome *outcome, int signal)
{
    if (!WIFSIGNALED(outcome->status) || WTERMSIG(outcome->status) != signal)
        unexpected(outcome, "signal", signal);
}

void expect_output(const struct outcome *outcome, const char *text)
{
    if (!strstr(outcome->output, text))
        check_failed("child", 0, text, "is not in its output:\n%s", outcome->output);
}

void children_start(int n, void (*body)(int rank), pid_t child[])
{
    for (int rank = 0; rank < n; rank++) {
        child[rank] = fork();
        CHECK(child[rank] >= 0);
        if (child[rank] == 0) {
            static char scene[32];

            snprintf(scene, sizeof scene, "rank %d", rank);
            check_scene = scene;
            body(rank);
            exit(0);
        }
    }
}

void children_end(int n, const pid_t child[])
{
    for (int rank = 0; rank < n; rank++) {
        int status;

        if (child[rank] <= 0)
            continue;
        CHECK(waitpid(child[rank], &status, 0) == child[rank]);
        CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 0, "rank %d ended with status %#x", rank, (unsigned)status);
    }
}

void child_kill(pid_t *child)
{
    CHECK(kill(*child, SIGKILL) == 0);
    CHECK(waitpid(*child, NULL, 0) == *child);
    *child = 0;
}
