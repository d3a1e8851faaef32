/* SPDX-License-Identifier: MIT
 *
 * Touches of what is being received, and receives that fail. */
#include "invariants.h"

/* ---- touching what is being received ---- */

/* Only the helper makes progress while the one thread sits in its fault. */
Test(receive, a_touch_waits_for_the_landing)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    loop_delay(comm, 50);
    CHECK_OK(zc_irecv(b, 2 * PAGE, 0, 1, comm));
    post_pattern(comm, 1, 2 * PAGE, 2);
    CHECK_PATTERN(b, 2 * PAGE, 2);
    CHECK_OK(zc_irecv(b, 2 * PAGE, 0, 1, comm)); /* and so does a store */
    post_pattern(comm, 1, 2 * PAGE, 3);
    store(b, 5);
    CHECK(load(b) == 5);
    CHECK_PATTERN(b + PAGE, 0, 0);
    zc_status status;
    CHECK_OK(zc_wait(b, &status));
    CHECK(status.length == 2 * PAGE && status.tag == 1);
    CHECK_OK(zc_close(comm));
}

static volatile struct {
    int calls, error;
    const char *opens; /* a page that is open now, or NULL */
} handled;             /* in a handler, that is between any two instructions */

static void on_error(zc_comm *comm, int error, const char *message, void *argument)
{
    (void)comm, (void)argument;
    CHECK(message && *message);
    handled.calls++;
    handled.error = error;
    CHECK(!handled.opens || !kernel_reads(handled.opens));
}

Test(receive, a_failed_one_is_never_shown_as_data)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    CHECK_OK(zc_set_error_handler(comm, on_error, NULL));
    fail_receive(comm, b);
    CHECK_PAGES(b, "-w"); /* over, but not told */
    CHECK_OK(zc_irecv(b + 100, 100, 0, 2, comm));
    post_pattern(comm, 2, 100, 3);
    CHECK_OK(zc_progress(comm));
    CHECK_PAGES(b, "-w"); /* nor is it shown with another that landed in its page */
    handled.opens = b;
    load(b);
    CHECK(handled.calls == 1 && handled.error == -EIO);
    CHECK_PAGES(b, "ww"); /* the handler returned: it goes on, and is not told again */
    load(b);
    CHECK(handled.calls == 1);
    CHECK_IS(zc_wait(b, NULL), -EIO);
    CHECK(zc_flush(comm) == -EIO);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

Test(receive, zc_wait_tells_of_a_failed_one_and_opens_its_pages)
{
    for (int writable = 0; writable < 2; writable++) {
        zc_comm *comm = loop_strict();
        char *b = buffer(2, 1);
        fail_receive(comm, b);
        CHECK_PAGES(b, "-w");
        if (writable)
            CHECK_IS(zc_writable(b), -EIO);
        CHECK_IS(zc_wait(b, NULL), -EIO);
        CHECK_PAGES(b, "ww");
        CHECK(zc_flush(comm) == -EIO);
        CHECK_OK(zc_close(comm));
    }
}

/* A failed receive's pages stay closed beside a send of the same buffer. */
Test(receive, a_send_does_not_show_a_failed_one)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(3, 1);
    CHECK_OK(zc_set_error_handler(comm, on_error, NULL));
    fail_receive(comm, b);
    CHECK_OK(zc_send(b + 100, 2 * PAGE - 100, 0, 2, comm));
    CHECK(page_shown(b) == '-');
    CHECK_MESSAGE(comm, 2, 100, 2 * PAGE - 100, 1);
    CHECK(page_shown(b) == '-');
    load(b);
    CHECK(handled.calls == 1);
    CHECK_IS(zc_wait(b, NULL), -EIO);
    CHECK_PAGES(b, "www");
    CHECK(zc_flush(comm) == -EIO);
    CHECK_OK(zc_close(comm));
}

/* Nor does it go out in a send of the bytes themselves; a buffer that could not be given up stays the program's. */
Test(receive, a_failed_one_is_not_sent)
{
    for (int give = 0; give < 2; give++) {
        zc_comm *comm = loop_strict();
        char *b = buffer(2, 1);
        fail_receive(comm, b);
        for (int again = 0; again < 2; again++)
            CHECK_IS(give ? zc_send_free(b, 2 * PAGE, 0, 2, comm) : zc_send(b, 2 * PAGE, 0, 2, comm), -EIO);
        CHECK_IS(zc_wait(b, NULL), -EIO);
        pattern_fill(b, 2 * PAGE, 3);
        CHECK_OK(give ? zc_send_free(b, 2 * PAGE, 0, 2, comm) : zc_send(b, 2 * PAGE, 0, 2, comm));
        CHECK_MESSAGE(comm, 2, 0, 2 * PAGE, 3);
        CHECK(zc_flush(comm) == -EIO);
        CHECK_OK(zc_close(comm));
    }
}

