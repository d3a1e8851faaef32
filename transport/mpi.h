/* SPDX-License-Identifier: MIT
 *
 * The MPI transport: Isend and Irecv on wire addresses, over a communicator of its own. Its parts are opening and
 * closing (mpi_connect.c), what is left to do for a closed one (mpi_part.c), operations in flight (mpi.c), messages
 * that are there (mpi_probe.c), lengths beyond int (mpi_count.c) and MPI's life (mpi_life.c): it is initialised if
 * nobody has, and communicators of its processes end with it. */
#ifndef ZC_TRANSPORT_MPI_H
#define ZC_TRANSPORT_MPI_H

#include <mpi.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/lock.h"
#include "transport/transport.h"

enum {
    EAGER = 8192, /* MPICH over UCX takes messages up to 8255 bytes at once; others are near that */
    SETTLED = 32  /* requests of messages that have left, which are given back to MPI together */
};

/* Requests in flight and whose they are: parallel arrays, without gaps. */
struct requests {
    int count, room, cursor;
    MPI_Request *native;
    struct op **ops;
};

/* Sends and receives are apart because they are tested differently. The lock is held while MPI tests, so that no two
 * threads test the same; whoever finds it taken has nothing to do. */
struct mpi {
    MPI_Comm comm;
    uint64_t number;            /* which no other one of this process has had; not 0 */
    lock matching;              /* whoever takes messages out of what MPI_Iprobe sees; taken before the other one */
    _Atomic uint64_t taken;     /* changes after each call that may have */
    MPI_Request sent;           /* what MPI_Isend returns of messages that have left, or MPI_REQUEST_NULL, */
    _Atomic unsigned unsettled; /* and how often it has; SETTLED of them at a time were waited for */
    lock lock;
    struct requests sends, receives;
    _Atomic int in_flight; /* of both: where it is 0, a poll has nothing to do */
    MPI_Request endless;   /* of which nothing comes: what there is to test where nothing is in flight */
    struct mpi *next;      /* of those that are closed, each */
    int stage;             /* so far, */
    int partings;          /* with so many of */
    MPI_Request parting[]; /* these in flight: there is one a rank */
};

/* ---- opening and closing ---- */

int mpi_open(const struct address *address, void *native, struct endpoint *endpoint);
void mpi_close(struct endpoint *endpoint);

/* Frees it, once its ranks are done with each other; mpi_free_parted does that. False: some are not yet. */
void mpi_part(struct mpi *mpi);
bool mpi_free_parted(void);
void mpi_tend(void); /* the same, as the transport's */

/* Is this thread in a call of zc's whose error is zc's affair? */
extern _Thread_local bool mpi_testing __attribute__((tls_model("initial-exec")));

/* ---- operations in flight ---- */

/* -EIO, with a message that says what MPI says. */
int mpi_failed(int code, const char *what);

/* Waits for `count` of the requests that are over, SETTLED at most. */
void mpi_settle(const struct mpi *mpi, unsigned count);

/* Something was taken, perhaps. `matching` is held. */
static inline void mpi_note_taken(struct mpi *mpi)
{
    uint64_t taken = atomic_load_explicit(&mpi->taken, memory_order_relaxed);
    atomic_store_explicit(&mpi->taken, taken + 1, memory_order_release);
}

/* Room for one more, or -ENOMEM. Locked. */
int mpi_make_room(struct requests *requests);

/* Is anything in flight that a poll would end? */
bool mpi_busy(const struct endpoint *endpoint);

/* The receive was posted, with `code`. A call that waits for its message takes it at once if it is there already.
 * Locked; drops the lock. */
int mpi_start_receive(struct mpi *mpi, struct op *op, int code, MPI_Request request);

/* ---- messages that are there ---- */

int mpi_probe(struct endpoint *endpoint, int src, int tag, zc_status *status);
int mpi_receive_now(struct endpoint *endpoint, void *wire, size_t cap, int src, int tag, zc_status *status);
int mpi_take(struct endpoint *endpoint, int src, int tag, zc_status *status, struct taken *taken);
int mpi_receive_taken(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, struct taken *taken);
void mpi_give_back(struct endpoint *endpoint, const struct taken *taken);
void mpi_drop(MPI_Message *message);

static inline int mpi_source(int src)
{
    return src == ZC_ANY_SOURCE ? MPI_ANY_SOURCE : src;
}

static inline int mpi_tag(int tag)
{
    return tag == ZC_ANY_TAG ? MPI_ANY_TAG : tag;
}

/* ---- lengths beyond int ---- */

/* A type of `length` bytes, or MPI_BYTE with *count where int is enough; to be given back when it was used. */
MPI_Datatype mpi_type_for(size_t length, int *count);
void mpi_type_done(MPI_Datatype type);

size_t mpi_length_of(const MPI_Status *status);

/* ---- MPI's life ---- */

/* Unless it is initialised; then the program's exit finalises it. 0 or an error. */
int mpi_initialise(void);

/* From now on MPI_Finalize closes what is still open. */
void mpi_watch_finalize(void);

/* A request that is never over, until it is ended: something to test. 0 or -errno. MPI_REQUEST_NULL ends at once. */
int mpi_start_endless(MPI_Request *request);
void mpi_end_endless(MPI_Request *request);

#endif
