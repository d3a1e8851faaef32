/* SPDX-License-Identifier: MIT
 *
 * What the servers share: rounds, other work, and the book of what was sent when. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "table.h"

enum { HUGE_PAGE = 2 << 20 };

/* For each client the versions that it was sent, in order. Clients compare: a whole value of another moment
 * than its send is as wrong as a torn one. */
struct book {
    struct page {
        uint64_t *versions;
        size_t n, room;
    } * clients; /* [rank - 1] */
    MPI_Status *statuses;
    MPI_Request *done;     /* the messages with which clients end a round */
    uint64_t (*totals)[2]; /* and what they hold: GETs and PUTs made */
};

const struct variant *const all_variants[] = {&variant_blocking, &variant_tracked, &variant_copied,
                                              &variant_paper,    &variant_zc,      &variant_zc_inplace,
                                              &variant_zc_eager, &variant_zc_lazy, NULL};

const struct variant *variant_find(const char *name)
{
    for (int i = 0; all_variants[i]; i++)
        if (strcmp(all_variants[i]->name, name) == 0)
            return all_variants[i];
    return NULL;
}

double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void must(int rc, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "table: %s: %s (%s)\n", what, zc_errmsg(), zc_strerror(rc));
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void *must_have(void *memory)
{
    if (!memory) {
        fprintf(stderr, "table: out of memory\n");
        MPI_Abort(MPI_COMM_WORLD, 1);
        abort(); /* not reached */
    }
    return memory;
}

/* ---- memory without zc --------------------------------------------------------------------------- */

static enum pages chosen;

void choose_pages(enum pages pages)
{
    chosen = pages;
    if (pages != PAGES_AUTO)
        setenv("ZC_HUGE", pages == PAGES_HUGE ? "always" : "never", 1);
}

static bool wants_huge(size_t size)
{
    return chosen == PAGES_HUGE || (chosen == PAGES_AUTO && size >= HUGE_PAGE);
}

static size_t stride_of(size_t size)
{
    size_t unit = size >= HUGE_PAGE ? HUGE_PAGE : (size_t)sysconf(_SC_PAGESIZE);

    return (size + unit - 1) / unit * unit;
}

