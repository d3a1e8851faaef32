/* SPDX-License-Identifier: MIT */
#include "actor.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pattern.h"
#include "transport/loop.h"

static _Thread_local struct actor *running;

void note(struct actor *a, const char *format, ...)
{
    char *line = a->history[a->lines++ % HISTORY];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof a->history[0], format, arguments);
    va_end(arguments);
    if (a->plan->trace)
        fprintf(stderr, "%d.%d %u: %s\n", a->rank, a->thread, a->done, line);
}

void actor_last_words(void)
{
    struct actor *a = running;

    if (!a)
        return;
    fprintf(stderr, "rank %d, thread %d, operation %u; the last ones:\n", a->rank, a->thread, a->done);
    for (unsigned i = a->lines > HISTORY ? a->lines - HISTORY : 0; i < a->lines; i++)
        fprintf(stderr, "  %s\n", a->history[i % HISTORY]);
    fprintf(stderr, "again: %s\n", a->plan->command);
}

uint64_t below(struct actor *a, uint64_t bound)
{
    return random_below(&a->random, bound);
}

size_t length_below(struct actor *a, size_t bound)
{
    switch (below(a, 6)) {
    case 0:
        return below(a, bound < 16 ? bound + 1 : 16);
    case 1:
        return bound;
    case 2:
        return bound / PAGE * PAGE;
    default:
        return below(a, bound + 1);
    }
}

int tag_number(const struct actor *a, int tag)
{
    return 1 + a->thread * TAGS + tag;
}

struct channel *incoming(const struct actor *a, int source, int tag)
{
    return table_channel(a->table, source, a->rank, a->thread, tag);
}

void let_go(struct actor *a)
{
    if (a->plan->lockstep)
        loop_hold(a->comm, false);
}

/* Takes what is left to take; true when that is all, for ever. */
static bool drain(struct actor *a)
{
    unsigned actors = (unsigned)(a->plan->ranks * a->plan->threads);
    bool all_sent = atomic_load(&a->table->finished) == actors;

    for (struct receive *r = a->oldest; r; r = r->next)
        if (r->state == IN_FLIGHT && (all_sent || sure(a, r))) {
            settle(a, r->buffer, r->at, r->cap);
            return false;
        }
    if (op_recv(a))
        return false;
    CHECK_OK(zc_progress(a->comm));
    return all_sent && !a->oldest;
}

bool actor_step(struct actor *a)
{
    unsigned actors = (unsigned)(a->plan->ranks * a->plan->threads);

    running = a;
    switch (a->phase) {
    case WORKING:
        if (a->done == a->ops) {
            a->phase = DRAINING;
            atomic_fetch_add(&a->table->finished, 1);
        } else {
            work(a);
            a->done++;
        }
        break;
    case DRAINING:
        if (drain(a)) {
            for (int i = 0; i < BUFFERS; i++)
                if (a->buffer[i].bytes)
                    verify(a, &a->buffer[i]);
            a->phase = DRAINED;
            atomic_fetch_add(&a->table->drained, 1);
        }
        break;
    case DRAINED:
        /* Others may need this rank's progress to take what it has sent. */
        CHECK_OK(zc_progress(a->comm));
        break;
    }
    CHECK_SIGNALS();
    running = NULL;
    return a->phase != DRAINED || atomic_load(&a->table->drained) < actors;
}

struct actor *actor_new(const struct plan *plan, struct table *table, zc_comm *comm, int thread, struct shared *shared)
{
    struct actor *a = calloc(1, sizeof *a);

    CHECK(a);
    a->plan = plan;
    a->table = table;
    a->comm = comm;
    a->thread = thread;
    a->rank = zc_rank(comm);
    a->shared = shared;
    a->newest = &a->oldest;
    a->ops = plan->ops / (unsigned)(plan->ranks * plan->threads);
    a->random = plan->seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)(a->rank * THREADS + thread);
    return a;
}

void actor_delete(struct actor *a)
{
    for (int source = 0; source < a->plan->ranks; source++)
        for (int tag = 0; tag < TAGS; tag++)
            CHECK(a->next[source][tag] == atomic_load(&incoming(a, source, tag)->announced));
    for (int i = 0; i < BUFFERS; i++)
        if (a->buffer[i].bytes) {
            CHECK_OK(zc_free(a->buffer[i].bytes));
            drop(&a->buffer[i]);
        }
    free(a);
}
