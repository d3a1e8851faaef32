/* SPDX-License-Identifier: MIT
 *
 * To be preloaded: userfaultfd as Linux 5.19 has it, for what the command ZC says of such a kernel. */
#include <dlfcn.h>
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <sys/ioctl.h>

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...)
{
    enum { FEATURES = (1 << 13) - 1 };
    static int (*real)(int, unsigned long, ...);
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "ioctl");
    struct uffdio_api *api = argument;
    if (request == UFFDIO_API && (api->features & ~(__u64)FEATURES)) {
        errno = EINVAL;
        return -1;
    }
    int result = real(fd, request, argument);
    if (request == UFFDIO_API)
        api->features &= FEATURES;
    return result;
}
