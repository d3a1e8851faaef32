/* SPDX-License-Identifier: MIT
 *
 * What an actor may do next. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "actor.h"
#include "atomic_add.h"
#include "check.h"
#include "pattern.h"

#define IN_FLIGHT_BYTES ((unsigned long long)24 << 20) /* more than that to one peer, and an actor stops sending */

/* The longest message of each tag: a receive with room for it needs no look at the announcement. */
static const size_t longest[TAGS] = {200, 16 * 1024, 128 * 1024, 1024 * 1024};

static void store_at(struct actor *a, unsigned char *bytes, unsigned char *shadow, size_t size)
{
    size_t at = below(a, size), length = 1 + length_below(a, size - at - 1);
    unsigned char byte = (unsigned char)below(a, 256);

    note(a, "store to %p+%zu, %zu", (void *)bytes, at, length);
    switch (below(a, 5)) {
    case 0:
        ((volatile unsigned char *)bytes)[at] = byte;
        shadow[at] = byte;
        break;
    case 1: /* the end of a page, and the start of the next */
        at = at / PAGE * PAGE;
        at = at > 3 ? at - 3 : 0;
        length = size - at < 7 ? size - at : 7;
        memset(bytes + at, byte, length);
        memset(shadow + at, byte, length);
        break;
    case 2:
        at = at / 8 * 8;
        if (at + 8 <= size) {
            atomic_add(bytes + at, byte);
            uint64_t word;
            memcpy(&word, shadow + at, sizeof word);
            word += byte;
            memcpy(shadow + at, &word, sizeof word);
        }
        break;
    case 3:
        ((volatile unsigned char *)bytes)[size - 1] = byte;
        shadow[size - 1] = byte;
        break;
    default:
        fill(a, bytes + at, shadow + at, length);
        break;
    }
}

/* The control: the same store, behind protection's back. */
static void store_unprotected(struct actor *a, struct buffer *b)
{
    struct zc_guard guard;

    CHECK_OK(zc_guard(b->bytes, b->size, ZC_DENY_STORES, &guard));
    store_at(a, guard.wire, b->shadow, b->size);
    CHECK_OK(zc_unguard(&guard));
}

static void op_store(struct actor *a, struct buffer *b)
{
    settle(a, b, 0, b->size);
    if (a->plan->control)
        store_unprotected(a, b);
    else
        store_at(a, b->bytes, b->shadow, b->size);
}

/* A store to a part, with receives in flight into others. */
static void op_store_beside(struct actor *a, struct buffer *b)
{
    size_t at = below(a, b->size), length = 1 + below(a, b->size - at);

    settle(a, b, at, length);
    make_touchable(a, b, at, length);
    note(a, "store beside: %p+%zu, %zu", (void *)b->bytes, at, length);
    fill(a, b->bytes + at, b->shadow + at, length);
}

static void op_write(struct actor *a, struct buffer *b)
{
    size_t at = below(a, b->size), length = length_below(a, b->size - at);

    settle(a, b, at, length);
    make_touchable(a, b, at, length);
    note(a, "zc_write to %p+%zu, %zu", (void *)b->bytes, at, length);
    pattern_fill(b->shadow + at, length, random_next(&a->random));
    CHECK_OK(zc_write(b->bytes + at, b->shadow + at, length));
}

/* Whom to send to, and in which tag; false if that peer has enough to receive. */
static bool choose_channel(struct actor *a, size_t room, int *to, int *tag)
{
    *to = (int)below(a, (uint64_t)a->plan->ranks);
    if (a->plan->one_way) {
        if (a->rank != 0 || *to == 0)
            return false;
    }
    do
        *tag = (int)(below(a, 10) * 10 / 27); /* 0 to 3, the last one rarely */
    while (*tag && longest[*tag - 1] > room);
    const struct channel *c = table_channel(a->table, a->rank, *to, a->thread, *tag);
    return atomic_load(&c->bytes_announced) - atomic_load(&c->bytes_taken) < IN_FLIGHT_BYTES &&
           atomic_load(&c->announced) - atomic_load(&c->taken) < 300;
}

static void announce(struct actor *a, int to, int tag, const unsigned char *shadow, size_t length)
{
    struct channel *c = table_channel(a->table, a->rank, to, a->thread, tag);
    unsigned n = atomic_load(&c->announced);

    *table_message(a->plan, a->table, c, n) = (struct message){.hash = pattern_hash(shadow, length), .length = length};
    atomic_fetch_add(&c->bytes_announced, length);
    atomic_store(&c->announced, n + 1);
}

