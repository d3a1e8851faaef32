/* SPDX-License-Identifier: MIT
 *
 * Opening an endpoint over shm: what an address, or an MPI communicator, says of who is to meet. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "transport/hosts.h"
#include "transport/shm.h"
#include "transport/transport.h"

static int check_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t length = strlen(name);
    if (length < 1 || length > SHM_NAME_MOST || *name == '.' || strspn(name, letters) != length)
        return fail(-EINVAL,
                    "zc_open: shm: the name \"%s\", expected 1 to %d letters, digits, '_', '-' and, not at its "
                    "start, '.'",
                    name, SHM_NAME_MOST);
    return 0;
}

static int ask_address(const struct address *address, struct shm_group *group)
{
    uint64_t rank, size;
    int error;
    if ((error = check_name(address->name)) || (error = address_number(address, "size", 1, SHM_RANKS_MOST, 1, &size)) ||
        (error = address_number(address, "rank", 0, size - 1, 0, &rank)))
        return error;
    strcpy(group->name, address->name);
    group->rank = (int)rank;
    group->size = (int)size;
    return 0;
}

/* Ranks are those of the MPI communicator. */
static int ask_mpi(const void *native, struct shm_group *group)
{
    struct hosts hosts;
    int error = hosts_find(native, &hosts), other = 0;
    if (error)
        return error;
    while (other < hosts.size && hosts.with[other])
        other++;
    if (other < hosts.size && !(error = error_again(&hosts.lonely)))
        error = fail(-EINVAL,
                     "zc_open: shm: rank %d is of another host, user, pid namespace or run-time directory than "
                     "rank %d, expected one for all (transport auto reaches both)",
                     other, hosts.rank);
    memcpy(group->name, hosts.name, sizeof group->name);
    group->rank = hosts.rank;
    group->size = hosts.size;
    hosts_end(&hosts);
    return error;
}

void shm_free(struct shm *shm)
{
    shm_part(shm);
    for (struct message *message; (message = shm->free_messages);) {
        shm->free_messages = message->next;
        free(message);
    }
    free(shm->peers);
    free(shm);
}

static int lost(const struct peers *peers, int rank, const char **why)
{
    const struct link *link = ((const struct shm *)peers)->peers[rank];
    *why = link->why;
    return link->error;
}

/* All but the ranks that take no part are to come. */
static int invite(struct shm *shm, const bool *with)
{
    int members = 0;
    shm->elsewhere.error = -EHOSTUNREACH;
    shm->elsewhere.why = "it is of another host";
    for (int rank = 0; rank < shm->common.size; rank++) {
        if (!with || with[rank]) {
            members++;
        } else {
            shm->peers[rank] = &shm->elsewhere;
            shm->common.any_lost = true;
        }
    }
    /* Where there are more ranks than processors, one that spins keeps the others from what it waits for. But to sleep
     * and be woken costs as much as dozens of messages. */
    shm->crowded = members > sysconf(_SC_NPROCESSORS_ONLN);
    shm->patience_most = shm->crowded ? SHM_PATIENCE_CROWDED : SHM_PATIENCE_MOST;
    shm_set_patience(shm, shm->patience_most);
    return members <= SHM_RANKS_MOST
               ? 0
               : fail(-EINVAL, "zc_open: shm has at most %d ranks of a host, not %d", SHM_RANKS_MOST, members);
}

int shm_open_group(const struct shm_group *group, uint64_t timeout_ns, struct endpoint *endpoint)
{
    struct shm *shm = calloc(1, sizeof *shm);
    if (!shm || !(shm->peers = calloc((size_t)group->size, sizeof(struct link *)))) {
        free(shm);
        return fail(-ENOMEM, "zc_open: no memory");
    }
    memcpy(shm->name, group->name, sizeof shm->name);
    shm->common.rank = group->rank;
    shm->common.size = group->size;
    shm->common.lost = lost;
    shm->landing_end = &shm->landing;
    shm->directory = shm->listener = shm->epoll = shm->bell = shm->outer = shm->chime = -1;
    int error = invite(shm, group->with);
    if (!error)
        error = shm_meet(shm, timeout_ns);
    if (error) {
        shm_free(shm);
        return error;
    }
    *endpoint = (struct endpoint){.state = shm,
                                  .sleeping = &shm_sleeping,
                                  .sleeps_at = shm,
                                  .rank = shm->common.rank,
                                  .size = shm->common.size,
                                  .tag_most = INT32_MAX,
                                  .eager = RING_EAGER,
                                  .any_thread = true};
    return 0;
}

/* How long to wait for the others; and there are no other parameters than these. */
static int ask_wait(const struct address *address, bool over_mpi, uint64_t *seconds)
{
    static const char *const keys[] = {"rank", "size", "wait", NULL};
    int error = address_check_keys(address, over_mpi ? keys + 2 : keys);
    return error ? error : address_number(address, "wait", 1, 86400, SHM_WAIT_SECONDS, seconds);
}

int shm_check(const struct address *address)
{
    uint64_t wait;
    return ask_wait(address, true, &wait);
}

int shm_open_endpoint(const struct address *address, void *native, struct endpoint *endpoint)
{
    struct shm_group group = {.name = ""};
    uint64_t wait;
    int error = ask_wait(address, native, &wait);
    if (!error)
        error = native ? ask_mpi(native, &group) : ask_address(address, &group);
    return error ? error : shm_open_group(&group, wait * 1000000000, endpoint);
}
