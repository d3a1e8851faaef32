/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "oracle.h"
#include "pattern.h"
#include "ranks.h"
#include "transport/loop.h"
#include "userfaultfd.h"
#include "zc_mpi.h"

static const char usage[] =
    "usage: oracle [OPTION]...\n"
    "\n"
    "Runs random programs and checks each message; see oracle.h.\n"
    "\n"
    "  --seed N            of the random numbers (default: the time); with TEST_NIGHTLY in the environment, the\n"
    "                      time is added, and ten times --ops are done\n"
    "  --ops N             of all actors together (16000)\n"
    "  --ranks N           1 to 4 (2); over mpi, those of mpiexec\n"
    "  --threads N         of each rank, 1 to 4 (1)\n"
    "  --mpi               over MPI, under mpiexec, instead of the loop transport\n"
    "  --verbs             over verbs, instead of the loop transport\n"
    "  --shm               over shm, instead of the loop transport\n"
    "  --lockstep          one thread runs all actors in turn, so that a seed gives one order of operations\n"
    "  --policy P          auto, protect or copy\n"
    "  --conflict C        auto, wait or copy\n"
    "  --release R         auto, eager or lazy\n"
    "  --progress P        calls or thread\n"
    "  --fail              some deliveries fail (loop)\n"
    "  --one-way           rank 0 sends, the others receive: for --conflict wait, which can deadlock otherwise\n"
    "  --control           stores go around the protection: succeeds if messages are then torn\n"
    "  --trace             prints each operation\n";

static struct plan plan;

static int word(const char *option, const char *value, const char *const words[])
{
    for (int i = 0; value && words[i]; i++)
        if (strcmp(value, words[i]) == 0)
            return i + 1; /* 0 is the default of each enum of options */
    fprintf(stderr, "oracle: %s: what is \"%s\"?\n%s", option, value ? value : "", usage);
    exit(2);
}

static unsigned long number(const char *option, const char *value, unsigned long least, unsigned long most)
{
    char *end = NULL;
    unsigned long n = value ? strtoul(value, &end, 0) : 0;

    if (!value || !*value || *end || n < least || n > most) {
        fprintf(stderr, "oracle: %s: \"%s\" is not a number from %lu to %lu\n%s", option, value ? value : "", least,
                most, usage);
        exit(2);
    }
    return n;
}

static void parse(int argc, char *argv[])
{
    static const char *const policies[] = {"auto", "protect", "copy", NULL};
    static const char *const conflicts[] = {"auto", "wait", "copy", NULL};
    static const char *const releases[] = {"auto", "eager", "lazy", NULL};
    static const char *const modes[] = {"calls", "thread", NULL};

    plan = (struct plan){.seed = (uint64_t)time(NULL), .ops = 16000, .ranks = 2, .threads = 1};
    plan.options = (zc_options)ZC_OPTIONS_INIT;
    for (int i = 1; i < argc; i++) {
        const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;

        i++; /* most have a value */
        if (strcmp(o, "--seed") == 0) {
            plan.seed = number(o, v, 0, (unsigned long)-1);
        } else if (strcmp(o, "--ops") == 0) {
            plan.ops = (unsigned)number(o, v, 1, 100000000);
        } else if (strcmp(o, "--ranks") == 0) {
            plan.ranks = (int)number(o, v, 1, RANKS);
        } else if (strcmp(o, "--threads") == 0) {
            plan.threads = (int)number(o, v, 1, THREADS);
        } else if (strcmp(o, "--policy") == 0) {
            plan.options.policy = (enum zc_policy)word(o, v, policies);
        } else if (strcmp(o, "--conflict") == 0) {
            plan.options.conflict = (enum zc_conflict)word(o, v, conflicts);
        } else if (strcmp(o, "--release") == 0) {
            plan.options.release = (enum zc_release)word(o, v, releases);
        } else if (strcmp(o, "--progress") == 0) {
            plan.options.progress = (enum zc_progress_mode)word(o, v, modes);
        } else {
            i--;
            if (strcmp(o, "--mpi") == 0) {
                plan.mpi = true;
            } else if (strcmp(o, "--verbs") == 0 || strcmp(o, "--shm") == 0) {
                ranks_transport = o + 2;
                plan.outside = true;
            } else if (strcmp(o, "--lockstep") == 0) {
                plan.lockstep = true;
            } else if (strcmp(o, "--fail") == 0) {
                plan.fail = true;
            } else if (strcmp(o, "--one-way") == 0) {
                plan.one_way = true;
            } else if (strcmp(o, "--control") == 0) {
                plan.control = true;
            } else if (strcmp(o, "--trace") == 0) {
                plan.trace = true;
            } else if (strcmp(o, "--help") == 0) {
                fputs(usage, stdout);
                exit(0);
            } else {
                fprintf(stderr, "oracle: there is no option %s\n%s", o, usage);
                exit(2);
            }
        }
    }
    if (plan.options.conflict == ZC_CONFLICT_WAIT && (!plan.one_way || plan.lockstep)) {
        fprintf(stderr, "oracle: --conflict wait needs --one-way, without --lockstep\n");
        exit(2);
    }
    if ((plan.mpi || plan.outside) && (plan.fail || plan.lockstep)) {
        fprintf(stderr, "oracle: --fail and --lockstep are for the loop transport\n");
        exit(2);
    }
    const char *nightly = getenv("TEST_NIGHTLY");
    if (nightly && *nightly) {
        plan.seed += (uint64_t)time(NULL);
        plan.ops *= 10;
    }
}

