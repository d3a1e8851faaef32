/* SPDX-License-Identifier: MIT
 *
 * Descriptors that zc keeps. A program may close descriptors that it has not opened, and then get others by the same
 * numbers: so before zc uses or closes one, it asks whether that still belongs to its file. */
#ifndef ZC_CORE_OWN_FILE_H
#define ZC_CORE_OWN_FILE_H

#include <stdbool.h>
#include <sys/stat.h>

struct own_file {
    dev_t device;
    ino_t inode;
};

/* That of `fd`, which was just opened. */
static inline struct own_file own_file(int fd)
{
    struct stat stat;
    return fstat(fd, &stat) ? (struct own_file){0} : (struct own_file){stat.st_dev, stat.st_ino};
}

static inline bool own_file_is(const struct own_file *own, int fd)
{
    struct own_file now = own_file(fd);
    return now.inode && now.inode == own->inode && now.device == own->device;
}

#endif
