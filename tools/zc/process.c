/* SPDX-License-Identifier: MIT */
#include "tools/zc/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "alloc/arena.h"
#include "alloc/cache.h"
#include "alloc/pool.h"
#include "tools/zc/command.h"
#include "transport/comm.h"
#include "transport/op.h"
#include "transport/view.h"

enum {
    LIST_MOST = 1 << 20, /* a list that changes while it is read may never end */
    BATCH = 512          /* entries that are read at once */
};

/* ---- the page ---- */

/* Anybody may call a file so; one that could be cut short is not to be mapped. */
static bool is_page(int fd, ino_t inode)
{
    struct stat stat;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && seals & F_SEAL_SHRINK && fstat(fd, &stat) == 0 && stat.st_size >= (off_t)sizeof(struct live) &&
           (!inode || stat.st_ino == inode);
}

/* A descriptor of the page that process `pid` shows, the one with that inode unless it is 0; or -errno: -ENOENT, there
 * is none. */
static int open_page(pid_t pid, ino_t inode)
{
    char folder[64], path[512], name[64];
    snprintf(folder, sizeof folder, "/proc/%d/fd", (int)pid);
    DIR *fds = opendir(folder);
    if (!fds)
        return -errno;
    int fd = -ENOENT;
    for (struct dirent *entry; fd == -ENOENT && (entry = readdir(fds));) {
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        ssize_t length = readlink(path, name, sizeof name - 1);
        name[length > 0 ? length : 0] = 0;
        if (strncmp(name, "/memfd:" LIVE_NAME " ", sizeof "/memfd:" LIVE_NAME) != 0)
            continue;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            fd = -errno;
        } else if (!is_page(fd, inode)) {
            close(fd);
            fd = -ENOENT;
        }
    }
    closedir(fds);
    return fd;
}

static bool is_ours(pid_t pid)
{
    char path[64];
    struct stat stat_of;
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    return stat(path, &stat_of) == 0 && stat_of.st_uid == geteuid();
}

static void read_command(struct process *process)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", (int)process->pid);
    FILE *file = fopen(path, "re");
    if (file) {
        if (fgets(process->command, sizeof process->command, file))
            process->command[strcspn(process->command, "\n")] = 0;
        fclose(file);
    }
}

