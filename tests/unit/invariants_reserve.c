/* SPDX-License-Identifier: MIT
 *
 * Rule 6 of the state machine (docs/design.md): what is reserved, and what happens without. */
#include "invariants.h"

/* ---- rule 6: nothing waits for a slot; what cannot be reserved is copied ---- */

Test(rule6, without_mappings_sends_are_copied)
{
    enum { N = 20 };
    setenv("ZC_MAPS", "20", 1);
    zc_comm *comm = loop_strict();
    zc_pool *pool = pool_of_pages(2);
    char *b[N];
    zc_stats before = stats_now();
    int maps = maps_left();
    for (unsigned i = 0; i < N; i++) {
        b[i] = slot_in(pool);
        pattern_fill(b[i], 2 * PAGE, i);
        CHECK_OK(zc_send(b[i], 2 * PAGE, 0, (int)i, comm));
    }
    zc_stats after = stats_now();
    CHECK(after.sends_protected - before.sends_protected == 3); /* 6 mappings each */
    CHECK(after.sends_copied - before.sends_copied == N - 3);
    CHECK(after.unreserved - before.unreserved == N - 3);
    for (unsigned i = 0; i < N; i++)
        store(b[i], 1);
    for (unsigned i = 0; i < N; i++)
        CHECK_MESSAGE(comm, (int)i, 0, 2 * PAGE, i);
    for (unsigned i = 0; i < N; i++)
        CHECK_OK(zc_free(b[i]));
    CHECK_REST(pool);
    CHECK(maps - maps_left() <= 20);
    CHECK_OK(zc_close(comm));
}

/* What is idle-protected, or has other pages than at first, has mappings that nothing in flight needs: true exhaustion
 * alone refuses a receive or a guard. */
static void use_mappings_up(zc_comm *comm, char *b[], int n, bool written)
{
    uint64_t before = stats_now().unreserved;
    char in[2 * PAGE];
    for (int i = 0; i < n; i++) {
        CHECK_OK(zc_send(b[i], 2 * PAGE, 0, 1, comm));
        if (written)
            store(b[i], 7);
        CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
        CHECK_PATTERN(in, sizeof in, (unsigned)i);
    }
    CHECK(stats_now().unreserved > before);
}

static void idle_mappings(bool written, bool freed)
{
    enum { N = 100 };
    setenv("ZC_MAPS", "100", 1);
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    zc_pool *pool = pool_of_pages(2), *other = pool_of_pages(3);
    char *b[N], *in = slot_in(other);
    for (unsigned i = 0; i < N; i++) {
        b[i] = slot_in(pool);
        pattern_fill(b[i], 2 * PAGE, i);
    }
    int maps = maps_left();
    use_mappings_up(comm, b, N, written);
    for (int i = 0; i < N && freed; i++)
        CHECK_OK(zc_free(b[i]));
    int last = maps_left();
    CHECK(maps_claim(last));
    CHECK_OK(zc_irecv(in, PAGE, 0, 2, comm));
    CHECK_PAGES(in, "-ww");
    CHECK_OK(zc_cancel(in));
    CHECKF(maps_left() == maps - last, "%d of %d - %d maps left", maps_left(), maps, last);
    for (int i = 0; i < N && !freed; i++)
        CHECK_PAGES(b[i], "ww");
    for (int i = 0; i < N && freed; i++) {
        b[i] = slot_in(pool);
        store(b[i], (char)i);
    }
    for (int i = 0; i < N; i++) /* each with pages of its own, in both mappings */
        CHECK(!freed || (load(b[i]) == (char)i && load(backing_wire(backing_of(b[i]))) == (char)i));
    CHECK_REST(pool);
    CHECK_REST(other);
    CHECK_SIGNALS();
    CHECK_OK(zc_close(comm));
}

Test(rule6, idle_protection_refuses_no_receive)
{
    idle_mappings(false, false);
}

Test(rule6, idle_protection_refuses_no_guard)
{
    enum { N = 100 };
    setenv("ZC_MAPS", "200", 1);
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    zc_pool *pool = pool_of_pages(2);
    char *b[N], *p = buffer(3, 1);
    for (unsigned i = 0; i < N; i++) {
        b[i] = slot_in(pool);
        pattern_fill(b[i], 2 * PAGE, i);
    }
    for (enum zc_deny deny = ZC_DENY_STORES; deny <= ZC_DENY_ALL; deny++) {
        struct zc_guard guard;
        use_mappings_up(comm, b, N, false);
        int last = maps_left();
        CHECK(maps_claim(last));
        CHECK_OK(zc_guard(p, PAGE, deny, &guard));
        CHECK_PAGES(p, deny == ZC_DENY_ALL ? "-ww" : "rww");
        CHECK_OK(zc_unguard(&guard));
        maps_unclaim(last);
    }
    CHECK_REST(pool);
    CHECK_OK(zc_close(comm));
}

Test(rule6, protection_of_freed_slots_refuses_no_receive)
{
    idle_mappings(false, true);
}

Test(rule6, pages_of_freed_slots_refuse_no_receive)
{
    idle_mappings(true, true);
}

