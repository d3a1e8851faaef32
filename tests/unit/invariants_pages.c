/* SPDX-License-Identifier: MIT
 *
 * Rules 1 and 4 of the state machine (docs/design.md): when pages close, and when they open. */
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

/* Pages between those of two sends are open, and so are those that a landing has opened: a send of them protects
 * them. */
Test(rule1, a_send_of_open_pages_among_protected_ones)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(5, 1);
    CHECK_OK(zc_send(b, PAGE, 0, 1, comm));
    CHECK_OK(zc_send(b + 4 * PAGE, PAGE, 0, 2, comm));
    CHECK_PAGES(b, "rwwwr");
    CHECK_OK(zc_send(b + 2 * PAGE, PAGE, 0, 3, comm));
    CHECK_PAGES(b, "rwrwr");
    store(b + 2 * PAGE, 5);
    CHECK_MESSAGE(comm, 3, 2 * PAGE, PAGE, 1);
    CHECK_MESSAGE(comm, 2, 4 * PAGE, PAGE, 1);
    CHECK_MESSAGE(comm, 1, 0, PAGE, 1);

    char *c = buffer(3, 1);
    CHECK_OK(zc_send(c, PAGE, 0, 4, comm));
    CHECK_OK(zc_irecv(c + PAGE, PAGE, 0, 5, comm));
    CHECK_PAGES(c, "r-w");
    post_pattern(comm, 5, PAGE, 2);
    CHECK_OK(zc_wait(c + PAGE, NULL));
    CHECK_PAGES(c, "rww");
    CHECK_OK(zc_send(c + PAGE, PAGE, 0, 6, comm));
    CHECK_PAGES(c, "rrw");
    store(c + PAGE, 5);
    CHECK_MESSAGE(comm, 6, 0, PAGE, 2);
    CHECK_MESSAGE(comm, 4, 0, PAGE, 1);
    CHECK_OK(zc_close(comm));
}

/* What one communicator has left protected is not sent free by one whose policy is to copy. */
Test(rule1, a_policy_of_copies_copies_what_is_protected)
{
    zc_comm *lazy = loop_renaming(ZC_RELEASE_LAZY);
    zc_comm *copying = loop_with(ZC_CONFLICT_COPY, ZC_POLICY_COPY, ZC_RELEASE_LAZY);
    char *b = buffer(2, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, lazy));
    CHECK_MESSAGE(lazy, 1, 0, 2 * PAGE, 1);
    CHECK_PAGES(b, "rr");
    zc_stats before = stats_now();
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, copying));
    CHECK(stats_now().sends_copied == before.sends_copied + 1);
    store(b, 5);
    CHECK(stats_now().conflicts == before.conflicts);
    CHECK_MESSAGE(copying, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(copying));
    CHECK_OK(zc_close(lazy));
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