static void op_send(struct actor *a, struct buffer *b)
{
    int to, tag;

    if (!choose_channel(a, b->size, &to, &tag))
        return;
    size_t at = below(a, 3) ? 0 : below(a, b->size);
    size_t room = b->size - at < longest[tag] ? b->size - at : longest[tag];
    size_t length = below(a, 3) ? room : length_below(a, room);
    bool free_it = at == 0 && below(a, 8) == 0;

    settle(a, b, free_it ? 0 : at, free_it ? b->size : length);
    announce(a, to, tag, b->shadow + at, length);
    note(a, "%s %p+%zu, %zu, to %d, tag %d", free_it ? "send_free" : "send", (void *)b->bytes, at, length, to,
         tag_number(a, tag));
    if (free_it) {
        CHECK_OK(zc_send_free(b->bytes, length, to, tag_number(a, tag), a->comm));
        drop(b);
        return;
    }
    CHECK_OK(zc_send(b->bytes + at, length, to, tag_number(a, tag), a->comm));
    switch (below(a, 4)) {
    case 0:
    case 1:
        op_store(a, b);
        break;
    case 2:
        free_buffer(a, b);
        break;
    default:
        break;
    }
}

static void op_shared(struct actor *a)
{
    struct shared *s = &a->shared[below(a, SHARED)];
    int to, tag;

    if (!a->plan->lockstep)
        pthread_mutex_lock(&s->lock);
    if (!s->bytes || below(a, 20) == 0) {
        CHECK_OK(zc_free(s->bytes));
        free(s->shadow);
        s->size = 1 + below(a, 200 * KIB);
        s->bytes = ALLOC(s->size);
        s->shadow = malloc(s->size);
        CHECK(s->shadow);
        note(a, "shared alloc %zu: %p", s->size, (void *)s->bytes);
        fill(a, s->bytes, s->shadow, s->size);
    }
    if (below(a, 2))
        store_at(a, s->bytes, s->shadow, s->size);
    if (choose_channel(a, s->size, &to, &tag)) {
        size_t length = s->size < longest[tag] ? s->size : longest[tag];

        announce(a, to, tag, s->shadow, length);
        note(a, "shared send %p, %zu, to %d, tag %d", (void *)s->bytes, length, to, tag_number(a, tag));
        CHECK_OK(zc_send(s->bytes, length, to, tag_number(a, tag), a->comm));
    }
    if (below(a, 10) == 0)
        for (size_t i = 0; i < s->size; i++)
            CHECKF(((volatile unsigned char *)s->bytes)[i] == s->shadow[i], "byte %zu of the shared buffer of %zu", i,
                   s->size);
    if (!a->plan->lockstep)
        pthread_mutex_unlock(&s->lock);
}

static void choose_source(struct actor *a, int *source, int *tag)
{
    *source = (int)below(a, (uint64_t)a->plan->ranks);
    *tag = (int)(below(a, 10) * 10 / 27);
    if (a->plan->fail) /* a receive that failed need not say whose message it lost */
        return;
    if (below(a, 5) == 0)
        *source = ZC_ANY_SOURCE;
    if (a->plan->threads == 1 && below(a, 8) == 0)
        *tag = ZC_ANY_TAG;
}

static void op_irecv(struct actor *a)
{
    int source, tag;

    if (a->in_flight >= RECEIVES)
        return;
    choose_source(a, &source, &tag);
    struct buffer *b = buffer_for(a, longest[tag < 0 ? 2 : tag]);
    size_t at = below(a, 2) ? 0 : below(a, b->size), cap = 1 + length_below(a, b->size - at - 1);
    if (source >= 0 && tag >= 0 && spare(a, source, tag, NULL) > 0) {
        /* As long as the message is likely to be, so that most are not truncated. */
        const struct channel *c = incoming(a, source, tag);
        unsigned n = atomic_load(&c->announced) - (unsigned)spare(a, source, tag, NULL);
        size_t length = table_message(a->plan, a->table, c, n)->length;

        if (length > 0 && length <= b->size) {
            cap = length;
            at = below(a, 2) ? 0 : below(a, b->size - length + 1);
        }
    } else if (tag >= 0 && longest[tag] <= b->size) {
        cap = longest[tag];
        at = below(a, b->size - cap + 1);
    } else if (below(a, 4)) {
        at = 0;
        cap = b->size;
    }
    if (in_flight_at(a, b, at, cap, false))
        return;
    note(a, "irecv into %p+%zu, %zu, from %d, tag %d", (void *)b->bytes, at, cap, source,
         tag < 0 ? tag : tag_number(a, tag));
    CHECK_OK(zc_irecv(b->bytes + at, cap, source, tag < 0 ? ZC_ANY_TAG : tag_number(a, tag), a->comm));
    new_receive(a, b, at, cap, source, tag);
}

