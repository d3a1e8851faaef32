/* SPDX-License-Identifier: MIT */
#include "bench/lib/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/bench.h"

/* The example, from where this program is: build/PRESET/bench/bench_table. */
static char *table_path(const char *program)
{
    static const char path[] = "../examples/table";
    const char *slash = strrchr(program, '/');
    size_t folder = slash ? (size_t)(slash + 1 - program) : 0;
    char *result = malloc(folder + sizeof path);

    memcpy(result, program, folder);
    memcpy(result + folder, path, sizeof path);
    return result;
}

void table_exec(const char *program, const char *const options[], const char *const more[])
{
    enum { MOST = 64 };
    const char *args[MOST] = {table_path(program)};

    int n = 1;
    for (int i = 0; options[i]; i++)
        args[n++] = options[i];
    for (int i = 0; more && more[i]; i++)
        args[n++] = more[i];
    if (getenv("BENCH_PROGRESS"))
        args[n] = "--progress"; /* under mpiexec, standard error is a pipe */
    execv(args[0], (char **)args);
    bench_die("%s: %s: %s", program, args[0], strerror(errno));
}
