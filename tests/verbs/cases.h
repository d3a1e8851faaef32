/* SPDX-License-Identifier: MIT
 *
 * Cases for verbs alone, run where there is a device by `verbs_cases [CASE…]`. Each is a process of its own, so that it
 * may count, limit and kill; ranks are its threads or its children. */
#ifndef TESTS_VERBS_CASES_H
#define TESTS_VERBS_CASES_H

#include <sys/types.h>

#include "check.h"
#include "child.h"
#include "pattern.h"
#include "ranks.h"
#include "zc.h"

#define CASES(X)                                                                                                       \
    X(bad_addresses)                                                                                                   \
    X(no_routable_gid)                                                                                                 \
    X(registered_once)                                                                                                 \
    X(steady_state)                                                                                                    \
    X(huge_pages)                                                                                                      \
    X(growth_under_traffic)                                                                                            \
    X(nothing_registered_for_foreign_memory)                                                                           \
    X(device_too_small)                                                                                                \
    X(regions_run_out)                                                                                                 \
    X(strangers)                                                                                                       \
    X(unanswered)                                                                                                      \
    X(timeouts)                                                                                                        \
    X(memlock_refuses_to_open)                                                                                         \
    X(memlock_refuses_to_grow)                                                                                         \
    X(unregistered_is_copied)                                                                                          \
    X(own_verbs)                                                                                                       \
    X(stores_while_the_device_reads)                                                                                   \
    X(touch_waits_until_landed)                                                                                        \
    X(forks)                                                                                                           \
    X(peer_killed)                                                                                                     \
    X(peer_killed_while_idle)                                                                                          \
    X(peer_killed_that_has_forked)                                                                                     \
    X(peer_killed_while_looked_for)                                                                                    \
    X(peer_leaves)

/* Those that need two devices joined by a cable. */
#define CABLE_CASES(X)                                                                                                 \
    X(short_outage)                                                                                                    \
    X(cable_pulled)

/* Those that need 5 GiB of memory. */
#define BIG_CASES(X) X(past_2_gib)

/* Those that are run as two processes of MPI, each by a run of its own. */
#define MPI_CASES(X) X(one_rank_fails)

/* Those that are run in each of two guests. */
#define NODE_CASES(X) X(guest_killed)

#define DECLARE(name) void case_##name(void);
CASES(DECLARE)
CABLE_CASES(DECLARE)
BIG_CASES(DECLARE)
NODE_CASES(DECLARE)
MPI_CASES(DECLARE)

/* Calls of libibverbs since the start of the process: regions, and posts of sends and polls (counts.c). */
extern unsigned long registered, deregistered, posted, polled;

/* The device has no room for more; 0: it has. */
extern unsigned long regions_most;

/* Of each RDMA READ the device does so many bytes only, 0: all; and what was the longest without. */
extern size_t read_head, longest_read;

/* So many connections from now on time out before the peer's address is known. */
extern _Atomic unsigned unanswered;

/* As the last connection was given it. */
extern unsigned timeout;

/* Makes devices look smaller when they are asked; may be NULL. */
struct ibv_device_attr;
extern void (*shrink_device)(struct ibv_device_attr *device);

/* Every GID is told to be of this type, if it is one. */
extern int gid_type;

/* Opens rank `rank` of `size` processes. */
zc_comm *open_rank(int rank, int size);

#define KIB ((size_t)1024)
#define MIB (KIB * 1024)

#endif
