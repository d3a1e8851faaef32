/* SPDX-License-Identifier: MIT
 *
 * Limits of the system: what cannot be had is an error that says so, or is done by copy, and nothing is lost. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apart.h"
#include "check.h"
#include "pattern.h"
#include "system.h"
#include "transport/loop.h"
#include "userfaultfd.h"

TestSuite(limits, .timeout = 120);

#define KIB ((size_t)1024)
#define MIB (KIB * 1024)

enum { NOBODY = 65534 };

static zc_comm *open_protected(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;

    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("loop", &options, &comm));
    return comm;
}

static bool used_up; /* even a copy cannot be had for sure */

/* n messages in flight at once, each of a buffer that is stored to at once, in every second page, so that
 * protections split as far as they can. All must arrive, and all stores be kept. Where memory or mappings run out,
 * there are fewer of them. A receive in flight cannot do without protection: where there is none to be had it is
 * refused, and then made by zc_recv. */
static void many_in_flight(unsigned n, size_t length, bool asynchronous)
{
    zc_comm *comm = open_protected();
    char **p = calloc(n, sizeof *p), **in = calloc(n, sizeof *in);
    bool *posted = calloc(n, sizeof *posted), *sent = calloc(n, sizeof *sent);

    CHECK(p && in && posted && sent);
    for (unsigned i = 0; i < n; i++)
        if (!(in[i] = zc_alloc(length)) || !(p[i] = zc_alloc(length))) {
            CHECKF(errno == ENOMEM && zc_errmsg()[0], "errno %d, \"%s\"", errno, zc_errmsg());
            CHECK_OK(zc_free(in[i]));
            n = i;
        }
    loop_hold(comm, true);
    for (unsigned i = 0; i < n; i++) {
        pattern_fill(p[i], length, i);
        if (asynchronous) {
            int error = zc_irecv(in[i], length, 0, (int)i, comm);

            CHECKF(error == 0 || error == -ENOMEM, "%d; zc_errmsg: \"%s\"", error, zc_errmsg());
            posted[i] = !error;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        int error = zc_send(p[i], length, 0, (int)i, comm);

        CHECKF(error == 0 || (error == -ENOMEM && used_up), "%d; zc_errmsg: \"%s\"", error, zc_errmsg());
        sent[i] = !error;
    }
    for (unsigned i = 0; i < n; i += 2)
        for (size_t at = 0; at < length; at += 8192)
            ((volatile char *)p[i])[at] = 's';
    CHECK_OK(zc_progress(comm));
    loop_deliver(comm, n / 2, LOOP_SHUFFLED, 1);
    for (unsigned i = 1; i < n; i += 2)
        for (size_t at = 0; at < length; at += 8192)
            ((volatile char *)p[i])[at] = 's';
    loop_hold(comm, false);
    for (unsigned i = 0; i < n; i++) {
        if (!sent[i] && posted[i])
            CHECK_OK(zc_cancel(in[i]));
        else if (posted[i])
            CHECK_OK(zc_wait(in[i], NULL));
        else if (sent[i])
            CHECK_OK(zc_recv(in[i], length, 0, (int)i, comm, NULL));
        if (!sent[i])
            pattern_fill(in[i], length, i);
        CHECK_PATTERN(in[i], length, i);
        pattern_fill(in[i], length, i);
        for (size_t at = 0; at < length; at += 8192)
            in[i][at] = 's';
        CHECK(memcmp(p[i], in[i], length) == 0);
    }
    for (unsigned i = 0; i < n; i++) {
        CHECK_OK(zc_free(in[i]));
        CHECK_OK(zc_free(p[i]));
    }
    free(p);
    free(in);
    free(posted);
    free(sent);
    CHECK_OK(zc_close(comm));
}

static void budget_of_mappings(const void *argument)
{
    const char *budget = argument;

    check_scene = budget;
    CHECK(setenv("ZC_MAPS", budget, 1) == 0);
    many_in_flight(100, 32 * KIB, false);
    zc_stats s = stats_now();
    CHECKF(s.unreserved > 0, "nothing was beyond a budget of %s mappings", budget);
    CHECK(s.sends_copied >= s.unreserved);
    CHECKF(s.sends_protected > 0 || strtol(budget, NULL, 10) < 60,
           "nothing was protected within a budget of %s mappings", budget);
    CHECK(s.sends == 100 && s.sends_copied + s.sends_protected + s.sends_free == 100);
    many_in_flight(100, 32 * KIB, true);
}

Test(limits, few_mappings)
{
    static const char *const budgets[] = {"1", "2", "5", "17", "60", "120"};

    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++)
        apart(budget_of_mappings, budgets[i]);
}

