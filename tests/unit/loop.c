/* SPDX-License-Identifier: MIT
 *
 * The loop transport: what becomes of a rank that is closed. */
#include "invariants.h"
#include "transport/comm.h"

TestSuite(loop, .timeout = 60);

/* What nobody has received is over for its sender, and so is what comes later. */
Test(loop, messages_to_a_closed_rank_are_dropped)
{
    zc_comm *comm[2];
    char *b = buffer(2, 1);
    ranks_open(comm, 2, NULL);
    for (int i = 0; i < 3; i++)
        CHECK_OK(zc_send(b, 2 * PAGE, 1, i, comm[0]));
    CHECK(atomic_load(&comm[0]->sending) == 3);
    CHECK_OK(zc_close(comm[1]));
    CHECK(atomic_load(&comm[0]->sending) == 0);
    CHECK_OK(zc_send(b, 2 * PAGE, 1, 1, comm[0]));
    CHECK(atomic_load(&comm[0]->sending) == 0);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm[0]));
}

static void *open_there(void *argument)
{
    zc_comm **comm = argument;
    CHECK_OK(zc_open("loop:again?rank=0&size=2", NULL, comm));
    return NULL;
}

/* Where the other rank has yet to close, too, it waits for that one to come again. */
Test(loop, a_name_is_opened_again)
{
    zc_comm *comm[2];
    char in = 0;
    for (int i = 0; i < 3; i++) {
        pthread_t other = thread_start(open_there, &comm[0]);
        usleep(10000); /* lets it come first, most of the time; right either way */
        if (i)
            CHECK_OK(zc_close(comm[1]));
        CHECK_OK(zc_open("loop:again?rank=1&size=2", NULL, &comm[1]));
        thread_join(other);
        CHECK_OK(zc_send(&(char){'a'}, 1, 1, 1, comm[0]));
        CHECK_OK(zc_recv(&in, 1, 0, 1, comm[1], NULL));
        CHECK(in == 'a');
        CHECK_OK(zc_close(comm[0]));
    }
    CHECK_OK(zc_close(comm[1]));
}
