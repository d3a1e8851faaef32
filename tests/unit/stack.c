/* SPDX-License-Identifier: MIT
 *
 * A fiber's stack may be a buffer: it is never protected while a thread runs on it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <ucontext.h>

#include "check.h"
#include "loop.h"
#include "pattern.h"

enum { STACK = 1 << 20, SIZE = 100000, SMALL = 100 };

static zc_comm *comm;
static char *got;
static ucontext_t here, there;

static void on_stack(void)
{
    char data[SIZE];
    struct zc_guard guard;
    for (unsigned round = 0; round < 5; round++) {
        for (size_t size = SMALL; size <= SIZE; size += SIZE - SMALL) {
            pattern_fill(data, size, round);
            CHECK_OK(zc_send(data, size, 0, 0, comm));
            pattern_fill(data, size, round + 1);
            CHECK_OK(zc_recv(got, SIZE, 0, 0, comm, NULL));
            CHECK_PATTERN(got, size, round);
            CHECK_OK(zc_send(got, size, 0, 0, comm));
            CHECK_OK(zc_recv(data, SIZE, 0, 0, comm, NULL));
            CHECK_PATTERN(data, size, round);
        }
    }
    CHECK(zc_irecv(data, SIZE, 0, 0, comm) == -EINVAL);
    CHECK(zc_guard(data, SIZE, ZC_DENY_STORES, &guard) == -EINVAL);
    CHECK(zc_guard(data, SIZE, ZC_DENY_ALL, &guard) == -EINVAL);
}

Test(stack, is_never_protected)
{
    comm = loop_renaming(ZC_RELEASE_LAZY);
    got = zc_alloc(SIZE);
    getcontext(&there);
    there.uc_stack.ss_sp = zc_alloc(STACK);
    there.uc_stack.ss_size = STACK;
    there.uc_link = &here;
    makecontext(&there, on_stack, 0);
    swapcontext(&here, &there);
    CHECK_OK(zc_free(there.uc_stack.ss_sp));
    CHECK_OK(zc_free(got));
    CHECK_OK(zc_close(comm));
}
