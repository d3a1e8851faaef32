/* SPDX-License-Identifier: MIT */
#include "transport/verbs_memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "core/error.h"
#include "zc_verbs.h"

static size_t table_bytes(void)
{
    return (arena.span >> GRANULE_SHIFT) * sizeof(struct ibv_mr *);
}

static struct ibv_mr *_Atomic *place(const struct memory *memory, const struct segment *segment)
{
    return &memory->regions[(size_t)(segment->user - arena.user) >> GRANULE_SHIFT];
}

int memory_refused(const struct ibv_pd *pd, size_t length, size_t registered, int error)
{
    struct rlimit limit = {0};
    struct ibv_device_attr device = {0};
    char locked[64] = "unlimited";
    getrlimit(RLIMIT_MEMLOCK, &limit);
    ibv_query_device(pd->context, &device);
    if (limit.rlim_cur != RLIM_INFINITY)
        snprintf(locked, sizeof locked, "%llu KiB", (unsigned long long)limit.rlim_cur >> 10);
    return fail(
        -ENOMEM,
        "zc: registering %zu KiB with %s failed: %s. %zu KiB are registered already; this process may lock %s "
        "(RLIMIT_MEMLOCK: raise it by ulimit -l, limits.conf or LimitMEMLOCK=) and the device has %d regions of "
        "at most %llu KiB. With unregistered=copy in the address, pools go unregistered and are copied",
        length >> 10, ibv_get_device_name(pd->context->device), error_text(error), registered >> 10, locked,
        device.max_mr, (unsigned long long)device.max_mr_size >> 10);
}

static int register_segment(struct memory *memory, const struct segment *segment)
{
    struct ibv_mr *region =
        ibv_reg_mr(memory->pd, arena_wire_of(segment->user), segment->length, (unsigned)memory->access);
    if (!region)
        return memory_refused(memory->pd, segment->length, memory->bytes, errno);
    memory->bytes += segment->length;
    atomic_store_explicit(place(memory, segment), region, memory_order_release);
    return 0;
}

/* ---- as a registrar ---- */

static int add(void *context, struct segment *segment)
{
    struct memory *memory = context;
    int error = memory->late ? 1 : register_segment(memory, segment);
    return error < 0 && memory->optional ? 1 : error;
}

static void remove_segment(void *context, struct segment *segment)
{
    struct memory *memory = context;
    struct ibv_mr *region = atomic_exchange(place(memory, segment), NULL);
    if (!region)
        return;
    memory->bytes -= segment->length;
    if (ibv_dereg_mr(region))
        abort(); /* only a memory window bound to it could hold it, and there is none */
    /* Where the kernel cannot copy pinned pages on fork, libibverbs has just let a child have the range again. */
    sys_madvise(arena_wire_of(segment->user), segment->length, MADV_DONTFORK);
}

int memory_open(struct memory *memory, struct ibv_pd *pd, int access, bool late, bool optional)
{
    *memory = (struct memory){.registrar = {.add = add, .remove = remove_segment, .context = memory, .pins = true},
                              .pd = pd,
                              .access = access,
                              .late = late,
                              .optional = optional};
    memory->regions = sys_reserve(NULL, table_bytes(), PROT_READ | PROT_WRITE);
    if (!memory->regions)
        return fail(-ENOMEM, "zc: no memory for a table of %zu bytes", table_bytes());
    int error = registrar_attach(&memory->registrar);
    if (error)
        sys_munmap((void *)memory->regions, table_bytes());
    return error;
}

void memory_close(struct memory *memory)
{
    registrar_detach(&memory->registrar);
    sys_munmap((void *)memory->regions, table_bytes());
}

struct ibv_mr *memory_find(const struct memory *memory, const void *wire)
{
    if (!arena_has_wire(wire))
        return NULL;
    const struct segment *segment = arena_segment(arena_user_of(wire));
    return segment ? atomic_load_explicit(place(memory, segment), memory_order_acquire) : NULL;
}

/* ---- for programs with verbs code of their own ---- */

struct domain {
    struct memory memory;
    struct domain *next;
};

static pthread_mutex_t domains_lock = PTHREAD_MUTEX_INITIALIZER;
static struct domain *domains;

/* Where the pointer to the domain of `pd` is, or would be put. */
static struct domain **find_domain(const struct ibv_pd *pd)
{
    struct domain **link = &domains;
    while (*link && (*link)->memory.pd != pd)
        link = &(*link)->next;
    return link;
}

static int add_domain(struct domain **link, struct ibv_pd *pd)
{
    struct domain *domain = calloc(1, sizeof *domain);
    if (!domain)
        return fail(-ENOMEM, "zc_mr: no memory");
    int error = memory_open(&domain->memory, pd, IBV_ACCESS_LOCAL_WRITE, true, false);
    if (error)
        free(domain);
    else
        *link = domain;
    return error;
}

int zc_mr(const struct zc_guard *guard, struct ibv_pd *pd, struct ibv_sge *sge)
{
    if (!guard || !guard->hold || !pd || !sge)
        return fail(-EINVAL, "zc_mr: %s",
                    guard && !guard->hold ? "the guard is not in force" : "guard, pd or sge is NULL");
    if (arena.forked)
        return fail(-EPERM, "zc_mr: a forked child cannot use its parent's guard");
    if (guard->length > UINT32_MAX)
        return fail(-EMSGSIZE, "zc_mr: %zu bytes are more than an sge can say", guard->length);
    pthread_mutex_lock(&domains_lock);
    struct domain **link = find_domain(pd);
    int error = *link ? 0 : add_domain(link, pd);
    struct ibv_mr *region = error ? NULL : memory_find(&(*link)->memory, guard->wire);
    if (!error && !region) {
        /* The guard keeps the segment from being unmapped. */
        error = register_segment(&(*link)->memory, arena_segment(arena_user_of(guard->wire)));
        region = error ? NULL : memory_find(&(*link)->memory, guard->wire);
    }
    if (region)
        *sge =
            (struct ibv_sge){.addr = (uintptr_t)guard->wire, .length = (uint32_t)guard->length, .lkey = region->lkey};
    pthread_mutex_unlock(&domains_lock);
    return error;
}

int zc_mr_release(struct ibv_pd *pd)
{
    if (arena.forked) /* the device would take it for its parent */
        return fail(-EPERM, "zc_mr_release: a forked child cannot release what its parent has registered");
    pthread_mutex_lock(&domains_lock);
    struct domain **link = find_domain(pd), *domain = *link;
    if (domain)
        *link = domain->next;
    pthread_mutex_unlock(&domains_lock);
    if (!domain)
        return fail(-ENOENT, "zc_mr_release: nothing is registered with this protection domain");
    memory_close(&domain->memory);
    free(domain);
    return 0;
}
