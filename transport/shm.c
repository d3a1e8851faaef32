/* SPDX-License-Identifier: MIT */
#include "transport/shm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "transport/transport.h"

enum { ATTEND_EVERY = 256 }; /* looks of one that does not sleep */

/* ---- operations that are over ---- */

void shm_lock(struct shm *shm)
{
    lock_take(&shm->common.lock);
}

/* Tells the rank whose message the operation passes on, should it see this one go. */
static void count_passed(const struct op *op, uint32_t change)
{
    struct link *link = op->in.passed->link;
    if (!link->error)
        atomic_fetch_add(&link->ring.mine->passed, change);
}

void shm_over(struct shm *shm, struct op *op, int error)
{
    if (op->sends && op->in.passed)
        count_passed(op, UINT32_MAX);
    peers_over(&shm->common, op, error);
}

/* Nobody needs the message any more: the sender is told, if it waits for that. */
static void shm_done(struct message *message)
{
    if (message->offered && !message->link->error)
        link_answer(message->link, message, STEP_DONE);
    else
        shm_free_message(message);
}

/* Copies the messages to where they are to land, without the lock: that may take long. */
static void land(struct shm *shm, struct message *landing)
{
    for (const struct message *message = landing; message; message = message->next)
        shm_copy(message->receive->in.wire, message->bytes, message->kept);
    shm_lock(shm);
    for (struct message *message = landing, *next; message; message = next) {
        struct link *link = message->link;
        next = message->next;
        shm_over(shm, message->receive, message->error);
        shm_done(message);
        link_push(link);
    }
    shm_unlock(shm);
}

void shm_unlock(struct shm *shm)
{
    struct op *over = op_queue_take(&shm->common.over);
    struct message *landing = shm->landing;
    bool happened = shm->happened || over;
    shm->landing = NULL;
    shm->landing_end = &shm->landing;
    shm->happened = false;
    lock_drop(&shm->common.lock);
    peers_tell(over);
    if (happened)
        shm_happened(shm);
    if (landing)
        land(shm, landing);
}

/* ---- messages ---- */

struct message *shm_new_message(struct shm *shm, struct link *link)
{
    struct message *message = shm->free_messages;
    if (message)
        shm->free_messages = message->next;
    else
        message = malloc(sizeof *message);
    if (!message)
        return NULL;
    link->messages++;
    message->next = NULL;
    message->link = link;
    message->step = STEP_UNMATCHED;
    message->own = NULL;
    message->mapping = NULL;
    message->receive = NULL;
    message->kept = message->landed = 0;
    message->error = 0;
    return message;
}

void shm_free_message(struct message *message)
{
    struct shm *shm = message->link->shm;
    free(message->own);
    if (message->mapping)
        mapping_put(message->mapping);
    message->link->messages--;
    message->next = shm->free_messages;
    shm->free_messages = message;
}

/* Delivers a message that came whole. */
static void deliver(struct shm *shm, struct op *receive, struct message *message)
{
    if (message->kept)
        memcpy(receive->in.wire, message->bytes, message->kept);
    shm_over(shm, receive, message->error);
    shm_free_message(message);
}

void shm_pair(struct shm *shm, struct op *receive, struct message *message)
{
    struct link *link = message->link;
    message->receive = receive;
    message->kept = peers_meet(receive, &message->match, &message->error);
    if (!message->offered) {
        deliver(shm, receive, message);
    } else if (message->kept == 0) {
        shm_over(shm, receive, message->error);
        shm_done(message);
    } else if (message->bytes) {
        message->step = STEP_LAND;
        message->next = NULL;
        *shm->landing_end = message;
        shm->landing_end = &message->next;
    } else if (!link->error && ids_take(&link->pulls, message, &message->reply) == 0) {
        link_answer(link, message, STEP_PULL);
    } else {
        peers_fail(&shm->common, receive, link->error ? link->error : -ENOMEM);
        shm_done(message);
    }
}

static struct message *message_of(struct match *match)
{
    return (struct message *)match; /* its first member */
}

/* ---- the table ---- */

