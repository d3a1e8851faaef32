/* SPDX-License-Identifier: MIT
 *
 * Completions, and what follows from them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "transport/verbs.h"
#include "transport/verbs_wr.h"

enum {
    BATCH = 32,           /* completions looked at in one poll */
    POLLS = 1024,         /* of those that find something, until time is looked at; the others look at it */
    SIGN_NS = 1000000000, /* between signs of life */
    PROTOCOL_ERROR = -EPROTO
};

/* ---- messages ---- */

/* A message, or the offer of one. */
static int take_message(struct verbs *verbs, const struct header *header, const char *body)
{
    struct message message = {.match = {.source = header->source, .tag = header->tag, .length = header->length},
                              .bytes = body,
                              .readable = header->readable,
                              .address = header->address,
                              .key = header->key,
                              .id = header->id};
    return verbs_arrive(verbs, &message);
}

/* An offered message was read, or was not wanted. */
static int take_done(struct verbs *verbs, const struct header *header)
{
    struct op *op = ids_find(&verbs->offers, header->id);
    if (!op || op->peer != header->source || op->in.asked)
        return PROTOCOL_ERROR;
    ids_drop(&verbs->offers, header->id);
    peers_over(&verbs->common, op, 0);
    return 0;
}

static int take_pull(struct verbs *verbs, const struct header *header)
{
    struct op *op = ids_find(&verbs->offers, header->id);
    if (!op || op->peer != header->source || op->in.asked || !header->length || header->length > op->in.length)
        return PROTOCOL_ERROR;
    op->in.asked = header->length;
    op->in.reply = header->reply;
    wire_queue_send(verbs, &verbs->peers[header->source], op);
    return 0;
}

static int take_part(struct verbs *verbs, const struct header *header, const char *body)
{
    struct message *message = ids_find(&verbs->pulls, header->reply);
    if (!message || message->match.source != header->source || header->address != message->landed ||
        header->length > message->kept - message->landed)
        return PROTOCOL_ERROR;
    memcpy(message->receive->in.wire + message->landed, body, header->length);
    message->landed += header->length;
    if (message->landed == message->kept) {
        ids_drop(&verbs->pulls, header->reply);
        peers_over(&verbs->common, message->receive, message->error);
        message_free(message);
    }
    return 0;
}

/* ---- what arrives in slots ---- */

static int dispatch(struct verbs *verbs, const struct header *header, size_t bytes)
{
    const char *body = (const char *)(header + 1);
    size_t length = bytes - sizeof *header;
    switch (header->kind) {
    case KIND_WHOLE:
        return header->length == length ? take_message(verbs, header, body) : PROTOCOL_ERROR;
    case KIND_OFFER:
        return header->length > EAGER ? take_message(verbs, header, NULL) : PROTOCOL_ERROR;
    case KIND_DONE:
        return take_done(verbs, header);
    case KIND_PULL:
        return take_pull(verbs, header);
    case KIND_PART:
        return header->length == length ? take_part(verbs, header, body) : PROTOCOL_ERROR;
    case KIND_BYE:
        verbs_lose(verbs, &verbs->peers[header->source], -ECONNRESET, NULL);
        return 0;
    default:
        return PROTOCOL_ERROR;
    }
}

static void arrived(struct verbs *verbs, const struct ibv_wc *wc)
{
    uint32_t slot = (uint32_t)wc->wr_id;
    const struct header *header = (const struct header *)wire_slot(verbs, slot);
    bool known = wc->status == IBV_WC_SUCCESS && wc->byte_len >= sizeof *header &&
                 header->source < verbs->common.size && header->source != verbs->common.rank;
    struct peer *peer = known ? &verbs->peers[header->source] : NULL;
    int error = known ? dispatch(verbs, header, wc->byte_len) : 0;
    if (error)
        verbs_lose(verbs, peer, error,
                   error == -ENOMEM ? "no memory for a message of it" : "it sent what no peer sends");
    error = wire_repost(verbs, slot);
    if (!known)
        return; /* cut short by the end of its connection, whose own completions tell of it */
    if (error)
        verbs_lose(verbs, peer, error, "the device refuses receives");
    verbs->returned[header->source]++;
    wire_push(verbs, peer);
}