/* A channel with a message that no receive in flight will take. */
static bool find_message(struct actor *a, int *source, int *tag)
{
    int start = (int)below(a, (uint64_t)a->plan->ranks * TAGS);

    for (int i = 0; i < a->plan->ranks * TAGS; i++) {
        int which = (start + i) % (a->plan->ranks * TAGS);

        *source = which / TAGS;
        *tag = which % TAGS;
        if (spare(a, *source, *tag, NULL) > 0)
            return true;
    }
    return false;
}

/* The receive takes any source or tag now and then, where the message that is sure makes that sure, too. */
static void loosen(struct actor *a, int *source, int *tag)
{
    if (a->plan->fail)
        return;
    if (below(a, 4) == 0)
        *source = ZC_ANY_SOURCE;
    if (a->plan->threads == 1 && below(a, 6) == 0)
        *tag = ZC_ANY_TAG;
}

bool op_recv(struct actor *a)
{
    zc_status status = {0};
    int source, tag, result;

    if (!find_message(a, &source, &tag))
        return false;
    struct buffer *b = buffer_for(a, longest[tag]);
    size_t slack = b->size > longest[tag] ? b->size - longest[tag] : 0;
    loosen(a, &source, &tag);
    size_t at = below(a, 16) ? below(a, slack + 1) : below(a, b->size), cap = b->size - at;
    settle(a, b, at, cap);
    if (source < 0 || tag < 0 || spare(a, source, tag, NULL) > 0) {
        struct receive *r = new_receive(a, b, at, cap, source, tag);

        if (!sure(a, r)) { /* settling took it */
            a->in_flight--;
            forget(a, r);
            return true;
        }
        note(a, "recv into %p+%zu, %zu, from %d, tag %d", (void *)b->bytes, at, cap, source,
             tag < 0 ? tag : tag_number(a, tag));
        let_go(a);
        result = zc_recv(b->bytes + at, cap, source, tag < 0 ? ZC_ANY_TAG : tag_number(a, tag), a->comm, &status);
        if (is_injected(a, result))
            status.error = result;
        landed(a, r, result, &status);
    }
    return true;
}

static bool op_recv_alloc(struct actor *a)
{
    struct buffer *b = &a->buffer[below(a, BUFFERS)];
    zc_status status = {0};
    void *bytes = NULL;
    int source, tag, result;

    if (b->bytes)
        free_buffer(a, b);
    if (!find_message(a, &source, &tag))
        return false;
    loosen(a, &source, &tag);
    note(a, "recv_alloc from %d, tag %d", source, tag < 0 ? tag : tag_number(a, tag));
    let_go(a);
    result = zc_recv_alloc(&bytes, source, tag < 0 ? ZC_ANY_TAG : tag_number(a, tag), a->comm, &status);
    if (result == 0) {
        CHECK(bytes && zc_usable_size(bytes) >= status.length);
        adopt(b, bytes, status.length ? status.length : 1);
        if (status.length == 0)
            b->bytes[0] = 0;
        memcpy(b->shadow, b->bytes, b->size);
    } else {
        CHECKF(is_injected(a, result), "%d, %s; zc_errmsg: \"%s\"", result, zc_strerror(result), zc_errmsg());
        status.error = result;
        new_buffer(a, b);
    }
    struct receive *r = new_receive(a, b, 0, b->size, source, tag);
    landed(a, r, result, &status);
    return true;
}

static struct receive *some_receive(struct actor *a)
{
    uint64_t skip = below(a, a->in_flight ? a->in_flight : 1);

    for (struct receive *r = a->oldest; r; r = r->next)
        if (r->state == IN_FLIGHT && skip-- == 0)
            return r;
    return NULL;
}

static void op_finish(struct actor *a)
{
    struct receive *r = some_receive(a);

    if (r && sure(a, r))
        finish(a, r);
    else if (r && below(a, 8) == 0)
        cancel(a, r);
}

