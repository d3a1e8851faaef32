/* SPDX-License-Identifier: MIT
 *
 * Cases: a rank waits on one communicator, and its peer does not come to end that before something is over on another
 * one, which takes this rank's progress there. */
#include <string.h>

#include "conformance.h"
#include "transport/comm.h"

enum { BIG = 300000, SMALL = 64, SMALLS = 600 };

enum { TAG_TRAFFIC = 500, TAG_END, TAG_LARGE };

/* One of two ranks that meet on two communicators. */
struct side {
    struct conf *c;
    zc_comm *traffic;
    int peer;
    char *buffer;
    unsigned n;
};

/* ---- what is to be over on the other communicator: of the rank that waits, before and after; of its peer ---- */

struct traffic {
    const char *name;
    void (*before)(struct side *s);
    void (*peer)(struct side *s);
    void (*after)(struct side *s);
};

static void fill(struct side *s, size_t length)
{
    pattern_fill(s->buffer, length, conf_seed(s->c->rank, s->n));
}

static void post_receive(struct side *s)
{
    CHECK_OK(zc_irecv(s->buffer, BIG, s->peer, TAG_TRAFFIC, s->traffic));
}

static void send_and_flush(struct side *s)
{
    char *out = ALLOC(BIG);

    pattern_fill(out, BIG, conf_seed(s->c->rank, s->n));
    CHECK_OK(zc_send(out, BIG, s->peer, TAG_TRAFFIC, s->traffic));
    CHECK_OK(zc_flush(s->traffic));
    CHECK_OK(zc_free(out));
}

static void check_received(struct side *s)
{
    CHECK_OK(zc_wait(s->buffer, NULL));
    CHECK_PATTERN(s->buffer, BIG, conf_seed(s->peer, s->n));
}

static void send_many(struct side *s)
{
    char *out = ALLOC(SMALL);

    pattern_fill(out, SMALL, conf_seed(s->c->rank, s->n));
    for (unsigned i = 0; i < SMALLS; i++)
        CHECK_OK(zc_send(out, SMALL, s->peer, TAG_TRAFFIC, s->traffic));
    CHECK_OK(zc_free(out));
}

/* Where no message leaves before it is received, as MPI's to oneself, to wait for that would be in vain. */
static void send_many_and_flush(struct side *s)
{
    send_many(s);
    if (s->traffic->endpoint.eager >= SMALL && s->peer != s->c->rank)
        CHECK_OK(zc_flush(s->traffic));
}

static void receive_many(struct side *s)
{
    for (unsigned i = 0; i < SMALLS; i++) {
        CHECK_OK(zc_recv(s->buffer, SMALL, s->peer, TAG_TRAFFIC, s->traffic, NULL));
        CHECK_PATTERN(s->buffer, SMALL, conf_seed(s->peer, s->n));
    }
}

/* Memory that others cannot be shown. */
static void send_foreign(struct side *s)
{
    static _Thread_local char out[BIG];

    pattern_fill(out, BIG, conf_seed(s->c->rank, s->n));
    CHECK_OK(zc_send(out, BIG, s->peer, TAG_TRAFFIC, s->traffic));
}

static void send_big(struct side *s)
{
    fill(s, BIG);
    CHECK_OK(zc_send(s->buffer, BIG, s->peer, TAG_TRAFFIC, s->traffic));
}

static void receive_big(struct side *s)
{
    char *in = ALLOC(BIG);

    CHECK_OK(zc_recv(in, BIG, s->peer, TAG_TRAFFIC, s->traffic, NULL));
    CHECK_PATTERN(in, BIG, conf_seed(s->peer, s->n));
    CHECK_OK(zc_free(in));
}

static void nothing(struct side *s)
{
    (void)s;
}

static const struct traffic traffics[] = {
    {"a receive that was posted", post_receive, send_and_flush, check_received},
    {"many messages that nobody receives yet", nothing, send_many_and_flush, receive_many},
    {"many sends", send_many, receive_many, nothing},
    {"a send", send_big, receive_big, nothing},
    {"a send of foreign memory", send_foreign, receive_big, nothing},
};

/* ---- how the first communicator is waited on, and what ends that ---- */

struct way {
    const char *name;
    void (*wait)(struct side *s);
    void (*end)(struct side *s);
};

static void end_by_message(struct side *s)
{
    CHECK_OK(zc_send("end", 3, s->peer, TAG_END, s->c->comm));
}

static void by_recv(struct side *s)
{
    char in[3];

    CHECK_OK(zc_recv(in, 3, s->peer, TAG_END, s->c->comm, NULL));
    CHECK(memcmp(in, "end", 3) == 0);
}

static void by_recv_alloc(struct side *s)
{
    void *in;

    CHECK_OK(zc_recv_alloc(&in, s->peer, TAG_END, s->c->comm, NULL));
    CHECK_OK(zc_free(in));
}

