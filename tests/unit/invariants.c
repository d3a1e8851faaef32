/* SPDX-License-Identifier: MIT
 *
 * Rules 1 to 6 of the state machine (docs/design.md), each as the kernel and the receiver see it. */
#include "invariants.h"

/* ---- rule 1: a reader denies stores, a writer denies every access, on the pages it needs ---- */

Test(rule1, a_send_denies_stores_to_its_pages)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    CHECK_PAGES(b, "wwww");
    CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
    CHECK_PAGES(b, "rrrr");
    CHECK(kernel_reads(b) && !kernel_writes(b + 4 * PAGE - 1));
    CHECK_MESSAGE(comm, 1, 0, 4 * PAGE, 1);
    CHECK_PAGES(b, "wwww");

    /* The last byte of one page and the first of the next: both pages, and no other. */
    CHECK_OK(zc_send(b + 2 * PAGE - 1, 2, 0, 2, comm));
    CHECK_PAGES(b, "wrrw");
    CHECK(kernel_writes(b) && !kernel_writes(b + PAGE) && kernel_writes(b + 3 * PAGE));
    CHECK_MESSAGE(comm, 2, 2 * PAGE - 1, 2, 1);
    CHECK_PAGES(b, "wwww");
    CHECK_OK(zc_close(comm));
}

Test(rule1, a_receive_denies_every_access_to_its_pages)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    CHECK_OK(zc_irecv(b + 100, 2 * PAGE - 100, 0, 1, comm));
    CHECK_PAGES(b, "--ww");
    CHECK(!kernel_reads(b) && !kernel_reads(b + PAGE) && kernel_reads(b + 2 * PAGE));
    post_pattern(comm, 1, 2 * PAGE - 100, 2);
    CHECK_OK(zc_wait(b + 100, NULL));
    CHECK_PAGES(b, "wwww");
    CHECK_PATTERN(b, 100, 1);
    CHECK_PATTERN(b + 100, 2 * PAGE - 100, 2);
    CHECK_OK(zc_close(comm));
}

Test(rule1, the_wire_mapping_is_never_protected)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1), *wire = backing_wire(backing_of(b));
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK_PAGES(wire, "ww");
    CHECK(memcmp(wire, b, 2 * PAGE) == 0);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_irecv(b, 2 * PAGE, 0, 2, comm));
    CHECK_PAGES(wire, "ww");
    post_pattern(comm, 2, 2 * PAGE, 3);
    CHECK_OK(zc_wait(b, NULL));
    CHECK_OK(zc_close(comm));
}

/* Stricter is allowed when idle: the next send then costs no system call, the next store one fault. */
Test(rule1, lazy_release_leaves_protected)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(2, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_PAGES(b, "rr");
    zc_stats before = stats_now();
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    zc_stats after = stats_now();
    CHECK(after.sends_free == before.sends_free + 1);
    CHECK(after.protects == before.protects && after.unprotects == before.unprotects);
    store(b, 7);
    CHECK_PAGES(b, "ww");
    CHECK(load(b) == 7 && stats_now().faults_idle == after.faults_idle + 1);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

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
    policy_observe(pool, COST_COPY, pool->slot_size, 10000);
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

/* How fast it is can be seen only of one that has always something to take, and by one that looks. */
Test(behind, its_pace_is_seen)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(2, 1);
    struct zc_pool *pool = slot_pool(slot_at(b));
    unsigned char known[sizeof pool->costs];
    pass(comm, b, 1, false);
    memcpy(known, pool->costs, sizeof known);
    for (int i = 0; i < 10; i++)
        pass(comm, b, 1, true);
    pass(comm, b, 10, false);
    CHECK(memcmp(known, pool->costs, sizeof known) == 0);
    pass(comm, b, 10, true);
    CHECK(memcmp(known, pool->costs, sizeof known) != 0);
    CHECK_OK(zc_close(comm));
}

/* ---- rule 2: a backing has readers or writers in flight, never both ---- */

