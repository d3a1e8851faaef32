/* SPDX-License-Identifier: MIT
 *
 * From the library's start to its end: what it hands down to zc, and who else is in the way. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim/buffered.h"
#include "shim/call.h"
#include "shim/observer.h"
#include "shim/pending.h"
#include "shim/touch.h"

const struct zc_observer *observer;

static bool inside(void)
{
    return call_goes_on(); /* of the stack that a fault interrupted, which may not be this one */
}

static int level(void)
{
    int level = MPI_THREAD_SINGLE;
    if (call_allowed())
        PMPI_Query_thread(&level);
    return level;
}

static bool threads(void)
{
    return level() == MPI_THREAD_MULTIPLE;
}

static bool serial(void)
{
    return level() == MPI_THREAD_SERIALIZED;
}

/* May this thread call MPI? */
static bool callable(void)
{
    static _Thread_local int known; /* 1: yes, -1: no; while MPI runs */
    if (!call_allowed())
        return false;
    if (!known) {
        int main_thread = 0;
        if (!threads())
            PMPI_Is_thread_main(&main_thread);
        known = main_thread || threads() ? 1 : -1;
    }
    return known == 1;
}

static void progress(void)
{
    if (call_inside() || !callable())
        return;
    call_enter();
    pending_progress();
    adrift_progress();
    call_leave();
}

static void sighted(const struct zc_sighting *sighting)
{
    observer->sighted(sighting);
}

static const struct zc_interposer plain = {
    .inside = inside, .threads = threads, .serial = serial, .progress = progress};
static const struct zc_interposer observed = {
    .inside = inside, .threads = threads, .serial = serial, .progress = progress, .sighted = sighted};

void zc_shim_observe(const struct zc_observer *new)
{
    observer = new;
    zc_interpose(&observed);
}

/* ---- other tools ---- */

static const char *library_of(const void *function)
{
    Dl_info info;
    return function && dladdr(function, &info) ? info.dli_fname : "";
}

/* The profiling interface has room for one tool: the first in the order of loading is called, and calls MPI. */
static void look_for_others(void)
{
    static bool looked;
    if (looked)
        return;
    looked = true;
    const char *first = library_of(dlsym(RTLD_DEFAULT, "MPI_Send"));
    const char *mpi = library_of(dlsym(RTLD_DEFAULT, "PMPI_Send"));
    const char *next = library_of(dlsym(RTLD_NEXT, "MPI_Send"));
    if (strcmp(first, library_of((const void *)look_for_others)) != 0)
        fprintf(stderr,
                "zc-shim: %s comes first and takes MPI's calls: their buffers are not guarded (list "
                "libzc-shim.so before it)\n",
                first);
    else if (*next && strcmp(next, mpi) != 0)
        fprintf(stderr,
                "zc-shim: %s is another tool on MPI's profiling interface, which has room for one: it is "
                "not called\n",
                next);
}

__attribute__((constructor)) static void load(void)
{
    if (!observer)
        zc_interpose(&plain);
}

/* Was MPI initialised without us? */
__attribute__((destructor)) static void unload(void)
{
    int initialized;
    PMPI_Initialized(&initialized);
    if (initialized)
        look_for_others();
}

void *touch_next(const char *name)
{
    void *next = dlsym(RTLD_NEXT, name);
    if (!next) {
        fprintf(stderr, "zc-shim: no library has %s\n", name);
        abort();
    }
    return next;
}

/* ---- MPI's beginning and end ---- */

static int began(int code)
{
    if (code != MPI_SUCCESS)
        return code;
    look_for_others();
    zc_interpose(observer ? &observed : &plain); /* MPI has installed a handler of its own */
    if (observer) {
        int rank, size;
        PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
        PMPI_Comm_size(MPI_COMM_WORLD, &size);
        observer->began(rank, size);
    }
    return code;
}

int MPI_Init(int *argc, char ***argv)
{
    return began(PMPI_Init(argc, argv));
}

int MPI_Init_thread(int *argc, char ***argv, int required, int *provided)
{
    return began(PMPI_Init_thread(argc, argv, required, provided));
}

int MPI_Finalize(void)
{
    adrift_drain();
    if (observer)
        observer->ended();
    return PMPI_Finalize();
}
