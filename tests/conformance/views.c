/* SPDX-License-Identifier: MIT
 *
 * Views: messages that are read where they are, or, over a transport that cannot show them, in a copy. */
#include <errno.h>
#include <stdlib.h>

#include "conformance.h"

static const size_t view_lengths[] = {0, 1, 40, 41, 8192, 8193, 70000, MIB};

void case_view(struct conf *c)
{
    zc_view view;

    for (unsigned i = 0; i < COUNT(view_lengths); i++) {
        size_t len = view_lengths[i];
        char *out = ALLOC(len);

        pattern_fill(out, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(out, len, c->next, 300, c->comm));
        CHECK_OK(zc_recv_view(&view, c->prev, 300, c->comm));
        CHECK(view.length == len && view.status.length == len && view.status.error == 0);
        CHECK(view.status.source == c->prev && view.status.tag == 300);
        CHECK_PATTERN(view.data, len, conf_seed(c->prev, i));
        CHECK_OK(zc_release(&view));
        CHECK(!view.data && view.length == 0);
        CHECK_OK(zc_free(out));
    }
}

/* The sender goes on as if it had been copied: it stores, sends again, and frees. */
void case_view_stays(struct conf *c)
{
    enum { VIEWS = 4 };
    size_t len = 200000;
    zc_view views[VIEWS];
    char *out = ALLOC(len);

    for (unsigned i = 0; i < VIEWS; i++) {
        pattern_fill(out, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(out, len, c->next, 301, c->comm));
        CHECK_OK(zc_recv_view(&views[i], c->prev, 301, c->comm));
    }
    pattern_fill(out, len, 99);
    CHECK_OK(zc_free(out));
    conf_barrier(c);
    char *other = ALLOC(len);
    pattern_fill(other, len, 98);
    for (unsigned i = 0; i < VIEWS; i++) {
        CHECK_PATTERN(views[i].data, len, conf_seed(c->prev, i));
        CHECK_OK(zc_release(&views[i]));
    }
    CHECK_OK(zc_free(other));
}

/* One buffer, and everybody looks at it at the same time. */
void case_view_shared(struct conf *c)
{
    size_t len = 100000;
    char *out = ALLOC(len);
    zc_view view;

    pattern_fill(out, len, conf_seed(0, 1));
    for (int i = 0; i < c->size && c->rank == 0; i++)
        CHECK_OK(zc_send(out, len, i, 302, c->comm));
    CHECK_OK(zc_recv_view(&view, 0, ZC_ANY_TAG, c->comm));
    conf_barrier(c);
    pattern_fill(out, len, 97);
    conf_barrier(c);
    CHECK_PATTERN(view.data, len, conf_seed(0, 1));
    CHECK_OK(zc_release(&view));
    CHECK_OK(zc_free(out));
}

/* Passed on around the ring, released at once: each rank gets its own message back. */
void case_view_forward(struct conf *c)
{
    for (unsigned i = 0; i < COUNT(view_lengths); i++) {
        size_t len = view_lengths[i];
        char *out = ALLOC(len);
        zc_view view;

        pattern_fill(out, len, conf_seed(c->rank, i));
        CHECK_OK(zc_send(out, len, c->next, 303, c->comm));
        for (int hop = 1; hop < c->size; hop++) {
            CHECK_OK(zc_recv_view(&view, c->prev, 303, c->comm));
            CHECK_OK(zc_forward(&view, c->next, 303, c->comm));
            CHECK_OK(zc_release(&view));
        }
        CHECK_OK(zc_recv_view(&view, c->prev, 303, c->comm));
        CHECK_PATTERN(view.data, len, conf_seed(c->rank, i));
        CHECK_OK(zc_release(&view));
        pattern_fill(out, len, 96);
        CHECK_OK(zc_free(out));
    }
}

void case_view_misuse(struct conf *c)
{
    char *out = ALLOC(20000);
    zc_view view = {0}, copy, again;

    pattern_fill(out, 20000, 5);
    CHECK_FAILS(zc_recv_view(NULL, c->prev, 304, c->comm), -EINVAL, "view is NULL");
    CHECK_FAILS(zc_recv_view(&view, c->size, 304, c->comm), -EINVAL, "rank");
    CHECK_OK(zc_release(NULL));
    CHECK_FAILS(zc_release(&view), -EINVAL, "released already");
    CHECK_FAILS(zc_forward(&view, c->next, 304, c->comm), -EINVAL, "released already");
    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(zc_send(out, 20000, c->next, 304, c->comm));
    CHECK_OK(zc_recv_view(&view, c->prev, 304, c->comm));
    CHECK_FAILS(zc_forward(&view, c->size, 304, c->comm), -EINVAL, "rank");
    copy = view;
    CHECK_OK(zc_release(&view));
    CHECK_FAILS(zc_release(&copy), -EINVAL, "released already");
    CHECK_OK(zc_recv_view(&again, c->prev, 304, c->comm));
    CHECK_FAILS(zc_release(&copy), -EINVAL, "released already"); /* though its place is in use again */
    CHECK_PATTERN(again.data, 20000, 5);
    CHECK_OK(zc_release(&again));
    CHECK_OK(zc_free(out));
}

void case_view_after_close(struct conf *c)
{
    zc_comm *comm = c->another(c, 9);
    char *out = ALLOC(20000);
    zc_view view;

    CHECK_OK(zc_send(out, 20000, c->next, 305, comm));
    CHECK_OK(zc_recv_view(&view, c->prev, 305, comm));
    CHECK_OK(zc_close(comm)); /* does not wait for views of this rank */
    CHECK_FAILS(zc_release(&view), -EBADF, "closed");
    CHECK_OK(zc_free(out));
}
