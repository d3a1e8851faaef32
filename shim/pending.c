/* SPDX-License-Identifier: MIT */
#include "shim/pending.h"

#include <stdlib.h>
#include <string.h>

#include "core/lock.h"
#include "shim/buffered.h"
#include "shim/observer.h"
#include "shim/persistent.h"

enum { BUCKETS = 1024, LOOKS = 32 };

_Atomic long pending_count;

static lock table_lock;
static struct pending *buckets[BUCKETS];

/* A handle is a number or a pointer. */
static struct pending **bucket_of(MPI_Request handle)
{
    uintptr_t bits = 0;
    memcpy(&bits, &handle, sizeof handle);
    return &buckets[(bits ^ bits >> 10) % BUCKETS];
}

/* The oldest that nobody has taken. Locked. */
static struct pending *find(MPI_Request handle)
{
    struct pending *pending = *bucket_of(handle);
    while (pending && (pending->handle != handle || pending->taken))
        pending = pending->next;
    return pending;
}

static bool known(MPI_Request handle)
{
    lock_take(&table_lock);
    const struct pending *pending = *bucket_of(handle);
    while (pending && pending->handle != handle)
        pending = pending->next;
    lock_drop(&table_lock);
    return pending != NULL;
}

/* Its handle is new: what else goes by that was completed, or freed, by somebody who does not call this library
 * (PMPI_Wait). */
static void insert(struct pending *pending)
{
    struct pending *stale;
    while ((stale = pending_take(&pending->handle))) {
        stale->token = false; /* not its own any more */
        start_free(stale->start);
        stale->start = NULL;
        pending_complete(stale);
    }
    lock_take(&table_lock);
    struct pending **link = bucket_of(pending->handle);
    while (*link)
        link = &(*link)->next;
    *link = pending;
    lock_drop(&table_lock);
    atomic_fetch_add(&pending_count, 1);
}

static void unlink_pending(struct pending *pending)
{
    lock_take(&table_lock);
    struct pending **link = bucket_of(pending->handle);
    while (*link != pending)
        link = &(*link)->next;
    *link = pending->next;
    lock_drop(&table_lock);
    atomic_fetch_sub(&pending_count, 1);
}

/* A handle of its own, which is never started. */
static void make_token(struct pending *pending)
{
    pending->token = true;
    PMPI_Recv_init(NULL, 0, MPI_BYTE, MPI_PROC_NULL, 0, MPI_COMM_SELF, &pending->handle);
}

void pending_add(MPI_Request *request, struct loans *loans)
{
    struct pending *pending = malloc(sizeof *pending);
    if (!pending) { /* nobody would know when it is over: the one that waits here */
        PMPI_Wait(request, MPI_STATUS_IGNORE);
        loans_end(loans);
        return;
    }
    *pending = (struct pending){.handle = *request, .active = *request, .loans = loans};
    /* Only operations that are over may share a handle. They need no guard, unless somebody watches. */
    int over = 0;
    if (known(*request))
        PMPI_Request_get_status(*request, &over, MPI_STATUS_IGNORE);
    if (over && !observer) {
        free(pending);
        loans_end(loans);
        return;
    }
    if (over)
        make_token(pending);
    *request = pending->handle;
    insert(pending);
}

void pending_add_buffered(MPI_Request *request, MPI_Request message, struct loans *loans)
{
    struct pending *pending = malloc(sizeof *pending);
    MPI_Request over;
    PMPI_Isend(NULL, 0, MPI_BYTE, MPI_PROC_NULL, 0, MPI_COMM_SELF, &over);
    if (!pending) {
        adrift_add(message, loans);
        *request = over;
        return;
    }
    *pending = (struct pending){.active = over, .loans = loans, .message = message, .buffered = true};
    make_token(pending);
    *request = pending->handle;
    insert(pending);
}

bool pending_add_persistent(MPI_Request request, struct start *start)
{
    struct pending *pending = malloc(sizeof *pending);
    if (!pending)
        return false;
    *pending = (struct pending){.handle = request, .active = MPI_REQUEST_NULL, .token = true, .start = start};
    insert(pending);
    return true;
}

void pending_add_kept(MPI_Request request, struct loans *loans)
{
    struct pending *pending = malloc(sizeof *pending);
    if (!pending)
        return; /* they last for good */
    *pending = (struct pending){.handle = request, .active = request, .kept = true, .loans = loans};
    insert(pending);
}

struct pending *pending_take(const MPI_Request *handle)
{
    if (atomic_load_explicit(&pending_count, memory_order_relaxed) == 0 || !handle || *handle == MPI_REQUEST_NULL)
        return NULL;
    lock_take(&table_lock);
    struct pending *pending = find(*handle);
    if (pending)
        pending->taken = true;
    lock_drop(&table_lock);
    return pending;
}

void pending_return(struct pending *pending)
{
    lock_take(&table_lock);
    pending->taken = false;
    lock_drop(&table_lock);
}

struct loans *pending_forget(struct pending *pending)
{
    struct loans *loans = pending->loans;
    unlink_pending(pending);
    if (pending->token)
        PMPI_Request_free(&pending->handle);
    free(pending);
    return loans;
}

void pending_over(struct pending *pending)
{
    bool last = pending->buffered || pending->kept; /* for longer than the operation */
    struct loans *loans = last ? NULL : pending->loans;
    if (!last)
        pending->loans = NULL;
    else if (pending->buffered)
        loans_allow(pending->loans);
    pending_return(pending);
    loans_end(loans);
}

void pending_complete(struct pending *pending)
{
    if (pending->start) {
        pending->active = MPI_REQUEST_NULL;
        pending_over(pending);
    } else if (pending->buffered) {
        MPI_Request message = pending->message;
        adrift_add(message, pending_forget(pending));
    } else {
        loans_end(pending_forget(pending));
    }
}

bool pending_sends(void)
{
    int over = 1;
    lock_take(&table_lock);
    for (int i = 0; i < BUCKETS && over; i++)
        for (const struct pending *pending = buckets[i]; pending && over; pending = pending->next)
            if (pending->buffered)
                PMPI_Request_get_status(pending->message, &over, MPI_STATUS_IGNORE);
    lock_drop(&table_lock);
    return !over;
}

/* ---- progress ---- */

/* Its loans, if it is over. Locked. While the program is told of races, a message that has left is still the
 * program's to complete. */
static struct loans *harvest(struct pending *pending)
{
    int done = 0;
    if (pending->taken || !pending->loans || pending->buffered || pending->kept ||
        (observer && pending->loans->loan[0].hold.backing))
        return NULL;
    PMPI_Request_get_status(pending->active, &done, MPI_STATUS_IGNORE);
    if (!done)
        return NULL;
    struct loans *loans = pending->loans;
    pending->loans = NULL;
    return loans;
}

void pending_progress(void)
{
    static unsigned cursor;
    struct loans *over[LOOKS];
    int n = 0, looks = 0;
    if (atomic_load_explicit(&pending_count, memory_order_relaxed) == 0 || !lock_try(&table_lock))
        return;
    for (int i = 0; i < BUCKETS && looks < LOOKS; i++) {
        for (struct pending *pending = buckets[cursor++ % BUCKETS]; pending && n < LOOKS; pending = pending->next) {
            over[n] = harvest(pending);
            n += over[n] != NULL;
            looks++;
        }
    }
    lock_drop(&table_lock);
    for (int i = 0; i < n; i++)
        loans_end(over[i]);
}
