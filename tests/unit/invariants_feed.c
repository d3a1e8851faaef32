/* SPDX-License-Identifier: MIT
 *
 * Sends to a receiver that is behind. */
#include "invariants.h"

/* ---- a receiver that is behind ---- */

/* Sent and received `n` at a time, all but the first of which find older ones in flight; nobody looks in vain, unless
 * `looked`. */
static void pass(zc_comm *comm, const char *b, int n, bool looked)
{
    char in[2 * PAGE];
    for (int i = 0; i < n; i++)
        CHECK_OK(zc_send(b, sizeof in, 0, 1, comm));
    for (int i = 0; i < n; i++) {
        for (int look = 0; look < 4 && looked; look++)
            CHECK_OK(zc_progress(comm));
        CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
        CHECK_PATTERN(in, sizeof in, 1);
    }
}

Test(behind, a_send_is_copied_where_copies_are_taken_faster)
{
    zc_comm *strict = loop_renaming(ZC_RELEASE_LAZY);
    zc_comm *comm = loop_with(ZC_CONFLICT_COPY, ZC_POLICY_AUTO, ZC_RELEASE_LAZY);
    char *b = buffer(2, 1);
    struct zc_pool *pool = slot_pool(slot_at(b));
    observe_often(pool, COST_COPY, 10000);
    pass(strict, b, 1, false); /* leaves it protected */
    zc_stats before = stats_now();
    pass(comm, b, 2, false);
    CHECK(stats_now().sends_free == before.sends_free + 2);

    for (int i = 0; i < 200 || !policy_feeds(pool, pool->slot_size); i++) {
        bool feeds = policy_feeds(pool, pool->slot_size);
        policy_taken(pool, feeds, pool->slot_size, feeds ? 20000 : 30000);
    }
    before = stats_now();
    pass(comm, b, 2, false);
    CHECK(stats_now().sends_free == before.sends_free + 1 && stats_now().sends_copied == before.sends_copied + 1);
    CHECK_PAGES(b, "rr");
    pass(strict, b, 2, false); /* to protect is to protect */
    CHECK(stats_now().sends_free == before.sends_free + 3);
    CHECK_REST(pool);
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_close(strict));
}

/* How many bytes of what the policy knows of the pool are others now? The count of messages has two
 * bytes. */
static int learned(const struct zc_pool *pool, const unsigned char *known)
{
    int bytes = 0;
    for (size_t i = 0; i < sizeof pool->costs; i++)
        bytes += ((const unsigned char *)pool->costs)[i] != known[i];
    return bytes;
}

/* How fast it is can be seen only of one that has always something to take, and by one that looks. */
Test(behind, its_pace_is_seen)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(2, 1);
    struct zc_pool *pool = slot_pool(slot_at(b));
    unsigned char known[sizeof pool->costs];
    pass(comm, b, 300, false); /* and the policy has learned all that it can of such a run */
    memcpy(known, pool->costs, sizeof known);
    for (int i = 0; i < 10; i++)
        pass(comm, b, 1, true);
    pass(comm, b, 10, false);
    CHECK(learned(pool, known) <= 2);
    pass(comm, b, 10, true);
    CHECK(learned(pool, known) > 2);
    CHECK_OK(zc_close(comm));
}

/* Of a message that was copied, the buffer may be gone when it leaves, and all of its pool. */
Test(behind, its_pace_is_not_noted_where_nothing_is_left)
{
    zc_comm *comm = loop_with(ZC_CONFLICT_COPY, ZC_POLICY_COPY, ZC_RELEASE_LAZY);
    char *b = buffer(2, 1), in[2 * PAGE];
    struct zc_pool *pool = slot_pool(slot_at(b));
    for (int i = 0; i < 2; i++)
        CHECK_OK(zc_send(b, sizeof in, 0, 1, comm));
    CHECK_OK(zc_free(b));
    CHECK_OK(zc_pool_close(pool));
    for (int i = 0; i < 2; i++) {
        for (int look = 0; look < 4; look++)
            CHECK_OK(zc_progress(comm));
        CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
        CHECK_PATTERN(in, sizeof in, 1);
    }
    CHECK_OK(zc_close(comm));
}
