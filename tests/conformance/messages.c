/* SPDX-License-Identifier: MIT
 *
 * Cases: what arrives, where, and in which order. */
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"

void case_rank_and_size(struct conf *c)
{
    CHECK_IS(zc_rank(c->comm), c->rank);
    CHECK_IS(zc_size(c->comm), c->size);
    CHECK(c->size >= 1 && c->rank >= 0 && c->rank < c->size);
}

/* The edges of pages, of the eager protocol of MPI (8,256 bytes here) and of the size classes. */
static const size_t some_lengths[] = {0,      1,       7,    4095,    4096,    4097,           8191,           8192,
                                      8255,   8256,    8257, 16384,   65535,   65536,          65537,          262143,
                                      262144, MIB - 1, MIB,  MIB + 1, 2 * MIB, 2 * MIB + 4097, 5 * MIB + 12345};

void case_lengths(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(some_lengths); i++) {
        size_t len = some_lengths[i];
        char *out = ALLOC(len), *in = ALLOC(len + 100);
        zc_status status;

        pattern_fill(out, len, conf_seed(c->rank, i));
        memset(in, 0x55, len + 100);
        CHECK_OK(zc_send(out, len, c->next, 1, c->comm));
        memset(out, 0xee, len);
        CHECK_OK(zc_recv(in, len + 50, c->prev, 1, c->comm, &status));
        CHECKF(status.length == len, "%zu, not %zu", status.length, len);
        CHECK(status.source == c->prev && status.tag == 1 && status.error == 0);
        CHECK_PATTERN(in, len, conf_seed(c->prev, i));
        CHECK_BYTES(in + len, 100, 0x55);
        CHECK_BYTES(out, len, 0xee);
        CHECK_OK(zc_free(out));
        CHECK_OK(zc_free(in));
    }
}

void case_empty_messages(struct conf *c)
{
    char *buffer = ALLOC(1);
    zc_status status;

    CHECK_OK(zc_send(NULL, 0, c->next, 7, c->comm));
    CHECK_OK(zc_send(buffer, 0, c->next, 8, c->comm));
    CHECK_OK(zc_recv(NULL, 0, c->prev, 7, c->comm, &status));
    CHECK(status.length == 0 && status.source == c->prev && status.tag == 7 && status.error == 0);
    memset(buffer, 0x11, 1);
    CHECK_OK(zc_recv(buffer, 1, c->prev, 8, c->comm, &status));
    CHECK(status.length == 0);
    CHECK_BYTES(buffer, 1, 0x11);
    CHECK_OK(zc_free(buffer));
}

void case_offsets(struct conf *c)
{
    static const size_t offsets[] = {0, 1, 7, 4095, 4096, 4097, 8192, 12288 + 2049};
    static const size_t lengths[] = {1, 63, 4096, 8192, 12000, 40000};
    size_t size = 64 * KIB;
    char *out = ALLOC(size), *in = ALLOC(size);
    unsigned n = 0;

    for (size_t o = 0; o < COUNT(offsets); o++)
        for (size_t l = 0; l < COUNT(lengths); l++, n++) {
            size_t from = offsets[o], to = offsets[COUNT(offsets) - 1 - o], len = lengths[l];
            zc_status status;

            memset(out, 0xaa, size);
            pattern_fill(out + from, len, conf_seed(c->rank, n));
            memset(in, 0x33, size);
            CHECK_OK(zc_send(out + from, len, c->next, 2, c->comm));
            memset(out + from, 0xbb, len);
            CHECK_OK(zc_recv(in + to, len, c->prev, 2, c->comm, &status));
            CHECK(status.length == len);
            CHECK_BYTES(in, to, 0x33);
            CHECK_PATTERN(in + to, len, conf_seed(c->prev, n));
            CHECK_BYTES(in + to + len, size - to - len, 0x33);
            CHECK_BYTES(out, from, 0xaa);
            CHECK_BYTES(out + from, len, 0xbb);
            CHECK_BYTES(out + from + len, size - from - len, 0xaa);
        }
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(in));
}

