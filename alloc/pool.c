/* SPDX-License-Identifier: MIT */
#include "alloc/pool.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/options.h"

enum {
    SEGMENT_MOST = 64 << 20, /* bytes, unless one slot is larger */
    CARVE_BYTES = 256 << 10  /* populated at once: at ~1 µs a KiB, no allocation waits for long */
};

/* The free list ends with this id, which no slot has: the arena has fewer pages. */
static const uint32_t NONE = UINT32_MAX;

static pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER;
static struct zc_pool *pools; /* open and closed; none is ever freed */

static void no_account(struct slot *slot, int sign)
{
    (void)slot;
    (void)sign;
}

void (*_Atomic pool_account)(struct slot *slot, int sign) = no_account;

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* ---- the free list ---- */

static void push(struct zc_pool *pool, struct slot *slot)
{
    uint64_t head = atomic_load_explicit(&pool->head, memory_order_relaxed), next;
    do {
        atomic_store_explicit(&slot->next, (uint32_t)head, memory_order_relaxed);
        next = ((head >> 32) + 1) << 32 | slot_id(slot);
    } while (
        !atomic_compare_exchange_weak_explicit(&pool->head, &head, next, memory_order_release, memory_order_relaxed));
}

struct slot *pool_pop(struct zc_pool *pool)
{
    uint64_t head = atomic_load_explicit(&pool->head, memory_order_acquire), next;
    struct slot *slot;
    do {
        slot = slot_by_id((uint32_t)head);
        next = ((head >> 32) + 1) << 32 | atomic_load_explicit(&slot->next, memory_order_relaxed);
    } while (
        !atomic_compare_exchange_weak_explicit(&pool->head, &head, next, memory_order_acquire, memory_order_acquire));
    return slot;
}

void pool_push(struct slot *slot)
{
    struct zc_pool *pool = slot_pool(slot);
    push(pool, slot);
    atomic_fetch_add_explicit(&pool->spare, 1, memory_order_release);
}

bool pool_try_claim(struct zc_pool *pool)
{
    long spare = atomic_load_explicit(&pool->spare, memory_order_relaxed);
    while (spare > 0)
        if (atomic_compare_exchange_weak_explicit(&pool->spare, &spare, spare - 1, memory_order_acquire,
                                                  memory_order_relaxed))
            return true;
    return false;
}

void pool_unclaim(struct zc_pool *pool)
{
    atomic_fetch_add_explicit(&pool->spare, 1, memory_order_release);
}

/* ---- growth ---- */

/* NULL with *error. */
static struct segment *add_segment(struct zc_pool *pool, int *error)
{
    struct segment *segment = pool->segments;
    while (segment && segment->mapped)
        segment = segment->next;
    if (!segment) {
        /* Twice what there is, so that large pools have few segments and small ones waste little. */
        size_t bytes = pool->slots * pool->stride;
        bytes = bytes > SEGMENT_MOST ? SEGMENT_MOST : bytes;
        size_t length = round_up(bytes > pool->stride ? bytes : pool->stride, HUGE_BYTES);
        segment = calloc(1, sizeof *segment);
        char *user = segment ? arena_take(length) : NULL;
        if (!user) {
            free(segment);
            *error = fail(-ENOMEM, "zc: no %zu bytes of reserved address space left for a segment", length);
            return NULL;
        }
        *segment = (struct segment){.pool = pool,
                                    .user = user,
                                    .length = length,
                                    .slot_size = pool->slot_size,
                                    .stride = pool->stride,
                                    .slots = (uint32_t)(length / pool->stride),
                                    .next = pool->segments};
        pool->segments = segment;
    }
    segment->huge = pool->huge;
    *error = segment_map(segment);
    if (*error)
        return NULL;
    pool->slots += segment->slots;
    return segment;
}

/* Carves at least one and about `wanted` slots, in one segment. Called with `growth` held. */
static int carve(struct zc_pool *pool, uint32_t wanted)
{
    struct segment *segment = pool->segments;
    while (segment && (!segment->mapped || segment->carved == segment->slots))
        segment = segment->next;
    int error;
    if (!segment && !(segment = add_segment(pool, &error)))
        return error;
    uint32_t first;
    int carved = segment_carve(segment, wanted, &first);
    if (carved < 0)
        return carved;
    for (int i = carved - 1; i >= 0; i--)
        push(pool, segment_slot(segment, first + (uint32_t)i));
    atomic_fetch_add_explicit(&pool->spare, carved, memory_order_release);
    return carved;
}

