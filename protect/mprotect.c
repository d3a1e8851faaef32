/* SPDX-License-Identifier: MIT
 *
 * Protection by mprotect(2) and SIGSEGV: needs nothing, but a system call on a guarded buffer fails, and each range of
 * another protection splits a mapping. */
#include "protect/backend.h"
#include "protect/maps.h"

static int protect(char *at, size_t length, int prot, bool closed)
{
    (void)closed;
    return sys_mprotect(at, length, prot);
}

const struct backend mprotect_backend = {.protect = protect, .split = MAPS_SPLIT, .rename = MAPS_RENAME};
