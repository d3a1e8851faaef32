/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "core/stats.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

struct live live;

static int file = -1;
static bool hidden;
static ino_t inode;

/* A forked child counts for itself, and shows nothing. */
static void hide_in_child(void)
{
    struct live copy = live;
    memset(copy.magic, 0, sizeof copy.magic);
    if (sys_mmap(&live, sizeof live, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0))
        live = copy;
    struct stat stat; /* the program may have closed the descriptor and have another by that number */
    if (fstat(file, &stat) == 0 && stat.st_ino == inode)
        close(file);
}

void live_hide(void)
{
    hidden = true;
}

void live_open(void)
{
    enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL };
    struct stat stat;
    if (file >= 0 || hidden || sys_may_grow(sizeof live))
        return;
    file = memfd_create(LIVE_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0)
        return;
    if (ftruncate(file, sizeof live) || fstat(file, &stat) || pwrite(file, &live, sizeof live, 0) != sizeof live ||
        !sys_mmap(&live, sizeof live, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0)) {
        close(file);
        return;
    }
    inode = stat.st_ino;
    fcntl(file, F_ADD_SEALS, SEALS);
    pthread_atfork(NULL, NULL, hide_in_child);
    live.pid = (uint64_t)getpid();
    strncpy(live.version, zc_version(), sizeof live.version - 1);
    memcpy(live.magic, LIVE_MAGIC, sizeof live.magic);
}
