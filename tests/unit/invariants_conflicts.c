/* SPDX-License-Identifier: MIT
 *
 * Rules 7 and 8 of the state machine, and how conflicts end (docs/design.md). */
#include <signal.h>

#include "invariants.h"

/* ---- rule 7: a waiting writer waits only for what is older ---- */

Test(rule7, sends_after_an_awaited_one_are_copied)
{
    zc_comm *comm = loop_with(ZC_CONFLICT_WAIT, ZC_POLICY_PROTECT, ZC_RELEASE_EAGER);
    char *b = buffer(2, 1);
    struct access access = {.at = b, .value = 5};
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    pthread_t writer = thread_start(store_there, &access);
    until_awaited(b);
    zc_stats before = stats_now();
    for (int tag = 2; tag < 10; tag++)
        CHECK_OK(zc_send(b, 2 * PAGE, 0, tag, comm));
    CHECK(stats_now().sends_copied == before.sends_copied + 8);
    CHECK(!atomic_load(&access.done));
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    thread_join(writer); /* although eight sends are still in flight */
    CHECK(load(b) == 5);
    for (int tag = 2; tag < 10; tag++)
        CHECK_MESSAGE(comm, tag, 0, 2 * PAGE, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm)); /* the mark went with the writer */
    CHECK(stats_now().sends_copied == before.sends_copied + 8);
    CHECK_PAGES(b, "rr");
    char in[2 * PAGE];
    CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* A guard that meets an awaited send ends it as a store would; it does not wait for the peer. */
Test(rule7, a_guard_of_an_awaited_buffer_does_not_wait)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    struct zc_guard guard;
    int done;
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    CHECK_OK(zc_test(b, &done, NULL));
    CHECK(!done && slot_at(b)->awaited);
    CHECK_OK(zc_guard(b, 2 * PAGE, ZC_DENY_STORES, &guard));
    CHECK_PAGES(b, "rr");
    CHECK_OK(zc_unguard(&guard));
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* ---- rule 8: a fault on a page that was just released returns and retries ---- */

enum { SPURIOUS = 20 };

static struct {
    char *at;
    _Atomic int asked, done;
} stores;

static void *store_as_asked(void *unused)
{
    (void)unused;
    for (int i = 1; i <= SPURIOUS; i++) {
        while (atomic_load(&stores.asked) < i)
            sched_yield();
        store(stores.at, (char)i);
        atomic_store(&stores.done, i);
    }
    return NULL;
}

/* By one thread at one address, as often as one likes: something has changed each time. */
Test(rule8, a_fault_that_finds_nothing_is_retried)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_LAZY);
    char *b = buffer(2, 1), in[2 * PAGE];
    stores.at = b;
    pthread_t writer = thread_start(store_as_asked, NULL);
    for (int i = 1; i <= SPURIOUS; i++) {
        CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
        CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
        CHECK_PAGES(b, "rr");
        zc_stats before = stats_now();
        struct backing *backing = slot_lock(slot_at(b));
        atomic_store(&stores.asked, i);
        until_faults(before.faults + 1); /* it is in the handler, and waits for the lock */
        slot_settle(slot_at(b), backing);
        slot_unlock(backing);
        while (atomic_load(&stores.done) < i)
            sched_yield();
        zc_stats after = stats_now();
        CHECK(after.faults_spurious == before.faults_spurious + 1 && after.faults_idle == before.faults_idle);
        CHECK(load(b) == (char)i);
    }
    thread_join(writer);
    CHECK_OK(zc_close(comm));
}

/* The program itself took the access away: nothing that zc could end, and no endless loop either. */
Test(rule8, a_fault_that_changes_nothing_is_not_ours, .signal = SIGSEGV, .timeout = 60)
{
    char *b = buffer(2, 1);
    CHECK(mprotect(b, PAGE, PROT_READ) == 0);
    store(b, 1);
}

/* ---- conflicts with sends ---- */

/* Whoever waited, however briefly, would have seen the helper end the send. */
Test(conflict, copy_renames_at_once)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1), *in = buffer(4, 2), *want = malloc(4 * PAGE);
    make_renames_dear(b);
    zc_stats before = stats_now();
    loop_delay(comm, 20);
    CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(in, 4 * PAGE, 0, 1, comm));
    store(b + PAGE, 5);
    zc_stats after = stats_now();
    CHECK(after.conflicts == before.conflicts + 1 && after.renames == before.renames + 1);
    CHECK_PAGES(b, "wwww");
    pattern_fill(want, 4 * PAGE, 1);
    want[PAGE] = 5;
    CHECK(memcmp(b, want, 4 * PAGE) == 0);
    CHECK_PATTERN(in, 4 * PAGE, 1);
    CHECK_OK(zc_flush(comm)); /* it lands first, then the send is over */
    free(want);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* The peer never receives: the store goes on nevertheless. */
Test(conflict, auto_renames_in_the_end)
{
    zc_comm *comm = loop_with(ZC_CONFLICT_AUTO, ZC_POLICY_PROTECT, ZC_RELEASE_EAGER);
    char *b = buffer(4, 1);
    zc_stats before = stats_now();
    CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
    store(b, 5);
    zc_stats after = stats_now();
    CHECK(after.renames == before.renames + 1 && after.waits == before.waits + 1);
    CHECK_MESSAGE(comm, 1, 0, 4 * PAGE, 1);
    CHECK(load(b) == 5);
    CHECK_OK(zc_close(comm));
}

/* The send ends while the writer waits, by nobody's progress but the helper's: no rename. */
Test(conflict, auto_waits_first)
{
    zc_comm *comm = loop_with(ZC_CONFLICT_AUTO, ZC_POLICY_PROTECT, ZC_RELEASE_EAGER);
    char *b = buffer(4, 1), *in = buffer(4, 2);
    make_renames_dear(b);
    struct backing *backing = backing_of(b);
    zc_stats before = stats_now();
    loop_delay(comm, 20);
    CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(in, 4 * PAGE, 0, 1, comm));
    store(b, 5);
    zc_stats after = stats_now();
    CHECK(after.renames == before.renames && after.conflicts == before.conflicts + 1);
    CHECK(backing_of(b) == backing);
    CHECK_PATTERN(in, 4 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}

Test(conflict, wait_never_renames)
{
    zc_comm *comm = loop_with(ZC_CONFLICT_WAIT, ZC_POLICY_PROTECT, ZC_RELEASE_EAGER);
    char *b = buffer(2, 1);
    struct access access = {.at = b, .value = 5};
    zc_stats before = stats_now();
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    pthread_t writer = thread_start(store_there, &access);
    until_awaited(b);
    /* Long after a rename would have been the better choice. */
    usleep(50000);
    CHECK(!atomic_load(&access.done));
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    thread_join(writer);
    CHECK(stats_now().renames == before.renames && load(b) == 5);
    CHECK_OK(zc_close(comm));
}

/* Loads are not in the way of a send. */
Test(conflict, loads_go_on)
{
    zc_comm *comm = loop_with(ZC_CONFLICT_WAIT, ZC_POLICY_PROTECT, ZC_RELEASE_EAGER);
    char *b = buffer(2, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    zc_stats before = stats_now();
    CHECK_PATTERN(b, 2 * PAGE, 1);
    CHECK(stats_now().faults == before.faults);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}
