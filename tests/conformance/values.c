/* SPDX-License-Identifier: MIT
 *
 * Cases: value semantics. A message is what the buffer held at the call, whatever happens to the buffer
 * afterwards, and the buffer is what the program stored, whatever happens to the message. */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "conformance.h"

static const size_t some_lengths[] = {16, 5000, 8256, 65536, 300001, 1048576, 2 * 1048576 + 9};

static void receive_pattern(struct conf *c, size_t len, int tag, unsigned n)
{
    char *in = ALLOC(len);
    zc_status status;

    CHECK_OK(zc_recv(in, len, c->prev, tag, c->comm, &status));
    CHECKF(status.length == len, "%zu", status.length);
    CHECK_PATTERN(in, len, conf_seed(c->prev, n));
    CHECK_OK(zc_free(in));
}

/* Send, overwrite, send, overwrite, … and only then let anybody receive. */
void case_overwrite_at_once(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(some_lengths); i++) {
        size_t len = some_lengths[i];
        char *buffer = ALLOC(len);

        for (unsigned k = 0; k < 4; k++) {
            pattern_fill(buffer, len, conf_seed(c->rank, 4 * i + k));
            CHECK_OK(zc_send(buffer, len, c->next, 80, c->comm));
        }
        memset(buffer, 0xcc, len);
        conf_barrier(c);
        for (unsigned k = 0; k < 4; k++)
            receive_pattern(c, len, 80, 4 * i + k);
        CHECK_BYTES(buffer, len, 0xcc);
        CHECK_OK(zc_free(buffer));
    }
}

/* Every kind of store that a compiler makes. */
static void store(unsigned char *buffer, size_t len, unsigned kind)
{
    static const uint64_t eight = UINT64_C(0x1122334455667788);

    switch (kind) {
    case 0:
        ((volatile unsigned char *)buffer)[0] ^= 0xff;
        break;
    case 1:
        memset(buffer, 0x42, len);
        break;
    case 2:
        atomic_fetch_add((_Atomic uint64_t *)(void *)(buffer + 4096), 3);
        break;
    case 3:
        memcpy(buffer + 8192 - 3, &eight, sizeof eight); /* across two pages */
        break;
    case 4:
        ((volatile unsigned char *)buffer)[len - 1] ^= 0xff;
        break;
    default:
        memmove(buffer + 1, buffer, len - 1);
        break;
    }
}

void case_overwrite_every_kind(struct conf *c)
{
    size_t len = 64 * KIB;
    char *expected = ALLOC(len);

    for (unsigned kind = 0; kind < 6; kind++) {
        unsigned char *buffer = ALLOC(len);

        pattern_fill(buffer, len, conf_seed(c->rank, kind));
        pattern_fill(expected, len, conf_seed(c->rank, kind));
        CHECK_OK(zc_send(buffer, len, c->next, 81, c->comm));
        CHECK_OK(zc_send(buffer, len, c->next, 81, c->comm));
        store(buffer, len, kind);
        store((unsigned char *)expected, len, kind);
        CHECKF(memcmp(buffer, expected, len) == 0, "kind %u: a store was lost", kind);
        conf_barrier(c);
        receive_pattern(c, len, 81, kind);
        receive_pattern(c, len, 81, kind);
        CHECKF(memcmp(buffer, expected, len) == 0, "kind %u: a store was lost when the message left", kind);
        CHECK_OK(zc_free(buffer));
    }
    CHECK_OK(zc_free(expected));
}

/* The slots of freed buffers are used again at once, for other contents. */
void case_free_at_once(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(some_lengths); i++) {
        size_t len = some_lengths[i];

        for (unsigned k = 0; k < 4; k++) {
            char *buffer = ALLOC(len);

            pattern_fill(buffer, len, conf_seed(c->rank, 4 * i + k));
            CHECK_OK(zc_send(buffer, len, c->next, 82, c->comm));
            CHECK_OK(zc_free(buffer));
            buffer = ALLOC(len);
            memset(buffer, 0xdd, len);
            CHECK_OK(zc_free(buffer));
        }
        conf_barrier(c);
        for (unsigned k = 0; k < 4; k++)
            receive_pattern(c, len, 82, 4 * i + k);
    }
}

