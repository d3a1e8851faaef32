/* SPDX-License-Identifier: MIT
 *
 * Counts calls of libibverbs, and makes devices smaller than they are: the program's own definitions come before those
 * of the library. Posts and polls go through the table of a device, which is changed when it is opened. */
#include <dlfcn.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdatomic.h>

#include "cases.h"

#undef ibv_reg_mr

unsigned long registered, deregistered, posted, polled, regions_most;
size_t read_head, longest_read;
unsigned timeout;
_Atomic unsigned unanswered;
void (*shrink_device)(struct ibv_device_attr *device);
int gid_type = -1;

static void add(unsigned long *counter)
{
    __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

/* ---- regions ---- */

static _Thread_local int depth; /* the one may call the other */

static bool enter(void)
{
    if (depth == 0 && regions_most && registered - deregistered >= regions_most) {
        errno = ENOMEM;
        return false;
    }
    if (depth++ == 0)
        add(&registered);
    return true;
}

static struct ibv_mr *leave(struct ibv_mr *region)
{
    depth--;
    return region;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t length, int access)
{
    struct ibv_mr *(*real)(struct ibv_pd *, void *, size_t, int) = dlsym(RTLD_NEXT, "ibv_reg_mr");
    return enter() ? leave(real(pd, address, length, access)) : NULL;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *address, size_t length, uint64_t iova, unsigned int access)
{
    struct ibv_mr *(*real)(struct ibv_pd *, void *, size_t, uint64_t, unsigned int) =
        dlsym(RTLD_NEXT, "ibv_reg_mr_iova2");
    return enter() ? leave(real(pd, address, length, iova, access)) : NULL;
}

int ibv_dereg_mr(struct ibv_mr *region) // NOLINT(readability-inconsistent-declaration-parameter-name)
{
    int (*real)(struct ibv_mr *) = dlsym(RTLD_NEXT, "ibv_dereg_mr");
    add(&deregistered);
    return real(region);
}

/* ---- devices ---- */

static struct ibv_context_ops real_ops;

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    add(&posted);
    if (wr->opcode == IBV_WR_RDMA_READ && read_head) {
        if (wr->sg_list->length > longest_read)
            longest_read = wr->sg_list->length;
        if (wr->sg_list->length > read_head)
            wr->sg_list->length = (uint32_t)read_head;
    }
    return real_ops.post_send(qp, wr, bad);
}

static int poll_cq(struct ibv_cq *cq, int entries, struct ibv_wc *wc)
{
    add(&polled);
    return real_ops.poll_cq(cq, entries, wc);
}

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
    struct ibv_context *(*real)(struct ibv_device *) = dlsym(RTLD_NEXT, "ibv_open_device");
    struct ibv_context *context = real(device);
    if (context) {
        real_ops = context->ops;
        context->ops.post_send = post_send;
        context->ops.poll_cq = poll_cq;
    }
    return context;
}

static bool goes_unanswered(void)
{
    unsigned left = unanswered;

    while (left && !atomic_compare_exchange_weak(&unanswered, &left, left - 1))
        ;
    return left > 0;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attributes, int mask)
{
    int (*real)(struct ibv_qp *, struct ibv_qp_attr *, int) = dlsym(RTLD_NEXT, "ibv_modify_qp");
    if (mask & IBV_QP_TIMEOUT)
        timeout = attributes->timeout;
    if (mask & IBV_QP_AV && goes_unanswered())
        return ETIMEDOUT;
    return real(qp, attributes, mask);
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *device)
{
    int (*real)(struct ibv_context *, struct ibv_device_attr *) = dlsym(RTLD_NEXT, "ibv_query_device");
    int error = real(context, device);
    if (!error && shrink_device)
        shrink_device(device);
    return error;
}

int _ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index, struct ibv_gid_entry *entry,
                      uint32_t flags, size_t size)
{
    int (*real)(struct ibv_context *, uint32_t, uint32_t, struct ibv_gid_entry *, uint32_t, size_t) =
        dlsym(RTLD_NEXT, "_ibv_query_gid_ex");
    int error = real(context, port, index, entry, flags, size);
    if (!error && gid_type >= 0)
        entry->gid_type = (uint32_t)gid_type;
    return error;
}
