/* SPDX-License-Identifier: MIT
 *
 * The command line of the table. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "table.h"

static const char usage[] =
    "Usage: mpiexec -n RANKS table [OPTION]...\n"
    "       table --shm CLIENTS [OPTION]...\n"
    "\n"
    "A distributed table, over MPI or between plain processes of this host: rank 0 is the server, all other ranks are\n"
    "clients. Clients GET values and PUT new ones; the server overwrites cells while they are being sent. Several\n"
    "servers (\"variants\") take turns in one run, so that they can be compared, and every value is checked by the\n"
    "client that gets it.\n"
    "\n"
    "Variants (--variants, by default all but the last three; with --shm those of zc):\n";

static const char usage_options[] =
    "\n"
    "What is run; each LIST is separated by commas, and all combinations are run:\n"
    "  -s, --size LIST      bytes in a value, with K, M or G; multiples of 64 (default 64K,1M)\n"
    "  -g, --get LIST       percent of GETs, the rest are PUTs (default 95,50)\n"
    "  -k, --keys LIST      uniform or zipf (default uniform)\n"
    "  -w, --work LIST      microseconds of other work in each turn of the server's loop (default 20)\n"
    "  -l, --slow LIST      microseconds that a client pauses before it receives a value (default 0)\n"
    "      --and            what follows describes another grid of combinations, like the one before where it says "
    "nothing\n"
    "  -v, --variants LIST  see above; to list the same one twice shows the noise\n"
    "  -c, --cells N        keys in the table (default: 16 MiB of values, but 32 to 1024 keys)\n"
    "  -W, --window N       GETs that each client keeps in flight (default 4)\n"
    "  -r, --rounds N       rounds of each variant, after one to warm up (default 5); medians are shown\n"
    "  -t, --seconds S      a round (default 0.2)\n"
    "      --pages KIND     of all cells and buffers: small or huge (default: huge from 2 MiB on). Sets ZC_HUGE\n"
    "      --straight       blocking, tracked and copied receive a PUT straight into the cell, too: the best that is\n"
    "                       written by hand. By default only zc-inplace does, and all others copy it into the cell,\n"
    "                       as the paper's listings do\n"
    "      --seed N         of keys and operations (default 1)\n"
    "\n"
    "Without MPI:\n"
    "      --shm CLIENTS    starts so many clients as processes of their own, and meets them over zc's transport shm\n"
    "      --rank R         starts nobody, but is rank R (0 is the server) of those that ...\n"
    "      --meet NAME      ... meet by this name, with the same options\n"
    "\n"
    "What is shown:\n"
    "      --csv FILE       also write suite,case,variant,size,threads,value,unit,baseline,ratio; \"-\" writes that "
    "to\n"
    "                       standard output instead of the table; a case is mix-keys[-pages]-work[-slow][-work], and\n"
    "                       with -work at its end it counts units of other work; threads are clients\n"
    "      --suite NAME     what the first column says (default table)\n"
    "      --case NAME      what the second one says instead of mix-keys-work\n"
    "      --progress       show progress on stderr even if it is no terminal (mpiexec makes it a pipe)\n"
    "      --control        instead of all this, send without any protection and expect torn values: shows that the\n"
    "                       check can see them\n"
    "  -h, --help           this text\n"
    "\n"
    "Options of zc itself are taken from its ZC_... variables: with ZC_TRANSPORT=shm, what zc does under mpiexec goes\n"
    "over shm, beside the variants of MPI. ZC_CONFLICT=wait can deadlock here, because a client\n"
    "that waits for room to PUT takes no replies, which the server's store then waits for. With more ranks than\n"
    "processors, those that poll yield. The run fails (exit code 1) if a value is torn, is not what the cell held\n"
    "when it was sent, if a store into a cell is lost, or if not all that is printed could be written.\n"
    "\n"
    "In the table at the end, faults, waits, renames and copies are counts in all measured rounds, of GETs and PUTs\n"
    "together; \"calls/op\" are system calls that change page tables (mprotect, mremap ...), for each operation.\n"
    "\n"
    "Examples:\n"
    "  mpiexec -n 2 table\n"
    "  table --shm 3 --size 64K,4M\n"
    "  mpiexec -n 4 table --size 1M --get 95 --slow 0,200\n"
    "  mpiexec -n 2 table --size 4K,64K,1M,4M --get 95,50 --keys uniform,zipf --csv table.csv\n";

static bool loud;

static int complain(const char *format, ...)
{
    va_list args;

    if (loud) {
        va_start(args, format);
        fputs("table: ", stderr);
        vfprintf(stderr, format, args);
        fputs("; see --help\n", stderr);
        va_end(args);
    }
    return -1;
}

static int parse_number(const char *text, const char *name, double low, double high, double *value)
{
    char *end;

    errno = 0;
    *value = strtod(text, &end);
    if (end == text || *end || errno || !(*value >= low && *value <= high))
        return complain("--%s '%s': expected a number from %g to %g", name, text, low, high);
    return 0;
}

static int parse_int(const char *text, const char *name, int low, int high, int *value)
{
    double number;

    if (parse_number(text, name, low, high, &number))
        return -1;
    *value = (int)number;
    if (*value != number)
        return complain("--%s '%s': expected a whole number", name, text);
    return 0;
}

static int parse_size(const char *text, size_t *size)
{
    const unsigned long long most = 1 << 30; /* MPI counts in int */
    char *end;
    unsigned long long n = strtoull(text, &end, 10);
    int shift = 0;

    switch (toupper((unsigned char)*end)) {
    case 'K':
        shift = 10;
        break;
    case 'M':
        shift = 20;
        break;
    case 'G':
        shift = 30;
        break;
    default:
        break;
    }
    if (shift)
        end++;
    if (!isdigit((unsigned char)*text) || *end || n > (most >> shift) || n == 0 || (n << shift) % VALUE_ALIGN)
        return complain("--size '%s': expected bytes, a multiple of %d up to 1G, such as 4096 or 64K", text,
                        VALUE_ALIGN);
    *size = (size_t)n << shift;
    return 0;
}

