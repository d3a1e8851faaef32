/* SPDX-License-Identifier: MIT */
#include "transport/bootstrap.h"

#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/error.h"
#include "zc.h"

enum {
    STRANGERS = 16,  /* connections that have not said yet who they are: more of them wait outside, */
    GRACE_MS = 1000, /* until one has had so long for it */
    RETRY_MS = 50,
    BYTE_ORDER_MARK = 0x01020304
};

static const char magic[8] = "zc ranks";

struct hello {
    char magic[8];
    uint32_t order;
    int32_t rank, size;
    char protocol[BOOTSTRAP_PROTOCOL_BYTES];
};

struct answer {
    char magic[8];
    int32_t error;
    char text[128]; /* why, if there is an error */
};

struct bootstrap {
    int rank, size;
    bool over_mpi;
    MPI_Comm comm;
    uint64_t timeout_ns;
    char root[128]; /* for messages */
    int fds[];      /* rank 0: of each other rank; else only [0]; -1: none */
};

int bootstrap_rank(const struct bootstrap *bootstrap)
{
    return bootstrap->rank;
}

int bootstrap_size(const struct bootstrap *bootstrap)
{
    return bootstrap->size;
}

/* ---- bytes over sockets, until a deadline ---- */

static int left_ms(uint64_t deadline)
{
    uint64_t now = clock_ns();
    return now >= deadline ? 0 : (int)((deadline - now) / 1000000 + 1);
}

/* 0, -ETIMEDOUT, -ECONNRESET where the other side has closed, or another error. */
static int move(int fd, void *bytes, size_t length, bool out, uint64_t deadline)
{
    for (char *at = bytes; length;) {
        ssize_t n = out ? send(fd, at, length, MSG_NOSIGNAL) : recv(fd, at, length, 0);
        if (n > 0) {
            at += n;
            length -= (size_t)n;
            continue;
        }
        if (n == 0 || errno == EPIPE)
            return -ECONNRESET;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        int ms = left_ms(deadline);
        struct pollfd poller = {.fd = fd, .events = out ? POLLOUT : POLLIN};
        if (ms == 0 || poll(&poller, 1, ms) == 0)
            return -ETIMEDOUT;
    }
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- addresses ---- */

/* HOST:PORT, with an IPv6 HOST in brackets or not. */
static int resolve(const char *root, struct addrinfo **found)
{
    char host[128] = "";
    const char *colon = strrchr(root, ':');
    size_t length = colon ? (size_t)(colon - root) : 0;
    if (length == 0 || length >= sizeof host || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        strlen(colon + 1) > 5 || strtol(colon + 1, NULL, 10) < 1 || strtol(colon + 1, NULL, 10) > 65535)
        return fail(-EINVAL, "zc_open: root=%.100s: expected HOST:PORT", root);
    bool brackets = root[0] == '[' && root[length - 1] == ']';
    memcpy(host, root + brackets, length - 2 * brackets);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    int code = getaddrinfo(host, colon + 1, &hints, found);
    if (code)
        return fail(-EINVAL, "zc_open: root=%.100s: %s", root, gai_strerror(code));
    return 0;
}

static int new_socket(const struct addrinfo *at)
{
    return socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at->ai_protocol);
}

/* ---- rank 0 ---- */

struct stranger {
    int fd; /* -1: none */
    uint64_t since;
    size_t got;
    struct hello hello;
};

struct door {
    int listener;
    int present; /* ranks, this one included */
    struct stranger strangers[STRANGERS];
    char refused[200]; /* the last one that was, for the message of a time-out */
};

