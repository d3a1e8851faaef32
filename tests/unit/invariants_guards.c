/* SPDX-License-Identifier: MIT
 *
 * zc_guard and zc_pin, and the calls instead of touches. */
#include <signal.h>

#include "invariants.h"
#include "transport/comm.h"
#include "transport/shm.h"

/* ---- zc_guard and zc_pin ---- */

Test(guard, deny_stores)
{
    char *b = buffer(3, 1);
    struct zc_guard guard, second;
    CHECK_OK(zc_guard(b + PAGE, 2 * PAGE, ZC_DENY_STORES, &guard));
    CHECK_OK(zc_guard(b, 2 * PAGE, ZC_DENY_STORES, &second));
    CHECK_PAGES(b, "rrr");
    zc_stats before = stats_now();
    store(b + PAGE, 5); /* an early store gets fresh pages, the operation keeps its own */
    CHECK(stats_now().renames == before.renames + 1);
    CHECK_PAGES(b, "www");
    char *want = malloc(3 * PAGE);
    pattern_fill(want, 3 * PAGE, 1);
    CHECK(memcmp(guard.wire, want + PAGE, 2 * PAGE) == 0 && memcmp(second.wire, want, 2 * PAGE) == 0);
    want[PAGE] = 5;
    CHECK(memcmp(b, want, 3 * PAGE) == 0);
    free(want);
    CHECK_OK(zc_unguard(&second));
    CHECK_OK(zc_unguard(&guard));
    CHECK_IS(zc_unguard(&guard), -EINVAL);
    CHECK_REST(slot_pool(slot_at(b)));
}

Test(guard, deny_all)
{
    char *b = buffer(3, 1);
    struct zc_guard guard, second;
    struct access access = {.at = b + PAGE};
    CHECK_OK(zc_guard(b + PAGE, PAGE, ZC_DENY_ALL, &guard));
    CHECK_PAGES(b, "w-w");
    CHECK_FAILS(zc_guard(b + PAGE + 7, 1, ZC_DENY_ALL, &second), -EBUSY, "guard");
    CHECK_FAILS(zc_guard(b, 1, ZC_DENY_STORES, &second), -EBUSY, "receive");
    pthread_t reader = thread_start(load_there, &access);
    until_awaited(b);
    pattern_fill(guard.wire, PAGE, 9);
    CHECK(!atomic_load(&access.done));
    CHECK_OK(zc_unguard(&guard));
    thread_join(reader);
    CHECK_PAGES(b, "www");
    CHECK_PATTERN(b + PAGE, PAGE, 9);
    CHECK(access.value == load(b + PAGE));
    CHECK_REST(slot_pool(slot_at(b)));
}

struct ending {
    struct zc_guard guard;
    _Atomic bool begun;
};

static void *unguard_later(void *argument)
{
    struct ending *ending = argument;
    usleep(50000); /* lets the waiting thread get past its spins, most of the time; right either way */
    atomic_store(&ending->begun, true);
    CHECK_OK(zc_unguard(&ending->guard));
    return NULL;
}

/* One of no bytes is in nobody's way, however whatever else is done with the buffer. */
Test(guard, of_nothing_holds_nothing, .timeout = 60)
{
    for (enum zc_deny deny = ZC_DENY_STORES; deny <= ZC_DENY_ALL; deny++) {
        zc_comm *comm = loop_strict();
        char *b = buffer(2, 1), *from = buffer(1, 2);
        struct zc_guard guard, other;
        CHECK_OK(zc_guard(b + 10, 0, deny, &guard));
        CHECK(guard.wire == backing_wire(backing_of(b)) + 10 && guard.length == 0);
        CHECK_OK(zc_write(b, from, PAGE));
        CHECK_OK(zc_guard(b, PAGE, ZC_DENY_ALL, &other));
        CHECK_OK(zc_unguard(&other));
        CHECK_OK(zc_send(b, PAGE, 0, 1, comm));
        CHECK_PAGES(b, "rw");
        CHECK_MESSAGE(comm, 1, 0, PAGE, 2);
        CHECK_OK(zc_guard(b, PAGE, ZC_DENY_STORES, &other));
        CHECK_OK(zc_unguard(&other));
        CHECK_OK(zc_unguard(&guard));
        CHECK_IS(zc_unguard(&guard), -EINVAL);
        CHECK_REST(slot_pool(slot_at(b)));
        CHECK_OK(zc_close(comm));
    }
}

/* One that is refused is no send that was copied. */
Test(guard, without_mappings)
{
    CHECK(setenv("ZC_MAPS", "1", 1) == 0);
    char *b = buffer(2, 1);
    struct zc_guard guard;
    CHECK_FAILS(zc_guard(b, PAGE, ZC_DENY_STORES, &guard), -ENOMEM, "no mappings");
    CHECK(stats_now().unreserved == 0);
    CHECK_REST(slot_pool(slot_at(b)));
}

