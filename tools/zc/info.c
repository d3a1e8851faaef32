/* SPDX-License-Identifier: MIT
 *
 * zc info: what this host can do for zc, what it costs, and what to change. */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "core/error.h"
#include "core/options.h"
#include "core/sys.h"
#include "protect/userfaultfd.h"
#include "tools/zc/command.h"
#include "tools/zc/measure.h"
#include "zc.h"

/* One line of the answer. */
struct fact {
    const char *name;
    char value[ERROR_BYTES];
    const char *advice; /* what to change, and how; NULL: nothing */
};

static struct fact facts[32];
static size_t fact_count;

static void fact(const char *name, const char *advice, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void fact(const char *name, const char *advice, const char *format, ...)
{
    struct fact *f = &facts[fact_count++];
    va_list args;
    va_start(args, format);
    vsnprintf(f->value, sizeof f->value, format, args);
    va_end(args);
    f->name = name;
    f->advice = advice;
}

/* The first line of a file, "" if it cannot be read. */
static const char *line_of(const char *path, char *line, size_t size)
{
    line[0] = 0;
    FILE *file = fopen(path, "re");
    if (file) {
        if (fgets(line, (int)size, file))
            line[strcspn(line, "\n")] = 0;
        fclose(file);
    }
    return line;
}

/* The number in a file, or `otherwise`. */
static long number_of(const char *path, long otherwise)
{
    char line[64], *end;
    long number = strtol(line_of(path, line, sizeof line), &end, 10);
    return end == line ? otherwise : number;
}

/* ---- what there is ---- */

static void kernel(void)
{
    struct utsname name;
    unsigned major = 0, minor = 0;
    uname(&name);
    char *end;
    major = (unsigned)strtoul(name.release, &end, 10);
    minor = *end == '.' ? (unsigned)strtoul(end + 1, NULL, 10) : 0;
    bool old = major < 5 || (major == 5 && minor < 14);
    fact("kernel", old ? "zc needs Linux 5.14 or later" : NULL, "%s %s, %s", name.sysname, name.release, name.machine);
    long page = sysconf(_SC_PAGESIZE);
    fact("processors", page == PAGE_SIZE_ ? NULL : "zc knows pages of 4 KiB only", "%ld, pages of %s",
         sysconf(_SC_NPROCESSORS_ONLN), size_text((unsigned long long)page));
    fact("memory", NULL, "%s", size_text((unsigned long long)sysconf(_SC_PHYS_PAGES) * (unsigned long long)page));
}

/* Some show only when pools are opened. A limit that is in the way of that has a line of its own. */
static void variables(void)
{
    unsetenv("ZC_TRACE"); /* it is not to be written */
    void *buffer = zc_alloc(1);
    bool refused = !buffer && strncmp(zc_errmsg(), "ZC_", 3) == 0;
    zc_free(buffer);
    if (refused)
        fact("ZC_ variables", "correct or unset it: with it, every program that uses zc fails", "%s", zc_errmsg());
    else
        fact("ZC_ variables", NULL, "understood");
}

static void rdma_devices(void)
{
    char names[128] = "";
    size_t used = 0;
    DIR *folder = opendir("/sys/class/infiniband");
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (entry->d_name[0] != '.' && used < sizeof names)
            used += (size_t)snprintf(names + used, sizeof names - used, " %s", entry->d_name);
    if (folder)
        closedir(folder);
    fact("RDMA devices",
         names[0] ? NULL : "for the verbs transport: an adapter, or `rdma link add rxe0 type rxe netdev eth0`", "%s",
         names[0] ? names + 1 : "none");
}

static void transports(void)
{
    fact("transports", NULL, "loop mpi shm%s", ZC_WITH_VERBS ? " verbs" : "");
    rdma_devices();
}

static void protection(void)
{
    fact("page protection", NULL, "mprotect and SIGSEGV");
    bool kernel_faults;
    int fd = userfaultfd_acquire(&kernel_faults);
    if (fd < 0) {
        fact("userfaultfd",
             fd == -ENOSYS ? "build the kernel with CONFIG_USERFAULTFD"
                           : "userfaultfd in the container's seccomp profile, or access to /dev/userfaultfd",
             "none: %s", strerror(-fd));
        return;
    }
    struct uffdio_api api = {.api = UFFD_API, .features = USERFAULTFD_NEEDS};
    bool serves = ioctl(fd, UFFDIO_API, &api) == 0;
    close(fd);
    if (!serves)
        fact("userfaultfd", "zc needs features of Linux 6.4", "too old");
    else if (kernel_faults)
        fact("userfaultfd", NULL, "yes, for system calls too");
    else
        fact("userfaultfd", "for system calls too: access to /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1",
             "yes, not for system calls");
}

static bool collapses(void)
{
    int fd = memfd_create("zc-info", MFD_CLOEXEC);
    char *area = NULL;
    bool done = false;
    if (fd >= 0 && ftruncate(fd, 2 * HUGE_BYTES) == 0)
        area = sys_mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (area) {
        char *huge = (char *)round_to_huge((uintptr_t)area);
        /* The file's offset and the address must agree. */
        done = sys_mmap(huge, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) &&
               sys_madvise(huge, PAGE_BYTES, MADV_POPULATE_WRITE) == 0 &&
               sys_madvise(huge, HUGE_BYTES, MADV_COLLAPSE) == 0;
        sys_munmap(area, 2 * HUGE_BYTES);
    }
    if (fd >= 0)
        close(fd);
    return done;
}

static void huge_pages(void)
{
    if (sys_may_grow(2 * HUGE_BYTES))
        fact("huge pages", NULL, "not tried: no file may be so large");
    else if (collapses())
        fact("huge pages", NULL, "yes, by MADV_COLLAPSE");
    else
        fact("huge pages",
             "slots of 2 MiB and more use small pages: Linux 6.1 with CONFIG_TRANSPARENT_HUGEPAGE has them", "no");
    const char *folder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    char path[128];
    snprintf(path, sizeof path, "%s/nr_hugepages", folder);
    long reserved = number_of(path, 0);
    snprintf(path, sizeof path, "%s/free_hugepages", folder);
    fact("hugetlb pages",
         reserved ? NULL : "for pools that ask for them (ZC_POOLS=2M:64:hugetlb): sysctl vm.nr_hugepages=N",
         "%ld of 2 MiB, %ld free", reserved, number_of(path, 0));
}

static const char *limit_text(rlim_t limit)
{
    return limit == RLIM_INFINITY ? "unlimited" : size_text(limit);
}

static void limits(void)
{
    struct rlimit lock, space, files, file;
    getrlimit(RLIMIT_MEMLOCK, &lock);
    getrlimit(RLIMIT_AS, &space);
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_FSIZE, &file);
    long maps = number_of("/proc/sys/vm/max_map_count", 65530);
    fact("vm.max_map_count",
         maps < 1 << 20 ? "for many buffers in flight at once: sysctl vm.max_map_count=1048576" : NULL,
         "%ld: at most ~%ld buffers protected apart, later sends are copied", maps, maps / 6);
    fact("locked memory",
         lock.rlim_cur == RLIM_INFINITY ? NULL : "verbs registers whole pools: ulimit -l unlimited, or limits.conf(5)",
         "%s", limit_text(lock.rlim_cur));
    fact("address space",
         space.rlim_cur == RLIM_INFINITY ? NULL : "zc reserves up to 2 TiB of addresses: ulimit -v unlimited", "%s",
         limit_text(space.rlim_cur));
    fact("open files", files.rlim_cur < 1024 ? "each 64 MiB of a pool is a file: ulimit -n 1024 or more" : NULL, "%llu",
         (unsigned long long)files.rlim_cur);
    fact("file size", file.rlim_cur == RLIM_INFINITY ? NULL : "the memory of pools is files: ulimit -f unlimited", "%s",
         limit_text(file.rlim_cur));
    long scope = number_of("/proc/sys/kernel/yama/ptrace_scope", 0);
    fact("ptrace scope", scope ? "zc top sees a program's pools only as root: sysctl kernel.yama.ptrace_scope=0" : NULL,
         "%ld", scope);
}

