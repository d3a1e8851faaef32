/* SPDX-License-Identifier: MIT
 *
 * The loop transport: ranks inside this process. It behaves like a network card that reads the sender's pages
 * late: when a message is delivered, by a poll of the receiver, and no earlier (see loop.h). */
#include "transport/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "transport/comm.h"
#include "transport/op.h"

enum { NAME_BYTES = 64, RANKS_MOST = 4096 };

/* A named world, or a nameless one of size 1. Its lock guards everything of its ranks. */
struct world {
    char name[NAME_BYTES];
    int size, present, left;
    pthread_mutex_t lock;
    pthread_cond_t complete;
    struct rank *ranks[RANKS_MOST];
    struct world *next;
};

struct rank {
    struct world *world;
    struct match_queue queue;
    struct op_queue matched; /* receives with their messages, oldest first */
    bool closed;             /* what is sent to it is dropped */
    bool hold;
    unsigned delay;
    size_t failures;
    int failure;
};

static pthread_mutex_t worlds_lock = PTHREAD_MUTEX_INITIALIZER;
static struct world *worlds;

/* ---- opening: a world is there when all its ranks are ---- */

/* One that a rank has left already is not opened again, but another one of its name. */
static struct world *world_find(const char *name, int size)
{
    struct world *world = worlds;
    while (world && (!*name || world->left || strcmp(world->name, name) != 0))
        world = world->next;
    if (world)
        return world;
    world = calloc(1, sizeof *world);
    if (!world)
        return NULL;
    memcpy(world->name, name, strlen(name));
    world->size = size;
    pthread_mutex_init(&world->lock, NULL);
    pthread_cond_init(&world->complete, NULL);
    world->next = worlds;
    worlds = world;
    return world;
}

static int join(struct world *world, struct rank *rank, int r, int size)
{
    if (world->size != size)
        return fail(-EINVAL, "zc_open: loop:%s has %d ranks, not %d", world->name, world->size, size);
    if (world->ranks[r])
        return fail(-EEXIST, "zc_open: loop:%s: rank %d is taken", world->name, r);
    rank->world = world;
    world->ranks[r] = rank;
    world->present++;
    return 0;
}

static int loop_open(const struct address *address, void *native, struct endpoint *endpoint)
{
    (void)native;
    uint64_t r, size;
    int error = address_check_keys(address, (const char *const[]){"rank", "size", NULL});
    if (!error)
        error = address_number(address, "size", 1, RANKS_MOST, 1, &size);
    if (!error)
        error = address_number(address, "rank", 0, size - 1, 0, &r);
    if (error)
        return error;
    if (strlen(address->name) >= NAME_BYTES || (size > 1 && !*address->name))
        return fail(-EINVAL, "zc_open: loop: a world of %d ranks needs a name of 1 to %d characters", (int)size,
                    NAME_BYTES - 1);
    struct rank *rank = calloc(1, sizeof *rank);
    if (!rank)
        return fail(-ENOMEM, "zc_open: no memory");

    pthread_mutex_lock(&worlds_lock);
    struct world *world = world_find(address->name, (int)size);
    error = world ? join(world, rank, (int)r, (int)size) : fail(-ENOMEM, "zc_open: no memory");
    if (!error) {
        while (world->present < world->size)
            pthread_cond_wait(&world->complete, &worlds_lock);
        pthread_cond_broadcast(&world->complete);
    }
    pthread_mutex_unlock(&worlds_lock);
    if (error) {
        free(rank);
        return error;
    }
    *endpoint = (struct endpoint){.state = rank,
                                  .rank = (int)r,
                                  .size = (int)size,
                                  .tag_most = INT32_MAX,
                                  .any_thread = true,
                                  .read_by_peers = true};
    return 0;
}

/* Messages that nobody has received are over for their senders. */
static void drop_messages(struct rank *rank)
{
    struct match_list *messages = &rank->queue.messages;
    pthread_mutex_lock(&rank->world->lock);
    rank->closed = true;
    struct match *dropped = messages->first;
    messages->first = NULL;
    pthread_mutex_unlock(&rank->world->lock);
    for (struct match *message = dropped, *next; message; message = next) {
        next = message->next;
        op_sent(op_of_match(message), 0);
    }
}

