/* SPDX-License-Identifier: MIT
 *
 * zc race: runs an MPI program with the libraries that see it touch message buffers too early. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/zc/command.h"

enum { STATUS_RACE = 66 };

static const char help[] =
    "CMD is a program that uses MPI, or what starts one: zc race -- mpiexec -n 2 ./program. It need not be\n"
    "changed, nor built anew; with -g reports name files and lines. A race is a store to a buffer that MPI is\n"
    "still sending, or any touch of one that it still receives into, until the program has completed the\n"
    "request; and freeing either.\n"
    "\n"
    "Each is told of once on standard error, when it happens, and added to a file of JSON lines. What happens\n"
    "to the buffer is then made good as zc does it, and the program goes on.\n"
    "\n"
    "  --abort        the process ends (abort) after the first\n"
    "  --output FILE  of JSON lines, instead of zc-race.jsonl; what was there is lost; if nothing\n"
    "                 was watched, there is none\n"
    "\n"
    "Buffers of MPI_Alloc_mem are watched, and those of malloc from a page to 64 MiB: ZC_MALLOC_MOST sets another\n"
    "bound, and all of a watched buffer takes memory. Those on the stack, in static memory or in other allocations\n"
    "cannot be; how many messages that were is told at the end. Nor can what the loader preloads nothing into:\n"
    "statically linked and setuid programs.\n"
    "\n"
    "Exit status: that of CMD, 128 + n if signal n ended it, 127 if it could not be run; if CMD's is 0, 66 if\n"
    "a race was seen, and 1 if nothing was watched.\n";

/* The file of a preload, in `path`: where the command was installed, or built. */
static int find_preload(const char *name, char path[PATH_MAX])
{
    static const char *const folders[] = {ZC_PRELOADS, "../shim"};
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0)
        return failed("/proc/self/exe: %s", strerror(errno));
    self[length] = 0;
    *strrchr(self, '/') = 0;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        if (snprintf(path, PATH_MAX, "%s/%s/%s", self, folders[i], name) < PATH_MAX && access(path, R_OK) == 0)
            return 0;
    }
    return failed("there is no %s in %s/%s: was it built?", name, self, folders[0]);
}

/* All preloads, and what the caller preloads, in the order in which calls are to find them. */
static int set_preloads(void)
{
    static const char *const names[] = {"libzc-race.so", "libzc-shim.so", "libzc-malloc.so"};
    char all[4 * PATH_MAX], path[PATH_MAX];
    size_t used = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (find_preload(names[i], path))
            return STATUS_FAILED;
        if (strpbrk(path, " :"))
            return failed("%s: LD_PRELOAD takes no name with a space or a colon", path);
        used += (size_t)snprintf(all + used, sizeof all - used, "%s%s", i ? ":" : "", path);
    }
    const char *others = getenv("LD_PRELOAD");
    if (others && *others)
        snprintf(all + used, sizeof all - used, ":%s", others);
    setenv("LD_PRELOAD", all, 1);
    return 0;
}

/* ---- what the libraries have written ---- */