int pool_claim(struct zc_pool *pool)
{
    while (!pool_try_claim(pool)) {
        size_t batch = (pool->huge ? HUGE_BYTES : CARVE_BYTES) / pool->stride; /* small slots share huge pages */
        pthread_mutex_lock(&pool->growth);
        int carved = atomic_load(&pool->spare) > 0 ? 1 : carve(pool, batch ? (uint32_t)batch : 1);
        pthread_mutex_unlock(&pool->growth);
        if (carved < 0)
            return carved;
    }
    return 0;
}

bool pool_admit(struct zc_pool *pool)
{
    /* Refused attempts are never counted, or another thread might be refused on their account. */
    size_t live = atomic_load_explicit(&pool->live, memory_order_relaxed);
    do {
        if (live >= pool->cap && pool->full != ZC_FULL_GROW)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&pool->live, &live, live + 1, memory_order_relaxed,
                                                    memory_order_relaxed));
    if (live++ >= pool->cap)
        atomic_fetch_add_explicit(&pool->over_cap, 1, memory_order_relaxed);
    size_t peak = atomic_load_explicit(&pool->peak, memory_order_relaxed);
    while (live > peak &&
           !atomic_compare_exchange_weak_explicit(&pool->peak, &peak, live, memory_order_relaxed, memory_order_relaxed))
        ;
    atomic_fetch_add_explicit(&pool->allocs, 1, memory_order_relaxed);
    return true;
}

void pool_dismiss(struct zc_pool *pool)
{
    atomic_fetch_sub_explicit(&pool->live, 1, memory_order_relaxed);
}

/* ---- trimming ---- */

/* Takes all spare slots out of the pool, marked, and returns them as a list by `next`. */
static uint32_t collect(struct zc_pool *pool)
{
    uint32_t list = NONE;
    while (pool_try_claim(pool)) {
        struct slot *slot = pool_pop(pool);
        slot->state = SLOT_COLLECTED;
        atomic_store_explicit(&slot->next, list, memory_order_relaxed);
        list = slot_id(slot);
    }
    return list;
}

static bool out_of_use(const struct slot *slot)
{
    return slot->state == SLOT_COLLECTED || slot->state == SLOT_STALE;
}

/* Nobody uses the segment's slots, nor its pages under another slot. */
static bool collected(const struct segment *segment)
{
    for (uint32_t i = 0; i < segment->carved; i++) {
        struct slot *slot = segment_slot(segment, i);
        if (!out_of_use(slot) || !out_of_use(slot_home(slot)->slot))
            return false;
    }
    return true;
}

static bool inside(const struct segment *segment, const struct slot *slot)
{
    return slot_segment(slot) == segment;
}

/* Maps the pages of `backing` under a collected slot. */
static int map_under(struct slot *slot, const struct backing *backing)
{
    size_t size = slot_segment(slot)->slot_size;
    char *user = slot_user(slot);
    if (syscall(SYS_mremap, backing_wire(backing), 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, user) == -1)
        return -errno;
    sys_madvise(user, size, MADV_DODUMP); /* the wire mapping's flag came along */
    sys_madvise(user, size, MADV_POPULATE_WRITE);
    return 0;
}

static void renew(struct slot *slot, struct backing *backing, enum slot_state state)
{
    void (*account)(struct slot *, int) = atomic_load(&pool_account);
    account(slot, -1);
    slot_init(slot, backing);
    slot->state = (uint8_t)state;
    account(slot, 1);
}

/* Renames have mixed backings between segments. Gives each slot outside that shows a backing of `segment` one
 * that a slot of `segment` shows in exchange. The latter is not mapped again: it is to be unmapped anyway, and
 * should another exchange fail, it is out of the pool until a later trim succeeds. */
static int unmix(struct segment *segment)
{
    uint32_t give = 0;
    for (uint32_t i = 0; i < segment->carved; i++) {
        struct backing *home = slot_home(segment_slot(segment, i));
        struct slot *outside = home->slot;
        if (inside(segment, outside))
            continue;
        struct slot *slot;
        struct backing *backing;
        do {
            slot = segment_slot(segment, give++);
            backing = atomic_load(&slot->backing);
        } while (arena_has_wire(backing_wire(backing)) &&
                 (size_t)(backing_wire(backing) - arena_wire_of(segment->user)) < segment->length);
        int error = map_under(outside, backing);
        if (error)
            return error;
        renew(outside, backing, SLOT_COLLECTED);
        renew(slot, home, SLOT_STALE);
    }
    return 0;
}

