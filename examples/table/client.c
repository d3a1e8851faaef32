/* SPDX-License-Identifier: MIT
 *
 * The client: keeps a window of GETs in flight, PUTs new values meanwhile, and checks every value that it gets. One
 * algorithm for all variants; only who carries the messages differs. */
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

enum {
    PLANNED = 1 << 16, /* operations drawn beforehand; then they repeat */
    SHOWN = 5          /* torn values that are shown */
};

struct client {
    int rank;
    uint64_t random;
    uint64_t puts;        /* so far: versions */
    uint64_t first, told; /* of this round: the first one, and how many the server has told of */
    const struct job *job;
    const struct variant *variant;
    struct plan {
        uint32_t key;
        bool get;
    } * plan;
    size_t at; /* in the plan */

    uint64_t *asked; /* keys of the GETs in flight, a ring of job->window */
    uint64_t replies, requests;

    void *reply, *zc_reply;
    zc_view view;
    char *values; /* plain MPI: what PUTs send, a ring of PUTS_IN_FLIGHT */
    size_t stride;
    struct put_request headers[PUTS_IN_FLIGHT];
    MPI_Request put_requests[PUTS_IN_FLIGHT][2];

    uint64_t *seen; /* the versions of this round's replies, to compare with the server's book */
    size_t seen_room;
    int shown;
};

enum { TORN_VERSION = -1 };

static uint64_t random_next(struct client *client)
{
    uint64_t x = client->random;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return client->random = x;
}

static double random_unit(struct client *client)
{
    return (double)(random_next(client) >> 11) * 0x1p-53;
}

/* ---- the plan: keys, uniform or by Zipf's law ---- */

static void plan(struct client *client)
{
    const struct job *job = client->job;
    size_t cells = (size_t)job->cells;
    double *share = malloc(cells * sizeof *share); /* share[k]: of the keys 0..k */
    double sum = 0;

    for (size_t k = 0; k < cells; k++)
        share[k] = sum += job->keys == ZIPF ? pow((double)(k + 1), -0.99) : 1.0;
    for (size_t i = 0; i < PLANNED; i++) {
        double u = random_unit(client) * sum;
        size_t low = 0;
        size_t high = cells - 1;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (share[middle] < u) // NOLINT(clang-analyzer-*): there are cells
                low = middle + 1;
            else
                high = middle;
        }
        client->plan[i].key = (uint32_t)low;
        client->plan[i].get = random_unit(client) * 100 < job->get_percent;
    }
    free(share);
}

/* ---- messages ---- */

static void pause_for(const struct client *client, int us)
{
    double until = seconds_now() + 1e-6 * us;

    while (seconds_now() < until)
        if (client->job->yield)
            sched_yield();
}

static bool is_there(const struct client *client, int tag)
{
    int found;

    if (client->variant->zc)
        must(zc_iprobe(SERVER, tag, client->job->zc, &found, NULL), "zc_iprobe");
    else
        MPI_Iprobe(SERVER, tag, client->job->mpi, &found, MPI_STATUS_IGNORE);
    return found;
}

/* MPI polls while it waits. Where there are more ranks than processors, let the others run. */
static void let_others_run_until_reply(const struct client *client)
{
    while (client->job->yield && !is_there(client, GET_RESPONSE))
        sched_yield();
}

/* Where it is. */
static const void *receive_reply(struct client *client)
{
    const struct job *job = client->job;

    if (job->slow_us)
        pause_for(client, job->slow_us);
    let_others_run_until_reply(client);
    if (client->variant->view) {
        must(zc_recv_view(&client->view, SERVER, GET_RESPONSE, job->zc), "zc_recv_view of a value");
        return client->view.data;
    }
    if (client->variant->zc) {
        must(zc_recv(client->zc_reply, job->size, SERVER, GET_RESPONSE, job->zc, NULL), "zc_recv of a value");
        return client->zc_reply;
    }
    MPI_Recv(client->reply, (int)job->size, MPI_BYTE, SERVER, GET_RESPONSE, job->mpi, MPI_STATUS_IGNORE);
    return client->reply;
}

