/* SPDX-License-Identifier: MIT */
#include "bench/bare.h"

#include <stdatomic.h>
#include <string.h>

/* What one rank writes. The word has lines of its own. */
struct side {
    _Alignas(128) _Atomic uint64_t sent;
    _Alignas(128) char bytes[BARE_MOST];
};

static MPI_Win window;
static struct side *mine, *theirs;
static uint64_t sent, received;

void bare_open(const struct pair *pair)
{
    MPI_Aint size;
    int unit;

    MPI_Win_allocate_shared(sizeof *mine, 1, MPI_INFO_NULL, pair->mpi, &mine, &window);
    MPI_Win_shared_query(window, pair->other, &size, &unit, &theirs);
    memset(mine, 0, sizeof *mine);
    MPI_Barrier(pair->mpi);
}

void bare_close(void)
{
    MPI_Win_free(&window);
}

static void send(const struct pair *pair)
{
    memcpy(mine->bytes, pair->buf, pair->size);
    atomic_store_explicit(&mine->sent, ++sent, memory_order_release);
}

static void receive(const struct pair *pair)
{
    received++;
    while (atomic_load_explicit(&theirs->sent, memory_order_acquire) != received)
        ;
    memcpy(pair->buf, theirs->bytes, pair->size);
}

void bare_pass(struct pair *pair, pair_look *look)
{
    if (pair->rank == PAIR_SENDER)
        send(pair);
    receive(pair);
    look(pair, pair->buf);
    if (pair->rank == PAIR_RECEIVER)
        send(pair);
}