int process_open(pid_t pid, struct process *process)
{
    if (kill(pid, 0) && errno == ESRCH)
        return failed("%d: there is no such process", (int)pid);
    int fd = open_page(pid, 0);
    if (fd == -EACCES || fd == -EPERM)
        return failed(is_ours(pid) ? "%d: it has ended, or may not be looked at"
                                   : "%d: it belongs to another user: try as that user or as root",
                      (int)pid);
    if (fd == -ENOENT)
        return failed("%d: it does not use zc, or has not allocated anything yet", (int)pid);
    if (fd < 0)
        return failed("%d: it cannot be looked at: %s", (int)pid, strerror(-fd));
    struct stat stat;
    *process = (struct process){.pid = pid, .page = fstat(fd, &stat) ? 0 : stat.st_ino};
    process->live = sys_mmap(NULL, sizeof *process->live, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (!process->live)
        return failed("%d: its page cannot be mapped: %s", (int)pid, strerror(errno));
    if (memcmp(process->live->magic, LIVE_MAGIC, sizeof process->live->magic) != 0 ||
        strncmp(process->live->version, zc_version(), sizeof process->live->version) != 0)
        return failed("%d: it uses zc %.15s and this is the tool of %s: use the one of its version", (int)pid,
                      process->live->version, zc_version());
    read_command(process);
    return 0;
}

bool process_there(const struct process *process)
{
    int fd = open_page(process->pid, process->page);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* ---- its memory ---- */

/* 0 or -errno; -EFAULT where something is not there any more. */
static int fetch(const struct process *process, const void *from, void *to, size_t size)
{
    struct iovec local = {to, size}, remote = {(void *)(uintptr_t)from, size};
    ssize_t done = process_vm_readv(process->pid, &local, 1, &remote, 1, 0);
    return done == (ssize_t)size ? 0 : done < 0 ? -errno : -EFAULT;
}

/* Fetches `count` entries of slots that are `step` entries apart. */
static int fetch_entries(const struct process *process, const struct entry *from, size_t step, struct entry *to,
                         size_t count)
{
    struct iovec local = {to, count * sizeof *to}, remote[BATCH];
    for (size_t i = 0; i < count; i++)
        remote[i] = (struct iovec){(void *)(uintptr_t)(from + i * step), sizeof *from};
    ssize_t done = process_vm_readv(process->pid, &local, 1, remote, count, 0);
    return done == (ssize_t)local.iov_len ? 0 : done < 0 ? -errno : -EFAULT;
}

/* ---- who holds ---- */

static void add_message(struct holders *holders, int peer, int tag, uint64_t bytes, uint64_t since)
{
    size_t i = 0;
    while (i < holders->count && (holders->all[i].peer != peer || holders->all[i].tag != tag))
        i++;
    if (i == HOLDERS_MOST)
        i--;
    else if (i == holders->count)
        holders->all[holders->count++] = (struct holder){.peer = peer, .tag = tag, .since = since};
    struct holder *holder = &holders->all[i];
    holder->count++;
    holder->bytes += bytes;
    if (since < holder->since)
        holder->since = since;
}

/* Adds the sends of a backing's list of holds. Guards and loans are holds, too, but not of an operation. */
static void add_sends(const struct process *process, const struct hold *at, struct view *view)
{
    struct hold hold;
    struct hold_rules rules;
    struct op op;
    for (int i = 0; at && i < LIST_MOST && fetch(process, at, &hold, sizeof hold) == 0; i++, at = hold.next)
        if (fetch(process, hold.rules, &rules, sizeof rules) == 0 && rules.comm &&
            fetch(process, at, &op, sizeof op) == 0)
            add_message(&view->sends, op.peer, op.tag, op.hold.length, op.since);
}

static void add_views(const struct process *process, const zc_comm *comm, struct view *view)
{
    struct lease lease;
    const struct lease *at = comm->leases;
    for (int i = 0; at && i < LIST_MOST && fetch(process, at, &lease, sizeof lease) == 0; i++, at = lease.next)
        if (lease.out && !lease.copy)
            add_message(&view->views, lease.source, lease.tag, lease.length, lease.since);
}

static int by_bytes(const void *a, const void *b)
{
    uint64_t x = ((const struct holder *)a)->bytes, y = ((const struct holder *)b)->bytes;
    return (x < y) - (x > y);
}

/* ---- its pools ---- */

static bool has_sends(const struct process *process, const struct backing *shown, const struct entry *entry,
                      const struct entry *at)
{
    struct backing other;
    if (shown == &at->backing)
        return entry->backing.sends != NULL;
    return fetch(process, shown, &other, sizeof other) == 0 && other.sends;
}

static void look_at_slot(const struct process *process, const struct entry *entry, const struct entry *at,
                         struct pool_view *pool, struct view *view)
{
    const struct slot *slot = &entry->slot;
    bool live = slot_is(slot, SLOT_LIVE);
    bool in_flight = slot->receives || has_sends(process, atomic_load(&slot->backing), entry, at);
    if (slot_is(slot, SLOT_BARE))
        return;
    pool->slots++;
    pool->live += live;
    pool->in_flight += in_flight;
    pool->idle_protected += live && !in_flight && slot->protected_pages;
    pool->waste += !live && !in_flight;
    if (entry->backing.sends)
        add_sends(process, entry->backing.sends, view);
}

static int look_at_segment(const struct process *process, const struct arena *arena, const struct segment *segment,
                           struct pool_view *pool, struct view *view)
{
    static struct entry entries[BATCH];
    size_t step = segment->stride >> PAGE_SHIFT;
    size_t first = (size_t)(segment->user - arena->user) >> PAGE_SHIFT;
    for (uint32_t done = 0; done < segment->carved;) {
        size_t count = segment->carved - done < BATCH ? segment->carved - done : BATCH;
        const struct entry *at = arena->entries + first + done * step;
        int error = fetch_entries(process, at, step, entries, count);
        if (error)
            return error;
        for (size_t i = 0; i < count; i++)
            look_at_slot(process, &entries[i], at + i * step, pool, view);
        done += (uint32_t)count;
    }
    return 0;
}

static uint64_t cached_allocs(const struct process *process, const struct zc_pool *pool)
{
    struct cache cache;
    uint64_t allocs = 0;
    const struct cache *at = pool->caches;
    for (int i = 0; at && i < LIST_MOST && fetch(process, at, &cache, offsetof(struct cache, ids)) == 0; i++) {
        allocs += cache.allocs;
        at = cache.next;
    }
    return allocs;
}

static int look_at_pool(const struct process *process, const struct arena *arena, const struct zc_pool *pool,
                        struct view *view)
{
    struct pool_view *to = &view->pool[view->pools++];
    *to = (struct pool_view){.slot_size = pool->slot_size,
                             .cap = pool->cap,
                             .allocs = pool->allocs + cached_allocs(process, pool),
                             .renamed = pool->renamed,
                             .refills = pool->refills,
                             .fallbacks = pool->fallbacks,
                             .over_cap = pool->over_cap};
    struct segment segment;
    int error = 0;
    const struct segment *at = pool->segments;
    for (int i = 0; at && i < LIST_MOST && !error; i++, at = segment.next) {
        error = fetch(process, at, &segment, sizeof segment);
        if (!error && segment.mapped)
            to->hugetlb_missed += pool->hugetlb && !segment.hugetlb;
        if (!error && segment.mapped)
            error = look_at_segment(process, arena, &segment, to, view);
    }
    to->peak = pool->peak > to->live ? pool->peak : to->live;
    return error;
}

static int by_slot_size(const void *a, const void *b)
{
    size_t x = ((const struct pool_view *)a)->slot_size, y = ((const struct pool_view *)b)->slot_size;
    return (x > y) - (x < y);
}

static void sort(struct holders *holders)
{
    qsort(holders->all, holders->count, sizeof holders->all[0], by_bytes);
}

int process_look(const struct process *process, struct view *view)
{
    struct arena arena;
    struct zc_pool pool;
    zc_comm comm;
    *view = (struct view){0};
    int error = fetch(process, atomic_load(&process->live->arena), &arena, sizeof arena);
    const struct zc_pool *at = atomic_load(&process->live->pools);
    for (; at && !error && view->pools < POOLS_MOST; at = pool.next) {
        error = fetch(process, at, &pool, sizeof pool);
        if (!error && pool.open)
            error = look_at_pool(process, &arena, &pool, view);
    }
    const zc_comm *open = atomic_load(&process->live->comms);
    for (int i = 0; open && !error && i < LIST_MOST; i++, open = comm.next) {
        error = fetch(process, open, &comm, sizeof comm);
        if (!error && comm.open)
            add_views(process, &comm, view);
    }
    qsort(view->pool, view->pools, sizeof view->pool[0], by_slot_size);
    sort(&view->sends);
    sort(&view->views);
    return error;
}
