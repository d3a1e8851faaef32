/* SPDX-License-Identifier: MIT
 *
 * zc record: runs a command with ZC_TRACE set. */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/zc/command.h"

/* Traces of that name: their number, or -1 if it is not known. */
static int count_traces(const char *name)
{
    char pattern[4096];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s.[0-9]*", name);
    int error = glob(pattern, 0, NULL, &found);
    int count = error ? 0 : (int)found.gl_pathc;
    globfree(&found);
    return error && error != GLOB_NOMATCH ? -1 : count;
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
    if (count_traces(name))
        return failed("there are traces called %s.PID already: remove them, or choose another --output", name);
    setenv("ZC_TRACE", name, 1);
    int status = run_program(argv + at);
    if (status < 0)
        return STATUS_NOT_RUN;
    int traces = count_traces(name);
    if (traces <= 0) {
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
