/* SPDX-License-Identifier: MIT
 *
 * Receiving, and looking at what could be received. */
#include <string.h>

#include "core/clock.h"
#include "core/stats.h"
#include "protect/conflict.h"
#include "protect/policy.h"
#include "protect/range.h"
#include "protect/sweep.h"
#include "transport/comm.h"

enum { EARLY = 64 }; /* looks for a small message before the receive is posted, which costs more; how many is a guess */

/* Sends in flight from the slot would make the receive land elsewhere. They may be over already without anybody
 * having looked; and waiting for as long as a rename takes costs no more than it. */
static void let_sends_end(zc_comm *comm, struct slot *slot)
{
    struct waiting waiting = {0};
    for (;;) {
        struct backing *backing = slot_lock(slot);
        bool sending = backing->sends != NULL;
        slot_unlock(backing);
        uint64_t now = sending ? clock_ns() : 0;
        if (!waiting.deadline)
            waiting.deadline = now + policy_cost(slot_pool(slot), COST_RENAME, 0);
        if (!sending || now >= waiting.deadline)
            return;
        comm_poll_waiting(comm, NULL, &waiting);
    }
}

static int refuse(int error, const char *call, const void *buf, size_t cap)
{
    return fail(error,
                error == -EBUSY ? "%s: another receive into %p..+%zu is in flight, or a guard holds it"
                                : "%s: no spare slot or mappings for receiving into %p..+%zu",
                call, buf, cap);
}

/* Waits for a receive that is not named. */
static void wait_for(struct op *op)
{
    struct waiting waiting = {0};
    while (!op_over(op))
        comm_poll_waiting(op->comm, op, &waiting);
}

/* Receives into where `wire` says, and waits. 0 and the operation's status, which may be an error; or -errno. */
static int receive(struct op *op, const char *wire)
{
    zc_comm *comm = op->comm;
    void *to = (void *)(uintptr_t)wire_checked(wire);
    size_t cap = op->hold.length;
    int there = -EAGAIN;
    for (int turn = 0; turn < EARLY && there == -EAGAIN && comm->transport->receive_now; turn++) {
        there = comm->transport->receive_now(&comm->endpoint, to, cap, op->peer, op->tag, &op->status);
        if (there == -EAGAIN)
            cpu_relax();
        if (there == -EAGAIN && turn % 16 == 15)
            comm_poll(comm, NULL);
    }
    if (there > 0 && op->hold.slot)
        hold_done(&op->hold, op->status.length);
    if (there != 0 && there != -EAGAIN)
        return there < 0 ? there : 0;
    op_list(op);
    int error = comm->transport->receive(&comm->endpoint, op, to, cap, op->peer, op->tag);
    if (!error)
        wait_for(op);
    op_unlist(op);
    return error;
}

int zc_recv(void *buf, size_t cap, int src, int tag, zc_comm *comm, zc_status *status)
{
    struct range range;
    int error = comm_check_receive(comm, "zc_recv", src, tag);
    if (!error && !buf && cap)
        error = fail(-EINVAL, "zc_recv: buf is NULL and cap is %zu", cap);
    if (!error)
        error = range_find(buf, cap, "zc_recv", &range);
    if (error)
        return error;
    struct op op; /* nobody has it any more when it is over */
    op_init(&op, comm);
    comm_describe(&op, false, &range, cap, src, tag);
    char *wire = buf;
    if (range.slot && !hold_receive_alone(&op.hold, &wire)) {
        let_sends_end(comm, range.slot);
        error = hold_receive(&op.hold, false, &wire);
    }
    if (error)
        return refuse(error, "zc_recv", buf, cap);
    count_often(receives);
    error = receive(&op, wire);
    if (error && range.slot)
        hold_withdraw(&op.hold);
    return error ? error : comm_report(&op.status, "zc_recv", status);
}

int zc_irecv(void *buf, size_t cap, int src, int tag, zc_comm *comm)
{
    struct range range;
    int error = comm_check_receive(comm, "zc_irecv", src, tag);
    if (!error)
        error = range_find_own(buf, cap, "zc_irecv", &range);
    if (!error && slot_is_stack(range.slot))
        error = fail(-EINVAL, "zc_irecv: %p is in the stack of this thread, which cannot be guarded", buf);
    if (error)
        return error;
    struct op *op = comm_begin(comm, false, &range, cap, src, tag);
    if (!op)
        return -ENOMEM;
    op->hold.named = true;
    char *wire;
    comm_poll(comm, NULL);
    error = hold_receive(&op->hold, true, &wire);
    if (error == -ENOMEM) {
        sweep();
        error = hold_receive(&op->hold, true, &wire);
    }
    if (error) {
        op_free(op);
        return refuse(error, "zc_irecv", buf, cap);
    }
    count_often(receives);
    error = comm->transport->receive(&comm->endpoint, op, (void *)(uintptr_t)wire_checked(wire), cap, src, tag);
    if (error) {
        hold_withdraw(&op->hold);
        op_free(op);
    }
    return error;
}

