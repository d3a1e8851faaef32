/* SPDX-License-Identifier: MIT
 *
 * Which receive takes which message, and what lands. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "actor.h"
#include "check.h"
#include "pattern.h"

bool may_take(const struct receive *r, int source, int tag)
{
    return (r->source == ZC_ANY_SOURCE || r->source == source) && (r->tag == ZC_ANY_TAG || r->tag == tag);
}

int spare(const struct actor *a, int source, int tag, const struct receive *before)
{
    int n = (int)(atomic_load(&incoming(a, source, tag)->announced) - a->next[source][tag]);
    bool older = true;

    for (const struct receive *r = a->oldest; r; r = r->next) {
        if (r == before)
            older = false;
        if (may_take(r, source, tag) && (older || r->state != IN_FLIGHT))
            n--;
    }
    return n;
}

bool sure(const struct actor *a, const struct receive *r)
{
    for (int source = 0; source < a->plan->ranks; source++)
        for (int tag = 0; tag < TAGS; tag++)
            if (may_take(r, source, tag) && spare(a, source, tag, r) > 0)
                return true;
    return false;
}

bool is_injected(const struct actor *a, int error)
{
    return a->plan->fail && error == -EIO;
}

void settle_landed(struct actor *a)
{
    for (struct receive *r; (r = a->oldest) && (r->state == LANDED || r->state == UNSEEN);) {
        struct channel *channel = incoming(a, r->source, r->tag);
        unsigned n = a->next[r->source][r->tag]++;
        const struct message *m = table_message(a->plan, a->table, channel, n);

        CHECKF(n < atomic_load(&channel->announced), "message %u from rank %d, tag %d, was never sent", n, r->source,
               tag_number(a, r->tag));
        atomic_fetch_add(&channel->taken, 1);
        atomic_fetch_add(&channel->bytes_taken, m->length);
        atomic_fetch_add(&a->table->received, 1);
        if (r->state == LANDED && is_injected(a, r->result)) {
            atomic_fetch_add(&a->table->failures, 1);
        } else if (r->state == LANDED && m->length > r->cap) {
            CHECKF(r->result == -EMSGSIZE, "%llu bytes into %zu: %d", (unsigned long long)m->length, r->cap, r->result);
            atomic_fetch_add(&a->table->truncated, 1);
        } else if (r->state == LANDED) {
            CHECKF(r->result == 0, "receive of message %u from rank %d, tag %d: %d, %s", n, r->source,
                   tag_number(a, r->tag), r->result, zc_strerror(r->result));
            CHECKF(r->length == m->length, "message %u from rank %d, tag %d, has %zu bytes, not %llu", n, r->source,
                   tag_number(a, r->tag), r->length, (unsigned long long)m->length);
            if (r->seen && r->hash != m->hash) {
                unsigned other = 0, count = atomic_load(&channel->announced);

                atomic_fetch_add(&a->table->tears, 1);
                while (other < count && table_message(a->plan, a->table, channel, other)->hash != r->hash)
                    other++;
                if (other < count)
                    CHECKF(a->plan->control, "message %u from rank %d, tag %d, %zu bytes, is message %u", n, r->source,
                           tag_number(a, r->tag), r->length, other);
                else
                    CHECKF(a->plan->control, "TORN: message %u from rank %d, tag %d, %zu bytes, is not what was sent",
                           n, r->source, tag_number(a, r->tag), r->length);
            }
        }
        a->oldest = r->next;
        if (!a->oldest)
            a->newest = &a->oldest;
        free(r);
    }
}

/* ---- Receives ---- */

struct receive *new_receive(struct actor *a, struct buffer *buffer, size_t at, size_t cap, int source, int tag)
{
    struct receive *r = calloc(1, sizeof *r);

    CHECK(r);
    *r = (struct receive){.buffer = buffer, .at = at, .cap = cap, .source = source, .tag = tag};
    *a->newest = r;
    a->newest = &r->next;
    a->in_flight++;
    return r;
}

void forget(struct actor *a, struct receive *gone)
{
    struct receive **at = &a->oldest;

    while (*at && *at != gone)
        at = &(*at)->next;
    CHECK(*at);
    *at = gone->next;
    if (!*at)
        a->newest = at;
    free(gone);
}

static bool overlap(size_t a, size_t a_length, size_t b, size_t b_length)
{
    return a < b + b_length && b < a + a_length;
}

