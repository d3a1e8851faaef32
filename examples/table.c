/* SPDX-License-Identifier: MIT
 *
 * The distributed table of the paper, over MPI: `mpiexec -n 2 table`, or between plain processes: `table --shm 1`. Rank
 * 0 keeps a table from keys to big values; the other ranks GET and PUT them. See --help, and table/server_zc.c for the
 * server that zc makes possible. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "table/table.h"

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
    struct verdict all = {0};

    if (run->rank != SERVER) {
        must(zc_send(&run->verdict, sizeof run->verdict, SERVER, VERDICT, run->job.control), "zc_send");
        return 0;
    }
    for (int client = 1; client <= run->job.clients; client++) {
        struct verdict verdict;
        must(zc_recv(&verdict, sizeof verdict, client, VERDICT, run->job.control, NULL), "zc_recv");
        all.checked += verdict.checked;
        all.torn += verdict.torn;
        all.misdated += verdict.misdated;
    }
    bool good = all.torn + all.misdated + run->lost == 0;
    if (run->options.control)
        good = all.torn > 0;
    FILE *out = report_text(run->report);
    fprintf(out, "values checked: %llu\n", (unsigned long long)all.checked);
    fprintf(out, "torn values: %llu\n", (unsigned long long)all.torn);
    fprintf(out, "values of another moment than they were sent at: %llu\n", (unsigned long long)all.misdated);
    fprintf(out, "lost stores: %llu\n", (unsigned long long)run->lost);
    if (run->options.control)
        fputs(good ? "control: without protection values do tear, and the check sees it\n"
                   : "control: no torn value was seen, although nothing is protected\n",
              out);
    else if (!good)
        fputs("FAILED\n", out);
    fflush(out);
    return good ? 0 : 1;
}

/* ---- who takes part ---- */

/* Without MPI each communicator has an address: a name of its own, and this rank. */
static void open_comm(const struct run *run, int which, const zc_options *options, zc_comm **comm)
{
    const struct options *o = &run->options;
    char address[128];

    if (!o->shm) {
        must(zc_open_mpi(MPI_COMM_WORLD, options, comm), "zc_open_mpi");
        return;
    }
    snprintf(address, sizeof address, "shm:%s.%d?rank=%d&size=%d", o->meet, which, run->rank, o->shm + 1);
    must(zc_open(address, options, comm), "zc_open");
}

/* A communicator for each way that a variant wants; options are theirs. */
static void open_ways(struct run *run, uint32_t max_in_flight)
{
    static const zc_options ways[WAYS] = {
        [WAY_AUTO] = ZC_OPTIONS_INIT,
        [WAY_EAGER] = {sizeof(zc_options), .policy = ZC_POLICY_PROTECT, .release = ZC_RELEASE_EAGER},
        [WAY_LAZY] = {sizeof(zc_options), .policy = ZC_POLICY_PROTECT, .release = ZC_RELEASE_LAZY},
        [WAY_REPORT] = {sizeof(zc_options), .on_conflict = ZC_ON_CONFLICT_REPORT}};

    for (int i = 0; i < run->options.nvariants; i++) {
        enum way way = run->options.variants[i]->way;
        zc_options options = ways[way];
        options.max_in_flight = max_in_flight;
        if (!run->zc[way])
            open_comm(run, (int)way, &options, &run->zc[way]);
    }
}

/* Does rank 0 have all that it needs? */
static bool is_welcome(struct run *run)
{
    bool welcome = run->report;

    for (int client = 1; client <= run->job.clients && run->rank == SERVER; client++)
        must(zc_send(&welcome, sizeof welcome, client, WELCOME, run->job.control), "zc_send");
    if (run->rank != SERVER)
        must(zc_recv(&welcome, sizeof welcome, SERVER, WELCOME, run->job.control, NULL), "zc_recv");
    return welcome;
}

static int run_all(struct run *run, int size)
{
    const struct options *options = &run->options;
    uint32_t max_in_flight = 0;

    choose_pages(options->pages);
    run->job.options = options;
    run->job.clients = size - 1;
    run->job.yield = size > sysconf(_SC_NPROCESSORS_ONLN);
    if (run->rank == SERVER) {
        run->report = report_open(options);
    } else {
        run->client = client_open(run->rank, options);
        /* A client may PUT much faster than the server takes it; this bounds it as plain MPI bounds itself (a
         * request leaves at once). The server needs no bound: clients ask for no more than a window. */
        max_in_flight = PUTS_IN_FLIGHT;
    }
    open_comm(run, WAYS, NULL, &run->job.control);
    open_ways(run, max_in_flight);

    int code = 2;
    if (is_welcome(run)) {
        for (const struct grid *grid = options->grids; grid < options->grids + options->ngrids; grid++)
            for (int i = 0; i < grid->nsizes; i++)
                run_size(run, grid, grid->sizes[i]);
        code = conclude(run);
    }
    int unwritten = report_close(run->report);
    code = code ? code : unwritten;
    if (run->client)
        client_close(run->client);
    for (int way = 0; way < WAYS; way++)
        must(zc_close(run->zc[way]), "zc_close");
    must(zc_close(run->job.control), "zc_close");
    return code;
}

static int run_mpi(struct run *run, int argc, char **argv)
{
    int level, size;

    /* Any level will do for the messages; for a helper thread to make progress while a store waits, this one. */
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &run->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int code = options_parse(argc, argv, run->rank == SERVER, &run->options);
    if (code < 0 && size < 2) {
        fprintf(stderr, "table: needs a server and at least one client: mpiexec -n 2 %s, or %s --shm 1\n", argv[0],
                argv[0]);
        code = 2;
    }
    if (code < 0) {
        MPI_Comm_dup(MPI_COMM_WORLD, &run->job.mpi);
        code = run_all(run, size);
        MPI_Comm_free(&run->job.mpi);
    }
    MPI_Finalize();
    return code;
}

/* This program once more, as a client. */
static void start_client(int rank, const char *meet, int argc, char **argv)
{
    char number[16];
    pid_t process = fork();

    if (process > 0)
        return;
    if (process == 0) {
        char **args = calloc((size_t)argc + 5, sizeof *args);
        char *more[] = {"--rank", number, "--meet", (char *)(uintptr_t)meet};
        snprintf(number, sizeof number, "%d", rank);
        memcpy(args, argv, (size_t)argc * sizeof *args);
        memcpy(args + argc, more, sizeof more);
        execv("/proc/self/exe", args);
    }
    fprintf(stderr, "table: a client cannot be started: %s\n", strerror(errno));
    _exit(2);
}

static int run_processes(struct run *run, int argc, char **argv)
{
    struct options *options = &run->options;
    bool starts = options->rank < 0;
    char meet[32];
    int status, code = 0;

    run->job.mpi = MPI_COMM_NULL;
    run->rank = starts ? SERVER : options->rank;
    if (starts) {
        snprintf(meet, sizeof meet, "table-%d", (int)getpid());
        options->meet = meet;
        for (int client = 1; client <= options->shm; client++)
            start_client(client, meet, argc, argv);
    }
    code = run_all(run, options->shm + 1);
    while (starts && wait(&status) > 0)
        if (status)
            code = code ? code : 1;
    return code;
}

int main(int argc, char **argv)
{
    static struct run run;

    /* Who starts the ranks is known from the options; what is wrong with them, rank 0 says. */
    int code = options_parse(argc, argv, false, &run.options);
    return code < 0 && run.options.shm ? run_processes(&run, argc, argv) : run_mpi(&run, argc, argv);
}
