/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

enum { LIMIT_SECONDS = 200, PORT = 19000 };

struct verbs_case {
    const char *name;
    void (*run)(void);
};

#define ENTRY(name) {#name, case_##name},
#define SET(set) (sizeof(set) / sizeof(set)[0]), set
static const struct verbs_case plain[] = {CASES(ENTRY)}, cable[] = {CABLE_CASES(ENTRY)}, big[] = {BIG_CASES(ENTRY)},
                               nodes[] = {NODE_CASES(ENTRY)}, mpi[] = {MPI_CASES(ENTRY)};

static const struct set {
    const char *option;
    size_t n;
    const struct verbs_case *cases;
} sets[] = {
    {"--cable", SET(cable)}, {"--big", SET(big)}, {"--nodes", SET(nodes)}, {"--mpi", SET(mpi)}, {"", SET(plain)}};

zc_comm *open_rank(int rank, int size)
{
    zc_comm *comm = NULL;
    char address[96];

    snprintf(address, sizeof address, "verbs:?rank=%d&size=%d&root=127.0.0.1:%d", rank, size, PORT);
    CHECK_OK(zc_open(address, NULL, &comm));
    return comm;
}

static void run(const struct verbs_case *which)
{
    int status;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        check_scene = which->name;
        alarm(LIMIT_SECONDS);
        ranks_transport = "verbs";
        which->run();
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s ended with status %#x", which->name, (unsigned)status);
}

/* verbs_cases [--cable | --big | --nodes | --mpi] [CASE…] */
int main(int argc, char *argv[])
{
    const struct set *set = sets;
    int first = 2;
    unsigned ran = 0;

    while (*set->option && (argc < 2 || strcmp(argv[1], set->option) != 0))
        set++;
    if (!*set->option)
        first = 1;
    for (size_t i = 0; i < set->n; i++) {
        bool wanted = argc == first;

        for (int a = first; a < argc; a++)
            wanted |= strcmp(argv[a], set->cases[i].name) == 0;
        if (!wanted)
            continue;
        printf("verbs: %s\n", set->cases[i].name);
        fflush(stdout);
        run(&set->cases[i]);
        ran++;
    }
    CHECKF(ran > 0, "there is no such case");
    printf("%u passed, 0 failed\n", ran);
    return 0;
}
