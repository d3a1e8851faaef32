/* SPDX-License-Identifier: MIT
 *
 * Cases: receives that return at once, and how their end is learnt. */
#include <errno.h>
#include <string.h>

#include "conformance.h"

/* Lets the rank before this one send: what it sends then cannot have come earlier. */
static void tell_prev(struct conf *c)
{
    CHECK_OK(zc_send(NULL, 0, c->prev, 60, c->comm));
}

static void wait_for_next(struct conf *c)
{
    CHECK_OK(zc_recv(NULL, 0, c->next, 60, c->comm, NULL));
}

static void send_pattern(struct conf *c, size_t len, int tag, unsigned n)
{
    char *out = ALLOC(len);

    pattern_fill(out, len, conf_seed(c->rank, n));
    CHECK_OK(zc_send_free(out, len, c->next, tag, c->comm));
}

/* The first touch waits, be it a read or a store. */
void case_irecv_then_touch(struct conf *c)
{
    static const size_t lengths[] = {1, 100, 4096, 9000, 300000, 2097152};

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t len = lengths[i];
        volatile unsigned char *in = ALLOC(len);
        zc_status status;

        memset((void *)in, 0, len);
        CHECK_OK(zc_irecv((void *)in, len, c->prev, 30, c->comm));
        send_pattern(c, len, 30, i);
        if (i % 2) {
            CHECK_PATTERN((void *)in, len, conf_seed(c->prev, i));
        } else {
            unsigned char *expected = ALLOC(len);

            in[len - 1] = 0xf7; /* after the message in program order, so it stays */
            pattern_fill(expected, len, conf_seed(c->prev, i));
            CHECK(memcmp((void *)in, expected, len - 1) == 0 && in[len - 1] == 0xf7);
            CHECK_OK(zc_free(expected));
        }
        CHECK_OK(zc_wait((void *)in, &status)); /* the touch does not report it */
        CHECK(status.source == c->prev && status.tag == 30 && status.length == len && status.error == 0);
        CHECK_OK(zc_free((void *)in));
    }
}

/* A halo exchange: receives into disjoint ranges, some of which share pages, landing in another order. */
void case_irecv_disjoint(struct conf *c)
{
    static const struct {
        size_t at, len;
    } range[] = {{0, 100}, {100, 5000}, {5100, 30000}, {40000, 20}, {65536, 65536}, {131072 + 7, 9000}};
    enum { N = COUNT(range) };
    size_t size = 192 * KIB;

    for (int touch = 0; touch < 2; touch++) {
        char *in = ALLOC(size);

        memset(in, 0x5a, size);
        for (unsigned i = 0; i < N; i++)
            CHECK_OK(zc_irecv(in + range[i].at, range[i].len, c->prev, (int)(31 + i), c->comm));
        for (unsigned i = N; i-- > 0;)
            send_pattern(c, range[i].len, (int)(31 + i), i);
        for (unsigned k = 0; k < N; k++) {
            unsigned i = (k * 5 + 2) % N; /* any order */
            zc_status status;

            if (touch)
                CHECK_PATTERN(in + range[i].at, range[i].len, conf_seed(c->prev, i));
            CHECK_OK(zc_wait(in + range[i].at + range[i].len / 2, &status));
            CHECK(status.tag == (int)(31 + i) && status.length == range[i].len && status.source == c->prev);
        }
        for (unsigned i = 0; i < N; i++) {
            size_t end = range[i].at + range[i].len;
            size_t next = i + 1 < N ? range[i + 1].at : size;

            CHECK_PATTERN(in + range[i].at, range[i].len, conf_seed(c->prev, i));
            CHECK_BYTES(in + end, next - end, 0x5a);
        }
        CHECK_OK(zc_free(in));
    }
}

