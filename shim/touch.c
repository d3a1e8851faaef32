/* SPDX-License-Identifier: MIT */
#include "shim/touch.h"

#include <errno.h>
#include <limits.h>
#include <sys/syscall.h>

/* Is there memory that a system call could read? rt_sigprocmask(2) says so of a word in each page: it reads the mask
 * before it refuses a `how` that it does not know. */
static bool readable(const void *memory, size_t length)
{
    enum { PAGE = 4096, WORD = 8, NO_HOW = -1 };
    uintptr_t at = (uintptr_t)memory & ~(uintptr_t)(WORD - 1), end = (uintptr_t)memory + length;
    int error = errno;
    bool fine = at && at <= end;  /* NULL is a mask that is not looked at */
    touch(memory, length, false); /* it may be a buffer, too */
    for (; fine && at < end; at = (at | (PAGE - 1)) + 1)
        fine = syscall(SYS_rt_sigprocmask, NO_HOW, at, NULL, WORD) == 0 || errno != EFAULT;
    errno = error;
    return fine;
}

void touch_each(const struct iovec *iov, size_t n, bool store)
{
    if (n > IOV_MAX || !readable(iov, n * sizeof *iov)) /* more are refused */
        return;
    for (size_t i = 0; i < n; i++)
        touch(iov[i].iov_base, iov[i].iov_len, store);
}

void touch_message(const struct msghdr *message, bool store)
{
    if (readable(message, sizeof *message))
        touch_each(message->msg_iov, message->msg_iovlen, store);
}

void touch_messages(const struct mmsghdr *messages, unsigned n, bool store)
{
    for (unsigned i = 0; i < n && i < IOV_MAX; i++) { /* more are not looked at */
        if (!readable(&messages[i], sizeof messages[i]))
            return;
        touch_each(messages[i].msg_hdr.msg_iov, messages[i].msg_hdr.msg_iovlen, store);
    }
}
