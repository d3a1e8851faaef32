/* SPDX-License-Identifier: MIT */
#include "userfaultfd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { SKIPPED = 77 };

bool on_userfaultfd(void)
{
    const char *protect = getenv("ZC_PROTECT");

    return protect && strcmp(protect, "userfaultfd") == 0;
}

static _Noreturn void open_pool(void)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool;

    options.slot_size = 4096;
    options.protect = ZC_PROTECT_USERFAULTFD;
    int error = zc_pool_open(&options, &pool);
    if (error)
        fprintf(stderr, "no userfaultfd to test: %s\n", zc_errmsg());
    _exit(error ? SKIPPED : 0);
}

/* In a child, so that this process has not used zc. */
void userfaultfd_or_skip(void)
{
    const char *ci = getenv("CI");
    int status;

    if (!on_userfaultfd())
        return;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        open_pool();
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    if (status)
        exit(ci && *ci ? 1 : WEXITSTATUS(status));
}