static int door_open(struct door *door, const char *root, const struct addrinfo *at)
{
    int on = 1;
    memset(door, 0, sizeof *door);
    door->present = 1;
    for (int i = 0; i < STRANGERS; i++)
        door->strangers[i].fd = -1;
    door->listener = new_socket(at);
    if (door->listener >= 0 && setsockopt(door->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(door->listener, at->ai_addr, at->ai_addrlen) == 0 && listen(door->listener, SOMAXCONN) == 0)
        return 0;
    int error = -errno;
    close_fd(&door->listener);
    return fail(error, "zc_open: rank 0 cannot listen at root=%s: %s%s", root, error_text(-error),
                error == -EADDRINUSE      ? " (is rank 0 started twice?)"
                : error == -EADDRNOTAVAIL ? " (HOST must be an address of rank 0's machine)"
                                          : "");
}

static void door_close(struct door *door)
{
    for (int i = 0; i < STRANGERS; i++)
        close_fd(&door->strangers[i].fd);
    close_fd(&door->listener);
}

/* The place of who comes next: a free one, or of who has had its time. NULL: there is none for another *ms at most. */
static struct stranger *next_place(struct door *door, int *ms)
{
    struct stranger *oldest = door->strangers;
    for (int i = 0; i < STRANGERS; i++) {
        struct stranger *stranger = &door->strangers[i];
        if (stranger->fd < 0)
            return stranger;
        if (stranger->since < oldest->since)
            oldest = stranger;
    }
    int left = left_ms(oldest->since + GRACE_MS * 1000000ull);
    if (left == 0)
        return oldest;
    if (left < *ms)
        *ms = left;
    return NULL;
}

/* Takes in who comes, unless it has gone again. 0, or an errno of what does not pass by itself. */
static int admit(const struct door *door, struct stranger *place)
{
    int fd = accept4(door->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM ? errno : 0;
    close_fd(&place->fd);
    *place = (struct stranger){.fd = fd, .since = clock_ns()};
    return 0;
}

/* Why a rank may not join, or 0. Ranks of other versions get an answer too, as long as hello stays what it is. */
static int judge(const struct bootstrap *bootstrap, const char *protocol, const struct hello *hello, char *text,
                 size_t room)
{
    if (hello->order != BYTE_ORDER_MARK) {
        snprintf(text, room, "a machine of another byte order");
        return -EPROTO;
    }
    if (strncmp(hello->protocol, protocol, sizeof hello->protocol) != 0) {
        snprintf(text, room, "rank 0 speaks \"%s\", rank %d \"%.*s\": the versions differ", protocol, hello->rank,
                 (int)sizeof hello->protocol, hello->protocol);
        return -EPROTO;
    }
    if (hello->size != bootstrap->size || hello->rank < 0 || hello->rank >= hello->size) {
        snprintf(text, room, "rank 0 says size=%d, rank %d says size=%d", bootstrap->size, hello->rank, hello->size);
        return -EINVAL;
    }
    if (hello->rank == 0 || bootstrap->fds[hello->rank] >= 0) {
        snprintf(text, room, "rank %d is there already: is it started twice?", hello->rank);
        return -EEXIST;
    }
    return 0;
}

/* Reads on what a stranger says. It may turn out a rank, or not. */
static void listen_to(struct bootstrap *bootstrap, struct door *door, const char *protocol, struct stranger *stranger)
{
    ssize_t n = recv(stranger->fd, (char *)&stranger->hello + stranger->got, sizeof stranger->hello - stranger->got, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    stranger->got += n > 0 ? (size_t)n : 0;
    size_t known = stranger->got < sizeof magic ? stranger->got : sizeof magic;
    if (n <= 0 || memcmp(stranger->hello.magic, magic, known) != 0) {
        close_fd(&stranger->fd); /* a scanner, or a program that took the port for another one */
        return;
    }
    if (stranger->got < sizeof stranger->hello)
        return;
    struct answer answer = {0};
    memcpy(answer.magic, magic, sizeof magic);
    answer.error = judge(bootstrap, protocol, &stranger->hello, answer.text, sizeof answer.text);
    if (answer.error) {
        memcpy(door->refused, answer.text, sizeof answer.text);
        move(stranger->fd, &answer, sizeof answer, true, 0); /* there is room for it in the socket */
        close_fd(&stranger->fd);
        return;
    }
    bootstrap->fds[stranger->hello.rank] = stranger->fd;
    stranger->fd = -1;
    door->present++;
}

static int missing(const struct bootstrap *bootstrap, const struct door *door)
{
    int first = 1;
    while (bootstrap->fds[first] >= 0)
        first++;
    return fail(-ETIMEDOUT, "zc_open: %d of %d ranks came to root=%s within %g s; the first that is missing is %d%s%s",
                door->present, bootstrap->size, bootstrap->root, (double)bootstrap->timeout_ns / 1e9, first,
                *door->refused ? "; refused: " : "", door->refused);
}

/* poll(2) fails with EINVAL if it is given more descriptors than a process may have. */
static int crowded(const struct bootstrap *bootstrap, const struct door *door, int error)
{
    error = error == EINVAL ? EMFILE : error;
    return fail(-error, "zc_open: rank 0 at root=%s can take in no more than %d of %d ranks: %s (limit: RLIMIT_NOFILE)",
                bootstrap->root, door->present, bootstrap->size, error_text(error));
}

static int gather_ranks(struct bootstrap *bootstrap, const struct addrinfo *at, const char *protocol)
{
    struct door door;
    uint64_t deadline = clock_ns() + bootstrap->timeout_ns;
    int error = door_open(&door, bootstrap->root, at);
    if (error)
        return error;
    while (door.present < bootstrap->size && !error) {
        struct pollfd pollers[STRANGERS + 1];
        for (int i = 0; i < STRANGERS; i++)
            pollers[i] = (struct pollfd){.fd = door.strangers[i].fd, .events = POLLIN};
        int ms = left_ms(deadline);
        if (ms == 0) {
            error = missing(bootstrap, &door);
            break;
        }
        struct stranger *place = next_place(&door, &ms);
        pollers[STRANGERS] = (struct pollfd){.fd = place ? door.listener : -1, .events = POLLIN};
        int n = poll(pollers, STRANGERS + 1, ms), failed = n < 0 && errno != EINTR ? errno : 0;
        for (int i = 0; n > 0 && i < STRANGERS; i++)
            if (pollers[i].revents)
                listen_to(bootstrap, &door, protocol, &door.strangers[i]);
        if (n > 0 && pollers[STRANGERS].revents)
            failed = admit(&door, place);
        if (failed)
            error = crowded(bootstrap, &door, failed);
    }
    door_close(&door);
    struct answer welcome = {0};
    memcpy(welcome.magic, magic, sizeof magic);
    for (int r = 1; r < bootstrap->size && !error; r++)
        if ((error = move(bootstrap->fds[r], &welcome, sizeof welcome, true, deadline)))
            error_say("zc_open: rank %d came to root=%s and left again: %s", r, bootstrap->root, error_text(-error));
    return error;
}

/* ---- the others ---- */

/* Waits for what becomes of a connection that was begun. 0 or an errno. */
static int await_connection(int fd, uint64_t deadline)
{
    struct pollfd poller = {.fd = fd, .events = POLLOUT};
    int n, error;
    socklen_t length = sizeof error;
    do
        n = poll(&poller, 1, left_ms(deadline));
    while (n < 0 && errno == EINTR);
    if (n == 0)
        return ETIMEDOUT;
    return n < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) ? errno : error;
}

/* A socket that happens to get as its own the port that it is to reach, while nobody listens there, is connected to
 * itself. */
static bool is_own_peer(int fd)
{
    struct sockaddr_storage own = {0}, peer = {0};
    socklen_t own_length = sizeof own, peer_length = sizeof peer;
    return getsockname(fd, (struct sockaddr *)&own, &own_length) == 0 &&
           getpeername(fd, (struct sockaddr *)&peer, &peer_length) == 0 && memcmp(&own, &peer, sizeof own) == 0;
}

/* Connects as soon as rank 0 listens. The socket, or an error. */
static int reach(const struct addrinfo *at, uint64_t deadline)
{
    for (;;) {
        int fd = new_socket(at);
        if (fd < 0)
            return -errno;
        int error = connect(fd, at->ai_addr, at->ai_addrlen) == 0 ? 0 : errno;
        if (error == EINPROGRESS)
            error = await_connection(fd, deadline);
        if (!error && is_own_peer(fd)) {
            /* Closed at once: what TCP remembered of it would keep rank 0 from listening there. */
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
            error = ECONNREFUSED;
        }
        if (!error)
            return fd;
        close(fd);
        if (left_ms(deadline) == 0 || (error != ECONNREFUSED && error != EHOSTUNREACH && error != ENETUNREACH))
            return -error;
        poll(NULL, 0, RETRY_MS);
    }
}

static int join_root(struct bootstrap *bootstrap, const struct addrinfo *at, const char *protocol)
{
    uint64_t deadline = clock_ns() + bootstrap->timeout_ns;
    int fd = reach(at, deadline);
    if (fd < 0)
        return fail(fd == -ECONNREFUSED ? -ETIMEDOUT : fd,
                    "zc_open: rank 0 was not to be reached at root=%s within %g s: %s", bootstrap->root,
                    (double)bootstrap->timeout_ns / 1e9, error_text(-fd));
    bootstrap->fds[0] = fd;
    struct answer answer;
    struct hello hello = {.order = BYTE_ORDER_MARK, .rank = bootstrap->rank, .size = bootstrap->size};
    memcpy(hello.magic, magic, sizeof magic);
    memcpy(hello.protocol, protocol, strnlen(protocol, sizeof hello.protocol));
    int error = move(fd, &hello, sizeof hello, true, deadline);
    if (!error)
        error = move(fd, &answer, sizeof answer, false, deadline);
    if (error == -ETIMEDOUT)
        return fail(error, "zc_open: rank 0 at root=%s has not seen all ranks within %g s", bootstrap->root,
                    (double)bootstrap->timeout_ns / 1e9);
    if (error)
        return fail(
            error,
            "zc_open: rank 0 at root=%s, or what listens there, hung up: %s (is rank %d started twice, so that all "
            "were there already?)",
            bootstrap->root, error_text(-error), bootstrap->rank);
    if (memcmp(answer.magic, magic, sizeof magic) != 0)
        return fail(-EPROTO, "zc_open: what answers at root=%s is not rank 0 of a zc communicator", bootstrap->root);
    if (answer.error)
        return fail(answer.error < 0 ? answer.error : -EPROTO, "zc_open: refused at root=%s: %.*s", bootstrap->root,
                    (int)sizeof answer.text, answer.text);
    return 0;
}

/* ---- opening, exchanging, closing ---- */

static struct bootstrap *bootstrap_new(int rank, int size)
{
    size_t fds = rank == 0 ? (size_t)size : 1;
    struct bootstrap *bootstrap = calloc(1, sizeof *bootstrap + fds * sizeof bootstrap->fds[0]);
    if (!bootstrap)
        return fail_null(-ENOMEM, "zc_open: no memory");
    bootstrap->rank = rank;
    bootstrap->size = size;
    for (size_t i = 0; i < fds; i++)
        bootstrap->fds[i] = -1;
    return bootstrap;
}

int bootstrap_open(const char *root, int rank, int size, const char *protocol, uint64_t timeout_ns,
                   struct bootstrap **out)
{
    struct addrinfo *at = NULL;
    int error = size > 1 ? resolve(root, &at) : 0;
    if (error)
        return error;
    struct bootstrap *bootstrap = bootstrap_new(rank, size);
    if (!bootstrap) {
        error = -ENOMEM;
    } else {
        bootstrap->timeout_ns = timeout_ns;
        strncpy(bootstrap->root, root, sizeof bootstrap->root - 1);
        if (size > 1)
            error = rank == 0 ? gather_ranks(bootstrap, at, protocol) : join_root(bootstrap, at, protocol);
    }
    if (at)
        freeaddrinfo(at);
    if (error) {
        bootstrap_close(bootstrap);
        return error;
    }
    *out = bootstrap;
    return 0;
}

int bootstrap_open_mpi(const void *comm, struct bootstrap **out)
{
    MPI_Comm own;
    int rank, size;
    if (MPI_Comm_dup(*(const MPI_Comm *)comm, &own) != MPI_SUCCESS)
        return fail(-EIO, "zc_open: MPI_Comm_dup failed");
    MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN);
    MPI_Comm_rank(own, &rank);
    MPI_Comm_size(own, &size);
    struct bootstrap *bootstrap = bootstrap_new(rank, size);
    if (!bootstrap) {
        MPI_Comm_free(&own);
        return -ENOMEM;
    }
    bootstrap->over_mpi = true;
    bootstrap->comm = own;
    *out = bootstrap;
    return 0;
}

static int lost(const struct bootstrap *bootstrap, int rank, int error)
{
    return fail(error, "zc_open: rank %d was lost while all exchanged addresses through root=%s: %s%s", rank,
                bootstrap->root, error_text(-error),
                bootstrap->rank ? " (it tells its own error, or that of another rank)" : "");
}

int bootstrap_allgather(struct bootstrap *bootstrap, const void *mine, size_t length, void *all)
{
    int error = 0, size = bootstrap->size;
    char *at = all;
    if (length > INT_MAX)
        return fail(-EINVAL, "zc_open: %zu bytes are too many to exchange", length);
    if (bootstrap->over_mpi) {
        int code = MPI_Allgather(mine, (int)length, MPI_BYTE, all, (int)length, MPI_BYTE, bootstrap->comm);
        return code == MPI_SUCCESS ? 0 : fail(-EIO, "zc_open: MPI_Allgather failed with code %d", code);
    }
    uint64_t deadline = clock_ns() + bootstrap->timeout_ns;
    if (bootstrap->rank != 0) {
        error = move(bootstrap->fds[0], (void *)(uintptr_t)mine, length, true, deadline);
        if (!error)
            error = move(bootstrap->fds[0], all, (size_t)size * length, false, deadline);
        return error ? lost(bootstrap, 0, error) : 0;
    }
    memcpy(at, mine, length);
    for (int r = 1; r < size; r++)
        if ((error = move(bootstrap->fds[r], at + (size_t)r * length, length, false, deadline)))
            return lost(bootstrap, r, error);
    for (int r = 1; r < size; r++)
        if ((error = move(bootstrap->fds[r], all, (size_t)size * length, true, deadline)))
            return lost(bootstrap, r, error);
    return 0;
}

int bootstrap_agree(struct bootstrap *bootstrap, int error)
{
    int *all = calloc((size_t)bootstrap->size, sizeof *all);
    if (!all)
        return fail(-ENOMEM, "zc_open: no memory");
    int failed = bootstrap_allgather(bootstrap, &error, sizeof error, all);
    for (int rank = 0; rank < bootstrap->size && !error && !failed; rank++)
        if (all[rank])
            failed = fail(all[rank], "zc_open: rank %d could not be opened: %s", rank, zc_strerror(all[rank]));
    free(all);
    return error ? error : failed;
}

void bootstrap_close(struct bootstrap *bootstrap)
{
    if (!bootstrap)
        return;
    if (bootstrap->over_mpi)
        MPI_Comm_free(&bootstrap->comm);
    else
        for (int i = 0; i < (bootstrap->rank == 0 ? bootstrap->size : 1); i++)
            close_fd(&bootstrap->fds[i]);
    free(bootstrap);
}
