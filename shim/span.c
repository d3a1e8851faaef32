/* SPDX-License-Identifier: MIT */
#include "shim/span.h"

#include <limits.h>

struct span span_of(MPI_Aint count, MPI_Datatype type)
{
    MPI_Aint low, extent, true_low, true_extent;
    MPI_Count size;
    if (count <= 0 || type == MPI_DATATYPE_NULL) /* an error, which MPI will tell */
        return (struct span){0};
    PMPI_Type_get_extent(type, &low, &extent);
    PMPI_Type_get_true_extent(type, &true_low, &true_extent);
    PMPI_Type_size_x(type, &size);
    MPI_Aint last = (count - 1) * extent; /* where the last one starts; may lie below the first */
    struct span span = {.low = true_low + (last < 0 ? last : 0), .length = true_extent + (last < 0 ? -last : last)};
    if (size == 0)
        span.length = 0;
    span.full = span.length == size * count;
    return span;
}

struct span span_each(MPI_Aint count, MPI_Datatype type, int n)
{
    return span_of(count * n, type);
}

struct span span_from(MPI_Aint position, MPI_Aint size)
{
    bool any = position >= 0 && position < size;
    return (struct span){.low = position, .length = any ? size - position : 0, .full = any};
}

/* Both, and what lies between them. */
static struct span join(struct span a, struct span b)
{
    if (a.length == 0 || b.length == 0)
        return a.length ? a : b;
    MPI_Aint low = a.low < b.low ? a.low : b.low;
    MPI_Aint a_end = a.low + a.length, b_end = b.low + b.length;
    MPI_Aint length = (a_end > b_end ? a_end : b_end) - low;
    return (struct span){low, length, a.full && b.full && length == a.length + b.length};
}

static struct span at(struct span span, MPI_Aint displacement)
{
    span.low += displacement;
    return span;
}

static MPI_Aint extent_of(MPI_Datatype type)
{
    MPI_Aint low, extent = 0;
    if (type != MPI_DATATYPE_NULL)
        PMPI_Type_get_extent(type, &low, &extent);
    return extent;
}

struct span span_varied(const int *counts, const int *displs, MPI_Datatype type, int n)
{
    struct span all = {0};
    MPI_Aint extent = extent_of(type), behind = 0;
    for (int i = 0; i < n; i++) {
        all = join(all, at(span_of(counts[i], type), (displs ? displs[i] : behind) * extent));
        behind += counts[i];
    }
    return all;
}

struct span span_mixed(const int *counts, const int *displs, const MPI_Datatype *types, int n)
{
    struct span all = {0};
    for (int i = 0; i < n; i++)
        all = join(all, at(span_of(counts[i], types[i]), displs[i]));
    return all;
}

struct span span_mixed_far(const int *counts, const MPI_Aint *displs, const MPI_Datatype *types, int n)
{
    struct span all = {0};
    for (int i = 0; i < n; i++)
        all = join(all, at(span_of(counts[i], types[i]), displs[i]));
    return all;
}

struct span span_varied_c(const MPI_Count *counts, const MPI_Aint *displs, MPI_Datatype type, int n)
{
    struct span all = {0};
    MPI_Aint extent = extent_of(type), behind = 0;
    for (int i = 0; i < n; i++) {
        all = join(all, at(span_of((MPI_Aint)counts[i], type), (displs ? displs[i] : behind) * extent));
        behind += (MPI_Aint)counts[i];
    }
    return all;
}

struct span span_mixed_c(const MPI_Count *counts, const MPI_Aint *displs, const MPI_Datatype *types, int n)
{
    struct span all = {0};
    for (int i = 0; i < n; i++)
        all = join(all, at(span_of((MPI_Aint)counts[i], types[i]), displs[i]));
    return all;
}

#if MPI_VERSION >= 4
int counted_begin(struct counted *counted, MPI_Count count, MPI_Datatype type)
{
    *counted = (struct counted){.count = (int)count, .type = type};
    if (count <= INT_MAX)
        return MPI_SUCCESS;
    int code = PMPI_Type_contiguous_c(count, type, &counted->type);
    if (code != MPI_SUCCESS)
        return code;
    counted->count = 1;
    counted->made = true;
    return PMPI_Type_commit(&counted->type);
}

void counted_end(struct counted *counted)
{
    if (counted->made)
        PMPI_Type_free(&counted->type);
}
#endif

/* MPI_COMM_NULL, too, is an error that MPI will tell. */
static bool between_groups(MPI_Comm comm)
{
    int inter = 0;
    if (comm != MPI_COMM_NULL)
        PMPI_Comm_test_inter(comm, &inter);
    return inter;
}

int members_of(MPI_Comm comm)
{
    int n = 0;
    if (comm != MPI_COMM_NULL)
        PMPI_Comm_size(comm, &n);
    return n;
}

int rank_of(MPI_Comm comm)
{
    int rank = 0;
    if (comm != MPI_COMM_NULL)
        PMPI_Comm_rank(comm, &rank);
    return rank;
}

int ranks_of(MPI_Comm comm)
{
    int n;
    if (!between_groups(comm))
        return members_of(comm);
    PMPI_Comm_remote_size(comm, &n);
    return n;
}

static void neighbours(MPI_Comm comm, int *in, int *out)
{
    int topology = MPI_UNDEFINED, weighted;
    *in = *out = 0;
    if (comm != MPI_COMM_NULL)
        PMPI_Topo_test(comm, &topology);
    switch (topology) {
    case MPI_CART:
        PMPI_Cartdim_get(comm, in);
        *in *= 2;
        *out = *in;
        break;
    case MPI_GRAPH:
        PMPI_Graph_neighbors_count(comm, rank_of(comm), in);
        *out = *in;
        break;
    case MPI_DIST_GRAPH:
        PMPI_Dist_graph_neighbors_count(comm, in, out, &weighted);
        break;
    default: /* an error, which MPI will tell */
        break;
    }
}

int sources_of(MPI_Comm comm)
{
    int in, out;
    neighbours(comm, &in, &out);
    return in;
}

int targets_of(MPI_Comm comm)
{
    int in, out;
    neighbours(comm, &in, &out);
    return out;
}

bool is_root(int root, MPI_Comm comm)
{
    if (root < 0) /* between groups */
        return root == MPI_ROOT;
    return !between_groups(comm) && rank_of(comm) == root;
}