void case_send_free(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(some_lengths); i++) {
        size_t len = some_lengths[i];
        char *buffer;

        for (unsigned k = 0; k < 4; k++) {
            buffer = ALLOC(len);
            pattern_fill(buffer, len, conf_seed(c->rank, 4 * i + k));
            CHECK_OK(zc_send_free(buffer, len, c->next, 83, c->comm));
        }
        buffer = ALLOC(len);
        memset(buffer, 0xdd, len);
        conf_barrier(c);
        for (unsigned k = 0; k < 4; k++)
            receive_pattern(c, len, 83, 4 * i + k);
        CHECK_OK(zc_free(buffer));
        /* Less than the whole, and sent before. */
        buffer = ALLOC(len);
        pattern_fill(buffer, len, conf_seed(c->rank, 100 + i));
        CHECK_OK(zc_send(buffer, len, c->next, 83, c->comm));
        CHECK_OK(zc_send_free(buffer, len / 2, c->next, 83, c->comm));
        receive_pattern(c, len, 83, 100 + i);
        receive_pattern(c, len / 2, 83, 100 + i);
    }
}

/* Sent again and again without a store in between, which may leave it protected, then stored to. */
void case_resend_unwritten(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(some_lengths); i++) {
        size_t len = some_lengths[i];
        char *buffer = ALLOC(len);

        for (unsigned round = 0; round < 3; round++) {
            pattern_fill(buffer, len, conf_seed(c->rank, 3 * i + round));
            for (unsigned k = 0; k < 8; k++) {
                CHECK_OK(zc_send(buffer, len, c->next, 84, c->comm));
                receive_pattern(c, len, 84, 3 * i + round);
            }
            ((volatile char *)buffer)[len / 2] ^= 1;
            ((volatile char *)buffer)[len / 2] ^= 1;
            CHECK_PATTERN(buffer, len, conf_seed(c->rank, 3 * i + round));
        }
        CHECK_OK(zc_free(buffer));
    }
}

/* One buffer, many messages in flight to every rank, changed between them. */
void case_in_flight_many_times(struct conf *c)
{
    enum { ROUNDS = 12 };
    size_t len = 100 * KIB;
    unsigned char *buffer = ALLOC(len), *in = ALLOC(len);

    pattern_fill(buffer, len, conf_seed(c->rank, 0));
    for (unsigned r = 0; r < ROUNDS; r++)
        for (int to = 0; to < c->size; to++) {
            CHECK_OK(zc_send(buffer, len, to, 85, c->comm));
            if ((r + (unsigned)to) % 3)
                buffer[r * 7919] = (unsigned char)(r + 1); /* not before the message of this round to rank 0 */
        }
    conf_barrier(c);
    for (int from = 0; from < c->size; from++) {
        unsigned char *expected = ALLOC(len);

        pattern_fill(expected, len, conf_seed(from, 0));
        for (unsigned r = 0; r < ROUNDS; r++)
            for (int to = 0; to < c->size; to++) { /* what that rank did, in its order */
                if (to == c->rank) {
                    CHECK_OK(zc_recv(in, len, from, 85, c->comm, NULL));
                    CHECKF(memcmp(in, expected, len) == 0, "round %u from rank %d", r, from);
                }
                if ((r + (unsigned)to) % 3)
                    expected[r * 7919] = (unsigned char)(r + 1);
            }
        CHECK_OK(zc_free(expected));
    }
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
}

/* All send a lot, overwrite, and only then receive: with blocking sends this would not end. */
void case_both_send_then_receive(struct conf *c)
{
    size_t len = 3 * MIB;
    char *buffer = ALLOC(len);

    for (unsigned i = 0; i < 3; i++) {
        pattern_fill(buffer, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(buffer, len, c->next, 86, c->comm));
        memset(buffer, (int)i, len);
        CHECK_BYTES(buffer, len, (unsigned char)i);
    }
    for (unsigned i = 0; i < 3; i++)
        receive_pattern(c, len, 86, i);
    CHECK_OK(zc_free(buffer));
}

