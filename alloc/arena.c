/* SPDX-License-Identifier: MIT */
#include "alloc/arena.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/live.h"
#include "core/thread.h"

_Static_assert(sizeof(struct entry) == 64, "metadata is 64 bytes a page");

struct arena arena;

static int status;
static int refused; /* errno of the last attempt to reserve */

/* MADV_DONTFORK keeps the pages out of a child but leaves holes where a later mmap could land unseen. */
void arena_seal_off(void)
{
    if (arena.forked) /* by an ancestor, or done already; what it got since then is its own */
        return;
    arena.forked = true;
    sys_reserve(arena.user, 2 * arena.span, PROT_NONE);
}

enum { SPAN_LEAST = 1 << 28 };
static const size_t SPAN_MOST = (size_t)1 << 40;

static size_t entries_bytes(size_t span)
{
    return (span >> PAGE_SHIFT) * sizeof(struct entry);
}

static size_t addresses_used(void)
{
    char text[32] = "";
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    return length < 0 ? 0 : strtoul(text, NULL, 10) << PAGE_SHIFT;
}

/* Under RLIMIT_AS the program has other uses for its addresses: both halves and their entries take a quarter of what is
 * left, if zc can do with that. */
static size_t span_allowed(void)
{
    struct rlimit limit;
    size_t span = SPAN_MOST;
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY)
        return span;
    size_t used = addresses_used(), left = limit.rlim_cur > used ? limit.rlim_cur - used : 0;
    while (span > SPAN_LEAST && 2 * span + entries_bytes(span) > left / 4)
        span >>= 1;
    return span;
}

/* The tables are sparse: a huge page of them would be mostly waste, and a core dump would look at every page of 16
 * GiB. */
static void mark_sparse(void *at, size_t length)
{
    sys_madvise(at, length, MADV_NOHUGEPAGE);
    sys_madvise(at, length, MADV_DONTDUMP);
}

/* Makes a part of the tables one that can be stored to. Not by mprotect, which a process may be refused. */
static bool give_memory(void *at, size_t length)
{
    if (!sys_reserve(at, length, PROT_READ | PROT_WRITE))
        return false;
    mark_sparse(at, length);
    return true;
}

/* All without access: what can be stored to would be had at once under mlockall. */
static bool reserve(size_t span)
{
    size_t entries = entries_bytes(span);
    size_t segments = (span >> GRANULE_SHIFT) * sizeof *arena.segments;
    char *halves = sys_reserve(NULL, 2 * span + HUGE_BYTES, PROT_NONE);
    char *tables = halves ? sys_reserve(NULL, entries + segments, PROT_NONE) : NULL;
    if (!tables || !give_memory(tables + entries, segments)) {
        refused = errno;
        if (halves)
            sys_munmap(halves, 2 * span + HUGE_BYTES);
        if (tables)
            sys_munmap(tables, entries + segments);
        return false;
    }
    mark_sparse(tables, entries);
    arena.user = (char *)round_to_huge((uintptr_t)halves);
    arena.wire = arena.user + span;
    arena.entries = (struct entry *)tables;
    arena.segments = (struct segment * _Atomic *)(tables + entries);
    atomic_store_explicit(&arena.span, span, memory_order_release);
    return true;
}

static void open_once(void)
{
    if (sysconf(_SC_PAGESIZE) != PAGE_SIZE_) {
        status = -ENOTSUP;
        return;
    }
    /* Less than is allowed under valgrind or in a small address space. */
    for (size_t span = span_allowed(); span >= SPAN_LEAST; span >>= 1) {
        if (reserve(span)) {
            pthread_atfork(NULL, NULL, arena_seal_off);
            live_open();
            atomic_store(&live.arena, &arena);
            return;
        }
    }
    status = -ENOMEM;
}

int arena_open(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, open_once);
    if (arena.forked)
        return fail(-EPERM, "zc: a forked child cannot use its parent's zc (exec first)");
    if (status == -ENOTSUP)
        return fail(status, "zc: pages here have %ld bytes, and zc knows 4,096 only", sysconf(_SC_PAGESIZE));
    if (status)
        return fail(status, "zc: no 256 MiB of address space could be reserved; raise %s",
                    refused == EAGAIN ? "RLIMIT_MEMLOCK (ulimit -l), since mlockall locks it"
                                      : "RLIMIT_AS (ulimit -v)");
    return 0;
}

char *arena_take(size_t length)
{
    static pthread_mutex_t taking = PTHREAD_MUTEX_INITIALIZER;
    char *user = NULL;
    length = round_to_huge(length);
    pthread_mutex_lock(&taking);
    size_t at = arena_taken(), entries = entries_bytes(length);
    if (length <= arena.span - at && give_memory(&arena.entries[at >> PAGE_SHIFT], entries)) {
        user = arena.user + at;
        atomic_store_explicit(&arena.taken, at + length, memory_order_release);
    }
    pthread_mutex_unlock(&taking);
    return user;
}

size_t arena_taken(void)
{
    return atomic_load_explicit(&arena.taken, memory_order_relaxed);
}
