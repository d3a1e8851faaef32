/* SPDX-License-Identifier: MIT
 *
 * The server as the paper has it: one mapping, which is protected after MPI_Isend and unprotected when the send has
 * completed, in the handler of SIGSEGV if a store comes before that. Mended in one place: where a cell is being sent
 * more than once, the last completion unprotects it, not the first.
 *
 * The handler calls MPI. That works here, because the only store to a cell is the memcpy below, outside of MPI: hence
 * also a PUT cannot be received straight into the cell. And the handler waits until a client has received, however long
 * that takes. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "table.h"

struct op {
    MPI_Request request;
    uint64_t key;
};

/* The handler has no argument of ours, so this is static. */
static struct {
    struct server *server;
    struct op *ops; /* in flight */
    int nops;
    unsigned *sends; /* in flight, of each key */
    size_t stride;   /* of the cells */
    struct sigaction before;
} paper;

static void set_protection(uint64_t key, int protection)
{
    paper.server->now.syscalls++;
    if (mprotect(paper.server->cells[key], paper.stride, protection)) {
        perror("table: paper: mprotect");
        abort();
    }
}

static void check_for_completed(void)
{
    for (int i = 0; i < paper.nops;) {
        struct op *op = &paper.ops[i];
        int done;
        MPI_Test(&op->request, &done, MPI_STATUS_IGNORE);
        if (!done) {
            i++;
            continue;
        }
        if (--paper.sends[op->key] == 0)
            set_protection(op->key, PROT_READ | PROT_WRITE);
        *op = paper.ops[--paper.nops];
    }
}

static void send_and_protect(uint64_t key, int client)
{
    struct server *server = paper.server;
    MPI_Request request;

    MPI_Isend(server->cells[key], (int)server->size, MPI_BYTE, client, GET_RESPONSE, server->mpi, &request);
    /* NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker): it is waited for in check_for_completed() */
    paper.ops[paper.nops++] = (struct op){request, key};
    if (paper.sends[key]++ == 0)
        set_protection(key, PROT_READ);
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
    struct server *server = paper.server;
    size_t offset = (size_t)((char *)info->si_addr - (char *)server->cells[0]);
    size_t key = offset / paper.stride;

    (void)context;
    if (key >= (size_t)server->job->cells || paper.sends[key] == 0) {
        sigaction(signal, &paper.before, NULL); /* not ours: the store faults again, for the handler before */
        return;
    }
    server->now.faults++;
    server->now.waits++;
    while (paper.sends[key]) {
        check_for_completed();
        if (server->job->yield)
            sched_yield();
    }
}

static void open_paper(struct server *server)
{
    paper.server = server;
    paper.ops = calloc((size_t)server->pending_max, sizeof *paper.ops);
    paper.sends = calloc((size_t)server->job->cells, sizeof *paper.sends);
    paper.stride = server->job->cells > 1 ? (size_t)((char *)server->cells[1] - (char *)server->cells[0])
                                          : (server->size + 4095) / 4096 * 4096;
}

static void close_paper(struct server *server)
{
    (void)server;
    free(paper.ops);
    free(paper.sends);
}

static void serve(struct server *server)
{
    struct put_request put;
    struct get_request get;
    int client;

    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    sigaction(SIGSEGV, &action, &paper.before);
    while (!round_over(server)) {
        if (mpi_took(server, PUT_REQUEST, &put, sizeof put, &client)) {
            mpi_receive(server, server->staging, server->size, client, PUT_VALUE);
            memcpy(server->cells[put.key], server->staging, server->size);
            was_put(server, &put);
        }
        if (mpi_took(server, GET_REQUEST, &get, sizeof get, &client)) {
            while (paper.nops == server->pending_max) /* the client has it already, but MPI has not told */
                check_for_completed();
            send_and_protect(get.key, client);
            was_sent(server, client, get.key);
        }
        check_for_completed();
        other_work(server);
    }
    while (paper.nops)
        check_for_completed();
    sigaction(SIGSEGV, &paper.before, NULL);
}

const struct variant variant_paper = {
    .name = "paper",
    .help = "MPI_Isend from the cell, then mprotect; a PUT is a memcpy that may fault and then waits",
    .open = open_paper,
    .serve = serve,
    .close = close_paper,
};
