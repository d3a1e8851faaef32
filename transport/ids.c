/* SPDX-License-Identifier: MIT */
#include "transport/ids.h"

#include <errno.h>

#include "core/error.h"
#include "core/own_memory.h"

enum { ROOM_FIRST = 64 };

int ids_grow(struct ids *ids)
{
    uint32_t room = ids->room ? 2 * ids->room : ROOM_FIRST;
    struct id *all = room > ids->room ? own_realloc(ids->all, room * sizeof *all) : NULL;
    if (!all)
        return fail(-ENOMEM, "zc: no memory for another operation in flight");
    for (uint32_t i = ids->room; i < room; i++)
        all[i] = (struct id){.next = i + 1};
    ids->all = all;
    ids->room = room;
    return 0;
}

void *ids_find(const struct ids *ids, uint32_t id)
{
    return id < ids->room ? ids->all[id].item : NULL;
}

void ids_drop(struct ids *ids, uint32_t id)
{
    ids->all[id] = (struct id){.next = ids->free};
    ids->free = id;
    ids->count--;
}
