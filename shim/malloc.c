/* SPDX-License-Identifier: MIT
 *
 * libzc-malloc.so, a preload that replaces malloc: LD_PRELOAD=libzc-malloc.so PROGRAM. Allocations of
 * ZC_MALLOC_THRESHOLD to ZC_MALLOC_MOST bytes are buffers of zc's pools, so that messages of an unmodified program lie
 * where zc can protect them; all others are mimalloc's.
 *
 * mimalloc is linked. Its library replaces malloc too, but it is loaded after this one, so these names are found first.
 * No moment of start-up must come before the first call: the sizes are read by the first allocation, the pools are
 * opened by the first large one. The constructor registers handlers of fork, and is run before those of all other
 * libraries (-z initfirst). */
#include <errno.h>
#include <mimalloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "protect/preload.h"

#define SHOWN __attribute__((visibility("default")))
#define ALSO(name) __attribute__((visibility("default"), alias(#name)))

/* Of libzc.so, where it is in the process. */
extern const struct preload *const zc_preload __attribute__((weak));

static const size_t PAGE = 4096, ALIGNMENT_MOST = 2 << 20;

static const struct preload *pools = &preload;
static _Atomic size_t threshold; /* 0 until it was read */
static size_t most;              /* bytes that come from the pools; stored before */

/* Where all buffers of the pools lie. `length` is stored last; 0: there are none. */
static char *start;
static _Atomic size_t length;

/* What zc itself allocates meanwhile is mimalloc's. Initial-exec: the first access allocates nothing. */
static _Thread_local __attribute__((tls_model("initial-exec"))) bool inside;

static bool pooled(const void *ptr)
{
    size_t bytes = atomic_load_explicit(&length, memory_order_acquire);
    return (size_t)((const char *)ptr - start) < bytes;
}

/* Other code may call before the constructor; libzc.so has been linked by then. */
static void choose_pools(void)
{
    if (&zc_preload && zc_preload->size == sizeof *zc_preload)
        pools = zc_preload;
}

__attribute__((constructor)) static void load(void)
{
    choose_pools();
    pthread_atfork(pools->prepare, pools->parent, pools->child);
}

static bool small(size_t size)
{
    return size < atomic_load_explicit(&threshold, memory_order_acquire);
}

/* False before the program's start-up code has set the environment. Meanwhile mimalloc serves all threads, so none
 * waits. */
static bool read_sizes(void)
{
    size_t unread = 0, bytes;
    if (atomic_load(&threshold))
        return true;
    if (!environ || !atomic_compare_exchange_strong(&threshold, &unread, SIZE_MAX))
        return false;
    choose_pools();
    if (pools->sizes(&bytes, &most) == 0)
        atomic_store(&threshold, bytes > PAGE ? bytes : PAGE);
    return true;
}

/* The same holds here. */
static bool opened(void)
{
    static _Atomic bool begun;
    if (atomic_load_explicit(&length, memory_order_acquire))
        return true;
    if (atomic_exchange(&begun, true))
        return false;
    char *first;
    size_t bytes;
    if (pools->open(pools == &preload, &first, &bytes)) {
        atomic_store(&threshold, SIZE_MAX);
        return false;
    }
    start = first;
    atomic_store_explicit(&length, bytes, memory_order_release);
    return true;
}

/* NULL where mimalloc is to be asked: too small after all, or the pools have none. */
static void *from_pools(size_t alignment, size_t size)
{
    if (inside || alignment > ALIGNMENT_MOST)
        return NULL;
    int error = errno;
    inside = true;
    bool large = read_sizes() && !small(size) && size <= most && opened();
    void *ptr = large ? pools->alloc(size, alignment) : NULL;
    inside = false;
    errno = error;
    return ptr;
}

static void *or_no_memory(void *ptr)
{
    if (!ptr)
        errno = ENOMEM;
    return ptr;
}

/* ---- the C library's functions ---- */

SHOWN void *malloc(size_t size)
{
    if (small(size))
        return mi_malloc(size);
    void *ptr = from_pools(1, size);
    return ptr ? ptr : or_no_memory(mi_malloc(size));
}

