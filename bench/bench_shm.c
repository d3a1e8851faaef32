/* SPDX-License-Identifier: MIT
 *
 * Suite shm: zc between processes of one host. With two ranks, against MPI between the same two:
 *
 *   latency      half a round trip; also against iceoryx, where that is installed, and against the least that copying
 *                through shared memory takes (bare.h)
 *   view-touch   zc_recv_view, first and last byte read, zc_release; MPI_Recv, first and last byte read
 *   view-flat    the same, 64 KiB against what it takes at other sizes
 *   view-read    the same, each byte read
 *   recv         zc_recv into an own buffer; MPI_Recv
 *
 * The sender re-sends one unwritten buffer in windows, which the receiver answers. Both sides are warm. With more
 * ranks:
 *
 *   fanout-wall, fanout-cpu, fanout-sender
 *                one buffer to all receivers, as views of which first and last byte are read: for each message and
 *                receiver, against sending to one of them while the others sleep. The sender sends 64 messages to each,
 *                in turn, then waits for an answer of each. Measured are the time that takes; the processor time of all
 *                processes, which more processors do not shorten; and that of the sender alone. In both is what they
 *                spin, waiting for each other, before they sleep
 *
 *   --table   instead, the table of examples/: servers of zc over shm, against the tracked one over MPI
 *   --quick   fewer rounds */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bare.h"
#include "bench/lib/bench.h"
#include "bench/lib/pair.h"
#include "bench/lib/table.h"
#ifdef ZC_BENCH_ICEORYX
#include "bench/iceoryx.h"
#endif

/* ---- two ranks ---- */

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
                                          {"bare", bare_pass},
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
    bare_open(pair);
    for (size_t i = 0; i < LENGTH(sizes); i++)
        pair_measure(pair, &latency, sizes[i], quick);
    bare_close();
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

/* ---- more ---- */

enum { TOUCH = 1, CHECK, CREDIT, END }; /* tags */
enum { FAN_WINDOW = 64, FAN_ROUNDS = 15 };

static void send_all(zc_comm *zc, const void *buf, size_t size, int receivers, int tag)
{
    for (int r = 1; r <= receivers; r++)
        bench_must(zc_send(buf, size, r, tag, zc), "zc_send");
}

/* Processor time of this process. */
static double used(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

enum { WALL, CPU, SENDER, MEASURES };
enum { ONE, ALL, ONE_AGAIN, VARIANTS };

struct fan {
    zc_comm *zc;
    const void *buf;
    size_t size;
    double *used; /* by rank, when a receiver last answered */
};

/* Each receiver answers with the time that it has used so far. Returns how much that is more, of all of them. */
static double take_credits(struct fan *fan, int receivers)
{
    double sum = 0;
    for (int r = 1; r <= receivers; r++) {
        double before = fan->used[r];
        bench_must(zc_recv(&fan->used[r], sizeof fan->used[r], r, CREDIT, fan->zc, NULL), "credit");
        sum += fan->used[r] - before;
    }
    return sum;
}

/* Nanoseconds a message and receiver. */
static void fan_out(struct fan *fan, int receivers, int windows, double ns[MEASURES])
{
    double start = bench_now(), before = used(), theirs = 0;

    for (int w = 0; w < windows; w++) {
        for (int i = 0; i < FAN_WINDOW; i++)
            send_all(fan->zc, fan->buf, fan->size, receivers, TOUCH);
        theirs += take_credits(fan, receivers);
    }
    ns[SENDER] = used() - before;
    ns[CPU] = ns[SENDER] + theirs;
    ns[WALL] = bench_now() - start;
    for (int m = 0; m < MEASURES; m++)
        ns[m] *= 1e9 / windows / FAN_WINDOW / receivers;
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
        if (tag == CHECK || (tag == TOUCH && touched % FAN_WINDOW == 0)) {
            double now = used();
            bench_must(zc_send(&now, sizeof now, 0, CREDIT, zc), "credit");
        }
    } while (tag != END);
}

static void say_fan(const char *name, const struct fan *fan, double times[VARIANTS][FAN_ROUNDS], int rounds)
{
    static const char *const names[] = {"one", "zc", "one"};

    for (int v = VARIANTS - 1; v > 0; v--) {
        double ratio = bench_median_ratio(times[v], times[ONE], (size_t)rounds);
        bench_row(&(struct row){"shm", name, names[v], fan->size, zc_size(fan->zc) - 1,
                                bench_median(times[v], (size_t)rounds), "ns", "one", ratio});
    }
}

static void measure_size(struct fan *fan, bool quick)
{
    static const char *const cases[] = {"fanout-wall", "fanout-cpu", "fanout-sender"};
    double times[MEASURES][VARIANTS][FAN_ROUNDS];
    int all = zc_size(fan->zc) - 1, rounds = quick ? 7 : FAN_ROUNDS, windows = quick ? 10 : 30;
    void *buf = zc_alloc(fan->size);

    if (!buf)
        bench_die("zc_alloc: %s", zc_errmsg());
    bench_say("shm: fanout, %zu bytes", fan->size);
    bench_fill(buf, fan->size, (unsigned)fan->size);
    fan->buf = buf;
    for (int round = -1; round < rounds; round++) { /* the first one is to warm up */
        for (int i = 0; i < VARIANTS; i++) {
            int v = (round + 1 + i) % VARIANTS, receivers = v == ALL ? all : 1;
            double ns[MEASURES];
            fan_out(fan, receivers, windows * all / receivers, ns);
            for (int m = 0; m < MEASURES && round >= 0; m++)
                times[m][v][round] = ns[m];
        }
    }
    send_all(fan->zc, buf, fan->size, all, CHECK);
    take_credits(fan, all);
    for (int m = 0; m < MEASURES; m++)
        say_fan(cases[m], fan, times[m], rounds);
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
        double *times = calloc((size_t)zc_size(zc), sizeof *times);
        for (size_t i = 0; i < LENGTH(sizes) && times; i++)
            measure_size(&(struct fan){.zc = zc, .size = sizes[i], .used = times}, quick);
        free(times);
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