Test(rule2, a_send_beside_a_receive_is_copied)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    CHECK_OK(zc_irecv(b, PAGE, 0, 1, comm));
    zc_stats before = stats_now();
    CHECK_OK(zc_send(b + 2 * PAGE, PAGE, 0, 2, comm));
    CHECK(stats_now().sends_copied == before.sends_copied + 1);
    CHECK_PAGES(b, "-www");
    store(b + 2 * PAGE, 9);
    CHECK_MESSAGE(comm, 2, 2 * PAGE, PAGE, 1);
    post_pattern(comm, 1, PAGE, 2);
    CHECK_OK(zc_wait(b, NULL));
    CHECK_PATTERN(b, PAGE, 2);
    CHECK(load(b + 2 * PAGE) == 9);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* Landing is then a rename: the bounce's pages become the buffer's, and the message keeps the old ones. */
Test(rule2, a_receive_of_all_beside_a_send_lands_by_renaming)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    struct backing *old = backing_of(b);
    zc_stats before = stats_now();
    CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b, 4 * PAGE, 0, 2, comm));
    CHECK(stats_now().receives_bounced == before.receives_bounced + 1);
    CHECK_PAGES(b, "----");
    struct slot *bounce = slot_at(b)->receives->bounce;
    CHECK(bounce);
    struct backing *landing = atomic_load(&bounce->backing);
    post_pattern(comm, 2, 4 * PAGE, 2);
    CHECK_OK(zc_wait(b, NULL));
    CHECK(backing_of(b) == landing && old->slot == bounce);
    CHECK_PAGES(b, "wwww");
    CHECK_PATTERN(b, 4 * PAGE, 2);
    CHECK(memcmp(backing_wire(landing), b, 4 * PAGE) == 0);
    CHECK(old->sends != NULL);
    store(b, 3);
    CHECK_MESSAGE(comm, 1, 0, 4 * PAGE, 1);
    CHECK(load(b) == 3 && stats_now().conflicts == before.conflicts);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

Test(rule2, a_receive_of_a_part_beside_a_send_is_copied_in)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    struct backing *old = backing_of(b);
    CHECK_OK(zc_send(b, PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b + 3 * PAGE, 100, 0, 2, comm));
    CHECK_PAGES(b, "rww-");
    post_pattern(comm, 2, 100, 2);
    CHECK_OK(zc_wait(b + 3 * PAGE, NULL));
    CHECK(backing_of(b) == old);
    CHECK_PAGES(b, "rwww");
    CHECK_PATTERN(b, 3 * PAGE, 1);
    CHECK_PATTERN(b + 3 * PAGE, 100, 2);
    CHECK_MESSAGE(comm, 1, 0, PAGE, 1);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* The bytes are still being sent: first a rename, then they come in; the rest of the buffer goes along. */
Test(rule2, a_receive_into_bytes_being_sent_renames_first)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1), *want = malloc(4 * PAGE);
    struct backing *old = backing_of(b);
    CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b + PAGE + 10, 100, 0, 2, comm));
    CHECK_PAGES(b, "r-rr");
    post_pattern(comm, 2, 100, 2);
    CHECK_OK(zc_wait(b + PAGE + 10, NULL));
    CHECK(backing_of(b) != old);
    CHECK_PAGES(b, "wwww");
    pattern_fill(want, 4 * PAGE, 1);
    pattern_fill(want + PAGE + 10, 100, 2);
    CHECK(memcmp(b, want, 4 * PAGE) == 0);
    CHECK_MESSAGE(comm, 1, 0, 4 * PAGE, 1);
    free(want);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* The slot that a receive lands in is as large as the message, but where landing will be an exchange. */
