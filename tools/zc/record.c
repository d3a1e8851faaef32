/* SPDX-License-Identifier: MIT
 *
 * zc record: runs a command with ZC_TRACE set. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/zc/command.h"

/* What traces are called, from the root: the command may work in another folder. */
static char folder[PATH_MAX], path[PATH_MAX + NAME_MAX + 2];
static const char *base; /* in `path` */

/* 0, or -1 and errno where no trace of that name could be written. */
static int find_place(const char *name)
{
    char given[PATH_MAX];
    const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
    if (strlen(name) >= sizeof given || strlen(last) > NAME_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    snprintf(given, sizeof given, "%.*s", slash ? (int)(last - name) : 1, slash ? name : ".");
    if (!realpath(given, folder))
        return -1;
    base = path + snprintf(path, sizeof path, "%s/%s", folder, last) - strlen(last);

    char trial[sizeof path + 16];
    snprintf(trial, sizeof trial, "%s.%d", path, (int)getpid());
    int fd = open(trial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EEXIST ? 0 : -1;
    close(fd);
    return unlink(trial);
}

/* Traces that are there. */
static int count_traces(void)
{
    int count = 0;
    size_t length = strlen(base);
    DIR *files = opendir(folder);
    for (struct dirent *file; files && (file = readdir(files));) {
        const char *rest = file->d_name + length;
        count += strncmp(file->d_name, base, length) == 0 && rest[0] == '.' && rest[1] >= '0' && rest[1] <= '9';
    }
    if (files)
        closedir(files);
    return count;
}

static int run(int argc, char **argv)
{
    const char *name = "zc-trace";
    const struct flag flags[] = {{"output", NULL, &name}, {NULL, NULL, NULL}};
    int at = parse_flags(argc, argv, flags);
    if (at < 0)
        return STATUS_USAGE;
    if (at == argc)
        return misused("which command is to be run?");
    if (!*name)
        return misused("--output: expected a name that is not empty");
    if (find_place(name))
        return failed("--output %s: a trace cannot be written there: %s", name, strerror(errno));
    if (count_traces())
        return failed("there are traces called %s.PID already: remove them, or choose another --output", name);
    setenv("ZC_TRACE", path, 1);
    int status = run_program(argv + at);
    if (status < 0)
        return STATUS_NOT_RUN;
    int traces = count_traces();
    if (!traces) {
        failed("no process of %s used zc_alloc, so that nothing was recorded", argv[at]);
        return status ? status : STATUS_FAILED;
    }
    fprintf(stderr, "zc record: %d trace%s; next: zc tune %s.*\n", traces, traces == 1 ? "" : "s", name);
    return status;
}

const struct command command_record = {
    .name = "record",
    .arguments = "[--output NAME] [--] COMMAND [ARGUMENT...]",
    .summary = "Run a command and record what it allocates, for zc tune",
    .help = "Each process that uses zc_alloc, of the command and of what it starts (also under mpiexec), writes\n"
            "NAME.PID: each buffer with its size and when it was allocated and freed, 24 bytes each. A trace is\n"
            "complete even if its process is killed. The format is described in core/trace.h.\n\n"
            "  --output NAME   what the traces are called; zc-trace by default\n\n"
            "The exit status is that of the command, 128 + n if signal n ended it, 127 if it could not be run; and 1\n"
            "if nothing was recorded.\n",
    .run = run,
};
