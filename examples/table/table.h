/* SPDX-License-Identifier: MIT
 *
 * The distributed table of the paper, as one server (rank 0) and its clients. What the files are:
 *
 *   ../table.c       main: takes the cells of the grid one by one, and the variants in turn
 *   server_zc.c      the server over zc: the paper's simple loop. Start reading here
 *   server_mpi.c     the server over plain MPI: blocking, tracked, copied, and torn (the control)
 *   server_paper.c   the server as the paper has it: one mapping, mprotect, a SIGSEGV handler
 *   server.c         what the servers share: rounds, other work, the book of what was sent when
 *   client.c         the client, one for all variants
 *   value.c          values that show whether they are torn
 *   options.c        the command line
 *   report.c         medians, the table at the end, CSV */
#ifndef ZC_EXAMPLE_TABLE_H
#define ZC_EXAMPLE_TABLE_H

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <zc_mpi.h>

/* ---- the protocol: PUT is a request and a value, GET is a request and its response ---- */

enum { SERVER = 0 }; /* rank */

/* Of a client, at most. A small PUT has left the client long before the server takes it: so that they do not pile up
 * there, the server tells each time that it has taken PUTS_TOLD more. */
enum { PUTS_IN_FLIGHT = 4, PUTS_TOLD = 32, PUTS_UNTOLD = 64 };

enum tag { PUT_REQUEST = 1, PUT_VALUE, GET_REQUEST, GET_RESPONSE, PUTS_TAKEN };

struct put_request {
    uint64_t key;
    uint64_t version;
};

struct get_request {
    uint64_t key;
};

/* Beside the table, over a communicator of its own. A round begins when all clients are READY, and ends with what each
 * has DONE; then the server shows them its BOOK. */
enum control_tag { WELCOME = 1, READY, GO, DONE, BOOK, VERDICT };

struct round_done {
    uint64_t gets, puts;
};

/* ---- values (value.c) ---- */

/* Every word of a value follows from its key and version, so one pass finds a word of another. */
struct value_header {
    uint64_t key;
    uint64_t version; /* VERSION(client, its how-manieth PUT); 0 at the start */
    uint64_t size;    /* bytes, this header included */
    uint64_t checksum;
};

#define VERSION(client, put) ((uint64_t)(client) << 40 | (put))
#define VERSION_CLIENT(version) ((unsigned)((version) >> 40))
#define VERSION_PUT(version) ((version) & ((UINT64_C(1) << 40) - 1))

enum { VALUE_ALIGN = 64 }; /* sizes are multiples of it */

void value_fill(void *value, size_t size, uint64_t key, uint64_t version);

/* The offset of the first byte that a whole value of `key` would not have, or `size` if it is whole. */
size_t value_check(const void *value, size_t size, uint64_t key);

/* Says on stderr what is wrong at `offset`: which versions meet there. */
void value_show_torn(const void *value, size_t size, uint64_t key, size_t offset, const char *variant, int clients);

/* ---- options (options.c) ---- */

enum { MAX_LIST = 16, MAX_VARIANTS = MAX_LIST, MAX_ROUNDS = 1000 };

enum distribution { UNIFORM, ZIPF };

/* Of cells and buffers, with zc and without. */
enum pages { PAGES_AUTO, PAGES_SMALL, PAGES_HUGE };

/* All combinations are run. */
struct grid {
    size_t sizes[MAX_LIST];
    int nsizes;
    int gets[MAX_LIST]; /* percent */
    int ngets;
    enum distribution keys[MAX_LIST];
    int nkeys;
    int works[MAX_LIST]; /* microseconds of other work in each turn of the server's loop */
    int nworks;
    int slows[MAX_LIST]; /* microseconds that a client pauses before it receives */
    int nslows;
};

struct options {
    struct grid grids[MAX_LIST];
    int ngrids;
    const struct variant *variants[MAX_VARIANTS];
    int nvariants;
    int cells;  /* keys in the table; 0: by size */
    int window; /* GETs that a client keeps in flight */
    int rounds;
    double seconds; /* a round */
    enum pages pages;
    bool straight; /* plain MPI receives a PUT into the cell */
    bool control;
    bool progress;
    uint64_t seed;
    const char *csv;   /* a file; "-": standard output, which then has nothing else */
    const char *suite; /* the first column there, */
    const char *name;  /* and the second; NULL: mix-keys-work */
    int shm;           /* clients, as plain processes; 0: MPI has started them */
    int rank;          /* of this process among them; -1: it is to start them */
    const char *meet;  /* the name that they meet by */
};

/* Returns -1 to go on, else the exit code. Only a `loud` rank prints. */
int options_parse(int argc, char **argv, bool loud, struct options *options);