static unsigned long long number_of(const char *line, const char *key)
{
    char name[64];
    snprintf(name, sizeof name, "\"%s\":", key);
    const char *at = strstr(line, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static int is_event(const char *line, const char *event)
{
    static const char start[] = "{\"event\":\"";
    size_t length = strlen(event);
    return strncmp(line, start, sizeof start - 1) == 0 && strncmp(line + sizeof start - 1, event, length) == 0 &&
           line[sizeof start - 1 + length] == '"';
}

struct sum {
    unsigned long long started, ended, races, sightings, watched, on_stack, is_static, elsewhere, lost;
};

static int add_up(const char *file, struct sum *sum)
{
    FILE *in = fopen(file, "r");
    char *line = NULL;
    size_t room = 0;
    if (!in)
        return failed("%s: %s", file, strerror(errno));
    while (getline(&line, &room, in) > 0) {
        sum->started += is_event(line, "start");
        sum->races += is_event(line, "race");
        if (is_event(line, "count"))
            sum->sightings += number_of(line, "count");
        if (!is_event(line, "end"))
            continue;
        sum->ended++;
        sum->watched += number_of(line, "watched");
        sum->on_stack += number_of(line, "stack");
        sum->is_static += number_of(line, "static");
        sum->elsewhere += number_of(line, "elsewhere");
        sum->lost += number_of(line, "lost");
    }
    free(line);
    fclose(in);
    return 0;
}

static int summarise(const struct sum *sum, const char *file, int status)
{
    if (!sum->started) {
        failed("nothing was watched: no process that uses MPI has loaded libzc-shim.so. Is the program statically "
               "linked, setuid, or without MPI?");
        return status ? status : STATUS_FAILED;
    }
    fprintf(stderr, "\nzc race: %llu race%s", sum->races, sum->races == 1 ? "" : "s");
    if (sum->sightings > sum->races)
        fprintf(stderr, ", seen %llu times", sum->sightings);
    fprintf(stderr, ", in %llu process%s; more in %s\n", sum->started, sum->started == 1 ? "" : "es", file);
    fprintf(stderr, "  %10llu  nonblocking messages were watched\n", sum->watched);
    if (sum->on_stack)
        fprintf(stderr, "  %10llu  could not be: in buffers on the stack\n", sum->on_stack);
    if (sum->is_static)
        fprintf(stderr, "  %10llu  could not be: in static buffers\n", sum->is_static);
    if (sum->elsewhere)
        fprintf(stderr, "  %10llu  could not be: in small or very large allocations, or copied\n", sum->elsewhere);
    if (sum->lost)
        fprintf(stderr, "  %10llu  races were not told of, there were too many at once\n", sum->lost);
    if (sum->ended < sum->started)
        fprintf(stderr, "  %10llu  processes ended without MPI_Finalize, and are not counted\n",
                sum->started - sum->ended);
    return status == 0 && sum->races ? STATUS_RACE : status;
}

/* Moves what is in one file to another, which is empty. 0, or -1 and errno. */
static int move(int to, int from)
{
    struct stat stat;
    if (fstat(from, &stat) || !S_ISREG(stat.st_mode))
        return 0; /* a device has nothing to keep */
    off_t at = 0;
    while (at < stat.st_size)
        if (sendfile(to, from, &at, (size_t)(stat.st_size - at)) <= 0)
            return -1;
    return ftruncate(from, 0);
}

/* Where nobody has written to it. */
static void remove_empty(int file, const char *path)
{
    struct stat stat;
    if (fstat(file, &stat) == 0 && S_ISREG(stat.st_mode) && !stat.st_size)
        unlink(path);
}

static int race(int argc, char **argv)
{
    int fatal = 0;
    const char *output = "zc-race.jsonl";
    const struct flag flags[] = {{"abort", &fatal, NULL}, {"output", NULL, &output}, {NULL, NULL, NULL}};
    int at = parse_flags(argc, argv, flags);
    if (at < 0)
        return STATUS_USAGE;
    if (at >= argc)
        return misused("expected a command to run");
    if (!*output)
        return misused("--output: expected a name that is not empty");
    if (set_preloads())
        return STATUS_FAILED;
    char path[PATH_MAX];
    int before = memfd_create("zc-race", MFD_CLOEXEC), file = open(output, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (before < 0 || file < 0 || !realpath(output, path) || move(before, file))
        return failed("%s: %s", output, strerror(errno));
    setenv("ZC_RACE", path, 1);
    setenv("ZC_RACE_ABORT", fatal ? "on" : "off", 1);
    setenv("ZC_POLICY", "protect", 1); /* what is copied is not seen */
    setenv("ZC_MALLOC_THRESHOLD", "4096", 0);
    int status = run_program(argv + at);
    if (status < 0 && move(file, before)) /* what was there is not lost to a slip of the pen */
        failed("%s: %s", output, strerror(errno));
    struct sum sum = {0};
    int error = status < 0 ? STATUS_NOT_RUN : add_up(path, &sum);
    remove_empty(file, path);
    close(before);
    close(file);
    return error ? error : summarise(&sum, output, status);
}

const struct command command_race = {.name = "race",
                                     .arguments = "[--abort] [--output FILE] -- CMD [ARGUMENT...]",
                                     .summary =
                                         "Run an MPI program and report where it touches a message buffer too early",
                                     .help = help,
                                     .run = race};