Test(rule2, a_bounce_is_no_larger_than_needed)
{
    enum { PAGES = 16, HALF = PAGES / 2, N = 6 };
    zc_comm *comm = loop_strict();
    char *b = buffer(PAGES, 1);
    struct backing *old = backing_of(b);
    CHECK_OK(zc_send(b, HALF * PAGE, 0, 9, comm));
    for (int i = 0; i < N; i++) { /* the first into bytes that are being sent */
        CHECK_OK(zc_irecv(b + (HALF - 1 + i) * PAGE + 10, 100 + (size_t)i, 0, i, comm));
        struct hold *hold = hold_receive_at(slot_at(b), (size_t)(HALF - 1 + i) * PAGE + 10);
        CHECK(hold && hold->bounce && slot_segment(hold->bounce)->slot_size == (i ? PAGE : PAGES * PAGE));
    }
    for (int i = N - 1; i >= 0; i--) { /* in between the buffer gets other pages, by a store or by landing */
        post_pattern(comm, i, 100 + (size_t)i, (unsigned)i + 10);
        CHECK_OK(zc_progress(comm));
        CHECK((backing_of(b) == old) == (i >= N / 2));
        if (i == N / 2)
            store(b, 5);
    }
    CHECK_MESSAGE(comm, 9, 0, HALF * PAGE, 1);
    CHECK(load(b) == 5);
    for (int i = 0; i < N; i++) {
        CHECK_OK(zc_wait(b + (HALF - 1 + i) * PAGE + 10, NULL));
        CHECK_PATTERN(b + (HALF - 1 + i) * PAGE + 10, 100 + (size_t)i, (unsigned)i + 10);
    }
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* A large message of nearly all of a slot lands by an exchange of backings even where no send is left; but not
 * while another receive, posted after the sends had ended, writes to the old one. */
Test(rule2, a_landing_leaves_the_pages_that_others_write_to)
{
    enum { PAGES = 512, BIG = 500 };
    zc_comm *comm = loop_strict();
    char *b = buffer(PAGES, 1);
    CHECK_OK(zc_send(b, PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b, BIG * PAGE, 0, 2, comm));
    CHECK_MESSAGE(comm, 1, 0, PAGE, 1);
    CHECK_OK(zc_irecv(b + BIG * PAGE, (PAGES - BIG) * PAGE, 0, 3, comm));
    CHECK(slot_at(b)->receives->bounce && !slot_at(b)->receives->next->bounce);
    post_pattern(comm, 2, BIG * PAGE, 2);
    CHECK_OK(zc_wait(b, NULL));
    post_pattern(comm, 3, (PAGES - BIG) * PAGE, 3);
    CHECK_OK(zc_wait(b + BIG * PAGE, NULL));
    CHECK_PATTERN(b, BIG * PAGE, 2);
    CHECK_PATTERN(b + BIG * PAGE, (PAGES - BIG) * PAGE, 3);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* ---- rule 3: several receives into one buffer ---- */

Test(rule3, a_shared_page_opens_with_the_last_receive)
{
    for (int first = 1; first <= 2; first++) {
        zc_comm *comm = loop_strict();
        char *b = buffer(3, 1);
        CHECK_OK(zc_irecv(b + 10, PAGE + 90, 0, 1, comm));              /* pages 0 and 1 */
        CHECK_OK(zc_irecv(b + PAGE + 100, 2 * PAGE - 100, 0, 2, comm)); /* pages 1 and 2 */
        CHECK_PAGES(b, "---");
        CHECK_FAILS(zc_irecv(b + PAGE, 200, 0, 3, comm), -EBUSY, "in flight");
        CHECK_FAILS(zc_recv(b, 11, 0, 3, comm, NULL), -EBUSY, "in flight");
        post_pattern(comm, first, first == 1 ? PAGE + 90 : 2 * PAGE - 100, (unsigned)first + 1);
        CHECK_OK(zc_progress(comm));
        CHECK_PAGES(b, first == 1 ? "w--" : "--w");
        CHECK(!kernel_reads(b + PAGE));
        post_pattern(comm, 3 - first, first == 2 ? PAGE + 90 : 2 * PAGE - 100, 4 - (unsigned)first);
        CHECK_OK(zc_progress(comm));
        CHECK_PAGES(b, "www");
        CHECK_PATTERN(b + 10, PAGE + 90, 2);
        CHECK_PATTERN(b + PAGE + 100, 2 * PAGE - 100, 3);
        CHECK_PATTERN(b, 10, 1);
        CHECK_OK(zc_wait(b + 10, NULL));
        CHECK_OK(zc_wait(b + PAGE + 100, NULL));
        CHECK_REST(slot_pool(slot_at(b)));
        CHECK_OK(zc_close(comm));
    }
}

Test(rule3, many_disjoint_receives_in_any_order)
{
    enum { N = 16, EACH = 1000 };
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    loop_hold(comm, true);
    for (int i = 0; i < N; i++)
        CHECK_OK(zc_irecv(b + i * EACH, EACH, 0, i, comm));
    for (int i = 0; i < N; i++)
        post_pattern(comm, i, EACH, (unsigned)i + 10);
    for (int i = 0; i < N; i++) {
        for (int page = 0; page < 4; page++) { /* a page is closed while a receive that needs it is in flight */
            bool needed = false;
            for (struct hold *hold = slot_at(b)->receives; hold; hold = hold->next)
                needed |= !hold->landed && hold->offset < (size_t)(page + 1) * PAGE &&
                          hold->offset + EACH > (size_t)page * PAGE;
            CHECK(page_shown(b + page * PAGE) == (needed ? '-' : 'w'));
        }
        CHECK(loop_deliver(comm, 1, LOOP_SHUFFLED, (unsigned)i) == 1);
    }
    CHECK_PAGES(b, "wwww");
    for (int i = 0; i < N; i++) {
        CHECK_OK(zc_wait(b + i * EACH, NULL));
        CHECK_PATTERN(b + i * EACH, EACH, (unsigned)i + 10);
    }
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* One of many receives that lands opens its own pages; what the others need is neither changed nor counted anew each
 * time. The last leaves nothing behind. */
Test(rule3, a_landing_costs_what_it_opens)
{
    enum { N = 32 };
    setenv("ZC_MAPS", "1000", 1);
    zc_comm *comm = loop_strict();
    char *b = buffer(2 * N, 1), shown[2 * N + 1] = "";
    int maps = maps_left();
    for (int i = 0; i < N; i++)
        CHECK_OK(zc_irecv(b + 2 * i * PAGE + 100, 100, 0, i, comm));
    zc_stats before = stats_now();
    for (int done = 0, i = 0; done < N; done++, i = (i + 5) % N) {
        post_pattern(comm, i, 100, (unsigned)i);
        CHECK_OK(zc_progress(comm));
        for (int page = 0; page < 2 * N; page++)
            shown[page] = 'w';
        for (struct hold *hold = slot_at(b)->receives; hold; hold = hold->next)
            if (!hold->landed)
                shown[hold->offset / PAGE] = '-';
        CHECK_PAGES(b, shown);
    }
    zc_stats after = stats_now();
    uint64_t changes = after.protects + after.unprotects - before.protects - before.unprotects;
    CHECKF(changes <= 3 * N, "%llu changes for %d receives", (unsigned long long)changes, N);
    CHECKF(maps_left() == maps, "%d of %d maps left", maps_left(), maps);
    for (int i = 0; i < N; i++) {
        CHECK_OK(zc_wait(b + 2 * i * PAGE + 100, NULL));
        CHECK_PATTERN(b + 2 * i * PAGE + 100, 100, (unsigned)i);
    }
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* Where one is always in flight, none is ever the last. */
Test(rule3, landings_beside_others_do_not_use_mappings_up)
{
    enum { N = 32 };
    setenv("ZC_MAPS", "1000", 1);
    zc_comm *comm = loop_strict();
    char *b = buffer(2 * N, 1);
    int maps = maps_left();
    CHECK_OK(zc_irecv(b, 100, 0, 0, comm));
    for (int i = 1; i < 100; i++) {
        int last = i - 1;
        CHECK_OK(zc_irecv(b + 2 * (i % N) * PAGE, 100, 0, i, comm));
        post_pattern(comm, last, 100, 2);
        CHECK_OK(zc_wait(b + 2 * (last % N) * PAGE, NULL));
        CHECK_PAGES(b + 2 * (last % N) * PAGE, "w");
        CHECK_PAGES(b + 2 * (i % N) * PAGE, "-");
        CHECKF(maps - maps_left() <= 20, "%d of %d maps left after %d", maps_left(), maps, i);
    }
    CHECK_OK(zc_cancel(b + 2 * (99 % N) * PAGE));
    CHECK(maps_left() == maps);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* The one that ends lies inside of what is protected for a send of the same buffer. */
Test(rule3, a_landing_beside_a_send_leaves_it_protected)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b + PAGE, 100, 0, 2, comm));
    CHECK_OK(zc_irecv(b + PAGE + 200, PAGE, 0, 3, comm));
    CHECK_PAGES(b, "r--r");
    CHECK_OK(zc_cancel(b + PAGE));
    CHECK_PAGES(b, "r--r");
    CHECK_OK(zc_irecv(b + 3 * PAGE, 100, 0, 2, comm));
    CHECK_OK(zc_cancel(b + PAGE + 200));
    CHECK_PAGES(b, "rrr-");
    CHECK_OK(zc_cancel(b + 3 * PAGE));
    CHECK_PAGES(b, "rrrr");
    CHECK_MESSAGE(comm, 1, 0, 4 * PAGE, 1);
    CHECK_PAGES(b, "wwww");
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* Ranges without bytes need no page and overlap nothing. */
Test(rule3, an_empty_receive_needs_no_page)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    CHECK_OK(zc_irecv(b + 5, 0, 0, 1, comm));
    CHECK_PAGES(b, "ww");
    CHECK_OK(zc_irecv(b, PAGE, 0, 2, comm));
    CHECK_OK(zc_irecv(b + 7, 0, 0, 3, comm));
    CHECK_PAGES(b, "-w");
    post_pattern(comm, 2, PAGE, 2);
    CHECK_OK(zc_wait(b, NULL));
    CHECK_PAGES(b, "ww");
    CHECK_OK(zc_cancel(b + 5));
    CHECK_OK(zc_cancel(b + 7));
    CHECK_OK(zc_close(comm));
}

/* ---- rule 4: a page is released by the last hold that needs it ---- */

Test(rule4, the_first_of_two_sends_releases_nothing)
{
    for (int first = 1; first <= 2; first++) {
        zc_comm *comm = loop_strict();
        char *b = buffer(2, 1);
        zc_stats before = stats_now();
        CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
        CHECK_OK(zc_send(b, 2 * PAGE, 0, 2, comm));
        CHECK_MESSAGE(comm, first, 0, 2 * PAGE, 1);
        CHECK_PAGES(b, "rr");
        CHECK(slot_at(b)->reserved); /* else a store waits until the second is received */
        store(b, 5);
        CHECK(stats_now().renames == before.renames + 1);
        CHECK_MESSAGE(comm, 3 - first, 0, 2 * PAGE, 1);
        CHECK(load(b) == 5);
        CHECK_PAGES(b, "ww");
        CHECK_REST(slot_pool(slot_at(b)));
        CHECK_OK(zc_close(comm));
    }
}

/* An access to a page that no hold needs any more opens it, and not the pages beside it. */
Test(rule4, sends_that_share_a_page)
{
    for (int first = 1; first <= 2; first++) {
        zc_comm *comm = loop_strict();
        char *b = buffer(3, 1);
        CHECK_OK(zc_send(b, PAGE + 10, 0, 1, comm));
        CHECK_OK(zc_send(b + PAGE + 10, 2 * PAGE - 10, 0, 2, comm));
        CHECK_PAGES(b, "rrr");
        if (first == 1)
            CHECK_MESSAGE(comm, 1, 0, PAGE + 10, 1);
        else
            CHECK_MESSAGE(comm, 2, PAGE + 10, 2 * PAGE - 10, 1);
        CHECK(slot_at(b)->reserved);
        zc_stats before = stats_now();
        store(b + (first == 1 ? 0 : 2 * PAGE), 5);
        CHECK(stats_now().renames == before.renames);
        CHECK_PAGES(b, first == 1 ? "wrr" : "rrw");
        store(b + PAGE + 5, 6); /* in the message of the first, on a page that the second needs */
        CHECK(stats_now().renames == before.renames + 1);
        if (first == 2)
            CHECK_MESSAGE(comm, 1, 0, PAGE + 10, 1);
        else
            CHECK_MESSAGE(comm, 2, PAGE + 10, 2 * PAGE - 10, 1);
        CHECK(load(b + PAGE + 5) == 6);
        CHECK_REST(slot_pool(slot_at(b)));
        CHECK_OK(zc_close(comm));
    }
}

/* Over two communicators, one of which leaves protected and one not. */
Test(rule4, holds_of_two_communicators)
{
    zc_comm *strict = loop_strict(), *lazy = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(2, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, lazy));
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, strict));
    CHECK_MESSAGE(strict, 1, 0, 2 * PAGE, 1);
    CHECK_PAGES(b, "rr");
    CHECK(slot_at(b)->reserved);
    store(b, 5);
    CHECK_MESSAGE(lazy, 1, 0, 2 * PAGE, 1);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(strict));
    CHECK_OK(zc_close(lazy));
}

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
