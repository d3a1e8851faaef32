/* SPDX-License-Identifier: MIT
 *
 * Which way is faster from send to send. One way is made far slower than the other by sleeping, so that no machine's
 * speed decides a test. */
#include "protect/pace.h"

#include <criterion/criterion.h>
#include <unistd.h>

#include "check.h"

enum { EPOCH = 64, TRIALS = 6, RETRIAL = 16, SLOW_US = 200 };

/* One epoch, whose sends take longer if they go the way `slow`. */
static enum way epoch(struct pace *pace, enum way slow)
{
    enum way way = pace_next(pace);
    for (int i = 1; i < EPOCH; i++)
        CHECK(pace_next(pace) == way);
    if (way == slow)
        usleep(EPOCH * SLOW_US);
    return way;
}

static void settles_on(enum way fast, enum way slow)
{
    struct pace pace = {0};
    for (int i = 0; i < TRIALS; i++)
        CHECK(epoch(&pace, slow) == (i % 2 ? WAY_COPY : WAY_PROTECT));
    for (int i = TRIALS; i < 3 * RETRIAL; i++)
        CHECKF(epoch(&pace, slow) == (i % RETRIAL ? fast : slow), "epoch %d", i);
}

Test(pace, copies_where_that_is_faster)
{
    settles_on(WAY_COPY, WAY_PROTECT);
}

Test(pace, protects_where_that_is_faster)
{
    settles_on(WAY_PROTECT, WAY_COPY);
}

Test(pace, notices_a_change)
{
    struct pace pace = {0};
    int epochs = 0;
    for (int i = 0; i < TRIALS; i++)
        epoch(&pace, WAY_PROTECT);
    CHECK(epoch(&pace, WAY_PROTECT) == WAY_COPY);
    /* The slow way becomes the fast one: the next retrials show it. */
    for (int protects = 0; epochs < 6 * RETRIAL && protects < 2; epochs++)
        protects = epoch(&pace, WAY_COPY) == WAY_PROTECT ? protects + 1 : 0;
    CHECKF(epochs < 6 * RETRIAL, "not in %d epochs", epochs);
}
