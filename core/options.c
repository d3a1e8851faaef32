/* SPDX-License-Identifier: MIT */
#include "core/options.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/thread.h"

extern char **environ;

/* Names of values that follow each other, the initial one first. In most enums 0 stands for "default" and has none. */
#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

enum kind { KIND_NAME, KIND_NUMBER, KIND_PEER_TIMEOUT, KIND_TEXT, KINDS };

/* Of numbers. */
static const struct range {
    uint64_t least, most;
} ranges[KINDS] = {
    [KIND_NUMBER] = {0, UINT32_MAX}, [KIND_PEER_TIMEOUT] = {PEER_TIMEOUT_LEAST_MS, PEER_TIMEOUT_MOST_MS}};

struct row {
    const char *variable;
    enum kind kind;
    size_t offset; /* in struct options */
    const char *const *names;
    uint64_t initial;
    const char *help;
};

#define FIELD(name) offsetof(struct options, name)

static const struct row rows[] = {
    {"ZC_CONFLICT", KIND_NAME, FIELD(conflict), NAMES("auto", "wait", "copy"), ZC_CONFLICT_AUTO,
     "how a store that meets a send in flight goes on"},
    {"ZC_ON_CONFLICT", KIND_NAME, FIELD(on_conflict), NAMES("quiet", "report", "abort"), ZC_ON_CONFLICT_QUIET,
     "what is said about it"},
    {"ZC_RACE", KIND_TEXT, FIELD(race), NULL, 0, "file to which libzc-race.so adds what it sees"},
    {"ZC_RACE_ABORT", KIND_NAME, FIELD(race_abort), NAMES("off", "on"), 0, "whether the first ends the process"},
    {"ZC_POLICY", KIND_NAME, FIELD(policy), NAMES("auto", "protect", "copy"), ZC_POLICY_AUTO,
     "whether sends protect or copy"},
    {"ZC_RELEASE", KIND_NAME, FIELD(release), NAMES("auto", "eager", "lazy"), ZC_RELEASE_AUTO,
     "when a completed send's protection ends"},
    {"ZC_PROGRESS", KIND_NAME, FIELD(progress), NAMES("calls", "thread"), ZC_PROGRESS_CALLS, "who makes progress"},
    {"ZC_ON_TIMEOUT", KIND_NAME, FIELD(on_timeout), NAMES("wait", "abort"), ZC_ON_TIMEOUT_WAIT,
     "what a fault does after ZC_FAULT_TIMEOUT"},
    {"ZC_FAULT_TIMEOUT", KIND_NUMBER, FIELD(fault_timeout_ms), NULL, 10000, "milliseconds"},
    {"ZC_PEER_TIMEOUT", KIND_PEER_TIMEOUT, FIELD(peer_timeout_ms), NULL, 4000,
     "milliseconds after which a peer that does not answer over verbs is lost"},
    {"ZC_MAX_IN_FLIGHT", KIND_NUMBER, FIELD(max_in_flight), NULL, 0,
     "most sends in flight of a communicator; 0: no bound"},
    {"ZC_MAX_VIEWS", KIND_NUMBER, FIELD(max_views), NULL, 0,
     "most messages that a communicator lends at a time; 0: no bound"},
    {"ZC_TRANSPORT", KIND_TEXT, FIELD(transport), NULL, 0, "of zc_open_mpi: mpi, shm, auto or verbs[:DEVICE][?...]"},
    {"ZC_HOST", KIND_TEXT, FIELD(host), NULL, 0, "name of this host: transport auto takes others for elsewhere"},
    {"ZC_FULL", KIND_NAME, FIELD(full), NAMES("grow", "fallback", "fail"), ZC_FULL_GROW, "what a pool does at its cap"},
    {"ZC_HUGE", KIND_NAME, FIELD(huge), NAMES("auto", "never", "always"), ZC_HUGE_AUTO,
     "huge pages for slots of 2 MiB and more"},
    {"ZC_PROTECT", KIND_NAME, FIELD(protect), NAMES("mprotect", "userfaultfd"), ZC_PROTECT_MPROTECT,
     "how buffers in flight are protected"},
    {"ZC_MAPS", KIND_NUMBER, FIELD(maps), NULL, 0, "mappings that zc may use up; 0: what vm.max_map_count leaves"},
    {"ZC_MALLOC_THRESHOLD", KIND_NUMBER, FIELD(malloc_threshold), NULL, 64 << 10,
     "bytes from which libzc-malloc.so allocates from pools"},
    {"ZC_MALLOC_MOST", KIND_NUMBER, FIELD(malloc_most), NULL, 64 << 20, "and up to which it does"},
    {"ZC_DEBUG", KIND_NAME, FIELD(debug), NAMES("off", "on"), 0, "guard pages, canaries and poison of buffers"},
    {"ZC_POOLS", KIND_TEXT, FIELD(pools), NULL, 0,
     "pools of zc_alloc: SIZE:SLOTS[:from=SIZE][:cap=N][:huge|:hugetlb|:hugetlb-only|:small][:FULL][:PROTECT],..."},
    {"ZC_TRACE", KIND_TEXT, FIELD(trace), NULL, 0, "NAME: writes allocations to the file NAME.PID, for zc tune"},
};