static int parse_keys(const char *text, enum distribution *keys)
{
    if (strcmp(text, "uniform") == 0)
        *keys = UNIFORM;
    else if (strcmp(text, "zipf") == 0)
        *keys = ZIPF;
    else
        return complain("--keys '%s': expected uniform or zipf", text);
    return 0;
}

static int parse_variant(const char *text, int n, struct options *options)
{
    options->variants[n] = variant_find(text);
    options->nvariants = n + 1;
    return options->variants[n] ? 0 : complain("--variants '%s': no such variant", text);
}

static int parse_pages(const char *text, enum pages *pages)
{
    if (strcmp(text, "small") == 0)
        *pages = PAGES_SMALL;
    else if (strcmp(text, "huge") == 0)
        *pages = PAGES_HUGE;
    else
        return complain("--pages '%s': expected small or huge", text);
    return 0;
}

enum { AND = 256, STRAIGHT, SEED, CSV, SUITE, CASE, PROGRESS, CONTROL, PAGES, SHM, RANK, MEET };

/* One word of a list. */
static int parse_item(int option, const char *text, int n, struct options *options)
{
    struct grid *grid = &options->grids[options->ngrids - 1];

    if (n >= MAX_LIST)
        return complain("-%c: a list has at most %d items", option, MAX_LIST);
    switch (option) {
    case 's':
        grid->nsizes = n + 1;
        return parse_size(text, &grid->sizes[n]);
    case 'g':
        grid->ngets = n + 1;
        return parse_int(text, "get", 0, 100, &grid->gets[n]);
    case 'k':
        grid->nkeys = n + 1;
        return parse_keys(text, &grid->keys[n]);
    case 'w':
        grid->nworks = n + 1;
        return parse_int(text, "work", 0, 1000000, &grid->works[n]);
    case 'l':
        grid->nslows = n + 1;
        return parse_int(text, "slow", 0, 1000000, &grid->slows[n]);
    default:
        return parse_variant(text, n, options);
    }
}

static int parse_list(int option, const char *text, struct options *options)
{
    char *copy = strdup(text);
    char *rest = copy;
    int rc = 0;

    for (int n = 0; rest && !rc; n++)
        rc = parse_item(option, strsep(&rest, ","), n, options);
    free(copy);
    return rc;
}

static int add_grid(struct options *options)
{
    if (options->ngrids == MAX_LIST)
        return complain("--and: at most %d grids", MAX_LIST);
    options->grids[options->ngrids] = options->grids[options->ngrids - 1];
    options->ngrids++;
    return 0;
}

static int parse_option(int option, const char *text, struct options *options)
{
    double number;

    switch (option) {
    case 'c':
        return parse_int(text, "cells", 1, 1 << 20, &options->cells);
    case 'W':
        return parse_int(text, "window", 1, 1024, &options->window);
    case 'r':
        return parse_int(text, "rounds", 1, MAX_ROUNDS, &options->rounds);
    case 't':
        return parse_number(text, "seconds", 0.001, 60, &options->seconds);
    case SEED:
        if (parse_number(text, "seed", 0, 1e15, &number))
            return -1;
        options->seed = (uint64_t)number;
        break;
    case AND:
        return add_grid(options);
    case PAGES:
        return parse_pages(text, &options->pages);
    case STRAIGHT:
        options->straight = true;
        break;
    case SUITE:
        options->suite = text;
        break;
    case CASE:
        options->name = text;
        break;
    case SHM:
        return parse_int(text, "shm", 1, 255, &options->shm);
    case RANK:
        return parse_int(text, "rank", 0, 255, &options->rank);
    case MEET:
        options->meet = text;
        break;
    case CSV:
        options->csv = text;
        break;
    case PROGRESS:
        options->progress = true;
        break;
    case CONTROL:
        options->control = true;
        break;
    default:
        return parse_list(option, text, options);
    }
    return 0;
}