static void take_reply(struct client *client, struct verdict *verdict)
{
    const struct job *job = client->job;
    uint64_t n = client->replies++;
    uint64_t key = client->asked[n % (uint64_t)job->options->window]; // NOLINT(clang-analyzer-*): and a window

    const void *value = receive_reply(client);
    size_t good = value_check(value, job->size, key);
    verdict->checked++;
    if (good < job->size) {
        verdict->torn++;
        if (client->shown++ < SHOWN)
            value_show_torn(value, job->size, key, good, client->variant->name, job->clients);
    }
    if (n == client->seen_room) {
        client->seen_room = n ? 2 * n : 4096;
        client->seen = realloc(client->seen, client->seen_room * sizeof *client->seen);
    }
    client->seen[n] = good < job->size ? (uint64_t)TORN_VERSION : ((const struct value_header *)value)->version;
    if (client->variant->view)
        must(zc_release(&client->view), "zc_release");
}

static void get(struct client *client, uint64_t key)
{
    const struct job *job = client->job;
    struct get_request request = {key};

    client->asked[client->requests++ % (uint64_t)job->options->window] = key;
    if (client->variant->zc)
        must(zc_send(&request, sizeof request, SERVER, GET_REQUEST, job->zc), "zc_send of a request");
    else
        MPI_Send(&request, sizeof request, MPI_BYTE, SERVER, GET_REQUEST, job->mpi);
}

/* Takes what the server tells of PUTs. */
static bool was_told(struct client *client)
{
    const struct job *job = client->job;

    if (!is_there(client, PUTS_TAKEN))
        return false;
    if (client->variant->zc)
        must(zc_recv(NULL, 0, SERVER, PUTS_TAKEN, job->zc, NULL), "zc_recv");
    else
        MPI_Recv(NULL, 0, MPI_BYTE, SERVER, PUTS_TAKEN, job->mpi, MPI_STATUS_IGNORE);
    client->told += PUTS_TOLD;
    return true;
}

/* Until the server has told of all PUTs but less than `untold`. Replies are taken meanwhile, because a server that
 * blocks may be waiting for just that. */
static void wait_until_told(struct client *client, uint64_t untold, struct verdict *verdict)
{
    while (client->puts - client->first - client->told >= untold) {
        if (was_told(client))
            continue;
        if (client->replies < client->requests)
            take_reply(client, verdict);
        else if (client->job->yield)
            sched_yield();
    }
}

/* With zc the value is filled in a fresh buffer, sent and given up: nobody need wait for anything, but for the bound on
 * what is in flight. That zc_send_free may wait for, so what can be done meanwhile is done before. */
static void put_zc(struct client *client, uint64_t key, struct verdict *verdict)
{
    const struct job *job = client->job;

    while (client->replies < client->requests && is_there(client, GET_RESPONSE))
        take_reply(client, verdict);
    wait_until_told(client, PUTS_UNTOLD, verdict);
    struct put_request header = {key, VERSION(client->rank, ++client->puts)};
    void *value = zc_alloc(job->size);
    if (!value)
        must(-errno, "zc_alloc of a value");
    value_fill(value, job->size, key, header.version);
    must(zc_send(&header, sizeof header, SERVER, PUT_REQUEST, job->zc), "zc_send of a PUT's header");
    must(zc_send_free(value, job->size, SERVER, PUT_VALUE, job->zc), "zc_send_free of a PUT's value");
}

/* MPICH makes MPI_STATUSES_IGNORE an address that gcc takes for a mistake: hence room for statuses, also below. */
static bool put_has_left(struct client *client, size_t slot)
{
    MPI_Status statuses[2];
    int left;

    MPI_Testall(2, client->put_requests[slot], &left, statuses);
    return left;
}

/* Without, a buffer must have left before it is used again. Replies are taken meanwhile, as above. */
static void put_mpi(struct client *client, uint64_t key, struct verdict *verdict)
{
    const struct job *job = client->job;
    size_t slot = client->puts % PUTS_IN_FLIGHT;
    struct put_request *header = &client->headers[slot];
    void *value = client->values + slot * client->stride;

    wait_until_told(client, PUTS_UNTOLD, verdict);
    while (!put_has_left(client, slot)) {
        if (client->replies < client->requests)
            take_reply(client, verdict);
        else if (job->yield)
            sched_yield();
    }
    *header = (struct put_request){key, VERSION(client->rank, ++client->puts)};
    value_fill(value, job->size, key, header->version);
    MPI_Isend(header, sizeof *header, MPI_BYTE, SERVER, PUT_REQUEST, job->mpi, &client->put_requests[slot][0]);
    MPI_Isend(value, (int)job->size, MPI_BYTE, SERVER, PUT_VALUE, job->mpi, &client->put_requests[slot][1]);
}

