/* SPDX-License-Identifier: MIT */
#include "protect/park.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/clock.h"
#include "core/error.h"
#include "core/stats.h"
#include "core/thread.h"
#include "protect/backend.h"
#include "protect/conflict.h"
#include "protect/fault.h"
#include "protect/helper.h"
#include "protect/pages.h"

struct fault {
    char *address;
    struct slot *slot; /* once looked for; NULL: none */
    bool store;
    bool minor;     /* the page is not in the user mapping */
    bool asked;     /* woken, to see whether it comes again */
    uint32_t seen;  /* wakes before it was read */
    uint64_t since; /* clock at its arrival */
    uint64_t due;   /* of the next step, or of its coming again */
    struct conflict conflict;
};

enum {
    FAULTS_MOST = 1 << 16,  /* a thread has one at a time */
    PATIENCE_NS = 10000000, /* after which a thread is asked whether it is still there */
    REPEATS_MOST = 8,       /* touches of a dead buffer that may be late news, in */
    REPEATS_NS = 100000000, /* so short a time */
    WAKES_KEPT = 64,        /* pages that were woken last */
    LOCKED_KEPT = 64,
    LOCKED_NS = 1000000000, /* after which a lock may not come free */
    LOOK_NS = 1000000
};

static int fd;

/* From the reader to the parker: places [taken, arrived) modulo their number. */
static struct fault *queue;
static _Atomic uint32_t arrived, taken;

static struct fault *parked; /* of the parker alone */
static uint32_t parked_count;

/* Wakes are numbered, and the pages of the last ones kept by the parker, who makes them. A wake lets everybody go on
 * who waits for the page, those as well whose messages have been read, but are not on the list yet: these are late
 * news. What such a thread does next, zc_send or zc_free, must not meet its own old store.
 *
 * The parker adds to the number after a wake, and the reader looks at it before it reads. Whoever was woken before its
 * message was read is not in the kernel's queue any more, but for the instant in which it takes itself out. So a
 * message may be late only if its page is that of a wake with a number that the reader had not seen; then the thread is
 * asked: woken, and believed if it faults again (ask). A message that comes of such a wake was read later, with the
 * number seen, unless parker and reader were both just at it: then it is asked once more. For that the reader must not
 * look at the number and then sleep until there is a message: it polls, looks, and reads without waiting. */
static _Atomic uint32_t wakes;
static const char *woken[WAKES_KEPT];

/* A futex: changes when there is something to look at. */
static _Atomic uint32_t bell;
static _Atomic bool sleeping;

void park_announce(void)
{
    atomic_fetch_add(&bell, 1);
    if (atomic_load(&sleeping))
        futex_wake(&bell);
}

static char *page_of(const char *address)
{
    return (char *)((uintptr_t)address & ~(PAGE_BYTES - 1));
}

/* Wakes all who wait for the page. */
static void wake(const char *address)
{
    struct uffdio_range range = {(uintptr_t)page_of(address), PAGE_BYTES};
    syscall(SYS_ioctl, fd, UFFDIO_WAKE, &range);
}

/* Touches by threads that have what they touch locked. Of the reader alone. */
static struct locked {
    const char *address;
    uint32_t thread;
    uint64_t since;
} locked[LOCKED_KEPT];
static int locked_count;

static bool has_locked(const char *address, uint32_t thread)
{
    struct slot *slot = slot_find(address);
    return slot && lock_owner(&atomic_load(&slot->backing)->lock) == thread;
}

/* Does the thread sleep in a fault that is told of here, as the kernel says? Not so one that is stopped or waits for a
 * processor. */
