/* SPDX-License-Identifier: MIT
 *
 * The rules under threads: no store is lost, no page opens too early, nothing is given back twice. */
#include "invariants.h"
#include "transport/comm.h"

/* ---- stores while the buffer is sent and renamed ---- */

enum { WRITERS = 4, PAGES = 8, MESSAGES = 100, CONFLICTS = 50 };

static struct {
    char *bytes;
    _Atomic bool stop;
} shared;

/* Each writer has the bytes of its own number modulo WRITERS in each page; nobody else stores there. */
static void *write_own(void *argument)
{
    size_t own = (size_t)(uintptr_t)argument;
    unsigned char value = 0;
    while (!atomic_load(&shared.stop)) {
        value++;
        for (int page = 0; page < PAGES; page++)
            store(shared.bytes + (size_t)page * PAGE + own, (char)value);
        for (int page = 0; page < PAGES; page++)
            CHECKF(load(shared.bytes + (size_t)page * PAGE + own) == (char)value,
                   "writer %zu: its store %u to page %d is lost", own, value, page);
    }
    return NULL;
}

static void writers_against_sends(enum zc_conflict conflict, enum zc_release release)
{
    zc_comm *comm = loop_with(conflict, ZC_POLICY_PROTECT, release);
    pthread_t writers[WRITERS];
    char in[PAGES * PAGE];
    uint64_t random = 1;
    shared.bytes = buffer(PAGES, 1);
    zc_stats before = stats_now();
    for (size_t i = 0; i < WRITERS; i++)
        writers[i] = thread_start(write_own, (void *)i);
    /* Up to three are in flight, which end in another order than they began; until enough have met a store. */
    for (int i = 0; i < MESSAGES || stats_now().conflicts < before.conflicts + CONFLICTS; i++) {
        for (int tag = 0; tag < 3; tag++) {
            size_t at = random_below(&random, PAGES * PAGE), length = 1 + random_below(&random, PAGES * PAGE - at);
            CHECK_OK(zc_send(shared.bytes + at, length, 0, tag, comm));
        }
        for (int tag = 2; tag >= 0; tag--) {
            sched_yield();
            CHECK_OK(zc_recv(in, sizeof in, 0, tag, comm, NULL));
        }
    }
    atomic_store(&shared.stop, true);
    for (size_t i = 0; i < WRITERS; i++)
        thread_join(writers[i]);
    /* What nobody stored to is as it was. */
    char *want = malloc(PAGES * PAGE);
    pattern_fill(want, PAGES * PAGE, 1);
    for (int page = 0; page < PAGES; page++)
        CHECK(memcmp(shared.bytes + (size_t)page * PAGE + WRITERS, want + (size_t)page * PAGE + WRITERS,
                     PAGE - WRITERS) == 0);
    free(want);
    CHECK_REST(slot_pool(slot_at(shared.bytes)));
    CHECK_OK(zc_close(comm));
}

Test(races, no_store_is_lost_by_renames)
{
    writers_against_sends(ZC_CONFLICT_COPY, ZC_RELEASE_EAGER);
}

Test(races, no_store_is_lost_while_protection_lingers)
{
    writers_against_sends(ZC_CONFLICT_AUTO, ZC_RELEASE_LAZY);
}

/* The message is what the buffer held, whoever stores to it afterwards. */
Test(races, a_message_is_a_snapshot)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(PAGES, 1), in[PAGES * PAGE];
    shared.bytes = b;
    for (int i = 0; i < 200; i++) {
        memset(b, i, PAGES * PAGE);
        CHECK_OK(zc_send(b, PAGES * PAGE, 0, 1, comm));
        atomic_store(&shared.stop, false);
        pthread_t writers[2];
        for (size_t k = 0; k < 2; k++)
            writers[k] = thread_start(write_own, (void *)k);
        while (load(b) == (char)i && load(b + 1) == (char)i)
            sched_yield();
        CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
        atomic_store(&shared.stop, true);
        for (size_t k = 0; k < 2; k++)
            thread_join(writers[k]);
        CHECK_BYTES(in, sizeof in, (unsigned char)i);
    }
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* ---- renames beside receives in flight ---- */

