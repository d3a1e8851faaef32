/* SPDX-License-Identifier: MIT
 *
 * Cases: views that last longer than whoever sent them wants to wait. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

#define BIG (3 * MIB)

static const zc_options hasty = {.size = sizeof hasty, .fault_timeout_ms = 50};

/* The sender flushes, closes, stores, frees and allocates again, all while the other looks. */
static void outlive(enum zc_policy policy, enum zc_conflict conflict, bool give)
{
    zc_comm *comm[2];
    zc_options options = hasty;
    char *out = ALLOC(BIG);
    zc_view view, another;

    options.policy = policy;
    options.conflict = conflict;
    options.max_in_flight = 2;
    ranks_open(comm, 2, &options);
    pattern_fill(out, BIG, 5);
    CHECK_OK(zc_send(out, BIG, 1, 1, comm[0]));
    CHECK_OK(zc_recv_view(&view, 0, 1, comm[1]));
    CHECK_OK(zc_flush(comm[0]));
    CHECK_OK(give ? zc_send_free(out, BIG, 1, 1, comm[0]) : zc_send(out, BIG, 1, 1, comm[0]));
    CHECK_OK(zc_recv_view(&another, 0, 1, comm[1]));
    CHECK_OK(zc_send(NULL, 0, 1, 2, comm[0])); /* not kept out by max_in_flight */
    CHECK_OK(zc_recv(NULL, 0, 0, 2, comm[1], NULL));
    CHECK(stats_now().views_lent == 2);
    CHECK_OK(zc_close(comm[0]));
    char *again[2] = {ALLOC(BIG), ALLOC(BIG)};
    for (int i = 0; i < 2; i++)
        memset(again[i], 1, BIG);
    if (!give) {
        memset(out, 2, BIG);
        CHECK_OK(zc_wait(out, NULL));
        CHECK_BYTES(out, BIG, 2);
        CHECK_OK(zc_free(out));
    }
    CHECK_PATTERN(view.data, BIG, 5);
    CHECK_PATTERN(another.data, BIG, 5);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_release(&another));
    for (int i = 0; i < 2; i++)
        CHECK_OK(zc_free(again[i]));
    CHECK_OK(zc_close(comm[1]));
}

void case_view_outlives_sender(void)
{
    outlive(ZC_POLICY_PROTECT, ZC_CONFLICT_AUTO, false);
}

void case_view_outlives_copier(void)
{
    outlive(ZC_POLICY_COPY, ZC_CONFLICT_AUTO, false);
}

void case_view_outlives_waiter(void)
{
    outlive(ZC_POLICY_PROTECT, ZC_CONFLICT_WAIT, false);
}

void case_view_outlives_giver(void)
{
    outlive(ZC_POLICY_PROTECT, ZC_CONFLICT_AUTO, true);
}

/* One of the two, who both live, turns the other away. */
static void outlive_link(int liar)
{
    zc_comm *comm[2];
    zc_options options = hasty;
    struct cell lie = {.kind = 77};
    char *out = ALLOC(BIG);
    zc_view view;

    options.policy = ZC_POLICY_PROTECT;
    ranks_open(comm, 2, &options);
    pattern_fill(out, BIG, 5);
    CHECK_OK(zc_send(out, BIG, 1, 1, comm[0]));
    CHECK_OK(zc_recv_view(&view, 0, 1, comm[1]));
    CHECK(ring_put(&shm_of(comm[liar])->peers[1 - liar]->ring, &lie, NULL, 0) == RING_PUT);
    while (!shm_of(comm[0])->peers[1]->error)
        for (int i = 0; i < 2; i++)
            CHECK_OK(zc_progress(comm[i]));
    memset(out, 2, BIG);
    CHECK_PATTERN(view.data, BIG, 5);
    CHECK_IS(zc_flush(comm[0]), -ECONNRESET);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_free(out));
    ranks_close(comm, 2);
}

void case_view_outlives_link(void)
{
    outlive_link(0);
    outlive_link(1);
}

/* A receiver that has not received is waited for. */
static void *receive_late(void *argument)
{
    char *in = ALLOC(BIG);

    usleep(100000);
    CHECK_OK(zc_recv(in, BIG, 0, 1, argument, NULL));
    CHECK_OK(zc_free(in));
    return NULL;
}