/* ---- what was posted ---- */

static void read_over(struct verbs *verbs, struct message *message, bool failed)
{
    struct peer *peer = &verbs->peers[message->match.source];
    message->reads--;
    if (failed) {
        message->kept = message->asked; /* no more of them */
        message->error = peer->error;
    }
    if (message->reads || message->asked < message->kept)
        return;
    if (message->error && message->error != -EMSGSIZE)
        message->receive->status.length = 0;
    peers_over(&verbs->common, message->receive, message->error);
    if (peer->error)
        message_free(message);
    else
        wire_queue_answer(verbs, peer, message, STEP_DONE);
}

static int error_of(enum ibv_wc_status status)
{
    return status == IBV_WC_RETRY_EXC_ERR || status == IBV_WC_RNR_RETRY_EXC_ERR || status == IBV_WC_WR_FLUSH_ERR ||
                   status == IBV_WC_REM_ABORT_ERR
               ? -ECONNRESET
               : -EIO;
}

/* This work request is complete, and with it all before it. */
static void completed(struct verbs *verbs, const struct ibv_wc *wc)
{
    struct peer *peer = &verbs->peers[wr_peer(wc->wr_id)];
    uint32_t end = wr_number(wc->wr_id) + 1;
    bool failed = wc->status != IBV_WC_SUCCESS;
    if (failed)
        verbs_lose(verbs, peer, error_of(wc->status), ibv_wc_status_str(wc->status));
    while (peer->completed != end) {
        struct work work = peer->work[peer->completed++ % verbs->depth];
        if (work.slot != NO_SLOT)
            verbs->free_slots[verbs->free_count++] = work.slot;
        if (work.message)
            read_over(verbs, work.message, failed && peer->completed == end);
    }
    wire_push(verbs, peer);
}

/* ---- signs of life ---- */

/* A peer that is gone is noticed only by sending to it. While something is waited or looked for, each is told now and
 * then what it knows already. */
static void ask_for_life(struct verbs *verbs)
{
    bool waiting = verbs->common.looked || verbs->common.queue.receives.first || verbs->offers.count ||
                   verbs->pulls.count || verbs->stalled ||
                   verbs->peers[verbs->common.rank == 0 ? verbs->common.size - 1 : 0].saying_bye;
    uint64_t now = waiting ? clock_ns() : 0;
    if (!waiting || now - verbs->last_sign < SIGN_NS)
        return;
    verbs->last_sign = now;
    verbs->common.looked = false;
    for (int i = 0; i < verbs->common.size; i++)
        if (i != verbs->common.rank && !verbs->peers[i].error)
            wire_grant(verbs, &verbs->peers[i]);
}

static void push_all(struct verbs *verbs)
{
    verbs->stalled = false;
    for (int i = 0; i < verbs->common.size; i++)
        wire_push(verbs, &verbs->peers[i]);
}

void verbs_poll(struct endpoint *endpoint, struct op *urgent)
{
    struct verbs *verbs = endpoint->state;
    struct ibv_wc wcs[BATCH];
    (void)urgent; /* completions come in order, soon enough */
    if (!lock_try(&verbs->common.lock))
        return;
    int n = ibv_poll_cq(verbs->cq, BATCH, wcs);
    for (int i = 0; i < n; i++) {
        if (wr_is_send(wcs[i].wr_id))
            completed(verbs, &wcs[i]);
        else
            arrived(verbs, &wcs[i]);
    }
    if (n == 0 || ++verbs->polls % POLLS == 0)
        ask_for_life(verbs);
    if (verbs->stalled)
        push_all(verbs);
    verbs_unlock(verbs);
}
