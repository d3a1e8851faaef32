/* SPDX-License-Identifier: MIT
 *
 * ZC_TRACE: what a process writes of its allocations, read back. */
#include "core/trace.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apart.h"
#include "check.h"

static char name[64];

static const char *path(void)
{
    static char text[96];
    snprintf(text, sizeof text, "%s.%d", name, (int)getpid());
    return text;
}

static void start_trace(void)
{
    snprintf(name, sizeof name, "/tmp/zc-trace-test");
    unlink(path()); /* of a run that failed */
    CHECK(setenv("ZC_TRACE", name, 1) == 0);
}

/* Reads the next record; false at the end. */
static bool next(FILE *file, struct trace_record *record)
{
    CHECK(fread(record, sizeof *record, 1, file) == 1);
    return record->what >> TRACE_KIND_SHIFT != TRACE_END;
}

static FILE *open_trace(struct trace_header *header)
{
    FILE *file = fopen(path(), "re");
    CHECK(file);
    CHECK(fread(header, sizeof *header, 1, file) == 1);
    CHECK(unlink(path()) == 0);
    return file;
}

static void check_next(FILE *file, enum trace_kind kind, const void *address, size_t alignment, size_t size)
{
    static uint64_t time;
    struct trace_record record;
    CHECK(next(file, &record));
    CHECK(record.what >> TRACE_KIND_SHIFT == (uint64_t)kind);
    CHECK((record.what >> TRACE_ALIGN_SHIFT & 0xff) == (uint64_t)__builtin_ctzl(alignment));
    CHECK((record.what & (((uint64_t)1 << TRACE_ALIGN_SHIFT) - 1)) == size);
    CHECK(record.address == (uintptr_t)address);
    CHECK(record.time >= time);
    time = record.time;
}

static void writes_what_happens(const void *argument)
{
    (void)argument;
    start_trace();
    char *p = ALLOC(5000), *q = zc_calloc(3, 7), *s = zc_aligned_alloc(2048, 5000), *t = zc_aligned_alloc(1 << 16, 100);
    CHECK_OK(zc_free(p));
    zc_pool *own;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = 4096;
    CHECK_OK(zc_pool_open(&options, &own));
    void *r = zc_pool_alloc(own); /* of a pool of one's own: not zc_alloc's */

    struct trace_header header;
    FILE *file = open_trace(&header); /* while it goes on */
    CHECK(strcmp(header.magic, TRACE_MAGIC) == 0 && header.version == TRACE_VERSION);
    CHECK(header.record_size == sizeof(struct trace_record) && header.pid == (uint32_t)getpid());
    CHECK(strcmp(header.command, program_invocation_short_name) == 0);
    check_next(file, TRACE_ALLOC, p, 1, 5000);
    check_next(file, TRACE_ALLOC, q, 1, 21);
    check_next(file, TRACE_ALLOC, s, 1, 5000);
    check_next(file, TRACE_ALLOC, t, 1 << 16, 100);
    check_next(file, TRACE_FREE, p, 1, 0);
    struct trace_record record;
    CHECK(!next(file, &record));
    fclose(file);
    CHECK_OK(zc_free(r));
    CHECK_OK(zc_free(q));
    CHECK_OK(zc_free(s));
    CHECK_OK(zc_free(t));
}

Test(trace, what_happens)
{
    apart(writes_what_happens, NULL);
}

/* More than a window of the file, whose last record must not be lost. */
static void goes_on(const void *argument)
{
    enum { ROUNDS = 70000 };
    (void)argument;
    start_trace();
    for (int i = 0; i < ROUNDS; i++) {
        errno = 77;
        CHECK_OK(zc_free(ALLOC(100)));
        CHECK(errno == 77);
    }
    struct trace_header header;
    FILE *file = open_trace(&header);
    struct trace_record record;
    size_t count[3] = {0};
    while (next(file, &record))
        count[record.what >> TRACE_KIND_SHIFT]++;
    CHECKF(count[TRACE_ALLOC] == ROUNDS && count[TRACE_FREE] == ROUNDS, "%zu, %zu", count[TRACE_ALLOC],
           count[TRACE_FREE]);
    fclose(file);
}

Test(trace, long)
{
    apart(goes_on, NULL);
}

