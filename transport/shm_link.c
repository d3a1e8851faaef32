/* SPDX-License-Identifier: MIT
 *
 * Cells: what is put on a board for the peer, and what follows from those that it has put on its own. */
#include <errno.h>
#include <string.h>

#include "core/own_memory.h"
#include "transport/shm.h"

enum {
    BATCH = 32,    /* cells of a peer that are looked at in one poll */
    ROOM_EVERY = 4 /* of which one is followed by a look whether the peer waits for room */
};
_Static_assert((int)ROOM_EVERY < RING_CELLS && (int)ROOM_EVERY * RING_EAGER <= RING_LETTERS - 3 * RING_EAGER,
               "without room, more cells are there");

/* ---- putting ---- */

static bool was_put(struct link *link, enum ring_put done)
{
    if (done == RING_BROKEN)
        link_break(link, -ECONNRESET, "it says that it has taken what was not there");
    return done == RING_PUT;
}

/* False: no room, or the peer is not to be believed. */
static bool put(struct link *link, struct cell *cell, const void *bytes, size_t length)
{
    return was_put(link, ring_put(&link->ring, cell, bytes, length));
}

static bool put_offer(struct link *link, struct op *op, struct cell *cell)
{
    uint32_t id;
    if (ids_take(&link->offers, op, &id))
        return false;
    op->in.index = id;
    op->in.asked = op->in.done = 0;
    cell->kind = CELL_OFFER;
    cell->id = id;
    cell->segment = NO_SEGMENT;
    if (op->in.passed)
        segments_locate_on(link, op->in.passed->mapping, op->in.wire, cell);
    else
        segments_locate(link, op->in.wire, cell);
    if (put(link, cell, NULL, 0))
        return true;
    ids_drop(&link->offers, id);
    return false;
}

/* As many of the bytes that the peer asked for as there is room for. True: all. */
static bool put_parts(struct link *link, struct op *op)
{
    while (op->in.done < op->in.asked) {
        size_t left = op->in.asked - op->in.done, length = left < RING_EAGER ? left : RING_EAGER;
        struct cell cell = {.kind = CELL_PART, .reply = op->in.reply, .length = length};
        if (!put(link, &cell, op->in.wire + op->in.done, length))
            return false;
        op->in.done += length;
    }
    ids_drop(&link->offers, (uint32_t)op->in.index);
    return true;
}

/* The next step of a send. False: no room for it now. */
static bool put_send(struct link *link, struct op *op)
{
    struct cell cell = {.kind = CELL_WHOLE, .tag = op->tag, .length = op->in.length};
    if (op->in.asked)
        return put_parts(link, op);
    if (op->in.length <= RING_EAGER)
        return put(link, &cell, op->in.wire, op->in.length);
    return put_offer(link, op, &cell);
}

static bool put_answer(struct link *link, const struct message *message)
{
    uint32_t kind = message->step == STEP_PULL ? CELL_PULL : message->step == STEP_LEFT ? CELL_LEFT : CELL_DONE;
    struct cell cell = {.kind = kind, .id = message->id, .reply = message->reply, .length = message->kept};
    return put(link, &cell, NULL, 0);
}

void link_answer(struct link *link, struct message *message, enum step step)
{
    message->step = step;
    message->next = NULL;
    *link->answers_end = message;
    link->answers_end = &message->next;
}

static void pop_answer(struct link *link)
{
    struct message *message = link->answers;
    link->answers = message->next;
    if (!link->answers)
        link->answers_end = &link->answers;
    if (message->step == STEP_DONE)
        shm_free_message(message);
    else if (message->step == STEP_PULL)
        message->step = STEP_PARTS;
}

static void pop_send(struct link *link)
{
    struct op *op = op_queue_pop(&link->sends);
    if (op->in.asked || op->in.length <= RING_EAGER)
        shm_over(link->shm, op, 0);
}