void case_irecv_overlapping(struct conf *c)
{
    char *in = ALLOC(100000);
    zc_status status;

    memset(in, 0, 100000);
    CHECK_OK(zc_irecv(in + 1000, 50000, c->prev, 40, c->comm));
    CHECK_IS(zc_irecv(in + 50999, 10, c->prev, 41, c->comm), -EBUSY);
    CHECK_IS(zc_irecv(in, 1001, c->prev, 41, c->comm), -EBUSY);
    CHECK_IS(zc_irecv(in, 100000, c->prev, 41, c->comm), -EBUSY);
    CHECK_IS(zc_recv(in + 2000, 1, c->prev, 41, c->comm, NULL), -EBUSY);
    /* Touching ranges are disjoint. */
    CHECK_OK(zc_irecv(in, 1000, c->prev, 42, c->comm));
    CHECK_OK(zc_irecv(in + 51000, 49000, c->prev, 43, c->comm));
    tell_prev(c); /* none has landed before */
    wait_for_next(c);
    send_pattern(c, 49000, 43, 3);
    send_pattern(c, 1000, 42, 2);
    send_pattern(c, 50000, 40, 1);
    CHECK_OK(zc_wait(in + 1000, &status));
    CHECK(status.tag == 40);
    CHECK_OK(zc_wait(in, &status));
    CHECK(status.tag == 42);
    CHECK_OK(zc_wait(in + 99999, &status));
    CHECK(status.tag == 43);
    CHECK_PATTERN(in, 1000, conf_seed(c->prev, 2));
    CHECK_PATTERN(in + 1000, 50000, conf_seed(c->prev, 1));
    CHECK_PATTERN(in + 51000, 49000, conf_seed(c->prev, 3));
    /* Refused receives have taken nothing, and done ones hold nothing. */
    send_pattern(c, 10, 41, 4);
    CHECK_OK(zc_recv(in + 50999, 10, c->prev, 41, c->comm, NULL));
    CHECK_PATTERN(in + 50999, 10, conf_seed(c->prev, 4));
    CHECK_OK(zc_free(in));
}

void case_irecv_truncation(struct conf *c)
{
    size_t size = 100000;
    char *in = ALLOC(size);
    zc_status status;

    memset(in, 0x21, size);
    CHECK_OK(zc_irecv(in, 100, c->prev, 44, c->comm));
    CHECK_OK(zc_irecv(in + 8192, 20000, c->prev, 44, c->comm));
    send_pattern(c, 50000, 44, 0);
    send_pattern(c, 20000, 44, 1);
    CHECK_IS(zc_wait(in, &status), -EMSGSIZE);
    CHECK(status.source == c->prev && status.tag == 44 && status.error == -EMSGSIZE && status.length <= 100);
    CHECK_OK(zc_wait(in + 8192, &status));
    CHECK(status.length == 20000);
    CHECK_BYTES(in + 100, 8092, 0x21);
    CHECK_PATTERN(in + 8192, 20000, conf_seed(c->prev, 1));
    CHECK_BYTES(in + 28192, size - 28192, 0x21);
    CHECK_OK(zc_free(in));
}

void case_wait_and_test(struct conf *c)
{
    static const size_t lengths[] = {50, 200000};

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t len = lengths[i];
        char *in = ALLOC(len);
        zc_status status = {.source = 77, .tag = 77, .length = 77, .error = 77};
        int done = 5;

        CHECK_OK(zc_irecv(in, len, c->prev, 45, c->comm));
        CHECK_OK(zc_test(in + len - 1, &done, &status));
        CHECK(done == 0);
        CHECK(status.source == 77 && status.tag == 77 && status.length == 77 && status.error == 77);
        tell_prev(c);
        wait_for_next(c);
        send_pattern(c, len, 45, i);
        while (!done)
            CHECK_OK(zc_test(in, &done, &status));
        CHECK(done == 1 && status.source == c->prev && status.tag == 45 && status.length == len && status.error == 0);
        CHECK_PATTERN(in, len, conf_seed(c->prev, i));
        /* It has been reported; nothing is left. */
        status.length = 77;
        CHECK_OK(zc_wait(in, &status));
        CHECK(status.source == -1 && status.tag == -1 && status.length == 0 && status.error == 0);
        done = 0;
        CHECK_OK(zc_test(in, &done, NULL));
        CHECK(done == 1);
        /* Nor does a send leave anything to report. */
        CHECK_OK(zc_send(in, len, c->next, 46, c->comm));
        CHECK_OK(zc_recv(in, len, c->prev, 46, c->comm, NULL));
        CHECK_OK(zc_wait(in, &status));
        CHECK(status.source == -1 && status.tag == -1);
        CHECK_OK(zc_free(in));
    }
}

