/* SPDX-License-Identifier: MIT
 *
 * Rules 7 to 9 of the state machine, and how conflicts end (docs/design.md). */
#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ucontext.h>

#include "invariants.h"
#include "protect/conflict.h"
#include "protect/fault.h"

struct access {
    char *at;
    char value;
    _Atomic bool done;
};

static void *store_there(void *argument)
{
    struct access *access = argument;
    store(access->at, access->value);
    atomic_store(&access->done, true);
    return NULL;
}

static void *load_there(void *argument)
{
    struct access *access = argument;
    access->value = load(access->at);
    atomic_store(&access->done, true);
    return NULL;
}

/* Waits and renames take their measure from what a rename costs: now so long that no test sees it over. */
static void make_renames_dear(const char *p)
{
    for (int i = 0; i < 100; i++)
        policy_observe(slot_pool(slot_at(p)), COST_RENAME, slot_pool(slot_at(p))->slot_size, UINT32_MAX);
    CHECK(policy_cost(slot_pool(slot_at(p)), COST_RENAME, 0) > 3000000000);
}

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

/* ---- rule 9: one look-up from address to slot ---- */

Test(rule9, every_address_of_a_slot_and_no_other)
{
    char *b = buffer(3, 1), on_stack;
    struct slot *slot = slot_at(b);
    for (size_t at = 0; at < 3 * PAGE; at += 64)
        CHECK(slot_find(b + at) == slot);
    CHECK(slot_find(b + 3 * PAGE - 1) == slot && slot_find(b + 3 * PAGE) != slot && slot_find(b - 1) != slot);
    CHECK(!slot_find(backing_wire(backing_of(b))) && !slot_find(&on_stack) && !slot_find(NULL));
    CHECK(slot_find((void *)UINTPTR_MAX) == NULL);
    CHECK(sizeof(struct entry) <= 64);
    zc_comm *comm = loop_strict(); /* a rename changes the pages, not the slot */
    CHECK_OK(zc_send(b, 3 * PAGE, 0, 1, comm));
    store(b, 1);
    CHECK(slot_find(b) == slot && slot_user(slot) == b && backing_of(b) != slot_home(slot));
    CHECK(load(backing_wire(backing_of(b))) == 1);
    CHECK_MESSAGE(comm, 1, 0, 3 * PAGE, 1);
    CHECK_OK(zc_close(comm));
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
    loop_fail(comm, 1, -EIO);
    CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
    post_pattern(comm, 1, 100, 2);
    CHECK_OK(zc_progress(comm));
    CHECK_PAGES(b, "-w"); /* over, but not told */
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
        loop_fail(comm, 1, -EIO);
        CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
        post_pattern(comm, 1, 100, 2);
        CHECK_OK(zc_progress(comm));
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
    loop_fail(comm, 1, -EIO);
    CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
    post_pattern(comm, 1, 100, 2);
    CHECK_OK(zc_progress(comm));
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
        loop_fail(comm, 1, -EIO);
        CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
        post_pattern(comm, 1, 100, 2);
        CHECK_OK(zc_progress(comm));
        CHECK_IS(give ? zc_send_free(b, 2 * PAGE, 0, 2, comm) : zc_send(b, 2 * PAGE, 0, 2, comm), -EIO);
        CHECK_IS(zc_wait(b, NULL), -EIO);
        pattern_fill(b, 2 * PAGE, 3);
        CHECK_OK(give ? zc_send_free(b, 2 * PAGE, 0, 2, comm) : zc_send(b, 2 * PAGE, 0, 2, comm));
        CHECK_MESSAGE(comm, 2, 0, 2 * PAGE, 3);
        CHECK(zc_flush(comm) == -EIO);
        CHECK_OK(zc_close(comm));
    }
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
    for (int any = 0; any < 2; any++) {
        char *b = buffer(2, 1);
        const void *bufs[] = {b + PAGE, b};
        struct ending ending = {.begun = false};
        int done, index;
        CHECK_OK(zc_guard(b, 2 * PAGE, ZC_DENY_STORES, &ending.guard));
        struct hold *hold = ending.guard.hold; /* of which nothing is an operation's */
        memset(hold + 1, 'A', malloc_usable_size(hold) - sizeof *hold);
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

/* ---- faults that are not ours ---- */

static sigjmp_buf before_fault;
static volatile sig_atomic_t foreign_faults;

static void jump_back(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    foreign_faults++;
    siglongjmp(before_fault, 1);
}

/* Leaves it by a long jump, as programs do that probe addresses; the mask is as the kernel would set it. */
Test(foreign, the_earlier_handler_gets_it_and_may_jump)
{
    struct sigaction action = {.sa_sigaction = jump_back, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1), *hole = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 1; i <= 20; i++) {
        if (sigsetjmp(before_fault, 1) == 0)
            store(hole, 1);
        CHECK(foreign_faults == i);
        pattern_fill(b, 2 * PAGE, 1);
        CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm)); /* zc's own go on working on this thread */
        store(b, 5);
        CHECK(load(b) == 5);
        CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    }
    CHECK(foreign_faults == 20);
    CHECK_OK(zc_close(comm));
}

