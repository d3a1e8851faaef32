/* SPDX-License-Identifier: MIT
 *
 * Memory that is shown to peers, and theirs that is mapped here. All of it is in memfds that are sealed: they never
 * change size, so that reading them cannot fail, and nobody can map them writable who has not already. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/error.h"
#include "core/own_memory.h"
#include "core/sys.h"
#include "transport/shm.h"

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE };

/* Maps a descriptor that a peer sent, if it is what it should be: read-only, at a multiple of 2 MiB, so that huge pages
 * stay huge. It has no part in a core dump, nor in children. NULL with errno. */
static void *map_sealed(int fd, size_t length)
{
    struct stat stat;
    struct statfs system;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &stat) || (size_t)stat.st_size != length || !length ||
        length % PAGE_BYTES || fstatfs(fd, &system) || system.f_type != TMPFS_MAGIC) {
        errno = EPROTO;
        return NULL;
    }
    size_t room = length + HUGE_BYTES;
    char *range = room > length ? sys_reserve(NULL, room, PROT_NONE) : NULL;
    if (!range)
        return NULL;
    char *at = (char *)round_to_huge((uintptr_t)range);
    if (!sys_mmap(at, length, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) || sys_madvise(at, length, MADV_DONTFORK) ||
        sys_madvise(at, length, MADV_DONTDUMP)) {
        sys_munmap(range, room);
        return NULL;
    }
    if (at > range)
        sys_munmap(range, (size_t)(at - range));
    sys_munmap(at + length, (size_t)(range + room - (at + length)));
    return at;
}

/* ---- boards ---- */

static size_t board_bytes(void)
{
    return pages_of(sizeof(struct board)) << PAGE_SHIFT;
}

