/* SPDX-License-Identifier: MIT
 *
 * How ranks come to be linked. Who comes later connects, each says hello and hands over its board, and from then on
 * the socket tells of segments, wakes, and ends when the peer does. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/error.h"
#include "core/sys.h"
#include "core/thread.h"
#include "transport/shm.h"

enum { EVENTS = 16, PACKETS_MOST = 64 /* of a link at a time */ };
enum { AGAIN_NS = 100000000 /* between two times that who was turned away connects */ };

/* ---- a child shares nothing ---- */

/* Only endpoints whose descriptors are open are listed: as soon as those are closed, another thread may open others by
 * the same numbers, and fork, and the child would close the wrong ones. So an endpoint leaves the list first. A child
 * that is forked before it has closed them keeps some for as long as it lives, but that hides nothing: sockets are shut
 * down as well. */
static pthread_mutex_t opened_lock = PTHREAD_MUTEX_INITIALIZER;
static struct shm *opened;

/* A socket that a child kept open would hide its parent's death. */
static void close_in_child(void)
{
    for (struct shm *shm = opened; shm; shm = shm->next) {
        close(shm->listener);
        close(shm->directory);
        close(shm->epoll);
        close(shm->bell);
        close(shm->outer);
        close(shm->chime);
        for (struct link *link = shm->links; link; link = link->next)
            if (!link->error) {
                close(link->sock);
                close(link->board);
            }
    }
    opened = NULL;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, close_in_child);
}

static void enlist(struct shm *shm)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, watch_forks);
    pthread_mutex_lock(&opened_lock);
    shm->next = opened;
    opened = shm;
    pthread_mutex_unlock(&opened_lock);
}

static void delist(struct shm *shm)
{
    pthread_mutex_lock(&opened_lock);
    struct shm **at = &opened;
    while (*at && *at != shm)
        at = &(*at)->next;
    if (*at)
        *at = shm->next;
    pthread_mutex_unlock(&opened_lock);
}

/* ---- links ---- */

static int attend_to(struct shm *shm, int fd, uint32_t when, void *what)
{
    struct epoll_event event = {.events = EPOLLIN | when, .data = {.ptr = what}};
    return epoll_ctl(shm->epoll, EPOLL_CTL_ADD, fd, &event) ? fail(-errno, "zc_open: shm: epoll: %s", error_text(errno))
                                                            : 0;
}

/* Hands over the board. False: that is to be tried again, as of all processes of the user too many descriptors are sent
 * and not received yet; or the peer is gone, which the socket tells. */
static bool say_hello(struct link *link)
{
    struct shm *shm = link->shm;
    struct packet hello = {.kind = PACKET_HELLO,
                           .page_bytes = (uint32_t)PAGE_BYTES,
                           .rank = shm->common.rank,
                           .size = shm->common.size,
                           .protocol = SHM_PROTOCOL,
                           .pids = pid_namespace()};
    if (packet_send(link->sock, &hello, link->board)) {
        shm->again = true;
        return false;
    }
    sys_close(link->board);
    link->board = -1;
    return true;
}

/* Adds a link over `sock`, which is taken over, and says hello there if it is known to whom: others do that first.
 * Packets come on `answers_on`. */
static int link_open(struct shm *shm, int rank, int sock, int answers_on)
{
    int board = -1;
    struct link *link = calloc(1, sizeof *link);
    struct board *mine = link ? board_create(&board) : NULL;
    int error = !link  ? fail(-ENOMEM, "zc_open: shm: no memory for another peer")
                : mine ? attend_to(shm, answers_on, 0, link)
                       : -errno;
    if (error) {
        if (mine)
            close(board);
        board_unmap(mine);
        free(link);
        close(sock);
        return error;
    }
    link->shm = shm;
    link->rank = rank;
    link->sock = sock;
    link->answers_on = answers_on;
    link->board = board;
    link->ring.mine = mine;
    link->answers_end = &link->answers;
    if (rank >= 0)
        say_hello(link);
    link->next = shm->links;
    shm->links = link;
    return 0;
}