/* Uses up the mappings of this process but for about `left`. */
static void use_up_mappings(unsigned left)
{
    unsigned long long most = system_number("/proc/sys/vm/max_map_count", "");
    unsigned long long used = system_lines("/proc/self/maps");

    CHECK(most > used + left + 4 && most < 10000000);
    used_up = true;
    size_t pages = most - used - left;
    char *area = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(area != MAP_FAILED);
    for (size_t i = 0; i < pages - 1; i += 2)
        if (mprotect(area + i * 4096, 4096, PROT_READ) != 0)
            break;
}

/* For real: first the application takes them, then zc comes. */
static void few_mappings_from_the_start(const void *argument)
{
    use_up_mappings(*(const unsigned *)argument);
    many_in_flight(60, 32 * KIB, true);
}

/* Or zc has reserved, and then the application takes what is left. */
static void few_mappings_later(const void *argument)
{
    zc_comm *comm = open_protected();
    char *p = ALLOC(64 * KIB), *in = ALLOC(64 * KIB);

    loop_hold(comm, true);
    CHECK_OK(zc_irecv(in, 64 * KIB, 0, 1, comm));
    pattern_fill(p, 64 * KIB, 3);
    CHECK_OK(zc_send(p, 64 * KIB, 0, 1, comm));
    use_up_mappings(*(const unsigned *)argument);
    ((volatile char *)p)[40000] ^= 1; /* what was reserved for this is still there */
    CHECK(pattern_differs(p, 64 * KIB, 3) == 40000);
    many_in_flight(60, 32 * KIB, true);
    loop_hold(comm, false);
    CHECK_OK(zc_wait(in, NULL));
    CHECK_PATTERN(in, 64 * KIB, 3);
}

Test(limits, mappings_used_up)
{
    static const unsigned left[] = {400, 40};

    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++)
        apart(few_mappings_from_the_start, &left[i]);
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++)
        apart(few_mappings_later, &left[i]);
}

static void limit(int resource, rlim_t most)
{
    struct rlimit r = {most, most};

    CHECK(setrlimit(resource, &r) == 0);
}

static size_t address_space(void)
{
    return (size_t)system_number("/proc/self/status", "VmSize:") * KIB;
}

/* Too little for zc from the start: it works in what there is, or says what is missing. */
static void little_address_space(const void *argument)
{
    size_t room = *(const size_t *)argument;

    limit(RLIMIT_AS, address_space() + room);
    errno = 0;
    char *p = zc_alloc(100000);
    if (!p) {
        CHECKF(errno == ENOMEM, "errno %d", errno);
        CHECKF(strstr(zc_errmsg(), "RLIMIT_AS"), "%s", zc_errmsg());
        return;
    }
    memset(p, 1, 100000);
    CHECK_OK(zc_free(p));
    many_in_flight(20, 32 * KIB, true);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

Test(limits, address_space)
{
    static const size_t room[] = {MIB, 64 * MIB, 300 * MIB, 1024 * MIB};

#ifdef SANITIZED
    cr_skip_test("a sanitizer needs the address space itself");
#endif
    for (size_t i = 0; i < sizeof room / sizeof room[0]; i++)
        apart(little_address_space, &room[i]);
}

static void no_locked_memory(const void *argument)
{
    (void)argument;
    limit(RLIMIT_MEMLOCK, 0);
    many_in_flight(20, 64 * KIB, true);
}

Test(limits, locked_memory)
{
    apart(no_locked_memory, NULL);
}

/* The C library's heap has nothing left, and zc has a buffer. */
static void heap_used_up(const void *unused)
{
    zc_comm *comm = open_protected();
    char *out = ALLOC(64 * KIB);
    void *in = NULL;

    (void)unused;
    pattern_fill(out, 64 * KIB, 1);
    CHECK_OK(zc_send(out, 64 * KIB, 0, 1, comm));
    CHECK_OK(zc_free(ALLOC(64 * KIB)));
    limit(RLIMIT_DATA, 0);
    for (size_t size = 4096; size; size -= 16)
        for (void *volatile p = malloc(size); p; p = malloc(size))
            ;
    CHECK_OK(zc_recv_alloc(&in, 0, 1, comm, NULL));
    CHECK_PATTERN(in, 64 * KIB, 1);
    CHECK_OK(zc_flush(comm));
}

Test(limits, heap)
{
#ifdef SANITIZED
    cr_skip_test("a sanitizer has a heap of its own");
#endif
    apart(heap_used_up, NULL);
}

static void memfd_refused(const void *argument)
{
    int error = *(const int *)argument;

    deny_system_call(SYS_memfd_create, -1, 0, error);
    for (int i = 0; i < 3; i++) {
        errno = 0;
        CHECK(zc_alloc(100) == NULL && errno == ENOMEM);
        CHECKF(strstr(zc_errmsg(), "memfd") && strstr(zc_errmsg(), strerror(error)), "%s", zc_errmsg());
    }
}

/* What a pool is to have at once and cannot. */
static void no_initial_slots(const void *argument)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = (zc_pool *)&options, *untouched = pool;

    (void)argument;
    ALLOC(1);
    deny_system_call(SYS_memfd_create, -1, 0, ENOMEM);
    options.slot_size = 3 * MIB;
    options.initial = 5;
    CHECK_FAILS(zc_pool_open(&options, &pool), -ENOMEM, "memfd");
    CHECK(pool == untouched);
    options.initial = 0;
    CHECK_OK(zc_pool_open(&options, &pool));
    errno = 0;
    CHECK(!zc_pool_alloc(pool) && errno == ENOMEM);
    CHECK_OK(zc_pool_close(pool));
}

