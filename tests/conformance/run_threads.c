/* SPDX-License-Identifier: MIT
 *
 * Runs the suite over a transport between processes, whose ranks are threads of this one all the same, or children:
 * conformance_threads TRANSPORT [--processes] [--ranks N] [--big | CASE…], where TRANSPORT is as in ranks.h. Without
 * --ranks each case runs with 1 to 3. Ends with 0, or by abort(3). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance.h"
#include "ranks.h"

enum {
    LIMIT_SECONDS = 100,
    OTHERS_FROM = 10000,
    OTHERS = 16
}; /* numbers of further communicators, and how many a case may have */

static unsigned runs;
static bool processes;

static zc_comm *another(struct conf *c, int n)
{
    zc_comm *comm = NULL;
    char address[96];

    ranks_address(address, sizeof address, OTHERS_FROM + OTHERS * runs + (unsigned)n, c->rank, c->size);
    CHECK_OK(zc_open(address, NULL, &comm));
    return comm;
}

static void run_rank(zc_comm *comm, void *which)
{
    conf_run(which, comm, another);
}

static void run_process(struct conf_case *which, int rank, int size)
{
    zc_comm *comm = NULL;
    char address[96];

    alarm(LIMIT_SECONDS);
    ranks_address(address, sizeof address, runs, rank, size);
    CHECK_OK(zc_open(address, NULL, &comm));
    run_rank(comm, which);
    CHECK_OK(zc_close(comm));
    exit(0);
}

static void run_processes(struct conf_case *which, int size)
{
    for (int rank = 0; rank < size; rank++) {
        pid_t child = fork();

        CHECK(child >= 0);
        if (child == 0)
            run_process(which, rank, size);
    }
    for (int rank = 0; rank < size; rank++) {
        int status;

        CHECK(wait(&status) > 0);
        CHECKF(status == 0, "%s: a rank of %d ended with status %#x", which->name, size, (unsigned)status);
    }
}

static void run(const struct conf_case *which, int size)
{
    struct conf_case argument = *which;

    printf("%s, %d ranks: %s\n", ranks_transport, size, which->name);
    fflush(stdout);
    if (processes)
        run_processes(&argument, size);
    else
        ranks_run(size, NULL, run_rank, &argument);
    runs++;
}

int main(int argc, char *argv[])
{
    int first = 1, last = 3, arg = 2;

    CHECKF(argc > 1, "which transport?");
    ranks_transport = argv[1];
    ranks_process = (int)getpid();
    if (arg < argc && strcmp(argv[arg], "--processes") == 0) {
        processes = true;
        arg++;
    }
    if (arg + 1 < argc && strcmp(argv[arg], "--ranks") == 0) {
        first = last = (int)strtol(argv[arg + 1], NULL, 10);
        arg += 2;
    }
    if (arg < argc && strcmp(argv[arg], "--big") == 0)
        run(&(struct conf_case){"past 2 GiB", case_big}, 2);
    for (const struct conf_case *which = conf_cases; which->name; which++)
        for (int size = first; size <= last && conf_wanted(which, argc - arg, argv + arg); size++)
            run(which, size);
    CHECKF(runs > 0, "there is no such case");
    printf("%u passed, 0 failed\n", runs);
    return 0;
}