/* The variables that say what a touch does hold for guards as for messages. */
Test(guard, conflict_by_variable)
{
    CHECK(setenv("ZC_CONFLICT", "wait", 1) == 0);
    char *b = buffer(2, 1);
    struct zc_guard guard;
    struct access access = {.at = b, .value = 5};
    zc_stats before = stats_now();
    CHECK_OK(zc_guard(b, 2 * PAGE, ZC_DENY_STORES, &guard));
    pthread_t writer = thread_start(store_there, &access);
    until_awaited(b);
    usleep(50000); /* long after a rename would have been the better choice */
    CHECK(!atomic_load(&access.done));
    CHECK_OK(zc_unguard(&guard));
    thread_join(writer);
    CHECK(stats_now().renames == before.renames && load(b) == 5);
    CHECK_REST(slot_pool(slot_at(b)));
}

Test(guard, on_conflict_by_variable, .signal = SIGABRT)
{
    CHECK(setenv("ZC_ON_CONFLICT", "abort", 1) == 0);
    char *b = buffer(2, 1);
    struct zc_guard guard;
    CHECK_OK(zc_guard(b, 2 * PAGE, ZC_DENY_STORES, &guard));
    store(b, 5);
}

Test(guard, on_timeout_by_variable, .signal = SIGABRT, .timeout = 60)
{
    CHECK(setenv("ZC_FAULT_TIMEOUT", "50", 1) == 0 && setenv("ZC_ON_TIMEOUT", "abort", 1) == 0);
    char *b = buffer(2, 1);
    struct zc_guard guard;
    CHECK_OK(zc_guard(b, 2 * PAGE, ZC_DENY_ALL, &guard));
    load(b);
}

/* Where a guard is what a wait finds, it waits for that to end. */
Test(guard, a_wait_lasts_until_it_ends)
{
    for (int i = 0; i < 4; i++) {
        bool any = i & 1;
        char *b = buffer(2, 1);
        const void *bufs[] = {b + PAGE, b};
        struct ending ending = {.begun = false};
        int done, index;
        CHECK_OK(zc_guard(b, 2 * PAGE, i & 2 ? ZC_DENY_ALL : ZC_DENY_STORES, &ending.guard));
        struct hold *hold = ending.guard.hold;
        memset(hold + 1, 'A', sizeof(struct zc_comm *)); /* what an operation has there, and a guard leaves alone */
        CHECK_OK(zc_test(b, &done, NULL));
        CHECK(!done);
        pthread_t other = thread_start(unguard_later, &ending);
        CHECK_OK(any ? zc_wait_any(2, bufs, &index, NULL) : zc_wait(b, NULL));
        CHECK(atomic_load(&ending.begun));
        thread_join(other);
        CHECK_OK(zc_test(b, &done, NULL));
        CHECK(done);
        CHECK_REST(slot_pool(slot_at(b)));
    }
}

/* What both count as a wait. */
Test(receive, waits_are_counted)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(1, 1);
    const void *bufs[] = {b};
    for (int any = 0; any < 2; any++) {
        int index;
        loop_delay(comm, 1000); /* polls */
        CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
        post_pattern(comm, 1, 100, 2);
        zc_stats before = stats_now();
        CHECK_OK(any ? zc_wait_any(1, bufs, &index, NULL) : zc_wait(b, NULL));
        CHECK(stats_now().waits == before.waits + 1);
        CHECK_PATTERN(b, 100, 2);
        CHECK_OK(any ? zc_wait_any(1, bufs, &index, NULL) : zc_wait(b, NULL)); /* for nothing */
        CHECK(stats_now().waits == before.waits + 1);
    }
    CHECK_OK(zc_close(comm));
}

static void *wait_for_receive(void *b)
{
    CHECK_OK(zc_wait(b, NULL));
    return NULL;
}

/* Also where the thread sleeps meanwhile. */
Test(receive, a_wait_that_sleeps_is_counted_once)
{
    char address[64], *b = buffer(1, 1);
    zc_comm *comm;
    snprintf(address, sizeof address, "shm:waits%d?rank=0&size=1", (int)getpid());
    CHECK_OK(zc_open(address, NULL, &comm));
    const struct shm *shm = comm->endpoint.state;
    CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
    zc_stats before = stats_now();
    pthread_t waiter = thread_start(wait_for_receive, b);
    while (!atomic_load(&shm->sleeping))
        sched_yield();
    post_pattern(comm, 1, 100, 2);
    thread_join(waiter);
    CHECK(stats_now().waits == before.waits + 1);
    CHECK_PATTERN(b, 100, 2);
    CHECK_OK(zc_close(comm));
}

