/* SPDX-License-Identifier: MIT
 *
 * Queues, slots and connections of an endpoint. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/error.h"
#include "transport/bootstrap.h"
#include "transport/verbs.h"

enum {
    CREDITS = 64,       /* slots kept for each peer, */
    CREDITS_ALL = 8192, /* and for all together; but for each at least */
    CREDITS_LEAST = 8,
    DEPTH = 128, /* work requests at a peer; halved where the device has less; but at least */
    DEPTH_LEAST = 16,
    SEND_SLOTS = 64,     /* and 4 a peer */
    INLINE_WANTED = 256, /* halved where the device has less */
    READS_MOST = 16,     /* RDMA reads that a connection has under way; as many as the devices can */
    READ_BYTES_MOST = 1 << 30,
    RETRIES = 6, /* of a packet, each after TICK_NS << timeout. Soft-RoCE takes 7 for ever */
    TICK_NS = 4096,
    TIMEOUT_MOST = 31,
    RNR_RETRIES = 7, /* for ever: credits see to it that there are none */
    RNR_TIMER = 12,  /* 0.64 ms */
    ASKED_MOST = 5   /* how often the kernel is to ask who has the peer's address */
};

void verbs_set_timeout(struct verbs *verbs, uint64_t ms)
{
    verbs->timeout = 1; /* 0 is for ever */
    while (verbs->timeout < TIMEOUT_MOST && (uint64_t)(RETRIES + 1) * TICK_NS << (verbs->timeout + 1) <= ms * 1000000)
        verbs->timeout++;
}

/* What each rank tells each other. */
struct card {
    union ibv_gid gid;
    uint64_t granted_address;
    uint32_t granted_key;
    uint32_t credits;
    uint32_t first_number; /* of packets */
    uint16_t lid;
    uint8_t mtu;
    uint8_t reads; /* that it can serve a peer at a time */
    uint32_t qp[]; /* its end of the connection with each rank */
};

static int device_error(const struct verbs *verbs, int error, const char *what)
{
    return fail(error, "zc_open: %s: %s failed: %s", ibv_get_device_name(verbs->port.device->context->device), what,
                error_text(-error));
}

/* ---- sizes ---- */

