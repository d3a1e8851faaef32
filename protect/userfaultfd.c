/* SPDX-License-Identifier: MIT
 *
 * Protection by userfaultfd(2): a fault, of the kernel too, is a message to a thread of the library (protect/park.c),
 * and whoever faulted sleeps until its page is there or writable. No mapping is split.
 *
 * Read-only pages are write-protected. Pages closed to loads are taken out of the user mapping; the kernel finds them
 * in the memfd when they are touched, and asks (a *minor* fault). Mappings keep their registration where a rename
 * moves them, for which the kernel waits until its message has been read. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "core/error.h"
#include "core/thread.h"
#include "protect/backend.h"
#include "protect/park.h"
#include "protect/userfaultfd.h"

static int fd = -1;
static bool all_faults; /* of the kernel too */

static int control(unsigned long request, void *argument)
{
    return sys_result(syscall(SYS_ioctl, fd, request, argument));
}

int userfaultfd_acquire(bool *kernel_faults)
{
    enum { FLAGS = O_CLOEXEC | O_NONBLOCK }; /* its reader polls */
    *kernel_faults = true;
    int new = (int)syscall(SYS_userfaultfd, FLAGS);
    if (new >= 0 || errno != EPERM)
        return new >= 0 ? new : -errno;
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device >= 0) {
        new = ioctl(device, USERFAULTFD_IOC_NEW, FLAGS);
        close(device);
    }
    if (new >= 0)
        return new;
    *kernel_faults = false;
    new = (int)syscall(SYS_userfaultfd, FLAGS | UFFD_USER_MODE_ONLY);
    return new >= 0 ? new : -errno;
}

static int set_up(void)
{
    fd = userfaultfd_acquire(&all_faults);
    if (fd < 0)
        return fail(-ENOTSUP, "userfaultfd cannot be had: %s", error_text(-fd));
    struct uffdio_api api = {.api = UFFD_API, .features = USERFAULTFD_NEEDS};
    int error = control(UFFDIO_API, &api);
    if (error)
        error = fail(-ENOTSUP, "userfaultfd lacks features that zc needs: Linux 6.4 has them");
    else if (park_open(fd))
        error = -ENOTSUP;
    if (error) {
        close(fd);
        fd = -1;
    }
    return error;
}

static struct kept_error opening;

static void open_once(void)
{
    error_keep(&opening, set_up());
}

static int open_backend(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, open_once);
    int error = error_again(&opening);
    if (!error && !all_faults)
        error_say("userfaultfd is restricted to faults of user mode (vm.unprivileged_userfaultfd, /dev/userfaultfd): a "
                  "system call on a guarded buffer fails with EFAULT instead of waiting");
    return error;
}

/* May be refused, where mappings have run out. Pages that are not registered are not used at all: taking them out of
 * the user mapping would seem to close them. */
static int mapped(char *at, size_t length)
{
    struct uffdio_register registration = {.range = {(uintptr_t)at, length},
                                           .mode = UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR};
    return control(UFFDIO_REGISTER, &registration);
}

/* Nothing here wakes a thread: whoever sleeps is on the list of protect/park.c, and is woken when it comes off. */

/* Puts pages back into the user mapping, those that are there excepted. */
static int show(char *at, size_t length, bool store)
{
    for (char *end = at + length; at < end;) {
        struct uffdio_continue arguments = {.range = {(uintptr_t)at, (size_t)(end - at)},
                                            .mode =
                                                UFFDIO_CONTINUE_MODE_DONTWAKE | (store ? 0 : UFFDIO_CONTINUE_MODE_WP)};
        int error = control(UFFDIO_CONTINUE, &arguments);
        if (error && error != -EEXIST && error != -EAGAIN)
            return error;
        if (!error || arguments.mapped > 0)
            at += arguments.mapped;
        else if (error == -EEXIST)
            at += PAGE_BYTES;
        else /* -EAGAIN: mappings are being changed */
            sched_yield();
    }
    return 0;
}

static int write_protect(char *at, size_t length, bool on)
{
    struct uffdio_writeprotect arguments = {
        .range = {(uintptr_t)at, length}, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : UFFDIO_WRITEPROTECT_MODE_DONTWAKE};
    int error;
    while ((error = control(UFFDIO_WRITEPROTECT, &arguments)) == -EAGAIN)
        sched_yield();
    return error;
}

static int protect(char *at, size_t length, int prot, bool closed)
{
    if (prot == PROT_NONE)
        return sys_madvise(at, length, MADV_DONTNEED_LOCKED); /* also where the program has locked its memory */
    bool store = prot & PROT_WRITE;
    if (closed)
        sys_mprotect(at, length, PROT_READ | PROT_WRITE); /* what pages_bar has closed */
    int error = closed ? show(at, length, store) : 0;
    return error ? error : write_protect(at, length, !store);
}

const struct backend userfaultfd_backend = {
    .open = open_backend, .mapped = mapped, .protect = protect, .announce = park_announce};
