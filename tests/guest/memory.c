/* SPDX-License-Identifier: MIT
 *
 * What zc relies on in a kernel with an RDMA device: memory that the device was given once stays the same memory to
 * it, whatever is done to the mapping through which the program sees it.
 *
 * A memfd is mapped twice. The wire mapping is registered, the user mapping protected, as zc does it; the device is one
 * queue pair that is connected to itself, and copies between the memfd and a buffer of no interest.
 */
#include <errno.h>
#include <infiniband/verbs.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Soft-RoCE takes some tenths of a second for so much. */
#define SIZE (8u << 20)

enum { PORT = 1, GID = 1, ACCESS = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE };

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s (errno: %s)\n", __FILE__, __LINE__, #condition, strerror(errno));       \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_qp *qp;

static unsigned char *wire, *user, *peer;
static struct ibv_mr *wire_mr, *peer_mr;

/* The device -------------------------------------------------------------------------------------------------------*/

static void open_device(void)
{
    int devices;
    struct ibv_device **list = ibv_get_device_list(&devices);
    CHECK(list && devices > 0);
    struct ibv_context *context = ibv_open_device(list[0]);
    CHECK(context);
    ibv_free_device_list(list);
    CHECK((pd = ibv_alloc_pd(context)));
    CHECK((cq = ibv_create_cq(context, 16, NULL, NULL, 0)));
    struct ibv_qp_init_attr init = {.send_cq = cq,
                                    .recv_cq = cq,
                                    .cap = {.max_send_wr = 8, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
                                    .qp_type = IBV_QPT_RC,
                                    .sq_sig_all = 1};
    CHECK((qp = ibv_create_qp(pd, &init)));

    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_INIT,
        .port_num = PORT,
        .qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE,
    };
    CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
    attr = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_4096,
        .dest_qp_num = qp->qp_num,
        .max_dest_rd_atomic = 1,
        .min_rnr_timer = 12,
        .ah_attr = {.is_global = 1, .port_num = PORT, .grh = {.sgid_index = GID, .hop_limit = 1}},
    };
    CHECK(!ibv_query_gid(context, PORT, GID, &attr.ah_attr.grh.dgid));
    CHECK(!ibv_modify_qp(qp, &attr,
                         IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                             IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER));
    attr = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTS, .timeout = 14, .retry_cnt = 6, .rnr_retry = 6, .max_rd_atomic = 1};
    CHECK(!ibv_modify_qp(qp, &attr,
                         IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                             IBV_QP_MAX_QP_RD_ATOMIC));
}

static void transfer(enum ibv_wr_opcode opcode, const struct ibv_mr *local, const struct ibv_mr *remote)
{
    struct ibv_sge sge = {.addr = (uintptr_t)local->addr, .length = SIZE, .lkey = local->lkey};
    struct ibv_send_wr wr = {
        .sg_list = &sge,
        .num_sge = 1,
        .opcode = opcode,
        .wr.rdma = {.remote_addr = (uintptr_t)remote->addr, .rkey = remote->rkey},
    };
    struct ibv_send_wr *bad;
    CHECK(!ibv_post_send(qp, &wr, &bad));
    struct ibv_wc wc;
    int polled;
    while ((polled = ibv_poll_cq(cq, 1, &wc)) == 0)
        ;
    CHECK(polled == 1 && wc.status == IBV_WC_SUCCESS);
}

/* Soft-RoCE does much of a transfer in the call that posts it: what is to happen meanwhile needs another thread. */
static struct {
    pthread_t thread;
    enum ibv_wr_opcode opcode;
    const struct ibv_mr *mr;
    atomic_bool done;
} flight;

static void *fly(void *arg)
{
    transfer(flight.opcode, flight.mr, peer_mr);
    flight.done = true;
    return arg;
}

/* Returns when the first bytes have arrived. */
static void start(enum ibv_wr_opcode opcode, const struct ibv_mr *mr)
{
    const volatile unsigned char *target = opcode == IBV_WR_RDMA_READ ? wire : peer;
    unsigned char before = *target;
    flight.opcode = opcode;
    flight.mr = mr;
    flight.done = false;
    CHECK(!pthread_create(&flight.thread, NULL, fly, NULL));
    while (*target == before)
        ;
}

/* True when the last bytes had not arrived before the call. */
static bool finish(void)
{
    bool under_way = !flight.done;
    CHECK(!pthread_join(flight.thread, NULL));
    return under_way;
}

/* The program ------------------------------------------------------------------------------------------------------*/

