/* SPDX-License-Identifier: MIT
 *
 * Counts what a send costs the processor, which no speed of a guest can tell: runs a sender by single steps between two
 * marks, and says how many instructions were zc's own, and which system calls there were. Beyond the doorbell of the
 * provider, which Soft-RoCE has in the kernel, there may be none. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

/* Sixteen sends: one of so many looks for what is over. */
enum { TIMES = 16, WARM = 32, LENGTH = 65536, SMALL = 1000, PORT = 19100 };

/* Instructions that the end of a send may take, and percents of the bounds that are allowed: a debug build is optimized
 * less, and has assertions. */
#ifdef NDEBUG
enum { END_MOST = 480, PERCENT = 100 };
#else
enum { END_MOST = 480, PERCENT = 125 };
#endif

/* ---- the sender, which is stepped through, and its receiver ---- */

static _Atomic int *received; /* messages; shared */

#define MARK() __asm__ volatile("int3")

static zc_comm *open_rank(int rank)
{
    zc_comm *comm = NULL;
    char address[96];

    snprintf(address, sizeof address, "verbs:?rank=%d&size=2&root=127.0.0.1:%d", rank, PORT);
    CHECK_OK(zc_open(address, NULL, &comm));
    return comm;
}

static void receive_all(void)
{
    zc_comm *comm = open_rank(1);
    char *in = ALLOC(LENGTH);

    for (;;) {
        zc_status status;

        CHECK_OK(zc_recv(in, LENGTH, 0, ZC_ANY_TAG, comm, &status));
        if (status.tag == 1)
            break;
        ++*received;
    }
    CHECK_OK(zc_close(comm));
}

/* Until the receiver has it, and has said so: what is left is to take notice. */
static void arrive(int sent)
{
    while (*received < sent)
        usleep(1000);
    usleep(20000);
}

static void send_small(char *buffer, zc_comm *comm)
{
    CHECK_OK(zc_send(buffer, SMALL, 1, 0, comm));
}

static void send_again(char *buffer, zc_comm *comm)
{
    CHECK_OK(zc_send(buffer, LENGTH, 1, 0, comm));
}

static void send_free(char *buffer, zc_comm *comm)
{
    CHECK_OK(zc_send_free(buffer, LENGTH, 1, 0, comm));
}

/* What is counted, in this order. */
static const struct section {
    const char *name;
    void (*send)(char *buffer, zc_comm *comm);
    bool gives;              /* the buffer away */
    unsigned long send_most; /* instructions */
} sections[] = {{"zc_send of 1000 bytes", send_small, false, 600},
                {"zc_send of 64 KiB, not written since the last one", send_again, false, 600},
                {"zc_send_free of 64 KiB", send_free, true, 700}};

enum { SECTIONS = sizeof sections / sizeof sections[0] };

static void send_section(const struct section *section, zc_comm *comm, int *sent)
{
    char *buffer = ALLOC(LENGTH);

    memset(buffer, 1, LENGTH);
    for (int i = 0; i < WARM + TIMES; i++) {
        if (i >= WARM)
            MARK();
        section->send(buffer, comm);
        if (i >= WARM)
            MARK();
        arrive(++*sent);
        if (i >= WARM)
            MARK();
        CHECK_OK(zc_progress(comm));
        if (i >= WARM)
            MARK();
        CHECK_OK(zc_flush(comm));
        if (section->gives)
            buffer = ALLOC(LENGTH);
    }
    CHECK_OK(zc_free(buffer));
}

static void send_all(void)
{
    zc_comm *comm = open_rank(0);
    int sent = 0;

    for (const struct section *s = sections; s < sections + SECTIONS; s++)
        send_section(s, comm, &sent);
    CHECK_OK(zc_send(NULL, 0, 1, 1, comm));
    CHECK_OK(zc_close(comm));
}

/* ---- stepping ---- */

struct range {
    unsigned long start, end;
};

/* Where the code of zc is in that process. */
static struct range code_of_zc(pid_t pid)
{
    char path[32], line[512];
    struct range range = {0};

    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        if (!strstr(line, "/libzc.so") || !strstr(line, " r-xp "))
            continue;
        char *dash;
        range.start = strtoul(line, &dash, 16);
        range.end = strtoul(dash + 1, NULL, 16);
    }
    fclose(maps);
    CHECKF(range.end, "no code of libzc.so");
    return range;
}

struct tally {
    unsigned long instructions, doorbells;
};

