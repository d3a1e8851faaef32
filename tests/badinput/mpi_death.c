/* SPDX-License-Identifier: MIT
 *
 * Cases of mpi_levels that end the process, each a single process without mpiexec. */
#include <criterion/criterion.h>
#include <signal.h>

#include "child.h"

Test(mpi_death, touch_below_multiple, .timeout = 60)
{
    const char *argv[] = {MPI_LEVELS, "touch_below_multiple", NULL};
    struct outcome outcome;

    child_run(&outcome, argv, NULL);
    expect_signal(&outcome, SIGABRT);
    expect_output(&outcome, "zc_wait");
    expect_output(&outcome, "MPI_THREAD_MULTIPLE");
}
