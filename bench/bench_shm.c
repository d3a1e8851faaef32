/* SPDX-License-Identifier: MIT
 *
 * Suite shm: zc between two processes of one host, against MPI between the same two. Cases:
 *
 *   latency      half a round trip
 *   view-touch   zc_recv_view, first and last byte read, zc_release; MPI_Recv, first and last byte read
 *   view-read    the same, each byte read
 *   recv         zc_recv into an own buffer; MPI_Recv
 *
 * The sender re-sends one unwritten buffer in windows, which the receiver answers. Both sides are warm.
 *
 *   --quick   fewer rounds */
#include <mpi.h>
#include <stdint.h>
#include <string.h>

#include "bench/lib/bench.h"
#include "zc.h"
#include "zc_mpi.h"

enum { SENDER, RECEIVER, WINDOW = 8, MAX_ROUNDS = 15, VARIANTS = 3, DATA = 1, CREDIT = 2 };

struct side {
    int rank;
    size_t size;
    void *buf;
    zc_comm *zc;
    MPI_Comm mpi;
    uint64_t sum; /* of what was read, so that it is */
};

/* What is done with a message: by address, since that is how they differ. */
typedef void look(struct side *side, const void *data);

static void look_at_nothing(struct side *side, const void *data)
{
    (void)side, (void)data;
}

static void look_at_ends(struct side *side, const void *data)
{
    const volatile unsigned char *bytes = data;
    side->sum += bytes[0] + bytes[side->size - 1];
}

static void look_at_all(struct side *side, const void *data)
{
    const uint64_t *words = data;
    uint64_t sum = 0;
    for (size_t i = 0; i < side->size / sizeof *words; i++)
        sum += words[i];
    side->sum += sum;
}

/* ---- windows ---------------------------------------------------------------------------------------------------- */

static void answer(struct side *side)
{
    if (side->rank == SENDER)
        MPI_Recv(NULL, 0, MPI_BYTE, RECEIVER, CREDIT, side->mpi, MPI_STATUS_IGNORE);
    else
        MPI_Send(NULL, 0, MPI_BYTE, SENDER, CREDIT, side->mpi);
}

static void answer_zc(struct side *side)
{
    bench_must(side->rank == SENDER ? zc_recv(NULL, 0, RECEIVER, CREDIT, side->zc, NULL)
                                    : zc_send(NULL, 0, SENDER, CREDIT, side->zc),
               "credit");
}

static void window_mpi(struct side *side, look *look)
{
    MPI_Request requests[WINDOW];
    MPI_Status statuses[WINDOW];
    for (int i = 0; i < WINDOW; i++) {
        if (side->rank == SENDER) {
            MPI_Isend(side->buf, (int)side->size, MPI_BYTE, RECEIVER, DATA, side->mpi, &requests[i]);
        } else {
            MPI_Recv(side->buf, (int)side->size, MPI_BYTE, SENDER, DATA, side->mpi, MPI_STATUS_IGNORE);
            look(side, side->buf);
        }
    }
    answer(side);
    if (side->rank == SENDER)
        MPI_Waitall(WINDOW, requests, statuses);
}

static void send_zc(struct side *side)
{
    for (int i = 0; i < WINDOW; i++)
        bench_must(zc_send(side->buf, side->size, RECEIVER, DATA, side->zc), "zc_send");
}

static void window_view(struct side *side, look *look)
{
    if (side->rank == SENDER)
        send_zc(side);
    for (int i = 0; i < WINDOW && side->rank == RECEIVER; i++) {
        zc_view view;
        bench_must(zc_recv_view(&view, SENDER, DATA, side->zc), "zc_recv_view");
        look(side, view.data);
        bench_must(zc_release(&view), "zc_release");
    }
    answer_zc(side);
}

static void window_recv(struct side *side, look *look)
{
    if (side->rank == SENDER)
        send_zc(side);
    for (int i = 0; i < WINDOW && side->rank == RECEIVER; i++) {
        bench_must(zc_recv(side->buf, side->size, SENDER, DATA, side->zc, NULL), "zc_recv");
        look(side, side->buf);
    }
    answer_zc(side);
}

static void pass_mpi(struct side *side, look *look)
{
    (void)look;
    if (side->rank == SENDER)
        MPI_Send(side->buf, (int)side->size, MPI_BYTE, RECEIVER, DATA, side->mpi);
    MPI_Recv(side->buf, (int)side->size, MPI_BYTE, 1 - side->rank, DATA, side->mpi, MPI_STATUS_IGNORE);
    if (side->rank == RECEIVER)
        MPI_Send(side->buf, (int)side->size, MPI_BYTE, SENDER, DATA, side->mpi);
}