/* Refused to the pools that exist: they live on in what they have. */
static void memfd_refused_later(const void *argument)
{
    enum { MOST = 100000 };
    static char *p[MOST];
    unsigned n = 0;

    many_in_flight(20, 64 * KIB, true);
    deny_system_call(SYS_memfd_create, -1, 0, *(const int *)argument);
    errno = 0;
    for (; n < MOST && (p[n] = zc_alloc(256 * KIB)); n++)
        p[n][0] = 1;
    CHECKF(n < MOST && errno == ENOMEM, "%u, errno %d", n, errno);
    CHECKF(strstr(zc_errmsg(), "memfd"), "%s", zc_errmsg());
    zc_comm *comm = open_protected();
    for (unsigned i = 0; i < n && i < 20; i++) {
        char *in = p[(i + 1) % n];

        pattern_fill(p[i], 256 * KIB, i);
        int error = zc_send(p[i], 256 * KIB, 0, 1, comm);
        CHECKF(error == 0 || error == -ENOMEM, "%d", error);
        if (error == 0) {
            CHECK_OK(zc_recv(in, 256 * KIB, 0, 1, comm, NULL));
            CHECK_PATTERN(in, 256 * KIB, i);
        }
    }
    while (n-- > 0)
        CHECK_OK(zc_free(p[n]));
    CHECK_OK(zc_close(comm));
}

static void no_files(const void *argument)
{
    (void)argument;
    limit(RLIMIT_NOFILE, 3);
    errno = 0;
    CHECK(zc_alloc(100) == NULL && errno == ENOMEM);
    CHECKF(strstr(zc_errmsg(), "memfd"), "%s", zc_errmsg());
}

/* RLIMIT_FSIZE counts for memfds, too, and ends a process that does not look at it. */
static void small_files(const void *argument)
{
    limit(RLIMIT_FSIZE, *(const rlim_t *)argument);
    for (int i = 0; i < 3; i++) {
        errno = 0;
        CHECK(zc_alloc(100) == NULL && errno == ENOMEM);
        CHECKF(strstr(zc_errmsg(), "ulimit -f"), "%s", zc_errmsg());
    }
}

static void small_files_later(const void *argument)
{
    (void)argument;
    many_in_flight(20, 64 * KIB, true);
    limit(RLIMIT_FSIZE, 0);
    many_in_flight(20, 64 * KIB, true); /* in what is there */
    errno = 0;
    CHECK(zc_alloc(64 * MIB) == NULL && errno == ENOMEM);
    CHECKF(strstr(zc_errmsg(), "ulimit -f"), "%s", zc_errmsg());
}