static void jump_away(zc_comm *comm, int error, const char *message, void *argument)
{
    (void)comm, (void)error, (void)message, (void)argument;
    siglongjmp(before_fault, 1);
}

/* So may an error handler: a failed receive is then never seen, and later conflicts end as before. */
Test(foreign, an_error_handler_may_jump)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    CHECK_OK(zc_set_error_handler(comm, jump_away, NULL));
    for (volatile int i = 0; i < 20; i++) {
        loop_fail(comm, 1, -EIO);
        CHECK_OK(zc_irecv(b, 100, 0, 1, comm));
        post_pattern(comm, 1, 100, 2);
        CHECK_OK(zc_progress(comm));
        if (sigsetjmp(before_fault, 1) == 0) {
            load(b);
            CHECK(!"reached");
        }
        CHECK_SIGNALS();
        CHECK_IS(zc_wait(b, NULL), -EIO);
    }
    CHECK(zc_flush(comm) == -EIO);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    store(b, 5);
    CHECK(load(b) == 5);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}

static char *volatile touched_in_handler;

static void touch_and_open(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    foreign_faults++;
    store(touched_in_handler, 6);
    mprotect((void *)((uintptr_t)info->si_addr & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE);
}

/* An earlier handler that touches a buffer in flight has that conflict ended, too. */
Test(foreign, the_earlier_handler_may_touch_buffers)
{
    struct sigaction action = {.sa_sigaction = touch_and_open, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1), *hole = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    touched_in_handler = b + 1;
    store(hole, 1);
    CHECK(foreign_faults == 1 && load(hole) == 1 && load(b + 1) == 6);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}

static struct sigaction below;

static void pass_on(int signal, siginfo_t *info, void *context)
{
    foreign_faults++;
    below.sa_sigaction(signal, info, context);
}

/* A later handler that passes on to ours, which was put on top again: all get it once, and in order. */
Test(foreign, handlers_above_and_below)
{
    struct sigaction first = {.sa_sigaction = touch_and_open, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &first, NULL);
    zc_comm *comm = loop_strict();
    struct sigaction second = {.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &second, &below);
    zc_comm *other = loop_strict(); /* puts ours on top again */
    char *b = buffer(2, 1), *hole = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    touched_in_handler = b;
    store(hole, 1);
    CHECK(foreign_faults == 2 && load(hole) == 1);
    pattern_fill(b, 2 * PAGE, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    store(b, 5);
    CHECK(foreign_faults == 2);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(other));
    CHECK_OK(zc_close(comm));
}

Test(foreign, errno_stays)
{
    zc_comm *comm = loop_with(ZC_CONFLICT_AUTO, ZC_POLICY_PROTECT, ZC_RELEASE_EAGER);
    char *b = buffer(2, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    errno = 4711;
    store(b, 1);
    CHECK(errno == 4711);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}
