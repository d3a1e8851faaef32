/* SPDX-License-Identifier: MIT */
#include "core/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/sys.h"
#include "zc.h"

static _Thread_local char message[ERROR_BYTES];

void error_say(const char *format, ...)
{
    char text[sizeof message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    strcpy(message, text);
}

void error_keep(struct kept_error *kept, int error)
{
    kept->error = error;
    memcpy(kept->message, message, sizeof message);
}

int error_again(const struct kept_error *kept)
{
    return kept->error ? fail(kept->error, "%s", kept->message) : 0;
}

void error_restore(const struct kept_error *kept)
{
    memcpy(message, kept->message, sizeof message);
}

const char *error_text(int error)
{
    const char *text = strerrordesc_np(error);
    return text ? text : "unknown error";
}

void error_print(void)
{
    struct text text = {0};
    text_add(&text, "zc: ");
    text_add(&text, message);
    text_add(&text, "\n");
    text_print(&text);
}

void text_add(struct text *t, const char *s)
{
    while (*s && t->length < sizeof t->bytes)
        t->bytes[t->length++] = *s++;
}

static void add_digits(struct text *t, uint64_t n, unsigned base)
{
    char digits[24]; /* 20 are the most */
    char *p = &digits[sizeof digits - 1];
    *p = 0;
    do {
        *--p = "0123456789abcdef"[n % base];
        n /= base;
    } while (n);
    text_add(t, p);
}

void text_add_number(struct text *t, uint64_t n)
{
    add_digits(t, n, 10);
}

void text_add_address(struct text *t, const void *address)
{
    text_add(t, "0x");
    add_digits(t, (uintptr_t)address, 16);
}

void text_print(const struct text *t)
{
    syscall(SYS_write, STDERR_FILENO, t->bytes, t->length); /* nobody is left to be told of an error */
}

const char *zc_errmsg(void)
{
    return message;
}

const char *zc_strerror(int error)
{
    unsigned number = error < 0 ? -(unsigned)error : (unsigned)error;
    switch (number) {
    case 0:
        return "success";
    case EINVAL:
        return "invalid argument";
    case ENOMEM:
        return "out of memory, address space, mappings or slots";
    case EBUSY:
        return "another operation holds these bytes";
    case EMSGSIZE:
        return "the message was longer than the buffer";
    case EBADF:
        return "the communicator is closed";
    case EPERM:
        return "not allowed in this thread or process";
    case EEXIST:
        return "that rank is taken";
    case ECANCELED:
        return "the operation was cancelled";
    case EALREADY:
        return "the receive has already landed";
    case ENOENT:
        return "no such operation";
    case ENOTSUP:
        return "not supported";
    case EIO:
        return "the transport failed";
    default:
        return error_text((int)number);
    }
}

#define TEXT_OF(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

const char *zc_version(void)
{
    return VERSION_TEXT(ZC_VERSION_MAJOR, ZC_VERSION_MINOR, ZC_VERSION_PATCH);
}