static bool in_fault(uint32_t thread)
{
    struct text path = {0};
    char where[32] = "";
    text_add(&path, "/proc/self/task/");
    text_add_number(&path, thread);
    text_add(&path, "/wchan");
    int file = (int)syscall(SYS_openat, AT_FDCWD, path.bytes, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    syscall(SYS_read, file, where, sizeof where - 1);
    sys_close(file);
    return strncmp(where, "handle_userfault", strlen("handle_userfault")) == 0;
}

/* A signal handler touches what its thread has locked: the parker would wait for ever, and everybody with it. That is
 * so where it stays so; else the thread has gone on since, after a touch that another's let go, and may have the lock
 * for long, as it was stopped. The reader does not wait to see which: the thread may be moving mappings, for which the
 * kernel waits for the reader. */
static void watch_locked(void)
{
    uint64_t now = locked_count ? clock_ns() : 0;
    for (int i = locked_count; i-- > 0;) {
        if (!has_locked(locked[i].address, locked[i].thread))
            locked[i] = locked[--locked_count];
        else if (now - locked[i].since >= LOCKED_NS && in_fault(locked[i].thread))
            fault_in_handler(locked[i].address);
    }
}

/* There is news of a thread: what it did before is over. */
static void note_locked(const char *address, uint32_t thread)
{
    for (int i = locked_count; i-- > 0;)
        if (locked[i].thread == thread)
            locked[i] = locked[--locked_count];
    if (has_locked(address, thread) && locked_count < LOCKED_KEPT)
        locked[locked_count++] = (struct locked){address, thread, clock_ns()};
}

static void enqueue(const struct uffd_msg *message, uint32_t seen)
{
    char *address = (char *)(uintptr_t)message->arg.pagefault.address;
    uint64_t flags = message->arg.pagefault.flags;
    uint32_t at = atomic_load_explicit(&arrived, memory_order_relaxed);
    if (at - atomic_load_explicit(&taken, memory_order_acquire) == FAULTS_MOST) {
        wake(address); /* it faults again */
        return;
    }
    queue[at % FAULTS_MOST] = (struct fault){.address = address,
                                             .store = flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP),
                                             .minor = flags & UFFD_PAGEFAULT_FLAG_MINOR,
                                             .seen = seen,
                                             .conflict = {.thread = (int)message->arg.pagefault.feat.ptid}};
    atomic_store_explicit(&arrived, at + 1, memory_order_release);
    park_announce();
}

static void *read_messages(void *unused)
{
    (void)unused;
    for (;;) {
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        struct timespec time = {0, LOOK_NS};
        syscall(SYS_ppoll, &poller, 1, locked_count ? &time : NULL, NULL, 0);
        watch_locked();
        struct uffd_msg message;
        uint32_t seen = atomic_load(&wakes);
        if (syscall(SYS_read, fd, &message, sizeof message) == (long)sizeof message &&
            message.event == UFFD_EVENT_PAGEFAULT) {
            note_locked((char *)(uintptr_t)message.arg.pagefault.address, message.arg.pagefault.feat.ptid);
            enqueue(&message, seen);
        }
    }
    return NULL;
}

/* The buffer is not live. Whoever touched it may have gone on, and freed it, before this was looked at; who comes again
 * and again ends as without userfaultfd: by SIGSEGV. */
static void refuse(const struct fault *fault, uint32_t page, uint64_t now)
{
    static const char *last;
    static int by, times;
    static uint64_t first;
    bool again = last == fault->address && by == fault->conflict.thread && now - first < REPEATS_NS;
    times = again ? times + 1 : 1;
    first = again ? first : now;
    last = fault->address;
    by = fault->conflict.thread;
    if (times >= REPEATS_MOST && fault->slot)
        pages_bar(fault->slot, page);
}

/* Takes a step. True if whoever faulted can go on. */
static bool step(struct fault *fault, uint64_t now)
{
    struct slot *slot = fault->slot = slot_find(fault->address);
    size_t offset = slot ? (size_t)(fault->address - slot_user(slot)) : 0;
    uint32_t page = (uint32_t)(offset >> PAGE_SHIFT);
    switch (slot ? conflict_step(&fault->conflict, slot, offset, fault->store) : CONFLICT_DEAD) {
    case CONFLICT_GOES_ON:
        fault->conflict.asleep = true;
        fault->due = now + fault->conflict.sleep_ns;
        if (fault->conflict.sleep_ns)
            helper_kick(fault->due + fault->conflict.sleep_ns);
        return false;
    case CONFLICT_AGAIN:
        break;
    case CONFLICT_DEAD:
        refuse(fault, page, now);
        break;
    case CONFLICT_NONE:
        count(faults_spurious);
        /* fall through */
    case CONFLICT_ENDED:
        if (fault->minor)
            pages_show(slot, page);
    }
    return true;
}

