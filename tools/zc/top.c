/* SPDX-License-Identifier: MIT
 *
 * zc top: the pools and counters of a running process. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "tools/zc/command.h"
#include "tools/zc/process.h"

enum { HOLDERS_SHOWN = 5, COLUMN = 10 /* characters */ };

/* All that is shown, at one time. */
struct moment {
    uint64_t time; /* ns */
    struct counters counters;
    int error; /* of looking at the pools */
    struct view view;
};

static void look(const struct process *process, struct moment *moment)
{
    moment->time = clock_ns();
    live_sum(process->live, &moment->counters);
    moment->error = process_look(process, &moment->view);
    for (size_t i = 0; i < moment->view.pools; i++) { /* which count these */
        const struct pool_view *pool = &moment->view.pool[i];
        moment->counters.allocs += pool->allocs;
        moment->counters.frees += pool->allocs > pool->live ? pool->allocs - pool->live : 0; /* it goes on meanwhile */
    }
}

static const char *why_no_pools(int error)
{
    return error == -EPERM ? "its pools cannot be read: run as root, or sysctl kernel.yama.ptrace_scope=0"
                           : "its pools changed while they were read";
}

/* ---- a table ---- */

static void print_count(uint64_t count)
{
    if (count == ZC_UNLIMITED)
        printf("%*s", COLUMN, "-");
    else
        printf("%*llu", COLUMN, (unsigned long long)count);
}

/* Characters that fit on a line. */
static size_t line_width(void)
{
    struct winsize window;
    const char *columns = getenv("COLUMNS");
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col)
        return window.ws_col;
    size_t width = columns ? strtoul(columns, NULL, 10) : 0;
    return width ? width : SIZE_MAX;
}

static void print_pools(const struct view *view)
{
    static const char *const titles[] = {"slots", "live",    "peak",    "cap",      "in flight", "idle prot",
                                         "waste", "renamed", "refills", "fallback", "allocs"};
    size_t used = 0, shown = line_width() / COLUMN, most = sizeof titles / sizeof titles[0];
    shown = shown > most ? most : shown > 1 ? shown - 1 : 1;
    printf("%*s", COLUMN, "slot");
    for (size_t i = 0; i < shown; i++)
        printf("%*s", COLUMN, titles[i]);
    putchar('\n');
    for (size_t i = 0; i < view->pools; i++) {
        const struct pool_view *pool = &view->pool[i];
        const uint64_t counts[] = {pool->slots,     pool->live,           pool->peak,  pool->cap,
                                   pool->in_flight, pool->idle_protected, pool->waste, pool->renamed,
                                   pool->refills,   pool->fallbacks,      pool->allocs};
        used += pool->slots * pool->slot_size;
        printf("%*s", COLUMN, size_text(pool->slot_size));
        for (size_t j = 0; j < shown; j++)
            print_count(counts[j]);
        putchar('\n');
    }
    printf("%s in slots\n", size_text(used));
}

/* Seconds. */
static uint64_t age(const struct holder *holder, uint64_t now_ns)
{
    uint64_t now = now_ns / 1000000000;
    return now > holder->since ? now - holder->since : 0;
}

/* A line; nothing where there is nothing, if that is how it usually is. */
static void print_holders(const char *title, const char *what, const struct holders *holders, uint64_t now, bool usual)
{
    if (!holders->count && usual)
        return;
    printf("%s: ", title);
    for (size_t i = 0; i < holders->count && i < HOLDERS_SHOWN; i++) {
        const struct holder *holder = &holders->all[i];
        uint64_t seconds = age(holder, now);
        printf("%s%s in %zu %s rank %d, tag %d", i ? ", " : "", size_text(holder->bytes), holder->count, what,
               holder->peer, holder->tag);
        if (seconds)
            printf(" (for %llu s)", (unsigned long long)seconds);
    }
    puts(holders->count ? "" : "nothing");
}

/* Counts, or what they were a second since `before`. */
static void print_counters(const struct moment *now, const struct moment *before)
{
    double seconds = before ? (double)(now->time - before->time) / 1e9 : 1;
    const struct counters *c = &now->counters, *b = before ? &before->counters : &(struct counters){0};
    printf("%s ", before ? "each second:" : "so far:");
#define SHOW(text, name) printf(text, (double)(c->name - b->name) / seconds)
    SHOW("%.0f sends", sends);
    SHOW(" (%.0f at once", sends_inline);
    SHOW(", %.0f protected", sends_protected);
    SHOW(", %.0f free", sends_free);
    SHOW(", %.0f copied)", sends_copied);
    SHOW(", %.0f receives", receives);
    SHOW(", %.0f faults", faults);
    SHOW(", %.0f conflicts", conflicts);
    SHOW(", %.0f renames\n", renames);
#undef SHOW
}

static void print_table(const struct process *process, const struct moment *now, const struct moment *before)
{
    printf("process %d, %s\n", (int)process->pid, process->command);
    print_counters(now, before);
    if (now->error) {
        puts(why_no_pools(now->error));
        return;
    }
    print_holders("in flight", "sends to", &now->view.sends, now->time, false);
    print_holders("viewed", "messages of", &now->view.views, now->time, true);
    putchar('\n');
    print_pools(&now->view);
}

/* ---- JSON ---- */

static void print_json_holders(const char *name, const char *what, const struct holders *holders,
                               const struct moment *now)
{
    printf(",\n\"%s\": [", name);
    for (size_t i = 0; i < holders->count && !now->error; i++) {
        const struct holder *holder = &holders->all[i];
        uint64_t seconds = age(holder, now->time);
        printf("%s\n  {\"peer\": %d, \"tag\": %d, \"%s\": %zu, \"bytes\": %llu, \"seconds\": %llu}", i ? "," : "",
               holder->peer, holder->tag, what, holder->count, (unsigned long long)holder->bytes,
               (unsigned long long)seconds);
    }
    putchar(']');
}