static void push_waiting(struct link *link)
{
    while (link->answers && put_answer(link, link->answers))
        pop_answer(link);
    while (link->sends.first && put_send(link, link->sends.first))
        pop_send(link);
}

void link_push(struct link *link)
{
    struct board *mine = link->ring.mine;
    uint64_t before = link->ring.put;
    if (link->error || !link->greeted)
        return;
    push_waiting(link);
    bool waits = link->sends.first || link->answers;
    if (waits != atomic_load_explicit(&mine->waits, memory_order_relaxed)) {
        atomic_store(&mine->waits, waits);
        push_waiting(link); /* room that came before the peer could know */
    }
    if (link->ring.put != before)
        link_wake(link);
}

int link_send(struct link *link, struct op *op)
{
    op->in.asked = 0;
    if (!link->sends.first && put_send(link, op)) {
        link_wake(link);
        return op->in.length <= RING_EAGER;
    }
    op_queue_add(&link->sends, op);
    link_push(link);
    return 0;
}

char *link_place(struct link *link, size_t length, int tag)
{
    char *to;
    if (link->sends.first)
        return NULL;
    link->placing = (struct cell){.kind = CELL_WHOLE, .tag = tag, .length = length};
    return was_put(link, ring_open(&link->ring, &link->placing, length, &to)) ? to : NULL;
}

void link_placed(struct link *link)
{
    ring_close(&link->ring, &link->placing);
    link_wake(link);
}

/* ---- taking: true if the cell can be true ---- */

/* The bytes of a message that met no receive leave the board. */
static bool keep_bytes(struct message *message, const char *bytes)
{
    message->bytes = message->tiny;
    if (message->match.length > RING_TINY)
        message->bytes = message->own = own_realloc(NULL, message->match.length);
    if (message->bytes)
        memcpy((char *)(uintptr_t)message->bytes, bytes, message->match.length);
    return message->bytes;
}

/* What it refers to was shown before, but perhaps nobody has looked yet. */
static bool find_offered(struct link *link, const struct cell *cell, struct mapping **mapping, const char **bytes)
{
    if (segments_find(link, cell, mapping, bytes))
        return true;
    link_hear(link);
    return segments_find(link, cell, mapping, bytes);
}

/* A message, or the offer of one. */
static bool take_message(struct link *link, const struct cell *cell, bool offered)
{
    struct shm *shm = link->shm;
    struct mapping *mapping = NULL;
    const char *bytes = NULL;
    if (offered && !find_offered(link, cell, &mapping, &bytes))
        return false;
    if (!offered && !(bytes = ring_bytes(&link->ring, cell)))
        return false;
    struct message *message = cell->tag >= 0 ? shm_new_message(shm, link) : NULL;
    if (!message) {
        if (mapping)
            mapping_put(mapping);
        return false;
    }
    message->match = (struct match){.source = link->rank, .tag = cell->tag, .length = cell->length};
    message->offered = offered;
    message->bytes = bytes;
    message->mapping = mapping;
    message->id = cell->id;
    struct match *receive = match_message(&shm->common.queue, &message->match);
    if (receive) {
        shm_pair(shm, op_of_match(receive), message);
    } else if (!offered && !keep_bytes(message, bytes)) {
        match_remove(&shm->common.queue, &message->match);
        shm_free_message(message);
        return false;
    }
    return true;
}

/* An offered message was read, or was not wanted; or that will not be told. */
static bool take_done(struct link *link, const struct cell *cell, bool left)
{
    struct op *op = ids_find(&link->offers, cell->id);
    if (!op || op->in.asked)
        return false;
    ids_drop(&link->offers, cell->id);
    if (left)
        shm_abandon(op, 0);
    else
        shm_over(link->shm, op, 0);
    return true;
}

static bool take_pull(struct link *link, const struct cell *cell)
{
    struct op *op = ids_find(&link->offers, cell->id);
    if (!op || op->in.asked || !cell->length || cell->length > op->in.length)
        return false;
    op->in.asked = cell->length;
    op->in.reply = cell->reply;
    op_queue_add(&link->sends, op);
    return true;
}