/* The lock is not held. As the table's send. */
static int start_send(struct shm *shm, struct op *op, const void *bytes, size_t length, struct message *passed)
{
    op->in.wire = (char *)(uintptr_t)bytes;
    op->in.length = length;
    op->in.passed = passed;
    shm_lock(shm);
    struct link *link = shm->peers[op->peer];
    bool counted = passed && !link->error;
    if (counted)
        count_passed(op, 1); /* before it can be looked at */
    bool lost = link->error;
    int sent = lost ? peers_gone(&shm->common, op->peer, -ECONNRESET) : link_send(link, op);
    if (counted && sent)
        count_passed(op, UINT32_MAX);
    if (lost) /* who sends again until another one is there may do nothing else; this was meant for the lost one */
        shm->happened |= shm_attend(shm);
    shm_unlock(shm);
    return sent;
}

static int shm_send(struct endpoint *endpoint, struct op *op, const void *wire, size_t length, int dst, int tag)
{
    (void)dst, (void)tag; /* the operation has them */
    return start_send(endpoint->state, op, wire, length, NULL);
}

static char *shm_place(struct endpoint *endpoint, size_t length, int dst, int tag)
{
    struct shm *shm = endpoint->state;
    shm_lock(shm);
    struct link *link = shm->peers[dst];
    char *to = link->error ? NULL : link_place(link, length, tag);
    if (!to)
        shm_unlock(shm);
    return to;
}

static void shm_placed(struct endpoint *endpoint, int dst, bool whole)
{
    struct shm *shm = endpoint->state;
    if (whole)
        link_placed(shm->peers[dst]);
    lock_drop(&shm->common.lock); /* nothing can have ended */
}

static int shm_receive(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, int src, int tag)
{
    struct shm *shm = endpoint->state;
    int error;
    peers_set_receive(op, wire, cap, src, tag);
    shm_lock(shm);
    shm_wake_owed(shm);
    struct match *match = peers_match(&shm->common, op, &error);
    if (match) {
        struct link *link = message_of(match)->link;
        shm_pair(shm, op, message_of(match));
        link_push(link);
    }
    shm_unlock(shm);
    return error;
}

/* True: there was something. */
static bool take_cells(struct shm *shm)
{
    bool any = false;
    for (struct link *link = shm->links; link; link = link->next)
        if (link->greeted && !link->error)
            any |= link_take(link);
    return any;
}

/* Is it time for who is never without messages to see as well what others send, who comes and who dies? */
static bool is_turn(struct shm *shm)
{
    return ++shm->looks % ATTEND_EVERY == 0;
}

/* A message that was taken before. */
static int receive_known(struct shm *shm, struct message *message, void *wire, size_t cap, zc_status *status)
{
    if (message->offered || message->match.length > cap)
        return 0;
    match_remove(&shm->common.queue, &message->match);
    if (message->match.length)
        memcpy(wire, message->bytes, message->match.length);
    *status = match_status(&message->match);
    shm_free_message(message);
    return 1;
}

static int shm_receive_now(struct endpoint *endpoint, void *wire, size_t cap, int src, int tag, zc_status *status)
{
    struct shm *shm = endpoint->state;
    int there = -EAGAIN;
    if (!lock_try(&shm->common.lock))
        return there;
    shm_wake_owed(shm);
    struct match *known = match_probe(&shm->common.queue, src, tag);
    if (known)
        there = receive_known(shm, message_of(known), wire, cap, status);
    else if (shm->common.queue.receives.first)
        there = 0; /* perhaps what comes is for that one */
    for (struct link *link = shm->links; link && there == -EAGAIN; link = link->next)
        if (link->greeted && !link->error && (src == ZC_ANY_SOURCE || src == link->rank))
            there = link_receive(link, wire, cap, tag, status);
    if (is_turn(shm)) {
        shm->happened |= take_cells(shm);
        shm->happened |= shm_attend(shm);
    }
    shm_unlock(shm);
    return there;
}

static void shm_cancel(struct endpoint *endpoint, struct op *op)
{
    struct shm *shm = endpoint->state;
    shm_lock(shm);
    if (match_remove(&shm->common.queue, &op->in.match))
        shm_over(shm, op, -ECANCELED);
    shm_unlock(shm);
}

static void shm_poll(struct endpoint *endpoint, struct op *urgent)
{
    (void)urgent;
    struct shm *shm = endpoint->state;
    if (!lock_try(&shm->common.lock))
        return;
    bool any = take_cells(shm);
    if (any) {
        if (shm->polls && shm_patience(shm) < shm->patience_most)
            shm_set_patience(shm, 2 * shm_patience(shm));
        shm->polls = 0;
    } else {
        shm->polls++;
    }
    bool attend = is_turn(shm) || shm->watched;
    attend = attend && shm_attend(shm);
    shm->happened = any || attend; /* a thread that sleeps may wait for just this message, or its packet */
    shm_unlock(shm);
}

