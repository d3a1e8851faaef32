/* SPDX-License-Identifier: MIT */
#include "conformance.h"

#include <stdio.h>
#include <string.h>

const struct conf_case conf_cases[] = {
#define CONFORMANCE_ENTRY(name) {#name, case_##name},
    CONFORMANCE_CASES(CONFORMANCE_ENTRY){NULL, NULL}};

bool conf_wanted(const struct conf_case *which, int n, char *const names[])
{
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], which->name) == 0)
            return true;
    return n == 0;
}

void conf_run(const struct conf_case *which, zc_comm *comm, conf_another *another)
{
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

void conf_barrier(struct conf *c)
{
    for (int i = 0; i < c->size; i++)
        if (i != c->rank)
            CHECK_OK(zc_send(NULL, 0, i, TAG_BARRIER, c->comm));
    for (int i = 0; i < c->size; i++)
        if (i != c->rank)
            CHECK_OK(zc_recv(NULL, 0, i, TAG_BARRIER, c->comm, NULL));
}

uint64_t conf_seed(int rank, unsigned n)
{
    return (uint64_t)(rank + 1) * 1000003 + n;
}