static void *watch_closed(void *argument)
{
    while (!atomic_load(&shared.stop))
        CHECKF(!kernel_reads(argument), "a page of a receive in flight was open for a moment");
    return NULL;
}

Test(races, renames_do_not_open_pages_of_receives)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    for (int i = 0; i < 100; i++) {
        pattern_fill(b, 4 * PAGE, 1);
        CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
        CHECK_OK(zc_irecv(b + PAGE, PAGE, 0, 2, comm));
        atomic_store(&shared.stop, false);
        pthread_t watcher = thread_start(watch_closed, b + PAGE);
        zc_stats before = stats_now();
        store(b + 3 * PAGE, 5);
        CHECK(stats_now().renames == before.renames + 1);
        CHECK_PAGES(b, "w-ww");
        CHECK_OK(zc_irecv(b + 2 * PAGE, PAGE, 0, 3, comm)); /* no send is left on these pages: direct */
        CHECK_PAGES(b, "w--w");
        atomic_store(&shared.stop, true);
        thread_join(watcher);
        post_pattern(comm, 2, PAGE, 2);
        post_pattern(comm, 3, PAGE, 3);
        CHECK_OK(zc_wait(b + 2 * PAGE, NULL));
        CHECK_OK(zc_wait(b + PAGE, NULL));
        CHECK_PATTERN(b, PAGE, 1);
        CHECK_PATTERN(b + PAGE, PAGE, 2);
        CHECK_PATTERN(b + 2 * PAGE, PAGE, 3);
        CHECK(load(b + 3 * PAGE) == 5);
        CHECK_MESSAGE(comm, 1, 0, 4 * PAGE, 1);
        CHECK_REST(slot_pool(slot_at(b)));
    }
    CHECK_OK(zc_close(comm));
}

/* ---- zc_write from one buffer into another ---- */

struct write {
    char *to, *from;
    size_t length;
};

static void *write_there(void *argument)
{
    struct write *write = argument;
    CHECK_OK(zc_write(write->to, write->from, write->length));
    return NULL;
}

/* While it waits for its source, the destination's pages must stay: a store that meets a send of another part of
 * the buffer must not rename them away. */
Test(races, zc_write_is_not_lost_by_a_rename)
{
    zc_comm *comm = loop_strict();
    char *to = buffer(4, 1), *from = buffer(1, 2);
    CHECK_OK(zc_send(to + 3 * PAGE, PAGE, 0, 1, comm));
    struct write write = {.to = to, .from = from, .length = PAGE};
    struct backing *destination = slot_lock(slot_at(to));
    pthread_t writer = thread_start(write_there, &write);
    while (
        !(atomic_load(&destination->lock.word) & LOCK_ASLEEP)) /* until it sleeps there, having looked at its source */
        sched_yield();
    struct backing *source = slot_lock(slot_at(from));
    slot_unlock(destination);
    while (!(atomic_load(&source->lock.word) & LOCK_ASLEEP)) /* until it sleeps here, about to copy */
        sched_yield();
    store(to + 3 * PAGE, 5);
    slot_unlock(source);
    thread_join(writer);
    CHECK_PATTERN(to, PAGE, 2);
    CHECK(load(to + 3 * PAGE) == 5);
    CHECK_MESSAGE(comm, 1, 3 * PAGE, PAGE, 1);
    CHECK_REST(slot_pool(slot_at(to)));
    CHECK_OK(zc_close(comm));
}

/* ---- holds of calls that have not returned yet ---- */

static const struct hold_rules plain = {
    .conflict = ZC_CONFLICT_COPY, .policy = ZC_POLICY_PROTECT, .release = ZC_RELEASE_EAGER, .helper = true};

/* A blocking receive has landed, but its call has not returned: its bytes are not another's yet. */
Test(races, a_landed_receive_belongs_to_its_call)
{
    char *b = buffer(2, 1), *wire;
    struct hold first = {.slot = slot_at(b), .length = 100, .rules = &plain}, second = first, third = first;
    CHECK_OK(hold_receive(&first, false, &wire));
    CHECK(!hold_landed(&first, 100, 0));
    CHECK_IS(hold_receive(&second, false, &wire), -EBUSY);
    hold_withdraw(&first);
    CHECK_OK(hold_receive(&third, true, &wire));
    CHECK(!hold_landed(&third, 100, 0));
    CHECK_OK(zc_free(b)); /* by another thread: its slot stays until the call is through with it */
    CHECK(slot_at(b)->receives == &third);
    hold_withdraw(&third);
    CHECK_REST(slot_pool(slot_at(b)));
}

