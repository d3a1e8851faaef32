/* SPDX-License-Identifier: MIT */
#include "tools/zc/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/sys.h"
#include "core/trace.h"
#include "tools/zc/command.h"

static const uint64_t SIZE_MOST = (uint64_t)1 << 40; /* the arena's */
enum { ALIGNMENT_MOST = 21 };                        /* its logarithm: that of huge pages */

static unsigned kind_of(const struct trace_record *record)
{
    return (unsigned)(record->what >> TRACE_KIND_SHIFT);
}

static uint64_t size_of(const struct trace_record *record)
{
    return record->what & (((uint64_t)1 << TRACE_ALIGN_SHIFT) - 1);
}

/* Its logarithm. */
static unsigned alignment_of(const struct trace_record *record)
{
    return (unsigned)(record->what >> TRACE_ALIGN_SHIFT) & 0xff;
}

static bool makes_sense(const struct trace_record *record, uint64_t before)
{
    unsigned kind = kind_of(record);
    return (kind == TRACE_ALLOC || kind == TRACE_FREE) && record->time >= before && record->address &&
           size_of(record) <= SIZE_MOST && alignment_of(record) <= ALIGNMENT_MOST;
}

/* Live buffers by address: open addressing, at most half full. */
struct live {
    struct live_buffer {
        uint64_t address; /* 0: free */
        int64_t size;     /* 0: not among the events */
    } * table;
    size_t room, used; /* room: a power of two */
};

static size_t home(const struct live *live, uint64_t address)
{
    return (size_t)((address >> 12) * 0x9e3779b97f4a7c15u) & (live->room - 1);
}

static struct live_buffer *find(const struct live *live, uint64_t address)
{
    size_t i = home(live, address);
    while (live->table[i].address && live->table[i].address != address)
        i = (i + 1) & (live->room - 1);
    return &live->table[i];
}

static bool grow(struct live *live)
{
    struct live larger = {.room = live->room ? 2 * live->room : 1024, .used = live->used};
    larger.table = calloc(larger.room, sizeof *larger.table);
    if (!larger.table)
        return false;
    for (size_t i = 0; i < live->room; i++)
        if (live->table[i].address)
            *find(&larger, live->table[i].address) = live->table[i];
    free(live->table);
    *live = larger;
    return true;
}

/* Takes a buffer out, and moves up those behind it that would not be found any more. */
static void take_out(struct live *live, struct live_buffer *buffer)
{
    size_t mask = live->room - 1, hole = (size_t)(buffer - live->table);
    for (size_t i = (hole + 1) & mask; live->table[i].address; i = (i + 1) & mask) {
        if (((i - home(live, live->table[i].address)) & mask) >= ((i - hole) & mask)) {
            live->table[hole] = live->table[i];
            hole = i;
        }
    }
    live->table[hole].address = 0;
    live->used--;
}

static int no_memory(const char *path)
{
    return failed("%s: no memory for its records", path);
}

static void add_event(struct trace *trace, int64_t size)
{
    if (size)
        trace->events[trace->event_count++] = size;
}

static int add(const char *path, struct trace *trace, struct live *live, const struct trace_record *record, size_t at)
{
    if (2 * (live->used + 1) > live->room && !grow(live))
        return no_memory(path);
    struct live_buffer *buffer = find(live, record->address);
    if (buffer->address)
        return failed("%s: not a trace, or a damaged one: record %zu allocates a buffer that is live", path, at);
    bool aligned = alignment_of(record) > PAGE_SHIFT;
    int64_t size = (int64_t)size_of(record);
    *buffer = (struct live_buffer){record->address, aligned ? 0 : size ? size : 1};
    live->used++;
    trace->allocations++;
    trace->aligned += aligned;
    add_event(trace, buffer->size);
    return 0;
}

static void drop(struct trace *trace, struct live *live, uint64_t address)
{
    struct live_buffer *buffer = live->room ? find(live, address) : NULL;
    if (!buffer || !buffer->address)
        return; /* not of zc_alloc's */
    add_event(trace, -buffer->size);
    take_out(live, buffer);
}

static int read_records(const char *path, const struct trace_record *records, size_t most, struct trace *trace)
{
    struct live live = {0};
    int status = 0;
    size_t i = 0;
    for (; i < most && !status; i++) {
        if (!records[i].what)
            break;
        if (!makes_sense(&records[i], trace->duration))
            status = failed("%s: not a trace, or a damaged one: record %zu makes no sense", path, i);
        else if (kind_of(&records[i]) == TRACE_ALLOC)
            status = add(path, trace, &live, &records[i], i);
        else
            drop(trace, &live, records[i].address);
        trace->duration = records[i].time;
    }
    if (!status && i == most)
        status = failed("%s: the trace is cut short after record %zu: copy it again, whole", path, i);
    trace->left = live.used;
    free(live.table);
    return status;
}

static int read_file(const char *path, const char *bytes, size_t length, struct trace *trace)
{
    const struct trace_header *header = (const struct trace_header *)bytes;
    if (length < sizeof *header || memcmp(header->magic, TRACE_MAGIC, sizeof header->magic) != 0)
        return failed("%s: not a trace of zc record", path);
    if (header->version != TRACE_VERSION || header->record_size != sizeof(struct trace_record))
        return failed("%s: a trace of version %u, expected %d: use the zc that recorded it", path, header->version,
                      TRACE_VERSION);
    size_t most = (length - sizeof *header) / sizeof(struct trace_record);
    memcpy(trace->command, header->command, sizeof header->command - 1);
    trace->pid = header->pid;
    trace->events = malloc((most + 1) * sizeof *trace->events);
    if (!trace->events)
        return no_memory(path);
    return read_records(path, (const struct trace_record *)(header + 1), most, trace);
}

int trace_read(const char *path, struct trace *trace)
{
    struct stat stat;
    int status, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return failed("%s: %s", path, strerror(errno));
    *trace = (struct trace){0};
    if (fstat(fd, &stat)) {
        status = failed("%s: %s", path, strerror(errno));
    } else if (!S_ISREG(stat.st_mode) || stat.st_size == 0) {
        status = failed("%s: not a trace of zc record", path);
    } else {
        void *bytes = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        status = bytes == MAP_FAILED ? failed("%s: %s", path, strerror(errno))
                                     : read_file(path, bytes, (size_t)stat.st_size, trace);
        if (bytes != MAP_FAILED)
            munmap(bytes, (size_t)stat.st_size);
    }
    close(fd);
    if (status)
        trace_drop(trace);
    return status;
}

void trace_drop(struct trace *trace)
{
    free(trace->events);
    trace->events = NULL;
}
