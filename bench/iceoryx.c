/* SPDX-License-Identifier: MIT */
#include "bench/iceoryx.h"

#include <fcntl.h>
#include <iceoryx_binding_c/log.h>
#include <iceoryx_binding_c/publisher.h>
#include <iceoryx_binding_c/runtime.h>
#include <iceoryx_binding_c/subscriber.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/lib/bench.h"

static pid_t daemon_process;
static iox_pub_storage_t publisher_storage;
static iox_sub_storage_t subscriber_storage;
static iox_pub_t publisher;
static iox_sub_t subscriber;

static void stop_daemon(void)
{
    kill(daemon_process, SIGTERM);
    waitpid(daemon_process, NULL, 0);
}

static void start_daemon(void)
{
    char *args[] = {"iox-roudi", "--log-level", "error", "--monitoring-mode", "off", NULL};

    posix_spawn_file_actions_t quietly;

    posix_spawn_file_actions_init(&quietly);
    posix_spawn_file_actions_addopen(&quietly, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (posix_spawnp(&daemon_process, args[0], &quietly, NULL, args, environ))
        bench_die("iox-roudi cannot be started");
    posix_spawn_file_actions_destroy(&quietly);
    atexit(stop_daemon);
}

/* Each rank sends by a topic of its own. */
void iceoryx_open(const struct pair *pair)
{
    static const char *const topics[] = {"0", "1"};
    char name[32];
    iox_pub_options_t publishes;
    iox_sub_options_t subscribes;

    signal(SIGTERM, SIG_IGN); /* from a daemon that ends, for those that it knows */
    if (pair->rank == PAIR_SENDER)
        start_daemon();
    iox_set_loglevel(Iceoryx_LogLevel_Error);
    snprintf(name, sizeof name, "zc-bench-%d", (int)getpid());
    iox_runtime_init(name); /* waits for the daemon */
    iox_pub_options_init(&publishes);
    iox_sub_options_init(&subscribes);
    publisher = iox_pub_init(&publisher_storage, "zc", "bench", topics[pair->rank], &publishes);
    subscriber = iox_sub_init(&subscriber_storage, "zc", "bench", topics[pair->other], &subscribes);
    while (iox_sub_get_subscription_state(subscriber) != SubscribeState_SUBSCRIBED ||
           !iox_pub_has_subscribers(publisher))
        usleep(1000);
    MPI_Barrier(pair->mpi);
}

static void publish(const struct pair *pair, const void *data)
{
    void *chunk;

    if (iox_pub_loan_chunk(publisher, &chunk, (uint32_t)pair->size) != AllocationResult_SUCCESS)
        bench_die("iceoryx lends no chunk of %zu bytes", pair->size);
    memcpy(chunk, data, pair->size);
    iox_pub_publish_chunk(publisher, chunk);
}

void iceoryx_pass(struct pair *pair, pair_look *look)
{
    const void *chunk;

    if (pair->rank == PAIR_SENDER)
        publish(pair, pair->buf);
    while (iox_sub_take_chunk(subscriber, &chunk) != ChunkReceiveResult_SUCCESS)
        ;
    look(pair, chunk);
    if (pair->rank == PAIR_RECEIVER)
        publish(pair, chunk);
    iox_sub_release_chunk(subscriber, chunk);
}
