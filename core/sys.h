/* SPDX-License-Identifier: MIT
 *
 * Raw system calls, returning a value or -errno. UCX patches libc's mmap, munmap, mremap and madvise,
 * and a fault handler may call nothing that takes a lock, so zc goes to the kernel directly. Nor are they cancellation
 * points, at which a thread would leave its locks taken. */
#ifndef ZC_CORE_SYS_H
#define ZC_CORE_SYS_H

#include <errno.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { PAGE_SHIFT = 12, PAGE_SIZE_ = 1 << PAGE_SHIFT };
#define PAGE_BYTES ((size_t)PAGE_SIZE_)
#define HUGE_BYTES ((size_t)2 << 20)

static inline size_t pages_of(size_t bytes)
{
    return (bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;
}

/* Up, as is pages_of: a length or an address. */
static inline size_t round_to_huge(size_t n)
{
    return (n + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
}

static inline int sys_result(long r)
{
    return r < 0 ? -errno : 0;
}

/* Returns addr, or NULL with errno set. */
static inline void *sys_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
    void *p = (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
    return p == MAP_FAILED ? NULL : p;
}

/* Maps private memory of which none is set aside: in place of what is at `at`, or anywhere (NULL). Returns as
 * sys_mmap. */
static inline void *sys_reserve(void *at, size_t len, int prot)
{
    return sys_mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);
}

static inline int sys_munmap(void *addr, size_t len)
{
    return sys_result(syscall(SYS_munmap, addr, len));
}

static inline int sys_mprotect(void *addr, size_t len, int prot)
{
    return sys_result(syscall(SYS_mprotect, addr, len, prot));
}

static inline int sys_madvise(void *addr, size_t len, int advice)
{
    return sys_result(syscall(SYS_madvise, addr, len, advice));
}

/* Moves the mapping and its page tables of one range over another; `from` stays mapped, but bare. */
static inline int sys_move(void *from, void *to, size_t len)
{
    return sys_result(syscall(SYS_mremap, from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to));
}

/* Is the range one mapping, where all that follows is mapped as well? Then the kernel finds no room to make it longer,
 * and else does not look for any. */
static inline bool sys_is_one_mapping(void *from, size_t len)
{
    return syscall(SYS_mremap, from, len, len + PAGE_BYTES, 0) != -1 || errno != EFAULT;
}

/* To be asked before a file, a memfd as well, is made so large: past RLIMIT_FSIZE the kernel ends the process by
 * SIGXFSZ. 0 or -EFBIG. */
static inline int sys_may_grow(size_t size)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) == 0 && size > limit.rlim_cur ? -EFBIG : 0;
}

/* Has the machine so much memory at all? The kernel does not refuse a memfd for want of it, as it does what malloc asks
 * for: it kills a process when there is no more. */
static inline bool sys_has(size_t size)
{
    struct sysinfo info;
    return sysinfo(&info) != 0 || size / info.mem_unit <= info.totalram + info.totalswap;
}

static inline void sys_close(int fd)
{
    syscall(SYS_close, fd);
}

static inline int sys_tid(void)
{
    return (int)syscall(SYS_gettid);
}

/* Sleeps while *word == seen, at most timeout_ns (UINT64_MAX: for ever). May return early. */
static inline void futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
    struct timespec ts = {(time_t)(timeout_ns / 1000000000), (long)(timeout_ns % 1000000000)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, timeout_ns == UINT64_MAX ? NULL : &ts, NULL, 0);
}

static inline void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

#endif
