/* SPDX-License-Identifier: MIT
 *
 * The server over plain MPI, three ways to keep a PUT from damaging a value that is being sent: block, track, or
 * copy. And one that does nothing about it, as a control. */
#include <stdlib.h>
#include <string.h>

#include "table.h"

/* The header came first, so the value can be received where it belongs, once that is free. */
static void receive_value(struct server *server, uint64_t key, int client)
{
    if (server->staging) {
        mpi_receive(server, server->staging, server->size, client, PUT_VALUE);
        memcpy(server->cells[key], server->staging, server->size);
    } else {
        mpi_receive(server, server->cells[key], server->size, client, PUT_VALUE);
    }
}

/* ---- blocking: the paper's first listing ---- */

static void serve_blocking(struct server *server)
{
    struct put_request put;
    struct get_request get;
    int client;

    while (!round_over(server)) {
        if (mpi_took(server, PUT_REQUEST, &put, sizeof put, &client)) {
            receive_value(server, put.key, client);
            was_put(server, &put);
        }
        if (mpi_took(server, GET_REQUEST, &get, sizeof get, &client)) {
            MPI_Send(server->cells[get.key], (int)server->size, MPI_BYTE, client, GET_RESPONSE, server->mpi);
            was_sent(server, client, get.key);
        }
        other_work(server);
    }
}

/* ---- the list of requests that the others need ---- */

struct pending {
    void (*ended)(struct pending *, uint64_t what);
    int n;
    MPI_Request *requests; /* [pending_max] */
    uint64_t *what;        /* what each one sends: a key, or a buffer's place */
    int *completed;        /* room for MPI_Testsome, as is this */
    MPI_Status *statuses;
    unsigned *active; /* tracked: sends in flight of each key */
    void *memory;     /* copied: the buffers */
    size_t stride;
    int *idle; /* copied: places of idle buffers, a stack */
    int nidle;
};

static struct pending *pending_open(struct server *server, void (*ended)(struct pending *, uint64_t what))
{
    size_t max = (size_t)server->pending_max;
    struct pending *p = server->private = calloc(1, sizeof *p);

    p->ended = ended;
    p->requests = calloc(max, sizeof *p->requests);
    p->what = calloc(max, sizeof *p->what);
    p->completed = calloc(max, sizeof *p->completed);
    p->statuses = calloc(max, sizeof *p->statuses);
    p->active = calloc((size_t)server->job->cells, sizeof *p->active);
    p->idle = calloc(max, sizeof *p->idle);
    return p;
}

static void pending_close(struct server *server)
{
    struct pending *p = server->private;

    free(p->requests);
    free(p->what);
    free(p->completed);
    free(p->statuses);
    free(p->active);
    free(p->idle);
    free(p);
}

/* Takes the completed requests out of the list and calls ended() for each. */
static void check_for_completed(struct pending *p)
{
    int n;
    int kept = 0;

    if (p->n == 0)
        return;
    MPI_Testsome(p->n, p->requests, &n, p->completed, p->statuses);
    if (n <= 0)
        return;
    for (int i = 0; i < p->n; i++) { /* MPI has set the completed ones to null */
        if (p->requests[i] == MPI_REQUEST_NULL) {
            p->ended(p, p->what[i]);
        } else {
            p->requests[kept] = p->requests[i];
            p->what[kept++] = p->what[i];
        }
    }
    p->n = kept;
}

static void finish(struct server *server)
{
    struct pending *p = server->private;

    while (p->n)
        check_for_completed(p);
}

static void isend(struct server *server, const void *buf, int client, uint64_t what)
{
    struct pending *p = server->private;

    MPI_Isend(buf, (int)server->size, MPI_BYTE, client, GET_RESPONSE, server->mpi, &p->requests[p->n]);
    p->what[p->n++] = what;
}

/* ---- tracked: the paper's third listing, sends straight from the cell and a map of active keys ---- */

static void key_ended(struct pending *p, uint64_t key)
{
    p->active[key]--;
}

static void open_tracked(struct server *server)
{
    pending_open(server, key_ended);
}

static void serve_isend(struct server *server, bool track)
{
    struct pending *p = server->private;
    struct put_request put;
    struct get_request get;
    int client;

    while (!round_over(server)) {
        if (mpi_took(server, PUT_REQUEST, &put, sizeof put, &client)) {
            if (track) {
                server->now.waits += p->active[put.key] != 0;
                while (p->active[put.key])
                    check_for_completed(p);
            }
            receive_value(server, put.key, client);
            was_put(server, &put);
        }
        if (mpi_took(server, GET_REQUEST, &get, sizeof get, &client)) {
            while (p->n == server->pending_max) /* the client has it already, but MPI has not told */
                check_for_completed(p);
            p->active[get.key]++;
            isend(server, server->cells[get.key], client, get.key);
            was_sent(server, client, get.key);
        }
        check_for_completed(p);
        other_work(server);
    }
}

static void serve_tracked(struct server *server)
{
    serve_isend(server, true);
}

/* The control is the paper's second listing, which forgets about PUTs. */
static void serve_torn(struct server *server)
{
    serve_isend(server, false);
}

/* ---- copied: sends from recycled buffers ---- */

static void buffer_ended(struct pending *p, uint64_t place)
{
    p->idle[p->nidle++] = (int)place;
}

static void open_copied(struct server *server)
{
    struct pending *p = pending_open(server, buffer_ended);

    p->memory = warm_alloc((size_t)server->pending_max, server->size, &p->stride);
    while (p->nidle < server->pending_max)
        buffer_ended(p, (uint64_t)p->nidle);
}

static void close_copied(struct server *server)
{
    struct pending *p = server->private;

    warm_free(p->memory, (size_t)server->pending_max, server->size);
    pending_close(server);
}

static void serve_copied(struct server *server)
{
    struct pending *p = server->private;
    struct put_request put;
    struct get_request get;
    int client;

    while (!round_over(server)) {
        if (mpi_took(server, PUT_REQUEST, &put, sizeof put, &client)) {
            receive_value(server, put.key, client);
            was_put(server, &put);
        }
        if (mpi_took(server, GET_REQUEST, &get, sizeof get, &client)) {
            while (p->nidle == 0)
                check_for_completed(p);
            int place = p->idle[--p->nidle]; /* the one that was used last is the warmest */
            void *copy = (char *)p->memory + (size_t)place * p->stride;
            memcpy(copy, server->cells[get.key], server->size);
            isend(server, copy, client, (uint64_t)place);
            was_sent(server, client, get.key);
            server->now.copies++;
        }
        check_for_completed(p);
        other_work(server);
    }
}

const struct variant variant_blocking = {
    .name = "blocking",
    .put = PUT_EITHER,
    .help = "MPI_Send from the cell",
    .serve = serve_blocking,
};

const struct variant variant_tracked = {
    .name = "tracked",
    .put = PUT_EITHER,
    .help = "MPI_Isend from the cell, and a map of active keys: a PUT waits for the key's sends",
    .open = open_tracked,
    .serve = serve_tracked,
    .finish = finish,
    .close = pending_close,
};

const struct variant variant_copied = {
    .name = "copied",
    .put = PUT_EITHER,
    .help = "memcpy to a recycled buffer, and MPI_Isend from that",
    .open = open_copied,
    .serve = serve_copied,
    .finish = finish,
    .close = close_copied,
};

const struct variant variant_torn = {
    .name = "torn",
    .help = "MPI_Isend from the cell, and PUTs that do not care",
    .open = open_tracked,
    .serve = serve_torn,
    .finish = finish,
    .close = pending_close,
};
