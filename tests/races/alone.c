/* SPDX-License-Identifier: MIT
 *
 * A program of one process, without a race. */
#include <mpi.h>

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Finalize();
    return 0;
}
