/* SPDX-License-Identifier: MIT
 *
 * System calls cannot be stopped by a fault: what they touch is made accessible before. */
#ifndef ZC_SHIM_TOUCH_H
#define ZC_SHIM_TOUCH_H

#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shim/call.h"

static inline void touch(const void *buf, size_t length, bool store)
{
    if (length && zc_owns(buf))
        zc_lend_touch(buf, length, store);
}

/* The same of all that lists of the program name. As far as the kernel will refuse a list, nothing is done. */
void touch_each(const struct iovec *iov, size_t n, bool store);
void touch_message(const struct msghdr *message, bool store);
void touch_messages(const struct mmsghdr *messages, unsigned n, bool store);

/* Of a call. Inside MPI, buffers have been seen to already, and nothing could be waited for. */
CALL_INLINE void touch_loads(const void *buf, size_t length)
{
    if (!call_inside())
        touch(buf, length, false);
}

CALL_INLINE void touch_stores(const void *buf, size_t length)
{
    if (!call_inside())
        touch(buf, length, true);
}

CALL_INLINE void touch_loads_each(const struct iovec *iov, int n)
{
    if (!call_inside())
        touch_each(iov, n > 0 ? (size_t)n : 0, false);
}

CALL_INLINE void touch_stores_each(const struct iovec *iov, int n)
{
    if (!call_inside())
        touch_each(iov, n > 0 ? (size_t)n : 0, true);
}

CALL_INLINE void touch_loads_message(const struct msghdr *message)
{
    if (!call_inside())
        touch_message(message, false);
}

CALL_INLINE void touch_stores_message(const struct msghdr *message)
{
    if (!call_inside())
        touch_message(message, true);
}

CALL_INLINE void touch_loads_messages(const struct mmsghdr *messages, unsigned n)
{
    if (!call_inside())
        touch_messages(messages, n, false);
}

CALL_INLINE void touch_stores_messages(const struct mmsghdr *messages, unsigned n)
{
    if (!call_inside())
        touch_messages(messages, n, true);
}

/* The function of that name which this library hides. */
void *touch_next(const char *name);

#endif
