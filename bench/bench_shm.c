/* SPDX-License-Identifier: MIT
 *
 * Suite shm: zc between processes of one host. With two ranks, against MPI between the same two:
 *
 *   latency      half a round trip; also against iceoryx, where that is installed
 *   view-touch   zc_recv_view, first and last byte read, zc_release; MPI_Recv, first and last byte read
 *   view-flat    the same, 64 KiB against what it takes at other sizes
 *   view-read    the same, each byte read
 *   recv         zc_recv into an own buffer; MPI_Recv
 *
 * The sender re-sends one unwritten buffer in windows, which the receiver answers. Both sides are warm. With more ranks:
 *
 *   fanout       one buffer to all receivers, as views of which first and last byte are read: the time for each
 *                message and receiver, against sending to one of them
 *
 *   --table   instead, the table of examples/: servers of zc over shm, against the tracked one over MPI
 *   --quick   fewer rounds */
#include <stdlib.h>
#include <string.h>

#include "bench/lib/bench.h"
#include "bench/lib/pair.h"
#include "bench/lib/table.h"
#ifdef ZC_BENCH_ICEORYX
#include "bench/iceoryx.h"
#endif

/* ---- two ranks ------------------------------------------------------------------------------------------------- */

static void look_at_ends(struct pair *pair, const void *data)
{
    const volatile unsigned char *bytes = data;
    pair->sum += bytes[0] + bytes[pair->size - 1];
}

static void look_at_all(struct pair *pair, const void *data)
{
    const uint64_t *words = data;
    uint64_t sums[4] = {0}; /* one would be as slow from the first cache as from memory */
    for (size_t i = 0; i < pair->size / sizeof *words; i += 4)
        for (size_t k = 0; k < 4; k++)
            sums[k] += words[i + k];
    pair->sum += sums[0] + sums[1] + sums[2] + sums[3];
}

static void send_window(struct pair *pair)
{
    for (int i = 0; i < PAIR_WINDOW && pair->rank == PAIR_SENDER; i++)
        bench_must(zc_send(pair->buf, pair->size, PAIR_RECEIVER, PAIR_DATA, pair->zc), "zc_send");
}

static void credit(struct pair *pair)
{
    bench_must(pair->rank == PAIR_SENDER ? zc_recv(NULL, 0, PAIR_RECEIVER, PAIR_CREDIT, pair->zc, NULL)
                                         : zc_send(NULL, 0, PAIR_SENDER, PAIR_CREDIT, pair->zc),
               "credit");
}

static void window_view(struct pair *pair, pair_look *look)
{
    send_window(pair);
    for (int i = 0; i < PAIR_WINDOW && pair->rank == PAIR_RECEIVER; i++) {
        zc_view view;
        bench_must(zc_recv_view(&view, PAIR_SENDER, PAIR_DATA, pair->zc), "zc_recv_view");
        look(pair, view.data);
        bench_must(zc_release(&view), "zc_release");
    }
    credit(pair);
}

static void window_recv(struct pair *pair, pair_look *look)
{
    send_window(pair);
    for (int i = 0; i < PAIR_WINDOW && pair->rank == PAIR_RECEIVER; i++) {
        bench_must(zc_recv(pair->buf, pair->size, PAIR_SENDER, PAIR_DATA, pair->zc, NULL), "zc_recv");
        look(pair, pair->buf);
    }
    credit(pair);
}

static void pass_zc(struct pair *pair, pair_look *look)
{
    if (pair->rank == PAIR_SENDER)
        bench_must(zc_send(pair->buf, pair->size, PAIR_RECEIVER, PAIR_DATA, pair->zc), "zc_send");
    bench_must(zc_recv(pair->buf, pair->size, pair->other, PAIR_DATA, pair->zc, NULL), "zc_recv");
    look(pair, pair->buf);
    if (pair->rank == PAIR_RECEIVER)
        bench_must(zc_send(pair->buf, pair->size, PAIR_SENDER, PAIR_DATA, pair->zc), "zc_send");
}

