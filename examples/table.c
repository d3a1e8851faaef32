/* SPDX-License-Identifier: MIT
 *
 * The distributed table of the paper over MPI: `mpiexec -n 2 table`. Rank 0 keeps a table from keys to big values;
 * the other ranks GET and PUT them. See --help, and table/server_zc.c for the server that zc makes possible. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "table/table.h"

enum { CLIENT_MAX_IN_FLIGHT = 16 };

/* What rank 0 has, and what the others have. */
struct run {
    struct options options;
    struct job job;
    zc_comm *zc[WAYS];
    int rank;
    struct server servers[MAX_VARIANTS];
    struct report *report;
    struct client *client;
    struct verdict verdict;
    uint64_t lost; /* stores */
};

static int cells_for(size_t size)
{
    enum { BYTES = 16 << 20, LEAST = 32, MOST = 1024 };
    size_t n = BYTES / size;

    return n < LEAST ? LEAST : n > MOST ? MOST : (int)n;
}

static void run_round(struct run *run, int variant, double seconds)
{
    run->job.zc = run->zc[run->options.variants[variant]->way];
    if (run->rank == SERVER)
        server_round(&run->servers[variant]);
    else
        client_round(run->client, run->options.variants[variant], seconds, &run->verdict);
}

/* One cell of the grid: a round of each variant to warm up, then rounds in which the variants take turns, each time
 * another one first. */
static void run_job(struct run *run)
{
    const struct options *options = &run->options;
    int n = options->nvariants;

    if (run->client)
        client_start(run->client, &run->job);
    for (int round = 0; round <= options->rounds; round++) {
        for (int i = 0; i < n; i++) {
            int variant = (round + i) % n;
            if (run->report)
                report_progress(run->report, &run->job, options->variants[variant], round);
            run_round(run, variant, options->seconds);
            if (run->report && round > 0)
                report_add(run->report, variant, round - 1, &run->servers[variant].now);
        }
    }
    if (run->client)
        client_stop(run->client);
    if (run->report)
        report_job(run->report, &run->job);
}

/* All of a grid that has one size: the servers keep their tables. */
static void run_size(struct run *run, const struct grid *grid, size_t size)
{
    const struct options *options = &run->options;
    struct job *job = &run->job;

    job->size = size;
    job->cells = options->cells ? options->cells : cells_for(size);
    /* Where memory happens to lie makes a table up to a fifth faster or slower: not always the same one first. */
    int n = run->rank == SERVER ? options->nvariants : 0;
    for (int i = 0; i < n; i++) {
        int v = (i + getpid()) % n;
        server_open(&run->servers[v], job, options->variants[v]);
    }
    for (int g = 0; g < grid->ngets; g++) {
        for (int k = 0; k < grid->nkeys; k++) {
            for (int w = 0; w < grid->nworks; w++) {
                for (int s = 0; s < grid->nslows; s++) {
                    job->get_percent = grid->gets[g];
                    job->keys = grid->keys[k];
                    job->work_us = grid->works[w];
                    job->slow_us = grid->slows[s];
                    run_job(run);
                }
            }
        }
    }
    for (int v = 0; v < n; v++) {
        run->lost += server_lost_stores(&run->servers[v]);
        server_close(&run->servers[v]);
    }
}

/* Rank 0 collects what the clients saw, and prints it. Returns the exit code. */
static int conclude(struct run *run)
{
    const struct verdict *mine = &run->verdict;
    uint64_t counts[4] = {mine->checked, mine->torn, mine->misdated, run->lost};
    uint64_t sums[4];

    MPI_Allreduce(counts, sums, 4, MPI_UINT64_T, MPI_SUM, run->job.control);
    bool good = sums[1] + sums[2] + sums[3] == 0;
    if (run->options.control)
        good = sums[1] > 0;
    if (run->rank == SERVER) {
        FILE *out = report_text(run->report);
        fprintf(out, "values checked: %llu\n", (unsigned long long)sums[0]);
        fprintf(out, "torn values: %llu\n", (unsigned long long)sums[1]);
        fprintf(out, "values of another moment than they were sent at: %llu\n", (unsigned long long)sums[2]);
        fprintf(out, "lost stores: %llu\n", (unsigned long long)sums[3]);
        if (run->options.control)
            fputs(good ? "control: without protection values do tear, and the check sees it\n"
                       : "control: no torn value was seen, although nothing is protected\n",
                  out);
        else if (!good)
            fputs("FAILED\n", out);
        fflush(out);
    }
    return good ? 0 : 1;
}

/* A communicator for each way that a variant wants; options are theirs. */
static void open_ways(struct run *run, uint32_t max_in_flight)
{
    static const zc_options ways[WAYS] = {
        [WAY_AUTO] = ZC_OPTIONS_INIT,
        [WAY_EAGER] = {sizeof(zc_options), .policy = ZC_POLICY_PROTECT, .release = ZC_RELEASE_EAGER},
        [WAY_LAZY] = {sizeof(zc_options), .policy = ZC_POLICY_PROTECT, .release = ZC_RELEASE_LAZY}};

    for (int i = 0; i < run->options.nvariants; i++) {
        enum way way = run->options.variants[i]->way;
        zc_options options = ways[way];
        options.max_in_flight = max_in_flight;
        if (!run->zc[way])
            must(zc_open_mpi(MPI_COMM_WORLD, &options, &run->zc[way]), "zc_open_mpi");
    }
}

static int run_all(struct run *run)
{
    const struct options *options = &run->options;
    uint32_t max_in_flight = 0;
    int size;

    MPI_Comm_size(MPI_COMM_WORLD, &size);
    choose_pages(options->pages);
    run->job.options = options;
    run->job.clients = size - 1;
    run->job.yield = size > sysconf(_SC_NPROCESSORS_ONLN);
    if (run->rank == SERVER) {
        run->report = report_open(options);
    } else {
        run->client = client_open(run->rank, options);
        /* A client may PUT much faster than the server takes it; this is all the flow control there is. The server
         * needs none: clients ask for no more than a window. */
        max_in_flight = CLIENT_MAX_IN_FLIGHT;
    }
    int ready = run->rank != SERVER || run->report;
    MPI_Bcast(&ready, 1, MPI_INT, SERVER, MPI_COMM_WORLD);
    if (!ready)
        return 2;
    MPI_Comm_dup(MPI_COMM_WORLD, &run->job.control);
    MPI_Comm_dup(MPI_COMM_WORLD, &run->job.mpi);
    open_ways(run, max_in_flight);

    for (const struct grid *grid = options->grids; grid < options->grids + options->ngrids; grid++)
        for (int i = 0; i < grid->nsizes; i++)
            run_size(run, grid, grid->sizes[i]);
    int code = conclude(run);
    report_close(run->report);
    if (run->client)
        client_close(run->client);
    for (int way = 0; way < WAYS; way++)
        must(zc_close(run->zc[way]), "zc_close");
    MPI_Comm_free(&run->job.mpi);
    MPI_Comm_free(&run->job.control);
    return code;
}

int main(int argc, char **argv)
{
    static struct run run;
    int level, size;

    /* Any level will do for the messages; for a helper thread to make progress while a store waits, this one. */
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &run.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int code = options_parse(argc, argv, run.rank == SERVER, &run.options);
    if (code < 0 && size < 2) {
        fprintf(stderr, "table: needs a server and at least one client: mpiexec -n 2 %s\n", argv[0]);
        code = 2;
    }
    if (code < 0)
        code = run_all(&run);
    MPI_Finalize();
    return code;
}
