/* SPDX-License-Identifier: MIT
 *
 * Suite send, on two ranks. Case resend: the same unwritten buffer again and again, in windows, the next of which
 * starts when the receiver has all of the last. Variants: zc (zc_send, zc_recv) and isend (MPI_Isend, MPI_Recv;
 * baseline), both with the same buffer of zc_alloc, of which MPI_Isend sees the user mapping: reading is not denied.
 *
 *   --quick           fewer rounds
 *   --strace-window   zc only, 1000 sends of 1 MiB in steady state between two write(-1, ...) calls of rank 0, so
 *                     that the calls between them can be counted: strace -f mpiexec -n 2 bench_send --strace-window */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/bench.h"
#include "zc_mpi.h"

enum { SENDER, RECEIVER };
enum { DATA = 1, CREDIT };
enum { WINDOW = 16, VARIANTS = 3, MAX_ROUNDS = 64 };

static const size_t sizes[] = {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20};

struct side {
    int rank;
    MPI_Comm mpi;
    zc_comm *zc;
    size_t size;
    void *buf;
};

/* ---- one window ---------------------------------------------------------------------------------------------- */

/* By MPI in both variants: a small message is not what is measured. Only then is it asked whether sends are over; they
 * nearly are, so that waiting for them needs no system call of its own. */
static void credit(const struct side *side)
{
    char byte = 0;

    if (side->rank == SENDER)
        MPI_Recv(&byte, 1, MPI_BYTE, RECEIVER, CREDIT, side->mpi, MPI_STATUS_IGNORE);
    else
        MPI_Send(&byte, 1, MPI_BYTE, SENDER, CREDIT, side->mpi);
}

static void window_zc(const struct side *side)
{
    for (int i = 0; i < WINDOW; i++) {
        if (side->rank == SENDER)
            bench_must(zc_send(side->buf, side->size, RECEIVER, DATA, side->zc), "zc_send");
        else
            bench_must(zc_recv(side->buf, side->size, SENDER, DATA, side->zc, NULL), "zc_recv");
    }
    credit(side);
    if (side->rank == SENDER)
        bench_must(zc_flush(side->zc), "zc_flush");
}

static void window_mpi(const struct side *side)
{
    MPI_Request requests[WINDOW];
    MPI_Status statuses[WINDOW];

    for (int i = 0; i < WINDOW; i++) {
        if (side->rank == SENDER)
            MPI_Isend(side->buf, (int)side->size, MPI_BYTE, RECEIVER, DATA, side->mpi, &requests[i]);
        else
            MPI_Recv(side->buf, (int)side->size, MPI_BYTE, SENDER, DATA, side->mpi, MPI_STATUS_IGNORE);
    }
    credit(side);
    if (side->rank == SENDER)
        MPI_Waitall(WINDOW, requests, statuses);
}

/* isend is there twice: its ratio to itself is the noise. */
static const struct variant {
    const char *name;
    void (*window)(const struct side *side);
} variants[VARIANTS] = {{"isend", window_mpi}, {"zc", window_zc}, {"isend", window_mpi}};

/* ---- rounds ---------------------------------------------------------------------------------------------------- */

static void side_open(struct side *side, size_t size)
{
    side->size = size;
    side->buf = zc_alloc(size);
    if (!side->buf)
        bench_die("zc_alloc: %s", zc_errmsg());
    if (side->rank == SENDER)
        bench_fill(side->buf, size, (unsigned)size);
}

static void side_close(struct side *side)
{
    zc_free(side->buf);
}

/* Messages a second. The receiver looks at what the last message brought. */
static double run_round(const struct side *side, const struct variant *variant, int windows)
{
    if (side->rank == RECEIVER)
        memset(side->buf, 0, side->size);
    MPI_Barrier(side->mpi);
    double start = bench_now();
    for (int i = 0; i < windows; i++)
        variant->window(side);
    double took = bench_now() - start;
    if (side->rank == RECEIVER)
        bench_check(side->buf, side->size, (unsigned)side->size, variant->name);
    return windows * WINDOW / took;
}

/* As many windows as take about `seconds`, the same number for all. */
static int count_windows(const struct side *side, double seconds)
{
    int windows;

    for (int v = 0; v < VARIANTS; v++)
        run_round(side, &variants[v], 4); /* zc starts by copying */
    windows = (int)(run_round(side, &variants[0], 4) * seconds / WINDOW) + 1;
    MPI_Bcast(&windows, 1, MPI_INT, SENDER, side->mpi);
    return windows;
}

static void resend(struct side *side, size_t size, int rounds, double seconds)
{
    double rates[VARIANTS][MAX_ROUNDS];

    side_open(side, size);
    int windows = count_windows(side, seconds);
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < VARIANTS; i++) {
            int v = (round + i) % VARIANTS;
            rates[v][round] = run_round(side, &variants[v], windows);
        }
    }
    for (int v = VARIANTS - 1; v > 0 && side->rank == SENDER; v--) {
        double ratio = bench_median_ratio(rates[v], rates[0], (size_t)rounds);
        bench_row(&(struct row){"send", "resend", variants[v].name, size, 1, bench_median(rates[v], (size_t)rounds),
                                "msg/s", "isend", ratio});
    }
    side_close(side);
}

/* ---- what strace sees -------------------------------------------------------------------------------------------- */

static void mark(const char *text)
{
    if (write(-1, text, strlen(text)) == 0) /* always fails, but strace shows it */
        abort();
}

static void strace_window(struct side *side)
{
    enum { WARM = 20, MEASURED = 1000 / WINDOW };

    side_open(side, 1 << 20);
    for (int i = 0; i < WARM; i++)
        window_zc(side);
    if (side->rank == SENDER)
        mark("zc steady state begins");
    for (int i = 0; i < MEASURED; i++)
        window_zc(side);
    if (side->rank == SENDER)
        mark("zc steady state ends");
    side_close(side);
}

int main(int argc, char **argv)
{
    struct side side;
    bool quick = false;
    bool trace = false;
    const struct flag flags[] = {{"--quick", &quick}, {"--strace-window", &trace}};
    int level, ranks;

    bench_flags(argc, argv, flags, LENGTH(flags));
    bench_under_mpiexec(argv, "2");
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &side.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks != 2)
        bench_die("%s: expected 2 ranks, there are %d", argv[0], ranks);
    MPI_Comm_dup(MPI_COMM_WORLD, &side.mpi);
    bench_must(zc_open_mpi(MPI_COMM_WORLD, NULL, &side.zc), "zc_open_mpi");

    if (trace) {
        strace_window(&side);
    } else {
        for (size_t i = 0; i < LENGTH(sizes); i++) {
            if (side.rank == SENDER)
                bench_say("send: resend, %zu bytes", sizes[i]);
            resend(&side, sizes[i], quick ? 7 : 15, quick ? 0.05 : 0.1);
        }
    }

    bench_must(zc_close(side.zc), "zc_close");
    MPI_Comm_free(&side.mpi);
    MPI_Finalize();
    return 0;
}
