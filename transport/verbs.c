/* SPDX-License-Identifier: MIT */
#include "transport/verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/options.h"
#include "transport/bootstrap.h"

enum { WAIT_SECONDS = 60 };

void message_free(struct message *message)
{
    free(message->own);
    free(message);
}

/* ---- operations that are over ---- */

static void land(struct message *landing)
{
    for (struct message *message = landing, *next; message; message = next) {
        next = message->next;
        if (message->kept)
            memcpy(message->receive->in.wire, message->bytes, message->kept);
        message_free(message);
    }
}

void verbs_unlock_and_tell(struct verbs *verbs)
{
    struct op *over = op_queue_take(&verbs->common.over);
    struct message *landing = verbs->landing;
    verbs->landing = NULL;
    lock_drop(&verbs->common.lock);
    land(landing);
    peers_tell(over);
}

/* ---- sending ---- */

/* To this rank itself, in turn with what others send to it. As start_send. */
static int send_self(struct verbs *verbs, struct op *op)
{
    bool whole = op->in.length <= EAGER;
    struct message message = {.match = {.source = verbs->common.rank, .tag = op->tag, .length = op->in.length},
                              .bytes = op->in.wire,
                              .sender = whole ? NULL : op};
    int error = verbs_arrive(verbs, &message);
    return error ? fail(error, "zc: no memory for a message to oneself") : whole;
}

/* The lock is held. As the table's send. */
static int start_send(struct verbs *verbs, struct op *op)
{
    struct peer *peer = &verbs->peers[op->peer];
    bool whole = op->in.length <= EAGER;
    uint32_t id = 0;
    if (op->peer == verbs->common.rank)
        return send_self(verbs, op);
    if (peer->error)
        return peers_gone(&verbs->common, op->peer, peer->error);
    int error = whole ? 0 : ids_take(&verbs->offers, op, &id);
    if (error)
        return error;
    op->in.index = id;
    op->in.asked = op->in.done = 0;
    /* Not before one that waits: messages arrive in the order in which they were sent. */
    if (!peer->sends.first && wire_send(verbs, peer, op))
        return whole;
    wire_queue_send(verbs, peer, op);
    return 0;
}

static int verbs_send(struct endpoint *endpoint, struct op *op, const void *wire, size_t length, int dst, int tag)
{
    struct verbs *verbs = endpoint->state;
    (void)dst, (void)tag; /* the operation has them */
    op->in.wire = (char *)(uintptr_t)wire;
    op->in.length = length;
    verbs_lock(verbs);
    int sent = start_send(verbs, op);
    verbs_unlock(verbs);
    return sent;
}

/* ---- receiving ---- */

static void land_whole(struct verbs *verbs, struct op *receive, struct message *message)
{
    if (message->kept)
        memcpy(receive->in.wire, message->bytes, message->kept);
    peers_over(&verbs->common, receive, message->error);
    message_free(message);
}

/* The bytes are copied when the lock is dropped, before the two operations end. */
static void land_from_self(struct verbs *verbs, struct op *receive, struct message *message)
{
    message->next = verbs->landing;
    verbs->landing = message;
    peers_over(&verbs->common, receive, message->error);
    peers_over(&verbs->common, message->sender, 0);
}

/* The receive has met the message: delivers it or starts to. */
static void verbs_pair(struct verbs *verbs, struct op *receive, struct message *message)
{
    struct peer *peer = &verbs->peers[message->match.source];
    message->receive = receive;
    message->kept = peers_meet(receive, &message->match, &message->error);
    if (message->match.length <= EAGER) {
        land_whole(verbs, receive, message);
    } else if (message->sender) {
        land_from_self(verbs, receive, message);
    } else if (peer->error) {
        peers_fail(&verbs->common, receive, -ECONNRESET);
        message_free(message);
    } else if (message->kept == 0) {
        peers_over(&verbs->common, receive, message->error);
        wire_queue_answer(verbs, peer, message, STEP_DONE);
    } else if (message->readable && memory_find(&verbs->port.device->memory, receive->in.wire)) {
        wire_queue_answer(verbs, peer, message, STEP_READ);
    } else if (ids_take(&verbs->pulls, message, &message->reply) == 0) {
        wire_queue_answer(verbs, peer, message, STEP_PULL);
    } else {
        peers_fail(&verbs->common, receive, -ENOMEM);
        wire_queue_answer(verbs, peer, message, STEP_DONE);
    }
    wire_push(verbs, peer);
}

/* The bytes of a message that met no receive leave its slot, or its sender's buffer. */
static int keep_bytes(struct message *message)
{
    if (message->match.length > EAGER || message->match.length == 0)
        return 0;
    message->own = malloc(message->match.length);
    if (!message->own)
        return -ENOMEM;
    memcpy(message->own, message->bytes, message->match.length);
    message->bytes = message->own;
    return 0;
}

int verbs_arrive(struct verbs *verbs, const struct message *what)
{
    struct message *message = malloc(sizeof *message);
    if (!message)
        return -ENOMEM;
    *message = *what;
    struct match *receive = match_message(&verbs->common.queue, &message->match);
    if (receive) {
        verbs_pair(verbs, op_of_match(receive), message);
        return 0;
    }
    int error = keep_bytes(message);
    if (error) {
        match_remove(&verbs->common.queue, &message->match);
        message_free(message);
    }
    return error;
}

static struct message *message_of(struct match *match)
{
    return (struct message *)match; /* its first member */
}

static int verbs_receive(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, int src, int tag)
{
    struct verbs *verbs = endpoint->state;
    int error;
    peers_set_receive(op, wire, cap, src, tag);
    verbs_lock(verbs);
    struct match *message = peers_match(&verbs->common, op, &error);
    if (message)
        verbs_pair(verbs, op, message_of(message));
    verbs_unlock(verbs);
    return error;
}