/* Guards and messages exclude one another as messages do. */
Test(guard, beside_messages)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(3, 1);
    struct zc_guard guard;
    CHECK_OK(zc_send(b, 3 * PAGE, 0, 1, comm));
    CHECK_OK(zc_guard(b, PAGE, ZC_DENY_ALL, &guard)); /* ends the conflict: a writer needs pages of its own */
    CHECK_PAGES(b, "-ww");
    CHECK_FAILS(zc_irecv(b + 5, 10, 0, 2, comm), -EBUSY, "or a guard holds it");
    zc_stats before = stats_now();
    CHECK_OK(zc_send(b + PAGE, PAGE, 0, 3, comm));
    CHECK(stats_now().sends_copied == before.sends_copied + 1);
    memset(guard.wire, 7, PAGE);
    CHECK_MESSAGE(comm, 1, 0, 3 * PAGE, 1);
    CHECK_MESSAGE(comm, 3, PAGE, PAGE, 1);
    CHECK_OK(zc_unguard(&guard));
    CHECK_BYTES(b, PAGE, 7);

    CHECK_OK(zc_guard(b, PAGE, ZC_DENY_STORES, &guard));
    CHECK_OK(zc_irecv(b, 100, 0, 2, comm)); /* bounced, as beside a send */
    post_pattern(comm, 2, 100, 4);
    CHECK_OK(zc_wait(b, NULL));
    CHECK_BYTES(guard.wire, PAGE, 7);
    CHECK_PATTERN(b, 100, 4);
    CHECK_OK(zc_free(b)); /* and outlives the buffer */
    CHECK_BYTES(guard.wire, PAGE, 7);
    CHECK_OK(zc_unguard(&guard));
    CHECK_OK(zc_close(comm));
}

Test(guard, pin)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    void *wire;
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm)); /* the address must not be that of pages that are given up */
    CHECK_OK(zc_pin(b + 10, &wire));
    CHECK(wire == backing_wire(backing_of(b)) + 10);
    zc_stats before = stats_now();
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 2, comm));
    CHECK(stats_now().sends_copied == before.sends_copied + 1);
    CHECK_PAGES(b, "ww");
    store(b + 10, 5);
    CHECK_OK(zc_irecv(b, 2 * PAGE, 0, 3, comm));
    post_pattern(comm, 3, 2 * PAGE, 6);
    CHECK_OK(zc_wait(b, NULL));
    CHECK(wire == backing_wire(backing_of(b)) + 10 && memcmp(wire, b + 10, 2 * PAGE - 10) == 0);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_MESSAGE(comm, 2, 0, 2 * PAGE, 1);
    CHECK_OK(zc_unpin(b));
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 4, comm));
    CHECK_PAGES(b, "rr");
    CHECK_MESSAGE(comm, 4, 0, 2 * PAGE, 6);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* A large message would land by an exchange of pages. */
Test(guard, pin_keeps_the_pages_from_a_receive_elsewhere)
{
    enum { PAGES = 512, BIG = 500 };
    zc_comm *comm = loop_strict();
    char *b = buffer(PAGES, 1);
    void *wire;
    CHECK_OK(zc_send(b, PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(b + PAGE, BIG * PAGE, 0, 2, comm));
    CHECK(slot_at(b)->receives->bounce);
    CHECK_OK(zc_pin(b, &wire));
    CHECK_MESSAGE(comm, 1, 0, PAGE, 1);
    post_pattern(comm, 2, BIG * PAGE, 2);
    CHECK_OK(zc_wait(b + PAGE, NULL));
    CHECK_PATTERN((char *)wire + PAGE, BIG * PAGE, 2);
    CHECK(memcmp(wire, b, PAGES * PAGE) == 0);
    CHECK_OK(zc_unpin(b));
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

Test(guard, a_pin_ends_with_the_buffer)
{
    char *b = buffer(2, 1), *again;
    struct zc_pool *pool = slot_pool(slot_at(b));
    struct zc_guard guard;
    CHECK_OK(zc_pin(b, NULL));
    CHECK_OK(zc_free(b));
    do
        again = slot_in(pool);
    while (again != b);
    CHECK_OK(zc_guard(b, 2 * PAGE, ZC_DENY_STORES, &guard));
    CHECK_PAGES(b, "rr");
    CHECK_OK(zc_unguard(&guard));
    CHECK_REST(pool);
}

/* ---- calls instead of touches ---- */

Test(calls, zc_write_ends_conflicts_but_no_idle_protection)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(3, 1), *from = buffer(1, 2);
    CHECK_OK(zc_send(b, 3 * PAGE, 0, 1, comm));
    CHECK_MESSAGE(comm, 1, 0, 3 * PAGE, 1);
    zc_stats before = stats_now();
    CHECK_OK(zc_write(b + 10, from, 100));
    CHECK(stats_now().unprotects == before.unprotects);
    CHECK_PAGES(b, "rrr");
    CHECK_PATTERN(b + 10, 100, 2);
    pattern_fill(b, 3 * PAGE, 1);
    CHECK_OK(zc_send(b, 3 * PAGE, 0, 1, comm));
    CHECK_OK(zc_write(b + PAGE, "x", 1));
    CHECK(load(b + PAGE) == 'x');
    CHECK_MESSAGE(comm, 1, 0, 3 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}

Test(calls, zc_writable_opens_all)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(3, 1);
    CHECK_OK(zc_send(b, 3 * PAGE, 0, 1, comm));
    CHECK(!kernel_writes(b));
    CHECK_OK(zc_writable(b + 2 * PAGE));
    CHECK_PAGES(b, "www");
    CHECK(kernel_writes(b));
    CHECK_MESSAGE(comm, 1, 0, 3 * PAGE, 1);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}
