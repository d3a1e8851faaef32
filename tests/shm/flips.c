/* SPDX-License-Identifier: MIT
 *
 * Cases: a peer that changes what it has put on its board all the time, while the other looks at it and after it has.
 * What was checked must be what is used. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cases.h"
#include "core/clock.h"

enum { HONEST, LIAR, RANKS };
enum { CAP = 10000, BYTES = 2 * CAP, SLOT = 16384, SECONDS = 4, TURN_MS = 20 };
enum { WORDS = sizeof(struct cell) / sizeof(uint64_t) - 1 /* without the stamp */ };
enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | 0x10 /* F_SEAL_FUTURE_WRITE */ };

/* What the liar is about. */
enum theme { TINY, LETTER, OFFER, PULL, DONE, PARTS, THEMES };

struct liar {
    struct ring *ring;
    int sock;
    enum theme theme;
    unsigned word; /* of cells, that it changes most */
    uint64_t random;
    atomic_bool stop;
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* The cell of that number, as it is right; false: the honest one, whose cells were `seen`, is not that far. */
static bool truth(enum theme theme, uint64_t n, uint64_t seen, struct cell *cell)
{
    *cell = (struct cell){.kind = CELL_WHOLE, .length = 64};
    switch (theme) {
    case TINY:
        return true;
    case LETTER:
        cell->length = 5000;
        return true;
    case OFFER:
        *cell = (struct cell){.kind = CELL_OFFER, .length = CAP, .at = 4096, .generation = 1};
        return true;
    case PULL: /* its offer, and two parts */
        *cell = (struct cell){.kind = CELL_PULL, .length = CAP};
        return seen > 3 * n;
    case DONE:
        *cell = (struct cell){.kind = CELL_DONE};
        return seen > n;
    default:
        *cell = (struct cell){.kind = n % 3 ? CELL_PART : CELL_OFFER, .length = n % 3 ? CAP / 2 : CAP};
        cell->segment = NO_SEGMENT;
        return n % 3 == 0 || seen > n / 3;
    }
}

/* Numbers that are too much for something, or not. */
static uint64_t untruth(uint64_t *random)
{
    static const uint64_t some[] = {0,       1,          96,        97, 8192, 8193, CAP + 1, RING_LETTERS - 63,
                                    2 * MIB, UINT32_MAX, UINT64_MAX};

    return some[next_random(random) % (sizeof some / sizeof *some)];
}

/* Says something else for a moment. */
static void flip(_Atomic uint64_t *word, uint64_t *random)
{
    uint64_t right = atomic_load_explicit(word, memory_order_relaxed), wrong = untruth(random);

    atomic_store_explicit(word, next_random(random) % 2 ? wrong : (right & ~(uint64_t)UINT32_MAX) | (uint32_t)wrong,
                          memory_order_relaxed);
    for (uint64_t i = next_random(random) % 64; i > 0; i--)
        atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(word, right, memory_order_relaxed);
}

/* But for `passed`: what is kept for those to whom a peer says that it has passed it on is kept for good. */
static void flip_counters(struct board *mine, uint64_t *random)
{
    _Atomic uint32_t *words[] = {&mine->asleep, &mine->waits, &mine->left, &mine->views};

    atomic_store_explicit(words[next_random(random) % 4], (uint32_t)untruth(random), memory_order_relaxed);
}

static void *tell_and_flip(void *argument)
{
    static const struct packet wake = {.kind = PACKET_WAKE};
    struct liar *liar = argument;
    struct board *mine = liar->ring->mine;
    const struct board *theirs = liar->ring->theirs;
    uint64_t seen = 0, put = 0;

    while (!atomic_load_explicit(&liar->stop, memory_order_relaxed)) {
        uint64_t got = atomic_load_explicit(&theirs->taken, memory_order_acquire);
        _Atomic uint64_t *words = mine->cells[got % RING_CELLS];
        struct cell cell;

        while (atomic_load_explicit(&theirs->cells[seen % RING_CELLS][0], memory_order_acquire) == seen + 1)
            seen++;
        atomic_store_explicit(&mine->taken, seen, memory_order_relaxed);
        if (put == got && truth(liar->theme, put, seen, &cell)) {
            uint64_t says[1 + WORDS];

            memcpy(says, &cell, sizeof cell);
            for (unsigned i = 1; i <= WORDS; i++)
                atomic_store_explicit(&words[i], says[i], memory_order_relaxed);
            atomic_store_explicit(&words[0], ++put, memory_order_release);
            if (atomic_load_explicit(&theirs->asleep, memory_order_relaxed) & 1)
                packet_send(liar->sock, &wake, -1);
        }
        if (next_random(&liar->random) % 4 == 0)
            flip(&words[next_random(&liar->random) % 16 ? liar->word : 1 + next_random(&liar->random) % WORDS],
                 &liar->random);
        if (next_random(&liar->random) % 64 == 0)
            flip(&mine->taken, &liar->random);
        if (next_random(&liar->random) % 64 == 0)
            flip_counters(mine, &liar->random);
    }
    return NULL;
}

/* A message of the liar is received in one of the ways that there are, or an error says that it is lost. */
static void receive(zc_comm *comm, char *in, unsigned n)
{
    zc_status status;
    zc_view view;
    int error;

    if (n % 3 == 0) {
        error = zc_recv(in, CAP, LIAR, ZC_ANY_TAG, comm, &status);
    } else if (n % 3 == 1) {
        error = zc_irecv(in, CAP, LIAR, ZC_ANY_TAG, comm);
        if (!error)
            error = zc_wait(in, &status);
    } else if ((error = zc_recv_view(&view, LIAR, ZC_ANY_TAG, comm)) == 0) {
        status = view.status;
        CHECKF(view.length == status.length && view.length <= SLOT, "%zu bytes", view.length);
        for (size_t i = 0; i < view.length; i++)
            (void)((const volatile char *)view.data)[i];
        CHECK_OK(zc_release(&view));
        return;
    }
    CHECKF(error || status.length <= CAP, "%zu bytes", status.length);
}

/* What the honest one does until it has found out, or the turn is over. */
static void take_it(zc_comm *comm, enum theme theme, char *in, char *out)
{
    const struct link *link = shm_of(comm)->peers[LIAR];
    uint64_t end = clock_ns() + (uint64_t)TURN_MS * 1000000;

    for (unsigned n = 0; !link->error && clock_ns() < end; n++) {
        if (theme <= OFFER) {
            receive(comm, in, n);
        } else if (theme == PARTS) {
            if (n % 64 == 0)
                zc_irecv(in, CAP, LIAR, ZC_ANY_TAG, comm);
            zc_progress(comm);
        } else {
            if (n % 64 == 0)
                zc_send(out, CAP, LIAR, 1, comm);
            zc_progress(comm);
        }
    }
}

static void turn(enum theme theme, unsigned word, uint64_t seed)
{
    zc_comm *comm[RANKS];
    zc_options options = ZC_OPTIONS_INIT;
    char *in = ALLOC(BYTES), *out = ALLOC(BYTES);
    struct packet show = {.kind = PACKET_SHOW, .generation = 1, .length = 2 * MIB, .slot_size = SLOT, .stride = SLOT};
    struct packet nonsense = {.kind = 99};
    int fd = memfd_create("segment", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    CHECK(fd >= 0 && ftruncate(fd, 2 * MIB) == 0 && fcntl(fd, F_ADD_SEALS, SEALS) == 0);
    memset(in, 0x55, BYTES);
    options.fault_timeout_ms = 1;
    options.policy = ZC_POLICY_PROTECT;
    ranks_open(comm, RANKS, &options);
    struct link *link = shm_of(comm[LIAR])->peers[HONEST];
    struct liar liar = {.ring = &link->ring, .sock = link->sock, .theme = theme, .word = word, .random = seed};
    atomic_store(&comm[LIAR]->open, false); /* nobody else is at its board */
    CHECK_OK(packet_send(link->sock, &show, fd));
    close(fd);
    pthread_t thread = thread_start(tell_and_flip, &liar);
    take_it(comm[HONEST], theme, in, out);

    atomic_store(&liar.stop, true);
    thread_join(thread);
    packet_send(link->sock, &nonsense, -1);
    while (!shm_of(comm[HONEST])->peers[LIAR]->error)
        CHECK_OK(zc_progress(comm[HONEST]));
    while (zc_wait(in, NULL) == -ECONNRESET)
        ;
    CHECK_BYTES(in + CAP, BYTES - CAP, 0x55);
    memset(out, 1, BYTES);
    atomic_store(&comm[LIAR]->open, true);
    zc_close(comm[HONEST]); /* with the error of a send, or not */
    zc_close(comm[LIAR]);
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_free(out));
}

void case_flips_what_was_checked(void)
{
    uint64_t random = 88172645463325252, end = clock_ns() + (uint64_t)SECONDS * 1000000000;

    for (unsigned i = 0; clock_ns() < end; i++)
        turn(i % THEMES, 1 + i / THEMES % WORDS, next_random(&random));
}
