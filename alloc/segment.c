/* SPDX-License-Identifier: MIT */
#include "alloc/segment.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "alloc/hooks.h"
#include "alloc/pool.h"
#include "core/error.h"
#include "core/stats.h"

/* Registrars and the list of mapped segments change together. Who takes pages from a segment's wire mapping first takes
 * the segment off the list: so whoever has this sees the bytes of every segment that is on it, although slots are freed
 * without a lock. Locks of slots are taken under it (segments_visit), and never it under them. */
static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static struct registrar *registrars;

static void publish(struct segment *segment, struct segment *value)
{
    size_t first = (size_t)(segment->user - arena.user) >> GRANULE_SHIFT;
    for (size_t i = 0; i < segment->length >> GRANULE_SHIFT; i++)
        atomic_store_explicit(&arena.segments[first + i], value, memory_order_release);
}

/* Huge pages of a memfd come from collapsing: one touched page in each 2 MiB is enough for it. Where the
 * kernel refuses, small pages serve. */
static void collapse(struct segment *segment, char *wire, size_t length)
{
    char *first = (char *)round_to_huge((uintptr_t)wire);
    char *end = (char *)((uintptr_t)(wire + length) & ~(HUGE_BYTES - 1));
    for (char *at = first; at < end; at += HUGE_BYTES)
        if (sys_madvise(at, PAGE_BYTES, MADV_POPULATE_WRITE))
            return;
    if (first < end && sys_madvise(first, (size_t)(end - first), MADV_COLLAPSE))
        segment->huge = false;
}

static int registrar_add(struct registrar *registrar, struct segment *segment)
{
    if (registrar->pins && segment->huge && !segment->hugetlb)
        collapse(segment, arena_wire_of(segment->user), segment->length); /* pinned pages cannot be any more */
    int result = registrar->add(registrar->context, segment);
    if (result == 0)
        count(registrations);
    return result < 0 ? result : 0;
}

struct segment *segment_next(size_t *i)
{
    for (size_t end = arena_taken() >> GRANULE_SHIFT; *i < end; ++*i) {
        struct segment *segment = atomic_load(&arena.segments[*i]);
        if (segment) {
            *i += segment->length >> GRANULE_SHIFT;
            return segment;
        }
    }
    return NULL;
}

bool segments_visit(bool (*visit)(struct segment *))
{
    struct segment *segment;
    bool on = true;
    for (size_t i = 0; on;) {
        pthread_mutex_lock(&registry); /* for one at a time: to visit it may take long, and others grow */
        segment = segment_next(&i);
        on = segment && visit(segment);
        pthread_mutex_unlock(&registry);
        if (!segment)
            return true;
    }
    return false;
}

/* From all segments before `end`, in the order in which they were added. */
static void remove_until(struct registrar *registrar, const struct segment *end)
{
    struct segment *segment;
    for (size_t i = 0; (segment = segment_next(&i)) != end;)
        registrar->remove(registrar->context, segment);
}

int registrar_attach(struct registrar *registrar)
{
    int error = 0;
    struct segment *segment = NULL;
    pthread_mutex_lock(&registry);
    for (size_t i = 0; !error && (segment = segment_next(&i));)
        error = registrar_add(registrar, segment);
    if (error) {
        remove_until(registrar, segment);
    } else {
        registrar->next = registrars;
        registrars = registrar;
    }
    pthread_mutex_unlock(&registry);
    return error;
}

void registrar_detach(struct registrar *registrar)
{
    pthread_mutex_lock(&registry);
    struct registrar **link = &registrars;
    while (*link && *link != registrar)
        link = &(*link)->next;
    if (*link) {
        *link = registrar->next;
        remove_until(registrar, NULL);
    }
    pthread_mutex_unlock(&registry);
}

static int register_segment(struct segment *segment)
{
    int error = 0;
    pthread_mutex_lock(&registry);
    struct registrar *registrar = registrars;
    while (registrar && !(error = registrar_add(registrar, segment)))
        registrar = registrar->next;
    if (error) {
        for (struct registrar *done = registrars; done != registrar; done = done->next)
            done->remove(done->context, segment);
    } else {
        publish(segment, segment);
    }
    pthread_mutex_unlock(&registry);
    return error;
}

