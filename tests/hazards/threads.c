/* SPDX-License-Identifier: MIT
 *
 * Hazards: stores and waits on other threads than the one that sent or received. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hazard.h"

static void *store_middle(void *argument)
{
    struct flight *f = argument;

    ((volatile char *)f->buffer)[f->length / 2] ^= 1;
    return NULL;
}

void hazard_store_from_another_thread(void)
{
    zc_comm *comm = open_self();

    for (unsigned i = 0; i < 20; i++) {
        struct flight f;
        zc_stats before = stats_now();

        flight_start(&f, comm, 64 * KIB, i);
        thread_join(thread_start(store_middle, &f));
        expect_conflict(&before);
        CHECK(pattern_differs(f.buffer, f.length, i) == f.length / 2);
        flight_land(&f);
        CHECK(pattern_differs(f.buffer, f.length, i) == f.length / 2);
        flight_release(&f);
    }
    CHECK_OK(zc_close(comm));
}

struct storer {
    pthread_t thread;
    pthread_barrier_t *barrier;
    volatile unsigned char *buffer;
    size_t first, step, length;
};

static void *store_strided(void *argument)
{
    struct storer *s = argument;

    pthread_barrier_wait(s->barrier);
    for (size_t at = s->first; at < s->length; at += s->step)
        s->buffer[at] = (unsigned char)(at % 251);
    return NULL;
}

/* n threads fault on the same pages at the same time: one rename, no store lost. */
static void threads_fault(unsigned n, size_t length, unsigned rounds)
{
    zc_comm *comm = open_self();

    for (unsigned round = 0; round < rounds; round++) {
        struct flight f;
        struct storer storer[16];
        pthread_barrier_t barrier;
        zc_stats before = stats_now();

        flight_start(&f, comm, length, round);
        pthread_barrier_init(&barrier, NULL, n);
        for (unsigned i = 0; i < n; i++) {
            storer[i] = (struct storer){
                .barrier = &barrier, .buffer = (unsigned char *)f.buffer, .first = i, .step = n, .length = length};
            storer[i].thread = thread_start(store_strided, &storer[i]);
        }
        for (unsigned i = 0; i < n; i++)
            thread_join(storer[i].thread);
        pthread_barrier_destroy(&barrier);
        expect_conflict(&before);
        for (int landed = 0; landed < 2; landed++) {
            for (size_t at = 0; at < length; at++)
                CHECKF((unsigned char)f.buffer[at] == at % 251, "a store to byte %zu was lost", at);
            if (!landed)
                flight_land(&f);
        }
        flight_release(&f);
    }
    CHECK_OK(zc_close(comm));
}

void hazard_two_threads_fault(void)
{
    threads_fault(2, 5 * PAGE, 100);
}

enum { COUNTERS = 6, SENDS = 400 };

struct counter {
    pthread_t thread;
    volatile uint64_t *word;
    size_t stride; /* words between the two copies that the thread keeps */
    atomic_bool *stop;
    uint64_t count;
};

static void *count_up(void *argument)
{
    struct counter *c = argument;

    while (!atomic_load(c->stop)) {
        c->count++;
        c->word[0] = c->count;
        c->word[c->stride] = c->count;
    }
    return NULL;
}

/* Threads count in words of their own, without a pause, in a buffer that is sent again and again. The
 * stores race with the sends, so a message may hold the one or the other value; but no store is ever
 * lost, and what later messages hold is never older than what earlier ones held. */
void hazard_many_threads_fault(void)
{
    zc_comm *comm = open_self();
    size_t length = 8 * PAGE;
    uint64_t *buffer = ALLOC(length), *in = ALLOC(length), seen[COUNTERS] = {0};
    struct counter counter[COUNTERS];
    atomic_bool stop = false;

    memset(buffer, 0, length);
    for (size_t i = 0; i < COUNTERS; i++) {
        counter[i] = (struct counter){.word = buffer + i, .stride = (i + 1) * PAGE / sizeof *buffer, .stop = &stop};
        counter[i].thread = thread_start(count_up, &counter[i]);
    }
    for (int n = 0; n < SENDS; n++) {
        CHECK_OK(zc_send(buffer, length, 0, 1, comm));
        if (n % 3 == 0)
            sched_yield();
        CHECK_OK(zc_recv(in, length, 0, 1, comm, NULL));
        for (size_t i = 0; i < COUNTERS; i++) {
            CHECKF(in[i] >= seen[i], "message %d: counter %zu fell from %llu to %llu", n, i,
                   (unsigned long long)seen[i], (unsigned long long)in[i]);
            seen[i] = in[i];
        }
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < COUNTERS; i++) {
        thread_join(counter[i].thread);
        CHECKF(counter[i].word[0] == counter[i].count && counter[i].word[counter[i].stride] == counter[i].count,
               "counter %zu is %llu and %llu, not %llu", i, (unsigned long long)counter[i].word[0],
               (unsigned long long)counter[i].word[counter[i].stride], (unsigned long long)counter[i].count);
    }
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
    threads_fault(8, 64 * KIB, 20);
}

