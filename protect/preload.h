/* SPDX-License-Identifier: MIT
 *
 * What the malloc preload (shim/malloc.c) calls: buffers of zc_alloc's pools that serve as a program's ordinary
 * memory. No handler of SIGSEGV is installed for them; whatever protects pages first does that. A forked child has
 * its own copy of them.
 *
 * A table, since two libraries have it: the preload itself, which brings no transport and no MPI into a process, and
 * libzc.so, which shows its own as `zc_preload`. Where both are in a process the preload uses the latter, so that there
 * is one arena, and memory of malloc is sent as memory of zc_alloc is. */
#ifndef ZC_PROTECT_PRELOAD_H
#define ZC_PROTECT_PRELOAD_H

#include <stdbool.h>
#include <stddef.h>

#include "zc.h"

struct preload {
    size_t size; /* of this struct: another version's is not used */

    /* Options ZC_MALLOC_THRESHOLD and ZC_MALLOC_MOST. 0, or -EINVAL with the message printed: an ill-formed ZC_...
     * variable. */
    int (*sizes)(size_t *least, size_t *most);

    /* Opens the pools; all buffers will lie in *start..*start + *length. `hidden`: without file descriptors that the
     * program might see. 0 or -errno. */
    int (*open)(bool hidden, char **start, size_t *length);

    /* For pthread_atfork, to be registered before all other handlers (inherit.h). */
    void (*prepare)(void);
    void (*parent)(void);
    void (*child)(void);

    /* At least `size` bytes, aligned to `alignment`, a power of two up to 2 MiB. NULL where the
     * pools have none, for zc itself, and in a forked child. */
    void *(*alloc)(size_t size, size_t alignment);

    /* Of buffers only, in a forked child too. */
    void (*free)(void *ptr);
    size_t (*usable_size)(const void *ptr);
};

extern const struct preload preload;

#endif