/* Takes pages and protection from a range of addresses.
 *
 * MPI may have registered the pages with a device, and keep that for later messages from these addresses: wire
 * addresses, which zc gives to it, or those of a program that knows nothing of zc (the malloc preload). It learns that
 * they are gone from libc's functions, which it patches (UCX), and never from a raw system call. So pages are taken
 * away by libc's functions. What MPI does in those must not be done in a signal handler: none comes here. */
static void bare(char *at, size_t length)
{
    enum { FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED };
    if (mmap(at, length, PROT_NONE, FLAGS, -1, 0) == MAP_FAILED)
        madvise(at, length, MADV_REMOVE); /* the next segment_map covers the mapping; the pages can go now */
}

static void reserve_again(struct segment *segment)
{
    bare(segment->user, segment->length);
    bare(arena_wire_of(segment->user), segment->length);
}

static _Atomic bool hidden;

void segment_hide(void)
{
    atomic_store(&hidden, true);
}

bool segment_hidden(void)
{
    return atomic_load(&hidden);
}

static void close_fd(struct segment *segment)
{
    if (segment->fd >= 0 && own_file_is(&segment->own, segment->fd))
        sys_close(segment->fd);
    segment->fd = -1;
}

/* Twice, from a memfd with `flags`. 0 or -errno with a message, and all undone. */
static int map_pages(struct segment *segment, unsigned flags)
{
    char *user = segment->user, *wire = arena_wire_of(user);
    size_t length = segment->length;
    enum { RW = PROT_READ | PROT_WRITE, FLAGS = MAP_SHARED | MAP_FIXED };

    segment->fd = memfd_create("zc", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    if (segment->fd < 0)
        return fail(-errno, "zc: memfd_create for a segment of %zu bytes failed: %s", length, error_text(errno));
    segment->own = own_file(segment->fd);
    if (ftruncate(segment->fd, (off_t)length) || fcntl(segment->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) ||
        !sys_mmap(wire, length, RW, FLAGS, segment->fd, 0) || !sys_mmap(user, length, RW, FLAGS, segment->fd, 0) ||
        sys_madvise(wire, length, MADV_DONTFORK) || sys_madvise(user, length, MADV_DONTFORK) ||
        sys_madvise(wire, length, MADV_DONTDUMP)) {
        int error =
            fail(-errno, "zc: mapping a segment of %zu bytes failed: %s (limits: memory, vm.max_map_count, RLIMIT_AS)",
                 length, error_text(errno));
        close_fd(segment);
        reserve_again(segment);
        return error;
    }
    return 0;
}

/* Reserves its pages, so that none is missing when it is touched. 0 or -errno with a message. */
static int map_hugetlb(struct segment *segment)
{
    static atomic_flag told = ATOMIC_FLAG_INIT;
    const char *why = "no %zu bytes of hugetlb pages: %s (sysctl vm.nr_hugepages)%s";
    int error = map_pages(segment, MFD_HUGETLB | MFD_HUGE_2MB);
    segment->hugetlb = !error;
    if (!error)
        return 0;
    if (segment->pool->hugetlb_only)
        return fail(-ENOMEM, why, segment->length, error_text(-error), "");
    if (!atomic_flag_test_and_set(&told)) {
        error_say(why, segment->length, error_text(-error), "; ordinary huge pages serve instead");
        error_print();
    }
    return -ENOMEM;
}

int segment_map(struct segment *segment)
{
    segment->hugetlb = false;
    if (sys_may_grow(segment->length))
        return fail(-ENOMEM, "zc: a segment of %zu bytes is larger than RLIMIT_FSIZE allows (ulimit -f)",
                    segment->length);
    if (!sys_has(segment->length))
        return fail(-ENOMEM, "zc: a segment of %zu bytes is more than this machine has memory for", segment->length);
    int error = segment->pool->hugetlb ? map_hugetlb(segment) : -ENOMEM;
    if (error && segment->pool->hugetlb_only)
        return error;
    if (error)
        error = map_pages(segment, 0);
    if (error)
        return -ENOMEM; /* whatever the call said */
    error = register_segment(segment);
    if (error || segment_hidden())
        close_fd(segment);
    if (error) {
        reserve_again(segment);
        return error;
    }
    segment->mapped = true;
    count(segments);
    return 0;
}

void segment_unmap(struct segment *segment)
{
    pthread_mutex_lock(&registry);
    publish(segment, NULL);
    for (struct registrar *registrar = registrars; registrar; registrar = registrar->next)
        registrar->remove(registrar->context, segment);
    pthread_mutex_unlock(&registry);
    reserve_again(segment);
    close_fd(segment);
    atomic_store(&segment->carved, 0);
    segment->mapped = false;
}

static int populate(char *at, size_t length)
{
    int error = sys_madvise(at, length, MADV_POPULATE_WRITE);
    return error == -EAGAIN || error == -EINTR ? sys_madvise(at, length, MADV_POPULATE_WRITE) : error;
}

uint32_t segment_carve(struct segment *segment, uint32_t n, struct slot **first)
{
    uint32_t carved = atomic_load_explicit(&segment->carved, memory_order_relaxed);
    if (n > segment->slots - carved)
        n = segment->slots - carved;
    for (uint32_t i = 0; i < n; i++) {
        struct slot *slot = segment_slot(segment, carved + i);
        slot_init(slot, slot_home(slot));
        slot_home(slot)->cache = segment->pool->index;
    }
    *first = segment_slot(segment, carved);
    atomic_store_explicit(&segment->carved, carved + n, memory_order_release);
    return n;
}

uint32_t segment_populate(struct segment *segment, uint32_t index, uint32_t n)
{
    char *user = segment->user + index * segment->stride;
    /* Slots with gaps between them are populated one by one, without the gaps. */
    bool gaps = segment->stride != segment->slot_size;
    uint32_t at_once = gaps ? 1 : n;
    size_t length = gaps ? segment->slot_size : n * segment->stride;
    for (uint32_t i = 0; i < n; i += at_once, user += segment->stride) {
        char *wire = arena_wire_of(user);
        /* Without gaps, slots to come share the last huge page; with them, a part of one is not worth it. */
        if (segment->huge && !segment->hugetlb)
            collapse(segment, wire, gaps ? length : length + HUGE_BYTES - PAGE_BYTES);
        if (populate(wire, length) || populate(user, length) || pool_hooks()->mapped(segment->pool, user, length))
            return i;
    }
    return n;
}

/* Pages that are pinned would stay with the device, and the mappings get others. Where the file is sealed against
 * writers, since peers see it, the kernel refuses. */
bool segment_punch(const struct segment *segment, char *wire)
{
    bool pinned = false;
    if (pthread_mutex_trylock(&registry))
        return false;
    for (struct registrar *registrar = registrars; registrar; registrar = registrar->next)
        pinned |= registrar->pins;
    bool punched = !pinned && madvise(wire, segment->slot_size, MADV_REMOVE) == 0;
    if (punched) /* they are gone there, too, which libc's function is to tell as well: see bare */
        madvise(arena_user_of(wire), segment->slot_size, MADV_REMOVE);
    pthread_mutex_unlock(&registry);
    return punched;
}

/* The kernel moves and doubles no hugetlb mapping by mremap; a mapping made anew needs the file not to be sealed
 * against writers, which others that may be shown to peers are. */
static bool map_again(const struct segment *segment, const char *wire, size_t length, char *user, int prot)
{
    if (segment->pool->hugetlb && !own_file_is(&segment->own, segment->fd)) {
        errno = EBADF;
        return false;
    }
    if (segment->pool->hugetlb)
        return sys_mmap(user, length, prot, MAP_SHARED | MAP_FIXED, segment->fd, wire - arena_wire_of(segment->user)) &&
               sys_madvise(user, length, MADV_DONTFORK) == 0;
    return syscall(SYS_mremap, wire, 0, length, MREMAP_MAYMOVE | MREMAP_FIXED, user) != -1 &&
           sys_madvise(user, length, MADV_DODUMP) == 0; /* the wire mapping's flag came along */
}

int segment_show(const struct backing *backing, size_t at, size_t length, char *user, int prot)
{
    const char *wire = backing_wire(backing) + at;
    if (!map_again(arena_segment(arena_user_of(wire)), wire, length, user, prot))
        return -errno;
    if (prot & PROT_WRITE)
        sys_madvise(user, length, MADV_POPULATE_WRITE);
    return 0;
}

struct slot *slot_find(const void *p)
{
    size_t offset;
    const struct segment *segment = segment_find(p);
    return segment ? segment_slot_at(segment, p, &offset) : NULL;
}