static void print_help(void)
{
    fputs(usage, stdout);
    for (int i = 0; all_variants[i]; i++)
        printf("  %-11s %s\n", all_variants[i]->name, all_variants[i]->help);
    fputs(usage_options, stdout);
}

/* Big values, few keys, and half of all operations PUTs: what tears most. */
static void set_control(struct options *options)
{
    options->grids[0] = (struct grid){.sizes = {1 << 20},
                                      .nsizes = 1,
                                      .gets = {50},
                                      .ngets = 1,
                                      .keys = {ZIPF},
                                      .nkeys = 1,
                                      .nworks = 1,
                                      .nslows = 1};
    options->ngrids = 1;
    options->variants[0] = &variant_torn;
    options->nvariants = 1;
    options->cells = 4;
}

static void set_defaults(struct options *options)
{
    *options = (struct options){
        .grids = {{.sizes = {64 << 10, 1 << 20},
                   .nsizes = 2,
                   .gets = {95, 50},
                   .ngets = 2,
                   .keys = {UNIFORM},
                   .nkeys = 1,
                   .works = {20},
                   .nworks = 1,
                   .slows = {0},
                   .nslows = 1}},
        .ngrids = 1,
        .window = 4,
        .rounds = 5,
        .seconds = 0.2,
        .progress = isatty(STDERR_FILENO),
        .seed = 1,
        .suite = "table",
        .rank = -1,
    };
}

static void set_default_variants(struct options *options)
{
    for (int i = 0; all_variants[i]; i++)
        if (all_variants[i]->way == WAY_AUTO && (all_variants[i]->zc || !options->shm))
            options->variants[options->nvariants++] = all_variants[i];
}

/* What does not go together. */
static int check(const struct options *options)
{
    if ((options->rank >= 0 || options->meet) && !options->shm)
        return complain("--rank and --meet go with --shm");
    if (options->rank > options->shm || (options->rank >= 0) != (options->meet != NULL))
        return complain("--shm %d: expected --rank from 0 to %d together with --meet, or neither", options->shm,
                        options->shm);
    for (int i = 0; i < options->nvariants && options->shm; i++)
        if (!options->variants[i]->zc)
            return complain("variant %s needs MPI, and --shm is without", options->variants[i]->name);
    return 0;
}

int options_parse(int argc, char **argv, bool is_loud, struct options *options)
{
    static const struct option table[] = {
        {"size", required_argument, NULL, 's'},    {"get", required_argument, NULL, 'g'},
        {"keys", required_argument, NULL, 'k'},    {"work", required_argument, NULL, 'w'},
        {"slow", required_argument, NULL, 'l'},    {"variants", required_argument, NULL, 'v'},
        {"cells", required_argument, NULL, 'c'},   {"window", required_argument, NULL, 'W'},
        {"rounds", required_argument, NULL, 'r'},  {"seconds", required_argument, NULL, 't'},
        {"and", no_argument, NULL, AND},           {"straight", no_argument, NULL, STRAIGHT},
        {"seed", required_argument, NULL, SEED},   {"pages", required_argument, NULL, PAGES},
        {"shm", required_argument, NULL, SHM},     {"rank", required_argument, NULL, RANK},
        {"meet", required_argument, NULL, MEET},   {"csv", required_argument, NULL, CSV},
        {"suite", required_argument, NULL, SUITE}, {"case", required_argument, NULL, CASE},
        {"progress", no_argument, NULL, PROGRESS}, {"control", no_argument, NULL, CONTROL},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0}};
    int option;

    loud = is_loud;
    set_defaults(options);
    opterr = 0;
    optind = 0; /* from the beginning again */
    while ((option = getopt_long(argc, argv, ":s:g:k:w:l:v:c:W:r:t:h", table, NULL)) != -1) {
        switch (option) {
        case 'h':
            if (loud)
                print_help();
            return 0;
        case '?':
            complain("unknown option '%s'", argv[optind - 1]);
            return 2;
        case ':':
            complain("'%s' needs an argument", argv[optind - 1]);
            return 2;
        default:
            if (parse_option(option, optarg, options))
                return 2;
        }
    }
    if (optind < argc) {
        complain("unexpected '%s'", argv[optind]);
        return 2;
    }
    if (options->control)
        set_control(options);
    else if (!options->nvariants)
        set_default_variants(options);
    return check(options) ? 2 : -1;
}