static const struct pair_case latency = {"shm",
                                         "latency",
                                         pair_ignore,
                                         2,
                                         false,
                                         {{"zc", pass_zc},
                                          {"mpich", pair_pass_mpi},
#ifdef ZC_BENCH_ICEORYX
                                          {"iceoryx", iceoryx_pass}
#endif
                                         }};

static const struct pair_case touch = {"shm",       "view-touch", look_at_ends,
                                       PAIR_WINDOW, false,        {{"zc", window_view}, {"mpich", pair_window_mpi}}};

static const struct {
    struct pair_case as;
    size_t sizes[8];
} cases[] = {
    {{"shm", "view-read", look_at_all, PAIR_WINDOW, false, {{"zc", window_view}, {"mpich", pair_window_mpi}}},
     {256 << 10, 1 << 20, 4 << 20, 16 << 20}},
    {{"shm", "recv", pair_ignore, PAIR_WINDOW, false, {{"zc", window_recv}, {"mpich", pair_window_mpi}}},
     {64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}},
};

static void measure_latency(struct pair *pair, bool quick)
{
    static const size_t sizes[] = {8, 64, 512, 4096};

#ifdef ZC_BENCH_ICEORYX
    iceoryx_open(pair);
#endif
    for (size_t i = 0; i < LENGTH(sizes); i++)
        pair_measure(pair, &latency, sizes[i], quick);
}

/* However large the message is, it should take as long. */
static void measure_touch(struct pair *pair, bool quick)
{
    static const size_t sizes[] = {64 << 10, 1 << 20, 16 << 20, 64 << 20};
    double times[LENGTH(sizes)];

    for (size_t i = 0; i < LENGTH(sizes); i++)
        times[i] = pair_measure(pair, &touch, sizes[i], quick);
    for (size_t i = 1; i < LENGTH(sizes) && pair->rank == PAIR_SENDER; i++)
        bench_row(&(struct row){"shm", "view-flat", "zc", sizes[i], 1, times[i], "ns", "64K", times[i] / times[0]});
}

static void measure_pair(int argc, char **argv, bool quick)
{
    struct pair pair = {0};

    pair_open(&pair, argc, argv, "shm");
    measure_touch(&pair, quick);
    for (size_t i = 0; i < LENGTH(cases); i++)
        for (size_t k = 0; k < LENGTH(cases[i].sizes) && cases[i].sizes[k]; k++)
            pair_measure(&pair, &cases[i].as, cases[i].sizes[k], quick);
    measure_latency(&pair, quick); /* last: iceoryx has threads and a process of its own */
    pair_close(&pair);
}

/* ---- more ------------------------------------------------------------------------------------------------------ */

enum { TOUCH = 1, CHECK, CREDIT, END }; /* tags */
enum { FAN_WINDOW = 64, FAN_ROUNDS = 15 };

static void send_all(zc_comm *zc, const void *buf, size_t size, int receivers, int tag)
{
    for (int r = 1; r <= receivers; r++)
        bench_must(zc_send(buf, size, r, tag, zc), "zc_send");
}

static void take_credits(zc_comm *zc, int receivers)
{
    for (int r = 1; r <= receivers; r++)
        bench_must(zc_recv(NULL, 0, r, CREDIT, zc, NULL), "credit");
}

/* Nanoseconds a message and receiver. */
static double fan_out(zc_comm *zc, const void *buf, size_t size, int receivers, int windows)
{
    double start = bench_now();

    for (int w = 0; w < windows; w++) {
        for (int i = 0; i < FAN_WINDOW; i++)
            send_all(zc, buf, size, receivers, TOUCH);
        take_credits(zc, receivers);
    }
    return (bench_now() - start) * 1e9 / windows / FAN_WINDOW / receivers;
}

