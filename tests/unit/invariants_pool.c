/* SPDX-License-Identifier: MIT
 *
 * Rule 5 of the state machine (docs/design.md): what goes back to the pool. */
#include "invariants.h"

/* ---- rule 5: slots and backings go back to the pool when nothing holds them ---- */

Test(rule5, free_in_flight_defers)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    struct zc_pool *pool = slot_pool(slot_at(b));
    zc_pool_stats before = {.size = sizeof before}, after = before;
    CHECK_OK(zc_pool_stats_get(pool, &before));
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 2, comm));
    CHECK_OK(zc_free(b));
    char *others[64]; /* every free slot there is, and more: none is the one in flight */
    for (int i = 0; i < 64; i++) {
        others[i] = slot_in(pool);
        CHECK(others[i] != b);
        memset(others[i], 0xee, 2 * PAGE);
    }
    CHECK_MESSAGE(comm, 2, 0, 2 * PAGE, 1);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    for (int i = 0; i < 64; i++)
        CHECK_OK(zc_free(others[i]));
    CHECK_REST(pool);
    CHECK_OK(zc_pool_stats_get(pool, &after));
    CHECK(after.live == 0 && before.live == 1);
    CHECK_OK(zc_close(comm));
}

Test(rule5, a_freed_slot_comes_back_unprotected)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(2, 1), *others[1024];
    struct zc_pool *pool = slot_pool(slot_at(b));
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_free(b));
    int n = 0;
    do
        others[n] = slot_in(pool);
    while (others[n] != b && ++n < 1024);
    CHECK(n < 1024);
    CHECK_PAGES(b, "ww");
    CHECK_SIGNALS();
    CHECK_REST(pool);
    CHECK_OK(zc_close(comm));
}

Test(rule5, looking_at_protected_slots_changes_nothing)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(2, 1);
    zc_pool_stats stats = {.size = sizeof stats};
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_pool_stats_get(slot_pool(slot_at(b)), &stats));
    CHECK(stats.idle_protected == 1);
    CHECK_PAGES(b, "rr");
    CHECK_SIGNALS();
    CHECK_OK(zc_close(comm));
}

Test(rule5, free_with_receives_in_flight)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1), *other;
    struct zc_pool *pool = slot_pool(slot_at(b));
    CHECK_OK(zc_irecv(b, PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b + 2 * PAGE, 100, 0, 2, comm));
    post_pattern(comm, 2, 100, 2); /* lands, and nobody asks */
    CHECK_OK(zc_progress(comm));
    CHECK_OK(zc_free(b));
    for (int i = 0; i < 64; i++) {
        other = slot_in(pool);
        CHECK(other != b);
        memset(other, 0, 4 * PAGE);
    }
    post_pattern(comm, 1, PAGE, 3);
    CHECK_OK(zc_progress(comm));
    CHECK_REST(pool);

    /* The same with a bounced receive, whose send is still in flight. */
    b = slot_in(pool);
    pattern_fill(b, 4 * PAGE, 4);
    CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b, 4 * PAGE, 0, 2, comm));
    CHECK_OK(zc_free(b));
    post_pattern(comm, 2, 4 * PAGE, 5);
    CHECK_OK(zc_progress(comm));
    CHECK_MESSAGE(comm, 1, 0, 4 * PAGE, 4);
    CHECK_REST(pool);
    CHECK_OK(zc_close(comm));
}

Test(rule5, renames_give_everything_back)
{
    enum { ROUNDS = 50 };
    setenv("ZC_MAPS", "1000", 1);
    zc_comm *comm = loop_strict();
    char *b = buffer(3, 1);
    struct zc_pool *pool = slot_pool(slot_at(b));
    int maps = maps_left();
    for (unsigned i = 0; i < ROUNDS; i++) {
        pattern_fill(b, 3 * PAGE, i);
        CHECK_OK(zc_send(b, 3 * PAGE, 0, 1, comm));
        store(b, 1);
        CHECK_OK(zc_send(b, 3 * PAGE, 0, 2, comm));
        CHECK_OK(zc_irecv(b + PAGE, PAGE, 0, 3, comm));
        post_pattern(comm, 3, PAGE, i);
        CHECK_OK(zc_wait(b + PAGE, NULL));
        CHECK_OK(zc_send_free(b, 3 * PAGE, 0, 4, comm));
        b = slot_in(pool);
        CHECK_MESSAGE(comm, 1, 0, 3 * PAGE, i);
        char in[3 * PAGE];
        CHECK_OK(zc_recv(in, sizeof in, 0, 2, comm, NULL));
        CHECK_OK(zc_recv(in, sizeof in, 0, 4, comm, NULL));
        CHECK_REST(pool);
    }
    /* Claimed are only slots whose backings are not at home, two each. */
    int displaced = 0;
    for (struct segment *segment = pool->segments; segment; segment = segment->next)
        for (uint32_t i = 0; i < segment->carved; i++)
            displaced += segment_slot(segment, i)->backing != slot_home(segment_slot(segment, i));
    int protected = 0; /* by what is left of freed slots */
    for (struct segment *segment = pool->segments; segment; segment = segment->next)
        for (uint32_t i = 0; i < segment->carved; i++)
    protected += segment_slot(segment, i)->maps;
    CHECKF(maps_left() == maps - displaced * MAPS_SPLIT - protected, "%d of %d maps left, %d displaced, %d protected",
           maps_left(), maps, displaced, protected);
    CHECK_OK(zc_close(comm));
}

/* A guard of no bytes needs no protection, so no mapping either. */
Test(rule5, guards_of_nothing_take_nothing)
{
    setenv("ZC_MAPS", "1000", 1);
    char *b = buffer(3, 1);
    int maps = maps_left();
    struct zc_guard guard;
    for (int i = 0; i < 10; i++) {
        CHECK_OK(zc_guard(b + PAGE + 1, 0, i % 2 ? ZC_DENY_STORES : ZC_DENY_ALL, &guard));
        CHECK_PAGES(b, "www");
        CHECK_OK(zc_unguard(&guard));
        CHECKF(maps_left() == maps, "%d of %d maps left", maps_left(), maps);
    }
    CHECK_REST(slot_pool(slot_at(b)));
}