/* Waits for any of the receives in flight, one of which is sure. */
static void op_wait_any(struct actor *a)
{
    const void *pointers[RECEIVES];
    struct receive *which[RECEIVES];
    int n = 0, index = -1, result;
    bool one_is_sure = false;
    zc_status status = {0};

    for (struct receive *r = a->oldest; r && n < RECEIVES; r = r->next)
        if (r->state == IN_FLIGHT) {
            one_is_sure = one_is_sure || sure(a, r);
            which[n] = r;
            pointers[n++] = r->buffer->bytes + r->at;
        }
    if (!one_is_sure)
        return;
    note(a, "wait for any of %d", n);
    let_go(a);
    result = zc_wait_any(n, pointers, &index, &status);
    CHECKF(index >= 0 && index < n, "index %d of %d; %d", index, n, result);
    landed(a, which[index], result, &status);
}

static void op_realloc(struct actor *a, struct buffer *b)
{
    size_t size = some_size(a), kept = size < b->size ? size : b->size;
    unsigned char *bytes;

    settle(a, b, 0, b->size);
    bytes = zc_realloc(b->bytes, size);
    note(a, "realloc %p from %zu to %zu: %p", (void *)b->bytes, b->size, size, (void *)bytes);
    CHECK(bytes);
    b->bytes = bytes;
    b->shadow = realloc(b->shadow, size);
    CHECK(b->shadow);
    b->size = size;
    fill(a, bytes + kept, b->shadow + kept, size - kept);
    verify(a, b);
}

static void op_writable(struct actor *a, struct buffer *b)
{
    make_touchable(a, b, 0, b->size);
    note(a, "writable %p", (void *)b->bytes);
    /* It waits for the receives in flight, and tells if one of them was too short. */
    int result = zc_writable(b->bytes + below(a, b->size));
    if (result != -EMSGSIZE || !in_flight_at(a, b, 0, b->size, false))
        CHECK_OK(result);
}

/* A hold of the program's own: what it reads at the wire address stays as it was. */
static void op_guard(struct actor *a, struct buffer *b)
{
    struct zc_guard guard;

    settle(a, b, 0, b->size);
    uint64_t hash = pattern_hash(b->shadow, b->size);
    note(a, "guard %p", (void *)b->bytes);
    CHECK_OK(zc_guard(b->bytes, b->size, ZC_DENY_STORES, &guard));
    if (a->plan->options.conflict != ZC_CONFLICT_WAIT && !a->plan->control)
        store_at(a, b->bytes, b->shadow, b->size);
    CHECKF(pattern_hash(guard.wire, guard.length) == hash, "a store was seen behind a guard");
    CHECK_OK(zc_unguard(&guard));
}

static void op_probe(struct actor *a)
{
    int source, tag, found = -1;
    zc_status status = {0};

    choose_source(a, &source, &tag);
    if (source < 0 || tag < 0)
        return;
    const struct channel *c = incoming(a, source, tag);
    bool contended = false;
    for (const struct receive *r = a->oldest; r; r = r->next)
        contended = contended || may_take(r, source, tag);
    bool waits = !contended && spare(a, source, tag, NULL) > 0;
    note(a, "%s %d, tag %d", waits ? "probe" : "iprobe", source, tag_number(a, tag));
    let_go(a);
    if (waits) {
        CHECK_OK(zc_probe(source, tag_number(a, tag), a->comm, &status));
        found = 1;
    } else {
        CHECK_OK(zc_iprobe(source, tag_number(a, tag), a->comm, &found, &status));
    }
    CHECK(found == 0 || found == 1);
    if (found)
        CHECK(status.source == source && status.tag == tag_number(a, tag));
    if (found && !contended)
        CHECK(status.length == table_message(a->plan, a->table, c, a->next[source][tag])->length);
}

void work(struct actor *a)
{
    struct buffer *b = some_buffer(a);
    uint64_t dice = below(a, 100);

    atomic_fetch_add(&a->table->operations, 1);
    if (dice < 30)
        op_send(a, b);
    else if (dice < 38)
        op_store(a, b);
    else if (dice < 41)
        op_store_beside(a, b);
    else if (dice < 44)
        op_write(a, b);
    else if (dice < 58)
        op_irecv(a);
    else if (dice < 69)
        (void)op_recv(a);
    else if (dice < 74)
        (void)op_recv_alloc(a);
    else if (dice < 82)
        op_finish(a);
    else if (dice < 84)
        op_wait_any(a);
    else if (dice < 86)
        free_buffer(a, b);
    else if (dice < 87)
        op_realloc(a, b);
    else if (dice < 89)
        op_writable(a, b);
    else if (dice < 91)
        verify(a, b);
    else if (dice < 92)
        op_guard(a, b);
    else if (dice < 94)
        op_probe(a);
    else if (dice < 95)
        CHECK_OK(zc_progress(a->comm));
    else
        op_shared(a);
}