/* ---- one cell of the grid ---- */

struct job {
    const struct options *options;
    size_t size;
    int cells, get_percent, work_us, slow_us;
    enum distribution keys;
    int clients;
    bool yield;       /* more ranks than processors: whoever polls lets others run */
    zc_comm *control; /* rounds, books */
    MPI_Comm mpi;     /* the table's messages, without zc */
    zc_comm *zc;      /* and with it, as the variant in turn wants it */
};

/* ---- the server (server*.c) ---- */

struct counters {
    uint64_t gets, puts, units; /* units of other work */
    uint64_t faults, waits, renames, copies, syscalls;
    double seconds;
};

struct book; /* of what was sent to each client */

struct server {
    const struct job *job;
    const struct variant *variant;
    MPI_Comm mpi;
    size_t size;
    void **cells;    /* the table: cells[key] */
    void *staging;   /* where a PUT lands that is then copied in; NULL in the variants that need none */
    uint64_t *held;  /* held[key]: the version that the cell holds */
    void *private;   /* the variant's own */
    int pending_max; /* the most GETs that clients keep in flight together */

    struct counters now; /* this round */
    struct book *book;
    bool idle;
    unsigned turns;
    struct round_done expected;
    int clients_done;
};

/* How zc keeps its promise in a variant: as it likes, or by protection alone, released at once or left to the next
 * store. */
enum way { WAY_AUTO, WAY_EAGER, WAY_LAZY, WAY_REPORT, WAYS };

struct variant {
    const char *name;
    const char *help;
    enum way way;
    bool zc;                                           /* messages by zc, cells from zc_alloc */
    bool view;                                         /* clients read values where they are */
    enum { PUT_COPIED, PUT_EITHER, PUT_STRAIGHT } put; /* received aside and copied in; by option; into the cell */
    void (*open)(struct server *server);               /* may be NULL */
    void (*serve)(struct server *server);              /* one round: until round_over() */
    void (*finish)(struct server *server);             /* waits for what is in flight; may be NULL */
    void (*close)(struct server *server);              /* may be NULL */
};

extern const struct variant variant_blocking, variant_tracked, variant_copied, variant_paper, variant_zc,
    variant_zc_eager, variant_zc_lazy, variant_zc_inplace, variant_zc_view, variant_zc_report, variant_torn;

const struct variant *variant_find(const char *name);
extern const struct variant *const all_variants[]; /* those shown in the help; ends with NULL */

void server_open(struct server *server, const struct job *job, const struct variant *variant);
void server_round(struct server *server);                 /* counters in server->now */
uint64_t server_lost_stores(const struct server *server); /* cells that do not hold their last PUT */
void server_close(struct server *server);

/* For the loops of the variants. */
bool round_over(struct server *server);
void other_work(struct server *server);
void was_put(struct server *server, const struct put_request *put);
void was_sent(struct server *server, int client, uint64_t key);
void must(int rc, const char *what); /* ends the run with zc's message if rc is not 0 */

/* For loops over plain MPI: takes a request of that tag, if one has arrived; and what belongs to it. */
bool mpi_took(struct server *server, int tag, void *request, size_t size, int *client);
void mpi_receive(struct server *server, void *buf, size_t size, int client, int tag);

/* From now on, zc's included, which must not have been used. */
void choose_pages(enum pages pages);

/* Warm memory without zc: touched, aligned to a page, on pages as chosen. The n pieces of `size` bytes are *stride
 * apart. */
void *warm_alloc(size_t n, size_t size, size_t *stride);
void warm_free(void *memory, size_t n, size_t size);

/* ---- the client (client.c) ---- */

struct client;

struct verdict {
    uint64_t checked;
    uint64_t torn;
    uint64_t misdated; /* whole, but not what the cell held when it was sent */
};

/* A client lives as long as the run: its versions never repeat. */
struct client *client_open(int rank, const struct options *options);
void client_start(struct client *client, const struct job *job); /* a cell of the grid */
void client_round(struct client *client, const struct variant *variant, double seconds, struct verdict *verdict);
void client_stop(struct client *client);
void client_close(struct client *client);

/* ---- the report (report.c) ---- */

struct report;

struct report *report_open(const struct options *options); /* NULL: the CSV file cannot be written */
FILE *report_text(const struct report *report);            /* where the table goes */
void report_progress(struct report *report, const struct job *job, const struct variant *variant, int round);
void report_add(struct report *report, int place, int round, const struct counters *counters);
void report_job(struct report *report, const struct job *job); /* prints and forgets the rounds */
int report_close(struct report *report);                       /* 1, with a message: not all could be written. Else 0 */

double seconds_now(void);

#endif
