/* SPDX-License-Identifier: MIT
 *
 * Small numbers for pointers that a peer is to name without knowing them. */
#ifndef ZC_TRANSPORT_IDS_H
#define ZC_TRANSPORT_IDS_H

#include <errno.h>
#include <stdint.h>

struct ids {
    struct id {
        void *item;    /* NULL: free */
        uint32_t next; /* of the free ones */
    } * all;
    uint32_t room, free, count;
};

/* Makes room for more. 0 or -ENOMEM with a message. */
int ids_grow(struct ids *ids);

/* 0 or -ENOMEM with a message. Free numbers are a list that ends at `room`, whose place is then made. */
static inline int ids_take(struct ids *ids, void *item, uint32_t *id)
{
    if (ids->free == ids->room && ids_grow(ids))
        return -ENOMEM;
    struct id *taken = &ids->all[ids->free];
    *id = ids->free;
    ids->free = taken->next;
    taken->item = item;
    ids->count++;
    return 0;
}

/* NULL: there is no such number. */
void *ids_find(const struct ids *ids, uint32_t id);

/* It is given out again later. */
void ids_drop(struct ids *ids, uint32_t id);

#endif
