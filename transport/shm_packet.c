/* SPDX-License-Identifier: MIT
 *
 * Packets on the socket of a link, and descriptors with them. Not by libc's calls, in which the thread could be
 * cancelled: it has the lock. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/sys.h"
#include "transport/shm.h"

int packet_send(int sock, const struct packet *packet, int fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof fd)];
    } control = {0};
    struct iovec bytes = {(void *)(uintptr_t)packet, sizeof *packet};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (fd >= 0) {
        control.header =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
        message.msg_control = control.room;
        message.msg_controllen = sizeof control.room;
    }
    return sys_result(syscall(SYS_sendmsg, sock, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
}

int packet_receive(int sock, struct packet *packet, int *fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_LEN(sizeof *fd)]; /* for one, without its padding: the kernel closes what does not fit */
    } control;
    struct iovec bytes = {packet, sizeof *packet};
    struct msghdr message = {
        .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = CMSG_LEN(sizeof *fd)};
    ssize_t length;
    do
        length = syscall(SYS_recvmsg, sock, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return errno == EAGAIN ? 0 : -ECONNRESET;
    if (length == 0)
        return -ECONNRESET;
    *fd = -1;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    bool one = header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
               header->cmsg_len == CMSG_LEN(sizeof *fd);
    if (one)
        memcpy(fd, CMSG_DATA(header), sizeof *fd);
    /* One that was sent, and that this process may not have for want of room, is as none. */
    bool more = header && (!one || message.msg_flags & MSG_CTRUNC);
    if (length == sizeof *packet && !(message.msg_flags & MSG_TRUNC) && !more)
        return 1;
    if (*fd >= 0)
        sys_close(*fd);
    return -EPROTO;
}

int packets_there(int sock)
{
    int bytes;
    return ioctl(sock, FIONREAD, &bytes) ? 0 : (bytes + (int)sizeof(struct packet) - 1) / (int)sizeof(struct packet);
}