static sigjmp_buf escape;

static void on_segv(int signal)
{
    siglongjmp(escape, signal);
}

static bool store_traps(volatile unsigned char *p)
{
    if (sigsetjmp(escape, 1))
        return true;
    *p = 0;
    return false;
}

static bool holds(const unsigned char *p, unsigned char byte)
{
    return *p == byte && !memcmp(p, p + 1, SIZE - 1);
}

/* The device reads the memfd, then writes it, while the user mapping becomes and is protected. */
static bool under_protection(const struct ibv_mr *mr, int protection)
{
    memset(peer, 0, SIZE);
    memset(wire, 's', SIZE);
    start(IBV_WR_RDMA_WRITE, mr);
    CHECK(!mprotect(user, SIZE, protection));
    CHECK(store_traps(user) && store_traps(user + SIZE - 1));
    bool midst = finish();
    CHECK(holds(peer, 's'));

    memset(peer, 'r', SIZE);
    start(IBV_WR_RDMA_READ, mr);
    CHECK(store_traps(user) && store_traps(user + SIZE - 1));
    midst = finish() && midst;
    CHECK(!mprotect(user, SIZE, PROT_READ | PROT_WRITE));
    CHECK(holds(user, 'r'));
    return midst;
}

static void protection_disturbs_nothing(const char *what, const struct ibv_mr *mr)
{
    const int protections[] = {PROT_READ, PROT_NONE};
    for (int i = 0; i < 2; i++) {
        /* A busy host may deliver all before this thread gets to run. */
        int tries = 0;
        while (!under_protection(mr, protections[i]))
            CHECK(++tries < 10);
    }
    printf("transfers of the %s mapping go on while the user mapping is protected, and stores trap\n", what);
}

static void no_region_from_protected(void)
{
    const int protections[] = {PROT_READ, PROT_NONE}, accesses[] = {0, IBV_ACCESS_LOCAL_WRITE, ACCESS};
    for (int i = 0; i < 2; i++) {
        CHECK(!mprotect(user, SIZE, protections[i]));
        for (int j = 0; j < 3; j++)
            CHECK(!ibv_reg_mr(pd, user, SIZE, accesses[j]) && errno == EFAULT);
    }
    CHECK(!mprotect(user, SIZE, PROT_READ | PROT_WRITE));
    puts("a protected mapping cannot be registered");
}

static void no_remote_write_alone(void)
{
    CHECK(!ibv_reg_mr(pd, wire, SIZE, IBV_ACCESS_REMOTE_WRITE) && errno == EINVAL);
    puts("who lets others write must let itself write");
}

/* A memfd keeps its pages when a mapping drops them. */
static void dropped_pages(void)
{
    memset(user, 'x', SIZE);
    memset(peer, 'd', SIZE);
    CHECK(!madvise(user, SIZE, MADV_DONTNEED));
    transfer(IBV_WR_RDMA_READ, wire_mr, peer_mr);
    CHECK(holds(user, 'd'));
    puts("the device and the user mapping share pages after MADV_DONTNEED");
}

/* A rename puts other memory at the user's address while the device still reads what was there. */
static void renamed(void)
{
    memset(user, 'o', SIZE);
    start(IBV_WR_RDMA_WRITE, wire_mr);
    CHECK(mmap(user, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == user);
    memset(user, 'n', SIZE);
    finish();
    CHECK(holds(peer, 'o'));
    puts("the device keeps what it was given when the user's address gets other memory");
}

int main(void)
{
    struct sigaction action = {.sa_handler = on_segv};
    sigaction(SIGSEGV, &action, NULL);
    open_device();

    int fd = memfd_create("zc", 0);
    CHECK(fd >= 0 && !ftruncate(fd, SIZE));
    wire = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    user = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    peer = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(wire != MAP_FAILED && user != MAP_FAILED && peer != MAP_FAILED);
    CHECK((wire_mr = ibv_reg_mr(pd, wire, SIZE, ACCESS)));
    CHECK((peer_mr = ibv_reg_mr(pd, peer, SIZE, ACCESS)));
    /* zc never registers it; the kernel would not mind. */
    struct ibv_mr *user_mr = ibv_reg_mr(pd, user, SIZE, ACCESS);
    CHECK(user_mr);

    protection_disturbs_nothing("wire", wire_mr);
    protection_disturbs_nothing("user", user_mr);
    no_region_from_protected();
    no_remote_write_alone();
    dropped_pages();
    renamed();
}
