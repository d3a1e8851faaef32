/* SPDX-License-Identifier: MIT
 *
 * Case: what messages cost in calls of libibverbs, once all is warm. */
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>

#include "cases.h"

enum { ROUNDS = 10, SENDS = 16, LARGE = 65536, SMALL = 1000 };

/* Posts that belong to no message: of slots given back, now and then, and signs of life. */
enum { SLACK = ROUNDS * SENDS / 8 };

static void print(const char *what, unsigned long posts, unsigned long polls, unsigned n)
{
    printf("  %s: %.2f posts and %.2f polls a message\n", what, (double)posts / n, (double)polls / n);
    fflush(stdout);
}

/* Sends a batch, which the peer confirms when it has it all. */
static void send_batch(zc_comm *comm, char *buffer, size_t length, bool give)
{
    for (int i = 0; i < SENDS; i++) {
        char *gift = give ? ALLOC(length) : NULL;

        CHECK_OK(give ? zc_send_free(gift, length, 1, 1, comm) : zc_send(buffer, length, 1, 1, comm));
    }
}

static void sender(zc_comm *comm, const char *name, size_t length, bool give, unsigned posts_most)
{
    char *buffer = ALLOC(LARGE), answer;
    unsigned long posts = 0, polls = 0, regions = 0;

    memset(buffer, 1, LARGE);
    for (int round = 0; round < 2 * ROUNDS; round++) { /* the first half is to warm up */
        unsigned long posts_before = posted, polls_before = polled, regions_before = registered;

        send_batch(comm, buffer, length, give);
        if (round >= ROUNDS) {
            posts += posted - posts_before;
            polls += polled - polls_before;
            regions += registered - regions_before;
        }
        CHECK_OK(zc_recv(&answer, 1, 1, 2, comm, NULL));
    }
    print(name, posts, polls, ROUNDS * SENDS);
    CHECKF(regions == 0, "%lu registrations", regions);
    CHECK(posts <= (unsigned long)ROUNDS * SENDS * posts_most + SLACK && polls <= (unsigned long)ROUNDS * SENDS);
    CHECK_OK(zc_free(buffer));
}

static void receiver(zc_comm *comm, size_t length)
{
    char *in = ALLOC(LARGE);
    unsigned long posts = 0, regions = 0;

    for (int round = 0; round < 2 * ROUNDS; round++) {
        unsigned long posts_before = posted, regions_before = registered;

        for (int i = 0; i < SENDS; i++)
            CHECK_OK(zc_recv(in, length, 0, 1, comm, NULL));
        if (round >= ROUNDS) {
            posts += posted - posts_before;
            regions += registered - regions_before;
        }
        CHECK_OK(zc_send("", 1, 0, 2, comm));
    }
    printf("  a receiver of %zu bytes: %.2f posts a message\n", length, (double)posts / (ROUNDS * SENDS));
    CHECKF(regions == 0, "%lu registrations", regions);
    /* A read, and the word that it is done. */
    CHECK(posts <= (unsigned long)ROUNDS * SENDS * (length == LARGE ? 2 : 0) + SLACK);
    CHECK_OK(zc_free(in));
}

static void either(int rank)
{
    zc_comm *comm = open_rank(rank, 2);

    if (rank == 0) {
        sender(comm, "zc_send of 1000 bytes", SMALL, false, 1);
        sender(comm, "zc_send of 64 KiB", LARGE, false, 2);
        sender(comm, "zc_send_free of 64 KiB", LARGE, true, 2);
    } else {
        receiver(comm, SMALL);
        receiver(comm, LARGE);
        receiver(comm, LARGE);
    }
    CHECK_OK(zc_close(comm));
}

void case_steady_state(void)
{
    pid_t child[2];

    children_start(2, either, child);
    children_end(2, child);
}
