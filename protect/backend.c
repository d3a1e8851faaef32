/* SPDX-License-Identifier: MIT */
#include "protect/backend.h"

#include <stdlib.h>

#include "core/error.h"
#include "protect/maps.h"

const struct backend *backend_of(const struct zc_pool *pool)
{
    (void)pool;
    return &mprotect_backend;
}

int backend_protect(const struct zc_pool *pool, char *at, size_t length, int prot, bool closed)
{
    const struct backend *backend = backend_of(pool);
    int error = backend->protect(at, length, prot, closed);
    while (error == -ENOMEM && maps_drop_ballast())
        error = backend->protect(at, length, prot, closed);
    return error;
}

void backend_must_protect(const struct zc_pool *pool, char *at, size_t length, int prot, bool closed)
{
    int error = backend_protect(pool, at, length, prot, closed);
    if (!error)
        return;
    struct text text = {0};
    text_add(&text, "zc: changing the protection of ");
    text_add_number(&text, length, 10);
    text_add(&text, " bytes of a buffer at ");
    text_add_number(&text, (uint64_t)(uintptr_t)at, 16);
    text_add(&text, " failed with errno ");
    text_add_number(&text, (uint64_t)-error, 10);
    text_add(&text, error == -ENOMEM ? ": raise vm.max_map_count\n" : ": does a seccomp filter refuse it?\n");
    text_print(&text);
    abort();
}