static void verbs_cancel(struct endpoint *endpoint, struct op *op)
{
    struct verbs *verbs = endpoint->state;
    verbs_lock(verbs);
    if (match_remove(&verbs->common.queue, &op->in.match))
        peers_over(&verbs->common, op, -ECANCELED);
    verbs_unlock(verbs);
}

static int verbs_receive_taken(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, struct taken *taken)
{
    struct verbs *verbs = endpoint->state;
    struct message *message = (struct message *)taken->native;
    peers_set_receive(op, wire, cap, message->match.source, message->match.tag);
    verbs_lock(verbs);
    verbs_pair(verbs, op, message);
    verbs_unlock(verbs);
    return 0;
}

/* ---- opening ---- */

static int find_timeout(const struct address *address, struct verbs *verbs)
{
    const struct options *options;
    uint64_t ms;
    int error = options_get(&options);
    if (!error)
        error = address_number(address, "timeout", PEER_TIMEOUT_LEAST_MS, PEER_TIMEOUT_MOST_MS,
                               options->peer_timeout_ms, &ms);
    if (!error)
        verbs_set_timeout(verbs, ms);
    return error;
}

static int find_ranks(const struct address *address, struct bootstrap **out)
{
    uint64_t rank, size, wait;
    int error;
    if ((error = address_number(address, "wait", 1, 86400, WAIT_SECONDS, &wait)) ||
        (error = address_number(address, "size", 1, BOOTSTRAP_RANKS_MOST, 1, &size)) ||
        (error = address_number(address, "rank", 0, size - 1, 0, &rank)))
        return error;
    const char *root = address_text(address, "root", "");
    if (size > 1 && !*root)
        return fail(-EINVAL, "zc_open: verbs: %d ranks need root=HOST:PORT, where rank 0 listens", (int)size);
    return bootstrap_open(root, (int)rank, (int)size, VERBS_PROTOCOL, wait * 1000000000, out);
}

static void release(struct verbs *verbs)
{
    verbs_disconnect(verbs);
    port_close(&verbs->port);
    free(verbs->offers.all);
    free(verbs->pulls.all);
    free(verbs);
}

static int open_port(const struct address *address, bool over_mpi, struct verbs *verbs)
{
    static const char *const keys[] = {"rank", "size", "root",         "wait",    "port",
                                       "gid",  "mtu",  "unregistered", "timeout", NULL};
    int error = address_check_keys(address, over_mpi ? keys + 4 : keys);
    if (!error)
        error = find_timeout(address, verbs);
    return error ? error : port_open(address, &verbs->port);
}

static int lost(const struct peers *peers, int rank, const char **why)
{
    const struct peer *peer = &((const struct verbs *)peers)->peers[rank];
    *why = peer->why;
    return peer->error;
}

static int verbs_open(const struct address *address, void *native, struct endpoint *endpoint)
{
    struct bootstrap *bootstrap = NULL;
    struct verbs *verbs = calloc(1, sizeof *verbs);
    if (!verbs)
        return fail(-ENOMEM, "zc_open: no memory");
    verbs->common.lost = lost;
    /* Over MPI all come, even one that cannot be opened, which tells so: the others would wait for it. */
    int error = native ? bootstrap_open_mpi(native, &bootstrap) : 0;
    if (!error)
        error = open_port(address, native, verbs);
    if (!error && !native)
        error = find_ranks(address, &bootstrap);
    if (bootstrap) {
        verbs->common.rank = bootstrap_rank(bootstrap);
        verbs->common.size = bootstrap_size(bootstrap);
        error = verbs_connect(verbs, bootstrap, error);
    }
    bootstrap_close(bootstrap);
    if (error) {
        release(verbs);
        return error;
    }
    *endpoint = (struct endpoint){.state = verbs,
                                  .rank = verbs->common.rank,
                                  .size = verbs->common.size,
                                  .tag_most = INT32_MAX,
                                  .eager = EAGER,
                                  .any_thread = true};
    return 0;
}

/* ---- closing ---- */

/* Does nobody wait for this rank any more, as far as it can know? */
static bool parted(const struct verbs *verbs, const struct peer *peer)
{
    return peer->error || peer == &verbs->peers[verbs->common.rank] ||
           (peer->said_bye && (int32_t)(peer->completed - peer->bye) > 0);
}

/* What was sent has arrived when the goodbye after it has. */
static bool verbs_parted(struct endpoint *endpoint)
{
    struct verbs *verbs = endpoint->state;
    bool all = true;
    verbs_lock(verbs);
    for (int i = 0; i < verbs->common.size; i++) {
        verbs->peers[i].saying_bye = i != verbs->common.rank;
        wire_push(verbs, &verbs->peers[i]);
        all &= parted(verbs, &verbs->peers[i]);
    }
    verbs_unlock(verbs);
    return all;
}

static void verbs_close(struct endpoint *endpoint)
{
    struct verbs *verbs = endpoint->state;
    for (struct match *match; (match = verbs->common.queue.messages.first);) {
        match_remove(&verbs->common.queue, match);
        message_free(message_of(match));
    }
    release(verbs);
}

const struct transport verbs_transport = {.scheme = "verbs",
                                          .open = verbs_open,
                                          .parted = verbs_parted,
                                          .close = verbs_close,
                                          .send = verbs_send,
                                          .receive = verbs_receive,
                                          .poll = verbs_poll,
                                          .cancel = verbs_cancel,
                                          .probe = peers_probe,
                                          .take = peers_take,
                                          .receive_taken = verbs_receive_taken};