/* Exchanging mappings leaves some page behind there, which would keep the memory of its segment. */
static void clear_scratch(struct zc_pool *pool)
{
    enum { FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED };
    lock_take(&pool->scratch_lock);
    sys_mmap(pool->scratch, pool->stride, PROT_NONE, FLAGS, -1, 0);
    lock_drop(&pool->scratch_lock);
}

static int trim(struct zc_pool *pool, size_t *released)
{
    int error = 0;
    size_t bytes = 0;
    pthread_mutex_lock(&pool->growth);
    uint32_t list = collect(pool);
    for (struct segment *segment = pool->segments; segment && !error; segment = segment->next) {
        if (!segment->mapped || !collected(segment))
            continue;
        error = unmix(segment);
        if (error)
            break;
        for (uint32_t i = 0; i < segment->carved; i++)
            renew(segment_slot(segment, i), slot_home(segment_slot(segment, i)), SLOT_FREE); /* not to be pushed */
        pool->slots -= segment->slots;
        bytes += segment->length;
        segment_unmap(segment);
    }
    if (bytes)
        clear_scratch(pool);
    long kept = 0;
    while (list != NONE) {
        struct slot *slot = slot_by_id(list);
        list = atomic_load_explicit(&slot->next, memory_order_relaxed);
        if (slot->state == SLOT_COLLECTED) {
            slot->state = SLOT_FREE;
            push(pool, slot);
            kept++;
        }
    }
    atomic_fetch_add_explicit(&pool->spare, kept, memory_order_release);
    pthread_mutex_unlock(&pool->growth);
    *released = bytes;
    return error ? fail(error, "zc_pool_trim: remapping a slot failed: %s", strerror(-error)) : 0;
}

/* ---- the public calls ---- */

static int check(const zc_pool_options *options)
{
    if (!options || options->size < sizeof *options)
        return fail(-EINVAL, "zc_pool_open: options of size %zu, expected %zu: start from ZC_POOL_OPTIONS_INIT",
                    options ? options->size : 0, sizeof *options);
    if (options->slot_size == 0 || options->slot_size > arena.span / 4)
        return fail(-EINVAL, "zc_pool_open: slot_size %zu, expected 1..%zu", options->slot_size, arena.span / 4);
    if (options->cap == 0)
        return fail(-EINVAL, "zc_pool_open: cap 0, expected 1..ZC_UNLIMITED");
    if (options->initial > options->cap)
        return fail(-EINVAL, "zc_pool_open: %zu initial slots are more than the cap of %zu", options->initial,
                    options->cap);
    if ((unsigned)options->huge > ZC_HUGE_ALWAYS)
        return fail(-EINVAL, "zc_pool_open: huge %d, expected one of enum zc_huge", (int)options->huge);
    if ((unsigned)options->full > ZC_FULL_FAIL)
        return fail(-EINVAL, "zc_pool_open: full %d, expected one of enum zc_full", (int)options->full);
    return 0;
}

static struct zc_pool *pool_new(size_t slot_size, size_t stride, bool huge)
{
    struct zc_pool *pool = pools;
    while (pool && (pool->open || pool->slot_size != slot_size || pool->stride != stride || pool->huge != huge))
        pool = pool->next;
    if (pool)
        return pool;
    pool = aligned_alloc(64, round_up(sizeof *pool, 64));
    char *scratch = pool ? arena_take(stride) : NULL;
    if (!scratch) {
        free(pool);
        return fail_null(-ENOMEM, "zc_pool_open: no memory for a pool of %zu-byte slots", slot_size);
    }
    memset(pool, 0, sizeof *pool);
    pool->slot_size = slot_size;
    pool->stride = stride;
    pool->huge = huge;
    pool->scratch = scratch;
    pthread_mutex_init(&pool->growth, NULL);
    pool->next = pools;
    pools = pool;
    return pool;
}