/* Receives that have landed in one range, one after the other, with nobody asking: each wait reports the
 * oldest that is unreported. */
void case_wait_names_what_a_place_has(struct conf *c)
{
    char *in = ALLOC(20000);
    zc_status status;

    for (unsigned i = 0; i < 3; i++) {
        CHECK_OK(zc_irecv(in, 10000, c->prev, (int)(47 + i), c->comm));
        CHECK_OK(zc_irecv(in + 10000, 10000, c->prev, (int)(50 + i), c->comm));
        send_pattern(c, 10000 - i, (int)(50 + i), 10 + i);
        send_pattern(c, 10000 - i, (int)(47 + i), i);
        CHECK_PATTERN(in, 10000 - i, conf_seed(c->prev, i));
        CHECK_PATTERN(in + 10000, 10000 - i, conf_seed(c->prev, 10 + i));
    }
    /* Each receive took the place of one that nobody had asked about: only the last two are left to report. */
    CHECK_OK(zc_wait(in + 10000, &status));
    CHECKF(status.tag == 52 && status.length == 9998, "tag %d", status.tag);
    CHECK_OK(zc_wait(in + 9999, &status));
    CHECKF(status.tag == 49 && status.length == 9998, "tag %d", status.tag);
    CHECK_OK(zc_wait(in, &status));
    CHECK(status.tag == -1);
    CHECK_OK(zc_free(in));
}

void case_wait_any(struct conf *c)
{
    enum { N = 5 };
    void *in[N];
    unsigned seen = 0;

    for (unsigned i = 0; i < N; i++) {
        in[i] = ALLOC(40000);
        CHECK_OK(zc_irecv(in[i], 40000, c->prev, (int)(55 + i), c->comm));
    }
    /* Only the fourth can be done. */
    tell_prev(c);
    wait_for_next(c);
    send_pattern(c, 39000, 55 + 3, 3);
    for (unsigned k = 0; k < N; k++) {
        const void *left[N];
        unsigned which[N], n = 0;
        int index = -1;
        zc_status status;

        for (unsigned i = 0; i < N; i++)
            if (!(seen & 1u << i)) {
                left[n] = in[i];
                which[n++] = i;
            }
        CHECK_OK(zc_wait_any((int)n, left, &index, &status));
        CHECK(index >= 0 && index < (int)n);
        unsigned i = which[index];
        if (k == 0) {
            CHECKF(i == 3, "%u was sent before", i);
            tell_prev(c);
            wait_for_next(c);
            for (unsigned s = 0; s < N; s++)
                if (s != 3)
                    send_pattern(c, 39000, (int)(55 + s), s);
        }
        seen |= 1u << i;
        CHECK(status.tag == (int)(55 + i) && status.length == 39000);
        CHECK_PATTERN(in[i], 39000, conf_seed(c->prev, i));
    }
    for (unsigned i = 0; i < N; i++)
        CHECK_OK(zc_free(in[i]));
}