/* ---- what it costs ---- */

static const size_t sizes[] = {4 << 10, 64 << 10, 1 << 20, 4 << 20};

enum { SIZES = sizeof sizes / sizeof sizes[0] };

static void print_cost(uint64_t ns)
{
    printf("%9.1f µs", (double)ns / 1000);
}

static void print_costs(const struct costs costs[SIZES])
{
    static const struct {
        const char *name;
        size_t offset;
    } rows[] = {{"copy", offsetof(struct costs, copy)},
                {"protect", offsetof(struct costs, protect)},
                {"unprotect", offsetof(struct costs, unprotect)},
                {"store to a protected page", offsetof(struct costs, fault)},
                {"first touch of fresh pages", offsetof(struct costs, touch)}};
    printf("\n%-28s", "measured");
    for (int i = 0; i < SIZES; i++)
        printf("%12s", size_text(sizes[i]));
    putchar('\n');
    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
        printf("%-28s", rows[row].name);
        for (int i = 0; i < SIZES; i++)
            print_cost(*(const uint64_t *)((const char *)&costs[i] + rows[row].offset));
        putchar('\n');
    }
    for (int i = 0; i < SIZES; i++) {
        if (costs[i].copy > costs[i].protect + costs[i].unprotect) {
            printf("\nFrom %s on, protecting a buffer costs less than copying it.\n", size_text(sizes[i]));
            return;
        }
    }
    puts("\nProtecting costs more than copying here; it pays where a buffer is sent again before it is written.");
}