static void pass_zc(struct side *side, look *look)
{
    (void)look;
    if (side->rank == SENDER)
        bench_must(zc_send(side->buf, side->size, RECEIVER, DATA, side->zc), "zc_send");
    bench_must(zc_recv(side->buf, side->size, 1 - side->rank, DATA, side->zc, NULL), "zc_recv");
    if (side->rank == RECEIVER)
        bench_must(zc_send(side->buf, side->size, SENDER, DATA, side->zc), "zc_send");
}

/* ---- cases ------------------------------------------------------------------------------------------------------ */

typedef void window(struct side *side, look *look);

static const struct kase {
    const char *name;
    window *mpi, *zc;
    look *look;
    int messages; /* a window: what its time is divided by */
    size_t sizes[8];
} cases[] = {
    {"latency", pass_mpi, pass_zc, look_at_nothing, 2, {8, 64, 512, 4096}},
    {"view-touch", window_mpi, window_view, look_at_ends, WINDOW, {64 << 10, 1 << 20, 16 << 20, 64 << 20}},
    {"view-read", window_mpi, window_view, look_at_all, WINDOW, {256 << 10, 1 << 20, 4 << 20, 16 << 20}},
    {"recv", window_mpi, window_recv, look_at_nothing, WINDOW, {64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}},
};

/* Nanoseconds a message. Two windows at least: the first one wakes. */
static double run_round(struct side *side, const struct kase *kase, window *window, int windows)
{
    MPI_Barrier(side->mpi);
    double start = bench_now();
    for (int i = 0; i < windows; i++)
        window(side, kase->look);
    return (bench_now() - start) * 1e9 / windows / kase->messages;
}

static int count_windows(struct side *side, const struct kase *kase, window *window, double seconds)
{
    run_round(side, kase, window, 8); /* warm, and zc has seen that it is not written to */
    int windows = (int)(seconds * 1e9 / (run_round(side, kase, window, 4) * kase->messages)) + 2;
    MPI_Bcast(&windows, 1, MPI_INT, SENDER, side->mpi);
    return windows;
}

/* mpich is there twice: its ratio to itself is the noise. */
static void measure(struct side *side, const struct kase *kase, size_t size, int rounds, double seconds)
{
    static const char *const names[VARIANTS] = {"mpich", "zc", "mpich"};
    window *const windows[VARIANTS] = {kase->mpi, kase->zc, kase->mpi};
    double times[VARIANTS][MAX_ROUNDS];
    int counts[VARIANTS];

    side->size = size;
    side->buf = zc_alloc(size);
    if (!side->buf)
        bench_die("zc_alloc: %s", zc_errmsg());
    bench_fill(side->buf, size, (unsigned)size);
    for (int v = 0; v < VARIANTS; v++)
        counts[v] = count_windows(side, kase, windows[v], seconds);
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < VARIANTS; i++) {
            int v = (round + i) % VARIANTS;
            times[v][round] = run_round(side, kase, windows[v], counts[v]);
        }
    bench_check(side->buf, size, (unsigned)size, kase->name);
    for (int v = VARIANTS - 1; v > 0 && side->rank == SENDER; v--) {
        double ratio = bench_median_ratio(times[v], times[0], (size_t)rounds);
        bench_row(&(struct row){"shm", kase->name, names[v], size, 1, bench_median(times[v], (size_t)rounds), "ns",
                                "mpich", ratio});
    }
    bench_must(zc_flush(side->zc), "zc_flush");
    zc_free(side->buf);
}

int main(int argc, char **argv)
{
    struct side side = {0};
    bool quick = false;
    const struct flag flags[] = {{"--quick", &quick}};
    zc_options options = ZC_OPTIONS_INIT;
    int level, ranks;

    bench_flags(argc, argv, flags, LENGTH(flags));
    bench_under_mpiexec(argv, "2");
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &side.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks != 2)
        bench_die("%s: expected 2 ranks, there are %d", argv[0], ranks);
    MPI_Comm_dup(MPI_COMM_WORLD, &side.mpi);
    options.transport = "shm";
    bench_must(zc_open_mpi(MPI_COMM_WORLD, &options, &side.zc), "zc_open_mpi");
    for (size_t i = 0; i < LENGTH(cases); i++)
        for (size_t k = 0; k < LENGTH(cases[i].sizes) && cases[i].sizes[k]; k++) {
            if (side.rank == SENDER)
                bench_say("shm: %s, %zu bytes", cases[i].name, cases[i].sizes[k]);
            measure(&side, &cases[i], cases[i].sizes[k], quick ? 5 : MAX_ROUNDS, quick ? 0.03 : 0.06);
        }
    bench_must(zc_close(side.zc), "zc_close");
    MPI_Comm_free(&side.mpi);
    MPI_Finalize();
    return 0;
}