/* Nor does any other call take it for data because one of them has told of it; not even a touch. */
Test(receive, calls_tell_of_a_failed_one_until_zc_wait_does)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1), *other = buffer(2, 2), *moved;
    struct zc_guard guard = {0};
    CHECK_OK(zc_set_error_handler(comm, on_error, NULL));
    fail_receive(comm, b);
    for (int again = 0; again < 2; again++) {
        CHECK_IS(zc_writable(b + PAGE), -EIO);
        CHECK_IS(zc_write(other, b, 100), -EIO);
        CHECK_IS(zc_write(b, other, 100), -EIO);
        moved = zc_realloc(b, 100 * PAGE);
        CHECK(!moved && errno == EIO);
        CHECK_FAILS(zc_guard(b, 100, ZC_DENY_STORES, &guard), -EBUSY, "failed");
        CHECK_FAILS(zc_guard(b, 100, ZC_DENY_ALL, &guard), -EBUSY, "failed");
    }
    CHECK_OK(zc_guard(b + 100, PAGE, ZC_DENY_ALL, &guard)); /* other bytes */
    CHECK_OK(zc_unguard(&guard));
    CHECK_PAGES(b, "-w");
    CHECK(handled.calls == 0);
    load(b);
    CHECK(handled.calls == 1 && handled.error == -EIO);
    CHECK_OK(zc_writable(b)); /* the handler returned */
    CHECK_IS(zc_wait(b, NULL), -EIO);
    CHECK_OK(zc_guard(b, 100, ZC_DENY_ALL, &guard));
    CHECK_OK(zc_unguard(&guard));
    CHECK(zc_flush(comm) == -EIO);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* A pointer that no receive contains names the sends of its page; other receives of the page are not asked. */
Test(receive, zc_wait_beside_one_does_not_wait)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
    CHECK_OK(zc_wait(b + 200, NULL));
    CHECK(page_shown(b) == '-');
    loop_fail(comm, 1, -EIO);
    post_pattern(comm, 1, 100, 2);
    CHECK_OK(zc_progress(comm));
    CHECK_OK(zc_wait(b + 200, NULL));
    CHECK_IS(zc_wait(b, NULL), -EIO);
    CHECK(zc_flush(comm) == -EIO);
    CHECK_OK(zc_close(comm));
}

Test(receive, cancel_leaves_the_bytes)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(3, 1);
    CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
    CHECK_OK(zc_irecv(b + 100, 2 * PAGE, 0, 2, comm));
    CHECK_PAGES(b, "---");
    CHECK_OK(zc_cancel(b + 100));
    CHECK_PAGES(b, "-ww");
    CHECK_OK(zc_cancel(b));
    CHECK_PAGES(b, "www");
    CHECK_PATTERN(b, 3 * PAGE, 1);
    CHECK_FAILS(zc_cancel(b), -ENOENT, "no receive");
    CHECK_OK(zc_send(b, 3 * PAGE, 0, 3, comm)); /* bounced ones as well */
    CHECK_OK(zc_irecv(b, 3 * PAGE, 0, 1, comm));
    CHECK_OK(zc_cancel(b));
    CHECK_PAGES(b, "rrr");
    CHECK_MESSAGE(comm, 3, 0, 3 * PAGE, 1);
    CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
    post_pattern(comm, 1, 100, 2);
    CHECK_OK(zc_progress(comm));
    CHECK_FAILS(zc_cancel(b), -EALREADY, "landed");
    CHECK_OK(zc_wait(b, NULL));
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* zc_close cancels: that is an error of the receive, not data. */
Test(receive, close_cancels)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
    CHECK_OK(zc_close(comm));
    CHECK_PAGES(b, "-w");
    CHECK_IS(zc_wait(b, NULL), -ECANCELED);
    CHECK_PAGES(b, "ww");
    CHECK_PATTERN(b, 2 * PAGE, 1);
    CHECK_REST(slot_pool(slot_at(b)));
}

/* One of no bytes at the buffer's end, which nobody can ask about, goes when it has landed. */
Test(receive, one_that_no_pointer_names_does_not_stay)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(zc_irecv(b + 2 * PAGE, 0, 0, 1, comm));
        CHECK_OK(zc_send(NULL, 0, 0, 1, comm));
        CHECK_OK(zc_progress(comm));
        CHECK(!slot_at(b)->receives);
    }
    CHECK_OK(zc_irecv(b + 2 * PAGE, 0, 0, 1, comm));
    CHECK_OK(zc_close(comm));
    CHECK(!slot_at(b)->receives);
    CHECK_REST(slot_pool(slot_at(b)));
}