/* The last one out takes the world down. A rank's place stays: others may be sending to it. */
static void loop_close(struct endpoint *endpoint)
{
    struct rank *rank = endpoint->state;
    struct world *world = rank->world, **link = &worlds;
    drop_messages(rank);
    pthread_mutex_lock(&worlds_lock);
    if (++world->left == world->size) {
        while (*link != world)
            link = &(*link)->next;
        *link = world->next;
        for (int i = 0; i < world->size; i++)
            free(world->ranks[i]);
        free(world);
    }
    pthread_mutex_unlock(&worlds_lock);
}

/* ---- matching ---- */

static void pair(struct rank *receiver, struct op *receive, struct op *message)
{
    receive->in.with = message;
    receive->in.delay = receiver->delay;
    op_queue_add(&receiver->matched, receive);
}

static int loop_send(struct endpoint *endpoint, struct op *op, const void *wire, size_t length, int dst, int tag)
{
    struct rank *self = endpoint->state;
    struct world *world = self->world;
    op->in.wire = (char *)(uintptr_t)wire;
    op->in.length = length;
    op->in.match = (struct match){.source = endpoint->rank, .tag = tag, .length = length};
    pthread_mutex_lock(&world->lock);
    struct rank *receiver = world->ranks[dst];
    bool closed = receiver->closed;
    struct match *receive = closed ? NULL : match_message(&receiver->queue, &op->in.match);
    if (receive)
        pair(receiver, op_of_match(receive), op);
    pthread_mutex_unlock(&world->lock);
    return closed;
}

static int loop_receive(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, int src, int tag)
{
    struct rank *self = endpoint->state;
    op->in.wire = wire;
    op->in.length = cap;
    op->in.match = (struct match){.source = src, .tag = tag};
    pthread_mutex_lock(&self->world->lock);
    struct match *message = match_receive(&self->queue, &op->in.match);
    if (message)
        pair(self, op, op_of_match(message));
    pthread_mutex_unlock(&self->world->lock);
    return 0;
}

static int loop_probe(struct endpoint *endpoint, int src, int tag, zc_status *status)
{
    struct rank *self = endpoint->state;
    pthread_mutex_lock(&self->world->lock);
    struct match *message = match_probe(&self->queue, src, tag);
    if (message)
        *status = match_status(message);
    pthread_mutex_unlock(&self->world->lock);
    return message != NULL;
}

static int loop_take(struct endpoint *endpoint, int src, int tag, zc_status *status, struct taken *taken)
{
    struct rank *self = endpoint->state;
    pthread_mutex_lock(&self->world->lock);
    struct match *message = match_probe(&self->queue, src, tag);
    if (message) {
        match_remove(&self->queue, message);
        *status = match_status(message);
        taken->native = (uintptr_t)op_of_match(message);
    }
    pthread_mutex_unlock(&self->world->lock);
    return message != NULL;
}

static int loop_receive_taken(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, struct taken *taken)
{
    struct rank *self = endpoint->state;
    op->in.wire = wire;
    op->in.length = cap;
    pthread_mutex_lock(&self->world->lock);
    pair(self, op, (struct op *)taken->native);
    pthread_mutex_unlock(&self->world->lock);
    return 0;
}

static void loop_cancel(struct endpoint *endpoint, struct op *op)
{
    struct rank *self = endpoint->state;
    int source = op->peer, tag = op->tag;
    pthread_mutex_lock(&self->world->lock);
    bool unmatched = match_remove(&self->queue, &op->in.match);
    pthread_mutex_unlock(&self->world->lock);
    if (unmatched)
        op_received(op, source, tag, 0, -ECANCELED);
}

/* ---- delivery ---- */