/* Spares are outside the cap: a pool all of whose slots are live can still end conflicts. */
Test(rule6, a_full_pool_still_renames)
{
    zc_pool *pool;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = PAGE;
    options.initial = options.cap = 2;
    options.full = ZC_FULL_FAIL;
    CHECK_OK(zc_pool_open(&options, &pool));
    zc_comm *comm = loop_strict();
    char *a = slot_in(pool), *b = slot_in(pool);
    CHECK(!zc_pool_alloc(pool) && errno == ENOMEM);
    for (unsigned i = 0; i < 10; i++) {
        pattern_fill(a, PAGE, i);
        pattern_fill(b, PAGE, 100 + i);
        CHECK_OK(zc_send(a, PAGE, 0, (int)i, comm));
        CHECK_OK(zc_send(b, PAGE, 0, 100 + (int)i, comm));
    }
    for (unsigned i = 0; i < 10; i++) {
        CHECK_MESSAGE(comm, 100 + (int)i, 0, PAGE, 100 + i);
        CHECK_MESSAGE(comm, (int)i, 0, PAGE, i);
    }
    CHECK_REST(pool);
    CHECK_OK(zc_close(comm));
}

/* The spare is claimed when the buffer is protected, not when it is renamed: by then there may be none. */
Test(rule6, the_spare_is_claimed_with_the_protection)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    struct zc_pool *pool = slot_pool(slot_at(b));
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK(slot_at(b)->reserved);
    int taken = 0;
    while (pool_try_claim(pool))
        taken++;
    CHECK(taken > 0);
    store(b, 5);
    CHECK(load(b) == 5);
    while (taken--)
        pool_unclaim(pool);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_REST(pool);
    CHECK_OK(zc_close(comm));
}

/* What lands without need for an exchange of pages, and without mappings for one, is copied in. */
Test(rule6, a_landing_takes_no_mappings_that_are_not_there)
{
    enum { PAGES = 512, BIG = 500 };
    setenv("ZC_MAPS", "100", 1);
    zc_comm *comm = loop_strict();
    char *b = buffer(PAGES, 1);
    struct backing *old = backing_of(b);
    receive_after_send(comm, b, BIG * PAGE);
    int last = maps_left();
    CHECK(maps_claim(last));
    post_pattern(comm, 2, BIG * PAGE, 2);
    CHECK_OK(zc_wait(b, NULL));
    CHECK(backing_of(b) == old);
    CHECK_PATTERN(b, BIG * PAGE, 2);
    maps_unclaim(last);
    CHECKF(maps_left() == 100, "%d maps left", maps_left());
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* A landing that has to exchange pages does so without mappings, too. What needs none goes on all the same. */
Test(rule6, mappings_that_are_owed_refuse_nothing_that_needs_none)
{
    setenv("ZC_MAPS", "2", 1);
    setenv("ZC_PROTECT", "userfaultfd", 1);
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1), *c = buffer(2, 2);
    if (slot_pool(slot_at(b))->protect != ZC_PROTECT_USERFAULTFD)
        cr_skip_test("there is no userfaultfd");
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b, 2 * PAGE, 0, 2, comm));
    post_pattern(comm, 2, 2 * PAGE, 3);
    CHECK_OK(zc_wait(b, NULL));
    CHECK(backing_of(b) != slot_home(slot_at(b)));
    CHECK_OK(zc_irecv(c, 2 * PAGE, 0, 4, comm));
    CHECK_OK(zc_cancel(c));
    zc_stats before = stats_now();
    CHECK_OK(zc_send(c, 2 * PAGE, 0, 5, comm));
    CHECK(stats_now().sends_protected == before.sends_protected + 1);
    CHECK_MESSAGE(comm, 5, 0, 2 * PAGE, 2);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_PATTERN(b, 2 * PAGE, 3);
    CHECK_OK(zc_close(comm));
}

/* Sends of what is protected already claim no mappings. A store beside many of them would split it into more pieces
 * than there are mappings for: then the buffer gets fresh pages. */
Test(rule6, a_store_beside_sends_of_many_parts)
{
    enum { PARTS = 16 };
    for (int few = 0; few < 2; few++) {
        setenv("ZC_MAPS", "100", 1);
        zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
        char *b = buffer(2 * PARTS, 1);
        CHECK_OK(zc_send(b, 2 * PARTS * PAGE, 0, 0, comm));
        CHECK_MESSAGE(comm, 0, 0, 2 * PARTS * PAGE, 1);
        zc_stats before = stats_now();
        for (int i = 0; i < PARTS; i++)
            CHECK_OK(zc_send(b + 2 * (size_t)i * PAGE, PAGE, 0, i, comm));
        CHECK(stats_now().sends_free == before.sends_free + PARTS);
        int rest = few ? maps_left() : 0;
        CHECK(maps_claim(rest));
        store(b + PAGE, 5);
        CHECK(stats_now().renames == before.renames + (uint64_t)few);
        CHECK_PAGES(b, few ? "wwww" : "rwrw");
        for (int i = 0; i < PARTS; i++)
            CHECK_MESSAGE(comm, i, 2 * (size_t)i * PAGE, PAGE, 1);
        CHECK(load(b + PAGE) == 5);
        maps_unclaim(rest);
        CHECK_REST(slot_pool(slot_at(b)));
        CHECK_OK(zc_close(comm));
    }
}

/* Sends of parts that are never written between must not use up mappings: a slot cannot have more than its pages. */
Test(rule6, sends_of_parts_do_not_use_mappings_up)
{
    setenv("ZC_MAPS", "200", 1);
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(8, 1);
    zc_stats before = stats_now();
    CHECK_OK(zc_send(b + 7 * PAGE, PAGE, 0, 9, comm)); /* there is always one in flight */
    for (int i = 0; i < 500; i++) {
        size_t at = (size_t)(i % 2 * 4) * PAGE;
        CHECK_OK(zc_send(b + at, PAGE, 0, 1, comm));
        CHECK_MESSAGE(comm, 1, at, PAGE, 1);
    }
    CHECK(stats_now().unreserved == before.unreserved);
    CHECK_MESSAGE(comm, 9, 7 * PAGE, PAGE, 1);
    CHECK_OK(zc_close(comm));
}
