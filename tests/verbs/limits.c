/* SPDX-License-Identifier: MIT
 *
 * Cases: a device that has too little of something, and ranks that do not belong together. */
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <string.h>

#include "cases.h"

static void few_connections(struct ibv_device_attr *device)
{
    device->max_qp = 1;
}

static void short_queues(struct ibv_device_attr *device)
{
    device->max_qp_wr = 8;
}

static void short_completions(struct ibv_device_attr *device)
{
    device->max_cqe = 40;
}

static void short_receives(struct ibv_device_attr *device)
{
    device->max_srq_wr = 4;
}

/* Half of all that zc would like. */
static void modest(struct ibv_device_attr *device)
{
    device->max_qp_wr = 64;
    device->max_cqe = 300;
    device->max_srq_wr = 70;
    device->max_qp_rd_atom = device->max_qp_init_rd_atom = 1;
}

struct comer {
    char address[96];
    int result;
    char message[512];
    zc_comm *comm;
};

static void *come(void *argument)
{
    struct comer *comer = argument;

    comer->result = zc_open(comer->address, NULL, &comer->comm);
    if (comer->result)
        snprintf(comer->message, sizeof comer->message, "%s", zc_errmsg());
    return NULL;
}

/* They come together, each with this after its address; a root of its own for each time. */
static void meet(struct comer comers[], int n, int size, const char *const ranks[])
{
    static int port = 21000;
    pthread_t threads[4];

    port++;
    for (int i = 0; i < n; i++) {
        comers[i] = (struct comer){.result = 1};
        snprintf(comers[i].address, sizeof comers[i].address, "verbs:?size=%d&root=127.0.0.1:%d&wait=10&%s", size, port,
                 ranks[i]);
        threads[i] = thread_start(come, &comers[i]);
    }
    for (int i = 0; i < n; i++)
        thread_join(threads[i]);
}

static void expect(const struct comer *comer, int result, const char *text)
{
    CHECKF(comer->result == result && strstr(comer->message, text), "%s: %d, \"%s\"", comer->address, comer->result,
           comer->message);
}

void case_device_too_small(void)
{
    static void (*const small[])(struct ibv_device_attr *) = {few_connections, short_queues, short_completions,
                                                              short_receives};
    static const char *const ranks[] = {"rank=0", "rank=1", "rank=2"};
    struct comer comers[3];

    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        shrink_device = small[i];
        meet(comers, 3, 3, ranks);
        for (int r = 0; r < 3; r++)
            expect(&comers[r], -ENOSPC, "too few for 3 ranks");
    }
    CHECKF(registered == deregistered, "%lu, %lu", registered, deregistered);
    shrink_device = modest;
    meet(comers, 3, 3, ranks);
    char byte = 0;
    for (int r = 0; r < 3; r++) {
        expect(&comers[r], 0, "");
        CHECK_OK(zc_send("x", 1, (r + 1) % 3, 7, comers[r].comm));
    }
    for (int r = 0; r < 3; r++) {
        CHECK_OK(zc_recv(&byte, 1, ZC_ANY_SOURCE, 7, comers[r].comm, NULL));
        CHECK(byte == 'x');
    }
    /* More in flight than any of its queues has room for. */
    for (int i = 0; i < 300; i++)
        CHECK_OK(zc_send("y", 1, 1, 8, comers[0].comm));
    for (int i = 0; i < 300; i++) {
        CHECK_OK(zc_progress(comers[0].comm));
        for (int found = 0; !found;) {
            CHECK_OK(zc_progress(comers[0].comm));
            CHECK_OK(zc_iprobe(0, 8, comers[1].comm, &found, NULL));
        }
        CHECK_OK(zc_recv(&byte, 1, 0, 8, comers[1].comm, NULL));
    }
}

/* Growth fails with the reason, or goes without by option. What is there goes on. */
void case_regions_run_out(void)
{
    zc_comm *comm[2];

    ranks_open(comm, 2, NULL);
    char *small = ALLOC(100), in[100];
    regions_most = registered;
    CHECK(zc_alloc(64 * MIB) == NULL);
    CHECKF(strstr(zc_errmsg(), "regions of at most") && strstr(zc_errmsg(), "unregistered=copy"), "%s", zc_errmsg());
    memset(small, 'z', 100);
    CHECK_OK(zc_send(small, 100, 1, 1, comm[0]));
    CHECK_OK(zc_recv(in, 100, 0, 1, comm[1], NULL));
    CHECK(memcmp(in, small, 100) == 0);
    ranks_close(comm, 2);
}

