/* SPDX-License-Identifier: MIT
 *
 * A call of MPI that this library has taken over: what it borrows of the program's buffers, and for how long. */
#ifndef ZC_SHIM_CALL_H
#define ZC_SHIM_CALL_H

#include <mpi.h>
#include <stdbool.h>

#include "protect/lend.h"
#include "shim/span.h"

enum { LOANS_MOST = 2 }; /* of a call: one that it reads, one that it writes */

/* What one operation has borrowed. */
struct loans {
    struct zc_loan loan[LOANS_MOST];
    int count;
    bool buffered;  /* of a buffered send, for which MPI_Buffer_detach waits */
    void *packed;   /* a message copied from foreign memory, or NULL */
    void *origin[]; /* where it was called, if somebody wants to know (observer.h) */
};

struct call {
    const char *name;
    const void *buffer;  /* the first */
    struct loans *loans; /* NULL: none yet */
    bool lasts;          /* goes on after it has returned */
};

/* Is this thread inside MPI? Error handlers may leave by a long jump: what they leave behind is known by the frame,
 * which later ones lie above, or have used for other things. */
struct call_state {
    int depth;
    const void *const *frame; /* of the outermost call, and */
    const void *caller;       /* where it returns to, which the frame says as long as it is there */
};
extern _Thread_local struct call_state call_state __attribute__((tls_model("initial-exec")));

#define CALL_INLINE static inline __attribute__((always_inline)) /* the frame is that of the function taken over */

static inline bool call_goes_on(void)
{
    return call_state.depth > 0 && call_state.frame[1] == call_state.caller;
}

CALL_INLINE bool call_inside(void)
{
    const void *const *frame = __builtin_frame_address(0);
    return call_state.depth > 0 && frame < call_state.frame && call_goes_on();
}

CALL_INLINE void call_enter(void)
{
    if (!call_inside()) {
        call_state = (struct call_state){.frame = __builtin_frame_address(0)};
        call_state.caller = call_state.frame[1];
    }
    call_state.depth++;
}

static inline void call_leave(void)
{
    call_state.depth--;
}

/* May anything of MPI be called? Not before MPI_Init and after MPI_Finalize, nor where the program has sessions alone:
 * then its calls are as without this library. */
bool call_allowed(void);

/* May it be a buffer of zc? Below MPI_BOTTOM, the span says what is. */
static inline bool call_owns(const void *buf)
{
    return buf == MPI_BOTTOM || zc_owns(buf);
}

/* The call reads or writes the span of a buffer of zc: what to give to MPI instead. `peer` and `tag` as given. (The
 * root of a broadcast reads what others write, so neither is const.) */
void *call_reads(struct call *call, const void *buf, struct span span, int peer, int tag);
void *call_writes(struct call *call, void *buf, struct span span, int peer, int tag);

/* The span may be read or written for as long as the loans last, at the program's own address: it is accessible, and
 * nothing of the buffer is protected meanwhile, since what is sent is copied. */
void call_keeps(struct call *call, const void *buf, struct span span);

/* Makes the span accessible at the program's own address, and no more: nobody says when the call is over. */
void call_touches(const void *buf, struct span span, bool store);

/* Room for what a call borrows, made when it is first needed; NULL: no memory. */
struct loans *call_loans(struct call *call);

/* Ends what an operation has borrowed; NULL is fine. */
void loans_end(struct loans *loans);

/* The program may touch the buffers from now on, though the operation goes on. */
void loans_allow(struct loans *loans);

/* The operation was posted. True: it is over already, and its loans have ended. */
bool loans_posted(struct loans *loans, MPI_Request request);

/* It has returned `code`, and is over, or goes on as *request; returns `code`. */
static inline int call_over(struct call *call, int code)
{
    if (call->loans)
        loans_end(call->loans);
    return code;
}

int call_posted(struct call *call, int code, MPI_Request *request);

/* It has made *request, with which its loans last until that is freed. */
int call_made(struct call *call, int code, const MPI_Request *request);

#endif
