/* SPDX-License-Identifier: MIT
 *
 * Suite send, on two ranks. Case resend: the same unwritten buffer again and again, in windows, the next of which
 * starts when the receiver has all of the last. Variants: zc (zc_send, zc_recv) and isend (MPI_Isend, MPI_Recv;
 * baseline), both with the same buffer of zc_alloc, of which MPI_Isend sees the user mapping: reading is not denied.
 *
 *   --quick           fewer rounds
 *   --strace-window   zc only, 1000 sends of 1 MiB in steady state between two write(-1, ...) calls of rank 0, so
 *                     that the calls between them can be counted: strace -f mpiexec -n 2 bench_send --strace-window */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/bench.h"
#include "bench/lib/pair.h"

/* The credit goes by MPI in both variants: a small message is not what is measured. Only then is it asked whether sends
 * are over; they nearly are, so that waiting for them needs no system call of its own. */
static void window_zc(struct pair *pair, pair_look *look)
{
    for (int i = 0; i < PAIR_WINDOW; i++) {
        if (pair->rank == PAIR_SENDER) {
            bench_must(zc_send(pair->buf, pair->size, PAIR_RECEIVER, PAIR_DATA, pair->zc), "zc_send");
        } else {
            bench_must(zc_recv(pair->buf, pair->size, PAIR_SENDER, PAIR_DATA, pair->zc, NULL), "zc_recv");
            look(pair, pair->buf);
        }
    }
    pair_credit(pair);
    if (pair->rank == PAIR_SENDER)
        bench_must(zc_flush(pair->zc), "zc_flush");
}

static const struct pair_case resend = {"send",      "resend", pair_ignore,
                                        PAIR_WINDOW, true,     {{"zc", window_zc}, {"isend", pair_window_mpi}}};

static const size_t sizes[] = {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20};

/* ---- what strace sees ---- */

static void mark(const char *text)
{
    if (write(-1, text, strlen(text)) == 0) /* always fails, but strace shows it */
        abort();
}

static void strace_window(struct pair *pair)
{
    enum { WARM = 20, MEASURED = 1000 / PAIR_WINDOW };

    pair_buffer(pair, 1 << 20);
    for (int i = 0; i < WARM; i++)
        window_zc(pair, pair_ignore);
    if (pair->rank == PAIR_SENDER)
        mark("zc steady state begins");
    for (int i = 0; i < MEASURED; i++)
        window_zc(pair, pair_ignore);
    if (pair->rank == PAIR_SENDER)
        mark("zc steady state ends");
    zc_free(pair->buf);
}

int main(int argc, char **argv)
{
    struct pair pair = {0};
    bool quick = false;
    bool trace = false;
    const struct flag flags[] = {{"--quick", &quick}, {"--strace-window", &trace}};

    bench_flags(argc, argv, flags, LENGTH(flags));
    pair_open(&pair, argc, argv, NULL);
    if (trace)
        strace_window(&pair);
    for (size_t i = 0; i < LENGTH(sizes) && !trace; i++)
        pair_measure(&pair, &resend, sizes[i], quick);
    pair_close(&pair);
    return 0;
}