/* Between posting a message that was likely to be taken at once and guarding it, a receive into the same pages may
 * be posted by another thread. */
Test(races, a_send_kept_late_does_not_open_a_receive)
{
    char *b = buffer(3, 1), *in;
    struct hold send = {.slot = slot_at(b), .length = 2 * PAGE, .rules = &plain};
    struct hold receive = {.slot = slot_at(b), .offset = PAGE, .length = 10, .rules = &plain};
    const char *out = hold_send_tentative(&send);
    CHECK(out && !send.protects);
    CHECK_PAGES(b, "www");
    CHECK_OK(hold_receive(&receive, true, &in));
    CHECK(receive.bounce);
    CHECK_PAGES(b, "w-w");
    hold_send_keep(&send);
    CHECK(page_shown(b + PAGE) == '-');
    store(b, 5);
    memset(in, 8, 10);
    CHECK(!hold_landed(&receive, 10, 0));
    CHECK_BYTES(b + PAGE, 10, 8);
    char *want = malloc(2 * PAGE);
    pattern_fill(want, 2 * PAGE, 1);
    CHECK(memcmp(out, want, 2 * PAGE) == 0);
    free(want);
    hold_withdraw(&receive);
    hold_end(&send);
    CHECK_REST(slot_pool(slot_at(b)));
}

/* The same for one that was not taken, without and with a rename in between. */
Test(races, a_send_kept_late_is_guarded)
{
    char *b = buffer(2, 1);
    struct hold send = {.slot = slot_at(b), .length = 2 * PAGE, .rules = &plain}, other = send;
    const char *out = hold_send_tentative(&send);
    hold_send_keep(&send);
    CHECK_PAGES(b, "rr");
    store(b, 5);
    CHECK(*out != 5 || load(b) == 5);
    hold_end(&send);
    CHECK_PAGES(b, "ww");

    send.protects = false;
    out = hold_send_tentative(&send);
    CHECK(hold_send(&other) == out && !other.resent);
    store(b, 6); /* renames both away */
    hold_send_keep(&send);
    CHECK_PAGES(b, "ww");
    CHECK(*out == 5 && load(b) == 6);
    hold_end(&other);
    hold_end(&send);
    CHECK_REST(slot_pool(slot_at(b)));
}

/* One that was copied held its pages only for so long: nothing of it is left to be taken out of a list. */
Test(races, a_send_that_was_copied_is_in_no_list)
{
    char *b = buffer(2, 1), to[2 * PAGE];
    struct hold copied = {.slot = slot_at(b), .length = 2 * PAGE, .rules = &plain}, sent = copied;
    CHECK(hold_send_copied(&copied, to));
    CHECK(memcmp(to, b, 2 * PAGE) == 0);
    CHECK(hold_send_tentative(&sent));
    hold_hide_copy(&copied, slot_at(b)); /* as for a copy that was never shown */
    CHECK(sent.backing->sends == &sent);
    hold_end(&sent);
    CHECK_REST(slot_pool(slot_at(b)));
}

/* ---- zc_cancel beside zc_wait ---- */

static struct transport late; /* the loop transport, whose cancel comes late */
static char *cancelled, *next;

static void cancel_late(struct endpoint *endpoint, struct op *op)
{
    zc_comm *comm = op->comm;
    post_pattern(comm, 1, PAGE, 2);
    CHECK_OK(zc_wait(cancelled, NULL));
    CHECK_OK(zc_irecv(next, PAGE, 0, 2, comm));
    loop_transport.cancel(endpoint, op);
}

/* Meanwhile another thread has waited for the receive and posted another one, which is not to be cancelled. */
Test(races, zc_cancel_cancels_no_other_receive)
{
    zc_comm *comm = loop_strict();
    cancelled = buffer(1, 1);
    next = buffer(1, 3);
    late = loop_transport;
    late.cancel = cancel_late;
    comm->transport = &late;
    CHECK_OK(zc_irecv(cancelled, PAGE, 0, 1, comm));
    CHECK_FAILS(zc_cancel(cancelled), -EALREADY, "landed");
    comm->transport = &loop_transport;
    post_pattern(comm, 2, PAGE, 4);
    CHECK_OK(zc_wait(next, NULL));
    CHECK_PATTERN(cancelled, PAGE, 2);
    CHECK_PATTERN(next, PAGE, 4);
    CHECK_OK(zc_close(comm));
}

