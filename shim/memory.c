/* SPDX-License-Identifier: MIT
 *
 * MPI's own allocator, out of the pools. */
#include <mpi.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim/call.h"

static const size_t ALIGNMENT_MOST = 2 << 20;

/* The program gets MPI's own memory, as without this library, and somebody may wonder why. */
static void say_why(void)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&said))
        fprintf(stderr, "zc-shim: MPI_Alloc_mem takes nothing from the pools: %s\n", zc_errmsg());
}

/* What the program asks for; 0: more than the pools have. */
static size_t alignment_of(MPI_Info info)
{
    char text[16];
    int given = 0;
    if (info != MPI_INFO_NULL)
        PMPI_Info_get(info, "mpi_minimum_memory_alignment", sizeof text - 1, text, &given);
    size_t alignment = given ? strtoul(text, NULL, 10) : 1;
    return alignment & (alignment - 1) || alignment > ALIGNMENT_MOST ? 0 : alignment;
}

int MPI_Alloc_mem(MPI_Aint size, MPI_Info info, void *baseptr)
{
    size_t alignment = size > 0 && baseptr ? alignment_of(info) : 0;
    void *buf = alignment ? zc_aligned_alloc(alignment, (size_t)size) : NULL;
    if (!buf && alignment)
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
