/* SPDX-License-Identifier: MIT
 *
 * Rules 2 and 3 of the state machine (docs/design.md): what is in flight beside something else. */
#include "invariants.h"

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
    receive_after_send(comm, b, BIG * PAGE);
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

/* So it does where the send has left while the message was under way; then nobody needs the old pages any more. */
Test(rule2, a_landing_after_the_sends_gives_the_old_pages_back)
{
    enum { PAGES = 512, BIG = 500 };
    zc_comm *comm = loop_strict();
    char *b = buffer(PAGES, 1);
    struct backing *old = backing_of(b);
    receive_after_send(comm, b, BIG * PAGE);
    post_pattern(comm, 2, BIG * PAGE, 2);
    CHECK_OK(zc_wait(b, NULL));
    CHECK(backing_of(b) != old);
    CHECK_PATTERN(b, BIG * PAGE, 2);
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
