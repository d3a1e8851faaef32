/* SPDX-License-Identifier: MIT
 *
 * What a peer can do to another over shm: an input is what it puts on its board and its socket, while the other sends
 * and receives. Whatever it is, the other comes to an end, and can use its buffers. */
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "ranks.h"
#include "transport/comm.h"
#include "transport/shm.h"

enum { HONEST, LIAR, RANKS, BYTES = 20000, SEGMENTS = 4 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *at;
    size_t left;
};

static zc_comm *comm[RANKS];
static size_t slots[SEGMENTS]; /* of the segments that were shown; 0: not now */
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

/* ---- what is nearly right: it gets past the first checks ---- */

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | 0x10 /* F_SEAL_FUTURE_WRITE */ };

#define SEGMENT_BYTES ((uint64_t)2 << 20)

static uint8_t next_byte(struct input *input)
{
    uint8_t byte;

    next(input, &byte, sizeof byte);
    return byte;
}

/* Sometimes puts a number that is likely to be a bound, or one beside it, into one of the words. */
static void spoil(struct input *input, void *words, size_t size)
{
    static const uint64_t bounds[] = {0, 1, RING_TINY, RING_EAGER, RING_LETTERS, BYTES, SEGMENT_BYTES, UINT64_MAX};
    uint8_t how = next_byte(input), where = how % 32 ? 0 : next_byte(input), what = how % 32 ? 0 : next_byte(input);
    uint64_t number = bounds[what % 8] + what / 8 % 3 - 1;
    size_t at = where % (size / sizeof(uint32_t)) * sizeof(uint32_t), bytes = what & 128 ? 8 : 4;

    if (how % 32 == 0)
        memcpy((char *)words + at, &number, bytes < size - at ? bytes : size - at);
}

/* Shows a sealed segment, or says that it is forgotten. Generations are numbers of segments, too. */
static void show_segment(struct input *input)
{
    uint8_t number = next_byte(input), slot = next_byte(input), other = next_byte(input);
    struct packet packet = {.kind = other % 8 ? PACKET_SHOW : PACKET_FORGET,
                            .number = number % SEGMENTS,
                            .generation = number % SEGMENTS,
                            .length = SEGMENT_BYTES,
                            .slot_size = (uint64_t)4096 << slot % 10,
                            .stride = (uint64_t)4096 << slot % 10};
    int fd = -1;

    slots[number % SEGMENTS] = packet.kind == PACKET_SHOW ? packet.slot_size : 0;
    spoil(input, &packet.number, sizeof packet - offsetof(struct packet, number));
    if (packet.kind == PACKET_SHOW && other != 255) {
        fd = memfd_create("segment", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0 || ftruncate(fd, (off_t)SEGMENT_BYTES) || fcntl(fd, F_ADD_SEALS, SEALS))
            CHECK(!"a memfd");
    }
    packet_send(link_from(LIAR)->sock, &packet, fd);
    if (fd >= 0)
        close(fd);
}

/* What the honest one has offered, or pulls, by a name that there is. */
static bool names(const struct ids *ids, uint32_t *id)
{
    for (uint32_t i = 0; i < ids->room; i++, ++*id)
        if (ids_find(ids, *id %= ids->room))
            return true;
    return false;
}

/* Bytes of a segment that was shown, or of none. */
static void locate(struct cell *cell, uint8_t number, uint16_t length)
{
    size_t slot = slots[number % SEGMENTS];

    cell->segment = slot ? number % SEGMENTS : NO_SEGMENT;
    cell->generation = number % SEGMENTS;
    cell->at = slot * (number / SEGMENTS) % SEGMENT_BYTES;
    cell->length = slot ? length % slot : length;
}

/* A message, the offer of one, or an answer to what the honest one has offered or wants in parts. */
static void put_likely(struct input *input)
{
    static const char letter[RING_EAGER];
    const struct link *honest = link_from(HONEST);
    uint8_t kind = next_byte(input), number = next_byte(input);
    uint16_t length;
    struct cell cell = {.kind = kind % (CELL_LEFT + 1), .tag = kind / 8 % 3, .id = number, .reply = number};

    next(input, &length, sizeof length);
    cell.length = 1 + length % RING_EAGER;
    bool names_pull = cell.kind == CELL_PART && names(&honest->pulls, &cell.reply);
    bool answers = cell.kind == CELL_PULL || cell.kind == CELL_DONE || cell.kind == CELL_LEFT;
    bool names_offer = answers && names(&honest->offers, &cell.id);
    if (names_pull) {
        const struct message *message = ids_find(&honest->pulls, cell.reply);
        size_t left = message->kept - message->landed;
        cell.length = cell.length < left ? cell.length : left;
    } else if (cell.kind != CELL_WHOLE && !names_offer) {
        cell.kind = CELL_OFFER;
        locate(&cell, number, length);
    }
    spoil(input, &cell.kind, sizeof cell - offsetof(struct cell, kind));
    size_t put = cell.kind == CELL_WHOLE || cell.kind == CELL_PART ? cell.length : 0;
    ring_put(&link_from(LIAR)->ring, &cell, letter, put <= RING_EAGER ? put : RING_EAGER);
}