static void free_link(struct link *link)
{
    free(link->offers.all);
    free(link->pulls.all);
    free(link);
}

static void unlist(struct link *link)
{
    struct link **at = &link->shm->links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
}

/* The link of a rank that has another one now. Messages may still refer to it. Frees those retired before to which none
 * does any more. */
static void retire(struct link *link)
{
    struct shm *shm = link->shm;
    unlist(link);
    link->next = shm->retired;
    shm->retired = link;
    for (struct link **at = &shm->retired, *old; (old = *at);) {
        if (old->messages) {
            at = &old->next;
        } else {
            *at = old->next;
            free_link(old);
        }
    }
}

static int met(struct shm *shm, int rank, int sock)
{
    return link_open(shm, rank, sock, sock);
}

/* As link_open. That it fails is no error of whatever call looks: it is told of if this rank waits in vain. */
static void link_with(struct shm *shm, int rank, int sock)
{
    struct kept_error before;
    error_keep(&before, 0);
    int error = link_open(shm, rank, sock, sock);
    if (error)
        shm->unlinked = error_text(-error);
    error_restore(&before);
}

/* Accepts all that have connected. Of one that cannot be accepted, for want of a descriptor, epoll tells only once
 * (EPOLLET), or it would wake this rank without end: it is looked at when something else happens. */
