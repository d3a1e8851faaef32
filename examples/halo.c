/* SPDX-License-Identifier: MIT
 *
 * Heat that spreads on a torus of cells: `mpiexec -n 3 halo`. Each rank owns a band of rows and, above and below it in
 * the same array, a ghost row: a copy of the neighbour's edge. In each step the ghost rows are exchanged.
 *
 * What to look at is step(). The receives are started into the array that is being worked on, and the edge rows are
 * sent from it; then the rows are overwritten at once, from the first to the last. Nothing is waited for: the first
 * touch of a ghost row waits until it has landed, and an edge row that was sent is what it was when it was sent. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zc_mpi.h>

enum tag { UP = 1, DOWN, RESULT };

struct band {
    double *cells; /* rows + 2 rows: ghost, rows, ghost */
    size_t rows, columns;
    double *lines[2]; /* room for two rows */
};

static void must(int rc, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "halo: %s: %s (%s)\n", what, zc_errmsg(), zc_strerror(rc));
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static double *must_have(double *memory)
{
    if (!memory)
        must(-errno, "memory");
    return memory;
}

static double *row(const struct band *band, size_t r)
{
    return band->cells + r * band->columns;
}

static void band_open(struct band *band, size_t rows, size_t columns)
{
    band->rows = rows;
    band->columns = columns;
    band->cells = must_have(zc_alloc((rows + 2) * columns * sizeof(double)));
    for (int i = 0; i < 2; i++)
        band->lines[i] = must_have(malloc(columns * sizeof(double)));
}

static void band_close(struct band *band)
{
    zc_free(band->cells);
    free(band->lines[0]);
    free(band->lines[1]);
}

/* The start: any pattern that has no symmetry. `first` is the place of the band's first row on the torus. */
static void band_fill(const struct band *band, size_t first)
{
    for (size_t r = 1; r <= band->rows; r++)
        for (size_t c = 0; c < band->columns; c++)
            row(band, r)[c] = (double)(((first + r) * 7919 + c * 104729) % 1009);
}

/* Each cell becomes a mean of itself and its neighbours, in place: two lines keep what the row above, and this one,
 * held before. */
static void spread(struct band *band)
{
    size_t n = band->columns;
    double *above = band->lines[0];
    double *here = band->lines[1];

    memcpy(above, row(band, 0), n * sizeof *above); /* the first touch of the upper ghost row */
    for (size_t r = 1; r <= band->rows; r++) {
        double *cells = row(band, r);
        const double *below = row(band, r + 1);
        memcpy(here, cells, n * sizeof *here);
        for (size_t c = 0; c < n; c++) {
            double left = here[c == 0 ? n - 1 : c - 1];
            double right = here[c == n - 1 ? 0 : c + 1];
            cells[c] = 0.5 * here[c] + 0.125 * (above[c] + below[c] + left + right);
        }
        double *line = above;
        above = here;
        here = line;
    }
}

static void step(struct band *band, zc_comm *comm)
{
    size_t bytes = band->columns * sizeof(double);
    int rank = zc_rank(comm);
    int size = zc_size(comm);
    int above = (rank + size - 1) % size;
    int below = (rank + 1) % size;

    must(zc_irecv(row(band, 0), bytes, above, DOWN, comm), "zc_irecv of the upper ghost row");
    must(zc_irecv(row(band, band->rows + 1), bytes, below, UP, comm), "zc_irecv of the lower ghost row");
    must(zc_send(row(band, 1), bytes, above, UP, comm), "zc_send of the upper edge");
    must(zc_send(row(band, band->rows), bytes, below, DOWN, comm), "zc_send of the lower edge");
    spread(band);
}

/* The same without messages: the whole torus in one band, whose ghost rows are its own edges. */
static void serial_step(struct band *torus)
{
    size_t bytes = torus->columns * sizeof(double);

    memcpy(row(torus, 0), row(torus, torus->rows), bytes);
    memcpy(row(torus, torus->rows + 1), row(torus, 1), bytes);
    spread(torus);
}

