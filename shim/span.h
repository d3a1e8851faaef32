/* SPDX-License-Identifier: MIT
 *
 * The memory that an argument of MPI names: buffer, count and datatype. */
#ifndef ZC_SHIM_SPAN_H
#define ZC_SHIM_SPAN_H

#include <mpi.h>
#include <stdbool.h>

struct span {
    MPI_Aint low;    /* from the buffer's address to the first byte */
    MPI_Aint length; /* bytes from there; 0: none */
    bool full;       /* every byte of it belongs to the argument */
};

struct span span_of(MPI_Aint count, MPI_Datatype type);

/* `count` for each of n. */
struct span span_each(MPI_Aint count, MPI_Datatype type, int n);

/* What is left of `size` bytes from there on. */
struct span span_from(MPI_Aint position, MPI_Aint size);

/* counts[i] at displs[i], in units of the type. NULL displs: one behind the other. */
struct span span_varied(const int *counts, const int *displs, MPI_Datatype type, int n);

/* counts[i] of types[i] at displs[i] bytes. */
struct span span_mixed(const int *counts, const int *displs, const MPI_Datatype *types, int n);
struct span span_mixed_far(const int *counts, const MPI_Aint *displs, const MPI_Datatype *types, int n);

/* The same for large counts. */
struct span span_varied_c(const MPI_Count *counts, const MPI_Aint *displs, MPI_Datatype type, int n);
struct span span_mixed_c(const MPI_Count *counts, const MPI_Aint *displs, const MPI_Datatype *types, int n);

/* A large count as one that an int can hold, if need be of a type of its own. Returns what MPI says; counted_end is to
 * be called even where that is an error. */
struct counted {
    int count;
    MPI_Datatype type;
    bool made;
};

int counted_begin(struct counted *counted, MPI_Count count, MPI_Datatype type);
void counted_end(struct counted *counted);

/* With whom a collective of the communicator exchanges: everybody, or the other group. */
int ranks_of(MPI_Comm comm);

/* The same for neighbourhood collectives. */
int sources_of(MPI_Comm comm);
int targets_of(MPI_Comm comm);

/* How many there are in this process's own group, and which of them it is. */
int members_of(MPI_Comm comm);
int rank_of(MPI_Comm comm);

bool is_root(int root, MPI_Comm comm);

#endif
