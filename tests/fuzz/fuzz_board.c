/* SPDX-License-Identifier: MIT
 *
 * What a peer can do to another over shm: an input is what it puts on its board and its socket, while the other sends and
 * receives. Whatever it is, the other comes to an end, and can use its buffers. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "ranks.h"
#include "transport/comm.h"
#include "transport/shm.h"

enum { HONEST, LIAR, RANKS, BYTES = 20000 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *at;
    size_t left;
};

static zc_comm *comm[RANKS];
static char *in, *out;

/* The next bytes of the input, or zeros. */
static void next(struct input *input, void *to, size_t length)
{
    size_t n = length < input->left ? length : input->left;

    memset(to, 0, length);
    if (n)
        memcpy(to, input->at, n);
    input->at += n;
    input->left -= n;
}

static struct link *link_from(int rank)
{
    return ((struct shm *)comm[rank]->endpoint.state)->peers[1 - rank];
}

static void put_cell(struct input *input)
{
    static const char letter[RING_EAGER];
    struct cell cell;
    uint16_t length;

    next(input, &cell, sizeof cell);
    next(input, &length, sizeof length);
    ring_put(&link_from(LIAR)->ring, &cell, letter, length % (RING_EAGER + 1));
}

/* A packet, with a memfd of 2 MiB that has `seals`, or nothing. */
static void send_packet(struct input *input)
{
    struct packet packet;
    uint8_t seals;

    next(input, &packet, sizeof packet);
    next(input, &seals, sizeof seals);
    int fd = seals ? memfd_create("lie", MFD_CLOEXEC | MFD_ALLOW_SEALING) : -1;
    if (fd >= 0 && (ftruncate(fd, 2 << 20) || fcntl(fd, F_ADD_SEALS, seals & 0x1f)))
        CHECK(!"a memfd");
    packet_send(link_from(LIAR)->sock, &packet, fd);
    if (fd >= 0)
        close(fd);
}

static void set_words(struct input *input)
{
    struct board *board = link_from(LIAR)->ring.mine;
    struct {
        uint64_t taken;
        uint32_t asleep, waits, left, views, passed;
    } words;

    next(input, &words, sizeof words);
    atomic_store(&board->taken, words.taken);
    atomic_store(&board->asleep, words.asleep);
    atomic_store(&board->waits, words.waits);
    atomic_store(&board->left, words.left);
    atomic_store(&board->views, words.views);
    atomic_store(&board->passed, words.passed);
}

static void look_at_message(void)
{
    zc_view view;
    int found = 0;

    if (zc_iprobe(ZC_ANY_SOURCE, ZC_ANY_TAG, comm[HONEST], &found, NULL) || !found)
        return;
    if (zc_recv_view(&view, ZC_ANY_SOURCE, ZC_ANY_TAG, comm[HONEST]) == 0)
        CHECK_OK(zc_release(&view));
}

/* What is possible only while the liar is linked. */
static void step(struct input *input)
{
    uint8_t what;
    uint16_t number;

    next(input, &what, sizeof what);
    switch (what % 8) {
    case 0:
    case 1:
    case 2:
        put_cell(input);
        break;
    case 3:
        send_packet(input);
        break;
    case 4:
        set_words(input);
        break;
    case 5:
        next(input, &number, sizeof number);
        zc_send(out, number % BYTES, LIAR, 1, comm[HONEST]);
        break;
    case 6:
        next(input, &number, sizeof number);
        zc_irecv(in, number % BYTES, LIAR, number % 2 ? ZC_ANY_TAG : 1, comm[HONEST]);
        break;
    case 7:
        look_at_message();
        break;
    }
    zc_progress(comm[HONEST]);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    ranks_transport = "shm";
    in = ALLOC(BYTES);
    out = ALLOC(BYTES);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    struct packet nonsense = {.kind = 99};
    zc_options options = ZC_OPTIONS_INIT;

    options.fault_timeout_ms = 1;
    ranks_open(comm, RANKS, &options);
    const struct link *honest = link_from(HONEST);
    while (input.left && !honest->error)
        step(&input);
    /* Whatever it has left undone. */
    while (!honest->error) {
        packet_send(link_from(LIAR)->sock, &nonsense, -1);
        zc_progress(comm[HONEST]);
    }
    zc_wait(in, NULL);
    zc_cancel(in);
    CHECK_OK(zc_writable(out));
    CHECK_OK(zc_write(out, "x", 1));
    zc_close(comm[HONEST]);
    zc_writable(in); /* perhaps with the error of a receive of no bytes, of which there can be several */
    zc_close(comm[LIAR]);
    return 0;
}