struct board *board_create(int *fd)
{
    struct board *board = NULL;
    int error = sys_may_grow(board_bytes());
    if (error)
        return fail_null(error, "zc_open: shm: a board of %zu bytes is larger than RLIMIT_FSIZE allows (ulimit -f)",
                         board_bytes());
    *fd = memfd_create("zc board", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd >= 0 && ftruncate(*fd, (off_t)board_bytes()) == 0)
        board = sys_mmap(NULL, board_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (board && !fcntl(*fd, F_ADD_SEALS, SEALS) && !sys_madvise(board, board_bytes(), MADV_DONTFORK) &&
        !sys_madvise(board, board_bytes(), MADV_POPULATE_WRITE))
        return board;
    error = errno;
    if (board)
        sys_munmap(board, board_bytes());
    if (*fd >= 0)
        close(*fd);
    return fail_null(-error, "zc_open: shm: a memfd for a peer's messages: %s (limits: RLIMIT_NOFILE, memory)",
                     error_text(error));
}

const struct board *board_map(int fd)
{
    return map_sealed(fd, board_bytes());
}

void board_unmap(const struct board *board)
{
    if (board)
        sys_munmap((void *)(uintptr_t)board, board_bytes());
}

/* ---- shown by this rank ---- */

static size_t table_bytes(void)
{
    return (arena.span >> GRANULE_SHIFT) * sizeof(uint32_t);
}

static uint32_t *number_of(const struct shm *shm, const struct segment *segment)
{
    return &shm->show_of[(size_t)(segment->user - arena.user) >> GRANULE_SHIFT];
}

static bool is_shown(const struct link *link, uint32_t number)
{
    return link->shown[number / 64] >> number % 64 & 1;
}

/* Nobody refers to it any more, or what it shows is not there any more. */
static void stop_showing(struct shm *shm, uint32_t number)
{
    struct show *show = ids_find(&shm->shows, number);
    struct packet packet = {.kind = PACKET_FORGET, .number = number, .generation = show->generation};
    for (struct link *link = shm->links; link; link = link->next) {
        if (!is_shown(link, number))
            continue;
        link->shown[number / 64] &= ~((uint64_t)1 << number % 64);
        if (!link->error)
            packet_send(link->sock, &packet,
                        -1); /* if it does not fit, the peer learns when the number is used again */
    }
    if (show->mapping)
        show->mapping->number = NO_SEGMENT;
    ids_drop(&shm->shows, number);
    free(show);
}

static int on_add(void *context, struct segment *segment)
{
    (void)context, (void)segment;
    return 1; /* it is shown when it is first sent from */
}

static void on_remove(void *context, struct segment *segment)
{
    struct shm *shm = context;
    shm_lock(shm);
    uint32_t *number = number_of(shm, segment);
    if (*number)
        stop_showing(shm, *number - 1);
    *number = 0;
    shm_unlock(shm);
}

int segments_open(struct shm *shm)
{
    shm->show_of = sys_reserve(NULL, table_bytes(), PROT_READ | PROT_WRITE);
    if (!shm->show_of)
        return fail(-ENOMEM, "zc_open: shm: no address space for a table of segments");
    shm->registrar = (struct registrar){.add = on_add, .remove = on_remove, .context = shm};
    return registrar_attach(&shm->registrar);
}

void segments_close(struct shm *shm)
{
    if (!shm->show_of)
        return;
    registrar_detach(&shm->registrar);
    for (uint32_t number = 0; number < shm->shows.room; number++)
        if (ids_find(&shm->shows, number))
            stop_showing(shm, number);
    free(shm->shows.all);
    sys_munmap(shm->show_of, table_bytes());
}

/* A number for what is to be shown. NO_SEGMENT: there are too many. */
static uint32_t new_show(struct shm *shm, const struct segment *segment, struct mapping *mapping)
{
    static _Atomic uint32_t generation;
    uint32_t number;
    struct show *show = shm->shows.count < SHM_SEGMENTS_MOST ? malloc(sizeof *show) : NULL;
    if (!show || ids_take(&shm->shows, show, &number)) {
        free(show);
        return NO_SEGMENT;
    }
    *show = (struct show){.segment = segment, .mapping = mapping, .generation = atomic_fetch_add(&generation, 1)};
    return number;
}

/* Shows it to the peer, unless it is. False if that cannot be now. */
static bool show_to(struct link *link, uint32_t number)
{
    const struct show *show = ids_find(&link->shm->shows, number);
    const struct segment *segment = show->segment;
    const struct mapping *mapping = show->mapping;
    if (is_shown(link, number))
        return true;
    struct packet packet = {.kind = PACKET_SHOW,
                            .number = number,
                            .generation = show->generation,
                            .length = segment ? segment->length : mapping->length,
                            .slot_size = segment ? segment->slot_size : mapping->slot_size,
                            .stride = segment ? segment->stride : mapping->stride};
    /* The seal would keep hugetlb pages from being renamed. */
    if (segment && (segment->pool->hugetlb || !own_file_is(&segment->own, segment->fd) ||
                    fcntl(segment->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)))
        return false;
    if (packet_send(link->sock, &packet, segment ? segment->fd : mapping->fd))
        return false;
    link->shown[number / 64] |= (uint64_t)1 << number % 64;
    return true;
}

static void locate(struct link *link, uint32_t number, size_t offset, struct cell *cell)
{
    if (number == NO_SEGMENT || !show_to(link, number))
        return;
    const struct show *show = ids_find(&link->shm->shows, number);
    cell->segment = number;
    cell->generation = show->generation;
    cell->at = offset;
}

void segments_locate(struct link *link, const char *wire, struct cell *cell)
{
    if (!arena_has_wire(wire))
        return;
    const char *user = arena_user_of(wire);
    struct segment *segment = arena_segment(user);
    uint32_t *number = number_of(link->shm, segment);
    if (!*number)
        *number = new_show(link->shm, segment, NULL) + 1; /* NO_SEGMENT + 1 is 0 */
    locate(link, *number - 1, (size_t)(user - segment->user), cell);
}

void segments_locate_on(struct link *link, struct mapping *mapping, const char *bytes, struct cell *cell)
{
    if (mapping->number == NO_SEGMENT)
        mapping->number = new_show(link->shm, NULL, mapping);
    locate(link, mapping->number, (size_t)(bytes - mapping->at), cell);
}

/* ---- shown by peers ---- */

void mapping_put(struct mapping *mapping)
{
    struct link *link = mapping->link;
    if (--mapping->users)
        return;
    link->mapped--;
    link->mapped_bytes -= mapping->length;
    if (mapping->number != NO_SEGMENT)
        stop_showing(link->shm, mapping->number);
    if (mapping->at)
        sys_munmap((void *)(uintptr_t)mapping->at, mapping->length);
    if (mapping->fd >= 0)
        sys_close(mapping->fd);
    free(mapping);
}

static void drop(struct link *link, uint32_t number)
{
    struct mapping *mapping = link->mappings[number];
    link->mappings[number] = NULL;
    if (mapping)
        mapping_put(mapping);
}

/* Segments may be larger than what they hold, but a peer that shows far more than this host has wants to use up the
 * address space of this process. */
static size_t mapped_most(void)
{
    enum { TIMES = 4 };
    return (size_t)sysconf(_SC_PHYS_PAGES) * PAGE_BYTES * TIMES;
}

static bool may_show(const struct link *link, const struct packet *packet)
{
    return packet->number < SHM_SEGMENTS_MOST && packet->slot_size && packet->slot_size <= packet->stride &&
           packet->stride <= packet->length && packet->length <= mapped_most() - link->mapped_bytes &&
           link->mapped < SHM_SEGMENTS_MOST;
}

static struct mapping **new_mappings(void)
{
    struct mapping **mappings = own_realloc(NULL, SHM_SEGMENTS_MOST * sizeof(struct mapping *));
    for (uint32_t number = 0; mappings && number < SHM_SEGMENTS_MOST; number++)
        mappings[number] = NULL;
    return mappings;
}

int segments_shown(struct link *link, const struct packet *packet, int fd)
{
    if (packet->number < SHM_SEGMENTS_MOST && link->mappings)
        drop(link, packet->number); /* this comes in its place */
    if (!may_show(link, packet)) {
        if (fd >= 0)
            sys_close(fd);
        return -EPROTO;
    }
    if (!link->mappings)
        link->mappings = new_mappings();
    struct mapping *mapping = link->mappings ? calloc(1, sizeof *mapping) : NULL;
    if (!mapping) {
        if (fd >= 0)
            sys_close(fd);
        return -ENOMEM;
    }
    *mapping = (struct mapping){.link = link,
                                .length = packet->length,
                                .slot_size = packet->slot_size,
                                .stride = packet->stride,
                                .generation = packet->generation,
                                .fd = fd,
                                .users = 1,
                                .number = NO_SEGMENT};
    link->mapped++;
    link->mapped_bytes += mapping->length;
    /* Where a limit is reached, of descriptors or mappings, messages from it are pulled. */
    if (fd >= 0 && !(mapping->at = map_sealed(fd, packet->length)) && errno == EPROTO) {
        mapping_put(mapping);
        return -EPROTO;
    }
    link->mappings[packet->number] = mapping;
    return 0;
}

int segments_forgotten(struct link *link, const struct packet *packet)
{
    if (packet->number >= SHM_SEGMENTS_MOST)
        return -EPROTO;
    if (link->mappings && link->mappings[packet->number] &&
        link->mappings[packet->number]->generation == packet->generation)
        drop(link, packet->number);
    return 0;
}

void segments_drop(struct link *link)
{
    for (uint32_t number = 0; link->mappings && number < SHM_SEGMENTS_MOST; number++)
        drop(link, number);
    free(link->mappings);
    link->mappings = NULL;
}

bool segments_find(struct link *link, const struct cell *cell, struct mapping **mapping, const char **bytes)
{
    *mapping = NULL;
    *bytes = NULL;
    if (cell->segment == NO_SEGMENT)
        return true;
    if (cell->segment >= SHM_SEGMENTS_MOST || !link->mappings)
        return false;
    struct mapping *found = link->mappings[cell->segment];
    if (!found || found->generation != cell->generation || cell->at >= found->length)
        return false;
    size_t left = found->slot_size - cell->at % found->stride;
    if (cell->at % found->stride >= found->slot_size || cell->length > left || cell->length > found->length - cell->at)
        return false;
    if (!found->at)
        return true;
    found->users++;
    *mapping = found;
    *bytes = found->at + cell->at;
    return true;
}