static bool take_part(struct link *link, const struct cell *cell)
{
    struct message *message = ids_find(&link->pulls, cell->reply);
    const char *bytes = ring_bytes(&link->ring, cell);
    if (!message || message->step != STEP_PARTS) /* it was not asked for yet */
        return false;
    if (!bytes || !cell->length || cell->length > message->kept - message->landed)
        return false;
    memcpy(message->receive->in.wire + message->landed, bytes, cell->length);
    message->landed += cell->length;
    if (message->landed == message->kept) {
        ids_drop(&link->pulls, cell->reply);
        shm_over(link->shm, message->receive, message->error);
        shm_free_message(message);
    }
    return true;
}

static bool take_cell(struct link *link, const struct cell *cell)
{
    switch (cell->kind) {
    case CELL_WHOLE:
    case CELL_OFFER:
        return take_message(link, cell, cell->kind == CELL_OFFER);
    case CELL_DONE:
    case CELL_LEFT:
        return take_done(link, cell, cell->kind == CELL_LEFT);
    case CELL_PULL:
        return take_pull(link, cell);
    case CELL_PART:
        return take_part(link, cell);
    default:
        return false;
    }
}

/* Takes the cell that was looked at, whatever it is. */
static void take(struct link *link, const struct cell *cell)
{
    if (!take_cell(link, cell))
        link_break(link, -ECONNRESET, "it has put something on its board that cannot be");
    ring_take(&link->ring);
}

/* After cells were taken, beginning with that of the number `first`. A peer that lacks room has put more than
 * ROOM_EVERY cells that it does not see as taken. So it is enough to look whether it waits after each ROOM_EVERY-th:
 * either it sees, having said that it waits, that this one was taken, or it is seen here to wait. */
static void took(struct link *link, uint64_t first)
{
    uint64_t got = link->ring.got;
    if (got > first || link->sends.first || link->answers)
        link_push(link);
    if (got / ROOM_EVERY > first / ROOM_EVERY)
        link_wake_for_room(link);
    if (link->broken)
        link_lose(link, link->broken, link->why);
}

bool link_take(struct link *link)
{
    struct cell cell;
    uint64_t first = link->ring.got, end = first + BATCH;
    while (link->ring.got < end && !link->broken && !link->error && ring_get(&link->ring, &cell))
        take(link, &cell);
    bool any = link->ring.got > first;
    took(link, first);
    return any;
}

/* Copies the message of the cell to where it is to land, if it is there as a whole. */
static bool receive_cell(struct link *link, const struct cell *cell, void *wire, size_t cap, zc_status *status)
{
    const char *bytes = cell->kind == CELL_WHOLE && cell->length <= cap ? ring_bytes(&link->ring, cell) : NULL;
    if (!bytes)
        return false;
    if (cell->length)
        memcpy(wire, bytes, cell->length);
    *status = (zc_status){.source = link->rank, .tag = cell->tag, .length = cell->length};
    ring_take(&link->ring);
    return true;
}

int link_receive(struct link *link, void *wire, size_t cap, int tag, zc_status *status)
{
    struct cell cell;
    uint64_t first = link->ring.got, end = first + BATCH;
    int there = -EAGAIN;
    while (there == -EAGAIN && link->ring.got < end && !link->broken && ring_get(&link->ring, &cell)) {
        bool message = cell.kind == CELL_WHOLE || cell.kind == CELL_OFFER;
        bool wanted = message && cell.tag >= 0 && (tag == ZC_ANY_TAG || tag == cell.tag);
        if (wanted && receive_cell(link, &cell, wire, cap, status)) {
            there = 1;
            break;
        }
        take(link, &cell);
        link->shm->happened = true;
        if (wanted)
            there = 0;
    }
    took(link, first);
    return there;
}