static void finish_puts(struct client *client, struct verdict *verdict)
{
    wait_until_told(client, PUTS_TOLD, verdict);
    if (client->variant->zc) {
        must(zc_flush(client->job->zc), "zc_flush");
        return;
    }
    for (size_t slot = 0; slot < PUTS_IN_FLIGHT; slot++)
        while (!put_has_left(client, slot))
            if (client->job->yield)
                sched_yield();
}

/* ---- rounds ---- */

/* Compares the versions seen with those that the cells held when they were sent. */
static uint64_t misdated(struct client *client)
{
    size_t n = client->replies;
    uint64_t *sent = malloc((n + 1) * sizeof *sent);
    uint64_t wrong = 0;

    must(zc_recv(sent, n * sizeof *sent, SERVER, BOOK, client->job->control, NULL), "zc_recv of the book");
    for (size_t i = 0; i < n; i++) {
        if (client->seen[i] == sent[i] || client->seen[i] == (uint64_t)TORN_VERSION)
            continue;
        wrong++;
        if (client->shown++ < SHOWN)
            fprintf(stderr, "misdated value: %s: sent as PUT %llu of client %u, received as PUT %llu of client %u\n",
                    client->variant->name, (unsigned long long)VERSION_PUT(sent[i]), VERSION_CLIENT(sent[i]),
                    (unsigned long long)VERSION_PUT(client->seen[i]), VERSION_CLIENT(client->seen[i]));
    }
    free(sent);
    return wrong;
}

void client_round(struct client *client, const struct variant *variant, double seconds, struct verdict *verdict)
{
    const struct job *job = client->job;

    client->variant = variant;
    client->requests = client->replies = 0;
    client->first = client->puts;
    client->told = 0;
    must(zc_send(NULL, 0, SERVER, READY, job->control), "zc_send");
    must(zc_recv(NULL, 0, SERVER, GO, job->control, NULL), "zc_recv");
    double until = seconds_now() + seconds;
    while (seconds_now() < until) {
        struct plan next = client->plan[client->at++ % PLANNED];
        if (next.get) {
            if (client->requests - client->replies == (uint64_t)job->options->window)
                take_reply(client, verdict);
            get(client, next.key);
        } else if (variant->zc) {
            put_zc(client, next.key, verdict);
        } else {
            put_mpi(client, next.key, verdict);
        }
    }
    while (client->replies < client->requests)
        take_reply(client, verdict);
    finish_puts(client, verdict);
    struct round_done done = {client->requests, client->puts - client->first};
    must(zc_send(&done, sizeof done, SERVER, DONE, job->control), "zc_send");
    verdict->misdated += misdated(client);
}

struct client *client_open(int rank, const struct options *options)
{
    struct client *client = calloc(1, sizeof *client);

    client->rank = rank;
    client->random = (options->seed + (uint64_t)rank) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    client->plan = calloc(PLANNED, sizeof *client->plan);
    client->asked = calloc((size_t)options->window, sizeof *client->asked);
    for (int slot = 0; slot < PUTS_IN_FLIGHT; slot++)
        client->put_requests[slot][0] = client->put_requests[slot][1] = MPI_REQUEST_NULL;
    return client;
}

void client_start(struct client *client, const struct job *job)
{
    size_t unused;

    client->job = job;
    client->reply = warm_alloc(1, job->size, &unused);
    client->values = warm_alloc(PUTS_IN_FLIGHT, job->size, &client->stride);
    client->zc_reply = zc_alloc(job->size);
    if (!client->zc_reply)
        must(-errno, "zc_alloc of a value");
    plan(client);
}

void client_stop(struct client *client)
{
    warm_free(client->reply, 1, client->job->size);
    warm_free(client->values, PUTS_IN_FLIGHT, client->job->size);
    zc_free(client->zc_reply);
}

void client_close(struct client *client)
{
    free(client->plan);
    free(client->asked);
    free(client->seen);
    free(client);
}