static void *receive_tag_9(void *argument)
{
    char *in = ALLOC(100 * KIB);

    CHECK_OK(zc_recv(in, 100 * KIB, 0, 9, argument, NULL));
    CHECK_PATTERN(in, 100 * KIB, 99);
    CHECK_OK(zc_free(in));
    return NULL;
}

/* The store must not need the thread that sits in zc_recv, nor what that thread may hold. */
void hazard_fault_while_thread_receives(void)
{
    zc_comm *comm = open_self();
    pthread_t thread = thread_start(receive_tag_9, comm);
    char *last = ALLOC(100 * KIB);

    for (unsigned i = 0; i < 50; i++) {
        struct flight f;
        zc_stats before = stats_now();

        flight_start(&f, comm, 64 * KIB, i);
        store_middle(&f);
        expect_conflict(&before);
        flight_land(&f);
        flight_release(&f);
    }
    loop_hold(comm, false);
    pattern_fill(last, 100 * KIB, 99);
    CHECK_OK(zc_send(last, 100 * KIB, 0, 9, comm));
    thread_join(thread);
    CHECK_OK(zc_free(last));
    CHECK_OK(zc_close(comm));
}

static void *deliver_later(void *argument)
{
    usleep(30000); /* lets the other threads touch first, most of the time; right either way */
    loop_hold(argument, false);
    while (loop_held(argument) > 0)
        CHECK_OK(zc_progress(argument));
    return NULL;
}

void hazard_touch_waits_for_receive(void)
{
    zc_comm *comm = open_self();

    for (unsigned i = 0; i < 6; i++) {
        struct flight f;
        pthread_t thread;

        flight_start(&f, comm, 64 * KIB, i);
        thread = thread_start(deliver_later, comm);
        if (i % 2) /* a store waits as a load does */
            ((volatile char *)f.in)[f.length - 1] = 's';
        CHECK_PATTERN(f.in, f.length - 1, i);
        CHECK(f.in[f.length - 1] == 's' || i % 2 == 0);
        thread_join(thread);
        CHECK_OK(zc_wait(f.in, NULL));
        flight_release(&f);
    }
    CHECK_OK(zc_close(comm));
}

/* By mlock(2), or by mlockall(2) with everything else: what is taken out of a mapping then is locked. */
void hazard_locked_in_memory(void)
{
    zc_comm *comm = open_self();
    char *in = ALLOC(64 * KIB), *out = ALLOC(64 * KIB);

    if (mlock(in, 64 * KIB) || mlock(out, 64 * KIB))
        CHECK(errno == ENOMEM || errno == EPERM); /* by ulimit -l */
    for (unsigned i = 0; i < 4; i++) {
        CHECK_OK(zc_irecv(in, 64 * KIB, 0, 1, comm));
        pattern_fill(out, 64 * KIB, i);
        CHECK_OK(zc_send(out, 64 * KIB, 0, 1, comm));
        CHECK_PATTERN(in, 64 * KIB, i);
        CHECK_OK(zc_wait(in, NULL));
    }
    expect_conflicts(comm); /* of other buffers than these: a fault on one of their pages may be taken for the last */
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_close(comm));
}

static void *read_received(void *argument)
{
    struct flight *f = argument;

    CHECK_PATTERN(f->in, f->length, f->seed);
    return NULL;
}

