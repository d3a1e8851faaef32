/* SPDX-License-Identifier: MIT
 *
 * A program that sends by zc, and stores to what it is sending, as it may. */
#include <stdlib.h>
#include <string.h>
#include <zc.h>

enum { SIZE = 1 << 20, DATA = 1, STORED = 2 };

static void check(int fine)
{
    if (!fine)
        abort();
}

int main(void)
{
    zc_comm *comm;
    check(zc_open("mpi", NULL, &comm) == 0 && zc_size(comm) == 2);
    char *buf = zc_alloc(SIZE), *stored = zc_alloc(1);
    *stored = 0;
    if (zc_rank(comm) == 0) {
        memset(buf, 'a', SIZE);
        check(zc_send(buf, SIZE, 1, DATA, comm) == 0);
        buf[0] = 'b'; /* the message is not asked for before this was done */
        check(zc_send(stored, 1, 1, STORED, comm) == 0);
    } else {
        check(zc_recv(stored, 1, 0, STORED, comm, NULL) == 0);
        check(zc_irecv(buf, SIZE, 0, DATA, comm) == 0);
        check(buf[0] == 'a');
    }
    check(zc_free(buf) == 0 && zc_free(stored) == 0);
    return zc_close(comm);
}
