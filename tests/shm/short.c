/* SPDX-License-Identifier: MIT
 *
 * Cases: short messages, which go without an operation. */
#include <string.h>
#include <unistd.h>

#include "cases.h"

enum { SHORT = 64 };

/* What is being received, and has come but not landed, is what is sent. */
void case_short_of_a_receive(void)
{
    zc_comm *comm[2];
    char *out = ALLOC(SHORT), *buffer = ALLOC(SHORT), *back = ALLOC(SHORT);

    ranks_open(comm, 2, NULL);
    for (unsigned i = 0; i < 100; i++) {
        memset(buffer, 'o', SHORT);
        pattern_fill(out, SHORT, i);
        CHECK_OK(zc_irecv(buffer, SHORT, 0, 1, comm[1]));
        CHECK_OK(zc_send(out, SHORT, 1, 1, comm[0]));
        CHECK_OK(zc_send(buffer, SHORT, 0, 2, comm[1]));
        CHECK_OK(zc_recv(back, SHORT, 1, 2, comm[0], NULL));
        CHECK_PATTERN(back, SHORT, i);
        CHECK_OK(zc_wait(buffer, NULL));
        CHECK_PATTERN(buffer, SHORT, i);
    }
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(back));
    ranks_close(comm, 2);
}

/* Each message tells how much was taken, so that letters start again where they did; but not before others were
 * taken. */
void case_letters_start_again(void)
{
    enum { LETTER = 1000, MANY = 2 * RING_CELLS };
    zc_comm *comm[2];
    char *out = ALLOC(LETTER), *back = ALLOC(LETTER);

    ranks_open(comm, 2, NULL);
    const struct ring *ring = &shm_of(comm[0])->peers[1]->ring;
    for (unsigned i = 0; i < MANY; i++) {
        unsigned several = i % 5 + 1;
        for (unsigned k = 0; k < several; k++) {
            pattern_fill(out, LETTER, i + k);
            CHECK_OK(zc_send(out, LETTER, 1, 1, comm[0]));
        }
        CHECK_IS((long)(ring->letters_put % RING_LETTERS), several * 1024L);
        for (unsigned k = 0; k < several; k++) {
            CHECK_OK(zc_recv(back, LETTER, 0, 1, comm[1], NULL));
            CHECK_PATTERN(back, LETTER, i + k);
        }
        CHECK(ring->taken < ring->put);
        CHECK_OK(zc_send(out, 1, 0, 2, comm[1]));
        CHECK_OK(zc_recv(back, 1, 1, 2, comm[0], NULL));
        CHECK_IS((long)ring->taken, (long)ring->put);
    }
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(back));
    ranks_close(comm, 2);
}

/* One that is not copied after all, as pages of its buffer are guarded, takes no room from those that are sent. */
void case_letters_not_sent(void)
{
    enum { SEVERAL = 4 };
    zc_comm *comm[2];
    struct zc_guard guard;
    char *out = ALLOC(RING_EAGER), *back = ALLOC(RING_EAGER);

    ranks_open(comm, 2, NULL);
    const struct ring *ring = &shm_of(comm[0])->peers[1]->ring;
    pattern_fill(out, RING_EAGER, 1);
    CHECK_OK(zc_guard(out, RING_EAGER, ZC_DENY_STORES, &guard));
    for (int i = 0; i < SEVERAL; i++)
        CHECK_OK(zc_send(out, RING_EAGER, 1, 1, comm[0]));
    CHECK_IS((long)ring->put, SEVERAL);
    CHECK_IS((long)ring->letters_put, SEVERAL * (long)RING_EAGER);
    for (int i = 0; i < SEVERAL; i++) {
        CHECK_OK(zc_recv(back, RING_EAGER, 0, 1, comm[1], NULL));
        CHECK_PATTERN(back, RING_EAGER, 1);
    }
    CHECK_OK(zc_unguard(&guard));
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_free(back));
    ranks_close(comm, 2);
}