/* For the buffer of a message that has come. */
static void small_files_for_a_message(const void *argument)
{
    zc_comm *comm = open_protected();
    char *out = ALLOC(64 * MIB);
    void *in;
    (void)argument;
    CHECK_OK(zc_send(out, 64 * MIB, 0, 1, comm));
    limit(RLIMIT_FSIZE, 0);
    CHECK_FAILS(zc_recv_alloc(&in, 0, 1, comm, NULL), -ENOMEM, "ulimit -f");
    CHECK(strstr(zc_errmsg(), "zc_recv_alloc: a message of 67108864 bytes is lost"));
    CHECK_OK(zc_free(out));
    CHECK_OK(zc_close(comm));
}

Test(limits, file_size)
{
    static const rlim_t most[] = {0, 4095, 1000000}; /* without and with a page that zc top sees */

    for (size_t i = 0; i < sizeof most / sizeof most[0]; i++)
        apart(small_files, &most[i]);
    apart(small_files_later, NULL);
    apart(small_files_for_a_message, NULL);
}

Test(limits, memfd)
{
    static const int errors[] = {EPERM, ENOMEM, ENOSYS};

    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        apart(memfd_refused, &errors[i]);
    apart(memfd_refused_later, &errors[1]);
    apart(no_initial_slots, NULL);
    apart(no_files, NULL);
}

/* Protection that cannot be had is made up for by copies. */
static void read_only_refused(const void *argument)
{
    (void)argument;
    zc_comm *comm = open_protected(); /* the threads that it needs are there before */
    char *p = ALLOC(MIB);
    CHECK_OK(zc_free(p));
    deny_system_call(SYS_mprotect, 2, PROT_READ, ENOMEM);
    many_in_flight(30, 64 * KIB, true);
    zc_stats s = stats_now();
    CHECKF(s.sends_protected == 0 && s.sends_copied >= 30 && s.unreserved >= 30, "%llu copied, %llu unreserved",
           (unsigned long long)s.sends_copied, (unsigned long long)s.unreserved);
    CHECK_OK(zc_close(comm));
}

/* A receive that cannot be protected is refused and takes nothing; a blocking one needs no protection. */
static void no_access_refused(const void *argument)
{
    (void)argument;
    zc_comm *comm = open_protected();
    char *p = ALLOC(64 * KIB), *in = ALLOC(64 * KIB);

    deny_system_call(SYS_mprotect, 2, PROT_NONE, ENOMEM);
    int error = zc_irecv(in, 64 * KIB, 0, 1, comm);
    pattern_fill(p, 64 * KIB, 1);
    CHECK_OK(zc_send(p, 64 * KIB, 0, 1, comm));
    if (error) {
        CHECK_IS(error, -ENOMEM);
        CHECK(zc_errmsg()[0]);
        CHECK_OK(zc_recv(in, 64 * KIB, 0, 1, comm, NULL));
    } else {
        CHECK_OK(zc_wait(in, NULL));
    }
    CHECK_PATTERN(in, 64 * KIB, 1);
    memset(in, 0, 64 * KIB);
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_close(comm));
}

Test(limits, mprotect)
{
    apart(read_only_refused, NULL);
    apart(no_access_refused, NULL);
}

/* Kernels without the newer kinds of advice. */
static void no_advice(const void *argument)
{
    static const unsigned newer[] = {14 /* MADV_HUGEPAGE */, 22, 23 /* MADV_POPULATE_… */, 25 /* MADV_COLLAPSE */};

    (void)argument;
    for (size_t i = 0; i < sizeof newer / sizeof newer[0]; i++)
        deny_system_call(SYS_madvise, 2, newer[i], EINVAL);
    many_in_flight(30, 64 * KIB, true);
    many_in_flight(4, 3 * MIB, true);
}

Test(limits, madvise)
{
    apart(no_advice, NULL);
}

/* The helper cannot be started: an error, and not one that asks to try again. */
static void no_threads(const void *argument)
{
    zc_comm *comm = NULL;

    (void)argument;
    deny_system_call(SYS_clone3, -1, 0, EAGAIN);
    deny_system_call(SYS_clone, -1, 0, EAGAIN);
    int error = zc_open("loop", NULL, &comm);
    if (error) { /* it may also start one when it is needed, and do without */
        CHECK_IS(error, -ENOMEM);
        CHECKF(strstr(zc_errmsg(), "thread"), "%s", zc_errmsg());
        CHECK(!comm);
    } else {
        many_in_flight(10, 64 * KIB, true);
    }
}

Test(limits, threads)
{
    apart(no_threads, NULL);
}