int comm_take(zc_comm *comm, int src, int tag, zc_status *found, struct taken *taken)
{
    struct waiting waiting = {.looks = true, .source = src};
    int there;
    while ((there = comm->transport->take(&comm->endpoint, src, tag, found, taken)) == 0)
        comm_poll_waiting(comm, NULL, &waiting);
    return there < 0 ? there : 0;
}

/* Receives what was taken into where `wire` says, and waits. As receive. */
static int receive_taken(struct op *op, char *wire, struct taken *taken)
{
    zc_comm *comm = op->comm;
    op_list(op);
    int error = comm->transport->receive_taken(&comm->endpoint, op, wire, op->hold.length, taken);
    if (!error)
        wait_for(op);
    op_unlist(op);
    return error;
}

void comm_drop_messages(zc_comm *comm)
{
    const struct transport *transport = comm->transport;
    const struct range nowhere = {0};
    struct kept_error before;
    zc_status found;
    struct taken taken;
    error_keep(&before, 0);
    while (transport->take(&comm->endpoint, ZC_ANY_SOURCE, ZC_ANY_TAG, &found, &taken) > 0) {
        if (transport->give_back) {
            transport->give_back(&comm->endpoint, &taken);
            continue;
        }
        struct op op;
        op_init(&op, comm);
        comm_describe(&op, false, &nowhere, 0, found.source, found.tag);
        receive_taken(&op, NULL, &taken);
    }
    error_restore(&before);
}

int comm_receive_taken(zc_comm *comm, const char *call, const zc_status *found, struct taken *taken, void **buf,
                       zc_status *status)
{
    /* A message that was taken must be received, be it into nothing. */
    void *target = zc_alloc(found->length);
    struct range range = {0};
    struct kept_error why;
    if (target)
        range_find(target, found->length, call, &range);
    else
        error_keep(&why, -ENOMEM);
    struct op op; /* as zc_recv's: there is no memory to be had for it */
    op_init(&op, comm);
    comm_describe(&op, false, &range, target ? found->length : 0, found->source, found->tag);
    char *wire = target;
    if (range.slot)
        hold_receive_alone(&op.hold, &wire); /* nobody else knows the buffer */
    int error = receive_taken(&op, wire, taken);
    if (!error) {
        count_often(receives);
        error = comm_report(&op.status, call, status);
    } else {
        if (range.slot)
            hold_withdraw(&op.hold);
        if (comm->transport->give_back) /* its sender waits for that */
            comm->transport->give_back(&comm->endpoint, taken);
    }
    if (!target)
        error = fail(why.error, "%s: a message of %zu bytes is lost: %s", call, found->length, why.message);
    if (error)
        zc_free(target);
    else
        *buf = target;
    return error;
}

int zc_recv_alloc(void **buf, int src, int tag, zc_comm *comm, zc_status *status)
{
    int error = comm_check_receive(comm, "zc_recv_alloc", src, tag);
    if (!error && !buf)
        error = fail(-EINVAL, "zc_recv_alloc: buf is NULL");
    zc_status found;
    struct taken taken;
    if (!error)
        error = comm_take(comm, src, tag, &found, &taken);
    return error ? error : comm_receive_taken(comm, "zc_recv_alloc", &found, &taken, buf, status);
}

int zc_sendrecv(const void *sendbuf, size_t sendlen, int dst, int sendtag, void *recvbuf, size_t cap, int src,
                int recvtag, zc_comm *comm, zc_status *status)
{
    /* What can be refused is refused before anything is sent. */
    struct range range;
    int error = comm_check_receive(comm, "zc_sendrecv", src, recvtag);
    if (!error && !recvbuf && cap)
        error = fail(-EINVAL, "zc_sendrecv: recvbuf is NULL and cap is %zu", cap);
    if (!error)
        error = range_find(recvbuf, cap, "zc_sendrecv", &range);
    if (!error)
        error = zc_send(sendbuf, sendlen, dst, sendtag, comm);
    return error ? error : zc_recv(recvbuf, cap, src, recvtag, comm, status);
}

static int probe(const char *call, int src, int tag, zc_comm *comm, int *found, zc_status *status)
{
    int error = comm_check_receive(comm, call, src, tag);
    if (error)
        return error;
    static _Thread_local __attribute__((tls_model("initial-exec"))) unsigned in_a_row; /* that found something */
    zc_status seen;
    comm_poll_in_turn(comm, in_a_row >= 2);
    int there = comm->transport->probe(&comm->endpoint, src, tag, &seen);
    if (there < 0)
        return there;
    *found = there;
    in_a_row = there ? in_a_row + 1 : 0;
    if (there && status)
        *status = seen;
    return 0;
}

int zc_iprobe(int src, int tag, zc_comm *comm, int *found, zc_status *status)
{
    return found ? probe("zc_iprobe", src, tag, comm, found, status) : fail(-EINVAL, "zc_iprobe: found is NULL");
}

int zc_probe(int src, int tag, zc_comm *comm, zc_status *status)
{
    struct waiting waiting = {.looks = true, .source = src};
    for (;;) {
        int found, error = probe("zc_probe", src, tag, comm, &found, status);
        if (error || found)
            return error;
        comm_poll_waiting(comm, NULL, &waiting);
    }
}