/* Stack and malloc's memory: sent by copy, with the same promise; received by zc_recv. */
void case_foreign_memory(struct conf *c)
{
    static const size_t lengths[] = {1, 100, 4096, 20000, 300000};
    uint64_t before = stats_now().sends_foreign;

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t len = lengths[i];
        char stack[20000];
        char *out = len <= sizeof stack ? stack : malloc(len);
        char *in = malloc(len + 1);
        zc_status status;

        CHECK(out && in);
        pattern_fill(out, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(out, len, c->next, 3, c->comm));
        memset(out, 0, len);
        in[len] = 0x77;
        CHECK_OK(zc_recv(in, len, c->prev, 3, c->comm, &status));
        CHECK(status.length == len);
        CHECK_PATTERN(in, len, conf_seed(c->prev, i));
        CHECK(in[len] == 0x77);
        if (out != stack)
            free(out);
        free(in);
    }
    CHECK(stats_now().sends_foreign >= before + COUNT(lengths));
}

/* Receives choose by tag, not by arrival; 0 and 32767 are tags like others. */
void case_tags(struct conf *c)
{
    static const int sent[] = {9, 0, 32767, 5};
    static const int taken[] = {5, 32767, 9, 0};
    size_t lengths[] = {100, 50 * KIB, 10, 9000};
    char *buffer = ALLOC(64 * KIB);

    for (unsigned i = 0; i < COUNT(sent); i++) {
        pattern_fill(buffer, lengths[i], conf_seed(c->rank, (unsigned)sent[i]));
        CHECK_OK(zc_send(buffer, lengths[i], c->next, sent[i], c->comm));
    }
    for (unsigned i = 0; i < COUNT(taken); i++) {
        zc_status status;

        CHECK_OK(zc_recv(buffer, 64 * KIB, c->prev, taken[i], c->comm, &status));
        CHECK(status.tag == taken[i] && status.source == c->prev);
        CHECK_PATTERN(buffer, status.length, conf_seed(c->prev, (unsigned)taken[i]));
    }
    CHECK_OK(zc_free(buffer));
}

void case_any_source(struct conf *c)
{
    enum { EACH = 5 };
    size_t len = 20000;
    char *buffer = ALLOC(len);
    unsigned seen[64] = {0};

    for (unsigned i = 0; i < EACH; i++)
        for (int to = 0; to < c->size; to++) {
            pattern_fill(buffer, len, conf_seed(c->rank, i));
            CHECK_OK(zc_send(buffer, len, to, 4, c->comm));
        }
    for (int i = 0; i < EACH * c->size; i++) {
        zc_status status;

        CHECK_OK(zc_recv(buffer, len, ZC_ANY_SOURCE, 4, c->comm, &status));
        CHECK(status.source >= 0 && status.source < c->size && status.tag == 4 && status.length == len);
        CHECK_PATTERN(buffer, len, conf_seed(status.source, seen[status.source]++));
    }
    for (int i = 0; i < c->size; i++)
        CHECKF(seen[i] == EACH, "%u from rank %d", seen[i], i);
    CHECK_OK(zc_free(buffer));
}

void case_any_tag(struct conf *c)
{
    size_t len = 12000;
    char *buffer = ALLOC(len);

    for (int i = 0; i < 20; i++) {
        pattern_fill(buffer, len, conf_seed(c->rank, (unsigned)i));
        CHECK_OK(zc_send(buffer, i % 2 ? len : 10, c->next, 100 + i * 7 % 20, c->comm));
    }
    for (int i = 0; i < 20; i++) {
        zc_status status;

        CHECK_OK(zc_recv(buffer, len, c->prev, ZC_ANY_TAG, c->comm, &status));
        CHECKF(status.tag == 100 + i * 7 % 20, "message %d has tag %d", i, status.tag);
        CHECK(status.length == (i % 2 ? len : 10));
        CHECK_PATTERN(buffer, status.length, conf_seed(c->prev, (unsigned)i));
    }
    CHECK_OK(zc_free(buffer));
}