void hazard_two_threads_wait_for_receive(void)
{
    zc_comm *comm = open_self();

    for (unsigned i = 0; i < 6; i++) {
        struct flight f;
        pthread_t a, b;

        flight_start(&f, comm, 64 * KIB, i);
        a = thread_start(read_received, &f);
        b = thread_start(read_received, &f);
        deliver_later(comm);
        thread_join(a);
        thread_join(b);
        CHECK_OK(zc_wait(f.in, NULL));
        flight_release(&f);
    }
    CHECK_OK(zc_close(comm));
}

/* While the first ones wait for long, others come to the same page all the time. */
void hazard_crowd_waits_for_receive(void)
{
    enum { CROWD = 400 };
    zc_comm *comm = open_self();
    struct flight f;
    pthread_t thread[CROWD];

    flight_start(&f, comm, 4 * KIB, 1);
    for (int i = 0; i < CROWD; i++)
        thread[i] = thread_start(read_received, &f);
    deliver_later(comm);
    for (int i = 0; i < CROWD; i++)
        thread_join(thread[i]);
    CHECK_OK(zc_wait(f.in, NULL));
    flight_release(&f);
    CHECK_OK(zc_close(comm));
}

/* A store that waits (conflict = wait) waits for what was in flight when it came. What is sent after it is
 * copied, so that a sender who never stops cannot starve it. */
void hazard_waiting_store_does_not_starve(void)
{
    enum { LATER = 3 };
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    struct flight f;
    char *in[LATER];
    pthread_t thread;

    options.policy = ZC_POLICY_PROTECT;
    options.conflict = ZC_CONFLICT_WAIT;
    CHECK_OK(zc_open("loop", &options, &comm));
    zc_stats before = stats_now();
    flight_start(&f, comm, 64 * KIB, 5);
    thread = thread_start(store_middle, &f);
    while (stats_now().conflicts == before.conflicts)
        sched_yield();
    for (int i = 0; i < LATER; i++) {
        in[i] = ALLOC(f.length);
        CHECK_OK(zc_irecv(in[i], f.length, 0, 2, comm));
        CHECK_OK(zc_send(f.buffer, f.length, 0, 2, comm));
    }
    CHECK_OK(zc_progress(comm));
    CHECK(loop_held(comm) == 1 + LATER);
    CHECK(stats_now().sends_copied >= before.sends_copied + LATER);
    flight_land(&f);
    thread_join(thread); /* with the later ones still held */
    CHECK(stats_now().renames == before.renames);
    loop_hold(comm, false);
    for (int i = 0; i < LATER; i++) {
        CHECK_OK(zc_wait(in[i], NULL));
        CHECK_PATTERN(in[i], f.length, 5);
        CHECK_OK(zc_free(in[i]));
    }
    flight_release(&f);
    CHECK_OK(zc_close(comm));
}

struct told {
    int calls, error;
    bool named;
};

static void take_error(zc_comm *comm, int error, const char *message, void *argument)
{
    volatile struct told *told = argument;

    (void)comm;
    told->calls++;
    told->error = error;
    told->named = message && message[0];
}

/* A receive that failed is never shown as data. */
void hazard_failed_receive_calls_handler(void)
{
    zc_comm *comm = open_self();
    volatile struct told told = {0}; /* changed in a handler */
    struct flight f;
    zc_status status;

    CHECK_OK(zc_set_error_handler(comm, take_error, (void *)&told));
    flight_start(&f, comm, 64 * KIB, 1);
    loop_fail(comm, 1, -EIO);
    loop_hold(comm, false);
    (void)*(volatile char *)f.in;
    CHECKF(told.calls == 1 && told.error == -EIO && told.named, "%d calls, error %d", told.calls, told.error);
    CHECK_IS(zc_wait(f.in, &status), -EIO);
    CHECK(status.error == -EIO);
    CHECK_IS(zc_flush(comm), -EIO); /* the sender's side of it */
    CHECK_OK(zc_flush(comm));
    memset(f.in, 0, f.length);
    memset(f.buffer, 0, f.length);
    flight_release(&f);

    /* By zc_wait alone: no call of the handler. */
    flight_start(&f, comm, 64 * KIB, 2);
    loop_fail(comm, 1, -ECONNRESET);
    loop_hold(comm, false);
    CHECK_IS(zc_wait(f.in, NULL), -ECONNRESET);
    CHECK(told.calls == 1);
    ((volatile char *)f.in)[0] = 1;
    CHECK(told.calls == 1);
    flight_release(&f);
    CHECK_IS(zc_close(comm), -ECONNRESET);
}