SHOWN void *calloc(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        return or_no_memory(NULL);
    if (small(bytes))
        return mi_calloc(n, size);
    void *ptr = from_pools(1, bytes);
    return ptr ? memset(ptr, 0, bytes) : or_no_memory(mi_calloc(n, size));
}

SHOWN void free(void *ptr)
{
    if (!pooled(ptr)) {
        mi_free(ptr);
        return;
    }
    int error = errno;
    pools->free(ptr);
    errno = error;
}

SHOWN size_t malloc_usable_size(void *ptr)
{
    return pooled(ptr) ? pools->usable_size(ptr) : mi_usable_size(ptr);
}

/* A buffer of the pools stays where it is large enough and not four times too large. Size 0 frees, as in glibc. */
SHOWN void *realloc(void *ptr, size_t size)
{
    if (ptr && !size) {
        free(ptr);
        return NULL;
    }
    bool was_pooled = pooled(ptr);
    if (!was_pooled && small(size))
        return mi_realloc(ptr, size);
    size_t usable = malloc_usable_size(ptr);
    if (size <= usable && usable / 4 <= size)
        return was_pooled ? ptr : mi_realloc(ptr, size);
    void *moved = malloc(size);
    if (!moved)
        return NULL;
    if (ptr)
        memcpy(moved, ptr, usable < size ? usable : size);
    free(ptr);
    return moved;
}

SHOWN void *reallocarray(void *ptr, size_t n, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(n, size, &bytes) ? or_no_memory(NULL) : realloc(ptr, bytes);
}

static bool power_of_two(size_t n)
{
    return n && !(n & (n - 1));
}

SHOWN void *aligned_alloc(size_t alignment, size_t size)
{
    if (!power_of_two(alignment)) {
        errno = EINVAL;
        return NULL;
    }
    void *ptr = small(size) ? NULL : from_pools(alignment, size);
    /* Not mi_malloc_aligned: of mimalloc 2.0.9, it returns blocks that are not aligned (256 bytes at 256). */
    return ptr ? ptr : or_no_memory(mi_malloc_aligned_at(size, alignment, 0));
}

/* Aligns to the next power of two, as in glibc. */
SHOWN void *memalign(size_t alignment, size_t size)
{
    size_t power = 1;
    while (power && power < alignment)
        power <<= 1;
    return aligned_alloc(power, size);
}

SHOWN int posix_memalign(void **out, size_t alignment, size_t size)
{
    if (!power_of_two(alignment) || alignment % sizeof(void *))
        return EINVAL;
    int error = errno;
    void *ptr = aligned_alloc(alignment, size);
    errno = error;
    if (!ptr)
        return ENOMEM;
    *out = ptr;
    return 0;
}

SHOWN void *valloc(size_t size)
{
    return memalign(PAGE, size);
}

SHOWN void *pvalloc(size_t size)
{
    size_t pages;
    return __builtin_add_overflow(size, PAGE - 1, &pages) ? or_no_memory(NULL) : memalign(PAGE, pages & ~(PAGE - 1));
}

void *__libc_malloc(size_t size) ALSO(malloc);
void *__libc_calloc(size_t n, size_t size) ALSO(calloc);
void *__libc_realloc(void *ptr, size_t size) ALSO(realloc);
void __libc_free(void *ptr) ALSO(free);
void *__libc_memalign(size_t alignment, size_t size) ALSO(memalign);
void *__libc_valloc(size_t size) ALSO(valloc);
void *__libc_pvalloc(size_t size) ALSO(pvalloc);
int __posix_memalign(void **out, size_t alignment, size_t size) ALSO(posix_memalign);

/* ---- C++'s operators ----
 *
 * The C++ library's would do, since they call malloc; but where a program does not itself link that library, mimalloc's
 * are found before it. As the C++ library's do, all others call those of one object, aligned or not, which may be the
 * program's own. */

typedef void new_handler(void);
extern new_handler *_ZSt15get_new_handlerv(void) __attribute__((weak));     /* std::get_new_handler */
extern _Noreturn void _ZSt17__throw_bad_allocv(void) __attribute__((weak)); /* std::__throw_bad_alloc */