static void print_json(const struct process *process, const struct moment *now)
{
    const char *comma = "";
    printf("{\"pid\": %d, \"command\": ", (int)process->pid);
    print_quoted(process->command);
    printf(", \"counters\": {");
#define X(name)                                                                                                        \
    printf("%s\"%s\": %llu", comma, #name, (unsigned long long)now->counters.name);                                    \
    comma = ", ";
    ZC_STATS(X)
#undef X
    fputs("},\n\"pools\": [", stdout);
    for (size_t i = 0; i < now->view.pools && !now->error; i++) {
        const struct pool_view *pool = &now->view.pool[i];
        printf("%s\n  {\"slot_size\": %zu, \"slots\": %zu, \"live\": %zu, \"peak\": %zu, \"in_flight\": %zu, "
               "\"idle_protected\": %zu, \"waste\": %zu, ",
               i ? "," : "", pool->slot_size, pool->slots, pool->live, pool->peak, pool->in_flight,
               pool->idle_protected, pool->waste);
        if (pool->cap != ZC_UNLIMITED)
            printf("\"cap\": %zu, ", pool->cap);
        printf("\"allocs\": %llu, \"renamed\": %llu, \"refills\": %llu, \"fallbacks\": %llu, \"over_cap\": %llu, "
               "\"hugetlb_missed\": %zu}",
               (unsigned long long)pool->allocs, (unsigned long long)pool->renamed, (unsigned long long)pool->refills,
               (unsigned long long)pool->fallbacks, (unsigned long long)pool->over_cap, pool->hugetlb_missed);
    }
    putchar(']');
    print_json_holders("holders", "sends", &now->view.sends, now);
    print_json_holders("viewed", "messages", &now->view.views, now);
    if (now->error) {
        fputs(",\n\"error\": ", stdout);
        print_quoted(why_no_pools(now->error));
    }
    puts("}");
    fflush(stdout);
}

/* ---- the command ---- */

static int watch(const struct process *process, bool json, double interval)
{
    static struct moment moments[2];
    const bool screen = !json && isatty(STDOUT_FILENO);
    struct timespec pause = {(time_t)interval, (long)((interval - (double)(time_t)interval) * 1e9)};
    for (unsigned turn = 0; process_there(process); turn++) {
        struct moment *now = &moments[turn % 2];
        look(process, now);
        fputs(screen ? "\033[H\033[2J" : "", stdout);
        if (json)
            print_json(process, now);
        else
            print_table(process, now, turn ? &moments[(turn + 1) % 2] : NULL);
        fputs(json ? "" : "\n", stdout);
        if (fflush(stdout))
            return failed("standard output cannot be written");
        nanosleep(&pause, NULL);
    }
    fprintf(stderr, "zc top: process %d has ended\n", (int)process->pid);
    return 0;
}

static int run(int argc, char **argv)
{
    int once = 0, json = 0;
    const char *interval_text = "1";
    const struct flag flags[] = {
        {"once", &once, NULL}, {"json", &json, NULL}, {"interval", NULL, &interval_text}, {NULL, NULL, NULL}};
    int at = parse_flags(argc, argv, flags);
    if (at < 0)
        return STATUS_USAGE;
    if (at + 1 != argc)
        return misused("expected the number of one process after the options");
    char *end;
    long pid = strtol(argv[at], &end, 10);
    if (*end || end == argv[at] || pid <= 0 || pid > INT_MAX)
        return misused("%s: expected the number of a process", argv[at]);
    double interval = strtod(interval_text, &end);
    if (*end || !(interval >= 0.1 && interval <= 3600))
        return misused("--interval %s: expected seconds, 0.1 to 3600", interval_text);
    struct process process;
    int status = process_open((pid_t)pid, &process);
    if (status)
        return status;
    if (!once)
        return watch(&process, json, interval);
    static struct moment now;
    look(&process, &now);
    if (json)
        print_json(&process, &now);
    else
        print_table(&process, &now, NULL);
    return 0;
}

const struct command command_top = {
    .name = "top",
    .arguments = "[--once] [--json] [--interval SECONDS] PID",
    .summary = "The pools and sends of a running process",
    .help =
        "Shows, again and again until the process ends or Ctrl-C, what it sends in a second, who has not received\n"
        "it or looks at it, and for how long; whose messages it looks at itself (zc_recv_view) without a copy; and\n"
        "for each pool:\n\n"
        "  slots      populated: what its memory is\n"
        "  live       with the program; peak: most that ever were; cap: most that may be\n"
        "  in flight  held by a send or its copy, or by a receive; freed ones are not live any more\n"
        "  idle prot  live and still protected after a send: sending again is free, a store faults once\n"
        "  waste      neither live nor in flight: kept by threads, spare for conflicts, or left over from a peak\n"
        "  renamed    stores that met a send and got fresh pages\n"
        "  refills    times that a thread's cache was empty\n"
        "  fallback   allocations that went to ordinary memory, because the pool was at its cap\n"
        "  allocs     all allocations\n\n"
        "Columns that a line has no room for are left out.\n\n"
        "The process must be one's own, and use zc; it is not stopped and pays nothing.\n\n"
        "  --once              print once, totals since the start\n"
        "  --json              as JSON\n"
        "  --interval SECONDS  0.1 to 3600; 1 by default\n",
    .run = run,
};