/* Rank 0 computes all of it alone and compares. Returns the largest difference. */
static double compare(const struct band *band, int steps, zc_comm *comm)
{
    struct band torus;
    double worst = 0;
    size_t bytes = band->rows * band->columns * sizeof(double);

    band_open(&torus, band->rows * (size_t)zc_size(comm), band->columns);
    band_fill(&torus, 0);
    for (int i = 0; i < steps; i++)
        serial_step(&torus);
    for (int rank = 0; rank < zc_size(comm); rank++) {
        double *theirs = row(band, 1);
        if (rank > 0)
            must(zc_recv(theirs, bytes, rank, RESULT, comm, NULL), "zc_recv of a result");
        const double *mine = row(&torus, 1 + (size_t)rank * band->rows);
        if (memcmp(mine, theirs, bytes) == 0)
            continue;
        for (size_t i = 0; i < band->rows * band->columns; i++) {
            double difference = fabs(mine[i] - theirs[i]);
            if (!(difference <= worst)) /* also if it is not a number */
                worst = difference;
        }
        fprintf(stderr, "halo: the rows of rank %d differ from a serial run\n", rank);
    }
    band_close(&torus);
    return worst;
}

static const char usage[] =
    "Usage: mpiexec -n RANKS halo [OPTION]...\n"
    "\n"
    "Heat that spreads on a torus, cut into bands of rows, one a rank; ghost rows are exchanged with zc_irecv and\n"
    "zc_send. Rank 0 compares the result, bit for bit, with a run of its own without messages.\n"
    "\n"
    "  -r, --rows N      rows of each rank (default 256)\n"
    "  -c, --columns N   cells in a row (default 4096: a ghost row is 32 KiB)\n"
    "  -s, --steps N     (default 100)\n"
    "  -h, --help        this text\n";

/* 0 if `text` is no whole number from 1 to `most`. */
static long parse(const char *text, long most)
{
    char *end;
    long n = strtol(text, &end, 10);

    return end == text || *end || n < 1 || n > most ? 0 : n;
}

/* Returns -1 to go on, else the exit code. */
static int parse_options(int argc, char **argv, FILE *out, long *rows, long *columns, long *steps)
{
    static const struct option table[] = {{"rows", required_argument, NULL, 'r'},
                                          {"columns", required_argument, NULL, 'c'},
                                          {"steps", required_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    const long most = 1 << 20;
    int option;

    *rows = 256;
    *columns = 4096;
    *steps = 100;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "r:c:s:h", table, NULL)) != -1) {
        long *value = option == 'r' ? rows : option == 'c' ? columns : steps;
        if (option == 'h') {
            if (out)
                fputs(usage, stdout);
            return 0;
        }
        if (option == '?') {
            if (out)
                fprintf(out, "halo: '%s': no such option, or it lacks a number; see --help\n", argv[optind - 1]);
            return 2;
        }
        *value = parse(optarg, most);
        if (*value == 0) {
            if (out)
                fprintf(out, "halo: '%s': expected a number from 1 to %ld\n", optarg, most);
            return 2;
        }
    }
    if (optind < argc) {
        if (out)
            fprintf(out, "halo: unexpected '%s'; see --help\n", argv[optind]);
        return 2;
    }
    return -1;
}

static int run(size_t rows, size_t columns, int steps)
{
    struct band band;
    zc_comm *comm;
    double difference = 0;

    must(zc_open_mpi(MPI_COMM_WORLD, NULL, &comm), "zc_open_mpi");
    band_open(&band, rows, columns);
    band_fill(&band, rows * (size_t)zc_rank(comm));
    for (int i = 0; i < steps; i++)
        step(&band, comm);
    if (zc_rank(comm) == 0) {
        difference = compare(&band, steps, comm);
        printf("halo: %d steps, max difference %g\n", steps, difference);
    } else {
        must(zc_send(row(&band, 1), rows * columns * sizeof(double), 0, RESULT, comm), "zc_send of the result");
    }
    band_close(&band);
    must(zc_close(comm), "zc_close");
    return difference == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    long rows, columns, steps;
    int level, rank;

    /* A bare touch can wait for a message only where a helper thread may call MPI. */
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    int code = parse_options(argc, argv, rank == 0 ? stderr : NULL, &rows, &columns, &steps);
    if (code < 0 && level < MPI_THREAD_MULTIPLE) {
        fprintf(stderr, "halo: needs an MPI with MPI_THREAD_MULTIPLE\n");
        code = 2;
    }
    if (code < 0)
        code = run((size_t)rows, (size_t)columns, (int)steps);
    MPI_Finalize();
    return code;
}
