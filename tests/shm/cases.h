/* SPDX-License-Identifier: MIT
 *
 * Cases for shm alone: shm_cases [CASE…]. Each is a process of its own, so that it may limit and kill; ranks are its
 * threads or its children. */
#ifndef TESTS_SHM_CASES_H
#define TESTS_SHM_CASES_H

#include <stdatomic.h>

#include "check.h"
#include "child.h"
#include "pattern.h"
#include "ranks.h"
#include "transport/comm.h"
#include "transport/shm.h"
#include "zc.h"

#define CASES(X)                                                                                                       \
    X(rank_is_taken)                                                                                                   \
    X(not_all_come)                                                                                                    \
    X(another_size)                                                                                                    \
    X(another_version)                                                                                                 \
    X(another_user)                                                                                                    \
    X(another_pid_namespace)                                                                                           \
    X(open_directory)                                                                                                  \
    X(signals_while_meeting)                                                                                           \
    X(lock_is_kept)                                                                                                    \
    X(stale_sockets)                                                                                                   \
    X(stale_sockets_of_others)                                                                                         \
    X(opened_again)                                                                                                    \
    X(no_descriptors)                                                                                                  \
    X(no_descriptors_for_others)                                                                                       \
    X(no_board_for_others)                                                                                             \
    X(file_size)                                                                                                       \
    X(too_many_descriptors_under_way)                                                                                  \
    X(hello_is_checked)                                                                                                \
    X(backlog_is_full)                                                                                                 \
    X(closed_while_other_computes)                                                                                     \
    X(segments_are_read_only)                                                                                          \
    X(copied_once)                                                                                                     \
    X(segments_are_forgotten)                                                                                          \
    X(many_segments_are_forgotten)                                                                                     \
    X(few_descriptors)                                                                                                 \
    X(no_dev_shm)                                                                                                      \
    X(view_outlives_sender)                                                                                            \
    X(view_outlives_copier)                                                                                            \
    X(view_outlives_waiter)                                                                                            \
    X(view_outlives_giver)                                                                                             \
    X(view_outlives_link)                                                                                              \
    X(flush_waits_for_receiver)                                                                                        \
    X(flush_ends_late)                                                                                                 \
    X(flush_beside_sends)                                                                                              \
    X(view_outlives_passer)                                                                                            \
    X(view_passed_on_ends)                                                                                             \
    X(view_outlives_killed_passer)                                                                                     \
    X(view_ends_with_killed_viewer)                                                                                    \
    X(view_outlives_link_of_passer)                                                                                    \
    X(most_views)                                                                                                      \
    X(idle_uses_no_processor)                                                                                          \
    X(waiting_for_a_send)                                                                                              \
    X(opened_while_asleep)                                                                                             \
    X(closed_while_asleep)                                                                                             \
    X(ends_before_sleep)                                                                                               \
    X(ended_by_another)                                                                                                \
    X(lent_before_sleep)                                                                                               \
    X(cancelled)                                                                                                       \
    X(sleepers)                                                                                                        \
    X(naps)                                                                                                            \
    X(descriptor_to_poll)                                                                                              \
    X(descriptor_and_helper)                                                                                           \
    X(descriptor_and_sleeper)                                                                                          \
    X(short_of_a_receive)                                                                                              \
    X(letters_start_again)                                                                                             \
    X(letters_not_sent)                                                                                                \
    X(short_among_many)                                                                                                \
    X(bursts)                                                                                                          \
    X(killed)                                                                                                          \
    X(killed_at_any_time)                                                                                              \
    X(killed_amid_traffic)                                                                                             \
    X(killed_at_each_system_call)                                                                                      \
    X(killed_between_instructions)                                                                                     \
    X(killed_while_passing_on)                                                                                         \
    X(replaced)                                                                                                        \
    X(lost_links_go)                                                                                                   \
    X(all_others_closed)                                                                                               \
    X(forked_child_hides_nothing)                                                                                      \
    X(forked_amid_closing)                                                                                             \
    X(lies_about_cells)                                                                                                \
    X(cancelled_amid_lies)                                                                                             \
    X(answers_unasked)                                                                                                 \
    X(lies_about_what_it_took)                                                                                         \
    X(more_descriptors_than_one)                                                                                       \
    X(lies_about_segments)                                                                                             \
    X(shows_too_much)                                                                                                  \
    X(flips_what_was_checked)                                                                                          \
    X(random_cells)

#define DECLARE(name) void case_##name(void);
CASES(DECLARE)

/* The address of a rank of the case's communicator; opens it. */
const char *address_of(int rank, int size);
zc_comm *open_rank(int rank, int size);

/* Processes tell each other how far they are. */
void tell(int n);
void await(int n);

/* How many files there are in the directory where ranks meet. */
int files_left(void);

static inline struct shm *shm_of(zc_comm *comm)
{
    return comm->endpoint.state;
}

#define KIB ((size_t)1024)
#define MIB (KIB * 1024)

#endif
