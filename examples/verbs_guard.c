/* SPDX-License-Identifier: MIT
 *
 * A program with verbs code of its own: `verbs_guard [DEVICE]`. It sends a buffer of zc over a connection with itself,
 * by a plain ibv_post_send, and stores to the buffer while the device reads it.
 *
 * What to look at is main(): guard, take the key, post, and go on; unguard at the completion. */
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zc_verbs.h>

#define LENGTH ((size_t)1 << 20)

struct endpoint {
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
};

static void must(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "verbs_guard: %s failed: %s\n", what, zc_errmsg());
    exit(1);
}

static struct ibv_context *open_device(const char *name)
{
    int n = 0;
    struct ibv_device **list = ibv_get_device_list(&n);
    struct ibv_context *context = NULL;
    for (int i = 0; list && i < n && !context; i++)
        if (!name || strcmp(name, ibv_get_device_name(list[i])) == 0)
            context = ibv_open_device(list[i]);
    must(context != NULL, "opening a device");
    ibv_free_device_list(list);
    return context;
}

/* A reliable connection whose other end is itself. */
static void connect_to_self(struct ibv_context *context, struct ibv_qp *qp)
{
    struct ibv_port_attr port;
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1};
    must(ibv_query_port(context, 1, &port) == 0, "ibv_query_port");
    must(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) == 0, "INIT");
    attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTR,
                                .path_mtu = port.active_mtu,
                                .dest_qp_num = qp->qp_num,
                                .max_dest_rd_atomic = 1,
                                .min_rnr_timer = 12,
                                .ah_attr = {.is_global = 1,
                                            .grh = {.sgid_index = port.gid_tbl_len > 1, .hop_limit = 1},
                                            .dlid = port.lid,
                                            .port_num = 1}};
    must(ibv_query_gid(context, 1, attr.ah_attr.grh.sgid_index, &attr.ah_attr.grh.dgid) == 0, "ibv_query_gid");
    must(ibv_modify_qp(qp, &attr,
                       IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                           IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER) == 0,
         "RTR");
    attr = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTS, .timeout = 17, .retry_cnt = 6, .rnr_retry = 6, .max_rd_atomic = 1};
    must(ibv_modify_qp(qp, &attr,
                       IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                           IBV_QP_MAX_QP_RD_ATOMIC) == 0,
         "RTS");
}

static void endpoint_open(struct endpoint *e, const char *device)
{
    e->context = open_device(device);
    e->pd = ibv_alloc_pd(e->context);
    e->cq = ibv_create_cq(e->context, 8, NULL, NULL, 0);
    must(e->pd && e->cq, "making a protection domain and a completion queue");
    struct ibv_qp_init_attr init = {.send_cq = e->cq,
                                    .recv_cq = e->cq,
                                    .qp_type = IBV_QPT_RC,
                                    .cap = {.max_send_wr = 2, .max_recv_wr = 2, .max_send_sge = 1, .max_recv_sge = 1}};
    e->qp = ibv_create_qp(e->pd, &init);
    must(e->qp != NULL, "ibv_create_qp");
    connect_to_self(e->context, e->qp);
}

static void endpoint_close(struct endpoint *e)
{
    ibv_destroy_qp(e->qp);
    ibv_destroy_cq(e->cq);
    zc_mr_release(e->pd);
    ibv_dealloc_pd(e->pd);
    ibv_close_device(e->context);
}

static void await_completions(struct ibv_cq *cq, int n)
{
    struct ibv_wc wc;
    while (n > 0) {
        int got = ibv_poll_cq(cq, 1, &wc);
        must(got == 0 || (got == 1 && wc.status == IBV_WC_SUCCESS), "a work request");
        n -= got;
    }
}

int main(int argc, char *argv[])
{
    struct endpoint e;
    struct zc_guard sending, receiving;
    struct ibv_sge from, to;
    endpoint_open(&e, argc > 1 ? argv[1] : NULL);
    char *out = zc_alloc(LENGTH), *in = zc_alloc(LENGTH);
    must(out && in, "zc_alloc");
    memset(out, 'a', LENGTH);

    /* The device reads `out` and writes `in`: early stores to one get fresh pages, touches of the other wait. */
    must(zc_guard(out, LENGTH, ZC_DENY_STORES, &sending) == 0, "zc_guard");
    must(zc_guard(in, LENGTH, ZC_DENY_ALL, &receiving) == 0, "zc_guard");
    must(zc_mr(&sending, e.pd, &from) == 0 && zc_mr(&receiving, e.pd, &to) == 0, "zc_mr");
    struct ibv_recv_wr receive = {.sg_list = &to, .num_sge = 1}, *bad_receive;
    struct ibv_send_wr send = {.sg_list = &from, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED},
                       *bad_send;
    must(ibv_post_recv(e.qp, &receive, &bad_receive) == 0, "ibv_post_recv");
    must(ibv_post_send(e.qp, &send, &bad_send) == 0, "ibv_post_send");

    memset(out, 'b', LENGTH); /* at once */

    await_completions(e.cq, 2);
    must(zc_unguard(&sending) == 0 && zc_unguard(&receiving) == 0, "zc_unguard");
    size_t right = 0;
    while (right < LENGTH && in[right] == 'a' && out[right] == 'b')
        right++;
    printf("%zu of %zu bytes are what they were when they were sent\n", right, LENGTH);
    zc_free(out);
    zc_free(in);
    endpoint_close(&e);
    return right == LENGTH ? 0 : 1;
}