static void by_recv_view(struct side *s)
{
    zc_view view;

    CHECK_OK(zc_recv_view(&view, s->peer, TAG_END, s->c->comm));
    CHECK_OK(zc_release(&view));
}

static void by_probe(struct side *s)
{
    CHECK_OK(zc_probe(s->peer, TAG_END, s->c->comm, NULL));
    by_recv(s);
}

static void by_iprobe(struct side *s)
{
    int found = 0;

    while (!found)
        CHECK_OK(zc_iprobe(s->peer, TAG_END, s->c->comm, &found, NULL));
    by_recv(s);
}

static char *post_end(struct side *s)
{
    char *in = ALLOC(3);

    CHECK_OK(zc_irecv(in, 3, s->peer, TAG_END, s->c->comm));
    return in;
}

static void by_wait(struct side *s)
{
    char *in = post_end(s);

    CHECK_OK(zc_wait(in, NULL));
    CHECK_OK(zc_free(in));
}

static void by_wait_any(struct side *s)
{
    char *in = post_end(s);
    int which;

    CHECK_OK(zc_wait_any(1, (const void *[]){in}, &which, NULL));
    CHECK_OK(zc_free(in));
}

static void by_test(struct side *s)
{
    char *in = post_end(s);
    int done = 0;

    while (!done)
        CHECK_OK(zc_test(in, &done, NULL));
    CHECK_OK(zc_free(in));
}

static void by_touch(struct side *s)
{
    volatile char *in = post_end(s);

    CHECK(in[0] == 'e');
    CHECK_OK(zc_wait((void *)in, NULL));
    CHECK_OK(zc_free((void *)in));
}

static void by_flush(struct side *s)
{
    char *out = ALLOC(BIG);

    pattern_fill(out, BIG, conf_seed(s->c->rank, 7));
    CHECK_OK(zc_send(out, BIG, s->peer, TAG_LARGE, s->c->comm));
    CHECK_OK(zc_flush(s->c->comm));
    CHECK_OK(zc_free(out));
}

static void end_by_receive(struct side *s)
{
    char *in = ALLOC(BIG);

    CHECK_OK(zc_recv(in, BIG, s->peer, TAG_LARGE, s->c->comm, NULL));
    CHECK_PATTERN(in, BIG, conf_seed(s->peer, 7));
    CHECK_OK(zc_free(in));
}

static const struct way ways[] = {
    {"zc_recv", by_recv, end_by_message},           {"zc_recv_alloc", by_recv_alloc, end_by_message},
    {"zc_recv_view", by_recv_view, end_by_message}, {"zc_probe", by_probe, end_by_message},
    {"zc_iprobe", by_iprobe, end_by_message},       {"zc_wait", by_wait, end_by_message},
    {"zc_wait_any", by_wait_any, end_by_message},   {"zc_test", by_test, end_by_message},
    {"a touch", by_touch, end_by_message},          {"zc_flush", by_flush, end_by_receive},
};

/* ---- the cases ---- */

static void cross(struct side *s, const struct traffic *traffic, const struct way *way, int waits)
{
    struct conf *c = s->c;
    bool peers = c->rank == (waits + 1) % c->size;

    if (c->rank == waits) {
        s->peer = c->next;
        traffic->before(s);
    }
    if (peers) {
        s->peer = waits;
        traffic->peer(s);
    }
    if (c->size == 1) { /* nothing is left to be waited for by itself */
        end_by_message(s);
        by_recv(s);
        traffic->after(s);
        return;
    }
    if (peers)
        way->end(s);
    if (c->rank == waits) {
        way->wait(s);
        traffic->after(s);
    }
}

static void cross_ways(struct conf *c, const struct traffic *traffic, zc_comm *other)
{
    struct side s = {.c = c, .traffic = other, .buffer = ALLOC(BIG)};

    for (s.n = 0; s.n < COUNT(ways); s.n++)
        for (int waits = 0; waits < c->size; waits++)
            cross(&s, traffic, &ways[s.n], waits);
    CHECK_OK(zc_free(s.buffer));
}

void case_crossing_waits(struct conf *c)
{
    zc_comm *other = c->another(c, 0);

    for (unsigned i = 0; i < COUNT(traffics); i++)
        cross_ways(c, &traffics[i], other);
    CHECK_OK(zc_close(other));
}

/* To close may have to wait for the peers. */
void case_crossing_close(struct conf *c)
{
    zc_comm *closed = c->another(c, 0), *other = c->another(c, 1);
    struct side s = {.c = c, .traffic = other, .buffer = ALLOC(BIG)};
    bool waits = c->rank == 0, peers = c->rank == 1 % c->size;

    s.peer = waits ? c->next : 0;
    if (waits)
        post_receive(&s);
    if (waits && !peers)
        CHECK_OK(zc_close(closed));
    if (peers)
        send_and_flush(&s);
    if (!waits || peers)
        CHECK_OK(zc_close(closed));
    if (waits)
        check_received(&s);
    CHECK_OK(zc_free(s.buffer));
    CHECK_OK(zc_close(other));
}
