/* SPDX-License-Identifier: MIT
 *
 * How ranks find each other before there is a transport between them: each says who it is, and then all exchange
 * bytes, by TCP through rank 0 or over MPI. Not for two threads at once. */
#ifndef ZC_TRANSPORT_BOOTSTRAP_H
#define ZC_TRANSPORT_BOOTSTRAP_H

#include <stddef.h>
#include <stdint.h>

enum { BOOTSTRAP_RANKS_MOST = 1024, BOOTSTRAP_PROTOCOL_BYTES = 16 };

struct bootstrap;

/* Waits until ranks 0..size-1 are there. Rank 0 listens at `root`, HOST:PORT, where the others connect as soon as it
 * does. All must give the same `protocol`, a few letters and a version. No call waits for longer than `timeout_ns`.
 *   -EINVAL      root; or this rank's size is not rank 0's
 *   -EADDRINUSE  rank 0: the port is taken
 *   -EEXIST      this rank is there already
 *   -EPROTO      what answers at root is something else, or of another version
 *   -ETIMEDOUT   not all came; -ECONNRESET: one of them left again; or another error of the network */
int bootstrap_open(const char *root, int rank, int size, const char *protocol, uint64_t timeout_ns,
                   struct bootstrap **out);

/* The ranks of *comm, an MPI_Comm. Collective. */
int bootstrap_open_mpi(const void *comm, struct bootstrap **out);

/* Rank 0's bytes, rank 1's bytes, … in all[0..size*length). Collective; `length` is the same everywhere. */
int bootstrap_allgather(struct bootstrap *bootstrap, const void *mine, size_t length, void *all);

/* 0 if all ranks say 0. Else this rank's error, or that of another, with a message. Collective. */
int bootstrap_agree(struct bootstrap *bootstrap, int error);

/* NULL is fine. By TCP, a rank that closes early makes the calls of the others fail; over MPI they would wait for ever,
 * so that all are to agree before one closes. */
void bootstrap_close(struct bootstrap *bootstrap);

int bootstrap_rank(const struct bootstrap *bootstrap);
int bootstrap_size(const struct bootstrap *bootstrap);

#endif