/* Rank 0 takes whatever comes; the others send nothing else before it has it all. */
void case_any_source_and_tag(struct conf *c)
{
    enum { EACH = 10 };
    char *buffer = ALLOC(30000);

    if (c->rank != 0) {
        for (unsigned i = 0; i < EACH; i++) {
            pattern_fill(buffer, 30000, conf_seed(c->rank, i));
            CHECK_OK(zc_send(buffer, i % 2 ? 30000 : 30, 0, (int)(10 + i), c->comm));
        }
        CHECK_OK(zc_recv(NULL, 0, 0, 1, c->comm, NULL));
    } else {
        unsigned seen[64] = {0};

        for (int i = 0; i < EACH * (c->size - 1); i++) {
            zc_status status;

            CHECK_OK(zc_recv(buffer, 30000, ZC_ANY_SOURCE, ZC_ANY_TAG, c->comm, &status));
            CHECK(status.source > 0 && status.source < c->size);
            unsigned n = seen[status.source]++;
            CHECKF(status.tag == (int)(10 + n), "message %u of rank %d has tag %d", n, status.source, status.tag);
            CHECK(status.length == (n % 2 ? 30000 : 30));
            CHECK_PATTERN(buffer, status.length, conf_seed(status.source, n));
        }
        for (int i = 1; i < c->size; i++)
            CHECK_OK(zc_send(NULL, 0, i, 1, c->comm));
    }
    CHECK_OK(zc_free(buffer));
}

/* Messages of one sender with one tag stay in order, whatever their sizes and however they travel. */
void case_order(struct conf *c)
{
    enum { N = 200 };
    static const size_t lengths[] = {16, 100 * KIB, 4096, 9000, 0, 8256, 30000, 1};
    char *out = ALLOC(100 * KIB), *in = ALLOC(100 * KIB);

    for (unsigned i = 0; i < N; i++) {
        size_t len = lengths[i % COUNT(lengths)];

        pattern_fill(out, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(out, len, c->next, 6, c->comm));
    }
    for (unsigned i = 0; i < N; i++) {
        size_t len = lengths[i % COUNT(lengths)];
        zc_status status;

        CHECK_OK(zc_recv(in, 100 * KIB, c->prev, 6, c->comm, &status));
        CHECKF(status.length == len, "message %u has %zu bytes", i, status.length);
        CHECK_PATTERN(in, len, conf_seed(c->prev, i));
    }
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(in));
}

void case_probe(struct conf *c)
{
    static const size_t lengths[] = {10, 70000};
    char *buffer = ALLOC(70000);

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        zc_status status = {.source = 77, .tag = 77}, again;
        int found = 5;

        CHECK_OK(zc_iprobe(c->prev, 11, c->comm, &found, &status));
        CHECK(found == 0);
        CHECK(status.source == 77 && status.tag == 77);
        conf_barrier(c);

        pattern_fill(buffer, lengths[i], conf_seed(c->rank, i));
        CHECK_OK(zc_send(buffer, lengths[i], c->next, 11, c->comm));
        if (i % 2)
            CHECK_OK(zc_probe(ZC_ANY_SOURCE, 11, c->comm, &status));
        else
            for (found = 0; !found;)
                CHECK_OK(zc_iprobe(c->prev, 11, c->comm, &found, &status));
        CHECK(status.source == c->prev && status.tag == 11 && status.length == lengths[i] && status.error == 0);
        /* It is still there. */
        CHECK_OK(zc_probe(c->prev, 11, c->comm, &again));
        CHECK(again.source == c->prev && again.tag == 11 && again.length == lengths[i]);
        CHECK_OK(zc_recv(buffer, status.length, status.source, status.tag, c->comm, &status));
        CHECK_PATTERN(buffer, lengths[i], conf_seed(c->prev, i));
        CHECK_OK(zc_iprobe(c->prev, 11, c->comm, &found, NULL));
        CHECK(found == 0);
        conf_barrier(c);
    }
    CHECK_OK(zc_free(buffer));
}