void case_flush_waits_for_receiver(void)
{
    zc_comm *comm[2];
    char *out = ALLOC(BIG);
    zc_view view;

    ranks_open(comm, 2, NULL);
    CHECK_OK(zc_send(out, BIG, 1, 2, comm[0]));
    CHECK_OK(zc_recv_view(&view, 0, 2, comm[1]));
    CHECK_OK(zc_send(out, BIG, 1, 1, comm[0]));
    pthread_t receiver = thread_start(receive_late, comm[1]);
    CHECK_OK(zc_flush(comm[0]));
    CHECK(atomic_load(&comm[0]->sending) == 1); /* the view */
    thread_join(receiver);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_flush(comm[0]));
    CHECK_OK(zc_progress(comm[0]));
    CHECK_OK(zc_free(out));
    ranks_close(comm, 2);
}

/* ---- the very look after which one would give up finds that all was received ---- */

static bool looks;

static void look_late(struct endpoint *endpoint, struct op *urgent)
{
    if (!looks)
        return;
    usleep(2 * 1000 * hasty.fault_timeout_ms);
    shm_transport.poll(endpoint, urgent);
}

void case_flush_ends_late(void)
{
    zc_comm *comm[2];
    char *out = ALLOC(BIG);
    struct transport transport = shm_transport;

    ranks_open(comm, 2, &hasty);
    transport.poll = look_late;
    comm[0]->transport = &transport;
    comm[0]->endpoint.ends_with_mpi = true;
    CHECK_OK(zc_send(out, BIG, 1, 1, comm[0]));
    CHECK_OK(zc_recv(out, BIG, 0, 1, comm[1], NULL));
    looks = true;
    CHECK_IS((int)comm_sending(comm[0]), 1);
    CHECK(comm_close_all_of_mpi(false));
    CHECK_FAILS(zc_progress(comm[0]), -EBADF, "closed");
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_close(comm[1]));
}

/* ---- what another thread sends while one is about to count is received before what was sent first ---- */

static zc_comm *from, *to;
static zc_view meanwhile;

static long send_meanwhile(struct endpoint *endpoint, const _Atomic long *sending)
{
    if (!meanwhile.data) {
        char *out = ALLOC(BIG);
        CHECK_OK(zc_send_free(out, BIG, 1, 2, from));
        CHECK_OK(zc_recv_view(&meanwhile, 0, 2, to));
    }
    return shm_transport.unreceived(endpoint, sending);
}

void case_flush_beside_sends(void)
{
    zc_comm *comm[2];
    char *out = ALLOC(BIG);
    struct transport transport = shm_transport;

    ranks_open(comm, 2, NULL);
    from = comm[0];
    to = comm[1];
    CHECK_OK(zc_send(out, BIG, 1, 1, from));
    transport.unreceived = send_meanwhile;
    from->transport = &transport;
    CHECK_IS((int)comm_sending(from), 1);
    CHECK(meanwhile.data);
    CHECK_OK(zc_recv(out, BIG, 0, 1, to, NULL));
    CHECK_OK(zc_flush(from));
    from->transport = &shm_transport;
    CHECK_OK(zc_release(&meanwhile));
    CHECK_OK(zc_free(out));
    ranks_close(comm, 2);
}

/* ---- what was passed on ---- */

enum { SENDER, PASSER, VIEWER, RANKS };

static zc_comm *sender, *viewer;
static char *sent;
static zc_view viewed;

/* The viewer has the sender's message by way of the passer, who has nothing of it any more. */
static zc_comm *pass_on(void)
{
    zc_comm *comm[RANKS];
    zc_options options = hasty;
    zc_view view;

    options.policy = ZC_POLICY_PROTECT;
    ranks_open(comm, RANKS, &options);
    sender = comm[SENDER];
    viewer = comm[VIEWER];
    sent = ALLOC(BIG);
    pattern_fill(sent, BIG, 7);
    CHECK_OK(zc_send(sent, BIG, PASSER, 1, sender));
    CHECK_OK(zc_recv_view(&view, SENDER, 1, comm[PASSER]));
    CHECK_OK(zc_forward(&view, VIEWER, 1, comm[PASSER]));
    CHECK_OK(zc_recv_view(&viewed, PASSER, 1, viewer));
    CHECK_OK(zc_release(&view));
    return comm[PASSER];
}

static void end_passed(void)
{
    CHECK_OK(zc_free(sent));
    CHECK_OK(zc_release(&viewed));
    zc_close(sender);
    CHECK_OK(zc_close(viewer));
}

