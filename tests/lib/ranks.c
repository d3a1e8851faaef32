/* SPDX-License-Identifier: MIT */
#include "ranks.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

const char *ranks_transport = "loop";
const char *ranks_parameters = "";
int ranks_process;

enum { FIRST_PORT = 20000 };

struct rank {
    char address[96];
    char scene[32];
    const zc_options *options;
    zc_comm **comm;
    rank_body *body;
    void *argument;
    pthread_t thread;
};

pthread_t thread_start(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, body, argument);

    CHECKF(error == 0, "pthread_create: %d", error);
    return thread;
}

void thread_join(pthread_t thread)
{
    int error = pthread_join(thread, NULL);

    CHECKF(error == 0, "pthread_join: %d", error);
}

static void *open_one(void *argument)
{
    struct rank *rank = argument;

    check_scene = rank->scene;
    CHECK_OK(zc_open(rank->address, rank->options, rank->comm));
    return NULL;
}

static void *run_one(void *argument)
{
    struct rank *rank = argument;
    zc_comm *comm = NULL;

    rank->comm = &comm;
    open_one(rank);
    rank->body(comm, rank->argument);
    CHECK_OK(zc_close(comm));
    return NULL;
}

void ranks_address(char *address, size_t room, unsigned number, int rank, int size)
{
    if (strncmp(ranks_transport, "verbs", 5) != 0) {
        snprintf(address, room, "%s:test%d-%u?rank=%d&size=%d%s", ranks_transport,
                 ranks_process ? ranks_process : (int)getpid(), number, rank, size, ranks_parameters);
    } else {
        snprintf(address, room, "%s?rank=%d&size=%d&root=127.0.0.1:%u%s", ranks_transport, rank, size,
                 FIRST_PORT + number, ranks_parameters);
        char *star = strchr(address, '*');
        if (star)
            *star = rank % 2 ? '1' : '0';
    }
}

/* A name that no other communicator of this process has. */
static void describe(struct rank ranks[], int n, const zc_options *options)
{
    static atomic_uint made;
    unsigned number = atomic_fetch_add(&made, 1);

    CHECK(n <= RANKS_MAX);
    for (int i = 0; i < n; i++) {
        ranks_address(ranks[i].address, sizeof ranks[i].address, number, i, n);
        snprintf(ranks[i].scene, sizeof ranks[i].scene, "rank %d of %d", i, n);
        ranks[i].options = options;
    }
}

void ranks_open(zc_comm *comm[], int n, const zc_options *options)
{
    struct rank ranks[RANKS_MAX];

    describe(ranks, n, options);
    for (int i = 0; i < n; i++) {
        ranks[i].comm = &comm[i];
        ranks[i].thread = thread_start(open_one, &ranks[i]);
    }
    for (int i = 0; i < n; i++)
        thread_join(ranks[i].thread);
}

void ranks_close(zc_comm *comm[], int n)
{
    for (int i = 0; i < n; i++)
        CHECK_OK(zc_close(comm[i]));
}

void ranks_run(int n, const zc_options *options, rank_body *body, void *argument)
{
    struct rank ranks[RANKS_MAX];

    describe(ranks, n, options);
    for (int i = 0; i < n; i++) {
        ranks[i].body = body;
        ranks[i].argument = argument;
        ranks[i].thread = thread_start(run_one, &ranks[i]);
    }
    for (int i = 0; i < n; i++)
        thread_join(ranks[i].thread);
}
