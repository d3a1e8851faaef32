/* SPDX-License-Identifier: MIT */
#include "conformance.h"

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
