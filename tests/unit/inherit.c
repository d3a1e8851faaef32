/* SPDX-License-Identifier: MIT
 *
 * A forked child's copy of the live buffers, where other threads go on between the copy and the fork. */
#include "protect/inherit.h"

#include <signal.h>
#include <sys/wait.h>

#include "invariants.h"

/* Copies and forks, with `between` before the latter, and lets the child touch `p`. The child's wait status. */
static int fork_copy(const char *p, void (*between)(void))
{
    int status;
    inherit_prepare();
    between();
    pid_t child = _Fork(); /* without the handlers of fork, which these are called instead of */
    CHECK(child >= 0);
    if (child == 0) {
        inherit_child();
        load(p);
        _exit(0);
    }
    inherit_parent();
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static char *first, *second;

static void land_and_free(void)
{
    CHECK_OK(zc_cancel(second));
    CHECK_OK(zc_free(second));
    cache_drain(slot_pool(slot_at(second)));
}

/* A buffer that is being received into is not inherited, whatever becomes of another one that was. */
Test(inherit, no_buffer_that_is_being_received_into, .timeout = 60)
{
    zc_comm *comm = loop_strict();
    zc_pool *pool = pool_of_pages(2);
    char *a = slot_in(pool), *b = slot_in(pool);
    first = a < b ? a : b;
    second = a < b ? b : a;
    inherit_open();
    CHECK_OK(zc_irecv(first, PAGE, 0, 1, comm));
    CHECK_OK(zc_irecv(second, PAGE, 0, 2, comm));
    int status = fork_copy(first, land_and_free);
    CHECKF(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status %#x", (unsigned)status);
    CHECK_OK(zc_cancel(first));
    CHECK_OK(zc_close(comm));
}

static void land_and_trim(void)
{
    zc_pool *pool = slot_pool(slot_at(second));
    CHECK_OK(zc_cancel(second));
    CHECK_OK(zc_free(second));
    CHECK_OK(zc_pool_trim(pool, NULL));
    CHECK(!slot_find(second));
}

Test(inherit, a_buffer_that_was_trimmed_away_since, .timeout = 60)
{
    zc_comm *comm = loop_strict();
    first = buffer(2, 1);
    second = slot_in(pool_of_pages(3));
    inherit_open();
    CHECK_OK(zc_irecv(second, PAGE, 0, 1, comm));
    CHECK_IS(fork_copy(first, land_and_trim), 0);
    CHECK_OK(zc_close(comm));
}
