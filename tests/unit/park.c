/* SPDX-License-Identifier: MIT
 *
 * Faults of userfaultfd whose news are late: the thread has been woken with others and has gone on. The library's two
 * threads are held up at their system calls until it is so. */
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "invariants.h"
#include "tests/unit/interpose.h"

TestSuite(park, .timeout = 60);

enum { SIZE = 16 * PAGE };

static zc_comm *comm;
static char *shared, *got;

static _Atomic bool armed;
static _Atomic int first, second;            /* threads that store to one page, this one before that */
static _Atomic bool first_read, second_read; /* by the reader */
static _Atomic bool gone_on;                 /* the second, as far as the test says */
static _Atomic int wakes;                    /* since its news have been let through */
static _Atomic bool resting;                 /* the parker, until there is something to do */
static bool stops;                           /* the second, when it has gone on, for longer than a lock may be taken */

/* A thread is asleep in the kernel: in a fault, if it does nothing else. */
static bool asleep(int tid)
{
    char path[64], state = '?';
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    FILE *file = fopen(path, "re");
    CHECK(file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
    fclose(file);
    return state == 'S';
}

static void before_call(long number, const long a[6])
{
    static _Atomic int parker;
    if (number == SYS_futex && a[1] == FUTEX_WAIT_PRIVATE && !a[3] && sys_tid() == atomic_load(&parker))
        atomic_store(&resting, true);
    if (number != SYS_ioctl || a[1] != (long)UFFDIO_WAKE)
        return;
    atomic_store(&parker, sys_tid());
    while (!atomic_load(&second_read)) /* the first is let go when the second's news are read, and not on the list */
        sched_yield();
    atomic_store(&resting, false);
    if (atomic_load(&gone_on))
        atomic_fetch_add(&wakes, 1);
}

static void after_read(const struct uffd_msg *message)
{
    int thread = message->event == UFFD_EVENT_PAGEFAULT ? (int)message->arg.pagefault.feat.ptid : 0;
    if (thread && thread == atomic_load(&first) && !atomic_exchange(&first_read, true))
        while (!atomic_load(&second) || !asleep(atomic_load(&second)))
            sched_yield();
    if (thread && thread == atomic_load(&second) && !atomic_exchange(&second_read, true))
        while (!atomic_load(&gone_on))
            sched_yield();
}

/* To where it waits for the reader. */
static void go_to_kernel(void)
{
    atomic_store(&gone_on, true);
    if (stops)
        usleep(1500000);
    stops = false;
}

static long on_syscall(long number, const long a[6])
{
    if (atomic_load(&armed) && number == SYS_mremap && sys_tid() == atomic_load(&second))
        go_to_kernel();
    if (atomic_load(&armed))
        before_call(number, a);
    long result = real_syscall(number, a);
    if (atomic_load(&armed) && number == SYS_read && result == (long)sizeof(struct uffd_msg))
        after_read((const struct uffd_msg *)a[1]);
    return result;
}

static void *store_first(void *unused)
{
    atomic_store(&first, sys_tid());
    store(shared, 1);
    return unused;
}

static void open_comm(void)
{
    setenv("ZC_PROTECT", "userfaultfd", 1);
    comm = loop_renaming(ZC_RELEASE_LAZY);
    got = ALLOC(SIZE);
    if (slot_pool(slot_at(got))->protect != ZC_PROTECT_USERFAULTFD)
        cr_skip_test("there is no userfaultfd");
}

/* Another thread and this one store to a page that is left protected; and this one goes on. */
static void run(void (*go_on)(void))
{
    shared = ALLOC(SIZE);
    loop_resend(comm, &shared, 1, got, SIZE);
    first_read = second_read = gone_on = false;
    first = second = wakes = 0;
    atomic_store(&armed, true);
    pthread_t thread = thread_start(store_first, NULL);
    while (!atomic_load(&first_read))
        sched_yield();
    atomic_store(&second, sys_tid());
    store(shared + 1, 1);
    thread_join(thread); /* whose store is not to meet what comes now */
    go_on();
    while (!atomic_load(&wakes) || !atomic_load(&resting)) /* the parker has done with the news what it does */
        sched_yield();
    atomic_store(&armed, false);
}

static void send_it(void)
{
    CHECK_OK(zc_send(shared, SIZE, 0, 1, comm));
    atomic_store(&gone_on, true);
}

/* Its store was before the message. */
Test(park, a_store_does_not_conflict_with_a_later_send)
{
    open_comm();
    run(send_it);
    zc_stats now = stats_now();
    CHECKF(now.conflicts == 0 && now.renames == 0, "%d conflicts, %d renames", (int)now.conflicts, (int)now.renames);
    CHECK_OK(zc_recv(got, SIZE, 0, 1, comm, NULL));
    CHECK(load(got) == 1 && load(got + 1) == 1);
    CHECK_OK(zc_close(comm));
}

static void free_it(void)
{
    CHECK_OK(zc_free(shared));
    atomic_store(&gone_on, true);
}

/* However often its thread has touched what was freed before that was looked at. */
Test(park, a_buffer_that_was_freed_since_can_be_used_again)
{
    open_comm();
    for (int i = 0; i < 10; i++)
        run(free_it);
    char *again = ALLOC(SIZE);
    CHECK(again == shared);
    store(again + 1, 2);
    CHECK_OK(zc_close(comm));
}

/* Nobody waits for its page any more. */
Test(park, a_buffer_may_be_trimmed_away)
{
    open_comm();
    char *b = buffer(1, 1);
    struct slot *slot = slot_at(b);
    zc_pool *pool = slot_pool(slot);
    size_t released;
    CHECK_OK(zc_free(b));
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released > 0 && !slot_find(b));
    pages_show(slot, 0);
    CHECK(lock_owner(&atomic_load(&slot->backing)->lock) == 0);
    CHECK_OK(zc_close(comm));
}