static void receive_all(zc_comm *zc)
{
    int touched = 0, tag;

    do {
        zc_view view;
        bench_must(zc_recv_view(&view, 0, ZC_ANY_TAG, zc), "zc_recv_view");
        tag = view.status.tag;
        if (tag == TOUCH) {
            const volatile unsigned char *bytes = view.data;
            (void)(bytes[0] + bytes[view.length - 1]);
            touched++;
        } else if (tag == CHECK) {
            bench_check(view.data, view.length, (unsigned)view.length, "fanout");
        }
        bench_must(zc_release(&view), "zc_release");
        if (tag == CHECK || (tag == TOUCH && touched % FAN_WINDOW == 0))
            bench_must(zc_send(NULL, 0, 0, CREDIT, zc), "credit");
    } while (tag != END);
}

static void measure_size(zc_comm *zc, size_t size, bool quick)
{
    enum { ONE, ALL, ONE_AGAIN, VARIANTS };
    static const char *const names[] = {"one", "zc", "one"};
    double times[VARIANTS][FAN_ROUNDS];
    int all = zc_size(zc) - 1, rounds = quick ? 7 : FAN_ROUNDS, windows = quick ? 10 : 30;
    void *buf = zc_alloc(size);

    if (!buf)
        bench_die("zc_alloc: %s", zc_errmsg());
    bench_say("shm: fanout, %zu bytes", size);
    bench_fill(buf, size, (unsigned)size);
    for (int round = -1; round < rounds; round++) { /* the first one is to warm up */
        for (int i = 0; i < VARIANTS; i++) {
            int v = (round + 1 + i) % VARIANTS, receivers = v == ALL ? all : 1;
            double time = fan_out(zc, buf, size, receivers, windows * all / receivers);
            if (round >= 0)
                times[v][round] = time;
        }
    }
    send_all(zc, buf, size, all, CHECK);
    take_credits(zc, all);
    for (int v = VARIANTS - 1; v > 0; v--) {
        double ratio = bench_median_ratio(times[v], times[ONE], (size_t)rounds);
        bench_row(&(struct row){"shm", "fanout", names[v], size, all, bench_median(times[v], (size_t)rounds), "ns",
                                "one", ratio});
    }
    zc_free(buf);
}

static void measure_fanout(int argc, char **argv, bool quick)
{
    static const size_t sizes[] = {64 << 10, 1 << 20, 16 << 20};
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *zc;
    int level;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    options.transport = "shm";
    bench_must(zc_open_mpi(MPI_COMM_WORLD, &options, &zc), "zc_open_mpi");
    if (zc_rank(zc) == 0) {
        for (size_t i = 0; i < LENGTH(sizes); i++)
            measure_size(zc, sizes[i], quick);
        send_all(zc, NULL, 0, zc_size(zc) - 1, END);
    } else {
        receive_all(zc);
    }
    bench_must(zc_close(zc), "zc_close");
    MPI_Finalize();
}

int main(int argc, char **argv)
{
    static const char *const grid[] = {
        "--csv",      "-",     "--suite", "shm",    "--case", "table",  "--variants",     "tracked,zc,zc-view,tracked",
        "--straight", "--get", "95",      "--work", "0",      "--size", "64K,256K,1M,4M", NULL};
    static const char *const brief[] = {"--rounds", "5", "--seconds", "0.05", NULL};
    bool quick = false;
    bool table = false;
    const struct flag flags[] = {{"--quick", &quick}, {"--table", &table}};

    bench_flags(argc, argv, flags, LENGTH(flags));
    bench_under_mpiexec(argv, "2");
    if (table) {
        setenv("ZC_TRANSPORT", "shm", 1);
        table_exec(argv[0], grid, quick ? brief : NULL);
    }
    const char *ranks = getenv("PMI_SIZE");
    if (ranks && strcmp(ranks, "2") != 0)
        measure_fanout(argc, argv, quick);
    else
        measure_pair(argc, argv, quick);
    return 0;
}