/* ---- anything ---- */

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

/* And sends it on, to either. */
static void look_at_message(bool forward, int to)
{
    struct shm *shm = comm[HONEST]->endpoint.state;
    const struct match *match = match_probe(&shm->common.queue, ZC_ANY_SOURCE, ZC_ANY_TAG);
    zc_view view;

    if (!match || !((const struct message *)match)->bytes) /* its first member; a pulled one would be waited for */
        return;
    if (zc_recv_view(&view, ZC_ANY_SOURCE, ZC_ANY_TAG, comm[HONEST]))
        return;
    if (forward)
        zc_forward(&view, to, 1, comm[HONEST]);
    CHECK_OK(zc_release(&view));
}

/* What zc_recv does first. */
static void receive_now(struct input *input)
{
    uint16_t cap;
    zc_status status;

    next(input, &cap, sizeof cap);
    char *to = malloc(cap % BYTES + 1u);
    CHECK(to);
    if (comm[HONEST]->transport->receive_now(&comm[HONEST]->endpoint, to, cap % BYTES, LIAR, ZC_ANY_TAG, &status) == 1)
        CHECK(status.length <= cap % BYTES);
    free(to);
}

/* What the honest one has sent to itself would be waited for. */
static void take_own(void)
{
    int found;
    zc_view view;

    while (zc_iprobe(HONEST, ZC_ANY_TAG, comm[HONEST], &found, NULL) == 0 && found)
        if (zc_recv_view(&view, HONEST, ZC_ANY_TAG, comm[HONEST]) == 0)
            CHECK_OK(zc_release(&view));
}

static void send_some(struct input *input)
{
    uint16_t number;

    next(input, &number, sizeof number);
    zc_send(out, number % BYTES, LIAR, 1, comm[HONEST]);
}

/* What is possible only while the liar is linked. */
static void step(struct input *input)
{
    uint8_t what;
    uint16_t number;

    next(input, &what, sizeof what);
    switch (what % 32) {
    case 0:
        put_cell(input);
        break;
    case 1:
        send_packet(input);
        break;
    case 2:
        set_words(input);
        break;
    case 3:
    case 4:
    case 5:
        send_some(input);
        break;
    case 6:
    case 7:
    case 8:
        next(input, &number, sizeof number);
        zc_irecv(in, number % BYTES, LIAR, number % 2 ? ZC_ANY_TAG : 1, comm[HONEST]);
        break;
    case 9:
    case 10:
        look_at_message(what & 64, what & 128 ? HONEST : LIAR);
        break;
    case 11:
    case 12:
    case 13:
        show_segment(input);
        break;
    case 14:
    case 15:
        receive_now(input);
        break;
    default:
        put_likely(input);
        break;
    }
    if (what & 32) /* else it takes several cells at a time */
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
    memset(slots, 0, sizeof slots);
    ranks_open(comm, RANKS, &options);
    const struct link *honest = link_from(HONEST);
    atomic_store(&comm[LIAR]->open, false); /* nobody polls it */
    while (input.left && !honest->error && !link_from(LIAR)->error)
        step(&input);
    /* Whatever it has left undone. */
    while (!honest->error) {
        if (!link_from(LIAR)->error)
            packet_send(link_from(LIAR)->sock, &nonsense, -1);
        zc_progress(comm[HONEST]);
    }
    take_own();
    zc_wait(in, NULL);
    zc_cancel(in);
    CHECK_OK(zc_writable(out));
    CHECK_OK(zc_write(out, "x", 1));
    atomic_store(&comm[LIAR]->open, true);
    zc_close(comm[HONEST]);
    zc_writable(in); /* perhaps with the error of a receive of no bytes, of which there can be several */
    zc_close(comm[LIAR]);
    return 0;
}
