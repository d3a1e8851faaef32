/* SPDX-License-Identifier: MIT
 *
 * zc tune: the ZC_POOLS that would have served recorded processes with the least memory.
 *
 * Requests fall into buckets by size. A pool serves a run of buckets, from i to j, with slots of the size of j, and
 * needs as many as its buckets ever had live at once. That peak is counted for every run; then the cheapest way to cut
 * all buckets into runs is found from the left (best[j]: the least for buckets 0..j). Requests aligned to more than a
 * page are left out: a slot is aligned so only if its size is, and what no pool serves the size classes do. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/heap.h"
#include "core/sys.h"
#include "tools/zc/command.h"
#include "tools/zc/trace.h"

enum {
    EXACT_MOST = 64,    /* sizes that are told apart to the page; more are put together by size class */
    BUCKETS_MOST = 112, /* there are no more classes */
    POOLS_MOST = 64     /* of ZC_POOLS */
};

struct plan {
    size_t traces, buckets, aligned;
    struct bucket {
        uint64_t size;  /* of a slot that holds its requests, whole pages */
        uint64_t least; /* request in it */
        uint64_t requests;
    } bucket[BUCKETS_MOST];
    /* Of the run of buckets i..j: slots that were live at once, of all traces together and in the trace with fewest. */
    uint64_t sum[BUCKETS_MOST][BUCKETS_MOST], fewest[BUCKETS_MOST][BUCKETS_MOST];
    uint64_t asked;               /* most bytes that were asked for and live at once, of all traces together */
    uint64_t by_default, by_plan; /* bytes of slots */
    size_t pools;
    struct {
        size_t first, last; /* buckets */
    } pool[BUCKETS_MOST];
};

