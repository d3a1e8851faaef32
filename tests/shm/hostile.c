/* SPDX-License-Identifier: MIT
 *
 * Cases: a peer that writes what it likes to its own board and socket. It is disconnected, and nothing more. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cases.h"
#include "system.h"

/* Rank 0 is honest, 1 lies, 2 looks on. All are threads, so that a sanitizer sees all of them. */
enum { HONEST, LIAR, OTHER, RANKS };

static struct ring *ring_to_honest(zc_comm *liar)
{
    return &shm_of(liar)->peers[HONEST]->ring;
}

/* Has the honest one got rid of the liar, and is all well with the other? */
static void check_disconnected(zc_comm *comm[RANKS])
{
    char *buffer = ALLOC(100000);
    int error = 0;

    for (int i = 0; i < 1000 && !error; i++) {
        CHECK_OK(zc_progress(comm[HONEST]));
        error = zc_send(buffer, 1, LIAR, 1, comm[HONEST]);
    }
    CHECK_IS(error, -ECONNRESET);
    CHECKF(strstr(zc_errmsg(), "rank 1 is lost"), "%s", zc_errmsg());
    pattern_fill(buffer, 100000, 7);
    CHECK_OK(zc_send(buffer, 100000, OTHER, 2, comm[HONEST]));
    CHECK_OK(zc_recv(buffer, 100000, HONEST, 2, comm[OTHER], NULL));
    CHECK_PATTERN(buffer, 100000, 7);
    CHECK_OK(zc_free(buffer));
}

static void close_all(zc_comm *comm[RANKS])
{
    for (int i = 0; i < RANKS; i++)
        zc_close(comm[i]); /* the liar's has an error, or not */
}

/* One such cell is enough. */
static void lie(struct cell cell, const char *bytes, size_t length)
{
    zc_comm *comm[RANKS];

    ranks_open(comm, RANKS, NULL);
    ring_put(ring_to_honest(comm[LIAR]), &cell, bytes, length);
    check_disconnected(comm);
    close_all(comm);
}

void case_lies_about_cells(void)
{
    static const char bytes[100];

    lie((struct cell){.kind = 77}, NULL, 0);
    lie((struct cell){.kind = CELL_WHOLE, .tag = -1, .length = 3}, bytes, 3);
    lie((struct cell){.kind = CELL_WHOLE, .length = RING_EAGER + 1}, NULL, 0);
    lie((struct cell){.kind = CELL_WHOLE, .length = 100, .at = RING_LETTERS - 99}, NULL, 0);
    lie((struct cell){.kind = CELL_WHOLE, .length = 100, .at = UINT64_MAX}, NULL, 0);
    lie((struct cell){.kind = CELL_DONE, .id = 5}, NULL, 0);
    lie((struct cell){.kind = CELL_PULL, .id = UINT32_MAX, .length = 1}, NULL, 0);
    lie((struct cell){.kind = CELL_PART, .reply = 0, .length = 1}, NULL, 0);
    lie((struct cell){.kind = CELL_OFFER, .length = 10000, .segment = 0}, NULL, 0);
    lie((struct cell){.kind = CELL_OFFER, .length = 10000, .segment = SHM_SEGMENTS_MOST}, NULL, 0);
}

static void *notice_cancelled(void *argument)
{
    zc_comm *comm = argument;

    pthread_cancel(pthread_self());
    while (!shm_of(comm)->peers[LIAR]->error)
        CHECK_OK(zc_progress(comm));
    return NULL;
}

/* Who notices has a cancellation pending, and leaves no lock behind. */
void case_cancelled_amid_lies(void)
{
    zc_comm *comm[RANKS];
    struct cell lie = {.kind = 77};
    void *result;

    ranks_open(comm, RANKS, NULL);
    CHECK(ring_put(ring_to_honest(comm[LIAR]), &lie, NULL, 0) == RING_PUT);
    pthread_t thread = thread_start(notice_cancelled, comm[HONEST]);
    CHECK(pthread_join(thread, &result) == 0);
    CHECKF(result == NULL, "the thread was cancelled in zc_progress");
    check_disconnected(comm);
    close_all(comm);
}

/* The parts of a message are there before the honest one can have asked for them. */
void case_answers_unasked(void)
{
    zc_comm *comm[RANKS];
    struct cell offer = {.kind = CELL_OFFER, .length = 10000, .segment = NO_SEGMENT},
                part = {.kind = CELL_PART, .length = 5000};
    static const char bytes[5000];
    char *in = ALLOC(10000);

    ranks_open(comm, RANKS, NULL);
    CHECK_OK(zc_irecv(in, 10000, LIAR, 0, comm[HONEST]));
    ring_put(ring_to_honest(comm[LIAR]), &offer, NULL, 0);
    for (int i = 0; i < 2; i++)
        ring_put(ring_to_honest(comm[LIAR]), &part, bytes, sizeof bytes);
    check_disconnected(comm);
    CHECK_IS(zc_wait(in, NULL), -ECONNRESET);
    CHECK_OK(zc_free(in));
    close_all(comm);
}