/* A probe reserves nothing: what is received next is what the receive asks for, in order. */
void case_probe_then_other(struct conf *c)
{
    enum { SMALL = 100, LONG = 3000, LARGE = 70000 };
    char *out = ALLOC(LARGE), *in = ALLOC(LARGE), stack[LONG];
    zc_status status;

    for (unsigned i = 0; i < 20; i++) {
        size_t first = i % 4 == 3 ? 0 : i % 4 == 2 ? LARGE : SMALL;
        int any_source = i % 2 ? ZC_ANY_SOURCE : c->prev, any_tag = i % 2 ? 31 : ZC_ANY_TAG;

        conf_barrier(c);
        pattern_fill(out, first, conf_seed(c->rank, i));
        CHECK_OK(zc_send(out, first, c->next, 31, c->comm));
        pattern_fill(out, LONG, conf_seed(c->rank, 100 + i));
        CHECK_OK(zc_send(out, LONG, c->next, 32, c->comm));
        CHECK_OK(zc_send(out, LONG, c->next, 31, c->comm));
        CHECK_OK(zc_probe(any_source, any_tag, c->comm, &status));
        CHECK(status.source == c->prev && status.tag == 31 && status.length == first);

        /* Another one. */
        CHECK_OK(zc_recv(i % 2 ? in : stack, LONG, c->prev, 32, c->comm, &status));
        CHECK(status.source == c->prev && status.tag == 32 && status.length == LONG);
        CHECK_PATTERN(i % 2 ? in : stack, LONG, conf_seed(c->prev, 100 + i));

        /* Found again, and received by something else that was posted since. */
        CHECK_OK(zc_probe(c->prev, 31, c->comm, NULL));
        if (i % 3 == 0) {
            CHECK_OK(zc_irecv(in, LARGE, c->prev, ZC_ANY_TAG, c->comm));
            memset(stack, 0, LONG);
            CHECK_OK(zc_recv(stack, LONG, c->prev, 31, c->comm, &status));
            CHECK(status.tag == 31 && status.length == LONG);
            CHECK_PATTERN(stack, LONG, conf_seed(c->prev, 100 + i));
            CHECK_OK(zc_wait(in, &status));
            CHECK(status.tag == 31 && status.length == first);
            CHECK_PATTERN(in, first, conf_seed(c->prev, i));
            continue;
        }
        /* Where it does not fit, it is lost, and nothing else is. */
        if (i % 3 == 1 && first) {
            CHECK_IS(zc_recv(in, first - 1, c->prev, 31, c->comm, &status), -EMSGSIZE);
        } else {
            CHECK_OK(zc_recv(in, LARGE, any_source, any_tag, c->comm, &status));
            CHECK(status.length == first);
            CHECK_PATTERN(in, first, conf_seed(c->prev, i));
        }
        CHECK(status.source == c->prev && status.tag == 31);
        CHECK_OK(zc_recv(in, LONG, c->prev, 31, c->comm, &status));
        CHECK(status.length == LONG);
        CHECK_PATTERN(in, LONG, conf_seed(c->prev, 100 + i));
    }
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(in));
}