enum { ROWS = sizeof rows / sizeof rows[0] };

static struct options options;
static struct kept_error reading;

const char *parse_size(const char *text, uint64_t *value)
{
    if (*text < '0' || *text > '9')
        return NULL;
    char *end;
    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    if (errno)
        return NULL;
    static const char units[] = "KMGT";
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (unit) {
        unsigned shift = 10 * (unsigned)(unit - units + 1);
        if (n > UINT64_MAX >> shift)
            return NULL;
        n <<= shift;
        end++;
    }
    *value = n;
    return end;
}

static bool is_number(const struct row *row)
{
    return ranges[row->kind].most;
}

static void expected(char *text, size_t size, const struct row *row)
{
    if (is_number(row)) {
        const struct range *range = &ranges[row->kind];
        snprintf(text, size, "a whole number, %" PRIu64 "..%" PRIu64 " (%s)", range->least, range->most, row->help);
        return;
    }
    size_t used = (size_t)snprintf(text, size, "one of");
    for (const char *const *name = row->names; *name; name++)
        used += (size_t)snprintf(text + used, size - used, " %s", *name);
    snprintf(text + used, size - used, " (%s)", row->help);
}

bool options_describe(size_t i, struct option_text *text)
{
    if (i >= ROWS)
        return false;
    const struct row *row = &rows[i];
    *text = (struct option_text){.variable = row->variable, .help = row->help};
    size_t used = 0;
    for (const char *const *name = row->names; name && *name; name++)
        used += (size_t)snprintf(text->values + used, sizeof text->values - used, used ? "|%s" : "%s", *name);
    if (row->names)
        snprintf(text->initial, sizeof text->initial, "%s", row->names[0]);
    else if (is_number(row))
        snprintf(text->initial, sizeof text->initial, "%llu", (unsigned long long)row->initial);
    if (!row->names)
        snprintf(text->values, sizeof text->values, "%s", is_number(row) ? "N" : "TEXT");
    return true;
}

static bool set(struct options *options, const struct row *row, const char *value)
{
    char *field = (char *)options + row->offset;
    uint64_t number;
    switch (row->kind) {
    case KIND_TEXT:
        memcpy(field, &value, sizeof value);
        return true;
    case KIND_NAME:
        for (int i = 0; row->names[i]; i++) {
            if (strcmp(row->names[i], value) == 0) {
                int chosen = (int)row->initial + i;
                memcpy(field, &chosen, sizeof chosen);
                return true;
            }
        }
        return false;
    default: {
        const char *end = parse_size(value, &number);
        if (!end || *end || number < ranges[row->kind].least || number > ranges[row->kind].most)
            return false;
        memcpy(field, &number, sizeof number);
        return true;
    }
    }
}

static void set_initial(struct options *options, const struct row *row)
{
    int name = (int)row->initial;
    const char *none = "";
    char *field = (char *)options + row->offset;
    if (row->kind == KIND_NAME)
        memcpy(field, &name, sizeof name);
    else if (is_number(row))
        memcpy(field, &row->initial, sizeof row->initial);
    else
        *(const char **)field = none;
}

int options_read(char *const *environment, struct options *options)
{
    for (const struct row *row = rows; row < rows + ROWS; row++)
        set_initial(options, row);
    for (char *const *entry = environment; entry && *entry; entry++) {
        const char *equals = strchr(*entry, '=');
        if (strncmp(*entry, "ZC_", 3) != 0 || !equals)
            continue;
        const struct row *row = rows;
        size_t length = (size_t)(equals - *entry);
        while (row < rows + ROWS && (strncmp(row->variable, *entry, length) != 0 || row->variable[length]))
            row++;
        char text[512] = "";
        if (row == rows + ROWS) {
            size_t used = 0;
            for (row = rows; row < rows + ROWS; row++)
                used += (size_t)snprintf(text + used, sizeof text - used, " %s", row->variable);
            return fail(-EINVAL, "%.*s: no such variable; known are%s", (int)length, *entry, text);
        }
        if (!set(options, row, equals + 1)) {
            expected(text, sizeof text, row);
            return fail(-EINVAL, "%.200s: expected %s", *entry, text);
        }
    }
    return 0;
}

static void load(void)
{
    error_keep(&reading, options_read(environ, &options));
}

int options_get(const struct options **out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, load);
    int error = error_again(&reading);
    if (!error)
        *out = &options;
    return error;
}
