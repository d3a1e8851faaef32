/* SPDX-License-Identifier: MIT */
#include "transport/view.h"

#include <assert.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/stats.h"
#include "transport/comm.h"

/* One user more than none. NULL with a message. */
static struct lease *lease_new(zc_comm *comm)
{
    lock_take(&comm->ops);
    struct lease *lease = comm->leases;
    while (lease && lease->users)
        lease = lease->next;
    if (lease)
        lease->users = 1;
    lock_drop(&comm->ops);
    if (lease)
        return lease;
    lease = calloc(1, sizeof *lease);
    if (!lease)
        return fail_null(-ENOMEM, "zc_recv_view: no memory for a view");
    lease->comm = comm;
    lease->users = 1;
    lock_take(&comm->ops);
    lease->next = comm->leases;
    comm->leases = lease;
    lock_drop(&comm->ops);
    return lease;
}

/* May another message be lent? Counts it. */
static bool admit(zc_comm *comm)
{
    long views = atomic_fetch_add(&comm->views, 1);
    if (!comm->max_views || views < (long)comm->max_views)
        return true;
    atomic_fetch_sub(&comm->views, 1);
    return false;
}

void lease_end(struct lease *lease)
{
    zc_comm *comm = lease->comm;
    assert(comm); /* from lease_new on */
    lock_take(&comm->ops);
    bool last = lease->users == 1;
    if (!last)
        lease->users--;
    lock_drop(&comm->ops);
    if (!last)
        return;
    if (lease->copy) {
        zc_free(lease->copy);
    } else if (lease->data) {
        comm->transport->give_back(&comm->endpoint, &lease->taken);
        atomic_fetch_sub(&comm->views, 1);
    }
    lease->copy = NULL;
    lease->data = NULL;
    lock_take(&comm->ops);
    lease->users = 0;
    lock_drop(&comm->ops);
}

void lease_end_all(zc_comm *comm)
{
    for (struct lease *lease = comm->leases; lease; lease = lease->next)
        if (lease->out) {
            lease->out = false;
            lease_end(lease);
        }
}

/* Lends what was taken, or copies it. */
static int fill(struct lease *lease, const zc_status *found, zc_status *status)
{
    zc_comm *comm = lease->comm;
    if (comm->transport->lend && admit(comm)) {
        if (comm->transport->lend(&comm->endpoint, &lease->taken, &lease->data)) {
            *status = *found;
            count_often(receives);
            count(views_lent);
            return 0;
        }
        atomic_fetch_sub(&comm->views, 1);
    }
    int error = comm_receive_taken(comm, "zc_recv_view", found, &lease->taken, &lease->copy, status);
    if (!error)
        lease->data = lease->copy;
    return error;
}

int zc_recv_view(zc_view *view, int src, int tag, zc_comm *comm)
{
    int error = comm_check_receive(comm, "zc_recv_view", src, tag);
    if (!error && !view)
        error = fail(-EINVAL, "zc_recv_view: view is NULL");
    struct lease *lease = error ? NULL : lease_new(comm);
    if (!lease)
        return error ? error : -ENOMEM;
    zc_status found, status;
    error = comm_take(comm, src, tag, &found, &lease->taken);
    if (!error)
        error = fill(lease, &found, &status);
    if (error) {
        lease_end(lease);
        return error;
    }
    lease->length = status.length;
    lease->source = status.source;
    lease->tag = status.tag;
    lease->since = clock_seconds();
    lease->turn++;
    lease->out = true;
    *view =
        (zc_view){.data = lease->data, .length = status.length, .status = status, .lease = lease, .turn = lease->turn};
    return 0;
}

/* The lease of a view, with one user more; or NULL with *error. */
static struct lease *hold_lease(const zc_view *view, const char *call, bool end, int *error)
{
    struct lease *lease = view ? view->lease : NULL;
    if (!lease) {
        *error = fail(-EINVAL, "%s: %s", call, view ? "the view is empty: released already?" : "view is NULL");
        return NULL;
    }
    zc_comm *comm = lease->comm;
    *error = comm_check_open(comm, call); /* what lends messages may be called by any thread */
    if (*error)
        return NULL;
    lock_take(&comm->ops);
    bool there = lease->out && lease->turn == view->turn;
    if (there && end)
        lease->out = false;
    else if (there)
        lease->users++;
    lock_drop(&comm->ops);
    if (!there)
        *error = fail(-EINVAL, "%s: the view of %zu bytes from rank %d was released already", call, view->length,
                      view->status.source);
    return there ? lease : NULL;
}

int zc_release(zc_view *view)
{
    int error = 0;
    if (!view)
        return 0;
    struct lease *lease = hold_lease(view, "zc_release", true, &error);
    if (!lease)
        return error;
    lease_end(lease);
    *view = (zc_view){0};
    return 0;
}

int zc_forward(const zc_view *view, int dst, int tag, zc_comm *comm)
{
    int error = comm_check_send(comm, "zc_forward", dst, tag);
    if (error)
        return error;
    struct lease *lease = hold_lease(view, "zc_forward", false, &error);
    if (!lease)
        return error;
    /* What is a buffer of this process, or lent by another communicator, is sent as such memory is. */
    bool pass = !lease->copy && lease->comm == comm && lease->length;
    error = pass ? comm_send_lent(comm, lease, &lease->taken, lease->data, lease->length, dst, tag)
                 : zc_send(lease->data, lease->length, dst, tag, comm);
    if (!pass || error)
        lease_end(lease);
    return error;
}
