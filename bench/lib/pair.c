/* SPDX-License-Identifier: MIT */
#include "bench/lib/pair.h"

#include <string.h>

#include "bench/lib/bench.h"

void pair_open(struct pair *pair, int argc, char **argv, const char *transport)
{
    zc_options options = ZC_OPTIONS_INIT;
    int level, ranks;

    bench_under_mpiexec(argv, "2");
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &pair->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks != 2)
        bench_die("%s: expected 2 ranks, there are %d", argv[0], ranks);
    pair->other = 1 - pair->rank;
    MPI_Comm_dup(MPI_COMM_WORLD, &pair->mpi);
    options.transport = transport;
    bench_must(zc_open_mpi(MPI_COMM_WORLD, &options, &pair->zc), "zc_open_mpi");
}

void pair_close(struct pair *pair)
{
    bench_must(zc_close(pair->zc), "zc_close");
    MPI_Comm_free(&pair->mpi);
    MPI_Finalize();
}

void pair_buffer(struct pair *pair, size_t size)
{
    pair->size = size;
    pair->buf = zc_alloc(size);
    if (!pair->buf)
        bench_die("zc_alloc: %s", zc_errmsg());
    if (pair->rank == PAIR_SENDER)
        bench_fill(pair->buf, size, (unsigned)size);
}

/* ---- windows ---- */

void pair_ignore(struct pair *pair, const void *data)
{
    (void)pair, (void)data;
}

void pair_credit(struct pair *pair)
{
    if (pair->rank == PAIR_SENDER)
        MPI_Recv(NULL, 0, MPI_BYTE, PAIR_RECEIVER, PAIR_CREDIT, pair->mpi, MPI_STATUS_IGNORE);
    else
        MPI_Send(NULL, 0, MPI_BYTE, PAIR_SENDER, PAIR_CREDIT, pair->mpi);
}

void pair_window_mpi(struct pair *pair, pair_look *look)
{
    MPI_Request requests[PAIR_WINDOW];
    MPI_Status statuses[PAIR_WINDOW];

    for (int i = 0; i < PAIR_WINDOW; i++) {
        if (pair->rank == PAIR_SENDER) {
            MPI_Isend(pair->buf, (int)pair->size, MPI_BYTE, PAIR_RECEIVER, PAIR_DATA, pair->mpi, &requests[i]);
        } else {
            MPI_Recv(pair->buf, (int)pair->size, MPI_BYTE, PAIR_SENDER, PAIR_DATA, pair->mpi, MPI_STATUS_IGNORE);
            look(pair, pair->buf);
        }
    }
    pair_credit(pair);
    if (pair->rank == PAIR_SENDER)
        MPI_Waitall(PAIR_WINDOW, requests, statuses);
}

void pair_pass_mpi(struct pair *pair, pair_look *look)
{
    if (pair->rank == PAIR_SENDER)
        MPI_Send(pair->buf, (int)pair->size, MPI_BYTE, PAIR_RECEIVER, PAIR_DATA, pair->mpi);
    MPI_Recv(pair->buf, (int)pair->size, MPI_BYTE, pair->other, PAIR_DATA, pair->mpi, MPI_STATUS_IGNORE);
    look(pair, pair->buf);
    if (pair->rank == PAIR_RECEIVER)
        MPI_Send(pair->buf, (int)pair->size, MPI_BYTE, PAIR_SENDER, PAIR_DATA, pair->mpi);
}

/* ---- rounds ---- */

static void check(struct pair *pair, const void *data)
{
    bench_check(data, pair->size, (unsigned)pair->size, "a received message");
}

static void run_checked(struct pair *pair, const struct pair_case *kase, int variants)
{
    for (int v = 0; v < variants; v++) {
        if (pair->rank == PAIR_RECEIVER)
            memset(pair->buf, 0, pair->size);
        kase->variants[v].window(pair, check);
    }
}

/* Nanoseconds a message. */
static double run_round(struct pair *pair, const struct pair_case *kase, int variant, int windows)
{
    MPI_Barrier(pair->mpi);
    double start = bench_now();
    for (int i = 0; i < windows; i++)
        kase->variants[variant].window(pair, kase->look);
    return (bench_now() - start) * 1e9 / windows / kase->messages;
}

/* As many as take about `seconds`. */
static int count_windows(struct pair *pair, const struct pair_case *kase, int variant, double seconds)
{
    run_round(pair, kase, variant, 8); /* warm, and zc has seen that it is not written to */
    int windows = (int)(seconds * 1e9 / (run_round(pair, kase, variant, 4) * kase->messages)) + 2;
    MPI_Bcast(&windows, 1, MPI_INT, PAIR_SENDER, pair->mpi);
    return windows;
}

static void print(const struct pair_case *kase, const char *variant, double *values, const char *baseline,
                  const double *base, size_t size, size_t rounds)
{
    double ratio = bench_median_ratio(values, base, rounds);

    bench_row(&(struct row){kase->suite, kase->name, variant, size, 1, bench_median(values, rounds),
                            kase->rate ? "msg/s" : "ns", baseline, ratio});
}

double pair_measure(struct pair *pair, const struct pair_case *kase, size_t size, bool quick)
{
    double values[PAIR_VARIANTS + 1][PAIR_ROUNDS] = {{0}};
    int rounds = quick ? 7 : PAIR_ROUNDS, counts[PAIR_VARIANTS] = {0}, n = 0;

    if (pair->rank == PAIR_SENDER)
        bench_say("%s: %s, %zu bytes", kase->suite, kase->name, size);
    while (n < PAIR_VARIANTS && kase->variants[n].window)
        n++;
    pair_buffer(pair, size);
    run_checked(pair, kase, n);
    for (int v = 0; v < n; v++)
        counts[v] = count_windows(pair, kase, v, quick ? 0.04 : 0.06);
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i <= n; i++) {
            int turn = (round + i) % (n + 1), v = turn == n ? 1 : turn;
            double time = run_round(pair, kase, v, counts[v]);
            values[turn][round] = kase->rate ? 1e9 / time : time;
        }
    }
    run_checked(pair, kase, n);
    for (int v = 1; v < n && pair->rank == PAIR_SENDER; v++) {
        double mine[PAIR_ROUNDS];
        memcpy(mine, values[0], sizeof mine);
        print(kase, kase->variants[0].name, mine, kase->variants[v].name, values[v], size, (size_t)rounds);
    }
    if (pair->rank == PAIR_SENDER)
        print(kase, kase->variants[1].name, values[n], kase->variants[1].name, values[1], size, (size_t)rounds);
    bench_must(zc_flush(pair->zc), "zc_flush");
    zc_free(pair->buf);
    return bench_median(values[0], (size_t)rounds);
}