void *warm_alloc(size_t n, size_t size, size_t *stride)
{
    size_t step = stride_of(size);
    size_t length = n * step;
    char *memory = mmap(NULL, length + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        must_have(NULL);
    /* Cut off what lies before the first and after the last whole huge page. */
    size_t before = (HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE) % HUGE_PAGE;
    if (before)
        munmap(memory, before);
    munmap(memory + before + length, HUGE_PAGE - before);
    memory += before;
    madvise(memory, length, wants_huge(size) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(memory, 1, length);
    *stride = step;
    return memory;
}

void warm_free(void *memory, size_t n, size_t size)
{
    if (memory)
        munmap(memory, n * stride_of(size));
}

/* ---- plain MPI ------------------------------------------------------------------------------------ */

bool mpi_arrived(struct server *server, int tag, int *client)
{
    MPI_Status status;
    int found;

    MPI_Iprobe(MPI_ANY_SOURCE, tag, server->mpi, &found, &status);
    if (found)
        *client = status.MPI_SOURCE;
    return found;
}

void mpi_receive(struct server *server, void *buf, size_t size, int client, int tag)
{
    MPI_Recv(buf, (int)size, MPI_BYTE, client, tag, server->mpi, MPI_STATUS_IGNORE);
}

/* ---- other work ----------------------------------------------------------------------------------- */

/* A fixed amount of computing, not of time: to be interrupted does not count as work. */
static uint64_t compute(uint64_t turns)
{
    uint64_t x = 1;

    while (turns--) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return x;
}

static volatile uint64_t computed; /* so that it is not optimised away */

static double turns_per_us(void)
{
    enum { TRIALS = 50, TURNS = 100000 };
    static double fastest; /* the least disturbed */

    for (int i = 0; i < TRIALS && !(i == 0 && fastest > 0); i++) {
        double start = seconds_now();
        computed = compute(TURNS);
        double rate = TURNS / ((seconds_now() - start) * 1e6);
        fastest = rate > fastest ? rate : fastest;
    }
    return fastest;
}

void other_work(struct server *server)
{
    int us = server->job->work_us;

    if (us > 0) {
        computed = compute((uint64_t)(turns_per_us() * us));
        server->now.units++;
    } else if (server->idle && server->job->yield) {
        sched_yield();
    }
    server->idle = true;
}

/* ---- rounds ----------------------------------------------------------------------------------------- */

bool round_over(struct server *server)
{
    const struct job *job = server->job;
    struct book *book = server->book;

    if (!server->clients_done) {
        if (++server->turns % 16) /* looking costs */
            return false;
        int done;
        MPI_Testall(job->clients, book->done, &done, book->statuses);
        if (!done)
            return false;
        server->expected_gets = server->expected_puts = 0;
        for (int i = 0; i < job->clients; i++) {
            server->expected_gets += book->totals[i][0];
            server->expected_puts += book->totals[i][1];
        }
        server->clients_done = true;
    }
    return server->now.gets == server->expected_gets && server->now.puts == server->expected_puts;
}

void was_put(struct server *server, const struct put_request *put)
{
    server->held[put->key] = put->version;
    server->now.puts++;
    server->idle = false;
}

void was_sent(struct server *server, int client, uint64_t key)
{
    struct page *page = &server->book->clients[client - 1];

    if (page->n == page->room) {
        page->room = page->room ? 2 * page->room : 4096;
        page->versions = must_have(realloc(page->versions, page->room * sizeof *page->versions));
    }
    page->versions[page->n++] = server->held[key];
    server->now.gets++;
    server->idle = false;
}

static void count_zc(struct counters *counters, int sign)
{
    zc_stats stats = {.size = sizeof stats};
    uint64_t unit = sign < 0 ? UINT64_MAX : 1; /* minus one, modulo 2^64 */

    zc_stats_get(&stats);
    counters->faults += unit * stats.faults;
    counters->waits += unit * stats.waits;
    counters->renames += unit * stats.renames;
    counters->copies += unit * stats.sends_copied;
    counters->syscalls += unit * (stats.protects + stats.unprotects + stats.remaps);
}

void server_round(struct server *server)
{
    const struct job *job = server->job;
    struct book *book = server->book;

    server->now = (struct counters){0};
    server->clients_done = false;
    server->idle = true;
    for (int i = 0; i < job->clients; i++) {
        book->clients[i].n = 0;
        MPI_Irecv(book->totals[i], 2, MPI_UINT64_T, i + 1, ROUND_DONE, job->control, &book->done[i]);
    }
    if (server->variant->zc)
        count_zc(&server->now, -1);
    MPI_Barrier(job->control);

    double start = seconds_now();
    server->variant->serve(server);
    server->now.seconds = seconds_now() - start;
    if (server->variant->finish)
        server->variant->finish(server);
    if (server->variant->zc)
        count_zc(&server->now, 1);

    for (int i = 0; i < job->clients; i++)
        MPI_Send(book->clients[i].versions, (int)book->clients[i].n, MPI_UINT64_T, i + 1, BOOK, job->control);
}

void server_open(struct server *server, const struct job *job, const struct variant *variant)
{
    size_t clients = (size_t)job->clients;
    size_t cells = (size_t)job->cells;
    size_t stride;

    *server = (struct server){.job = job,
                              .variant = variant,
                              .mpi = job->mpi,
                              .size = job->size,
                              .pending_max = job->clients * job->options->window};
    turns_per_us();
    struct book *book = server->book = must_have(calloc(1, sizeof *book));
    book->clients = must_have(calloc(clients, sizeof *book->clients));
    book->statuses = must_have(calloc(clients, sizeof *book->statuses));
    book->done = must_have(calloc(clients, sizeof *book->done));
    book->totals = must_have(calloc(clients, sizeof *book->totals));
    server->held = must_have(calloc(cells, sizeof *server->held));
    server->cells = must_have(calloc(cells, sizeof *server->cells));

    char *memory = variant->zc ? NULL : warm_alloc(cells, job->size, &stride);
    for (size_t key = 0; key < cells; key++) {
        server->cells[key] = variant->zc ? zc_alloc(job->size) : memory + key * stride;
        if (!server->cells[key])
            must(-errno, "zc_alloc of a cell");
        value_fill(server->cells[key], job->size, key, 0);
    }
    if (variant->staging || (job->options->staged && !variant->zc))
        server->staging = variant->zc ? zc_alloc(job->size) : warm_alloc(1, job->size, &stride);
    if (variant->open)
        variant->open(server);
}

uint64_t server_lost_stores(const struct server *server)
{
    uint64_t lost = 0;

    for (size_t key = 0; key < (size_t)server->job->cells; key++) {
        const struct value_header *header = server->cells[key];
        size_t good = value_check(header, server->size, key);
        if (good == server->size && header->version == server->held[key])
            continue;
        fprintf(stderr,
                "lost store: %s, key %zu should hold PUT %llu of client %u, and holds PUT %llu of client %u up to "
                "offset %zu\n",
                server->variant->name, key, (unsigned long long)VERSION_PUT(server->held[key]),
                VERSION_CLIENT(server->held[key]), (unsigned long long)VERSION_PUT(header->version),
                VERSION_CLIENT(header->version), good);
        lost++;
    }
    return lost;
}

void server_close(struct server *server)
{
    if (server->variant->close)
        server->variant->close(server);
    if (server->variant->zc) {
        for (int key = 0; key < server->job->cells; key++)
            zc_free(server->cells[key]);
        zc_free(server->staging);
    } else {
        warm_free(server->cells[0], (size_t)server->job->cells, server->size);
        warm_free(server->staging, 1, server->size);
    }
    for (int i = 0; i < server->job->clients; i++)
        free(server->book->clients[i].versions);
    free(server->book->clients);
    free(server->book->statuses);
    free(server->book->done);
    free(server->book->totals);
    free(server->book);
    free(server->cells);
    free(server->held);
}
