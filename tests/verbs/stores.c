/* SPDX-License-Identifier: MIT
 *
 * Cases: the program touches buffers while the device is at them. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"
#include "core/clock.h"

/* ---- stores ---- */

enum { ROUNDS = 12 };
#define LENGTH (2 * MIB)

static void *receive_rounds(void *argument)
{
    zc_comm *comm = argument;
    char *in = ALLOC(LENGTH);

    check_scene = "the receiver";
    for (unsigned i = 0; i < ROUNDS; i++) {
        usleep(2000); /* the sender's stores come first now and then */
        CHECK_OK(zc_recv(in, LENGTH, 0, 1, comm, NULL));
        CHECK_PATTERN(in, LENGTH, i);
    }
    CHECK_OK(zc_free(in));
    return NULL;
}

/* Each message is overwritten, from the front or the back, as soon as it was sent. */
static void overwrite_rounds(const zc_options *options, const char *name)
{
    zc_comm *comm[2];
    zc_stats before = stats_now();

    ranks_open(comm, 2, options);
    check_scene = name;
    pthread_t thread = thread_start(receive_rounds, comm[1]);
    char *out = ALLOC(LENGTH);
    for (unsigned i = 0; i < ROUNDS; i++) {
        pattern_fill(out, LENGTH, i);
        CHECK_OK(zc_send(out, LENGTH, 1, 1, comm[0]));
        if (i % 3 == 1)
            usleep(3000); /* the device is at it */
        if (i % 2)
            memset(out, 0xee, LENGTH);
        else
            for (size_t at = LENGTH; at; at -= 4096)
                out[at - 1] = 0x77;
    }
    thread_join(thread);
    CHECK_OK(zc_flush(comm[0]));
    zc_stats after = stats_now();
    printf("  %s: %llu protected, %llu copied, %llu conflicts, %llu renames\n", name,
           (unsigned long long)(after.sends_protected - before.sends_protected),
           (unsigned long long)(after.sends_copied - before.sends_copied),
           (unsigned long long)(after.conflicts - before.conflicts),
           (unsigned long long)(after.renames - before.renames));
    if (options->policy == ZC_POLICY_PROTECT)
        CHECK(after.sends_protected > before.sends_protected && after.conflicts > before.conflicts);
    CHECK_OK(zc_free(out));
    ranks_close(comm, 2);
}

void case_stores_while_the_device_reads(void)
{
    static const enum zc_policy policies[] = {ZC_POLICY_AUTO, ZC_POLICY_COPY, ZC_POLICY_PROTECT};
    static const enum zc_conflict conflicts[] = {ZC_CONFLICT_AUTO, ZC_CONFLICT_WAIT, ZC_CONFLICT_COPY};
    static const enum zc_release releases[] = {ZC_RELEASE_AUTO, ZC_RELEASE_EAGER, ZC_RELEASE_LAZY};
    zc_options options = ZC_OPTIONS_INIT;
    char name[64];

    for (int p = 0; p < 3; p++)
        for (int i = 0; i < (p == 1 ? 1 : 3); i++) {
            options.policy = policies[p];
            options.conflict = conflicts[i];
            options.release = releases[(i + p) % 3];
            snprintf(name, sizeof name, "policy %d, conflict %d, release %d", (int)options.policy,
                     (int)options.conflict, (int)options.release);
            overwrite_rounds(&options, name);
        }
}

/* ---- touches ---- */

static atomic_bool sent;

static void *send_late(void *argument)
{
    char *out = ALLOC(3 * MIB);

    pattern_fill(out, 3 * MIB, 9);
    usleep(300000);
    atomic_store(&sent, true);
    CHECK_OK(zc_send(out, 3 * MIB, 1, 1, argument));
    CHECK_OK(zc_flush(argument));
    CHECK_OK(zc_free(out));
    return NULL;
}

void case_touch_waits_until_landed(void)
{
    zc_comm *comm[2];

    ranks_open(comm, 2, NULL);
    for (int kind = 0; kind < 2; kind++) {
        volatile char *in = ALLOC(3 * MIB);

        atomic_store(&sent, false);
        memset((char *)in, 0, 3 * MIB);
        CHECK_OK(zc_irecv((char *)in, 3 * MIB, 0, 1, comm[1]));
        pthread_t thread = thread_start(send_late, comm[0]);
        if (kind)
            in[2 * MIB] = in[2 * MIB]; /* a store, of what is there */
        else
            (void)in[3 * MIB - 1];
        CHECK(atomic_load(&sent));
        CHECK_PATTERN((char *)in, 3 * MIB, 9);
        thread_join(thread);
        CHECK_OK(zc_wait((char *)in, NULL));
        CHECK_OK(zc_free((char *)in));
    }
    ranks_close(comm, 2);
}

/* ---- fork ---- */

static void *receive_patterns(void *argument)
{
    char *in = ALLOC(MIB);

    for (unsigned i = 0; i < 20; i++) {
        CHECK_OK(zc_recv(in, MIB, 0, 1, argument, NULL));
        CHECK_PATTERN(in, MIB, i);
    }
    CHECK_OK(zc_free(in));
    return NULL;
}

/* Pages that the device knows stay the parent's, whatever it stores after a fork. */
void case_forks(void)
{
    zc_comm *comm[2];
    pid_t child[20];

    ranks_open(comm, 2, NULL);
    char *out = ALLOC(MIB);
    pthread_t thread = thread_start(receive_patterns, comm[1]);
    for (unsigned i = 0; i < 20; i++) {
        pattern_fill(out, MIB, i);
        CHECK_OK(zc_send(out, MIB, 1, 1, comm[0]));
        child[i] = fork();
        CHECK(child[i] >= 0);
        if (child[i] == 0) {
            usleep(100000);
            _exit(0);
        }
        memset(out, 0xaa, MIB);
    }
    thread_join(thread);
    for (unsigned i = 0; i < 20; i++)
        CHECK(waitpid(child[i], NULL, 0) == child[i]);
    pid_t toucher = fork();
    if (toucher == 0) {
        out[0] = 1;
        _exit(0);
    }
    int status;
    CHECK(waitpid(toucher, &status, 0) == toucher);
    CHECKF(!WIFEXITED(status) || WEXITSTATUS(status) != 0, "a child could store to its parent's buffer");
    CHECK_BYTES(out, MIB, 0xaa);
    CHECK_OK(zc_free(out));
    ranks_close(comm, 2);
}
