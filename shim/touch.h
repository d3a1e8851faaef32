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

/* The function of that name which this library hides. */
void *touch_next(const char *name);

#endif
