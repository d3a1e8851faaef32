/* SPDX-License-Identifier: MIT
 *
 * hazard_child NAME: runs one hazard. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hazard.h"

zc_comm *open_self(void)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;

    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("loop", &options, &comm));
    return comm;
}

void flight_start(struct flight *f, zc_comm *comm, size_t length, uint64_t seed)
{
    size_t held = loop_held(comm);

    *f = (struct flight){.comm = comm, .length = length, .seed = seed};
    f->in = ALLOC(length);
    f->buffer = ALLOC(length);
    pattern_fill(f->buffer, length, seed);
    loop_hold(comm, true);
    CHECK_OK(zc_irecv(f->in, length, zc_rank(comm), 1, comm));
    CHECK_OK(zc_send(f->buffer, length, zc_rank(comm), 1, comm));
    CHECK_OK(zc_progress(comm));
    CHECKF(loop_held(comm) == held + 1, "%zu held, not %zu", loop_held(comm), held + 1);
}

void flight_land(struct flight *f)
{
    zc_status status;

    CHECK(loop_deliver(f->comm, 1, LOOP_OLDEST_FIRST, 0) == 1);
    CHECK_OK(zc_wait(f->in, &status));
    CHECK(status.length == f->length);
    CHECK_PATTERN(f->in, f->length, f->seed);
}

void flight_release(struct flight *f)
{
    CHECK_OK(zc_free(f->buffer));
    CHECK_OK(zc_free(f->in));
}

void expect_conflict(const zc_stats *before)
{
    zc_stats now = stats_now();

    CHECKF(now.faults > before->faults && now.conflicts > before->conflicts && now.renames > before->renames,
           "%llu faults, %llu conflicts, %llu renames", (unsigned long long)(now.faults - before->faults),
           (unsigned long long)(now.conflicts - before->conflicts),
           (unsigned long long)(now.renames - before->renames));
}

void expect_conflicts(zc_comm *comm)
{
    struct flight f[3]; /* each of a buffer of its own: a fault on the page of the last one may be taken for that */

    for (unsigned i = 0; i < COUNT(f); i++) {
        zc_stats before = stats_now();

        flight_start(&f[i], comm, 64 * KIB, i);
        ((volatile char *)f[i].buffer)[i] ^= 1;
        expect_conflict(&before);
        flight_land(&f[i]);
    }
    for (unsigned i = 0; i < COUNT(f); i++)
        flight_release(&f[i]);
}

static const struct {
    const char *name;
    void (*run)(void);
} hazards[] = {
#define ENTRY(name) {#name, hazard_##name},
    HAZARDS(ENTRY) DEADLY(ENTRY)};

int main(int argc, char *argv[])
{
    for (size_t i = 0; argc == 2 && i < COUNT(hazards); i++)
        if (strcmp(argv[1], hazards[i].name) == 0) {
            alarm(60); /* what hangs is ended by SIGALRM, which no hazard expects */
            check_scene = hazards[i].name;
            hazards[i].run();
            return 0;
        }
    fprintf(stderr, "usage: %s NAME, one of:\n", argv[0]);
    for (size_t i = 0; i < COUNT(hazards); i++)
        fprintf(stderr, "%s\n", hazards[i].name);
    return 2;
}
