/* SPDX-License-Identifier: MIT
 *
 * The budget of mappings, and the ballast. */
#include "protect/maps.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>

#include "check.h"
#include "core/sys.h"
#include "ranks.h"

static int mappings(void)
{
    FILE *file = fopen("/proc/self/maps", "r");
    int n = 0;

    CHECK(file != NULL);
    for (int c; (c = fgetc(file)) != EOF;)
        n += c == '\n';
    fclose(file);
    return n;
}

Test(maps, a_budget_is_claimed_and_given_back)
{
    maps_open(10);
    CHECK(!maps_claim(11));
    CHECK(maps_claim(10));
    CHECK(!maps_claim(1));
    CHECK(maps_claim(0));
    maps_unclaim(4);
    CHECK(!maps_claim(5));
    CHECK(maps_claim(MAPS_RENAME));
    CHECK(!maps_claim(1));
    maps_unclaim(10);
    CHECK(maps_claim(10));
}

Test(maps, what_is_forced_is_owed)
{
    maps_open(4);
    maps_force(6);
    CHECK(!maps_claim(1));
    CHECK(maps_claim(0)); /* what needs none is not refused */
    maps_unclaim(2);
    CHECK(!maps_claim(1));
    maps_force(-3);
    CHECK(maps_claim(3));
    CHECK(!maps_claim(1));
}

static _Atomic int claimed;

static void *claim_and_give_back(void *argument)
{
    (void)argument;
    for (int i = 0; i < 200000; i++) {
        if (!maps_claim(MAPS_SPLIT))
            continue;
        CHECK(atomic_fetch_add(&claimed, MAPS_SPLIT) + MAPS_SPLIT <= 6);
        atomic_fetch_sub(&claimed, MAPS_SPLIT);
        maps_unclaim(MAPS_SPLIT);
    }
    return NULL;
}

Test(maps, threads_never_claim_more_than_there_is)
{
    pthread_t threads[4];

    maps_open(7); /* three splits, and one mapping that is of no use */
    for (int i = 0; i < 4; i++)
        threads[i] = thread_start(claim_and_give_back, NULL);
    for (int i = 0; i < 4; i++)
        thread_join(threads[i]);
    CHECK(maps_claim(7));
    CHECK(!maps_claim(1));
}

Test(maps, without_an_override_there_is_a_ballast)
{
    int before = mappings();

    maps_open(0);
    int with = mappings();
    CHECKF(with >= before + 256, "%d mappings before, %d with ballast", before, with);
    CHECK(maps_claim(1000)); /* the kernel's default leaves tens of thousands */
    int drops = 0;
    for (int now = with; maps_drop_ballast(); drops++) {
        int then = now;
        now = mappings();
        CHECKF(now <= then - 15, "dropping left %d of %d mappings", now, then);
    }
    CHECKF(drops == 16, "%d drops", drops);
    CHECK(mappings() <= before + 1);
    CHECK(!maps_drop_ballast());
}

Test(maps, an_override_lays_out_no_ballast)
{
    maps_open(100);
    CHECK(!maps_drop_ballast());
}

static _Atomic int dropped;

static void *drop_all(void *argument)
{
    (void)argument;
    for (int i = 0; i < 100; i++)
        if (maps_drop_ballast())
            atomic_fetch_add(&dropped, 1);
    return NULL;
}

Test(maps, ballast_is_dropped_once)
{
    pthread_t threads[4];

    maps_open(0);
    for (int i = 0; i < 4; i++)
        threads[i] = thread_start(drop_all, NULL);
    for (int i = 0; i < 4; i++)
        thread_join(threads[i]);
    CHECKF(dropped == 16, "%d drops", dropped);
}

/* What it is for: at vm.max_map_count even ending a protection fails, and then the ballast makes room. */
Test(maps, dropping_ballast_lets_a_protection_end, .timeout = 60)
{
    enum { MOST = 300000 };

    maps_open(0);
    char *area = sys_mmap(NULL, MOST * PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(area != NULL);
    size_t page = 1;
    int error = 0;
    while (page < MOST && !(error = sys_mprotect(area + page * PAGE_BYTES, PAGE_BYTES, PROT_NONE)))
        page += 2;
    if (!error)
        cr_skip_test("vm.max_map_count is larger than this test can use up");
    CHECK(error == -ENOMEM);
    CHECK(sys_mprotect(area + page * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE) == -ENOMEM);
    CHECK(maps_drop_ballast());
    CHECK_OK(sys_mprotect(area + page * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE));
}
