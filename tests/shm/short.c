/* SPDX-License-Identifier: MIT
 *
 * Cases: short messages, which go without an operation. */
#include <string.h>

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

/* Each message tells how much was taken, so that letters start again where they did; but not before others were taken. */
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
