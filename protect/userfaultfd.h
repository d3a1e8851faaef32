/* SPDX-License-Identifier: MIT
 *
 * What is asked of userfaultfd(2), where headers may be older than the kernel. */
#ifndef ZC_PROTECT_USERFAULTFD_H
#define ZC_PROTECT_USERFAULTFD_H

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <sys/ioctl.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_FEATURE_EXACT_ADDRESS
#define UFFD_FEATURE_EXACT_ADDRESS (1 << 11)
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13) /* came with UFFDIO_CONTINUE_MODE_WP, in Linux 6.4 */
#endif
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP 2
#endif

/* Features without which it is of no use, for UFFDIO_API. */
enum {
    USERFAULTFD_NEEDS = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED |
                        UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EXACT_ADDRESS
};

/* One that is told of faults of the kernel too, by privilege or by the device, else of those of user mode. The fd,
 * which does not block, or -errno. */
int userfaultfd_acquire(bool *kernel_faults);

#endif