void case_lies_about_what_it_took(void)
{
    zc_comm *comm[RANKS];
    char *buffer = ALLOC(1);

    ranks_open(comm, RANKS, NULL);
    atomic_store(&ring_to_honest(comm[LIAR])->mine->taken, UINT64_MAX);
    for (int i = 0; i < RING_CELLS + 2; i++) /* until there is no room but what the liar tells of */
        zc_send(buffer, 1, LIAR, 3, comm[HONEST]);
    check_disconnected(comm);
    zc_flush(comm[HONEST]);
    close_all(comm);
    CHECK_OK(zc_free(buffer));
}

static void lie_with_two_descriptors(void)
{
    zc_comm *comm[RANKS];
    struct packet wake = {.kind = PACKET_WAKE};
    int two[2] = {0, 1};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof two)];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof two), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec bytes = {&wake, sizeof wake};
    struct msghdr message = {
        .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};

    memcpy(CMSG_DATA(&control.header), two, sizeof two);
    ranks_open(comm, RANKS, NULL);
    CHECK(sendmsg(shm_of(comm[LIAR])->peers[HONEST]->sock, &message, 0) == sizeof wake);
    check_disconnected(comm);
    close_all(comm);
}

/* With one packet: none is kept. */
void case_more_descriptors_than_one(void)
{
    lie_with_two_descriptors(); /* the pools that it takes have theirs now */
    int before = system_descriptors();
    lie_with_two_descriptors();
    CHECKF(system_descriptors() == before, "%d descriptors are open, not %d", system_descriptors(), before);
}

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | 0x10 /* F_SEAL_FUTURE_WRITE */ };

/* Shows a memfd of `size` bytes with `seals` as one of `length`. */
static void show(zc_comm *liar, size_t size, int seals, const struct packet *as)
{
    int fd = memfd_create("lie", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    CHECK(!seals || fcntl(fd, F_ADD_SEALS, seals) == 0);
    CHECK_OK(packet_send(shm_of(liar)->peers[HONEST]->sock, as, fd));
    close(fd);
}

static void lie_by_showing(size_t size, int seals, struct packet as)
{
    zc_comm *comm[RANKS];
    struct cell offer = {.kind = CELL_OFFER, .length = 10000, .segment = as.number, .generation = 1};

    ranks_open(comm, RANKS, NULL);
    as.kind = PACKET_SHOW;
    as.generation = 1;
    show(comm[LIAR], size, seals, &as);
    ring_put(ring_to_honest(comm[LIAR]), &offer, NULL, 0); /* it makes the other look */
    check_disconnected(comm);
    close_all(comm);
}

void case_lies_about_segments(void)
{
    struct packet right = {.length = 2 * MIB, .slot_size = MIB, .stride = MIB}, wrong;

    lie_by_showing(2 * MIB, 0, right);                           /* could be cut off under the reader */
    lie_by_showing(2 * MIB, F_SEAL_SHRINK | F_SEAL_GROW, right); /* others could write */
    lie_by_showing(MIB, SEALS, right);
    wrong = right, wrong.number = SHM_SEGMENTS_MOST;
    lie_by_showing(2 * MIB, SEALS, wrong);
    wrong = right, wrong.slot_size = 0;
    lie_by_showing(2 * MIB, SEALS, wrong);
    wrong = right, wrong.stride = 8 * MIB;
    lie_by_showing(2 * MIB, SEALS, wrong);
    wrong = right, wrong.slot_size = wrong.stride = 8192; /* the message leaves its slot */
    lie_by_showing(2 * MIB, SEALS, wrong);
    wrong = right, wrong.length = (size_t)sysconf(_SC_PHYS_PAGES) / 512 * 2 * MIB * 5; /* more than there can be */
    lie_by_showing(wrong.length, SEALS, wrong);

    /* Another generation than was shown, or behind the end. */
    for (int i = 0; i < 2; i++) {
        zc_comm *comm[RANKS];
        struct cell offer = {.kind = CELL_OFFER, .length = 10000, .generation = i ? 1 : 2, .at = i ? 2 * MIB : 0};

        ranks_open(comm, RANKS, NULL);
        wrong = right;
        wrong.kind = PACKET_SHOW;
        wrong.generation = 1;
        show(comm[LIAR], 2 * MIB, SEALS, &wrong);
        ring_put(ring_to_honest(comm[LIAR]), &offer, NULL, 0);
        check_disconnected(comm);
        close_all(comm);
    }
}

/* Shows, sends from there and forgets, `most` times, and once more. What messages are there of counts all the while. */
static void show_and_forget(size_t length, uint32_t most)
{
    zc_comm *comm[RANKS];

    ranks_open(comm, RANKS, NULL);
    for (uint32_t i = 0; i <= most; i++) {
        struct packet packet = {
            .kind = PACKET_SHOW, .generation = i, .length = length, .slot_size = length, .stride = length};
        struct cell offer = {.kind = CELL_OFFER, .tag = 1, .length = 10000, .generation = i};

        CHECKF(shm_of(comm[HONEST])->peers[LIAR]->error == 0, "disconnected after %u of %u", i, most);
        show(comm[LIAR], length, SEALS, &packet);
        CHECK(ring_put(ring_to_honest(comm[LIAR]), &offer, NULL, 0) == RING_PUT);
        CHECK_OK(zc_progress(comm[HONEST]));
        packet.kind = PACKET_FORGET;
        packet_send(shm_of(comm[LIAR])->peers[HONEST]->sock, &packet, -1);
    }
    check_disconnected(comm);
    close_all(comm);
}

void case_shows_too_much(void)
{
    struct rlimit limit;

    show_and_forget((size_t)sysconf(_SC_PHYS_PAGES) / 512 * 2 * MIB * 3, 1);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_max > SHM_SEGMENTS_MOST + 100)
        show_and_forget(16384, SHM_SEGMENTS_MOST);
}

