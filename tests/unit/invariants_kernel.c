/* SPDX-License-Identifier: MIT
 *
 * What the rules ask of the kernel, seen at the system calls themselves: what must hold at one of them, and what follows
 * where one is refused. */
#include <sys/syscall.h>

#include "interpose.h"
#include "invariants.h"

static const char *volatile denies; /* a page that must be so when pages begin to move, then NULL */
static volatile bool no_protection;

static long on_syscall(long number, const long a[6])
{
    if (number == SYS_mremap && denies) {
        CHECK(page_shown(denies) == 'r');
        denies = NULL;
    }
    if (number == SYS_mprotect && no_protection && !(a[2] & PROT_WRITE)) {
        errno = ENOMEM;
        return -1;
    }
    return real_syscall(number, a);
}

/* A rename copies all of the slot: stores must wait to what is not being sent as well, which may lie between pages that
 * are. */
Test(kernel, no_page_is_open_while_a_rename_copies)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    for (int both = 0; both < 2; both++) {
        pattern_fill(b, 4 * PAGE, 1);
        CHECK_OK(zc_send(b, PAGE, 0, 1, comm));
        if (both)
            CHECK_OK(zc_send(b + 3 * PAGE, PAGE, 0, 2, comm));
        CHECK_PAGES(b, both ? "rwwr" : "rwww");
        denies = b + 2 * PAGE;
        store(b, 5);
        CHECK(!denies);
        CHECK_PAGES(b, "wwww");
        CHECK_MESSAGE(comm, 1, 0, PAGE, 1);
        if (both)
            CHECK_MESSAGE(comm, 2, 3 * PAGE, PAGE, 1);
    }
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}

/* The message is copied, and nothing is left of the attempt. */
Test(kernel, protection_that_is_refused_leaves_nothing)
{
    setenv("ZC_MAPS", "1000", 1);
    zc_comm *comm = loop_strict();
    char *b = buffer(4, 1);
    int maps = maps_left();
    zc_stats before = stats_now();
    no_protection = true;
    CHECK_OK(zc_send(b, 4 * PAGE, 0, 1, comm));
    no_protection = false;
    CHECK(stats_now().sends_copied == before.sends_copied + 1);
    CHECK(slot_at(b)->protected_pages == 0 && slot_at(b)->maps == 0);
    CHECKF(maps_left() == maps, "%d of %d maps left", maps_left(), maps);
    CHECK_PAGES(b, "wwww");
    store(b, 5);
    CHECK_MESSAGE(comm, 1, 0, 4 * PAGE, 1);
    CHECK_REST(slot_pool(slot_at(b)));
    CHECK_OK(zc_close(comm));
}
