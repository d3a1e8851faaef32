/* SPDX-License-Identifier: MIT
 *
 * One function for each hazard. The program hazard_child runs one of them in a process of its own, as an
 * application would be hit; hazards.c starts it and checks how it ended. What a process can see itself is
 * checked inside; what it cannot survive is checked from outside. */
#ifndef TESTS_HAZARD_H
#define TESTS_HAZARD_H

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pattern.h"
#include "ranks.h"
#include "transport/loop.h"
#include "userfaultfd.h"
#include "zc.h"

/* Each ends well: exit code 0. */
#define HAZARDS(X)                                                                                                     \
    X(store_one_byte)                                                                                                  \
    X(store_memcpy)                                                                                                    \
    X(store_atomic)                                                                                                    \
    X(store_unaligned)                                                                                                 \
    X(store_last_byte)                                                                                                 \
    X(store_every_page)                                                                                                \
    X(guard_in_flight)                                                                                                 \
    X(store_keeps_errno)                                                                                               \
    X(load_is_free)                                                                                                    \
    X(neighbours_never_blocked)                                                                                        \
    X(many_in_flight_newest_first)                                                                                     \
    X(many_in_flight_shuffled)                                                                                         \
    X(several_peers)                                                                                                   \
    X(released_by_the_last)                                                                                            \
    X(partial_ranges_share_pages)                                                                                      \
    X(both_send_overwrite_receive)                                                                                     \
    X(send_then_recv_same_buffer)                                                                                      \
    X(send_then_irecv_same_buffer)                                                                                     \
    X(free_in_flight)                                                                                                  \
    X(free_receive_in_flight)                                                                                          \
    X(realloc_in_flight)                                                                                               \
    X(exit_in_flight)                                                                                                  \
    X(close_in_flight)                                                                                                 \
    X(no_leak)                                                                                                         \
    X(no_leak_of_renames)                                                                                              \
    X(store_from_another_thread)                                                                                       \
    X(two_threads_fault)                                                                                               \
    X(many_threads_fault)                                                                                              \
    X(fault_while_thread_receives)                                                                                     \
    X(touch_waits_for_receive)                                                                                         \
    X(locked_in_memory)                                                                                                \
    X(two_threads_wait_for_receive)                                                                                    \
    X(crowd_waits_for_receive)                                                                                         \
    X(waiting_store_does_not_starve)                                                                                   \
    X(message_comes_after_timeout)                                                                                     \
    X(failed_receive_calls_handler)                                                                                    \
    X(progress_by_thread)                                                                                              \
    X(progress_by_calls)                                                                                               \
    X(foreign_to_siginfo_handler)                                                                                      \
    X(foreign_to_old_handler)                                                                                          \
    X(foreign_to_handler_of_thread)                                                                                    \
    X(foreign_handler_mask)                                                                                            \
    X(foreign_handler_on_alternate_stack)                                                                              \
    X(foreign_handler_jumps)                                                                                           \
    X(foreign_reset_handler)                                                                                           \
    X(foreign_raised)                                                                                                  \
    X(later_handler_that_chains)                                                                                       \
    X(fork_child_frees)                                                                                                \
    X(fork_child_calls)                                                                                                \
    X(fork_child_execs)                                                                                                \
    X(fork_child_loads)                                                                                                \
    X(fork_child_stores)                                                                                               \
    X(fork_in_flight)                                                                                                  \
    X(system_call_in_flight)                                                                                           \
    X(system_call_idle_protected)                                                                                      \
    X(peer_reads_and_writes)                                                                                           \
    X(handler_touches_buffer)                                                                                          \
    X(handler_jumps_out_of_wait)                                                                                       \
    X(cancel_during_wait)                                                                                              \
    X(thread_exits_in_flight)                                                                                          \
    X(reinstalled)                                                                                                     \
    X(small_alternate_stack)                                                                                           \
    X(other_programs)                                                                                                  \
    X(setuid_during_wait)                                                                                              \
    X(mprotect_refused)                                                                                                \
    X(control_tears)

/* Each is ended by a signal; hazards.c says which. */
#define DEADLY(X)                                                                                                      \
    X(dies_without_handler)                                                                                            \
    X(dies_without_zc)                                                                                                 \
    X(dies_with_ignored)                                                                                               \
    X(dies_after_reset)                                                                                                \
    X(dies_raised)                                                                                                     \
    X(dies_after_store_in_flight)                                                                                      \
    X(dies_with_sigsegv_blocked)                                                                                       \
    X(dies_of_failed_receive)                                                                                          \
    X(aborts_on_conflict)                                                                                              \
    X(aborts_on_timeout)                                                                                               \
    X(dies_of_refused_mprotect)                                                                                        \
    X(aborts_on_peer_that_never_receives)                                                                              \
    X(aborts_in_handler_during_resend)

#define HAZARD_DECLARE(name) void hazard_##name(void);
HAZARDS(HAZARD_DECLARE)
DEADLY(HAZARD_DECLARE)

#define PAGE ((size_t)4096)
#define KIB ((size_t)1024)
#define MIB (KIB * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* What a core must hold, and how often. */
enum { CORE_WORDS = 8192 };
#define CORE_WORD UINT64_C(0x7a6320636f726521)

/* "loop", to oneself, with each send protected. How conflicts end and what completion does are taken from
 * ZC_CONFLICT and ZC_RELEASE, so that hazards.c can run a hazard over all of them. */
zc_comm *open_self(void);

/* One message that has been sent, matched, and is held on the wire. */
struct flight {
    zc_comm *comm;
    char *buffer; /* sent */
    char *in;     /* being received into */
    size_t length;
    uint64_t seed;
};

void flight_start(struct flight *f, zc_comm *comm, size_t length, uint64_t seed);
void flight_land(struct flight *f);    /* delivers it: it must be what was sent */
void flight_release(struct flight *f); /* frees both buffers */

/* A store in flight was stopped by protection and ended by fresh pages, not by luck. */
void expect_conflict(const zc_stats *before);

/* Some of those, one after the other. */
void expect_conflicts(zc_comm *comm);

#endif
