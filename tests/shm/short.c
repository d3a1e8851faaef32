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