static _Atomic bool asked;

static int receive_late(struct endpoint *endpoint, struct op *op, void *wire, size_t cap, int src, int tag)
{
    while (!atomic_load(&asked))
        sched_yield();
    return loop_transport.receive(endpoint, op, wire, cap, src, tag);
}

static void ask(struct endpoint *endpoint, struct op *op)
{
    loop_transport.cancel(endpoint, op);
    atomic_store(&asked, true);
}

static void *post_late(void *comm)
{
    CHECK_OK(zc_irecv(cancelled, PAGE, 0, 1, comm));
    return NULL;
}

/* The buffer says that it is being received into, but the transport has not been told yet. */
Test(races, zc_cancel_of_a_receive_that_is_being_posted)
{
    zc_comm *comm = loop_strict();
    cancelled = buffer(1, 1);
    late = loop_transport;
    late.receive = receive_late;
    late.cancel = ask;
    comm->transport = &late;
    pthread_t poster = thread_start(post_late, comm);
    while (!*(struct hold *volatile *)&slot_at(cancelled)->receives)
        sched_yield();
    CHECK_OK(zc_cancel(cancelled));
    thread_join(poster);
    CHECK_PATTERN(cancelled, PAGE, 1);
    CHECK_REST(slot_pool(slot_at(cancelled)));
    CHECK_OK(zc_close(comm));
}

static pthread_t touching;

static void *touch(void *unused)
{
    (void)unused;
    return (void *)(uintptr_t)load(cancelled);
}

static void cancel_under_touch(struct endpoint *endpoint, struct op *op)
{
    void *seen;
    loop_transport.cancel(endpoint, op);
    pthread_join(touching, &seen);
    CHECK((uintptr_t)seen == 7);
}

/* Whoever waits for the receive in a touch finds the buffer as it was, and no receive that failed. */
Test(races, zc_cancel_lets_touches_go_on)
{
    zc_comm *comm = loop_strict();
    cancelled = buffer(1, 1);
    store(cancelled, 7);
    late = loop_transport;
    late.cancel = cancel_under_touch;
    comm->transport = &late;
    CHECK_OK(zc_irecv(cancelled, PAGE, 0, 1, comm));
    touching = thread_start(touch, NULL);
    until_awaited(cancelled);
    CHECK_OK(zc_cancel(cancelled));
    CHECK_FAILS(zc_cancel(cancelled), -ENOENT, "no receive");
    CHECK_REST(slot_pool(slot_at(cancelled)));
    CHECK_OK(zc_close(comm));
}

static void *wait_in_vain(void *unused)
{
    zc_status status;
    (void)unused;
    CHECK_FAILS(zc_wait(cancelled, &status), -ECANCELED, "the receive from rank 0 with tag 1");
    CHECK(status.error == -ECANCELED);
    return NULL;
}

/* Even where another receive is in flight before the thread looks again. */
Test(races, zc_cancel_is_told_to_who_waits)
{
    zc_comm *comm = loop_strict();
    cancelled = buffer(1, 1);
    for (int i = 0; i < 100; i++) {
        CHECK_OK(zc_irecv(cancelled, PAGE, 0, 1, comm));
        pthread_t waiter = thread_start(wait_in_vain, NULL);
        while (!atomic_load(&comm->inside))
            sched_yield();
        CHECK_OK(zc_cancel(cancelled));
        CHECK_OK(zc_irecv(cancelled, PAGE, 0, 2, comm));
        thread_join(waiter);
        CHECK_OK(zc_cancel(cancelled));
        CHECK_OK(zc_wait(cancelled, NULL));
    }
    CHECK_OK(zc_close(comm));
}

/* ---- everything at once ---- */

enum { ROUNDS = 300 };

