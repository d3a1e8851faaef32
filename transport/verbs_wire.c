/* SPDX-License-Identifier: MIT
 *
 * Posting. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "transport/verbs.h"
#include "transport/verbs_wr.h"

int wire_repost(struct verbs *verbs, uint32_t slot)
{
    struct ibv_sge sge = {
        .addr = (uintptr_t)wire_slot(verbs, slot), .length = SLOT_BYTES, .lkey = verbs->slots_region->lkey};
    struct ibv_recv_wr wr = {.wr_id = slot, .sg_list = &sge, .num_sge = 1}, *bad;
    int error = ibv_post_srq_recv(verbs->srq, &wr, &bad);
    return error ? fail(-error, "zc: ibv_post_srq_recv failed: %s", error_text(error)) : 0;
}

/* ---- room ---- */

static uint32_t index_of(const struct verbs *verbs, const struct peer *peer)
{
    return (uint32_t)(peer - verbs->peers);
}

static bool has_room(const struct verbs *verbs, const struct peer *peer)
{
    return peer->posted - peer->completed < verbs->depth && !peer->broken;
}

static bool has_credit(const struct verbs *verbs, struct peer *peer)
{
    if (peer->sent - peer->granted < peer->credits)
        return true;
    uint64_t granted = atomic_load_explicit(&verbs->granted[index_of(verbs, peer)], memory_order_acquire);
    /* A device that writes it byte by byte may be at it. */
    if (granted > peer->granted && granted <= peer->sent)
        peer->granted = granted;
    return peer->sent - peer->granted < peer->credits;
}

/* ---- work requests ---- */

/* Posts one, for which there is room. A completion is asked for often enough that neither the queue nor the slots can
 * be used up by work requests whose end nobody hears of. */
static bool post(struct verbs *verbs, struct peer *peer, struct ibv_send_wr *wr, struct work work, bool tell)
{
    struct ibv_send_wr *bad;
    uint32_t every = verbs->depth / 4;
    if (tell || peer->posted % every == every - 1 ||
        (work.slot != NO_SLOT && verbs->free_count < verbs->send_slots / 2))
        wr->send_flags |= IBV_SEND_SIGNALED;
    wr->wr_id = wr_of_send(index_of(verbs, peer), peer->posted);
    int error = ibv_post_send(peer->qp, wr, &bad);
    if (error) {
        peer->broken = -error;
        verbs->stalled = true;
        return false;
    }
    peer->work[peer->posted++ % verbs->depth] = work;
    return true;
}

/* One that needs no slot, since the device takes its bytes at once. */
static bool post_inline(struct verbs *verbs, struct peer *peer, const struct header *header, const char *body,
                        size_t length, bool tell)
{
    struct ibv_sge sges[] = {{.addr = (uintptr_t)header, .length = sizeof *header},
                             {.addr = (uintptr_t)body, .length = (uint32_t)length}};
    struct ibv_send_wr wr = {
        .opcode = IBV_WR_SEND, .sg_list = sges, .num_sge = length ? 2 : 1, .send_flags = IBV_SEND_INLINE};
    return post(verbs, peer, &wr, (struct work){.slot = NO_SLOT}, tell);
}

static bool post_slot(struct verbs *verbs, struct peer *peer, const struct header *header, const char *body,
                      size_t length, bool tell)
{
    if (verbs->free_count == 0)
        return false;
    struct work work = {.slot = verbs->free_slots[--verbs->free_count]};
    char *slot = wire_slot(verbs, work.slot);
    memcpy(slot, header, sizeof *header);
    if (length)
        memcpy(slot + sizeof *header, body, length);
    struct ibv_sge sge = {
        .addr = (uintptr_t)slot, .length = (uint32_t)(sizeof *header + length), .lkey = verbs->slots_region->lkey};
    struct ibv_send_wr wr = {.opcode = IBV_WR_SEND, .sg_list = &sge, .num_sge = 1};
    if (post(verbs, peer, &wr, work, tell))
        return true;
    verbs->free_slots[verbs->free_count++] = work.slot;
    return false;
}

/* Sends header and body. False: no room for it now. */
static bool post_message(struct verbs *verbs, struct peer *peer, struct header *header, const char *body, size_t length,
                         bool tell)
{
    if (!has_room(verbs, peer) || !has_credit(verbs, peer))
        return false;
    header->source = (uint16_t)verbs->common.rank;
    bool posted = sizeof *header + length <= verbs->inline_most ? post_inline(verbs, peer, header, body, length, tell)
                                                                : post_slot(verbs, peer, header, body, length, tell);
    peer->sent += posted;
    return posted;
}

/* Posts what is left of the reads of a message. */
static bool post_reads(struct verbs *verbs, struct peer *peer, struct message *message)
{
    const struct ibv_mr *region = memory_find(&verbs->port.device->memory, message->receive->in.wire);
    while (message->asked < message->kept) {
        size_t left = message->kept - message->asked, length = left < verbs->read_most ? left : verbs->read_most;
        struct ibv_sge sge = {.addr = (uintptr_t)message->receive->in.wire + message->asked,
                              .length = (uint32_t)length,
                              .lkey = region->lkey};
        struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_READ,
                                 .sg_list = &sge,
                                 .num_sge = 1,
                                 .wr.rdma = {.remote_addr = message->address + message->asked, .rkey = message->key}};
        struct work work = {.message = message, .slot = NO_SLOT};
        if (!has_room(verbs, peer) || !post(verbs, peer, &wr, work, true))
            return false;
        message->asked += length;
        message->reads++;
    }
    return true;
}

