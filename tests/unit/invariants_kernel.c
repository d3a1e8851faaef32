/* SPDX-License-Identifier: MIT
 *
 * What the rules ask of the kernel, seen at the system calls themselves: what must hold at one of them, what follows
 * where one is refused, and who is woken. */
#include <linux/futex.h>
#include <sys/syscall.h>

#include "interpose.h"
#include "invariants.h"

static const char *volatile denies; /* a page that must be so when pages begin to move, then NULL */
static volatile bool no_protection;
static const void *volatile woken; /* the word of the last wake */

static bool same_mapping(const void *p, const void *q)
{
    char line[512];
    bool same = false;
    FILE *file = fopen("/proc/self/maps", "re");
    CHECK(file);
    while (fgets(line, sizeof line, file) && !same) {
        char *end;
        uintptr_t from = strtoull(line, &end, 16), to = strtoull(end + 1, &end, 16);
        same = from <= (uintptr_t)p && (uintptr_t)q < to && p <= q;
    }
    fclose(file);
    return same;
}

static const char *volatile old_kernel; /* a page that is never to be unmapped */

/* Linux before 6.17: what spans mappings is not moved, but that is found out when the place to move to is unmapped. */
static long move_as_before(const long a[6])
{
    const char *from = (const char *)a[0];
    bool spans = (a[3] & MREMAP_DONTUNMAP) && !same_mapping(from, from + a[1] - PAGE);
    if (spans) {
        real_syscall(SYS_munmap, (const long[6]){a[4], a[2]});
        errno = EFAULT;
    }
    long result = spans ? -1 : real_syscall(SYS_mremap, a);
    int error = errno;
    CHECK(page_shown(old_kernel) != '?');
    errno = error;
    return result;
}

static long on_syscall(long number, const long a[6])
{
    if (number == SYS_mremap && old_kernel)
        return move_as_before(a);
    if (number == SYS_mremap && denies) {
        CHECK(page_shown(denies) == 'r');
        denies = NULL;
    }
    if (number == SYS_mprotect && no_protection && !(a[2] & PROT_WRITE)) {
        errno = ENOMEM;
        return -1;
    }
    if (number == SYS_futex && a[1] == FUTEX_WAKE_PRIVATE)
        woken = (const void *)a[0];
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

/* Where a part of the buffer is a mapping of its own, older kernels do not move it as a whole. */
Test(kernel, no_page_is_unmapped_while_pages_move)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(8, 1);
    if (mlock(b, PAGE))
        cr_skip_test("mlock: %s", strerror(errno));
    for (int i = 0; i < 2; i++) {
        pattern_fill(b, 8 * PAGE, 1);
        CHECK_OK(zc_send(b, 8 * PAGE, 0, 1, comm));
        old_kernel = b + 5 * PAGE;
        store(b, 5);
        old_kernel = NULL;
        CHECK(load(b) == 5);
        CHECK_MESSAGE(comm, 1, 0, 8 * PAGE, 1);
    }
    CHECK(stats_now().renames == 2);
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

/* ---- who waits for a slot is woken: its sleep is over in slices, so a lost wake shows in nothing but time ---- */

static uint32_t await(const char *b)
{
    struct slot *slot = slot_at(b);
    struct backing *backing = slot_lock(slot);
    slot->awaited = true;
    slot_unlock(backing);
    woken = NULL;
    return atomic_load(&slot->event);
}

/* It was woken, and what it waits for has another value than when it looked. */
static bool wakes(const char *b, uint32_t seen)
{
    return woken == &slot_at(b)->event && atomic_load(&slot_at(b)->event) != seen;
}

Test(kernel, the_end_of_a_send_wakes)
{
    for (enum zc_release release = ZC_RELEASE_EAGER; release <= ZC_RELEASE_LAZY; release++) {
        zc_comm *comm = loop_renaming(release);
        char *b = buffer(2, 1), in[2 * PAGE];
        CHECK_OK(zc_send(b, sizeof in, 0, 1, comm));
        uint32_t seen = await(b);
        CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
        CHECK(wakes(b, seen));
        CHECK(!slot_at(b)->awaited);
        CHECK_OK(zc_close(comm));
    }
}

Test(kernel, a_rename_wakes)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    uint32_t seen = await(b);
    store(b, 5);
    CHECK(wakes(b, seen));
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}

Test(kernel, the_end_of_a_receive_wakes)
{
    static const struct hold_rules plain = {.policy = ZC_POLICY_PROTECT};
    for (int protects = 0; protects < 2; protects++) {
        char *b = buffer(2, 1), *wire;
        struct hold hold = {.slot = slot_at(b), .length = 2 * PAGE, .rules = &plain};
        CHECK_OK(hold_receive(&hold, protects, &wire));
        uint32_t seen = await(b);
        CHECK(!hold_landed(&hold, 2 * PAGE, 0));
        CHECK(wakes(b, seen));
        hold_withdraw(&hold);
    }
}