/* The command that runs it again: later options win. */
static void note_command(int argc, char *argv[])
{
    const char *protect = getenv("ZC_PROTECT");
    size_t room = sizeof plan.command, used = 0;

    if (protect)
        used = (size_t)snprintf(plan.command, room, "ZC_PROTECT=%s ", protect);
    if (plan.mpi && used < room)
        used += (size_t)snprintf(plan.command + used, room - used, "mpiexec -n %d ", plan.ranks);
    for (int i = 0; i < argc && used < room; i++)
        used += (size_t)snprintf(plan.command + used, room - used, "%s ", argv[i]);
    if (used < room)
        snprintf(plan.command + used, room - used, "--ops %u --seed %llu", plan.ops, (unsigned long long)plan.seed);
}

static void print_again(void)
{
    printf("oracle: %s\n", plan.command);
    fflush(stdout);
}

/* A touch of a receive that was cut short, or failed by order, goes on: the actors look at results. */
static void ignore_error(zc_comm *comm, int error, const char *message, void *argument)
{
    (void)comm;
    (void)argument;
    if (error != -EMSGSIZE && !(plan.fail && error == -EIO)) {
        fprintf(stderr, "error %d: %s\n", error, message);
        actor_last_words();
        abort();
    }
}

struct runner {
    pthread_t thread;
    struct actor *actor;
};

static void *run_actor(void *argument)
{
    struct runner *r = argument;

    while (actor_step(r->actor))
        ;
    return NULL;
}

/* Holds, delivers in some order, delays and fails messages to one of the ranks. */
static void disturb(zc_comm *comm[], uint64_t *random)
{
    zc_comm *to = comm[random_below(random, (uint64_t)plan.ranks)];

    switch (random_below(random, 10)) {
    case 0:
    case 1:
    case 2:
        loop_hold(to, true);
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        loop_deliver(to, 1 + random_below(random, 4), (enum loop_order)random_below(random, 3),
                     (unsigned)random_next(random));
        break;
    case 7:
        loop_hold(to, false);
        break;
    case 8:
        loop_delay(to, (unsigned)random_below(random, 5));
        break;
    default:
        if (plan.fail)
            loop_fail(to, 1 + random_below(random, 3), -EIO);
        break;
    }
}

static void calm(zc_comm *comm[])
{
    for (int i = 0; i < plan.ranks; i++) {
        loop_fail(comm[i], 0, 0);
        loop_delay(comm[i], 0);
        loop_hold(comm[i], false);
    }
}

/* One thread does everything: the order of all operations comes from the seed. */
static void run_lockstep(struct table *table, zc_comm *comm[], struct runner runner[], int actors)
{
    uint64_t random = plan.seed + 1;
    bool calmed = false;

    for (int left = actors; left > 0;) {
        bool ending = atomic_load(&table->finished) == (unsigned)actors;

        if (ending && !calmed) {
            calm(comm);
            calmed = true;
        }
        if (!ending && random_below(&random, 5) == 0)
            disturb(comm, &random);
        struct runner *r = &runner[random_below(&random, (uint64_t)actors)];
        if (r->actor && !actor_step(r->actor))
            left = 0; /* all have drained */
    }
}

