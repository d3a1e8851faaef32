/* SPDX-License-Identifier: MIT
 *
 * Reports of races: text on standard error, and a file of JSON lines that all processes of a job append to:
 *   {"event":"start","rank":R,"pid":P,"size":N}           MPI was initialised, and is watched
 *   {"event":"race","rank":R,"pid":P,"pair":I,...}        the first time that a pair of places was seen
 *   {"event":"count","rank":R,"pid":P,"pair":I,"count":C} at the end: how often
 *   {"event":"end","rank":R,"pid":P,"watched":N,"stack":N,"static":N,"elsewhere":N,"lost":N}   messages */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim/race/race.h"

enum { PAIRS_MOST = 1024 };

static int file = -1;
static int this_rank;

/* Where it was touched and where it was posted, and how often that was seen. */
static struct pair {
    struct race race;
    uint64_t count;
} * pairs[PAIRS_MOST];
static int pair_count;

/* Everything between is one write, so that lines of several processes do not mix. */
struct page {
    char *text;
    size_t length;
    FILE *out;
};

static FILE *page_begin(struct page *page)
{
    page->text = NULL;
    page->out = open_memstream(&page->text, &page->length);
    return page->out;
}

static void page_end(struct page *page, int to)
{
    if (!page->out)
        return;
    fclose(page->out);
    if (to >= 0 && write(to, page->text, page->length) < 0)
        perror("zc race: the report cannot be written");
    free(page->text);
}

static void begin_line(FILE *out, const char *event)
{
    fprintf(out, "{\"event\":\"%s\",\"rank\":%d,\"pid\":%d", event, this_rank, (int)getpid());
}

void report_open(const char *name, int rank, int size)
{
    struct page page;
    this_rank = rank;
    file = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) {
        fprintf(stderr, "zc race: rank %d cannot write %s: %m\n", rank, name);
        return;
    }
    if (page_begin(&page)) {
        begin_line(page.out, "start");
        fprintf(page.out, ",\"size\":%d}\n", size);
    }
    page_end(&page, file);
}

static bool same_stack(const struct stack *a, const struct stack *b)
{
    return a->depth == b->depth && memcmp(a->pc, b->pc, (size_t)a->depth * sizeof a->pc[0]) == 0;
}

static struct pair *find(const struct race *race)
{
    for (int i = 0; i < pair_count; i++) {
        const struct race *known = &pairs[i]->race;
        if (same_stack(&known->by, &race->by) && same_stack(&known->posted, &race->posted) &&
            known->store == race->store && known->freed == race->freed && known->call == race->call)
            return pairs[i];
    }
    return NULL;
}

static void print_end_of(const struct race *race, FILE *out)
{
    const char *end = race->receives ? "from" : "to";
    if (race->peer >= 0)
        fprintf(out, " %s rank %d", end, race->peer);
    else if (race->receives)
        fputs(" from any rank", out);
    if (race->tag >= 0)
        fprintf(out, ", tag %d", race->tag);
}

static void print_text(const struct race *race, FILE *out)
{
    fprintf(out, "zc race: rank %d, thread %d %s byte %zu of the buffer at %p\n", this_rank, race->thread,
            race->freed   ? "frees"
            : race->store ? "stores to"
                          : "reads",
            race->offset, (const void *)race->buffer);
    stack_print_text(&race->by, out);
    fprintf(out, "  while %s has bytes %zu to %zu of it", race->call, race->first, race->first + race->length - 1);
    print_end_of(race, out);
    fputs(", posted by\n", out);
    stack_print_text(&race->posted, out);
}

static void print_json(const struct race *race, int number, FILE *out)
{
    begin_line(out, "race");
    fprintf(out, ",\"pair\":%d,\"access\":\"%s\",\"thread\":%d,\"address\":\"%p\",\"buffer\":\"%p\",\"offset\":%zu",
            number,
            race->freed   ? "free"
            : race->store ? "store"
                          : "load",
            race->thread, (const void *)(race->buffer + race->offset), (const void *)race->buffer, race->offset);
    fprintf(out, ",\"call\":\"%s\",\"peer\":%d,\"tag\":%d,\"first\":%zu,\"length\":%zu,\"stack\":", race->call,
            race->peer, race->tag, race->first, race->length);
    stack_print_json(&race->by, out);
    fputs(",\"posted\":", out);
    stack_print_json(&race->posted, out);
    fputs("}\n", out);
}

void report_race(const struct race *race)
{
    struct page page;
    struct pair *pair = find(race);
    if (pair) {
        pair->count++;
        return;
    }
    pair = pair_count < PAIRS_MOST ? malloc(sizeof *pair) : NULL;
    if (!pair)
        return;
    *pair = (struct pair){*race, 1};
    pairs[pair_count++] = pair;
    if (page_begin(&page))
        print_text(race, page.out);
    page_end(&page, STDERR_FILENO);
    if (page_begin(&page))
        print_json(race, pair_count, page.out);
    page_end(&page, file);
}

void report_close(const struct watched *watched, uint64_t lost)
{
    struct page page;
    if (page_begin(&page)) {
        for (int i = 0; i < pair_count; i++) {
            begin_line(page.out, "count");
            fprintf(page.out, ",\"pair\":%d,\"count\":%ju}\n", i + 1, (uintmax_t)pairs[i]->count);
        }
        begin_line(page.out, "end");
        fprintf(page.out, ",\"watched\":%ju,\"stack\":%ju,\"static\":%ju,\"elsewhere\":%ju,\"lost\":%ju}\n",
                (uintmax_t)watched->watched, (uintmax_t)watched->on_stack, (uintmax_t)watched->is_static,
                (uintmax_t)watched->elsewhere, (uintmax_t)lost);
    }
    page_end(&page, file);
}