/* The pages of a range. */
static void widen(size_t *at, size_t *length)
{
    size_t end = (*at + *length + PAGE - 1) / PAGE * PAGE;

    *at = *at / PAGE * PAGE;
    *length = end - *at;
}

void landed(struct actor *a, struct receive *r, int result, const zc_status *status)
{
    struct buffer *b = r->buffer;
    bool known = result == 0 || result == -EMSGSIZE;

    r->state = REPORTED;
    r->result = result;
    a->in_flight--;
    note(a, "  landed: %d, source %d, tag %d, length %zu", result, status->source, status->tag, status->length);
    CHECKF(known || is_injected(a, result), "%d, %s; zc_errmsg: \"%s\"", result, zc_strerror(result), zc_errmsg());
    CHECK(status->error == result);
    if (known) {
        int tag = status->tag - tag_number(a, 0);

        CHECKF(status->source >= 0 && status->source < a->plan->ranks && tag >= 0 && tag < TAGS &&
                   may_take(r, status->source, tag),
               "source %d, tag %d", status->source, status->tag);
        r->source = status->source;
        r->tag = tag;
        r->length = status->length;
        CHECK(r->length <= r->cap);
    }
    make_touchable(a, b, r->at, r->cap);
    if (result == 0) {
        r->seen = true;
        r->hash = pattern_hash(b->bytes + r->at, r->length);
        memcpy(b->shadow + r->at, b->bytes + r->at, r->length);
    } else {
        /* The bytes are whatever they are: store over them. */
        memset(b->bytes + r->at, 0xfa, r->cap);
        memset(b->shadow + r->at, 0xfa, r->cap);
    }
    r->state = LANDED;
    settle_landed(a);
}

void finish(struct actor *a, struct receive *r)
{
    const void *pointer = r->buffer->bytes + r->at + below(a, r->cap);
    zc_status status = {0};
    int done = 0, result;

    let_go(a);
    switch (below(a, a->plan->fail ? 2 : 3)) {
    case 0:
        note(a, "wait for %p+%zu", (void *)r->buffer->bytes, r->at);
        result = zc_wait(pointer, &status);
        break;
    case 1:
        note(a, "test for %p+%zu", (void *)r->buffer->bytes, r->at);
        while ((result = zc_test(pointer, &done, &status)) == 0 && !done)
            sched_yield();
        break;
    default:
        note(a, "touch of %p+%zu", (void *)r->buffer->bytes, r->at);
        make_touchable(a, r->buffer, r->at, r->cap);
        (void)*(const volatile unsigned char *)pointer;
        result = zc_test(pointer, &done, &status);
        CHECKF(done == 1, "a touched receive is not done");
        break;
    }
    landed(a, r, result, &status);
}

void cancel(struct actor *a, struct receive *r)
{
    const void *pointer = r->buffer->bytes + r->at;
    zc_status status = {0};
    int result;

    let_go(a); /* of one that has matched, zc_cancel waits for the end */
    result = zc_cancel(pointer);
    note(a, "cancel %p+%zu: %d", (void *)r->buffer->bytes, r->at, result);
    if (result == 0) {
        a->in_flight--;
        atomic_fetch_add(&a->table->cancelled, 1);
        forget(a, r);
        settle_landed(a);
    } else {
        CHECK(result == -EALREADY);
        result = zc_wait(pointer, &status);
        landed(a, r, result, &status);
    }
}

struct receive *in_flight_at(struct actor *a, const struct buffer *buffer, size_t at, size_t length, bool unsure)
{
    for (struct receive *r = a->oldest; r; r = r->next)
        if (r->state == IN_FLIGHT && r->buffer == buffer && overlap(r->at, r->cap, at, length) &&
            !(unsure && sure(a, r)))
            return r;
    return NULL;
}

void settle(struct actor *a, struct buffer *buffer, size_t at, size_t length)
{
    for (struct receive *r; (r = in_flight_at(a, buffer, at, length, false));) {
        if (sure(a, r))
            finish(a, r);
        else
            cancel(a, r);
    }
}

void make_touchable(struct actor *a, struct buffer *buffer, size_t at, size_t length)
{
    struct receive *r;

    widen(&at, &length);
    if (a->plan->fail)
        settle(a, buffer, at, length);
    while ((r = in_flight_at(a, buffer, at, length, true)))
        cancel(a, r);
    if (in_flight_at(a, buffer, at, length, false))
        let_go(a);
}