/* Who always finds a message of one sees those of others, too. */
void case_short_among_many(void)
{
    enum { RANKS = 3, TURNS = 10000 };
    zc_comm *comm[RANKS];
    char byte = 0;

    ranks_open(comm, RANKS, NULL);
    for (int other = 1; other < RANKS; other++) {
        zc_comm *busy = comm[RANKS - other];
        zc_status status = {.source = -1};

        CHECK_OK(zc_send(&byte, 1, 0, 1, busy));
        CHECK_OK(zc_send(&byte, 1, 0, 1, comm[other]));
        for (int i = 0; i < TURNS && status.source != other; i++) {
            CHECK_OK(zc_send(&byte, 1, 0, 1, busy));
            CHECK_OK(zc_recv(&byte, 1, ZC_ANY_SOURCE, 1, comm[0], &status));
        }
        CHECKF(status.source == other, "none of rank %d in %d messages", other, TURNS);
        for (int found = 1; found;) {
            CHECK_OK(zc_iprobe(ZC_ANY_SOURCE, 1, comm[0], &found, NULL));
            if (found)
                CHECK_OK(zc_recv(&byte, 1, ZC_ANY_SOURCE, 1, comm[0], NULL));
        }
    }
    ranks_close(comm, RANKS);
}

/* ---- more than a ring holds, from several ---- */

enum { SENDERS = 3, TAGS = 2, BURST = 10 * RING_CELLS };

static size_t burst_length(unsigned i)
{
    static const size_t lengths[] = {1, RING_TINY, 0, RING_TINY + 1, 8, 1500, RING_EAGER, 40};

    return lengths[i % (sizeof lengths / sizeof *lengths)];
}

static unsigned burst_seed(int rank, int tag, unsigned i)
{
    return (unsigned)(rank * TAGS + tag) * BURST + i;
}

static void send_burst(zc_comm *comm, int rank)
{
    char *out = ALLOC(RING_EAGER);

    for (unsigned i = 0; i < BURST; i++)
        for (int tag = 0; tag < TAGS; tag++) {
            pattern_fill(out, burst_length(i), burst_seed(rank, tag, i));
            CHECK_OK(zc_send(out, burst_length(i), SENDERS, tag, comm));
        }
    CHECK(shm_of(comm)->peers[SENDERS]->sends.first); /* they wait for room */
    await(rank);                                      /* one after the other */
    tell(rank + 1);
    CHECK_OK(zc_free(out));
}

/* From anybody and with any tag, or by name, in each way to receive. */
static void take_bursts(zc_comm *comm)
{
    unsigned next[SENDERS][TAGS] = {{0}};
    char *in = ALLOC(RING_EAGER);

    await(SENDERS);
    for (unsigned i = 0; i < SENDERS * TAGS * BURST; i++) {
        zc_status status;
        int src = (int)(i % SENDERS), tag = (int)(i / SENDERS % TAGS);
        bool named = i % 7 == 0 && next[src][tag] < BURST;

        if (i % 2) {
            CHECK_OK(zc_recv(in, RING_EAGER, named ? src : ZC_ANY_SOURCE, named ? tag : ZC_ANY_TAG, comm, &status));
        } else {
            CHECK_OK(zc_irecv(in, RING_EAGER, named ? src : ZC_ANY_SOURCE, named ? tag : ZC_ANY_TAG, comm));
            CHECK_OK(zc_wait(in, &status));
        }
        unsigned n = next[status.source][status.tag]++;
        CHECKF(status.length == burst_length(n), "message %u of rank %d has %zu bytes", n, status.source,
               status.length);
        CHECK_PATTERN(in, status.length, burst_seed(status.source, status.tag, n));
    }
    CHECK_OK(zc_free(in));
}

static void burst(int rank)
{
    zc_comm *comm = open_rank(rank, SENDERS + 1);

    if (rank < SENDERS)
        send_burst(comm, rank);
    else
        take_bursts(comm);
    CHECK_OK(zc_close(comm));
}

void case_bursts(void)
{
    pid_t child[SENDERS + 1];

    children_start(SENDERS + 1, burst, child);
    children_end(SENDERS + 1, child);
}