static void wake_numbered(const char *address)
{
    uint32_t number = atomic_load_explicit(&wakes, memory_order_relaxed) + 1;
    wake(address);
    woken[number % WAKES_KEPT] = page_of(address);
    atomic_store(&wakes, number);
}

/* Has the page been woken since there were `seen` wakes? What is not known any more may be so. */
static bool woken_since(const char *address, uint32_t seen)
{
    uint32_t now = atomic_load_explicit(&wakes, memory_order_relaxed);
    bool found = now - seen >= WAKES_KEPT;
    for (uint32_t number = seen; number != now && !found;)
        found = woken[++number % WAKES_KEPT] == page_of(address);
    return found;
}

/* Takes all faults on the page off the list, and only then wakes those who wait: what is on the list does wait. */
static void let_go(const char *address)
{
    for (uint32_t i = parked_count; i-- > 0;)
        if (page_of(parked[i].address) == page_of(address))
            parked[i] = parked[--parked_count];
    wake_numbered(address);
}

/* Wakes all who wait for the page, to see who comes again: a signal handler may have left an access by a long jump,
 * which nobody tells. */
static void ask(const char *address, uint64_t now)
{
    for (struct fault *fault = parked; fault < parked + parked_count; fault++)
        if (page_of(fault->address) == page_of(address)) {
            fault->asked = true;
            fault->due = now + PATIENCE_NS;
        }
    wake_numbered(address);
}

/* It was asked, and did not come again; or it went on, since something has changed. One that was asked before its first
 * step, because of another on its page, has seen no event yet. */
static bool gone(const struct fault *fault, uint64_t now)
{
    return now >= fault->due || (fault->slot && atomic_load(&fault->slot->event) != fault->conflict.event);
}

/* Sees to the faults in turn. Returns when to look again at the latest. */
static uint64_t look_after(void)
{
    uint64_t due = UINT64_MAX;
    for (uint32_t i = 0; i < parked_count; i++) {
        struct fault *fault = &parked[i];
        uint64_t now = clock_ns();
        if (fault->asked ? gone(fault, now) : step(fault, now)) {
            let_go(fault->address);
            return 0; /* others have taken its place */
        }
        if (!fault->asked && fault->conflict.sleep_ns && now - fault->since >= PATIENCE_NS)
            ask(fault->address, now);
        due = fault->due < due ? fault->due : due;
    }
    return due;
}

/* A thread has one fault at a time: an older one of it is over, or comes again. */
static void admit(const struct fault *fault)
{
    uint32_t at = 0;
    while (at < parked_count && parked[at].conflict.thread != fault->conflict.thread)
        at++;
    struct conflict before = parked[at].conflict;
    bool again = at < parked_count && parked[at].asked && page_of(parked[at].address) == page_of(fault->address);
    parked[at] = *fault;
    parked[at].since = clock_ns();
    if (again) {
        parked[at].conflict = before;
        parked[at].conflict.asleep = false;
    } else {
        count(faults);
    }
    parked_count += at == parked_count;
    if (woken_since(fault->address, fault->seen))
        ask(fault->address, clock_ns());
}

static void *park(void *unused)
{
    (void)unused;
    for (;;) {
        uint32_t seen = atomic_load(&bell);
        uint32_t next = atomic_load_explicit(&taken, memory_order_relaxed);
        while (next != atomic_load_explicit(&arrived, memory_order_acquire) && parked_count < FAULTS_MOST) {
            admit(&queue[next % FAULTS_MOST]);
            atomic_store_explicit(&taken, ++next, memory_order_release);
        }
        uint64_t due = look_after();
        atomic_store(&sleeping, true);
        uint64_t now = clock_ns();
        if (due > now)
            futex_wait(&bell, seen, due == UINT64_MAX ? due : due - now);
        atomic_store(&sleeping, false);
    }
    return NULL;
}

int park_open(int descriptor)
{
    fd = descriptor;
    queue = sys_reserve(NULL, (2 * FAULTS_MOST + 1) * sizeof *queue, PROT_READ | PROT_WRITE);
    if (!queue)
        return fail(-ENOMEM, "zc: no memory for parking faults");
    parked = queue + FAULTS_MOST;
    int error = thread_spawn(park, "fault parking");
    return error ? error : thread_spawn(read_messages, "fault reading");
}
