/* SPDX-License-Identifier: MIT
 *
 * One suite for all transports. A case is a function that every rank of a communicator runs at the same
 * time; the runners (run_loop.c, run_threads.c, run_mpi.c) provide the ranks. Most cases pass messages around
 * the ring of ranks, so that they fit any number of them, one included. */
#ifndef TESTS_CONFORMANCE_H
#define TESTS_CONFORMANCE_H

#include "check.h"
#include "pattern.h"
#include "zc.h"

struct conf;

/* Opens a second, third, … communicator of the same ranks. */
typedef zc_comm *conf_another(struct conf *c, int n);

struct conf {
    zc_comm *comm;
    int rank, size;
    int next, prev; /* neighbours in the ring */
    conf_another *another;
};

struct conf_case {
    const char *name;
    void (*run)(struct conf *c);
};

/* For runners: runs a case as this rank of `comm`. Returns when all ranks are through with it. */
void conf_run(const struct conf_case *which, zc_comm *comm, conf_another *another);

/* All cases, up to one without a name; is one wanted, where n names are given? */
extern const struct conf_case conf_cases[];
bool conf_wanted(const struct conf_case *which, int n, char *const names[]);

/* All cases, in the order in which they run. */
#define CONFORMANCE_CASES(X)                                                                                           \
    X(rank_and_size)                                                                                                   \
    X(lengths)                                                                                                         \
    X(empty_messages)                                                                                                  \
    X(offsets)                                                                                                         \
    X(foreign_memory)                                                                                                  \
    X(tags)                                                                                                            \
    X(any_source)                                                                                                      \
    X(any_tag)                                                                                                         \
    X(any_source_and_tag)                                                                                              \
    X(order)                                                                                                           \
    X(probe)                                                                                                           \
    X(probe_then_other)                                                                                                \
    X(truncation)                                                                                                      \
    X(shorter_than_cap)                                                                                                \
    X(recv_alloc)                                                                                                      \
    X(sendrecv)                                                                                                        \
    X(self)                                                                                                            \
    X(statistics)                                                                                                      \
    X(irecv_then_touch)                                                                                                \
    X(irecv_disjoint)                                                                                                  \
    X(irecv_overlapping)                                                                                               \
    X(irecv_truncation)                                                                                                \
    X(wait_and_test)                                                                                                   \
    X(wait_names_what_a_place_has)                                                                                     \
    X(wait_any)                                                                                                        \
    X(cancel)                                                                                                          \
    X(cancel_landed)                                                                                                   \
    X(flush)                                                                                                           \
    X(probes_end_sends)                                                                                                \
    X(overwrite_at_once)                                                                                               \
    X(overwrite_every_kind)                                                                                            \
    X(free_at_once)                                                                                                    \
    X(send_free)                                                                                                       \
    X(resend_unwritten)                                                                                                \
    X(in_flight_many_times)                                                                                            \
    X(both_send_then_receive)                                                                                          \
    X(receive_into_buffer_in_flight)                                                                                   \
    X(receive_into_part_in_flight)                                                                                     \
    X(irecv_into_buffer_in_flight)                                                                                     \
    X(send_beside_receive)                                                                                             \
    X(realloc_in_flight)                                                                                               \
    X(free_with_receive_in_flight)                                                                                     \
    X(realloc_with_receive_in_flight)                                                                                  \
    X(write_in_flight)                                                                                                 \
    X(write_from_own_buffer)                                                                                           \
    X(writable_for_system_calls)                                                                                       \
    X(view)                                                                                                            \
    X(view_stays)                                                                                                      \
    X(view_shared)                                                                                                     \
    X(view_forward)                                                                                                    \
    X(view_misuse)                                                                                                     \
    X(view_after_close)                                                                                                \
    X(guard_stores)                                                                                                    \
    X(guard_all)                                                                                                       \
    X(pin)                                                                                                             \
    X(several_communicators)                                                                                           \
    X(crossing_waits)                                                                                                  \
    X(crossing_close)                                                                                                  \
    X(close_with_receive_in_flight)                                                                                    \
    X(close_unreceived)                                                                                                \
    X(threads)                                                                                                         \
    X(threads_share_a_buffer)                                                                                          \
    X(threads_receive_and_send)

#define CONFORMANCE_DECLARE(name) void case_##name(struct conf *c);
CONFORMANCE_CASES(CONFORMANCE_DECLARE)

/* Past 2 GiB: needs memory and time of its own. */
void case_big(struct conf *c);
bool big_fits(int ranks_here);

/* All ranks have called it before any returns. */
void conf_barrier(struct conf *c);

/* A pattern that belongs to the n-th message of a rank in a case. */
uint64_t conf_seed(int rank, unsigned n);

/* Tags from here on are the runner's. */
enum { TAG_BARRIER = 32000 };

#define PAGE ((size_t)4096)
#define KIB ((size_t)1024)
#define MIB (KIB * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
