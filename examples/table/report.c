/* SPDX-License-Identifier: MIT
 *
 * The report: medians of rounds, a table for each cell of the grid, CSV rows. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

struct report {
    const struct options *options;
    FILE *text, *csv;
    int jobs, jobs_done;
    struct counters *rounds[MAX_VARIANTS]; /* [place in options->variants][round] */
};

static double op_rate(const struct counters *c)
{
    return (double)(c->gets + c->puts) / c->seconds;
}

static double work_rate(const struct counters *c)
{
    return (double)c->units / c->seconds;
}

/* The two things that are measured. */
static const struct measure {
    double (*rate)(const struct counters *);
    const char *unit;
    const char *suffix; /* of the case */
} ops = {op_rate, "op/s", ""}, work = {work_rate, "unit/s", "-work"};

/* ---- medians ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static double median_rate(const struct report *report, int place, const struct measure *measure)
{
    double values[MAX_ROUNDS];
    int n = report->options->rounds;

    for (int i = 0; i < n; i++)
        values[i] = measure->rate(&report->rounds[place][i]);
    return median(values, n);
}

/* The median of the ratios within each round, of every `step`-th one: what disturbs a round disturbs both. */
static double median_ratio_of(const struct report *report, int place, int baseline, const struct measure *measure,
                              int first, int step)
{
    double values[MAX_ROUNDS];
    int n = 0;

    for (int i = first; i < report->options->rounds; i += step) {
        double rate = measure->rate(&report->rounds[baseline][i]);
        values[n++] = rate > 0 ? measure->rate(&report->rounds[place][i]) / rate : 0;
    }
    return median(values, n);
}

static double median_ratio(const struct report *report, int place, int baseline, const struct measure *measure)
{
    return median_ratio_of(report, place, baseline, measure, 0, 1);
}

/* The place of a variant, after `after`; -1 if it is not there. */
static int find(const struct report *report, const struct variant *variant, int after)
{
    for (int place = after + 1; place < report->options->nvariants; place++)
        if (report->options->variants[place] == variant)
            return place;
    return -1;
}

static int find_baseline(const struct report *report)
{
    int tracked = find(report, &variant_tracked, -1);

    return tracked < 0 ? 0 : tracked;
}

/* ---- CSV ---- */

static void write_row(const struct report *report, const struct job *job, const struct measure *measure, int place,
                      const char *baseline, double ratio)
{
    static const char *const pages[] = {[PAGES_AUTO] = "", [PAGES_SMALL] = "-small", [PAGES_HUGE] = "-huge"};

    fprintf(report->csv, "%s,", report->options->suite);
    if (report->options->name)
        fputs(report->options->name, report->csv);
    else
        fprintf(report->csv, "%d/%d-%s%s-%dus", job->get_percent, 100 - job->get_percent,
                job->keys == ZIPF ? "zipf" : "uniform", pages[report->options->pages], job->work_us);
    if (job->slow_us)
        fprintf(report->csv, "-slow%dus", job->slow_us);
    fprintf(report->csv, "%s,%s,%zu,%d,%.1f,%s,%s,%.4f\n", measure->suffix, report->options->variants[place]->name,
            job->size, job->clients, median_rate(report, place, measure), measure->unit, baseline, ratio);
}

/* A variant against the best of others; 0 if one of them was not run. Whoever looks best in some rounds was lucky in
 * them, too: so the best is who was it in every other round, and counts by the rounds between. Both halves take turns
 * in that. */
static double ratio_to_best(const struct report *report, int place, const struct variant *const others[],
                            const struct measure *measure)
{
    int halves = report->options->rounds > 1 ? 2 : 1;
    double sum = 0;

    for (int half = 0; half < halves; half++) {
        double worst = 0;
        int best = -1;
        for (int i = 0; others[i]; i++) {
            int other = find(report, others[i], -1);
            if (other < 0)
                return 0;
            double ratio = median_ratio_of(report, place, other, measure, half, halves);
            if (best < 0 || ratio < worst) {
                worst = ratio;
                best = other;
            }
        }
        sum += median_ratio_of(report, place, best, measure, halves - 1 - half, halves);
    }
    return sum / halves;
}

/* Each variant against the baseline, the baseline against its second run; and those of zc also against what else a
 * program might do. */
static void write_rows(const struct report *report, const struct job *job, const struct measure *measure)
{
    const struct options *options = report->options;
    int baseline = find_baseline(report);
    const struct variant *const itself[] = {options->variants[baseline], NULL};
    static const struct {
        const char *name;
        const struct variant *of[6];
    } others[] = {
        {"blocking", {&variant_blocking}},
        {"zc-inplace", {&variant_zc_inplace}},
        {"copied-or-paper", {&variant_copied, &variant_paper}},
        {"best", {&variant_blocking, &variant_tracked, &variant_copied, &variant_zc_eager, &variant_zc_lazy}}};

    if (!report->csv)
        return;
    for (int place = 0; place < options->nvariants; place++) {
        const struct variant *variant = options->variants[place];
        int again = find(report, variant, place);
        if (find(report, variant, -1) < place)
            continue;
        /* The noise is measured as what it is to be held against. */
        double ratio = place == baseline && again >= 0 ? ratio_to_best(report, again, itself, measure)
                                                       : median_ratio(report, place, baseline, measure);
        write_row(report, job, measure, place, options->variants[baseline]->name, ratio);
        for (size_t i = 0; i < sizeof others / sizeof others[0] && variant->zc; i++) {
            double worst = ratio_to_best(report, place, others[i].of, measure);
            if (worst > 0)
                write_row(report, job, measure, place, others[i].name, worst);
        }
    }
    fflush(report->csv);
}