static uint32_t least(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* Everything that can be in the completion queue: a completion a posted work request and a receive slot. */
static uint64_t completions(const struct verbs *verbs)
{
    return (uint64_t)verbs->others * (verbs->depth + verbs->credits);
}

static int choose_sizes(struct verbs *verbs)
{
    const struct ibv_device_attr *device = &verbs->port.device->attributes;
    uint32_t others = verbs->others = verbs->common.size > 1 ? (uint32_t)verbs->common.size - 1 : 1;
    verbs->credits = least(CREDITS, CREDITS_ALL / others);
    verbs->credits = verbs->credits < CREDITS_LEAST ? CREDITS_LEAST : verbs->credits;
    verbs->depth = DEPTH;
    while (verbs->depth > DEPTH_LEAST &&
           (verbs->depth > (uint32_t)device->max_qp_wr || completions(verbs) > (uint64_t)device->max_cqe))
        verbs->depth /= 2;
    while (verbs->credits > CREDITS_LEAST &&
           (others * verbs->credits > (uint32_t)device->max_srq_wr || completions(verbs) > (uint64_t)device->max_cqe))
        verbs->credits /= 2;
    if (verbs->depth > (uint32_t)device->max_qp_wr || completions(verbs) > (uint64_t)device->max_cqe ||
        others * verbs->credits > (uint32_t)device->max_srq_wr || others > (uint32_t)device->max_qp)
        return fail(
            -ENOSPC,
            "zc_open: %s has %d connections with %d work requests, a completion queue of %d and a shared receive "
            "queue of %d: too few for %d ranks",
            ibv_get_device_name(verbs->port.device->context->device), device->max_qp, device->max_qp_wr,
            device->max_cqe, device->max_srq_wr, verbs->common.size);
    verbs->receive_slots = others * verbs->credits;
    verbs->send_slots = SEND_SLOTS + 4 * others;
    verbs->read_most = least(READ_BYTES_MOST, verbs->port.attributes.max_msg_sz);
    return 0;
}

/* ---- slots ---- */

static int make_slots(struct verbs *verbs)
{
    size_t slots = (size_t)verbs->receive_slots + verbs->send_slots, size = (size_t)verbs->common.size;
    size_t counters = 2 * size * sizeof(uint64_t);
    verbs->slots_bytes = pages_of(slots * SLOT_BYTES + counters) << PAGE_SHIFT;
    verbs->slots = sys_mmap(NULL, verbs->slots_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    verbs->free_slots = calloc(verbs->send_slots, sizeof *verbs->free_slots);
    if (!verbs->slots || !verbs->free_slots)
        return fail(-ENOMEM, "zc_open: no memory for %zu KiB of slots", verbs->slots_bytes >> 10);
    sys_madvise(verbs->slots, verbs->slots_bytes, MADV_DONTFORK);
    verbs->slots_region = ibv_reg_mr(verbs->port.device->pd, verbs->slots, verbs->slots_bytes,
                                     IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    if (!verbs->slots_region)
        return memory_refused(verbs->port.device->pd, verbs->slots_bytes, verbs->port.device->memory.bytes, errno);
    verbs->granted = (_Atomic uint64_t *)(verbs->slots + slots * SLOT_BYTES);
    verbs->returned = verbs->granted + size;
    for (uint32_t i = 0; i < verbs->send_slots; i++)
        verbs->free_slots[verbs->free_count++] = verbs->receive_slots + i;
    return 0;
}

/* ---- queues ---- */

static int make_qp(struct verbs *verbs, struct peer *peer)
{
    struct ibv_qp_init_attr wanted = {.send_cq = verbs->cq,
                                      .recv_cq = verbs->cq,
                                      .srq = verbs->srq,
                                      .qp_type = IBV_QPT_RC,
                                      .cap = {.max_send_wr = verbs->depth, .max_send_sge = 2}};
    struct ibv_qp_init_attr given;
    do {
        given = wanted;
        given.cap.max_inline_data = verbs->inline_most;
        peer->qp = ibv_create_qp(verbs->port.device->pd, &given);
    } while (!peer->qp && errno != EMFILE && (verbs->inline_most /= 2) > 0);
    if (!peer->qp) {
        given = wanted;
        peer->qp = ibv_create_qp(verbs->port.device->pd, &given);
    }
    return peer->qp ? 0 : device_error(verbs, -errno, "ibv_create_qp");
}

static int make_queues(struct verbs *verbs)
{
    struct ibv_context *context = verbs->port.device->context;
    struct ibv_srq_init_attr srq = {.attr = {.max_wr = verbs->receive_slots, .max_sge = 1}};
    verbs->cq = ibv_create_cq(context, (int)completions(verbs), NULL, NULL, 0);
    if (!verbs->cq)
        return device_error(verbs, -errno, "ibv_create_cq");
    verbs->srq = ibv_create_srq(verbs->port.device->pd, &srq);
    if (!verbs->srq)
        return device_error(verbs, -errno, "ibv_create_srq");
    verbs->inline_most = INLINE_WANTED;
    int error = 0;
    for (int i = 0; i < verbs->common.size && !error; i++) {
        struct peer *peer = &verbs->peers[i];
        peer->answers_end = &peer->answers;
        if (i == verbs->common.rank)
            continue;
        peer->work = calloc(verbs->depth, sizeof *peer->work);
        error = peer->work ? make_qp(verbs, peer) : fail(-ENOMEM, "zc_open: no memory");
    }
    for (uint32_t slot = 0; slot < verbs->receive_slots && !error; slot++)
        error = wire_repost(verbs, slot);
    device_hide_mappings();
    return error;
}

/* ---- connections ---- */

static uint8_t reads_served(const struct verbs *verbs)
{
    return (uint8_t)least(READS_MOST, (uint64_t)verbs->port.device->attributes.max_qp_rd_atom);
}

static void fill_card(const struct verbs *verbs, struct card *card)
{
    card->gid = verbs->port.gid;
    card->granted_address = (uintptr_t)verbs->granted;
    card->granted_key = verbs->slots_region->rkey;
    card->credits = verbs->credits;
    card->first_number = (uint32_t)clock_ns() & 0xffffff; /* an old connection's packets do not fit */
    card->lid = verbs->port.attributes.lid;
    card->mtu = (uint8_t)verbs->port.mtu;
    card->reads = reads_served(verbs);
    for (int i = 0; i < verbs->common.size; i++)
        card->qp[i] = i == verbs->common.rank ? 0 : verbs->peers[i].qp->qp_num;
}

static int connect_qp(struct verbs *verbs, struct ibv_qp *qp, const struct card *mine, const struct card *theirs)
{
    const struct port *port = &verbs->port;
    struct ibv_qp_attr attributes = {.qp_state = IBV_QPS_INIT,
                                     .port_num = port->number,
                                     .qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE};
    int error = ibv_modify_qp(qp, &attributes, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    if (error)
        return device_error(verbs, -error, "ibv_modify_qp to INIT");
    attributes =
        (struct ibv_qp_attr){.qp_state = IBV_QPS_RTR,
                             .path_mtu = mine->mtu < theirs->mtu ? mine->mtu : theirs->mtu,
                             .dest_qp_num = theirs->qp[verbs->common.rank],
                             .rq_psn = theirs->first_number,
                             .max_dest_rd_atomic = mine->reads,
                             .min_rnr_timer = RNR_TIMER,
                             .ah_attr = {.is_global = port->attributes.link_layer == IBV_LINK_LAYER_ETHERNET,
                                         .grh = {.dgid = theirs->gid, .sgid_index = port->gid_index, .hop_limit = 64},
                                         .dlid = theirs->lid,
                                         .port_num = port->number}};
    /* RoCE: the kernel asks a neighbour that it does not know only once, and waits a second for the answer. Either gets
     * lost now and then, and so do all while a link comes up. */
    int asked = 0;
    do
        error = ibv_modify_qp(qp, &attributes,
                              IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                  IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    while (error == ETIMEDOUT && ++asked < ASKED_MOST);
    if (error)
        return device_error(verbs, -error, "ibv_modify_qp to RTR");
    uint32_t reads = least(theirs->reads, (uint64_t)port->device->attributes.max_qp_init_rd_atom);
    attributes = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS,
                                      .timeout = verbs->timeout,
                                      .retry_cnt = RETRIES,
                                      .rnr_retry = RNR_RETRIES,
                                      .sq_psn = mine->first_number,
                                      .max_rd_atomic = (uint8_t)least(READS_MOST, reads)};
    error = ibv_modify_qp(qp, &attributes,
                          IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                              IBV_QP_MAX_QP_RD_ATOMIC);
    return error ? device_error(verbs, -error, "ibv_modify_qp to RTS") : 0;
}

/* All that is of this rank alone. */
static int make_own(struct verbs *verbs)
{
    int error;
    verbs->peers = calloc((size_t)verbs->common.size, sizeof *verbs->peers);
    if (!verbs->peers)
        return fail(-ENOMEM, "zc_open: no memory");
    if ((error = choose_sizes(verbs)) || (error = make_slots(verbs)))
        return error;
    return make_queues(verbs);
}

static int connect_all(struct verbs *verbs, const struct card *mine, const char *all, size_t bytes)
{
    int error = 0;
    for (size_t i = 0; i < (size_t)verbs->common.size && !error; i++) {
        const struct card *theirs = (const struct card *)(all + i * bytes);
        struct peer *peer = &verbs->peers[i];
        peer->granted_address = theirs->granted_address + (size_t)verbs->common.rank * sizeof(uint64_t);
        peer->granted_key = theirs->granted_key;
        peer->credits = theirs->credits;
        if (i != (size_t)verbs->common.rank)
            error = connect_qp(verbs, peer->qp, mine, theirs);
    }
    return error;
}

/* Cards are exchanged where all have one; and it is over when all are connected: nobody sends before its peer can
 * receive. */
int verbs_connect(struct verbs *verbs, struct bootstrap *bootstrap, int error)
{
    size_t size = (size_t)verbs->common.size, bytes = sizeof(struct card) + size * sizeof(uint32_t);
    bytes = (bytes + 7) & ~(size_t)7;
    struct card *mine = calloc(1, bytes);
    char *all = malloc(size * bytes);
    if (!error)
        error = mine && all ? make_own(verbs) : fail(-ENOMEM, "zc_open: no memory");
    int agreed = bootstrap_agree(bootstrap, error);
    error = error ? error : agreed;
    if (!error) {
        fill_card(verbs, mine);
        error = bootstrap_allgather(bootstrap, mine, bytes, all);
    }
    if (!error)
        error = bootstrap_agree(bootstrap, connect_all(verbs, mine, all, bytes));
    free(mine);
    free(all);
    return error;
}

void verbs_disconnect(struct verbs *verbs)
{
    for (int i = 0; verbs->peers && i < verbs->common.size; i++) {
        if (verbs->peers[i].qp)
            ibv_destroy_qp(verbs->peers[i].qp);
        free(verbs->peers[i].work);
    }
    if (verbs->srq)
        ibv_destroy_srq(verbs->srq);
    if (verbs->cq)
        ibv_destroy_cq(verbs->cq);
    if (verbs->slots_region)
        ibv_dereg_mr(verbs->slots_region);
    if (verbs->slots)
        sys_munmap(verbs->slots, verbs->slots_bytes);
    free(verbs->free_slots);
    free(verbs->peers);
}
