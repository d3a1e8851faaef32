/* SPDX-License-Identifier: MIT */
#include "core/live.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "core/own_file.h"

struct live live;

static int file = -1;
static bool hidden;
static struct own_file own;

/* A forked child counts for itself, and shows nothing. */
static void hide_in_child(void)
{
    struct live copy = live;
    memset(copy.magic, 0, sizeof copy.magic);
    if (sys_mmap(&live, sizeof live, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0))
        live = copy;
    if (own_file_is(&own, file))
        close(file);
}

void live_hide(void)
{
    hidden = true;
}

void live_open(void)
{
    enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL };
    if (file >= 0 || hidden || sys_may_grow(sizeof live))
        return;
    file = memfd_create(LIVE_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0)
        return;
    if (ftruncate(file, sizeof live) || pwrite(file, &live, sizeof live, 0) != sizeof live ||
        !sys_mmap(&live, sizeof live, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0)) {
        close(file);
        return;
    }
    own = own_file(file);
    fcntl(file, F_ADD_SEALS, SEALS);
    pthread_atfork(NULL, NULL, hide_in_child);
    live.pid = (uint64_t)getpid();
    strncpy(live.version, zc_version(), sizeof live.version - 1);
    memcpy(live.magic, LIVE_MAGIC, sizeof live.magic);
}