/* A buffer whose message nobody takes before something else has been received into the buffer. */
void case_receive_into_buffer_in_flight(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(some_lengths); i++) {
        size_t len = some_lengths[i];
        char *buffer = ALLOC(len), *other = ALLOC(len);
        zc_status status;

        pattern_fill(buffer, len, conf_seed(c->rank, 2 * i));
        pattern_fill(other, len, conf_seed(c->rank, 2 * i + 1));
        CHECK_OK(zc_send(buffer, len, c->next, 87, c->comm));
        CHECK_OK(zc_send(other, len, c->next, 88, c->comm));
        CHECK_OK(zc_recv(buffer, len, c->prev, 88, c->comm, &status));
        CHECK(status.length == len);
        CHECK_PATTERN(buffer, len, conf_seed(c->prev, 2 * i + 1));
        memset(buffer, 0x18, len);
        receive_pattern(c, len, 87, 2 * i);
        CHECK_BYTES(buffer, len, 0x18);
        CHECK_PATTERN(other, len, conf_seed(c->rank, 2 * i + 1));
        CHECK_OK(zc_free(buffer));
        CHECK_OK(zc_free(other));
    }
}

void case_receive_into_part_in_flight(struct conf *c)
{
    size_t size = 100 * KIB;
    static const struct {
        size_t at, len;
    } part[] = {{0, 10}, {4096, 8192}, {5000, 70000}, {90000, 12400}};

    for (unsigned i = 0; i < COUNT(part); i++)
        for (int asynchronous = 0; asynchronous < 2; asynchronous++) {
            size_t at = part[i].at, len = part[i].len;
            char *buffer = ALLOC(size), *other = ALLOC(len), *expected = ALLOC(size);

            pattern_fill(buffer, size, conf_seed(c->rank, 2 * i));
            pattern_fill(expected, size, conf_seed(c->rank, 2 * i));
            pattern_fill(expected + at, len, conf_seed(c->prev, 2 * i + 1));
            pattern_fill(other, len, conf_seed(c->rank, 2 * i + 1));
            CHECK_OK(zc_send(buffer, size, c->next, 89, c->comm));
            CHECK_OK(zc_send(other, len, c->next, 90, c->comm));
            if (asynchronous) {
                CHECK_OK(zc_irecv(buffer + at, len, c->prev, 90, c->comm));
                CHECK_OK(zc_wait(buffer + at, NULL));
            } else {
                CHECK_OK(zc_recv(buffer + at, len, c->prev, 90, c->comm, NULL));
            }
            CHECK(memcmp(buffer, expected, size) == 0);
            receive_pattern(c, size, 89, 2 * i);
            CHECK(memcmp(buffer, expected, size) == 0);
            CHECK_OK(zc_free(buffer));
            CHECK_OK(zc_free(other));
            CHECK_OK(zc_free(expected));
        }
}

/* zc_send(b) then zc_irecv(b): the receive is posted before anybody can take the message. */
void case_irecv_into_buffer_in_flight(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(some_lengths); i++) {
        size_t len = some_lengths[i];
        char *buffer = ALLOC(len), *first = ALLOC(len), *other = ALLOC(len);

        pattern_fill(buffer, len, conf_seed(c->rank, 2 * i));
        CHECK_OK(zc_send(buffer, len, c->next, 91, c->comm));
        CHECK_OK(zc_irecv(buffer, len, c->prev, 92, c->comm));
        conf_barrier(c);
        pattern_fill(other, len, conf_seed(c->rank, 2 * i + 1));
        CHECK_OK(zc_send(other, len, c->next, 92, c->comm));
        if (i % 2)
            CHECK_OK(zc_wait(buffer, NULL));
        CHECK_PATTERN(buffer, len, conf_seed(c->prev, 2 * i + 1));
        memset(buffer, 0x19, len);
        /* Two rounds of the exchange in place. */
        CHECK_OK(zc_recv(first, len, c->prev, 91, c->comm, NULL));
        CHECK_PATTERN(first, len, conf_seed(c->prev, 2 * i));
        CHECK_BYTES(buffer, len, 0x19);
        CHECK_OK(zc_free(buffer));
        CHECK_OK(zc_free(first));
        CHECK_OK(zc_free(other));
    }
}