void wire_grant(struct verbs *verbs, struct peer *peer)
{
    _Atomic uint64_t *returned = &verbs->returned[index_of(verbs, peer)];
    struct ibv_sge sge = {.addr = (uintptr_t)returned, .length = sizeof *returned, .lkey = verbs->slots_region->lkey};
    struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_WRITE,
                             .sg_list = &sge,
                             .num_sge = 1,
                             .send_flags = sizeof *returned <= verbs->inline_most ? IBV_SEND_INLINE : 0,
                             .wr.rdma = {.remote_addr = peer->granted_address, .rkey = peer->granted_key}};
    if (has_room(verbs, peer) && post(verbs, peer, &wr, (struct work){.slot = NO_SLOT}, false))
        peer->told = *returned;
    else
        verbs->stalled = true;
}

/* ---- sends ---- */

/* Of one that is pulled. */
static bool send_part(struct verbs *verbs, struct peer *peer, struct op *op)
{
    size_t left = op->in.asked - op->in.done, length = left < EAGER ? left : EAGER;
    struct header part = {.kind = KIND_PART, .reply = op->in.reply, .address = op->in.done, .length = length};
    bool posted = post_message(verbs, peer, &part, op->in.wire + op->in.done, length, false);
    op->in.done += posted ? length : 0;
    return posted;
}

bool wire_send(struct verbs *verbs, struct peer *peer, struct op *op)
{
    if (op->in.asked)
        return send_part(verbs, peer, op);
    struct header header = {.kind = KIND_WHOLE, .tag = op->tag, .length = op->in.length};
    if (op->in.length <= EAGER)
        return post_message(verbs, peer, &header, op->in.wire, op->in.length, false);
    const struct ibv_mr *region = memory_find(&verbs->port.device->memory, op->in.wire);
    header.kind = KIND_OFFER;
    header.id = (uint32_t)op->in.index;
    header.address = (uintptr_t)op->in.wire;
    header.readable = region != NULL;
    header.key = region ? region->rkey : 0;
    return post_message(verbs, peer, &header, NULL, 0, false);
}

void wire_queue_send(struct verbs *verbs, struct peer *peer, struct op *op)
{
    op_queue_add(&peer->sends, op);
    verbs->stalled = true;
}

/* Part of it was posted, or all. */
static void went(struct verbs *verbs, struct peer *peer, struct op *op)
{
    if (op->in.asked && op->in.done < op->in.asked) {
        wire_queue_send(verbs, peer, op); /* in turn with others */
        return;
    }
    if (op->in.asked)
        ids_drop(&verbs->offers, (uint32_t)op->in.index);
    if (op->in.asked || op->in.length <= EAGER)
        peers_over(&verbs->common, op, 0);
}

/* ---- answers to offers ---- */

void wire_queue_answer(struct verbs *verbs, struct peer *peer, struct message *message, enum step step)
{
    message->step = step;
    message->next = NULL;
    *peer->answers_end = message;
    peer->answers_end = &message->next;
    verbs->stalled = true;
}

static void pop_answer(struct peer *peer)
{
    struct message *message = peer->answers;
    peer->answers = message->next;
    if (!peer->answers)
        peer->answers_end = &peer->answers;
    if (message->step == STEP_DONE)
        message_free(message);
}

static bool post_answer(struct verbs *verbs, struct peer *peer, struct message *message)
{
    if (message->step == STEP_READ)
        return post_reads(verbs, peer, message);
    struct header header = {.kind = message->step == STEP_PULL ? KIND_PULL : KIND_DONE,
                            .id = message->id,
                            .reply = message->reply,
                            .length = message->kept};
    return post_message(verbs, peer, &header, NULL, 0, false);
}

/* ---- all that waits for room ---- */

static void say_bye(struct verbs *verbs, struct peer *peer)
{
    struct header bye = {.kind = KIND_BYE};
    peer->bye = peer->posted;
    peer->said_bye = post_message(verbs, peer, &bye, NULL, 0, true);
    verbs->stalled |= !peer->said_bye;
}

void wire_push(struct verbs *verbs, struct peer *peer)
{
    if (peer->error)
        return;
    while (peer->answers && post_answer(verbs, peer, peer->answers))
        pop_answer(peer);
    while (peer->sends.first && wire_send(verbs, peer, peer->sends.first))
        went(verbs, peer, op_queue_pop(&peer->sends));
    if (peer->answers || peer->sends.first)
        verbs->stalled = true;
    else if (peer->saying_bye && !peer->said_bye)
        say_bye(verbs, peer);
    if (atomic_load(&verbs->returned[index_of(verbs, peer)]) - peer->told >= verbs->credits / 2)
        wire_grant(verbs, peer);
    if (peer->broken)
        verbs_lose(verbs, peer, peer->broken, "the device refuses work requests");
}
