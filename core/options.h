/* SPDX-License-Identifier: MIT
 *
 * The ZC_... variables, read once: one row of a table each (options.c). */
#ifndef ZC_CORE_OPTIONS_H
#define ZC_CORE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zc.h"

/* Of ZC_PEER_TIMEOUT. */
enum { PEER_TIMEOUT_LEAST_MS = 10, PEER_TIMEOUT_MOST_MS = 3600000 };

struct options {
    enum zc_conflict conflict;
    enum zc_on_conflict on_conflict;
    const char *race; /* ZC_RACE, read by libzc-race.so itself, as is the next; "" */
    int race_abort;   /* 0 or 1 */
    enum zc_policy policy;
    enum zc_release release;
    enum zc_progress_mode progress;
    enum zc_on_timeout on_timeout;
    enum zc_full full;
    enum zc_huge huge;
    enum zc_protect protect;
    int debug; /* 0 or 1 */
    uint64_t fault_timeout_ms;
    uint64_t peer_timeout_ms;  /* of a peer that does not answer, over verbs */
    uint64_t max_in_flight;    /* 0: no bound */
    uint64_t max_views;        /* 0: no bound */
    uint64_t maps;             /* mappings that zc may use up; 0: what the kernel allows */
    uint64_t malloc_threshold; /* of the malloc preload: bytes from which it uses pools */
    uint64_t malloc_most;      /* and up to which it does */
    const char *transport;     /* ZC_TRANSPORT, not parsed here; "" */
    const char *host;          /* ZC_HOST; "" */
    const char *pools;         /* ZC_POOLS, not parsed here; "" */
    const char *trace;         /* ZC_TRACE: what files of trace records are called; "": none */
};

/* Fills *out with defaults and environment. 0, or -EINVAL with a message that names the variable. The
 * answer is the same for the life of the process. */
int options_get(const struct options **out);

/* The same of another environment (NULL: an empty one, as clearenv(3) leaves it); texts in *options point there. */
int options_read(char *const *environment, struct options *options);

/* A row of the table, for people. */
struct option_text {
    const char *variable, *help;
    char values[64], initial[32];
};

/* Describes row i, from 0; false past the last. */
bool options_describe(size_t i, struct option_text *text);

/* Parses a number with an optional K, M, G or T (powers of 1024); returns the end, or NULL. */
const char *parse_size(const char *text, uint64_t *value);

#endif
