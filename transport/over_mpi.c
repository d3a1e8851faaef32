/* SPDX-License-Identifier: MIT
 *
 * Opening over a given MPI communicator, and what its processes are to talk over. */
#include <errno.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/options.h"
#include "transport/bootstrap.h"
#include "transport/comm.h"
#include "transport/hosts.h"
#include "transport/mpi.h"
#include "zc_mpi.h"

/* What to talk over, and where that was said; NULL: nowhere. */
static const char *transport_wanted(const zc_options *options, const struct options *defaults, const char **origin)
{
    *origin = NULL;
    if (options->transport) {
        *origin = "options.transport";
        return options->transport;
    }
    if (!*defaults->transport)
        return "mpi";
    *origin = "ZC_TRANSPORT";
    return defaults->transport;
}

enum { SCHEME_BYTES = 8 };

/* All are to talk over the same. */
static int compare(struct bootstrap *bootstrap, const char *scheme)
{
    char mine[SCHEME_BYTES] = "";
    int size = bootstrap_size(bootstrap);
    char(*all)[SCHEME_BYTES] = calloc((size_t)size, sizeof *all);
    if (!all)
        return fail(-ENOMEM, "zc_open_mpi: no memory");
    strncpy(mine, scheme, sizeof mine - 1);
    int error = bootstrap_allgather(bootstrap, mine, sizeof mine, all);
    for (int rank = 0; rank < size && !error; rank++)
        if (memcmp(all[rank], mine, sizeof mine) != 0)
            error = fail(-EINVAL,
                         "zc_open_mpi: rank %d is to talk over %s, rank %d over %s: expected the same for all "
                         "(options.transport, ZC_TRANSPORT)",
                         bootstrap_rank(bootstrap), mine, rank, all[rank]);
    free(all);
    return error;
}

/* All ranks go on, or none: one that gives up alone would leave the others in a collective call, as would one that
 * talks over something else. */
static int agree(const MPI_Comm *comm, int error, const char *scheme)
{
    struct bootstrap *bootstrap;
    int failed = bootstrap_open_mpi(comm, &bootstrap);
    if (failed)
        return error ? error : failed;
    failed = bootstrap_agree(bootstrap, error);
    if (!failed)
        failed = compare(bootstrap, scheme);
    bootstrap_close(bootstrap);
    return failed;
}

/* What makes auto as fast as it can be: one transport for all, where one can reach all. */
static int choose(const MPI_Comm *comm, const struct transport **transport)
{
    struct hosts hosts;
    int error = hosts_find(comm, &hosts);
    if (error)
        return error;
    if (hosts.most == 1)
        *transport = &mpi_transport;
    else if (hosts.here == hosts.size)
        *transport = &shm_transport;
    hosts_end(&hosts);
    return 0;
}

/* What this rank knows alone: its variables and options, and the transport that they name. */
static int prepare(const zc_options *given, zc_options *options, struct address *address,
                   const struct transport **transport)
{
    const struct options *defaults;
    int error = comm_prepare();
    if (!error)
        error = options_get(&defaults);
    if (!error)
        error = comm_options(given, options);
    if (error)
        return error;
    const char *origin, *wanted = transport_wanted(options, defaults, &origin);
    error = address_parse(wanted, address);
    if (!error)
        error = comm_find_transport(address->scheme, transport);
    if (!error && *transport == &loop_transport)
        error = fail(-EINVAL, "loop stays inside a process");
    if (error)
        return address_refused(origin, wanted, ", expected mpi, shm, auto or verbs[:DEVICE][?...]", error);
    address->origin = origin;
    address->whole = wanted;
    error = (*transport)->check ? (*transport)->check(address) : 0;
    return error ? address_refused(origin, wanted, "", error) : 0;
}

int zc_open_mpi(MPI_Comm comm, const zc_options *given, zc_comm **out)
{
    int done, ended, inter;
    zc_options options;
    if (!out)
        return fail(-EINVAL, "zc_open_mpi: comm is NULL");
    if (arena.forked)
        return arena_open(); /* refuses */
    MPI_Initialized(&done);
    MPI_Finalized(&ended);
    if (!done || ended)
        return fail(-EPERM, "zc_open_mpi: MPI is %s", ended ? "finalised" : "not initialised");
    if (comm == MPI_COMM_NULL)
        return fail(-EINVAL, "zc_open_mpi: the communicator is MPI_COMM_NULL");
    MPI_Comm_test_inter(comm, &inter);
    if (inter) /* whose ranks are those of the other group */
        return fail(-EINVAL, "zc_open_mpi: the communicator is an intercommunicator: see MPI_Intercomm_merge");
    struct address address = {.scheme = ""};
    const struct transport *transport = NULL;
    int error = prepare(given, &options, &address, &transport);
    error = agree(&comm, error, address.scheme);
    if (error)
        return error;
    if (transport == &auto_transport && (error = choose(&comm, &transport)))
        return address_refused(address.origin, address.whole, "", error);
    mpi_watch_finalize();
    return comm_open(transport, &address, &comm, &options, out);
}

int comm_open_world(const struct address *address, const zc_options *options, zc_comm **out)
{
    int error = address_check_bare(address);
    if (!error)
        error = arena.forked ? arena_open() : mpi_initialise();
    return error ? error : zc_open_mpi(MPI_COMM_WORLD, options, out);
}
