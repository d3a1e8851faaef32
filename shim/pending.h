/* SPDX-License-Identifier: MIT
 *
 * Requests of the program whose operations have borrowed something, found by their handles.
 *
 * What the program holds may be a *token*, with which MPI is not to work: of a persistent request, which is carried out
 * by an operation of its own each time it is started; and where MPI gives out one handle for several operations that
 * are over already, as MPICH does, and somebody watches each (observer.h). */
#ifndef ZC_SHIM_PENDING_H
#define ZC_SHIM_PENDING_H

#include <mpi.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "shim/call.h"

struct start; /* what a persistent request does (persistent.h) */

struct pending {
    struct pending *next;
    MPI_Request handle;  /* the program's */
    MPI_Request active;  /* the operation's; MPI_REQUEST_NULL: not started */
    MPI_Request message; /* of MPI_Ibsend: goes on when the active one, which is over, was completed */
    bool buffered;
    bool kept;  /* persistent, and MPI's own: its loans last until it is freed */
    bool token; /* the handle stands for the active one */
    bool taken; /* the program is in a call that may complete it */
    struct loans *loans;
    struct start *start; /* NULL: not persistent */
};

/* How many there are: with none, nothing has to be looked up. */
extern _Atomic long pending_count;

/* *request is an operation with these loans; it may be replaced by a token. */
void pending_add(MPI_Request *request, struct loans *loans);

/* *request gets a token for a message whose sending is over for the program, but not for its loans. */
void pending_add_buffered(MPI_Request *request, MPI_Request message, struct loans *loans);

/* *request is persistent. False: no memory. */
bool pending_add_persistent(MPI_Request request, struct start *start);

/* The request is persistent, and keeps these loans until it is freed. */
void pending_add_kept(MPI_Request request, struct loans *loans);

/* Takes the one with that handle for a call that may complete or start it, so that nobody else looks at it. NULL if
 * there is none, or no handle: MPI will tell. */
struct pending *pending_take(const MPI_Request *handle);

/* Puts it back: it is not over; or it is, which the program knows, and its loans end. */
void pending_return(struct pending *pending);
void pending_over(struct pending *pending);

/* It is over, and MPI has no request any more: its loans end, and unless it is persistent it is forgotten. */
void pending_complete(struct pending *pending);

/* Forgets it altogether, with its loans handed to the caller. */
struct loans *pending_forget(struct pending *pending);

/* Is a message of MPI_Ibsend on its way whose request the program has? */
bool pending_sends(void);

/* Ends the loans of operations that are over, of some at a time. */
void pending_progress(void);

#endif