void case_view_outlives_passer(void)
{
    char byte;

    CHECK_OK(zc_close(pass_on()));
    CHECK_IS(zc_recv(&byte, 1, PASSER, 9, sender, NULL), -ECANCELED); /* it has noticed */
    memset(sent, 3, BIG);
    CHECK_PATTERN(viewed.data, BIG, 7);
    CHECK_IS(zc_flush(sender), -ECONNRESET);
    end_passed();
}

/* One that stays tells when all is done. */
void case_view_passed_on_ends(void)
{
    zc_comm *passer = pass_on();

    CHECK_OK(zc_release(&viewed));
    while (atomic_load(&sender->sending)) {
        CHECK_OK(zc_progress(passer));
        CHECK_OK(zc_progress(sender));
    }
    CHECK_OK(zc_close(passer));
    CHECK_OK(zc_flush(sender));
    CHECK_OK(zc_free(sent));
    CHECK_OK(zc_close(sender));
    CHECK_OK(zc_close(viewer));
}

/* One that cannot hear of it any more says so: the sender waits for nobody. */
void case_view_outlives_link_of_passer(void)
{
    zc_comm *passer = pass_on();
    struct cell lie = {.kind = 77};
    int done = 0;

    CHECK(ring_put(&shm_of(viewer)->peers[PASSER]->ring, &lie, NULL, 0) == RING_PUT);
    for (int i = 0; i < 100000 && !done; i++) {
        CHECK_OK(zc_progress(passer));
        CHECK_OK(zc_test(sent, &done, NULL));
    }
    CHECK(done);
    memset(sent, 3, BIG);
    CHECK_PATTERN(viewed.data, BIG, 7);
    CHECK_OK(zc_flush(sender));
    CHECK(atomic_load(&sender->sending) == 0);
    CHECK_IS(zc_close(passer), -ECONNRESET);
    end_passed();
}

/* ---- the same, and it is killed ---- */

static void of_three(int rank)
{
    zc_comm *comm = open_rank(rank, RANKS);
    char *out = ALLOC(BIG), byte;
    zc_view view;

    if (rank == SENDER) {
        pattern_fill(out, BIG, 7);
        CHECK_OK(zc_send(out, BIG, PASSER, 1, comm));
        CHECK_IS(zc_recv(&byte, 1, PASSER, 9, comm, NULL), -ECONNRESET);
        memset(out, 3, BIG);
        tell(2);
        CHECK_IS(zc_close(comm), -ECONNRESET);
        return;
    }
    CHECK_OK(zc_recv_view(&view, rank - 1, 1, comm));
    if (rank == PASSER) {
        CHECK_OK(zc_forward(&view, VIEWER, 1, comm));
        pause();
    }
    tell(1);
    await(2); /* the sender has stored to its buffer */
    CHECK_PATTERN(view.data, BIG, 7);
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_close(comm));
}

/* Who has passed on to one that is killed tells that nobody looks any more. */
static void until_viewer_ends(int rank)
{
    zc_comm *comm = open_rank(rank, RANKS);
    char *out = ALLOC(BIG), byte;
    zc_view view;

    if (rank == SENDER) {
        CHECK_OK(zc_send(out, BIG, PASSER, 1, comm));
        while (atomic_load(&comm->sending))
            CHECK_OK(zc_progress(comm));
        tell(2);
        CHECK_OK(zc_close(comm));
        return;
    }
    CHECK_OK(zc_recv_view(&view, rank - 1, 1, comm));
    if (rank == VIEWER) {
        tell(1);
        pause();
    }
    CHECK_OK(zc_forward(&view, VIEWER, 1, comm));
    CHECK_OK(zc_release(&view));
    CHECK_IS(zc_recv(&byte, 1, VIEWER, 9, comm, NULL), -ECONNRESET);
    await(2);
    CHECK_IS(zc_close(comm), -ECONNRESET);
}

void case_view_ends_with_killed_viewer(void)
{
    pid_t child[RANKS];

    setenv("ZC_POLICY", "protect", 1);
    children_start(RANKS, until_viewer_ends, child);
    await(1);
    child_kill(&child[VIEWER]);
    children_end(RANKS, child);
}

void case_view_outlives_killed_passer(void)
{
    pid_t child[RANKS];

    setenv("ZC_POLICY", "protect", 1); /* a copy would hide it */
    children_start(RANKS, of_three, child);
    await(1);
    child_kill(&child[PASSER]);
    children_end(RANKS, child);
}
