/* SPDX-License-Identifier: MIT
 *
 * Lengths beyond int, by derived types. */
#include <limits.h>

#include "transport/mpi.h"

enum { CHUNK = 1 << 30 }; /* bytes of the derived type for messages of more than INT_MAX */

MPI_Datatype mpi_type_for(size_t length, int *count)
{
    if (length <= INT_MAX) {
        *count = (int)length;
        return MPI_BYTE;
    }
    MPI_Datatype chunk, chunks, both;
    const size_t most = (size_t)INT_MAX * CHUNK; /* room for any message, where there is more */
    length = length < most ? length : most;
    size_t rest = length % CHUNK;
    MPI_Type_contiguous(CHUNK, MPI_BYTE, &chunk);
    MPI_Type_contiguous((int)(length / CHUNK), chunk, &chunks);
    MPI_Type_create_struct(2, (int[]){1, (int)rest}, (MPI_Aint[]){0, (MPI_Aint)(length - rest)},
                           (MPI_Datatype[]){chunks, MPI_BYTE}, &both);
    MPI_Type_commit(&both);
    MPI_Type_free(&chunk);
    MPI_Type_free(&chunks);
    *count = 1;
    return both;
}

void mpi_type_done(MPI_Datatype type)
{
    if (type != MPI_BYTE)
        MPI_Type_free(&type);
}

size_t mpi_length_of(const MPI_Status *status)
{
    MPI_Count bytes = 0;
    int count;
    if (MPI_Get_count(status, MPI_BYTE, &count) == MPI_SUCCESS && count != MPI_UNDEFINED)
        return (size_t)count;
    MPI_Get_elements_x(status, MPI_BYTE, &bytes);
    return bytes == MPI_UNDEFINED ? 0 : (size_t)bytes;
}
