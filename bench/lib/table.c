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

void table_exec(const char *program, const char *const options[])
{
    enum { MOST = 64 };
    const char *args[MOST] = {table_path(program)};

    for (int i = 0; options[i]; i++)
        args[i + 1] = options[i];
    execv(args[0], (char **)args);
    bench_die("%s: %s: %s", program, args[0], strerror(errno));
}