int pool_open(const zc_pool_options *options, struct zc_pool **out)
{
    const struct options *defaults;
    int error = arena_open();
    if (!error)
        error = options_get(&defaults);
    if (!error)
        error = check(options);
    if (error)
        return error;
    enum zc_huge huge = options->huge ? options->huge : defaults->huge;
    size_t slot_size = round_up(options->slot_size, PAGE_BYTES);
    bool large = slot_size >= HUGE_BYTES;
    bool want_huge = huge == ZC_HUGE_ALWAYS || (huge == ZC_HUGE_AUTO && large);
    size_t stride = want_huge && large ? round_up(slot_size, HUGE_BYTES) : slot_size;

    pthread_mutex_lock(&pools_lock);
    struct zc_pool *pool = pool_new(slot_size, stride, want_huge);
    if (pool) {
        pool->open = true;
        pool->cap = options->cap;
        pool->full = options->full ? options->full : defaults->full;
        atomic_store(&pool->head, NONE);
        atomic_store(&pool->spare, 0);
        atomic_store(&pool->peak, 0);
        atomic_store(&pool->allocs, 0);
        atomic_store(&pool->fallbacks, 0);
        atomic_store(&pool->over_cap, 0);
    }
    pthread_mutex_unlock(&pools_lock);
    if (!pool)
        return -ENOMEM;

    for (size_t ready = 0; ready < options->initial && !error;) {
        pthread_mutex_lock(&pool->growth);
        size_t left = options->initial - ready;
        int carved = carve(pool, left > UINT32_MAX ? UINT32_MAX : (uint32_t)left);
        pthread_mutex_unlock(&pool->growth);
        error = carved < 0 ? carved : 0;
        ready += carved > 0 ? (size_t)carved : 0;
    }
    if (error) {
        size_t released;
        trim(pool, &released);
        pthread_mutex_lock(&pools_lock);
        pool->open = false;
        pthread_mutex_unlock(&pools_lock);
        return error;
    }
    *out = pool;
    return 0;
}

int zc_pool_open(const zc_pool_options *options, zc_pool **pool)
{
    if (!pool)
        return fail(-EINVAL, "zc_pool_open: pool is NULL");
    return pool_open(options, pool);
}

static int check_open(const struct zc_pool *pool, const char *call)
{
    if (!pool || !pool->open)
        return fail(-EINVAL, "%s: %s", call, pool ? "the pool is closed" : "pool is NULL");
    if (arena_forked())
        return fail(-EPERM, "%s: a forked child cannot use its parent's pool", call);
    return 0;
}

int zc_pool_stats_get(zc_pool *pool, zc_pool_stats *stats)
{
    int error = check_open(pool, "zc_pool_stats_get");
    if (error)
        return error;
    if (!stats || stats->size < sizeof stats->size)
        return fail(-EINVAL, "zc_pool_stats_get: set stats->size to sizeof(zc_pool_stats) first");
    zc_pool_stats now = {.size = stats->size,
                         .slot_size = pool->slot_size,
                         .live = atomic_load(&pool->live),
                         .peak = atomic_load(&pool->peak),
                         .cap = pool->cap,
                         .allocs = atomic_load(&pool->allocs),
                         .fallbacks = atomic_load(&pool->fallbacks),
                         .over_cap = atomic_load(&pool->over_cap)};
    pthread_mutex_lock(&pool->growth);
    for (struct segment *segment = pool->segments; segment; segment = segment->next) {
        now.segments += segment->mapped;
        now.slots += segment->carved;
    }
    pthread_mutex_unlock(&pool->growth);
    memcpy(stats, &now, stats->size < sizeof now ? stats->size : sizeof now);
    return 0;
}

int zc_pool_trim(zc_pool *pool, size_t *released)
{
    size_t bytes = 0;
    int error = check_open(pool, "zc_pool_trim");
    if (error)
        return error;
    error = trim(pool, &bytes);
    if (released)
        *released = bytes;
    return error;
}

int zc_pool_close(zc_pool *pool)
{
    if (!pool)
        return 0;
    int error = check_open(pool, "zc_pool_close");
    if (error)
        return error;
    size_t released, live = atomic_load(&pool->live);
    if (live)
        return fail(-EBUSY, "zc_pool_close: %zu slots are still live", live);
    error = trim(pool, &released);
    if (error)
        return error;
    if (pool->slots)
        return fail(-EBUSY, "zc_pool_close: slots are still in flight");
    pthread_mutex_lock(&pools_lock);
    pool->open = false;
    pthread_mutex_unlock(&pools_lock);
    return 0;
}
