/* SPDX-License-Identifier: MIT
 *
 * The directory where ranks meet: each listens at the socket NAME.RANK in it. A socket on which nobody listens was left
 * behind by a process that was killed; who comes across it removes it, and the first rank of a communicator looks for
 * those of others. All changes are made under a lock of the directory, so that of each two ranks exactly one finds the
 * other there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/error.h"
#include "core/sys.h"
#include "transport/shm.h"

enum { BACKLOG = SHM_RANKS_MOST + 16, NAP_NS = 200000 };

uint64_t pid_namespace(void)
{
    struct stat pids;
    return stat("/proc/self/ns/pid", &pids) ? 0 : pids.st_ino;
}

int directory_open(int *out)
{
    char path[256];
    const char *run = getenv("XDG_RUNTIME_DIR");
    struct stat stat;
    unsigned user = (unsigned)geteuid();
    int length = run && *run == '/' ? snprintf(path, sizeof path, "%s/zc", run)
                                    : snprintf(path, sizeof path, "/tmp/zc-%u", user);
    if ((size_t)length >= sizeof path)
        return fail(-ENAMETOOLONG, "zc_open: shm: XDG_RUNTIME_DIR is longer than %zu characters", sizeof path - 4);
    if (mkdir(path, 0700) && errno != EEXIST)
        return fail(-errno, "zc_open: shm: the directory %s cannot be made: %s (set XDG_RUNTIME_DIR to one of yours)",
                    path, error_text(errno));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat))
        return fail(-errno, "zc_open: shm: %s cannot be opened as a directory: %s", path, error_text(errno));
    if (stat.st_uid != user || (stat.st_mode & 077)) {
        close(fd);
        return fail(-EPERM, "zc_open: shm: %s belongs to user %u with mode %03o, expected user %u and 700", path,
                    (unsigned)stat.st_uid, (unsigned)stat.st_mode & 0777, user);
    }
    *out = fd;
    return 0;
}

bool place_lock(const struct shm *shm, uint64_t timeout_ns)
{
    uint64_t deadline = clock_ns() + timeout_ns;
    while (flock(shm->directory, LOCK_EX | LOCK_NB)) {
        if (clock_ns() >= deadline)
            return false;
        struct timespec time = {0, NAP_NS};
        syscall(SYS_nanosleep, &time, NULL); /* not libc's, in which the thread could be cancelled */
    }
    return true;
}

void place_unlock(const struct shm *shm)
{
    flock(shm->directory, LOCK_UN);
}

/* Through the descriptor of the directory, the name is short enough for a socket whatever the path. */
static struct sockaddr_un address_of(const struct shm *shm, int rank)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s.%d", shm->directory, shm->name, rank);
    return address;
}

static int open_socket(void)
{
    return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

int place_connect(const struct shm *shm, int rank, int *error)
{
    struct sockaddr_un address = address_of(shm, rank);
    int sock = open_socket();
    *error = 0;
    if (sock >= 0 && connect(sock, (struct sockaddr *)&address, sizeof address) == 0)
        return sock;
    if (sock >= 0 && errno == ECONNREFUSED)
        unlink(address.sun_path);
    else if (sock < 0 || errno != ENOENT)
        *error = -errno;
    if (sock >= 0)
        close(sock);
    return -1;
}

/* Removes what killed processes have left behind, whose communicators may never be opened again. A socket of another
 * type is refused and so disturbs nobody, but the error tells whether one is there: it is bound and listens under the
 * lock. */
static void sweep_all(const struct shm *shm)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = openat(shm->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    int sock = entries ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    for (struct dirent *entry; sock >= 0 && (entry = readdir(entries));) {
        size_t room = sizeof address.sun_path;
        if (entry->d_type == DT_SOCK &&
            (size_t)snprintf(address.sun_path, room, "/proc/self/fd/%d/%s", shm->directory, entry->d_name) < room &&
            connect(sock, (struct sockaddr *)&address, sizeof address) && errno == ECONNREFUSED)
            unlink(address.sun_path);
    }
    if (sock >= 0)
        close(sock);
    if (entries)
        closedir(entries);
    else if (fd >= 0)
        close(fd);
}

static int take(struct shm *shm, int (*met)(struct shm *shm, int rank, int sock))
{
    int error, there = place_connect(shm, shm->common.rank, &error);
    if (there >= 0 || error == -EAGAIN) {
        if (there >= 0)
            close(there);
        return fail(-EEXIST, "zc_open: shm:%s: rank %d is taken", shm->name, shm->common.rank);
    }
    struct sockaddr_un address = address_of(shm, shm->common.rank);
    int sock = error ? -1 : open_socket();
    if (!error && (sock < 0 || bind(sock, (struct sockaddr *)&address, sizeof address) || listen(sock, BACKLOG)))
        error = -errno;
    shm->listener = sock;
    bool first = true;
    for (int rank = 0; rank < shm->common.size && !error; rank++) {
        int peer = rank == shm->common.rank || shm->peers[rank] ? -1 : place_connect(shm, rank, &error);
        if (peer >= 0 && (error = met(shm, rank, peer)))
            return error;
        first &= peer < 0 && !error;
        if (error == -EAGAIN) {
            shm->again = true;
            error = 0;
        }
    }
    if (first)
        sweep_all(shm);
    return error ? fail(error, "zc_open: shm:%s: a socket failed: %s", shm->name, error_text(-error)) : 0;
}

int directory_enter(struct shm *shm, uint64_t timeout_ns, int (*met)(struct shm *shm, int rank, int sock))
{
    int error = directory_open(&shm->directory);
    if (error)
        return error;
    if (!place_lock(shm, timeout_ns))
        return fail(-ETIMEDOUT,
                    "zc_open: shm:%s: another process has had the run-time directory's lock for %llu seconds: is it "
                    "stopped?",
                    shm->name, (unsigned long long)(timeout_ns / 1000000000));
    error = take(shm, met);
    place_unlock(shm);
    return error;
}

void directory_leave(struct shm *shm)
{
    if (shm->directory < 0)
        return;
    if (shm->listener >= 0) {
        struct sockaddr_un address = address_of(shm, shm->common.rank);
        bool locked = place_lock(shm, PLACE_LOCK_NS);
        close(shm->listener);
        if (locked) { /* else it stays as that of a process that was killed */
            unlink(address.sun_path);
            place_unlock(shm);
        }
    }
    close(shm->directory);
}

void directory_sweep(struct shm *shm, int rank, int process)
{
    struct sockaddr_un address = address_of(shm, rank);
    struct ucred listener;
    socklen_t length = sizeof listener;
    int error;
    if (!place_lock(shm, PLACE_LOCK_NS))
        return;
    int sock = place_connect(shm, rank, &error);
    /* Its sockets are closed one after the other: this one may be next. */
    if (sock >= 0 && !getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &listener, &length) && listener.pid == process)
        unlink(address.sun_path);
    place_unlock(shm);
    if (sock >= 0)
        close(sock);
}
