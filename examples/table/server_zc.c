/* SPDX-License-Identifier: MIT
 *
 * The server over zc. This is the paper's first listing again: no lock, no list of requests, no map of active
 * keys, no copy of what is sent. A cell may be overwritten while it is being sent, to any number of clients. */
#include <string.h>

#include "table.h"

static bool arrived(struct server *server, int tag, zc_status *status)
{
    int found;

    must(zc_iprobe(ZC_ANY_SOURCE, tag, server->job->zc, &found, status), "zc_iprobe");
    return found;
}

static void receive(struct server *server, void *buf, size_t size, int client, int tag)
{
    must(zc_recv(buf, size, client, tag, server->job->zc, NULL), "zc_recv");
}

static void serve(struct server *server)
{
    void **table = server->cells;
    struct put_request put;
    struct get_request get;
    zc_status from;

    while (!round_over(server)) {
        if (arrived(server, PUT_REQUEST, &from)) {
            receive(server, &put, sizeof put, from.source, PUT_REQUEST);
            if (server->staging) { /* zc: as in the paper */
                receive(server, server->staging, server->size, from.source, PUT_VALUE);
                memcpy(table[put.key], server->staging, server->size);
            } else { /* zc-inplace, zc-view */
                receive(server, table[put.key], server->size, from.source, PUT_VALUE);
            }
            was_put(server, &put);
        }
        if (arrived(server, GET_REQUEST, &from)) {
            receive(server, &get, sizeof get, from.source, GET_REQUEST);
            must(zc_send(table[get.key], server->size, from.source, GET_RESPONSE, server->job->zc), "zc_send");
            was_sent(server, from.source, get.key);
        }
        other_work(server);
    }
}

static void finish(struct server *server)
{
    must(zc_flush(server->job->zc), "zc_flush");
}

const struct variant variant_zc = {
    .name = "zc",
    .help = "zc_send from the cell; a PUT is a plain memcpy into the cell, at any time",
    .zc = true,
    .serve = serve,
    .finish = finish,
};

const struct variant variant_zc_inplace = {
    .name = "zc-inplace",
    .put = PUT_STRAIGHT,
    .help = "zc_send from the cell; a PUT is received straight into the cell by zc_recv",
    .zc = true,
    .serve = serve,
    .finish = finish,
};

const struct variant variant_zc_view = {
    .name = "zc-view",
    .put = PUT_STRAIGHT,
    .help = "as zc-inplace, and clients read values by zc_recv_view: over shm, where the server has them",
    .zc = true,
    .view = true,
    .serve = serve,
    .finish = finish,
};

/* What zc chooses from, to see whether it chooses well. */
const struct variant variant_zc_eager = {
    .name = "zc-eager",
    .help = "as zc, but always by protection, which ends when the send has left",
    .way = WAY_EAGER,
    .zc = true,
    .serve = serve,
    .finish = finish,
};

const struct variant variant_zc_lazy = {
    .name = "zc-lazy",
    .help = "as zc, but always by protection, which the next store ends",
    .way = WAY_LAZY,
    .zc = true,
    .serve = serve,
    .finish = finish,
};

const struct variant variant_zc_report = {
    .name = "zc-report",
    .help = "as zc-inplace, and would report conflicts, of which it has none",
    .put = PUT_STRAIGHT,
    .way = WAY_REPORT,
    .zc = true,
    .serve = serve,
    .finish = finish,
};