/* A message that is too long is an error, stays inside the receive, and leaves the ones around it alone. */
void case_truncation(struct conf *c)
{
    static const size_t lengths[] = {100, 5000, 9000, 64 * 1024, 1024 * 1024};
    size_t size = MIB;
    char *out = ALLOC(size), *in = ALLOC(size);

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t cap = lengths[i] / 2 + 1;
        zc_status status;

        for (unsigned k = 0; k < 3; k++) {
            pattern_fill(out, lengths[i], conf_seed(c->rank, 3 * i + k));
            CHECK_OK(zc_send(out, lengths[i], c->next, 12, c->comm));
        }
        CHECK_OK(zc_recv(in, size, c->prev, 12, c->comm, NULL));
        CHECK_PATTERN(in, lengths[i], conf_seed(c->prev, 3 * i));

        memset(in, 0x44, size);
        CHECK_IS(zc_recv(in + 10, cap, c->prev, 12, c->comm, &status), -EMSGSIZE);
        CHECK(status.source == c->prev && status.tag == 12 && status.error == -EMSGSIZE);
        CHECKF(status.length <= cap, "kept %zu of %zu", status.length, cap);
        CHECK_PATTERN(in + 10, status.length, conf_seed(c->prev, 3 * i + 1));
        CHECK_BYTES(in, 10, 0x44);
        CHECK_BYTES(in + 10 + cap, size - 10 - cap, 0x44);

        CHECK_OK(zc_recv(in, size, c->prev, 12, c->comm, &status));
        CHECK(status.length == lengths[i]);
        CHECK_PATTERN(in, lengths[i], conf_seed(c->prev, 3 * i + 2));
    }
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(in));
}

/* Bytes that no message brought keep their values, those inside the receive included. */
void case_shorter_than_cap(struct conf *c)
{
    static const size_t lengths[] = {0, 1, 5000, 100000, 262143};
    size_t size = 256 * KIB;

    for (unsigned i = 0; i < COUNT(lengths); i++)
        for (int asynchronous = 0; asynchronous < 2; asynchronous++) {
            char *out = ALLOC(size), *in = ALLOC(size);
            zc_status status;

            memset(in, 0x66, size);
            pattern_fill(out, size, conf_seed(c->rank, i));
            CHECK_OK(zc_send(in, size, c->next, 14, c->comm)); /* so that `in` is in flight, too */
            CHECK_OK(zc_send(out, lengths[i], c->next, 13, c->comm));
            if (asynchronous) {
                CHECK_OK(zc_irecv(in, size, c->prev, 13, c->comm));
                CHECK_OK(zc_wait(in, &status));
            } else {
                CHECK_OK(zc_recv(in, size, c->prev, 13, c->comm, &status));
            }
            CHECK(status.length == lengths[i]);
            CHECK_PATTERN(in, lengths[i], conf_seed(c->prev, i));
            CHECK_BYTES(in + lengths[i], size - lengths[i], 0x66);
            CHECK_OK(zc_recv(out, size, c->prev, 14, c->comm, NULL));
            CHECK_BYTES(out, size, 0x66);
            CHECK_OK(zc_free(out));
            CHECK_OK(zc_free(in));
        }
}

void case_recv_alloc(struct conf *c)
{
    static const size_t lengths[] = {0, 1, 4096, 4097, 70000, 1048576, 3000001};

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t len = lengths[i];
        char *out = ALLOC(len);
        void *in = NULL;
        zc_status status;

        pattern_fill(out, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(out, len, c->next, 15, c->comm));
        CHECK_OK(zc_recv_alloc(&in, i % 2 ? c->prev : ZC_ANY_SOURCE, 15, c->comm, &status));
        CHECK(in && status.source == c->prev && status.tag == 15 && status.length == len);
        CHECK(zc_owns(in) == 1 && zc_usable_size(in) >= len);
        CHECK_PATTERN(in, len, conf_seed(c->prev, i));
        /* It is a buffer like any other: written, sent on, freed. */
        memset(in, 0x22, len);
        CHECK_OK(zc_send(in, len, c->prev, 16, c->comm));
        CHECK_OK(zc_free(in));
        CHECK_OK(zc_recv(out, len, c->next, 16, c->comm, NULL));
        CHECK_BYTES(out, len, 0x22);
        CHECK_OK(zc_free(out));
    }
}

