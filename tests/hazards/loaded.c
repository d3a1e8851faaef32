/* SPDX-License-Identifier: MIT
 *
 * loaded LIBRARY: uses zc as loaded by dlopen, and unloads it with a message in flight, a protected buffer and its
 * threads running: the library stays, for its handler and threads may be needed, and all goes on. Loaded again it is
 * the same. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zc.h"

enum { LENGTH = 65536 };

/* (The checks of others call zc.) */
static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "loaded: %s failed\n", what);
    exit(1);
}

#define CHECK(condition) must(condition, #condition)

static struct {
    int (*open)(const char *, const zc_options *, zc_comm **);
    void *(*alloc)(size_t);
    int (*send)(const void *, size_t, int, int, zc_comm *);
    int (*recv)(void *, size_t, int, int, zc_comm *, zc_status *);
    int (*flush)(zc_comm *);
    int (*stats_get)(zc_stats *);
} zc;

static void find(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    must(found, name);
    memcpy(function, &found, sizeof found);
}

static uint64_t idle_faults(void)
{
    zc_stats stats = {.size = sizeof stats};
    CHECK(zc.stats_get(&stats) == 0);
    return stats.faults_idle;
}

static void *load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    must(library, path);
    find(library, "zc_open", &zc.open);
    find(library, "zc_alloc", &zc.alloc);
    find(library, "zc_send", &zc.send);
    find(library, "zc_recv", &zc.recv);
    find(library, "zc_flush", &zc.flush);
    find(library, "zc_stats_get", &zc.stats_get);
    return library;
}

int main(int argc, char *argv[])
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    CHECK(argc == 2);
    options.policy = ZC_POLICY_PROTECT;
    options.release = ZC_RELEASE_LAZY;
    void *library = load(argv[1]);
    CHECK(zc.open("loop", &options, &comm) == 0);
    char *buffer = zc.alloc(LENGTH), *in = zc.alloc(LENGTH);
    CHECK(buffer && in);
    memset(buffer, 'a', LENGTH);
    CHECK(zc.send(buffer, LENGTH, 0, 1, comm) == 0 && zc.recv(in, LENGTH, 0, 1, comm, NULL) == 0);
    CHECK(zc.flush(comm) == 0 && zc.send(buffer, LENGTH, 0, 2, comm) == 0);

    CHECK(dlclose(library) == 0);
    *(volatile char *)buffer = 'b'; /* a fault */
    library = load(argv[1]);
    CHECK(zc.recv(in, LENGTH, 0, 2, comm, NULL) == 0 && in[0] == 'a' && buffer[0] == 'b');
    CHECK(zc.send(buffer, LENGTH, 0, 3, comm) == 0 && zc.recv(in, LENGTH, 0, 3, comm, NULL) == 0 && in[0] == 'b');
    CHECK(zc.flush(comm) == 0);
    uint64_t before = idle_faults();
    *(volatile char *)buffer = 'c';
    CHECK(idle_faults() == before + 1);
    CHECK(dlclose(library) == 0);
    return 0;
}