/* Where a file may not be larger the trace ends, and not the process. */
static void ends_at_limit(const void *argument)
{
    enum { ROUNDS = 70000 };
    struct rlimit limit = {2000000, 2000000};
    struct stat file;
    (void)argument;
    start_trace();
    CHECK_OK(zc_free(ALLOC(100)));
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    for (int i = 0; i < ROUNDS; i++)
        CHECK_OK(zc_free(ALLOC(100)));
    CHECK(!trace_on && stat(path(), &file) == 0 && file.st_size <= 2000000 && unlink(path()) == 0);
}

/* A program that closes what it has not opened, and has another file by that number. */
static void ends_where_closed(const void *argument)
{
    enum { ROUNDS = 70000 };
    struct stat traced, now;
    FILE *other = tmpfile();
    (void)argument;
    start_trace();
    CHECK(other);
    CHECK_OK(zc_free(ALLOC(100)));
    CHECK(stat(path(), &traced) == 0 && unlink(path()) == 0);
    for (int fd = 3; fd < 64; fd++)
        if (fstat(fd, &now) == 0 && now.st_ino == traced.st_ino && now.st_dev == traced.st_dev)
            CHECK(dup2(fileno(other), fd) == fd);
    for (int i = 0; i < ROUNDS; i++)
        CHECK_OK(zc_free(ALLOC(100)));
    CHECK(!trace_on && fstat(fileno(other), &now) == 0 && now.st_size == 0);
    fclose(other);
}

Test(trace, closed)
{
    apart(ends_where_closed, NULL);
}

static void does_not_begin_beyond_limit(const void *argument)
{
    struct rlimit limit = {1000000, 1000000};
    (void)argument;
    start_trace();
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(!zc_alloc(100) && errno == EINVAL);
        CHECKF(strstr(zc_errmsg(), "ZC_TRACE=") && strstr(zc_errmsg(), "ulimit -f"), "%s", zc_errmsg());
    }
    CHECK(!trace_on && unlink(path()) == 0);
}

Test(trace, file_size)
{
    apart(ends_at_limit, NULL);
    apart(does_not_begin_beyond_limit, NULL);
}

/* A file that is there is another's, which may have it mapped. */
static void spares_another_file(const void *argument)
{
    char more[2][128];
    struct trace_header header;
    (void)argument;
    start_trace();
    for (int i = 0; i < 2; i++) {
        snprintf(more[i], sizeof more[i], "%s.%d", path(), i + 2);
        unlink(more[i]);
    }
    FILE *other = fopen(path(), "we");
    CHECK(other && fputs("another's", other) >= 0 && fclose(other) == 0);
    other = fopen(more[0], "we");
    CHECK(other && fclose(other) == 0);
    CHECK_OK(zc_free(ALLOC(100)));
    struct stat stat_of;
    CHECK(stat(path(), &stat_of) == 0 && stat_of.st_size == 9 && unlink(path()) == 0);
    CHECK(stat(more[0], &stat_of) == 0 && stat_of.st_size == 0 && unlink(more[0]) == 0);
    FILE *file = fopen(more[1], "re");
    CHECK(file && fread(&header, sizeof header, 1, file) == 1 && unlink(more[1]) == 0);
    CHECK(strcmp(header.magic, TRACE_MAGIC) == 0);
    fclose(file);
}

Test(trace, file_of_another)
{
    apart(spares_another_file, NULL);
}

static void is_its_own_process(const void *argument)
{
    (void)argument;
    start_trace();
    CHECK_OK(zc_free(ALLOC(100)));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(trace_on);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(trace_on);
    CHECK(unlink(path()) == 0);
}

Test(trace, fork)
{
    apart(is_its_own_process, NULL);
}

static void says_where_it_cannot(const void *argument)
{
    (void)argument;
    CHECK(setenv("ZC_TRACE", "/nowhere/at/all", 1) == 0);
    for (int i = 0; i < 2; i++) {
        errno = 0;
        CHECK(!zc_alloc(1));
        CHECKF(errno == EINVAL, "errno %d", errno);
        CHECKF(strstr(zc_errmsg(), "ZC_TRACE=/nowhere/at/all"), "%s", zc_errmsg());
    }
}

Test(trace, no_such_folder)
{
    apart(says_where_it_cannot, NULL);
}

static void is_off(const void *argument)
{
    (void)argument;
    start_trace();
    CHECK(unsetenv("ZC_TRACE") == 0);
    CHECK_OK(zc_free(ALLOC(100)));
    CHECK(!trace_on && access(path(), F_OK) == -1);
}

Test(trace, off_by_default)
{
    apart(is_off, NULL);
}
