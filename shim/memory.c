/* SPDX-License-Identifier: MIT
 *
 * MPI's own allocator, out of the pools. */
#include <mpi.h>
#include <string.h>

#include "shim/call.h"

int MPI_Alloc_mem(MPI_Aint size, MPI_Info info, void *baseptr)
{
    void *buf = size > 0 ? zc_alloc((size_t)size) : NULL;
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