/* ---- the table ---- */

static void print_title(FILE *out, const struct job *job)
{
    if (job->size % (1 << 20) == 0)
        fprintf(out, "%zu MiB", job->size >> 20);
    else if (job->size % (1 << 10) == 0)
        fprintf(out, "%zu KiB", job->size >> 10);
    else
        fprintf(out, "%zu byte", job->size);
    fprintf(out, " values, %d %% GET, %d %s keys", job->get_percent, job->cells,
            job->keys == ZIPF ? "zipf" : "uniform");
    if (job->work_us)
        fprintf(out, ", %d us of other work a turn", job->work_us);
    fprintf(out, ", %d client%s", job->clients, job->clients > 1 ? "s" : "");
    if (job->slow_us)
        fprintf(out, " that pause%s %d us before each value", job->clients > 1 ? "" : "s", job->slow_us);
    fputs(":\n", out);
}

static void print_count(FILE *out, uint64_t count)
{
    if (count)
        fprintf(out, " %8llu", (unsigned long long)count);
    else
        fprintf(out, " %8s", "-");
}

static void print_counts(FILE *out, const struct counters *rounds, int n)
{
    struct counters sum = {0};

    for (int i = 0; i < n; i++) {
        sum.gets += rounds[i].gets;
        sum.puts += rounds[i].puts;
        sum.faults += rounds[i].faults;
        sum.waits += rounds[i].waits;
        sum.renames += rounds[i].renames;
        sum.copies += rounds[i].copies;
        sum.syscalls += rounds[i].syscalls;
    }
    print_count(out, sum.faults);
    print_count(out, sum.waits);
    print_count(out, sum.renames);
    print_count(out, sum.copies);
    if (sum.syscalls)
        fprintf(out, " %8.3f\n", (double)sum.syscalls / (double)(sum.gets + sum.puts));
    else
        fprintf(out, " %8s\n", "-");
}

static void print_table(const struct report *report, const struct job *job)
{
    const struct options *options = report->options;
    FILE *out = report->text;
    int baseline = find_baseline(report);
    const char *name = options->variants[baseline]->name;

    print_title(out, job);
    fprintf(out, "  %-10s %9s /%-8s", "", "op/s", name);
    if (job->work_us)
        fprintf(out, " %9s /%-8s", "work/s", name);
    fprintf(out, " %8s %8s %8s %8s %8s\n", "faults", "waits", "renames", "copies", "calls/op");
    for (int place = 0; place < options->nvariants; place++) {
        fprintf(out, "  %-10s %9.0f %8.2f ", options->variants[place]->name, median_rate(report, place, &ops),
                median_ratio(report, place, baseline, &ops));
        if (job->work_us)
            fprintf(out, " %9.0f %8.2f ", median_rate(report, place, &work),
                    median_ratio(report, place, baseline, &work));
        print_counts(out, report->rounds[place], options->rounds);
    }
    fputs("\n", out);
    fflush(out);
}

/* ---- rounds ---- */

struct report *report_open(const struct options *options)
{
    struct report *report = calloc(1, sizeof *report);

    report->options = options;
    report->text = stdout;
    for (const struct grid *grid = options->grids; grid < options->grids + options->ngrids; grid++)
        report->jobs += grid->nsizes * grid->ngets * grid->nkeys * grid->nworks * grid->nslows;
    for (int place = 0; place < options->nvariants; place++)
        report->rounds[place] = calloc((size_t)options->rounds, sizeof *report->rounds[place]);
    if (options->csv && strcmp(options->csv, "-") == 0) {
        report->text = stderr;
        report->csv = stdout;
    } else if (options->csv) {
        report->csv = fopen(options->csv, "w");
        if (!report->csv) {
            fprintf(stderr, "table: --csv '%s': %s\n", options->csv, strerror(errno));
            report_close(report);
            return NULL;
        }
        fprintf(report->csv, "suite,case,variant,size,threads,value,unit,baseline,ratio\n");
    }
    return report;
}

FILE *report_text(const struct report *report)
{
    return report->text;
}

void report_progress(struct report *report, const struct job *job, const struct variant *variant, int round)
{
    if (report->options->progress)
        fprintf(stderr, "\r%d of %d: %zu bytes, %d %% GET, round %d of %d, %-12s\r", report->jobs_done + 1,
                report->jobs, job->size, job->get_percent, round, report->options->rounds, variant->name);
}

void report_add(struct report *report, int place, int round, const struct counters *counters)
{
    report->rounds[place][round] = *counters;
}

void report_job(struct report *report, const struct job *job)
{
    if (report->options->progress)
        fprintf(stderr, "\r%72s\r", "");
    report->jobs_done++;
    if (report->csv != stdout)
        print_table(report, job);
    write_rows(report, job, &ops);
    if (job->work_us)
        write_rows(report, job, &work);
}

int report_close(struct report *report)
{
    int code = 0;

    if (!report)
        return 0;
    if (report->csv && report->csv != stdout) {
        bool lost = ferror(report->csv);
        if (fclose(report->csv) || lost) {
            fprintf(stderr, "table: --csv '%s': not all of it could be written\n", report->options->csv);
            code = 1;
        }
    }
    if (fflush(stdout) || ferror(stdout)) {
        fputs("table: standard output cannot be written\n", stderr);
        code = 1;
    }
    for (int place = 0; place < MAX_VARIANTS; place++)
        free(report->rounds[place]);
    free(report);
    return code;
}
