/* SPDX-License-Identifier: MIT */
#include "transport/hosts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/error.h"
#include "core/options.h"
#include "transport/bootstrap.h"
#include "transport/shm.h"

enum { BOOT_BYTES = 40, HOST_BYTES = 64 };

_Static_assert((int)HOSTS_NAME_BYTES == (int)SHM_NAME_MOST + 1, "a name of shm");

/* What must be the same for two to meet. No byte of it is left undefined. */
struct place {
    char boot[BOOT_BYTES]; /* of the kernel; "": nobody can be met */
    char host[HOST_BYTES]; /* ZC_HOST */
    uint64_t pids;         /* the pid namespace */
    uint64_t directory, directory_on;
    uint64_t user;
};

/* What each tells all others. */
struct self {
    struct place place;
    char name[HOSTS_NAME_BYTES];
};

static void read_boot(char boot[BOOT_BYTES])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, boot, BOOT_BYTES - 1) < 0)
        *boot = 0;
    if (fd >= 0)
        close(fd);
}

/* Where that cannot be said, or there is no directory to meet in, nobody is met: an error. */
static int find_place(struct place *place, const char *host)
{
    struct stat directory;
    int fd;
    strcpy(place->host, host);
    place->user = geteuid();
    place->pids = pid_namespace();
    if (!place->pids)
        return fail(-ENOENT, "zc_open: shm: the pid namespace of this process is not to be found in /proc");
    int error = directory_open(&fd);
    if (error)
        return error;
    error = fstat(fd, &directory) ? fail(-errno, "zc_open: shm: the run-time directory: %s", error_text(errno)) : 0;
    close(fd);
    if (error)
        return error;
    place->directory = directory.st_ino;
    place->directory_on = directory.st_dev;
    read_boot(place->boot);
    return 0;
}

static int describe_self(struct self *self, struct kept_error *lonely)
{
    const struct options *options;
    struct kept_error before;
    int error = options_get(&options);
    if (error)
        return error;
    if (strlen(options->host) >= HOST_BYTES)
        return fail(-EINVAL, "ZC_HOST=%s: expected at most %d characters", options->host, HOST_BYTES - 1);
    memset(self, 0, sizeof *self);
    error_keep(&before, 0);
    error_keep(lonely, find_place(&self->place, options->host));
    error_restore(&before); /* perhaps nobody needs to be met */
    snprintf(self->name, sizeof self->name, "mpi-%d-%llx", (int)getpid(), (unsigned long long)clock_ns());
    return 0;
}

/* Who is of this rank's host, what they call themselves, and how many there are of any. */
static int compare(struct hosts *hosts, const struct self *mine, struct self *all, int *counts)
{
    int error = bootstrap_allgather(hosts->bootstrap, mine, sizeof *mine, all);
    if (error)
        return error;
    for (int rank = hosts->size - 1; rank >= 0; rank--) {
        hosts->with[rank] = rank == hosts->rank ||
                            (*mine->place.boot && memcmp(&all[rank].place, &mine->place, sizeof mine->place) == 0);
        if (!hosts->with[rank])
            continue;
        hosts->here++;
        memcpy(hosts->name, all[rank].name, sizeof hosts->name); /* the first one's stays */
    }
    error = bootstrap_allgather(hosts->bootstrap, &hosts->here, sizeof hosts->here, counts);
    for (int rank = 0; rank < hosts->size && !error; rank++)
        if (counts[rank] > hosts->most)
            hosts->most = counts[rank];
    return error;
}

int hosts_find(const void *comm, struct hosts *hosts)
{
    struct self mine;
    *hosts = (struct hosts){0};
    int error = bootstrap_open_mpi(comm, &hosts->bootstrap);
    if (error)
        return error;
    if ((error = bootstrap_agree(hosts->bootstrap, describe_self(&mine, &hosts->lonely)))) {
        hosts_end(hosts);
        return error;
    }
    hosts->rank = bootstrap_rank(hosts->bootstrap);
    hosts->size = bootstrap_size(hosts->bootstrap);
    size_t size = (size_t)hosts->size;
    hosts->with = calloc(size, sizeof *hosts->with);
    struct self *all = calloc(size, sizeof *all);
    int *counts = calloc(size, sizeof *counts);
    error = hosts->with && all && counts ? compare(hosts, &mine, all, counts)
                                         : fail(-ENOMEM, "zc_open: no memory to tell %d ranks apart", hosts->size);
    free(all);
    free(counts);
    if (error)
        hosts_end(hosts);
    return error;
}

void hosts_end(struct hosts *hosts)
{
    bootstrap_close(hosts->bootstrap);
    free(hosts->with);
    *hosts = (struct hosts){0};
}
