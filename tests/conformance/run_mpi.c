/* SPDX-License-Identifier: MIT
 *
 * Runs the suite over MPI: mpiexec -n N conformance_mpi [--big | CASE…]. Ends with 0, with 77 if it was
 * skipped, or by abort(3). */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "conformance.h"
#include "zc_mpi.h"

static zc_comm *another(struct conf *c, int n)
{
    zc_comm *comm = NULL;

    (void)c;
    (void)n;
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, NULL, &comm));
    return comm;
}

static const struct {
    const char *name;
    void (*run)(struct conf *);
} cases[] = {
#define MPI_CASE(name) {#name, case_##name},
    CONFORMANCE_CASES(MPI_CASE)};

static void run(struct conf *c, const char *name, void (*body)(struct conf *))
{
    char scene[96];

    if (c->rank == 0) {
        printf("mpi, %d ranks: %s\n", c->size, name);
        fflush(stdout);
    }
    snprintf(scene, sizeof scene, "%s, rank %d of %d", name, c->rank, c->size);
    check_scene = scene;
    body(c);
    conf_barrier(c);
    check_scene = NULL;
}

static bool wanted(const char *name, int argc, char *argv[])
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc == 1;
}

int main(int argc, char *argv[])
{
    struct conf c = {.another = another};
    bool big = argc == 2 && strcmp(argv[1], "--big") == 0;
    unsigned ran = 0;

    CHECK_OK(zc_open("mpi", NULL, &c.comm));
    c.rank = zc_rank(c.comm);
    c.size = zc_size(c.comm);
    c.next = (c.rank + 1) % c.size;
    c.prev = (c.rank + c.size - 1) % c.size;
    if (big) {
        int fits = big_fits(c.size);

        MPI_Bcast(&fits, 1, MPI_INT, 0, MPI_COMM_WORLD);
        if (!fits) {
            if (c.rank == 0)
                printf("skipped: needs 6.5 GiB of memory a rank, and TEST_BIG not 0\n");
            CHECK_OK(zc_close(c.comm));
            return 77;
        }
        run(&c, "past 2 GiB", case_big);
        ran = 1;
    } else {
        for (unsigned i = 0; i < COUNT(cases); i++)
            if (wanted(cases[i].name, argc, argv)) {
                run(&c, cases[i].name, cases[i].run);
                ran++;
            }
    }
    CHECKF(ran > 0, "there is no such case");
    CHECK_OK(zc_close(c.comm));
    if (c.rank == 0)
        printf("%u passed, 0 failed\n", ran);
    return 0;
}