/* ---- probing ---- */

static int shm_probe(struct endpoint *endpoint, int src, int tag, zc_status *status)
{
    shm_settle(endpoint->state);
    return peers_probe(endpoint, src, tag, status);
}

static int shm_receive_taken(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, struct taken *taken)
{
    struct shm *shm = endpoint->state;
    struct message *message = (struct message *)taken->native;
    struct link *link = message->link;
    peers_set_receive(op, wire, cap, message->match.source, message->match.tag);
    shm_lock(shm);
    shm_pair(shm, op, message);
    link_push(link);
    shm_unlock(shm);
    return 0;
}

/* ---- lending ---- */

void shm_count_view(const struct message *message, uint32_t change)
{
    const struct link *link = message->link;
    if (!message->offered || link->error)
        return;
    uint32_t views = atomic_load_explicit(&link->ring.mine->views, memory_order_relaxed); /* nobody else stores it */
    atomic_store_explicit(&link->ring.mine->views, views + change, memory_order_release);
}

static bool shm_lend(struct endpoint *endpoint, const struct taken *taken, const void **bytes)
{
    struct shm *shm = endpoint->state;
    struct message *message = (struct message *)taken->native;
    shm_lock(shm);
    if (message->bytes) {
        message->step = STEP_LENT;
        shm_count_view(message, 1);
        link_wake(message->link); /* it may wait for all but views to end */
    }
    shm_unlock(shm);
    *bytes = message->bytes;
    return message->bytes;
}

static void shm_give_back(struct endpoint *endpoint, const struct taken *taken)
{
    struct shm *shm = endpoint->state;
    struct message *message = (struct message *)taken->native;
    struct link *link = message->link;
    shm_lock(shm);
    if (message->step == STEP_LENT)
        shm_count_view(message, UINT32_MAX);
    shm_done(message);
    link_push(link);
    shm_unlock(shm);
}

/* No peer is believed more than what it was sent. */
static long shm_unreceived(struct endpoint *endpoint, const _Atomic long *sending)
{
    struct shm *shm = endpoint->state;
    long viewed = 0;
    shm_lock(shm);
    for (struct link *link = shm->links; link; link = link->next) {
        uint32_t views = link->error || !link->greeted ? 0 : atomic_load(&link->ring.theirs->views);
        viewed += views < link->offers.count ? views : link->offers.count;
    }
    long unreceived = atomic_load(sending) - viewed;
    shm_unlock(shm);
    return unreceived;
}

static int shm_send_lent(struct endpoint *endpoint, struct op *op, const struct taken *taken, const void *bytes,
                         size_t length, int dst, int tag)
{
    struct message *message = (struct message *)taken->native;
    (void)dst, (void)tag; /* the operation has them */
    return start_send(endpoint->state, op, bytes, length, message->mapping ? message : NULL);
}

/* ---- closing ---- */

/* No peer is still to be told of something. */
static bool shm_parted(struct endpoint *endpoint)
{
    struct shm *shm = endpoint->state;
    bool owes = false;
    shm_lock(shm);
    for (struct link *link = shm->links; link; link = link->next)
        owes |= link->answers != NULL;
    shm_unlock(shm);
    return !owes;
}

static void shm_close(struct endpoint *endpoint)
{
    struct shm *shm = endpoint->state;
    shm_lock(shm);
    for (struct match *match; (match = shm->common.queue.messages.first);) {
        match_remove(&shm->common.queue, match);
        shm_done(message_of(match));
    }
    shm_unlock(shm);
    shm_free(shm);
}

const struct transport shm_transport = {.scheme = "shm",
                                        .check = shm_check,
                                        .open = shm_open_endpoint,
                                        .parted = shm_parted,
                                        .close = shm_close,
                                        .send = shm_send,
                                        .place = shm_place,
                                        .placed = shm_placed,
                                        .receive = shm_receive,
                                        .receive_now = shm_receive_now,
                                        .poll = shm_poll,
                                        .fd = shm_fd,
                                        .rearm = shm_rearm,
                                        .cancel = shm_cancel,
                                        .probe = shm_probe,
                                        .take = peers_take,
                                        .receive_taken = shm_receive_taken,
                                        .lend = shm_lend,
                                        .give_back = shm_give_back,
                                        .unreceived = shm_unreceived,
                                        .send_lent = shm_send_lent};