/* Returns if it is worth trying again. */
static void no_memory(void)
{
    new_handler *handler = &_ZSt15get_new_handlerv ? _ZSt15get_new_handlerv() : NULL;
    if (handler)
        handler();
    else if (&_ZSt17__throw_bad_allocv)
        _ZSt17__throw_bad_allocv();
    else
        __builtin_abort();
}

static void *new_one(size_t size)
{
    void *ptr;
    while (!(ptr = malloc(size)))
        no_memory();
    return ptr;
}

static void *new_aligned(size_t size, size_t alignment)
{
    void *ptr;
    while (!(ptr = memalign(alignment, size)))
        no_memory();
    return ptr;
}

void *_Znwm(size_t size) ALSO(new_one);
void *_ZnwmSt11align_val_t(size_t size, size_t alignment) ALSO(new_aligned);

static void *new_array(size_t size)
{
    return _Znwm(size);
}

static void *new_aligned_array(size_t size, size_t alignment)
{
    return _ZnwmSt11align_val_t(size, alignment);
}

void *_Znam(size_t size) ALSO(new_array);
void *_ZnamSt11align_val_t(size_t size, size_t alignment) ALSO(new_aligned_array);

/* What a program's own throws goes through these: C cannot catch it. */
SHOWN void *_ZnwmRKSt9nothrow_t(size_t size, const void *nothrow)
{
    (void)nothrow;
    return _Znwm == new_one ? malloc(size) : _Znwm(size);
}

SHOWN void *_ZnamRKSt9nothrow_t(size_t size, const void *nothrow)
{
    return _Znam == new_array ? _ZnwmRKSt9nothrow_t(size, nothrow) : _Znam(size);
}

SHOWN void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, size_t alignment, const void *nothrow)
{
    (void)nothrow;
    return _ZnwmSt11align_val_t == new_aligned ? memalign(alignment, size) : _ZnwmSt11align_val_t(size, alignment);
}

SHOWN void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t size, size_t alignment, const void *nothrow)
{
    return _ZnamSt11align_val_t == new_aligned_array ? _ZnwmSt11align_val_tRKSt9nothrow_t(size, alignment, nothrow)
                                                     : _ZnamSt11align_val_t(size, alignment);
}

/* Of sizes and nothrow, which are further arguments, these take no notice. */
void _ZdlPv(void *ptr) ALSO(free);

SHOWN void _ZdlPvSt11align_val_t(void *ptr, size_t alignment)
{
    (void)alignment;
    free(ptr);
}

static void delete_one(void *ptr)
{
    _ZdlPv(ptr);
}

static void delete_aligned(void *ptr, size_t alignment)
{
    _ZdlPvSt11align_val_t(ptr, alignment);
}

static void delete_sized_aligned(void *ptr, size_t size, size_t alignment)
{
    (void)size;
    _ZdlPvSt11align_val_t(ptr, alignment);
}

void _ZdlPvm(void *ptr) ALSO(delete_one);
void _ZdlPvRKSt9nothrow_t(void *ptr) ALSO(delete_one);
void _ZdaPv(void *ptr) ALSO(delete_one);
void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *ptr, size_t alignment) ALSO(delete_aligned);
void _ZdaPvSt11align_val_t(void *ptr, size_t alignment) ALSO(delete_aligned);
void _ZdlPvmSt11align_val_t(void *ptr, size_t size, size_t alignment) ALSO(delete_sized_aligned);

static void delete_array(void *ptr)
{
    _ZdaPv(ptr);
}

static void delete_aligned_array(void *ptr, size_t alignment)
{
    _ZdaPvSt11align_val_t(ptr, alignment);
}

static void delete_sized_aligned_array(void *ptr, size_t size, size_t alignment)
{
    (void)size;
    _ZdaPvSt11align_val_t(ptr, alignment);
}

void _ZdaPvm(void *ptr) ALSO(delete_array);
void _ZdaPvRKSt9nothrow_t(void *ptr) ALSO(delete_array);
void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *ptr, size_t alignment) ALSO(delete_aligned_array);
void _ZdaPvmSt11align_val_t(void *ptr, size_t size, size_t alignment) ALSO(delete_sized_aligned_array);