/* ---- random ---- */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Numbers that are likely to be looked at twice. */
static uint64_t number(uint64_t *state)
{
    static const uint64_t some[] = {0,    1,     2,       96,      97,         8191,      8192,
                                    8193, 65536, 1 << 20, 2 << 20, UINT32_MAX, INT64_MAX, UINT64_MAX};
    uint64_t random = next_random(state);

    return random % 4 ? some[random / 4 % (sizeof some / sizeof *some)] : random >> (random / 4 % 64);
}

/* A liar sends random cells and packets, until it is disconnected or has had enough. */
static void tell_lies(zc_comm *comm[2], uint64_t *state)
{
    struct ring *ring = ring_to_honest(comm[LIAR]);
    char *in = ALLOC(20000), *out = ALLOC(20000);
    static const char bytes[RING_EAGER];

    for (int i = 0; i < 200 && shm_of(comm[HONEST])->peers[LIAR]->error == 0; i++) {
        struct cell cell = {.kind = (uint32_t)(next_random(state) % 6),
                            .tag = (int32_t)(next_random(state) % 3),
                            .length = number(state)};
        if (cell.kind != CELL_WHOLE || cell.length > RING_EAGER) {
            cell.at = number(state);
            cell.id = (uint32_t)number(state);
            cell.reply = (uint32_t)number(state);
            cell.segment = next_random(state) % 2 ? NO_SEGMENT : (uint32_t)number(state);
            cell.generation = (uint32_t)number(state);
        }
        struct packet packet = {.kind = (uint32_t)(next_random(state) % 5),
                                .number = (uint32_t)number(state),
                                .generation = (uint32_t)number(state),
                                .length = number(state),
                                .slot_size = number(state),
                                .stride = number(state)};
        zc_irecv(in, 20000, LIAR, (int)(next_random(state) % 3), comm[HONEST]);
        zc_send(out, number(state) % 20000, LIAR, 1, comm[HONEST]);
        if (next_random(state) % 16 == 0)
            packet_send(shm_of(comm[LIAR])->peers[HONEST]->sock, &packet, next_random(state) % 2 ? 1 : -1);
        else
            ring_put(ring, &cell, bytes, cell.kind == CELL_WHOLE && cell.length <= RING_EAGER ? cell.length : 0);
        zc_progress(comm[HONEST]);
    }
    /* The honest one comes to an end, whatever the liar has left undone. */
    atomic_store(&shm_of(comm[LIAR])->peers[HONEST]->ring.mine->taken, UINT64_MAX - 1);
    struct packet nonsense = {.kind = 99};
    packet_send(shm_of(comm[LIAR])->peers[HONEST]->sock, &nonsense, -1);
    while (shm_of(comm[HONEST])->peers[LIAR]->error == 0)
        zc_progress(comm[HONEST]);
    zc_wait(in, NULL);
    memset(in, 1, 20000);
    memset(out, 1, 20000);
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(out));
}

void case_random_cells(void)
{
    const char *rounds = getenv("TEST_FUZZ_ROUNDS");
    uint64_t state = 88172645463325252;

    for (long i = rounds ? strtol(rounds, NULL, 10) : 100; i > 0; i--) {
        zc_comm *comm[2];

        ranks_open(comm, 2, NULL);
        tell_lies(comm, &state);
        zc_close(comm[HONEST]);
        zc_close(comm[LIAR]);
    }
}
