/* SPDX-License-Identifier: MIT
 *
 * Runs the suite over verbs, where there is a device: conformance_verbs [--devices] [--ranks N] [CASE…]. Each rank is a
 * thread of this process; with --devices even ones have rxe0 and odd ones rxe1. Without --ranks each case runs with 1
 * to 3. Ends with 0, or by abort(3). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"
#include "ranks.h"

enum { OTHERS_FROM = 10000, OTHERS = 16 }; /* numbers of further communicators, and how many a case may have */

struct verbs_case {
    const char *name;
    void (*run)(struct conf *);
};

static const struct verbs_case cases[] = {
#define VERBS_CASE(name) {#name, case_##name},
    CONFORMANCE_CASES(VERBS_CASE)};

static unsigned runs;

static zc_comm *another(struct conf *c, int n)
{
    zc_comm *comm = NULL;
    char address[96];

    ranks_address(address, sizeof address, OTHERS_FROM + OTHERS * runs + (unsigned)n, c->rank, c->size);
    CHECK_OK(zc_open(address, NULL, &comm));
    return comm;
}

static void run_rank(zc_comm *comm, void *argument)
{
    const struct verbs_case *which = argument;
    struct conf c = {.comm = comm, .rank = zc_rank(comm), .size = zc_size(comm), .another = another};
    char scene[96];

    snprintf(scene, sizeof scene, "%s, rank %d of %d", which->name, c.rank, c.size);
    check_scene = scene;
    c.next = (c.rank + 1) % c.size;
    c.prev = (c.rank + c.size - 1) % c.size;
    which->run(&c);
    conf_barrier(&c);
    check_scene = NULL;
}

static void run(const struct verbs_case *which, int size)
{
    struct verbs_case argument = *which;

    printf("verbs, %d ranks: %s\n", size, which->name);
    fflush(stdout);
    ranks_run(size, NULL, run_rank, &argument);
    runs++;
}

int main(int argc, char *argv[])
{
    int first = 1, last = 3, arg = 1;

    ranks_transport = "verbs";
    if (arg < argc && strcmp(argv[arg], "--devices") == 0) {
        ranks_transport = "verbs:rxe*";
        arg++;
    }
    if (arg + 1 < argc && strcmp(argv[arg], "--ranks") == 0) {
        first = last = (int)strtol(argv[arg + 1], NULL, 10);
        arg += 2;
    }
    for (unsigned i = 0; i < COUNT(cases); i++) {
        bool wanted = arg == argc;

        for (int a = arg; a < argc; a++)
            wanted |= strcmp(argv[a], cases[i].name) == 0;
        for (int size = first; wanted && size <= last; size++)
            run(&cases[i], size);
    }
    CHECKF(runs > 0, "there is no such case");
    printf("%u passed, 0 failed\n", runs);
    return 0;
}