static uint64_t whole_pages(uint64_t size)
{
    return (size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* The bucket for slots of that size, or the place where it would have to be. */
static size_t bucket_at(const struct plan *plan, uint64_t size)
{
    size_t low = 0, high = plan->buckets;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (plan->bucket[middle].size < size)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* False if there are too many. */
static bool count_request(struct plan *plan, uint64_t request, uint64_t size, size_t most)
{
    size_t at = bucket_at(plan, size);
    struct bucket *bucket = &plan->bucket[at];
    if (at == plan->buckets || bucket->size != size) {
        if (plan->buckets == most)
            return false;
        memmove(bucket + 1, bucket, (plan->buckets++ - at) * sizeof *bucket);
        *bucket = (struct bucket){.size = size, .least = request};
    }
    bucket->least = request < bucket->least ? request : bucket->least;
    bucket->requests++;
    return true;
}

/* Makes the buckets that all requests fall into. */
static bool make_buckets(struct plan *plan, const struct trace traces[], uint64_t size_of(uint64_t), size_t most)
{
    plan->buckets = 0;
    for (const struct trace *trace = traces; trace < traces + plan->traces; trace++)
        for (size_t i = 0; i < trace->event_count; i++)
            if (trace->events[i] > 0 &&
                !count_request(plan, (uint64_t)trace->events[i], size_of((uint64_t)trace->events[i]), most))
                return false;
    return true;
}

static uint64_t class_size(uint64_t size)
{
    return heap_class_size(size);
}

/* Adds the peaks of one trace, for every run of buckets. */
static void count_peaks(struct plan *plan, const struct trace *trace, bool exact)
{
    static uint32_t live[BUCKETS_MOST][BUCKETS_MOST], peak[BUCKETS_MOST][BUCKETS_MOST];
    uint64_t asked = 0, most_asked = 0;
    memset(live, 0, sizeof live);
    memset(peak, 0, sizeof peak);
    for (size_t e = 0; e < trace->event_count; e++) {
        int64_t event = trace->events[e];
        uint64_t request = (uint64_t)(event > 0 ? event : -event);
        uint32_t change = event > 0 ? 1 : UINT32_MAX;
        size_t at = bucket_at(plan, exact ? whole_pages(request) : class_size(request));
        for (size_t i = 0; i <= at; i++) {
            for (size_t j = at; j < plan->buckets; j++) {
                live[i][j] += change;
                peak[i][j] = live[i][j] > peak[i][j] ? live[i][j] : peak[i][j];
            }
        }
        asked += (uint64_t)event;
        most_asked = asked > most_asked ? asked : most_asked;
    }
    plan->asked += most_asked;
    for (size_t i = 0; i < plan->buckets; i++) {
        for (size_t j = i; j < plan->buckets; j++) {
            plan->sum[i][j] += peak[i][j];
            plan->fewest[i][j] = peak[i][j] < plan->fewest[i][j] ? peak[i][j] : plan->fewest[i][j];
        }
    }
}

/* The last bucket of the size class of bucket i. */
static size_t class_end(const struct plan *plan, size_t i)
{
    uint64_t size = heap_class_size(plan->bucket[i].size);
    while (i + 1 < plan->buckets && plan->bucket[i + 1].size <= size)
        i++;
    return i;
}

/* Cuts the buckets into pools. Another pool has to save `price` bytes. */
static void cut(struct plan *plan, uint64_t price)
{
    uint64_t best[BUCKETS_MOST + 1] = {0}; /* [j]: for buckets 0..j-1 */
    size_t first[BUCKETS_MOST + 1] = {0};
    for (size_t j = 1; j <= plan->buckets; j++) {
        best[j] = UINT64_MAX;
        for (size_t i = 0; i < j; i++) {
            uint64_t bytes = best[i] + plan->bucket[j - 1].size * plan->sum[i][j - 1] + price;
            if (bytes < best[j]) {
                best[j] = bytes;
                first[j] = i;
            }
        }
    }
    plan->pools = 0;
    for (size_t j = plan->buckets; j; j = first[j])
        plan->pools++;
    plan->by_plan = best[plan->buckets] - plan->pools * price;
    size_t pool = plan->pools;
    for (size_t j = plan->buckets; j; j = first[j]) {
        plan->pool[--pool].first = first[j];
        plan->pool[pool].last = j - 1;
    }
}

static int make_plan(struct plan *plan, const struct trace traces[])
{
    for (size_t i = 0; i < plan->traces; i++)
        plan->aligned += traces[i].aligned;
    bool exact = make_buckets(plan, traces, whole_pages, EXACT_MOST);
    if (!exact && !make_buckets(plan, traces, class_size, BUCKETS_MOST))
        return failed("there are sizes of more classes than zc has");
    if (!plan->buckets)
        return failed("nothing was allocated in %s%s", plan->traces == 1 ? "this trace" : "these traces",
                      plan->aligned ? " but buffers aligned to more than a page, which are left to the size classes"
                                    : "");
    memset(plan->fewest, -1, sizeof plan->fewest);
    for (size_t i = 0; i < plan->traces; i++)
        count_peaks(plan, &traces[i], exact);
    for (size_t i = 0; i < plan->buckets; i = class_end(plan, i) + 1)
        plan->by_default += heap_class_size(plan->bucket[i].size) * plan->sum[i][class_end(plan, i)];
    /* So that the list stays short: a pool has to be worth half a per cent. */
    uint64_t price = plan->by_default / 200 + 1;
    for (cut(plan, price); plan->pools > POOLS_MOST; cut(plan, price))
        price *= 2;
    return 0;
}

static void print_size(uint64_t bytes)
{
    static const char units[] = "KMG";
    int unit = -1;
    for (; unit < 2 && bytes && bytes % 1024 == 0; unit++)
        bytes /= 1024;
    printf("%llu%.*s", (unsigned long long)bytes, unit >= 0, unit >= 0 ? &units[unit] : "");
}

static void print_pools(const struct plan *plan)
{
    for (size_t p = 0; p < plan->pools; p++) {
        size_t i = plan->pool[p].first, j = plan->pool[p].last;
        fputs(p ? "," : "", stdout);
        print_size(plan->bucket[j].size);
        printf(":%llu", (unsigned long long)plan->fewest[i][j]);
        if (heap_class_size(plan->bucket[i].least) < plan->bucket[j].size) {
            fputs(":from=", stdout);
            print_size(plan->bucket[i].least / 1024 * 1024);
        }
    }
    putchar('\n');
}

static void print_histogram(const struct plan *plan)
{
    uint64_t most = 1;
    for (size_t i = 0; i < plan->buckets; i = class_end(plan, i) + 1) {
        uint64_t bytes = heap_class_size(plan->bucket[i].size) * plan->sum[i][class_end(plan, i)];
        most = bytes > most ? bytes : most;
    }
    printf("\n%12s %14s %14s   %s\n", "size, up to", "allocated", "live at most", "memory");
    for (size_t i = 0; i < plan->buckets;) {
        size_t j = class_end(plan, i);
        uint64_t size = heap_class_size(plan->bucket[i].size), bytes = size * plan->sum[i][j], requests = 0;
        for (size_t k = i; k <= j; k++)
            requests += plan->bucket[k].requests;
        int bar = (int)(40 * bytes / most);
        printf("%12s %14llu %14llu   %.*s %s\n", size_text(size), (unsigned long long)requests,
               (unsigned long long)plan->sum[i][j], bar, "########################################", size_text(bytes));
        i = j + 1;
    }
}

static void print_report(const struct plan *plan, const struct trace traces[])
{
    for (const struct trace *trace = traces; trace < traces + plan->traces; trace++)
        printf("process %u, %s: %.1f s, %zu buffers allocated, %zu not freed\n", trace->pid, trace->command,
               (double)trace->duration / 1e9, trace->allocations, trace->left);
    print_histogram(plan);
    double saved = 100 * (1 - (double)plan->by_plan / (double)plan->by_default);
    printf("\nasked for and live, at most %12s\n", size_text(plan->asked));
    printf("slots by default            %12s\n", size_text(plan->by_default));
    printf("slots with the pools below  %12s   %.0f %% less\n", size_text(plan->by_plan), saved > 0 ? saved : 0);
    if (plan->aligned)
        printf("\nLeft to the size classes: %zu buffers aligned to more than a page.\n", plan->aligned);
    puts("\nCopies of messages in flight come on top of both.\n");
    fputs("ZC_POOLS=", stdout);
    print_pools(plan);
}

static int tune(int count, char **paths, bool pools_only)
{
    static struct plan plan;
    struct trace *traces = calloc((size_t)count, sizeof *traces);
    int status = 0;
    if (!traces)
        return failed("no memory");
    for (int i = 0; i < count && !status; i++) {
        status = trace_read(paths[i], &traces[i]);
        plan.traces += !status;
    }
    if (!status)
        status = make_plan(&plan, traces);
    if (!status && pools_only)
        print_pools(&plan);
    else if (!status)
        print_report(&plan, traces);
    for (size_t i = 0; i < plan.traces; i++)
        trace_drop(&traces[i]);
    free(traces);
    return status;
}

static int run(int argc, char **argv)
{
    int pools_only = 0;
    const struct flag flags[] = {{"pools", &pools_only, NULL}, {NULL, NULL, NULL}};
    int at = parse_flags(argc, argv, flags);
    if (at < 0)
        return STATUS_USAGE;
    if (at == argc)
        return misused("which trace? zc record makes one");
    return tune(argc - at, argv + at, pools_only);
}

const struct command command_tune = {
    .name = "tune",
    .arguments = "[--pools] TRACE...",
    .summary = "From traces, the ZC_POOLS that would have served with the least memory",
    .help =
        "By default each size class is a pool, which keeps the most slots that it ever needed. Where sizes are\n"
        "needed one after the other, or just exceed a class, fewer and better pools serve with less memory. Prints\n"
        "how many buffers of which sizes were live, what memory their slots take by default and would take with\n"
        "the best pools, and those as a value for the variable ZC_POOLS:\n\n"
        "    zc record -- mpiexec -n 2 ./program\n"
        "    zc tune zc-trace.*\n"
        "    export ZC_POOLS=$(zc tune --pools zc-trace.*)\n\n"
        "Several traces, such as those of all ranks, are served together: each process starts with the slots that\n"
        "all of them needed, and makes more as it needs them. Buffers aligned to more than a page are left to the\n"
        "size classes.\n\n"
        "  --pools   print the value alone\n",
    .run = run,
};