/* Takes the n-th matched receive out, or returns NULL where there are fewer. Locked. */
static struct op *take_matched(struct rank *rank, size_t n)
{
    struct op_queue *matched = &rank->matched;
    struct op *before = matched->first, *receive;
    if (!before || n == 0)
        return before ? op_queue_pop(matched) : NULL;
    while ((receive = before->in.next) && --n)
        before = receive;
    if (!receive)
        return NULL;
    before->in.next = receive->in.next;
    if (matched->last == receive)
        matched->last = before;
    return receive;
}

static void deliver(struct rank *rank, struct op *receive)
{
    struct op *message = receive->in.with;
    size_t length = message->in.match.length, cap = receive->in.length;
    int source = message->in.match.source, tag = message->in.match.tag, error = 0;
    pthread_mutex_lock(&rank->world->lock);
    if (rank->failures) {
        rank->failures--;
        error = rank->failure;
    }
    pthread_mutex_unlock(&rank->world->lock);
    size_t kept = error ? 0 : length < cap ? length : cap;
    if (kept)
        memcpy(receive->in.wire, message->in.wire, kept);
    op_received(receive, source, tag, kept, error ? error : length > cap ? -EMSGSIZE : 0);
    op_sent(message, error);
}

static void loop_poll(struct endpoint *endpoint, struct op *urgent)
{
    (void)urgent;
    struct rank *self = endpoint->state;
    for (;;) {
        struct op *receive = NULL;
        pthread_mutex_lock(&self->world->lock);
        if (self->matched.first && !self->hold) {
            if (self->matched.first->in.delay)
                self->matched.first->in.delay--;
            else
                receive = take_matched(self, 0);
        }
        pthread_mutex_unlock(&self->world->lock);
        if (!receive)
            return;
        deliver(self, receive);
    }
}

const struct transport loop_transport = {.scheme = "loop",
                                         .inside = true,
                                         .open = loop_open,
                                         .close = loop_close,
                                         .send = loop_send,
                                         .receive = loop_receive,
                                         .poll = loop_poll,
                                         .cancel = loop_cancel,
                                         .probe = loop_probe,
                                         .take = loop_take,
                                         .receive_taken = loop_receive_taken};

/* ---- controls ---- */

static struct rank *rank_of(zc_comm *comm)
{
    return comm->endpoint.state;
}

void loop_hold(zc_comm *comm, bool on)
{
    struct rank *rank = rank_of(comm);
    pthread_mutex_lock(&rank->world->lock);
    rank->hold = on;
    pthread_mutex_unlock(&rank->world->lock);
}

static size_t held(const struct rank *rank)
{
    size_t n = 0;
    for (const struct op *op = rank->matched.first; op; op = op->in.next)
        n++;
    return n;
}

size_t loop_held(zc_comm *comm)
{
    struct rank *rank = rank_of(comm);
    pthread_mutex_lock(&rank->world->lock);
    size_t n = held(rank);
    pthread_mutex_unlock(&rank->world->lock);
    return n;
}

size_t loop_deliver(zc_comm *comm, size_t n, enum loop_order order, unsigned seed)
{
    struct rank *rank = rank_of(comm);
    size_t delivered = 0;
    for (; delivered < n; delivered++) {
        pthread_mutex_lock(&rank->world->lock);
        size_t there = held(rank), which = 0;
        if (order == LOOP_NEWEST_FIRST && there)
            which = there - 1;
        else if (order == LOOP_SHUFFLED && there)
            which = (size_t)rand_r(&seed) % there;
        struct op *receive = take_matched(rank, which);
        pthread_mutex_unlock(&rank->world->lock);
        if (!receive)
            break;
        deliver(rank, receive);
    }
    return delivered;
}

void loop_delay(zc_comm *comm, unsigned polls)
{
    struct rank *rank = rank_of(comm);
    pthread_mutex_lock(&rank->world->lock);
    rank->delay = polls;
    pthread_mutex_unlock(&rank->world->lock);
}

void loop_fail(zc_comm *comm, size_t n, int error)
{
    struct rank *rank = rank_of(comm);
    pthread_mutex_lock(&rank->world->lock);
    rank->failures = n;
    rank->failure = error;
    pthread_mutex_unlock(&rank->world->lock);
}
