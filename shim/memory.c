/* SPDX-License-Identifier: MIT
 *
 * MPI's own allocator, out of the pools. */
#include <mpi.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "shim/call.h"

/* The program gets MPI's own memory, as without this library, and somebody may wonder why. */
static void say_why(void)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&said))
        fprintf(stderr, "zc-shim: MPI_Alloc_mem takes nothing from the pools: %s\n", zc_errmsg());
}

int MPI_Alloc_mem(MPI_Aint size, MPI_Info info, void *baseptr)
{
    void *buf = size > 0 ? zc_alloc((size_t)size) : NULL;
    if (!buf && size > 0)
        say_why();
    if (buf && !zc_owns(buf)) { /* a fall-back's, which MPI_Free_mem would not know */
        zc_free(buf);
        buf = NULL;
    }
    if (!buf)
        return PMPI_Alloc_mem(size, info, baseptr);
    memcpy(baseptr, &buf, sizeof buf);
    return MPI_SUCCESS;
}

int MPI_Free_mem(void *base)
{
    if (!zc_owns(base))
        return PMPI_Free_mem(base);
    return zc_free(base) == 0 ? MPI_SUCCESS : MPI_ERR_BASE;
}