/* What keeps userfaultfd from being used, and what is said about it. */
struct refusal {
    int call, argument;
    unsigned value;
    int error;
    const char *says;
};

static void without_userfaultfd(const void *argument)
{
    const struct refusal *refusal = argument;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;

    setenv("ZC_PROTECT", "userfaultfd", 1);
    deny_system_call(SYS_ioctl, 1, 0xAA00, EACCES); /* USERFAULTFD_IOC_NEW */
    deny_system_call(refusal->call, refusal->argument, refusal->value, refusal->error);
    options.slot_size = 64 * KIB;
    options.protect = ZC_PROTECT_USERFAULTFD;
    CHECK_FAILS(zc_pool_open(&options, &pool), -ENOTSUP, refusal->says);
    CHECK_FAILS(zc_pool_open(&options, &pool), -ENOTSUP, refusal->says);
    CHECK(pool == NULL);
    if (refusal->call == SYS_clone3) /* nor can zc_open then */
        return;
    many_in_flight(10, 16 * KIB, false); /* asked for by the variable, it is replaced */
    CHECK(stats_now().conflicts > 0);
}

Test(limits, userfaultfd_refused)
{
    static const struct refusal refusals[] = {
        {SYS_userfaultfd, -1, 0, EPERM, "Operation not permitted"},
        {SYS_userfaultfd, -1, 0, EMFILE, "Too many open files"},
        {SYS_userfaultfd, -1, 0, ENOSYS, "Function not implemented"},
        {SYS_ioctl, 1, 0xc018aa3f, EINVAL, "Linux 6.4"}, /* UFFDIO_API */
        {SYS_clone3, -1, 0, EAGAIN, "thread cannot be started"},
    };

    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
        apart(without_userfaultfd, &refusals[i]);
}

/* And the tests of it do not take mprotect for it. */
static void skipped(const void *argument)
{
    const char *ci = argument;
    int status;

    deny_system_call(SYS_ioctl, 1, 0xAA00, EACCES);
    deny_system_call(SYS_userfaultfd, -1, 0, EPERM);
    CHECK(setenv("CI", ci, 1) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(unsetenv("ZC_PROTECT") == 0);
        userfaultfd_or_skip();
        CHECK(setenv("ZC_PROTECT", "userfaultfd", 1) == 0);
        userfaultfd_or_skip();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == (*ci ? 1 : 77), "status 0x%x", (unsigned)status);
}

Test(limits, userfaultfd_tests_skipped)
{
    apart(skipped, "");
    apart(skipped, "true");
}

/* Of user mode only: conflicts end as ever, system calls on a guarded buffer fail, and that is said. */
static void unprivileged_userfaultfd(const void *argument)
{
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    zc_pool *pool = NULL;
    int ends[2];

    (void)argument;
    CHECK(pipe(ends) == 0 && write(ends[1], "zc", 2) == 2);
    CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
    options.slot_size = 64 * KIB;
    options.protect = ZC_PROTECT_USERFAULTFD;
    CHECK_OK(zc_pool_open(&options, &pool));
    CHECKF(strstr(zc_errmsg(), "restricted to faults of user mode"), "%s", zc_errmsg());
    zc_comm *comm = open_protected();
    char *buffer = zc_pool_alloc(pool), *in = ALLOC(64 * KIB);
    CHECK(buffer);
    pattern_fill(buffer, 64 * KIB, 1);
    CHECK_OK(zc_send(buffer, 64 * KIB, 0, 1, comm));
    errno = 0;
    CHECK(read(ends[0], buffer, 2) == -1 && errno == EFAULT);
    ((volatile char *)buffer)[0] ^= 1;
    CHECK(stats_now().conflicts == 1);
    CHECK(read(ends[0], buffer, 2) == 2);
    CHECK_OK(zc_recv(in, 64 * KIB, 0, 1, comm, NULL));
    CHECK_PATTERN(in, 64 * KIB, 1);
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_pool_close(pool));
}

Test(limits, userfaultfd_unprivileged)
{
    if (geteuid() != 0)
        cr_skip_test("needs root, to become nobody");
    if (system_number("/proc/sys/vm/unprivileged_userfaultfd", "") != 0)
        cr_skip_test("vm.unprivileged_userfaultfd is not 0: nothing is lost without privilege");
    apart(unprivileged_userfaultfd, NULL);
}
