/* SPDX-License-Identifier: MIT
 *
 * Memory that other processes may store to at any time, whoever has it mapped how: nothing of it is protected while it
 * is part of a window. */
#include <stdlib.h>

#include "core/lock.h"
#include "shim/call.h"

struct shown {
    struct shown *next;
    MPI_Win win;
    const void *base;
    struct loans *loans;
};

static lock list_lock;
static struct shown *list;

/* Before others may: it is the program's, and the caller's alone, until then. */
static struct loans *show(const char *name, const void *base, MPI_Aint size)
{
    struct call call = {.name = name, .buffer = base};
    if (size > 0 && zc_owns(base))
        call_keeps(&call, base, (struct span){.length = size});
    return call.loans;
}

static void insert(struct shown *new)
{
    lock_take(&list_lock);
    new->next = list;
    list = new;
    lock_drop(&list_lock);
}

static int shown(int code, const MPI_Win *win, const void *base, struct loans *loans)
{
    struct shown *new = code == MPI_SUCCESS &&loans && loans->count ? malloc(sizeof *new) : NULL;
    if (new) {
        *new = (struct shown){.win = *win, .base = base, .loans = loans};
        insert(new);
    } else if (code != MPI_SUCCESS) {
        loans_end(loans);
    } /* without memory, they last for good */
    return code;
}

/* Takes out what the window shows, or of that what begins at `base`, unless that is NULL: before MPI knows, since the
 * handle may be another window's at once. */
static struct shown *take(MPI_Win win, const void *base)
{
    struct shown *over = NULL;
    lock_take(&list_lock);
    for (struct shown **link = &list; *link;) {
        struct shown *one = *link;
        if (one->win != win || (base && one->base != base)) {
            link = &one->next;
            continue;
        }
        *link = one->next;
        one->next = over;
        over = one;
    }
    lock_drop(&list_lock);
    return over;
}

/* It is shown no more; or it still is, as MPI's `code` says. */
static int hidden(int code, struct shown *over)
{
    while (over) {
        struct shown *one = over;
        over = one->next;
        if (code == MPI_SUCCESS) {
            loans_end(one->loans);
            free(one);
        } else {
            insert(one);
        }
    }
    return code;
}

int MPI_Win_create(void *base, MPI_Aint size, int disp_unit, MPI_Info info, MPI_Comm comm, MPI_Win *win)
{
    struct loans *loans = show("MPI_Win_create", base, size);
    int code = PMPI_Win_create(base, size, disp_unit, info, comm, win);
    return shown(code, win, base, loans);
}

int MPI_Win_attach(MPI_Win win, void *base, MPI_Aint size)
{
    struct loans *loans = show("MPI_Win_attach", base, size);
    return shown(PMPI_Win_attach(win, base, size), &win, base, loans);
}

int MPI_Win_detach(MPI_Win win, const void *base)
{
    struct shown *over = take(win, base);
    return hidden(PMPI_Win_detach(win, base), over);
}

int MPI_Win_free(MPI_Win *win)
{
    struct shown *over = win ? take(*win, NULL) : NULL; /* an error, which MPI will tell */
    return hidden(PMPI_Win_free(win), over);
}

#if MPI_VERSION >= 4
int MPI_Win_create_c(void *base, MPI_Aint size, MPI_Aint disp_unit, MPI_Info info, MPI_Comm comm, MPI_Win *win)
{
    struct loans *loans = show("MPI_Win_create_c", base, size);
    int code = PMPI_Win_create_c(base, size, disp_unit, info, comm, win);
    return shown(code, win, base, loans);
}
#endif
