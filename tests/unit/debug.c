/* SPDX-License-Identifier: MIT
 *
 * ZC_DEBUG=on: what it finds, and that it finds nothing in what is right. */
#include "alloc/debug.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc/heap.h"
#include "check.h"
#include "loop.h"
#include "pattern.h"

TestSuite(debug, .timeout = 60);

/* Runs the body with ZC_DEBUG=on, in a child that must end by the signal (0: not at all) and say `text`. */
static void ends(void (*body)(size_t size), size_t size, int signal, const char *text)
{
    int ends[2], status;
    char said[4096] = "";
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        setenv("ZC_DEBUG", "on", 1);
        body(size);
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n, at = 0; (n = read(ends[0], said + at, sizeof said - 1 - (size_t)at)) > 0;)
        at += n;
    CHECK(waitpid(child, &status, 0) == child);
    CHECKF(signal ? WIFSIGNALED(status) && WTERMSIG(status) == signal : status == 0, "status 0x%x: %s",
           (unsigned)status, said);
    CHECKF(strstr(said, text), "says \"%s\", not \"%s\"", said, text);
}

static void store(char *p, size_t at)
{
    ((volatile char *)p)[at] ^= 1;
}

static void past_the_end(size_t size)
{
    char *p = ALLOC(size);
    store(p, size);
    zc_free(p);
}

static void past_the_slot(size_t size)
{
    store(ALLOC(size), heap_class_size(size));
}

static void after_free(size_t size)
{
    char *p = ALLOC(size);
    CHECK_OK(zc_free(p));
    store(p, size / 2);
    ALLOC(size);
}

Test(debug, finds_stores_past_the_end)
{
    ends(past_the_end, 100, SIGABRT, "byte 100 was written of a buffer of 100 bytes at 0x");
    ends(past_the_end, 5000, SIGABRT, "byte 5000 was written of a buffer of 5000 bytes");
    ends(past_the_end, 3000001, SIGABRT, "byte 3000001 was written of a buffer of 3000001 bytes");
}

Test(debug, guards_the_end_of_the_slot)
{
    ends(past_the_slot, 4096, SIGSEGV, "byte 4096 was touched, in the guard page of a buffer of 4096 bytes at 0x");
    ends(past_the_slot, 20000, SIGSEGV, "byte 20480 was touched, in the guard page of a buffer of 20000 bytes");
    ends(past_the_slot, 5 << 20, SIGSEGV, "in the guard page of a buffer of 5242880 bytes");
}

Test(debug, finds_stores_after_free)
{
    ends(after_free, 4096, SIGABRT, "byte 2048 was written after zc_free of a buffer of 4096 bytes at 0x");
    ends(after_free, 3 << 20, SIGABRT, "byte 1572864 was written after zc_free of a buffer of 3145728 bytes");
}

/* Everything that a program may do: nothing is found. */
static void all_right(size_t size)
{
    zc_comm *comm = loop_renaming(ZC_RELEASE_AUTO);
    char *got = malloc(size);
    for (unsigned i = 0; i < 40; i++) {
        char *p = ALLOC(size), *in = ALLOC(size);
        CHECK(zc_usable_size(p) == size);
        pattern_fill(p, size, i);
        CHECK_OK(zc_send(p, size, 0, 0, comm));
        memset(p, 1, size); /* renames */
        CHECK_OK(zc_send(p, size, 0, 1, comm));
        CHECK_OK(zc_free(p)); /* in flight */
        CHECK_OK(zc_recv(got, size, 0, 0, comm, NULL));
        CHECK_PATTERN(got, size, i);
        CHECK_OK(zc_recv(in, size, 0, 1, comm, NULL));
        CHECK_BYTES(in, size, 1);
        in = zc_realloc(in, 2 * size);
        CHECK(in && zc_usable_size(in) == 2 * size);
        CHECK_BYTES(in, size, 1);
        memset(in, 2, 2 * size);
        CHECK_OK(zc_free(in));
        void *aligned = zc_aligned_alloc(64 << 10, size);
        CHECK(aligned && (uintptr_t)aligned % (64 << 10) == 0);
        CHECK_OK(zc_free(aligned));
    }
    CHECK_OK(zc_close(comm));
    zc_pool *pool;
    zc_pool_options of_pool = ZC_POOL_OPTIONS_INIT;
    of_pool.slot_size = size;
    of_pool.initial = 3;
    CHECK_OK(zc_pool_open(&of_pool, &pool));
    void *p = zc_pool_alloc(pool);
    CHECK(p && zc_usable_size(p) == (size + 4095) / 4096 * 4096);
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK_OK(zc_free(zc_pool_alloc(pool)));
    CHECK_OK(zc_pool_close(pool));
}

Test(debug, finds_nothing_in_what_is_right)
{
    ends(all_right, 1, 0, "");
    ends(all_right, 10000, 0, "");
    ends(all_right, 64 << 10, 0, "");
    ends(all_right, 3 << 20, 0, "");
}
