/* SPDX-License-Identifier: MIT
 *
 * What the identifier of a work request tells its completion. */
#ifndef ZC_TRANSPORT_VERBS_WR_H
#define ZC_TRANSPORT_VERBS_WR_H

#include <stdbool.h>
#include <stdint.h>

/* A receive has the number of its slot. A send has this bit, its peer and its number there. */
static const uint64_t WR_SEND = (uint64_t)1 << 63;

static inline uint64_t wr_of_send(uint32_t peer, uint32_t number)
{
    return WR_SEND | (uint64_t)peer << 32 | number;
}

static inline bool wr_is_send(uint64_t wr)
{
    return wr & WR_SEND;
}

static inline uint32_t wr_peer(uint64_t wr)
{
    return (uint32_t)(wr >> 32) & 0x7fffffff;
}

static inline uint32_t wr_number(uint64_t wr)
{
    return (uint32_t)wr;
}

#endif
