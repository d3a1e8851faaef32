/* SPDX-License-Identifier: MIT
 *
 * Lending: buffers handed to calls of another library, MPI above all, whose calls the interposition library (shim/)
 * takes over. It is what zc_guard() is for programs, and tells more of what is in flight.
 *
 * Exported for shim/ alone: no public header, no promise. */
#ifndef ZC_PROTECT_LEND_H
#define ZC_PROTECT_LEND_H

#include "protect/hold.h"

enum zc_lend {
    ZC_LEND_CALL,  /* until the call returns: the program races with itself if it touches the bytes meanwhile */
    ZC_LEND_VALUE, /* longer: touches that come too early are stopped */
    ZC_LEND_BRIEF, /* the same for what is likely to be over at once: see zc_lend_keep */
    ZC_LEND_OPEN   /* to be written, at the program's own address as well: nothing is protected any more, or again */
};

/* A range of a buffer that is lent. The first fields are its borrower's, and say what it is for in reports. */
struct zc_loan {
    const char *call;   /* "MPI_Isend" */
    int peer, tag;      /* -1: any, or none */
    const void *origin; /* where it was called, as the borrower writes that down */
    bool lawful;        /* early touches are no mistake of the program's: they are not told of */
    /* zc's own */
    enum zc_lend how;
    struct hold hold;
    void *copy; /* what is lent instead */
    bool tentative;
};

/* Lends buf[0..length), length >= 1, to one who reads it, or who writes it: *wire is the address to hand on. Waits for
 * receives that are in flight into bytes to be read; ends what is in the way of bytes to be written, as a store would.
 * Unless `full`, not all bytes of the range are used: then nothing is waited for, and what is written is not guarded.
 * Nor is it where another loan is written into some of the bytes: without zc, that ends.
 * 0; -EINVAL: not a range of a zc buffer; -ENOMEM; the error of a failed receive. */
ZC_API int zc_lend_read(struct zc_loan *loan, const void *buf, size_t length, enum zc_lend how, bool full,
                        const void **wire);
ZC_API int zc_lend_write(struct zc_loan *loan, void *buf, size_t length, enum zc_lend how, bool full, void **wire);

/* A brief loan is not over yet: stops touches from now on. False: neither spares nor mappings are left for that, and a
 * store would change what is lent. */
ZC_API bool zc_lend_keep(struct zc_loan *loan);

ZC_API void zc_lend_end(struct zc_loan *loan);

static inline struct zc_loan *loan_of(const struct hold *hold)
{
    return (struct zc_loan *)((char *)(uintptr_t)hold - offsetof(struct zc_loan, hold));
}

/* Makes buf[0..length) accessible to a system call, for reading or writing: a load or a store of each byte. Waits for
 * receives into pages of it, and ends sends of them if it is to be written. */
ZC_API int zc_lend_touch(const void *buf, size_t length, bool store);

/* Is this where zc itself sends from and receives into? */
ZC_API bool zc_lend_own(const void *address);

/* A touch that the program should not have made: `store` or load, or giving the buffer back (`freed`), of a byte that
 * is lent. */
struct zc_sighting {
    const struct zc_loan *loan;
    const char *buffer; /* its start */
    size_t offset;      /* of the byte that is touched */
    bool store, freed;
};

/* What the interposition library hands down. */
struct zc_interposer {
    /* Is this thread in a call of the other library? Signal-safe. */
    bool (*inside)(void);
    /* May another thread call it at any time? Asked before the first loan. */
    bool (*threads)(void);
    /* Is one thread at a time in it, which may be another one than this? */
    bool (*serial)(void);
    /* Ends loans whose operations are over. Called by threads that wait in a zc call, and by the helper. */
    void (*progress)(void);
    /* A conflict with a loan, on the thread that touches; NULL: a line on stderr, as ZC_ON_CONFLICT says. Signal-safe,
     * calls nothing of zc; the loan stays as it is meanwhile. */
    void (*sighted)(const struct zc_sighting *sighting);
};

/* Hands it down, for the life of the process, and puts the fault handler back on top if there is one (MPI_Init
 * installs its own). */
ZC_API void zc_interpose(const struct zc_interposer *interposer);

#endif