void case_sendrecv(struct conf *c)
{
    static const size_t lengths[] = {8, 9000, 400000};

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t len = lengths[i];
        char *buffer = ALLOC(len), *other = ALLOC(len);
        int at = c->rank;
        zc_status status;

        pattern_fill(buffer, len, conf_seed(c->rank, i));
        /* Once around the ring, in place. */
        for (int step = 0; step < c->size; step++) {
            CHECK_OK(zc_sendrecv(buffer, len, c->next, 17, buffer, len, c->prev, 17, c->comm, &status));
            at = (at + c->size - 1) % c->size;
            CHECK(status.source == c->prev && status.tag == 17 && status.length == len);
            CHECK_PATTERN(buffer, len, conf_seed(at, i));
        }
        CHECK(at == c->rank);
        CHECK_OK(zc_sendrecv(buffer, len, c->next, 18, other, len, c->prev, 18, c->comm, NULL));
        CHECK_PATTERN(other, len, conf_seed(c->prev, i));
        CHECK_PATTERN(buffer, len, conf_seed(c->rank, i));
        CHECK_OK(zc_free(buffer));
        CHECK_OK(zc_free(other));
    }
}

/* To oneself: returns at once as to anybody else. */
void case_self(struct conf *c)
{
    static const size_t lengths[] = {0, 10, 8256, 9000, 2 * 1024 * 1024 + 5};

    for (unsigned i = 0; i < COUNT(lengths); i++) {
        size_t len = lengths[i];
        char *out = ALLOC(len), *in = ALLOC(len);
        zc_status status;

        pattern_fill(out, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(out, len, c->rank, 19, c->comm));
        memset(out, 0x99, len);
        CHECK_OK(zc_recv(in, len, c->rank, 19, c->comm, &status));
        CHECK(status.source == c->rank && status.length == len);
        CHECK_PATTERN(in, len, conf_seed(c->rank, i));
        /* The buffer that is sent is received into. */
        CHECK_OK(zc_send(in, len, c->rank, 20, c->comm));
        memset(out, 0x12, len);
        CHECK_OK(zc_send(out, len, c->rank, 21, c->comm));
        CHECK_OK(zc_recv(in, len, c->rank, 21, c->comm, NULL));
        CHECK_OK(zc_recv(out, len, c->rank, 20, c->comm, NULL));
        CHECK_BYTES(in, len, 0x12);
        CHECK_PATTERN(out, len, conf_seed(c->rank, i));
        CHECK_OK(zc_free(out));
        CHECK_OK(zc_free(in));
    }
}

/* Every send is counted in one of the five ways in which it can travel. The ranks of a loop share the
 * counters, so rank 0 looks while the others wait; their last sends may still be counting themselves. */
void case_statistics(struct conf *c)
{
    char *buffer = ALLOC(MIB);
    zc_stats before = stats_now();

    memset(buffer, 1, MIB);
    for (unsigned i = 0; i < 30; i++) {
        CHECK_OK(zc_send(buffer, i % 3 ? MIB >> i % 9 : i, c->next, 22, c->comm));
        CHECK_OK(zc_recv(buffer, MIB, c->prev, 22, c->comm, NULL));
    }
    conf_barrier(c);
    if (c->rank == 0) {
        zc_stats s;
        uint64_t sum, empty = stats_now().sends_empty;
        int tries = 0;

        do {
            s = stats_now();
            sum = s.sends_empty + s.sends_inline + s.sends_protected + s.sends_free + s.sends_copied;
            sched_yield();
        } while (s.sends != sum && ++tries < 1000);
        CHECKF(s.sends == sum, "%llu sends, but the five kinds sum up to %llu", (unsigned long long)s.sends,
               (unsigned long long)sum);
        CHECK(s.sends >= before.sends + 30 && s.receives >= before.receives + 30);
        CHECK_OK(zc_send_free(ALLOC(1), 0, 0, 24, c->comm));
        CHECK_OK(zc_recv(NULL, 0, 0, 24, c->comm, NULL));
        CHECK(stats_now().sends_empty > empty);
        for (int i = 1; i < c->size; i++)
            CHECK_OK(zc_send(NULL, 0, i, 23, c->comm));
    } else {
        CHECK_OK(zc_recv(NULL, 0, 0, 23, c->comm, NULL));
    }
    CHECK_OK(zc_free(buffer));
}
