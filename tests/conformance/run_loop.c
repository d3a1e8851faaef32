/* SPDX-License-Identifier: MIT
 *
 * Runs the suite over the loop transport: each rank is a thread of this process. The policy is taken from
 * ZC_POLICY, ZC_CONFLICT and ZC_RELEASE, which CTest sets. */
#include <criterion/criterion.h>
#include <criterion/hooks.h>
#include <stdio.h>

#include "conformance.h"
#include "ranks.h"
#include "userfaultfd.h"

static zc_comm *another(struct conf *c, int n)
{
    zc_comm *comm = NULL;
    char address[96];

    snprintf(address, sizeof address, "loop:another%d?rank=%d&size=%d", n, c->rank, c->size);
    CHECK_OK(zc_open(address, NULL, &comm));
    return comm;
}

static void run_rank(zc_comm *comm, void *which)
{
    conf_run(which, comm, another);
}

static void run(const char *name, void (*body)(struct conf *))
{
    struct conf_case which = {name, body};

    for (int size = 1; size <= 4; size++)
        ranks_run(size, NULL, run_rank, &which);
}

TestSuite(loop, .timeout = 120);

#define LOOP_TEST(name)                                                                                                \
    Test(loop, name)                                                                                                   \
    {                                                                                                                  \
        run(#name, case_##name);                                                                                       \
    }
CONFORMANCE_CASES(LOOP_TEST)

TestSuite(loop_big, .timeout = 300);

Test(loop_big, past_2_gib)
{
    struct conf_case which = {"past 2 GiB", case_big};

    if (!big_fits(2))
        cr_skip_test("needs 13 GiB of memory, and TEST_BIG not 0");
    ranks_run(2, NULL, run_rank, &which);
}

ReportHook(PRE_ALL)(struct criterion_test_set *tests)
{
    (void)tests;
    userfaultfd_or_skip();
}
