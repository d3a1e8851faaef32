/* SPDX-License-Identifier: MIT */
#include "core/own_memory.h"

#include <stdlib.h>

/* Volatile, as compilers take realloc for a function that sees nothing of the program's. */
static _Thread_local __attribute__((tls_model("initial-exec"))) volatile bool allocates;

void *own_realloc(void *at, size_t size)
{
    allocates = true;
    at = realloc(at, size);
    allocates = false;
    return at;
}

bool own_allocates(void)
{
    return allocates;
}
