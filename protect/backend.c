/* SPDX-License-Identifier: MIT */
#include "protect/backend.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/options.h"
#include "protect/maps.h"

const struct backend *const backends[] = {
    [ZC_PROTECT_MPROTECT] = &mprotect_backend,
    [ZC_PROTECT_USERFAULTFD] = &userfaultfd_backend,
};

int backend_choose(struct zc_pool *pool, enum zc_protect wanted)
{
    static atomic_flag told = ATOMIC_FLAG_INIT;
    const struct options *options;
    int error = options_get(&options);
    if (error)
        return error;
    enum zc_protect protect = wanted ? wanted : options->protect;
    if (pool->hugetlb && protect == ZC_PROTECT_USERFAULTFD) /* a rename makes mappings anew, unregistered */
        error = fail(-ENOTSUP, "userfaultfd does not protect hugetlb pages");
    else
        error = backends[protect]->open ? backends[protect]->open() : 0;
    if (error && wanted)
        return error;
    if (error && !atomic_flag_test_and_set(&told)) {
        error_say("%s; mprotect serves instead", zc_errmsg());
        error_print();
    }
    pool->protect = error ? ZC_PROTECT_MPROTECT : protect;
    return 0;
}

int backend_mapped(struct zc_pool *pool, char *user, size_t length)
{
    const struct backend *backend = backend_of(pool);
    return backend->mapped ? backend->mapped(user, length) : 0;
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
    text_add_number(&text, length);
    text_add(&text, " bytes of a buffer at ");
    text_add_address(&text, at);
    text_add(&text, " failed with errno ");
    text_add_number(&text, (uint64_t)-error);
    text_add(&text, error == -ENOMEM ? ": raise vm.max_map_count\n" : ": does a seccomp filter refuse it?\n");
    text_print(&text);
    abort();
}