static void accept_peers(struct shm *shm)
{
    int sock;
    while ((sock = accept4(shm->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
        link_with(shm, -1, sock);
    shm->unaccepted = errno != EAGAIN;
    if (shm->unaccepted) {
        shm->unlinked = error_text(errno);
        shm->again = true;
    }
}

/* Is the process at the other end one of this user? */
static int check_process(struct link *link, const char **why)
{
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(link->sock, SOL_SOCKET, SO_PEERCRED, &peer, &length) || peer.uid != geteuid())
        return *why = "its process belongs to another user", -EPERM;
    link->process = peer.pid;
    return 0;
}

static int check_hello(const struct link *link, const struct packet *hello, const char **why)
{
    const struct shm *shm = link->shm;
    if (memcmp(hello->protocol, SHM_PROTOCOL, sizeof SHM_PROTOCOL) != 0)
        return *why = "it speaks another version of zc", -EPROTO;
    if (hello->pids != pid_namespace()) /* one of the two may see the other's number, but both are to refuse */
        return *why = "its process is in another pid namespace", -EPERM;
    if (hello->page_bytes != PAGE_BYTES)
        return *why = "its pages have another size", -EPROTO;
    if (hello->size != shm->common.size)
        return *why = "it was opened with another size", -EINVAL;
    if (hello->rank < 0 || hello->rank >= shm->common.size || (link->rank >= 0 && link->rank != hello->rank))
        return *why = "it says that it is another rank", -EPROTO;
    if (shm->peers[hello->rank] == &shm->elsewhere)
        return *why = "it says that it is a rank of another host", -EPROTO;
    return 0;
}

/* Only a rank that has died can be replaced. One that has closed its communicator comes again for the next one of that
 * name, and so does one that is there: it waits for this one to be closed. */
static bool is_too_early(const struct link *link, int rank)
{
    const struct link *other = link->shm->links;
    while (other && (other == link || other->rank != rank || (other->error && other->why)))
        other = other->next;
    return other;
}

/* Links with the peer, unless it is refused. Both sides come to the same end, each by the other's hello: who is too
 * early, or has no board, hears none. */
static int greet(struct link *link, const struct packet *hello, int board, const char **why)
{
    struct shm *shm = link->shm;
    int error = check_process(link, why);
    if (!error)
        error = check_hello(link, hello, why);
    if (!error && is_too_early(link, hello->rank))
        return -ECONNRESET; /* as if it had gone */
    if (!error && !(link->ring.theirs = board < 0 ? NULL : board_map(board)))
        return *why = "its board did not come, or is not sealed (limit: RLIMIT_NOFILE)", -EPROTO;
    bool said = link->board < 0 || say_hello(link);
    if (error || !said)
        return error ? error : -ECONNRESET; /* it comes again */
    struct link *before = shm->peers[hello->rank];
    link->rank = hello->rank;
    link->greeted = true;
    shm->peers[link->rank] = link;
    if (before)
        retire(before);
    return 0;
}

/* ---- packets ---- */

/* 0 or an error, for which the link is to be lost. */
static int hear(struct link *link, const struct packet *packet, int fd, const char **why)
{
    if (packet->kind == PACKET_SHOW && link->greeted)
        return segments_shown(link, packet, fd);
    int error = 0;
    if (packet->kind == PACKET_HELLO && !link->greeted) {
        error = greet(link, packet, fd, why);
    } else if (packet->kind == PACKET_FORGET && link->greeted) {
        error = segments_forgotten(link, packet);
    } else if (packet->kind != PACKET_WAKE) {
        error = -EPROTO;
    }
    if (fd >= 0)
        sys_close(fd);
    return error;
}

/* So many packets at most. */
static void hear_some(struct link *link, int most)
{
    struct packet packet;
    int fd, got = 1;
    const char *why = "it has sent a packet that cannot be";
    for (int i = 0; i < most && got == 1; i++) {
        got = packet_receive(link->answers_on, &packet, &fd);
        if (got == 1)
            got = (got = hear(link, &packet, fd, &why)) ? got : 1;
        if (got == -ECONNRESET)
            link->ended = true;
        else if (got < 0)
            link_break(link, got, why);
    }
}

void link_hear(struct link *link)
{
    hear_some(link, packets_there(link->answers_on));
}

/* What the peer put on its board before it went is still there. */
static void end_link(struct link *link)
{
    for (int i = 0; i < RING_CELLS && link->greeted && link_take(link); i++)
        ;
    if (link->error)
        return;
    if (!link->greeted && link->rank >= 0)
        link->shm->again = true;
    uint32_t left = link->greeted ? atomic_load(&link->ring.theirs->left) : LEFT_NOBODY;
    link_lose(link, -ECONNRESET,
              left == LEFT_ALL   ? NULL
              : left == LEFT_ONE ? "it has turned this rank away"
                                 : "its process has ended");
    if (left == LEFT_NOBODY && link->greeted)
        directory_sweep(link->shm, link->rank, link->process);
}

/* It has connected to a rank that cannot be linked with. */
static bool is_refused(const struct link *link)
{
    return !link->greeted && link->rank >= 0 && link->error && link->error != -ECONNRESET;
}

static void attend_link(struct link *link)
{
    if (link->error)
        return;
    hear_some(link, PACKETS_MOST);
    if (link->broken)
        link_lose(link, link->broken, link->why);
    else if (link->ended)
        end_link(link);
    if (link->error && !link->greeted && !is_refused(link)) {
        if (link->error != -ECONNRESET)
            link->shm->unlinked = link->why;
        unlist(link);
        free_link(link);
    }
}

bool shm_attend(struct shm *shm)
{
    struct epoll_event events[EVENTS];
    bool any = false;
    int cancel;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* with the lock, it would leave that behind */
    if (shm->unaccepted)
        accept_peers(shm);
    int n = epoll_wait(shm->epoll, events, EVENTS, 0);
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr == &shm->bell)
            continue; /* it is for those that sleep */
        any = true;
        if (events[i].data.ptr == &shm->listener)
            accept_peers(shm);
        else
            attend_link(events[i].data.ptr);
    }
    pthread_setcancelstate(cancel, NULL);
    return any;
}

/* ---- opening and closing ---- */

static int link_to_self(struct shm *shm)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends))
        return fail(-errno, "zc_open: shm: a socket pair: %s", error_text(errno));
    int error = link_open(shm, shm->common.rank, ends[0], ends[1]);
    if (error)
        close(ends[1]);
    return error;
}

/* The first rank that is not there; `size`: all are. */
static int missing(const struct shm *shm)
{
    int rank = 0;
    while (rank < shm->common.size && shm->peers[rank])
        rank++;
    return rank;
}

static const struct link *refused(const struct shm *shm)
{
    const struct link *link = shm->links;
    while (link && !is_refused(link))
        link = link->next;
    return link;
}