void case_cancel(struct conf *c)
{
    static const size_t lengths[] = {100, 300000};

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t len = lengths[i];
        char *in = ALLOC(len);

        CHECK_IS(zc_cancel(in), -ENOENT);
        memset(in, 0x3c, len);
        CHECK_OK(zc_irecv(in, len, c->prev, 65, c->comm));
        CHECK_OK(zc_cancel(in + len / 2));
        CHECK_IS(zc_cancel(in), -ENOENT);
        /* Usable and unchanged. */
        CHECK_BYTES(in, len, 0x3c);
        memset(in, 0x3d, len);
        tell_prev(c);
        wait_for_next(c);
        /* The message that would have matched is there for the next receive. */
        send_pattern(c, len, 65, i);
        char *other = ALLOC(len);
        CHECK_OK(zc_recv(other, len, c->prev, 65, c->comm, NULL));
        CHECK_PATTERN(other, len, conf_seed(c->prev, i));
        CHECK_BYTES(in, len, 0x3d);
        /* Of two receives the pointer names one. */
        CHECK_OK(zc_irecv(in, 50, c->prev, 66, c->comm));
        CHECK_OK(zc_irecv(in + 50, 50, c->prev, 67, c->comm));
        CHECK_OK(zc_cancel(in));
        send_pattern(c, 50, 67, 20);
        CHECK_OK(zc_wait(in + 50, NULL));
        CHECK_PATTERN(in + 50, 50, conf_seed(c->prev, 20));
        CHECK_BYTES(in, 50, 0x3d);
        CHECK_OK(zc_free(in));
        CHECK_OK(zc_free(other));
    }
}

/* What has landed cannot be cancelled, and is not lost by trying. */
void case_cancel_landed(struct conf *c)
{
    size_t len = MIB;
    char *in = ALLOC(len);
    zc_status status;

    CHECK_OK(zc_irecv(in, len, c->prev, 68, c->comm));
    send_pattern(c, len, 68, 1);
    CHECK_PATTERN(in, len, conf_seed(c->prev, 1)); /* has waited for it */
    CHECK_IS(zc_cancel(in), -EALREADY);
    CHECK_OK(zc_wait(in, &status));
    CHECK(status.tag == 68 && status.length == len);
    CHECK_PATTERN(in, len, conf_seed(c->prev, 1));
    CHECK_IS(zc_cancel(in), -ENOENT);
    CHECK_OK(zc_free(in));
}

void case_flush(struct conf *c)
{
    size_t len = 4 * MIB;
    char *out = ALLOC(len), *in = ALLOC(len);

    CHECK_OK(zc_flush(c->comm)); /* nothing to wait for */
    pattern_fill(out, len, conf_seed(c->rank, 0));
    CHECK_OK(zc_irecv(in, len, c->prev, 70, c->comm));
    CHECK_OK(zc_send(out, len, c->next, 70, c->comm));
    CHECK_OK(zc_flush(c->comm));
    memset(out, 0, len);
    CHECK_PATTERN(in, len, conf_seed(c->prev, 0));
    CHECK_OK(zc_wait(in, NULL));
    CHECK_OK(zc_progress(c->comm));
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(in));
}

/* A program that only looks for messages makes progress, too, though it looks so often that each time need not. */
void case_probes_end_sends(struct conf *c)
{
    enum { MANY = 1000 };
    size_t len = MIB;
    zc_pool *pool;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool_stats stats = {.size = sizeof stats};
    int found = 0;

    if (c->rank == 0 && c->size > 1) {
        options.slot_size = len;
        CHECK_OK(zc_pool_open(&options, &pool));
        for (unsigned n = 0; n < 10; n++) {
            char *out = zc_pool_alloc(pool);
            CHECK(out != NULL);
            pattern_fill(out, len, conf_seed(0, n));
            CHECK_OK(zc_send_free(out, len, 1, 73, c->comm));
            for (found = 0; !found;)
                CHECK_OK(zc_iprobe(1, 73, c->comm, &found, NULL));
            for (int i = 0; i < MANY; i++)
                CHECK_OK(zc_iprobe(1, 74, c->comm, &found, NULL));
            CHECK_OK(zc_pool_stats_get(pool, &stats));
            CHECKF(stats.in_flight == 0, "message %u was received and is still in flight", n);
            CHECK_OK(zc_recv(NULL, 0, 1, 73, c->comm, NULL));
        }
        CHECK_OK(zc_pool_close(pool));
    } else if (c->rank == 1) {
        char *in = ALLOC(len);
        for (unsigned n = 0; n < 10; n++) {
            CHECK_OK(zc_recv(in, len, 0, 73, c->comm, NULL));
            CHECK_PATTERN(in, len, conf_seed(0, n));
            CHECK_OK(zc_send(NULL, 0, 0, 73, c->comm));
        }
        CHECK_OK(zc_free(in));
    }
}

