/* SPDX-License-Identifier: MIT */
#include "core/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/error.h"
#include "core/lock.h"
#include "core/own_file.h"
#include "core/sys.h"

_Static_assert(sizeof(struct trace_header) % sizeof(struct trace_record) == 0, "records are aligned in a window");

/* What is mapped of the file at a time: whole pages and whole records. */
enum { WINDOW = 128 * 3 * PAGE_SIZE_ };

_Atomic bool trace_on;

static lock writing;
static int file = -1;
static struct own_file own;
static off_t mapped;                     /* bytes of the file, from its start */
static struct trace_record *next, *last; /* in the window */
static uint64_t start;

/* Maps the next window of the file, and leaves the one before mapped. */
static int map_window(void)
{
    /* Blocks are reserved now: a store to a full disk would be a SIGBUS. */
    int error = own_file_is(&own, file) ? sys_may_grow((size_t)mapped + WINDOW) : -EBADF;
    if (!error)
        error = -posix_fallocate(file, mapped, WINDOW);
    char *window = error ? NULL : sys_mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED, file, mapped);
    if (!window)
        return error ? error : -errno;
    mapped += WINDOW;
    next = (struct trace_record *)window;
    last = (struct trace_record *)(window + WINDOW) - 1;
    return 0;
}

static const char *why(int error)
{
    switch (error) {
    case -EFBIG:
        return "it is larger than RLIMIT_FSIZE allows (ulimit -f)";
    case -EBADF:
        return "the program has closed its file";
    default:
        return error_text(-error);
    }
}

static void stop_in_child(void)
{
    atomic_store(&trace_on, false);
}

static void describe(struct trace_header *header)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *header = (struct trace_header){.magic = TRACE_MAGIC,
                                    .version = TRACE_VERSION,
                                    .record_size = sizeof(struct trace_record),
                                    .start = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec,
                                    .pid = (uint32_t)getpid()};
    snprintf(header->command, sizeof header->command, "%s", program_invocation_short_name);
}

/* Never one that is there already: a process that has this number in another pid namespace may have it mapped, or it is
 * the trace of what this process ran before an exec. */
static int create_file(const char *name, char path[PATH_MAX])
{
    int length = snprintf(path, PATH_MAX, "%s.%d", name, (int)getpid());
    for (int i = 2; length < PATH_MAX; i++) {
        file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (file >= 0 || errno != EEXIST)
            return file < 0 ? -errno : 0;
        length = snprintf(path, PATH_MAX, "%s.%d.%d", name, (int)getpid(), i);
    }
    return -ENAMETOOLONG;
}

static int open_file(const char *name)
{
    char path[PATH_MAX];
    int error = create_file(name, path);
    if (!error) {
        own = own_file(file);
        error = map_window();
    }
    if (error && file >= 0)
        close(file);
    if (error)
        return fail(-EINVAL, "ZC_TRACE=%s: the file %s cannot be written: %s", name, path, why(error));
    struct trace_header *header = (struct trace_header *)next;
    describe(header);
    next = (struct trace_record *)(header + 1);
    start = clock_ns();
    pthread_atfork(NULL, NULL, stop_in_child);
    atomic_store(&trace_on, true);
    return 0;
}

int trace_open(const char *name)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct kept_error opening;
    static bool tried;
    pthread_mutex_lock(&lock);
    if (*name && !tried)
        error_keep(&opening, open_file(name));
    tried = tried || *name;
    pthread_mutex_unlock(&lock);
    return error_again(&opening);
}

void trace_write(enum trace_kind kind, const void *address, size_t alignment, size_t size)
{
    int saved = errno, error = 0;
    lock_take(&writing);
    struct trace_record *record = next++;
    char *full = NULL;
    if (record == last) { /* which is the end, until there is another */
        int cancel;       /* while it has the lock, it is not to be cancelled in posix_fallocate(3) */
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
        full = (char *)(last + 1) - WINDOW;
        error = map_window();
        pthread_setcancelstate(cancel, NULL);
    }
    if (error) {
        next = record;
        if (atomic_exchange(&trace_on, false)) {
            error_say("ZC_TRACE: the trace ends here: %s", why(error));
            error_print();
        }
    } else {
        record->time = clock_ns() - start;
        record->address = (uintptr_t)address;
        uint64_t aligned = (uint64_t)__builtin_ctzl(alignment) << TRACE_ALIGN_SHIFT;
        atomic_store_explicit(&record->what, (uint64_t)kind << TRACE_KIND_SHIFT | aligned | size, memory_order_release);
        if (full)
            sys_munmap(full, WINDOW);
    }
    lock_drop(&writing);
    errno = saved;
}
