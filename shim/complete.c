/* SPDX-License-Identifier: MIT */
#include "shim/complete.h"

#include <stdio.h>
#include <stdlib.h>

#include "shim/buffered.h"
#include "shim/call.h"
#include "shim/persistent.h"

MPI_Request *completion_begin_some(struct completion *completion, MPI_Request *requests, int n)
{
    completion->requests = requests;
    completion->handles = completion->few_handles;
    completion->pending = completion->few_pending;
    if (n <= 0 || !requests) /* an error, which MPI will tell */
        return requests;
    if (n > COMPLETION_FEW) {
        completion->handles = malloc((size_t)n * sizeof *completion->handles);
        completion->pending = calloc((size_t)n, sizeof(struct pending *));
        if (!completion->handles || !completion->pending) {
            fprintf(stderr, "zc-shim: no memory to complete %d requests\n", n);
            abort();
        }
    }
    completion->n = n;
    for (int i = 0; i < n; i++) {
        struct pending *pending = pending_take(&requests[i]);
        completion->pending[i] = pending;
        completion->handles[i] = pending ? pending->active : requests[i];
    }
    return completion->handles;
}

void completion_end_some(struct completion *completion)
{
    for (int i = 0; i < completion->n; i++) {
        struct pending *pending = completion->pending[i];
        MPI_Request left = completion->handles[i];
        if (!pending) {
            completion->requests[i] = left;
        } else if (left == MPI_REQUEST_NULL) {
            if (!pending->start)
                completion->requests[i] = MPI_REQUEST_NULL;
            pending_complete(pending);
        } else {
            pending_return(pending);
        }
    }
    if (completion->n > COMPLETION_FEW) {
        free(completion->handles);
        free(completion->pending);
    }
}

/* ---- other calls that take a request ---- */

int MPI_Request_get_status(MPI_Request request, int *flag, MPI_Status *status)
{
    struct pending *pending = pending_take(&request);
    int code = PMPI_Request_get_status(pending ? pending->active : request, flag, status);
    if (pending && code == MPI_SUCCESS && *flag)
        pending_over(pending);
    else if (pending)
        pending_return(pending);
    return code;
}

int MPI_Cancel(MPI_Request *request)
{
    struct pending *pending = pending_take(request);
    int code = PMPI_Cancel(pending ? &pending->active : request);
    if (pending)
        pending_return(pending);
    return code;
}

int MPI_Request_free(MPI_Request *request)
{
    struct pending *pending = pending_take(request);
    if (!pending)
        return PMPI_Request_free(request);
    /* It goes on, and so do its loans. */
    MPI_Request active = pending->active;
    bool kept = pending->kept;
    if (pending->buffered) {
        PMPI_Request_free(&active);
        active = pending->message;
    }
    start_free(pending->start);
    struct loans *loans = pending_forget(pending);
    int over = 0;
    if (kept)
        PMPI_Request_get_status(active, &over, MPI_STATUS_IGNORE);
    if (loans && !over) {
        adrift_add(active, loans);
    } else if (active != MPI_REQUEST_NULL) {
        PMPI_Request_free(&active);
        loans_end(loans);
    }
    *request = MPI_REQUEST_NULL;
    return MPI_SUCCESS;
}