void case_several_communicators(struct conf *c)
{
    enum { N = 3 };
    zc_comm *comm[N] = {c->comm};
    char *buffer = ALLOC(100000);

    for (int i = 1; i < N; i++)
        comm[i] = c->another(c, i);
    /* The same tags, sent first on the last one, received first from the first one. */
    for (int i = N; i-- > 0;) {
        CHECK_IS(zc_rank(comm[i]), c->rank);
        CHECK_IS(zc_size(comm[i]), c->size);
        pattern_fill(buffer, 100000, conf_seed(c->rank, (unsigned)i));
        CHECK_OK(zc_send(buffer, 100000, c->next, 72, comm[i]));
        CHECK_OK(zc_send(buffer, 100, c->next, 72, comm[i]));
    }
    for (int i = 0; i < N; i++) {
        zc_status status;

        CHECK_OK(zc_recv(buffer, 100000, c->prev, 72, comm[i], &status));
        CHECK(status.length == 100000);
        CHECK_PATTERN(buffer, 100000, conf_seed(c->prev, (unsigned)i));
        CHECK_OK(zc_recv(buffer, 100000, i ? ZC_ANY_SOURCE : c->prev, ZC_ANY_TAG, comm[i], &status));
        CHECK(status.length == 100 && status.source == c->prev);
        CHECK_PATTERN(buffer, 100, conf_seed(c->prev, (unsigned)i));
    }
    /* One buffer in flight on all of them; closing one leaves the others alone. */
    memset(buffer, 0x31, 100000);
    for (int i = 0; i < N; i++)
        CHECK_OK(zc_send(buffer, 100000, c->next, 73, comm[i]));
    memset(buffer, 0x32, 100000);
    for (int i = N; i-- > 0;) {
        char *in = ALLOC(100000);

        CHECK_OK(zc_recv(in, 100000, c->prev, 73, comm[i], NULL));
        CHECK_BYTES(in, 100000, 0x31);
        CHECK_OK(zc_free(in));
        if (i)
            CHECK_OK(zc_close(comm[i]));
    }
    CHECK_BYTES(buffer, 100000, 0x32);
    CHECK_OK(zc_free(buffer));
}

void case_close_with_receive_in_flight(struct conf *c)
{
    zc_comm *comm = c->another(c, 10);
    char *in = ALLOC(50000), *out = ALLOC(50000);
    zc_status status;

    memset(in, 0x71, 50000);
    memset(out, 0x72, 50000);
    CHECK_OK(zc_irecv(in, 25000, c->prev, 74, comm)); /* never sent */
    CHECK_OK(zc_send(out, 25000, c->next, 75, comm));
    CHECK_OK(zc_recv(in + 25000, 25000, c->prev, 75, comm, NULL));
    CHECK_OK(zc_close(comm));
    CHECK_IS(zc_send(out, 10, c->next, 75, comm), -EBADF);
    CHECK_IS(zc_wait(in, &status), -ECANCELED);
    CHECK(status.error == -ECANCELED);
    CHECK_BYTES(in, 25000, 0x71);
    CHECK_BYTES(in + 25000, 25000, 0x72);
    memset(in, 0, 50000);
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(out));
}

/* Each waits for its own sends to be received or dropped, by ranks that do the same. Over shm and verbs, those fail
 * which a rank has not seen before it is gone. */
void case_close_unreceived(struct conf *c)
{
    zc_comm *comm = c->another(c, 11);
    char *out = ALLOC(100000), in[4];

    memset(out, 0x73, 100000);
    CHECK_OK(zc_send(out, 4, c->next, 76, comm));
    CHECK_OK(zc_recv(in, 4, c->prev, 76, comm, NULL));
    for (int i = 0; i < 3; i++)
        for (int to = 0; to < c->size; to++)
            CHECK_OK(zc_send(out, i ? 100000 : 10, to, 77, comm));
    int error = zc_close(comm);
    CHECK(error == 0 || error == -ECONNRESET);
    memset(out, 0, 100000);
    CHECK_OK(zc_free(out));
}
