/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cases.h"
#include "userfaultfd.h"

int rank, peer;
bool threads;
const int sizes[SIZES] = {100, 8000, 100000, 3 << 20};

#define CASE(name)                                                                                                     \
    {                                                                                                                  \
#name, name                                                                                                    \
    }

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    CASE(isend_overwrite),
    CASE(isend_many),
    CASE(isend_free),
    CASE(isend_strided),
    CASE(pack_behind),
    CASE(request_free),
    CASE(bsend),
    CASE(bsend_both),
    CASE(ibsend),
    CASE(persistent),
    CASE(completions),
    CASE(one_handle),
    CASE(irecv_touch),
    CASE(irecv_cancel),
    CASE(halo),
    CASE(recv_beside_send),
    CASE(recv_into_send),
    CASE(start_beside_send),
    CASE(sendrecv),
    CASE(collectives),
    CASE(system_calls),
    CASE(streams),
    CASE(nonblocking_collectives),
    CASE(bsend_init),
    CASE(one_sided),
    CASE(windows),
    CASE(bottom),
    CASE(window_meanwhile),
    CASE(files),
    CASE(irecv_beside),
    CASE(bsend_too_large),
    CASE(bsend_unprotected),
    CASE(buffer_detach),
    CASE(ibsend_detach),
    CASE(refused_lists),
    CASE(long_lists),
    CASE(alloc_mem_full),
    CASE(reduce_scatter),
    CASE(reduce_between_groups),
    CASE(completed_elsewhere),
    CASE(irecv_beside_lock),
    CASE(fiber),
    CASE(exchange_columns),
    CASE(column_beside_row),
    CASE(receive_twice),
    CASE(after_jump),
    CASE(alignment),
    CASE(errors_returned),
#if MPI_VERSION >= 4
    CASE(isendrecv),
    CASE(large_counts),
    CASE(persistent_collectives),
    CASE(partitioned),
#endif
};

void *buffer(size_t size, unsigned seed)
{
    void *buf;
    MPI_Alloc_mem((MPI_Aint)size, MPI_INFO_NULL, &buf);
    CHECK(zc_owns(buf));
    pattern_fill(buf, size, seed);
    return buf;
}

void meet(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
}

void nap(void)
{
    usleep(20000);
}

int main(int argc, char **argv)
{
    int level;
    if (argc != 3)
        return 2;
    userfaultfd_or_skip();
    threads = strcmp(argv[2], "multiple") == 0;
    MPI_Init_thread(&argc, &argv, threads ? MPI_THREAD_MULTIPLE : MPI_THREAD_SINGLE, &level);
    CHECK(!threads || level == MPI_THREAD_MULTIPLE);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    peer = 1 - rank;
    check_scene = argv[1];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (strcmp(cases[i].name, argv[1]) != 0)
            continue;
        cases[i].run();
        MPI_Finalize();
        return 0;
    }
    fprintf(stderr, "no case %s\n", argv[1]);
    return 2;
}