/* A send of one part of a buffer while another part, on the same pages even, is being received. */
void case_send_beside_receive(struct conf *c)
{
    size_t size = 128 * KIB, half = size / 2 + 100;
    char *buffer = ALLOC(size), *in = ALLOC(size);

    pattern_fill(buffer, half, conf_seed(c->rank, 0));
    CHECK_OK(zc_irecv(buffer + half, size - half, c->prev, 93, c->comm));
    CHECK_OK(zc_send(buffer, half, c->next, 94, c->comm));
    CHECK_OK(zc_recv(in, size, c->prev, 94, c->comm, NULL));
    CHECK_PATTERN(in, half, conf_seed(c->prev, 0));
    pattern_fill(in, size - half, conf_seed(c->rank, 1));
    CHECK_OK(zc_send(in, size - half, c->next, 93, c->comm));
    CHECK_OK(zc_wait(buffer + half, NULL));
    CHECK_PATTERN(buffer, half, conf_seed(c->rank, 0));
    CHECK_PATTERN(buffer + half, size - half, conf_seed(c->prev, 1));
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
}

void case_realloc_in_flight(struct conf *c)
{
    static const struct {
        size_t from, to;
    } step[] = {{100, 200}, {10000, 300000}, {300000, 10000}, {1048576, 1048577}, {70000, 70001}};

    for (unsigned i = 0; i < COUNT(step); i++) {
        size_t kept = step[i].from < step[i].to ? step[i].from : step[i].to;
        char *buffer = ALLOC(step[i].from);

        pattern_fill(buffer, step[i].from, conf_seed(c->rank, i));
        CHECK_OK(zc_send(buffer, step[i].from, c->next, 95, c->comm));
        buffer = zc_realloc(buffer, step[i].to);
        CHECK(buffer && zc_usable_size(buffer) >= step[i].to);
        CHECK_PATTERN(buffer, kept, conf_seed(c->rank, i));
        memset(buffer, 0x28, step[i].to);
        receive_pattern(c, step[i].from, 95, i);
        CHECK_BYTES(buffer, step[i].to, 0x28);
        CHECK_OK(zc_free(buffer));
    }
}

/* The message lands unseen: it is gone, and what was allocated meanwhile is unharmed. */
void case_free_with_receive_in_flight(struct conf *c)
{
    static const size_t lengths[] = {100, 40000, 1048576};

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t len = lengths[i];
        char *in = ALLOC(len), *out = ALLOC(len), *again;

        CHECK_OK(zc_irecv(in, len, c->prev, 96, c->comm));
        CHECK_OK(zc_free(in));
        again = ALLOC(len);
        memset(again, 0x38, len);
        conf_barrier(c);
        for (unsigned k = 0; k < 2; k++) {
            pattern_fill(out, len, conf_seed(c->rank, 2 * i + k));
            CHECK_OK(zc_send(out, len, c->next, 96, c->comm));
        }
        receive_pattern(c, len, 96, 2 * i + 1);
        CHECK_BYTES(again, len, 0x38);
        CHECK_OK(zc_free(again));
        CHECK_OK(zc_free(out));
    }
}

void case_realloc_with_receive_in_flight(struct conf *c)
{
    size_t len = 50000;
    char *in = ALLOC(len), *out = ALLOC(len);

    memset(in, 0x39, len);
    CHECK_OK(zc_irecv(in, len - 10, c->prev, 97, c->comm));
    pattern_fill(out, len - 10, conf_seed(c->rank, 0));
    CHECK_OK(zc_send(out, len - 10, c->next, 97, c->comm));
    in = zc_realloc(in, 4 * len);
    CHECK(in);
    CHECK_PATTERN(in, len - 10, conf_seed(c->prev, 0));
    CHECK_BYTES(in + len - 10, 10, 0x39);
    memset(in, 0, 4 * len);
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(out));
}