static void print_table(const struct costs *costs)
{
    for (const struct fact *f = facts; f < facts + fact_count; f++) {
        printf("%-18s %s\n", f->name, f->value);
        if (f->advice)
            printf("%-18s   → %s\n", "", f->advice);
    }
    if (costs)
        print_costs(costs);
}

static void print_json(const struct costs *costs)
{
    fputs("{\"version\": ", stdout);
    print_quoted(zc_version());
    fputs(", \"facts\": [", stdout);
    for (size_t i = 0; i < fact_count; i++) {
        fputs(i ? ",\n  {\"name\": " : "\n  {\"name\": ", stdout);
        print_quoted(facts[i].name);
        fputs(", \"value\": ", stdout);
        print_quoted(facts[i].value);
        if (facts[i].advice) {
            fputs(", \"advice\": ", stdout);
            print_quoted(facts[i].advice);
        }
        putchar('}');
    }
    fputs("\n], \"costs_ns\": [", stdout);
    for (size_t i = 0; costs && i < SIZES; i++)
        printf("%s{\"size\": %zu, \"copy\": %llu, \"protect\": %llu, \"unprotect\": %llu, \"fault\": %llu, \"touch\": "
               "%llu}",
               i ? ",\n  " : "\n  ", sizes[i], (unsigned long long)costs[i].copy, (unsigned long long)costs[i].protect,
               (unsigned long long)costs[i].unprotect, (unsigned long long)costs[i].fault,
               (unsigned long long)costs[i].touch);
    puts("\n]}");
}

static int print_options(void)
{
    struct option_text text;
    printf("%-20s %-24s %-8s %s\n", "variable", "values", "default", "meaning");
    for (size_t i = 0; options_describe(i, &text); i++)
        printf("%-20s %-24s %-8s %s\n", text.variable, text.values, text.initial[0] ? text.initial : "-", text.help);
    return 0;
}

static int run(int argc, char **argv)
{
    int json = 0, quick = 0, options = 0;
    const struct flag flags[] = {
        {"json", &json, NULL}, {"quick", &quick, NULL}, {"options", &options, NULL}, {NULL, NULL, NULL}};
    int at = parse_flags(argc, argv, flags);
    if (at < 0)
        return STATUS_USAGE;
    if (at < argc)
        return misused("%s: expected no argument", argv[at]);
    if (options && (json || quick))
        return misused("--options: expected neither --json nor --quick with it");
    if (options)
        return print_options();

    kernel();
    transports();
    protection();
    huge_pages();
    limits();
    variables();
    struct costs costs[SIZES];
    for (int i = 0; i < SIZES && !quick; i++) {
        int error = measure(sizes[i], &costs[i]);
        if (error)
            return failed("measuring with %s failed: %s (limits: memory, ulimit -f)", size_text(4 * sizes[i]),
                          strerror(-error));
    }
    (json ? print_json : print_table)(quick ? NULL : costs);
    return 0;
}

const struct command command_info = {
    .name = "info",
    .arguments = "[--json] [--quick] | --options",
    .summary = "What this host can do for zc, what it costs, and what to change",
    .help = "Prints a line for each thing that zc depends on; under it, after an arrow, what to change and how, where\n"
            "changing it would help. Then what copying, protecting and faulting cost here, each the median of 9\n"
            "rounds on pages that are mapped as zc maps its own. Changes nothing.\n\n"
            "  --json     the same for a program: facts (name, value, advice) and costs in nanoseconds\n"
            "  --quick    without measuring\n"
            "  --options  instead, the ZC_... variables that every program with zc reads\n",
    .run = run,
};