/* A rank that is linked with, or a link that may come to be with it. */
static bool is_met(const struct shm *shm, int rank)
{
    const struct link *link = shm->links;
    while (link && (link->error || (link->rank >= 0 && link->rank != rank)))
        link = link->next;
    return shm->peers[rank] || link;
}

/* To ranks that have turned this one away, or had no room. Who has come in their place meanwhile has connected here,
 * under the lock of the directory, and is accepted first: no two connect to each other. */
static void connect_again(struct shm *shm)
{
    for (struct link *link = shm->links; link; link = link->next)
        if (!link->error && link->rank >= 0 && link->board >= 0)
            say_hello(link);
    if (!place_lock(shm, PLACE_LOCK_NS))
        return;
    accept_peers(shm);
    for (int rank = missing(shm); rank < shm->common.size; rank++) {
        int error, sock = is_met(shm, rank) ? -1 : place_connect(shm, rank, &error);
        if (sock >= 0)
            link_with(shm, rank, sock);
    }
    place_unlock(shm);
}

static int wait_for_all(struct shm *shm, uint64_t timeout_ns)
{
    uint64_t deadline = clock_ns() + timeout_ns, again = 0;
    while (missing(shm) < shm->common.size) {
        struct pollfd any = {.fd = shm->epoll, .events = POLLIN};
        const struct link *other = refused(shm);
        if (other)
            return fail(other->error, "zc_open: shm:%s: rank %d cannot be linked with rank %d of %d: %s", shm->name,
                        other->rank, shm->common.rank, shm->common.size, other->why);
        uint64_t now = clock_ns();
        if (now >= deadline)
            return fail(-ETIMEDOUT, "zc_open: shm:%s: rank %d of %d has not come within %llu seconds%s%s", shm->name,
                        missing(shm), shm->common.size, (unsigned long long)(timeout_ns / 1000000000),
                        shm->unlinked ? "; another process has, but: " : "", shm->unlinked ? shm->unlinked : "");
        uint64_t until = shm->again && again < deadline ? again : deadline;
        poll(&any, 1, until > now ? (int)((until - now) / 1000000) + 1 : 0);
        shm_lock(shm);
        shm_attend(shm);
        if (shm->again && clock_ns() >= again) {
            connect_again(shm);
            again = clock_ns() + AGAIN_NS;
        }
        shm_unlock(shm);
    }
    return 0;
}

/* Of several ranks, do all others take no part? */
static bool is_alone(const struct shm *shm)
{
    int rank = 0;
    while (rank < shm->common.size && (rank == shm->common.rank || shm->peers[rank] == &shm->elsewhere))
        rank++;
    return rank == shm->common.size && shm->common.size > 1;
}

int shm_meet(struct shm *shm, uint64_t timeout_ns)
{
    int error;
    shm->epoll = epoll_create1(EPOLL_CLOEXEC);
    shm->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    enlist(shm);
    if (shm->epoll < 0 || shm->bell < 0)
        return fail(-errno, "zc_open: shm: no descriptors: %s (limit: RLIMIT_NOFILE)", error_text(errno));
    if ((error = segments_open(shm)) || (error = attend_to(shm, shm->bell, 0, &shm->bell)) ||
        (error = link_to_self(shm)))
        return error;
    if (!is_alone(shm) && ((error = directory_enter(shm, timeout_ns, met)) ||
                           (error = attend_to(shm, shm->listener, EPOLLET, &shm->listener))))
        return error;
    return wait_for_all(shm, timeout_ns);
}

void shm_part(struct shm *shm)
{
    delist(shm);
    directory_leave(shm);
    segments_close(shm);
    for (struct link *link; (link = shm->links);) {
        if (!link->error)
            atomic_store(&link->ring.mine->left, LEFT_ALL);
        link_abandon(link);
        link_lose(link, -ECANCELED, NULL);
        shm->links = link->next;
        free_link(link);
    }
    for (struct link *link; (link = shm->retired);) {
        shm->retired = link->next;
        free_link(link);
    }
    close(shm->chime);
    close(shm->outer);
    close(shm->bell);
    close(shm->epoll);
}
