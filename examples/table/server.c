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
        uint64_t puts; /* taken from it in this round */
    } * clients;       /* [rank - 1] */
};

const struct variant *const all_variants[] = {
    &variant_blocking, &variant_tracked,   &variant_copied,   &variant_paper,   &variant_zc, &variant_zc_inplace,
    &variant_zc_view,  &variant_zc_report, &variant_zc_eager, &variant_zc_lazy, NULL};

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

/* The others end as well: MPI sees to it, or zc tells them that this process is gone. */
static _Noreturn void give_up(void)
{
    int mpi;

    MPI_Initialized(&mpi);
    if (mpi)
        MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

void must(int rc, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "table: %s: %s (%s)\n", what, zc_errmsg(), zc_strerror(rc));
    give_up();
}

static void *must_have(void *memory)
{
    if (!memory) {
        fprintf(stderr, "table: out of memory\n");
        give_up();
    }
    return memory;
}

/* ---- memory without zc ---- */

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

/* ---- plain MPI ---- */

void mpi_receive(struct server *server, void *buf, size_t size, int client, int tag)
{
    MPI_Recv(buf, (int)size, MPI_BYTE, client, tag, server->mpi, MPI_STATUS_IGNORE);
}

bool mpi_took(struct server *server, int tag, void *request, size_t size, int *client)
{
    MPI_Status status;
    int found;

    MPI_Iprobe(MPI_ANY_SOURCE, tag, server->mpi, &found, &status);
    if (!found)
        return false;
    *client = status.MPI_SOURCE;
    mpi_receive(server, request, size, *client, tag);
    return true;
}

/* ---- other work ---- */

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

/* ---- rounds ---- */

/* True if all have told what they have done. They are asked one by one: where one has died, that fails. */
static bool clients_are_done(struct server *server)
{
    zc_comm *control = server->job->control;
    struct round_done done;
    int found;

    while (server->clients_done < server->job->clients) {
        int client = server->clients_done + 1;
        must(zc_iprobe(client, DONE, control, &found, NULL), "zc_iprobe");
        if (!found)
            return false;
        must(zc_recv(&done, sizeof done, client, DONE, control, NULL), "zc_recv");
        server->expected.gets += done.gets;
        server->expected.puts += done.puts;
        server->clients_done++;
    }
    return true;
}

bool round_over(struct server *server)
{
    bool looks = server->clients_done == server->job->clients || ++server->turns % 16 == 0; /* looking costs */

    if (!looks || !clients_are_done(server))
        return false;
    return server->now.gets == server->expected.gets && server->now.puts == server->expected.puts;
}

static void tell_of_puts(struct server *server, int client)
{
    if (server->variant->zc)
        must(zc_send(NULL, 0, client, PUTS_TAKEN, server->job->zc), "zc_send");
    else
        MPI_Send(NULL, 0, MPI_BYTE, client, PUTS_TAKEN, server->mpi);
}

void was_put(struct server *server, const struct put_request *put)
{
    int client = (int)VERSION_CLIENT(put->version);

    if (++server->book->clients[client - 1].puts % PUTS_TOLD == 0)
        tell_of_puts(server, client);
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

/* All begin together. */
static void begin(const struct job *job)
{
    for (int client = 1; client <= job->clients; client++)
        must(zc_recv(NULL, 0, client, READY, job->control, NULL), "zc_recv");
    for (int client = 1; client <= job->clients; client++)
        must(zc_send(NULL, 0, client, GO, job->control), "zc_send");
}

static void show_book(const struct server *server)
{
    for (int i = 0; i < server->job->clients; i++) {
        struct page *page = &server->book->clients[i];
        must(zc_send(page->versions, page->n * sizeof *page->versions, i + 1, BOOK, server->job->control), "zc_send");
        page->n = 0;
    }
}

void server_round(struct server *server)
{
    server->now = (struct counters){0};
    server->expected = (struct round_done){0};
    server->clients_done = 0;
    server->idle = true;
    for (int i = 0; i < server->job->clients; i++)
        server->book->clients[i].puts = 0;
    if (server->variant->zc)
        count_zc(&server->now, -1);
    begin(server->job);

    double start = seconds_now();
    server->variant->serve(server);
    server->now.seconds = seconds_now() - start;
    if (server->variant->finish)
        server->variant->finish(server);
    if (server->variant->zc)
        count_zc(&server->now, 1);
    show_book(server);
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
    server->held = must_have(calloc(cells, sizeof *server->held));
    server->cells = must_have(calloc(cells, sizeof *server->cells));

    char *memory = variant->zc ? NULL : warm_alloc(cells, job->size, &stride);
    for (size_t key = 0; key < cells; key++) {
        server->cells[key] = variant->zc ? zc_alloc(job->size) : memory + key * stride;
        if (!server->cells[key])
            must(-errno, "zc_alloc of a cell");
        value_fill(server->cells[key], job->size, key, 0);
    }
    if (variant->put == PUT_COPIED || (variant->put == PUT_EITHER && !job->options->straight))
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
    free(server->book);
    free(server->cells);
    free(server->held);
}