/* Past what 32 bits can say. Of each piece only the head is read: a device in software needs minutes for all. */
void case_past_2_gib(void)
{
    enum { HEAD = 64 };
    size_t length = ((size_t)2 << 30) + 3 * MIB + 12345, step = MIB;
    zc_comm *comm[2];
    zc_status status;

    ranks_open(comm, 2, NULL);
    char *out = ALLOC(length), *in = ALLOC(length);
    for (size_t at = 0; at + HEAD <= length; at += step)
        pattern_fill(out + at, HEAD, at);
    read_head = HEAD;
    CHECK_OK(zc_irecv(in, length, 0, 1, comm[1]));
    CHECK_OK(zc_send_free(out, length, 1, 1, comm[0]));
    for (int done = 0; !done;) {
        CHECK_OK(zc_progress(comm[0]));
        CHECK_OK(zc_test(in, &done, &status));
    }
    CHECKF(status.length == length && status.error == 0, "%zu bytes", status.length);
    CHECKF(longest_read >= step && longest_read % step == 0, "read in pieces of %zu bytes", longest_read);
    for (size_t at = 0; at + HEAD <= length; at += longest_read)
        CHECK_PATTERN(in + at, HEAD, at);
    CHECK_OK(zc_free(in));
    ranks_close(comm, 2);
}

static void close_all(const struct comer comers[], int n)
{
    for (int i = 0; i < n; i++)
        if (comers[i].result == 0)
            CHECK_OK(zc_close(comers[i].comm));
}

/* Who does not belong is told why, and those who do find each other all the same. */
void case_strangers(void)
{
    struct comer comers[3];
    zc_comm *comm = NULL;

    meet(comers, 3, 2, (const char *const[]){"rank=0", "rank=1", "rank=1"});
    expect(&comers[0], 0, "");
    CHECK((comers[1].result == 0) != (comers[2].result == 0));
    const struct comer *refused = &comers[comers[1].result ? 1 : 2];
    /* It came before all were there, or when they were, and rank 0 stopped to listen or did so no more. */
    CHECKF(refused->result == -EEXIST || refused->result == -ECONNRESET || refused->result == -ETIMEDOUT, "%d: %s",
           refused->result, refused->message);
    CHECKF(refused->result == -ETIMEDOUT || strstr(refused->message, "started twice"), "%s", refused->message);
    close_all(comers, 3);
    meet(comers, 2, 2, (const char *const[]){"rank=0", "rank=0"});
    CHECK(comers[0].result == -EADDRINUSE || comers[1].result == -EADDRINUSE);
    CHECK(comers[0].result == -ETIMEDOUT || comers[1].result == -ETIMEDOUT);
    CHECK_FAILS(zc_open("verbs:?rank=1&size=2&root=nowhere.invalid:21000&wait=1", NULL, &comm), -EINVAL,
                "nowhere.invalid");
    CHECKF(registered == deregistered, "%lu, %lu", registered, deregistered);
}

/* A question for a peer's address that gets lost is asked again, but not for ever. */
void case_unanswered(void)
{
    static const char *const ranks[] = {"rank=0", "rank=1"};
    struct comer comers[2];

    unanswered = 4;
    meet(comers, 2, 2, ranks);
    expect(&comers[0], 0, "");
    expect(&comers[1], 0, "");
    CHECK(unanswered == 0);
    close_all(comers, 2);
    unanswered = 1000;
    meet(comers, 2, 2, ranks);
    CHECKF(comers[0].result == -ETIMEDOUT || comers[1].result == -ETIMEDOUT, "%d, %d", comers[0].result,
           comers[1].result);
    CHECK(comers[0].result && comers[1].result);
    unanswered = 0;
    CHECKF(registered == deregistered, "%lu, %lu", registered, deregistered);
}

/* A packet is sent seven times, each 4.096 µs << timeout after the one before. */
void case_timeouts(void)
{
    static const struct {
        const char *rank0, *rank1;
        unsigned timeout;
    } rounds[] = {{"rank=0", "rank=1", 17},
                  {"rank=0&timeout=60", "rank=1&timeout=60", 11},
                  {"rank=0&timeout=30K", "rank=1&timeout=30K", 20}};
    struct comer comers[2];

    for (size_t i = 0; i < sizeof rounds / sizeof rounds[0]; i++) {
        meet(comers, 2, 2, (const char *const[]){rounds[i].rank0, rounds[i].rank1});
        expect(&comers[0], 0, "");
        expect(&comers[1], 0, "");
        CHECKF(timeout == rounds[i].timeout, "%u", timeout);
        close_all(comers, 2);
    }
}