/* Its slot may be a copy's now, of memory that is not zc's. */
Test(park, a_buffer_that_a_copy_is_in_flight_from)
{
    open_comm();
    char *b = buffer(1, 1);
    struct slot *slot = slot_at(b);
    struct hold copied = {.length = PAGE};
    CHECK_OK(zc_free(b));
    hold_show_copy(&copied, slot);
    pages_show(slot, 0);
    hold_hide_copy(&copied, slot);
    CHECK_OK(zc_close(comm));
}

/* It fails, and whoever has the buffer next does not notice. */
Test(park, a_system_call_on_what_was_freed)
{
    open_comm();
    for (int i = 0; i < 2; i++) {
        char *b = ALLOC(SIZE);
        loop_resend(comm, &b, 1, got, SIZE);
        CHECK_OK(zc_free(b));
        CHECK(!kernel_writes(b + PAGE));
        char *again = ALLOC(SIZE);
        CHECK(again == b);
        store(again + PAGE, 2);
        CHECK(load(again + PAGE) == 2 && kernel_writes(again + PAGE));
        CHECK_OK(zc_free(again));
    }
    CHECK_OK(zc_close(comm));
}

static void rename_it(void)
{
    CHECK_OK(zc_send(shared, SIZE, 0, 1, comm));
    CHECK_OK(zc_writable(shared)); /* with the slot locked, moves mappings, for which the kernel waits for the reader */
}

/* It is not taken for a signal handler that touches what its thread has locked. */
Test(park, a_lock_of_a_thread_that_has_gone_on)
{
    open_comm();
    run(rename_it);
    CHECK(stats_now().renames == 1);
    CHECK_OK(zc_recv(got, SIZE, 0, 1, comm, NULL));
    CHECK_OK(zc_close(comm));
}

static void rename_slowly(void)
{
    stops = true;
    rename_it();
}

/* However long it has it: it may be stopped, or wait for a processor. */
Test(park, a_lock_of_a_thread_that_is_stopped)
{
    open_comm();
    run(rename_slowly);
    CHECK(!stops && stats_now().renames == 1);
    CHECK_OK(zc_recv(got, SIZE, 0, 1, comm, NULL));
    CHECK_OK(zc_close(comm));
}