/* Sends, frees and receives on a pool of its own; another thread frees, too. */
static void *churn(void *argument)
{
    zc_comm *comm = argument;
    static _Atomic int tags;
    int tag = atomic_fetch_add(&tags, 1);
    uint64_t random = (uint64_t)tag + 1;
    zc_pool *pool = pool_of_pages(2);
    for (unsigned i = 0; i < ROUNDS; i++) {
        char *b = slot_in(pool);
        pattern_fill(b, 2 * PAGE, i);
        unsigned sends = 1 + (unsigned)random_below(&random, 3);
        for (unsigned k = 0; k < sends; k++)
            CHECK_OK(zc_send(b, 2 * PAGE, 0, tag, comm));
        if (random_below(&random, 2))
            store(b + random_below(&random, 2 * PAGE), 1);
        if (random_below(&random, 2))
            CHECK_OK(zc_irecv(b, 2 * PAGE, 0, tag, comm));
        else
            CHECK_OK(zc_irecv(b + PAGE + 10, 100, 0, 1000 + tag, comm));
        post_pattern(comm, 1000 + tag, 100, i);
        CHECK_OK(zc_free(b)); /* with all of it in flight */
        char in[2 * PAGE];
        zc_status status;
        int found;
        for (CHECK_OK(zc_iprobe(0, tag, comm, &found, NULL)); found; CHECK_OK(zc_iprobe(0, tag, comm, &found, NULL))) {
            CHECK_OK(zc_recv(in, sizeof in, 0, tag, comm, &status));
            CHECK_PATTERN(in, sizeof in, i);
        }
        for (CHECK_OK(zc_iprobe(0, 1000 + tag, comm, &found, NULL)); found;
             CHECK_OK(zc_iprobe(0, 1000 + tag, comm, &found, NULL)))
            CHECK_OK(zc_recv(in, sizeof in, 0, 1000 + tag, comm, &status));
    }
    return pool;
}

Test(races, nothing_is_lost_or_given_back_twice)
{
    zc_comm *comm = loop_strict();
    pthread_t threads[3];
    void *pools[3];
    for (int i = 0; i < 3; i++)
        threads[i] = thread_start(churn, comm);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], &pools[i]);
    CHECK_OK(zc_close(comm));
    for (int i = 0; i < 3; i++)
        CHECK_REST((struct zc_pool *)pools[i]);
}

/* ---- what others do meanwhile to a buffer that zc_recv lands in ---- */

static zc_comm *receiving;

static void *receive_into(void *b)
{
    CHECK_OK(zc_recv(b, PAGE, 0, 5, receiving, NULL));
    return NULL;
}

static void *send_from(void *b)
{
    CHECK_OK(zc_send(b, PAGE, 0, 6, receiving));
    return NULL;
}

static pthread_t start_receiving(char *b)
{
    pthread_t thread = thread_start(receive_into, b);
    while (!*(struct hold *volatile *)&slot_at(b)->receives)
        sched_yield();
    return thread;
}

static bool awaited(char *b)
{
    struct backing *backing = slot_lock(slot_at(b));
    bool is = slot_at(b)->awaited;
    slot_unlock(backing);
    return is;
}

/* They are told that it landed, and the buffer is awaited no more. */
Test(races, a_send_waits_for_a_blocking_receive)
{
    char *b = buffer(1, 1), out[PAGE];
    receiving = loop_strict();
    pthread_t receiver = start_receiving(b), sender = thread_start(send_from, b);
    while (!awaited(b))
        sched_yield();
    pattern_fill(out, PAGE, 2);
    CHECK_OK(zc_send(out, PAGE, 0, 5, receiving));
    thread_join(receiver);
    thread_join(sender);
    CHECK(!awaited(b));
    CHECK_MESSAGE(receiving, 6, 0, PAGE, 2);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(receiving));
}

/* It comes back when the message has landed. */
Test(races, a_free_during_a_blocking_receive)
{
    char *b = buffer(1, 1), out[PAGE];
    struct zc_pool *pool = slot_pool(slot_at(b));
    receiving = loop_strict();
    pthread_t receiver = start_receiving(b);
    CHECK_OK(zc_free(b));
    pattern_fill(out, PAGE, 2);
    CHECK_OK(zc_send(out, PAGE, 0, 5, receiving));
    thread_join(receiver);
    CHECK_REST(pool);
    CHECK_OK(zc_close(receiving));
}