/* What several sends took, or their ends. Most take the same; the average has what belongs to many as well. */
struct summary {
    unsigned long most, average, doorbells;
};

static int by_instructions(const void *a, const void *b)
{
    const struct tally *left = a, *right = b;

    return (left->instructions > right->instructions) - (left->instructions < right->instructions);
}

static struct summary summarize(struct tally tallies[TIMES])
{
    struct summary sum = {0};

    qsort(tallies, TIMES, sizeof tallies[0], by_instructions);
    for (int i = 0; i < TIMES; i++) {
        sum.average += tallies[i].instructions;
        sum.doorbells += tallies[i].doorbells;
    }
    sum.average /= TIMES;
    sum.most = tallies[TIMES / 2].instructions;
    return sum;
}

/* Goes on by `request`, a step or to the next mark. False: it has ended. */
static bool go_on(pid_t pid, enum __ptrace_request request)
{
    for (int signal = 0, status;;) {
        CHECK(ptrace(request, pid, NULL, signal) == 0);
        CHECK(waitpid(pid, &status, 0) == pid);
        if (WIFEXITED(status)) {
            CHECK(WEXITSTATUS(status) == 0);
            return false;
        }
        CHECKF(WIFSTOPPED(status), "the sender ended with status %#x", (unsigned)status);
        signal = WSTOPSIG(status);
        if (signal == SIGTRAP)
            return true;
    }
}

/* From behind one mark to behind the next. */
static void step_through(pid_t pid, const struct range *zc, struct tally *tally)
{
    for (unsigned long before = 0;;) {
        struct user_regs_struct registers;

        CHECK(ptrace(PTRACE_GETREGS, pid, NULL, &registers) == 0);
        unsigned long code = (unsigned long)ptrace(PTRACE_PEEKTEXT, pid, registers.rip, NULL);
        /* A repeated string instruction traps each time. */
        if (registers.rip != before && registers.rip >= zc->start && registers.rip < zc->end)
            tally->instructions++;
        before = registers.rip;
        if ((code & 0xffff) == 0x050f) { /* syscall */
            CHECKF(registers.rax == SYS_write || registers.rax == SYS_ioctl, "system call %llu",
                   (unsigned long long)registers.rax);
            tally->doorbells++;
        }
        CHECK(go_on(pid, PTRACE_SINGLESTEP));
        if ((code & 0xff) == 0xcc)
            return;
    }
}

static void count_section(pid_t pid, const struct section *section)
{
    struct tally sends[TIMES] = {0}, ends[TIMES] = {0};

    for (int i = 0; i < TIMES; i++) {
        struct range zc;

        CHECK(go_on(pid, PTRACE_CONT));
        zc = code_of_zc(pid);
        step_through(pid, &zc, &sends[i]);
        CHECK(go_on(pid, PTRACE_CONT));
        step_through(pid, &zc, &ends[i]);
    }
    struct summary send = summarize(sends), end = summarize(ends);

    printf("%-50s %4lu instructions of zc (on average %4lu), and for its end %4lu (%4lu); %.2f doorbells\n",
           section->name, send.most, send.average, end.most, end.average,
           (double)(send.doorbells + end.doorbells) / TIMES);
    fflush(stdout);
    CHECK(100 * send.most <= PERCENT * section->send_most && 100 * end.most <= PERCENT * END_MOST);
    /* One each, and now and then one that tells the peer of slots given back, or asks whether it is alive. */
    CHECK(send.doorbells >= TIMES && send.doorbells + end.doorbells <= 2 * TIMES);
}

static pid_t start(void (*body)(void), bool traced)
{
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        if (traced)
            CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 && raise(SIGSTOP) == 0);
        body();
        exit(0);
    }
    return pid;
}

int main(void)
{
    int status;

    received = mmap(NULL, sizeof *received, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(received != MAP_FAILED);
    setenv("ZC_POLICY", "protect", 1);
    setenv("ZC_RELEASE", "lazy", 1);
    pid_t receiver = start(receive_all, false), sender = start(send_all, true);
    CHECK(waitpid(sender, &status, 0) == sender && WIFSTOPPED(status));
    for (const struct section *s = sections; s < sections + SECTIONS; s++)
        count_section(sender, s);
    CHECK(!go_on(sender, PTRACE_CONT));
    CHECK(waitpid(receiver, &status, 0) == receiver && status == 0);
    return 0;
}