static void finish(struct table *table, zc_comm *comm[], int ranks_here, double seconds)
{
    zc_stats s = stats_now();
    unsigned received = atomic_load(&table->received), tears = atomic_load(&table->tears);

    for (int i = 0; i < ranks_here; i++) {
        int result;

        while (plan.fail && (result = zc_flush(comm[i])) != 0)
            CHECK(result == -EIO);
        if (!plan.fail)
            CHECK_OK(zc_flush(comm[i]));
    }
    /* Over MPI this is collective, over loop all are flushed. */
    for (int i = 0; i < ranks_here; i++)
        CHECK_OK(zc_close(comm[i]));
    printf("oracle: %u operations, %u messages checked, %u torn, %u cut short, %u failed, %u cancelled, in %.1f s\n",
           atomic_load(&table->operations), received, tears, atomic_load(&table->truncated),
           atomic_load(&table->failures), atomic_load(&table->cancelled), seconds);
    printf("oracle: here: %llu sends (%llu protected, %llu free, %llu inline, %llu copied), %llu bounced, %llu faults, "
           "%llu conflicts, %llu renames, %llu waits, %llu unreserved\n",
           (unsigned long long)s.sends, (unsigned long long)s.sends_protected, (unsigned long long)s.sends_free,
           (unsigned long long)s.sends_inline, (unsigned long long)s.sends_copied,
           (unsigned long long)s.receives_bounced, (unsigned long long)s.faults, (unsigned long long)s.conflicts,
           (unsigned long long)s.renames, (unsigned long long)s.waits, (unsigned long long)s.unreserved);
    /* A run that met none of what it is for proves nothing. */
    CHECKF(received > plan.ops / 20, "only %u messages", received);
    if (plan.options.policy == ZC_POLICY_PROTECT && s.sends > 500)
        CHECKF(s.sends_protected > 0 && (plan.control || s.conflicts > 0), "nothing was protected, or nothing met");
    if (plan.fail)
        CHECKF(atomic_load(&table->failures) > 0, "nothing failed");
    if (plan.control)
        CHECKF(tears > 0, "the stores around the protection were not seen: the oracle is blind");
    else
        CHECK(tears == 0);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Runs the actors of the ranks that live in this process. */
static void run(struct table *table, zc_comm *comm[], int ranks_here)
{
    struct shared shared[RANKS][SHARED] = {0};
    struct runner runner[RANKS * THREADS] = {0};
    int n = 0, actors = plan.ranks * plan.threads;
    double start = now();
    uint64_t random = plan.seed + 2;

    for (int i = 0; i < ranks_here; i++) {
        CHECK_OK(zc_set_error_handler(comm[i], ignore_error, NULL));
        for (int k = 0; k < SHARED; k++)
            pthread_mutex_init(&shared[i][k].lock, NULL);
        for (int t = 0; t < plan.threads; t++)
            runner[n++].actor = actor_new(&plan, table, comm[i], t, shared[i]);
    }
    if (plan.lockstep) {
        run_lockstep(table, comm, runner, n);
    } else {
        for (int i = 0; i < n; i++)
            runner[i].thread = thread_start(run_actor, &runner[i]);
        while (!plan.mpi && !plan.outside && atomic_load(&table->finished) < (unsigned)actors) {
            disturb(comm, &random);
            usleep((useconds_t)random_below(&random, 300));
        }
        if (!plan.mpi && !plan.outside)
            calm(comm);
        for (int i = 0; i < n; i++)
            thread_join(runner[i].thread);
    }
    for (int i = 0; i < n; i++)
        actor_delete(runner[i].actor);
    for (int i = 0; i < ranks_here; i++)
        for (int k = 0; k < SHARED; k++) {
            CHECK_OK(zc_free(shared[i][k].bytes));
            free(shared[i][k].shadow);
        }
    finish(table, comm, ranks_here, now() - start);
}

static struct table *map_table(int fd)
{
    void *table =
        mmap(NULL, table_size(&plan), PROT_READ | PROT_WRITE, fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);

    CHECK(table != MAP_FAILED);
    return table;
}

static int run_mpi(int argc, char *argv[])
{
    char path[] = "/dev/shm/zc-oracle-XXXXXX";
    struct table *table;
    zc_comm *comm = NULL;
    int provided, rank, fd = -1;

    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    CHECK(provided == MPI_THREAD_MULTIPLE);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &plan.ranks);
    CHECKF(plan.ranks >= 1 && plan.ranks <= RANKS, "%d ranks", plan.ranks);
    /* All of one seed, even where the time gave it. */
    MPI_Bcast(&plan.seed, sizeof plan.seed, MPI_BYTE, 0, MPI_COMM_WORLD);
    note_command(argc, argv);
    if (rank == 0) {
        print_again();
        fd = mkstemp(path);
        CHECK(fd >= 0 && ftruncate(fd, (off_t)table_size(&plan)) == 0);
    }
    MPI_Bcast(path, sizeof path, MPI_CHAR, 0, MPI_COMM_WORLD);
    if (rank != 0)
        fd = open(path, O_RDWR);
    CHECKF(fd >= 0, "%s: %s", path, strerror(errno));
    table = map_table(fd);
    close(fd);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0)
        unlink(path);
    CHECK_OK(zc_open_mpi(MPI_COMM_WORLD, &plan.options, &comm));
    run(table, &comm, 1);
    MPI_Finalize();
    return 0;
}

int main(int argc, char *argv[])
{
    zc_comm *comm[RANKS] = {0};

    userfaultfd_or_skip();
    parse(argc, argv);
    check_last_words = actor_last_words;
    if (plan.mpi)
        return run_mpi(argc, argv);
    note_command(argc, argv);
    print_again();
    ranks_open(comm, plan.ranks, &plan.options);
    run(map_table(-1), comm, plan.ranks);
    return 0;
}
