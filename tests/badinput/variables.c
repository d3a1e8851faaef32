/* SPDX-License-Identifier: MIT
 *
 * ZC_… variables, which are looked at once in a process: each case runs apart. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apart.h"
#include "check.h"
#include "pattern.h"
#include "transport/loop.h"

TestSuite(variables, .timeout = 120);

struct variable {
    const char *name, *value;
};

/* Each way into zc says so, each time, and names the variable. */
static void refused(const void *argument)
{
    const struct variable *v = argument;
    zc_comm *comm = NULL;
    zc_pool *pool = NULL;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;

    check_scene = v->value;
    CHECK(setenv(v->name, v->value, 1) == 0);
    for (int i = 0; i < 2; i++) {
        errno = 0;
        CHECKF(zc_alloc(100) == NULL && errno == EINVAL, "zc_alloc takes %s=%s; errno %d", v->name, v->value, errno);
        CHECKF(strstr(zc_errmsg(), v->name), "\"%s\" does not name %s", zc_errmsg(), v->name);
        CHECK_FAILS(zc_open("loop", NULL, &comm), -EINVAL, v->name);
        options.slot_size = 4096;
        CHECK_FAILS(zc_pool_open(&options, &pool), -EINVAL, v->name);
    }
    CHECK(!comm && !pool);
}

/* A message there and back. */
static void accepted(const void *argument)
{
    const struct variable *v = argument;
    zc_comm *comm = NULL;

    check_scene = v->value;
    CHECK(setenv(v->name, v->value, 1) == 0);
    char *p = ALLOC(100000), *in = ALLOC(100000);
    CHECK_OK(zc_open("loop", NULL, &comm));
    for (unsigned i = 0; i < 3; i++) {
        pattern_fill(p, 100000, i);
        CHECK_OK(zc_send(p, 100000, 0, 1, comm));
        CHECK_OK(zc_recv(in, 100000, 0, 1, comm, NULL));
        CHECK_PATTERN(in, 100000, i);
    }
    CHECK_OK(zc_close(comm));
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_free(in));
}

Test(variables, malformed)
{
    static const struct variable bad[] = {
        {"ZC_CONFLICT", "foo"},
        {"ZC_CONFLICT", ""},
        {"ZC_CONFLICT", "AUTO"},
        {"ZC_CONFLICT", "auto "},
        {"ZC_ON_CONFLICT", "1"},
        {"ZC_POLICY", "Protect"},
        {"ZC_RELEASE", "eagerly"},
        {"ZC_PROGRESS", "poll"},
        {"ZC_ON_TIMEOUT", "die"},
        {"ZC_FAULT_TIMEOUT", "-1"},
        {"ZC_FAULT_TIMEOUT", "10s"},
        {"ZC_FAULT_TIMEOUT", ""},
        {"ZC_FAULT_TIMEOUT", "0x10"},
        {"ZC_FAULT_TIMEOUT", "1e3"},
        {"ZC_FAULT_TIMEOUT", "99999999999"},
        {"ZC_PEER_TIMEOUT", "9"},
        {"ZC_PEER_TIMEOUT", "3600001"},
        {"ZC_MAX_IN_FLIGHT", "many"},
        {"ZC_MAX_IN_FLIGHT", " 4"},
        {"ZC_FULL", "maybe"},
        {"ZC_MAPS", "x"},
        {"ZC_MAPS", "-5"},
        {"ZC_DEBUG", "1"},
        {"ZC_FOO", "1"},
        {"ZC_", "1"},
        {"ZC_CONFLICTS", "auto"},
        {"ZC_CONFLIC", "auto"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        apart(refused, &bad[i]);
}

/* The message is whole: it ends with the last one. */
static void all_named(const void *unused)
{
    (void)unused;
    CHECK(setenv("ZC_FOO", "1", 1) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(!zc_alloc(100));
        CHECKF(strstr(zc_errmsg(), " ZC_POOLS") && strstr(zc_errmsg(), " ZC_TRACE"), "%s", zc_errmsg());
    }
}

Test(variables, all_that_are_known_are_named)
{
    apart(all_named, NULL);
}

Test(variables, well_formed)
{
    static const struct variable good[] = {
        {"ZC_CONFLICT", "auto"},     {"ZC_CONFLICT", "wait"},        {"ZC_CONFLICT", "copy"},
        {"ZC_ON_CONFLICT", "quiet"}, {"ZC_POLICY", "protect"},       {"ZC_POLICY", "copy"},
        {"ZC_RELEASE", "eager"},     {"ZC_RELEASE", "lazy"},         {"ZC_PROGRESS", "thread"},
        {"ZC_ON_TIMEOUT", "abort"},  {"ZC_FAULT_TIMEOUT", "500"},    {"ZC_MAX_IN_FLIGHT", "3"},
        {"ZC_PEER_TIMEOUT", "10"},   {"ZC_PEER_TIMEOUT", "3600000"}, {"ZC_FULL", "fallback"},
        {"ZC_MAPS", "100"},          {"OTHER_ZC_FOO", "1"},          {"ZCFOO", "1"},
        {"ZC_DEBUG", "on"},
    };

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        apart(accepted, &good[i]);
}

Test(variables, malformed_pools)
{
    static const char *const bad[] = {
        ":",
        "64K",
        "64K:",
        "64K:x",
        "0:4",
        "64Q:4",
        "64K:4,",
        ",64K:4",
        "64K:4,,1M:2",
        "64K:4:purple",
        "64K:4:cap=0",
        "64K:8:cap=4",
        "64K:-1",
        "-64K:1",
        "64K:4;1M:2",
        " 64K:4",
        "64K:4 ",
        "64K:4:cap=",
        "64K:4:cap=x",
        "64KB:4",
        "1.5M:4",
        "64K:4:huge,",
        "99999999999999999999:4",
        "64K:99999999999999999999",
        "17179869184G:1",
        "64K:4:",
        "64K:4:from=",
        "64K:4:from=65K",
        "64K:4:from=x",
        "64K:4:userfault",
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        apart(refused, &(struct variable){"ZC_POOLS", bad[i]});
}

Test(variables, well_formed_pools)
{
    static const char *const good[] = {
        "64K:512,1M:64:huge",
        "64K:4",
        "65536:4",
        "1:1",
        "100K:2:cap=8",
        "100K:2:cap=8:small:grow",
        "2M:0:huge",
        "64K:4:from=4K:cap=8,1M:1:from=0",
        "64K:4:mprotect",
        "",
    };

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        apart(accepted, &(struct variable){"ZC_POOLS", good[i]});
}

/* Reads into a buffer of a message that is in flight, and has it delivered. */
static ssize_t read_into_flight(zc_comm *comm, size_t length)
{
    char *buffer = ALLOC(length), *in = ALLOC(length);
    int ends[2];

    CHECK(pipe(ends) == 0 && write(ends[1], "zc", 2) == 2);
    pattern_fill(buffer, length, 1);
    CHECK_OK(zc_irecv(in, length, 0, 1, comm));
    CHECK_OK(zc_send(buffer, length, 0, 1, comm));
    errno = 0;
    ssize_t got = read(ends[0], buffer, 2);
    CHECKF(got == 2 || errno == EFAULT, "errno %d", errno);
    CHECK(memcmp(buffer, "zc", 2) == 0 || got != 2);
    CHECK(loop_deliver(comm, 1, LOOP_OLDEST_FIRST, 0) == 1);
    CHECK_OK(zc_wait(in, NULL));
    CHECK_PATTERN(in, length, 1);
    CHECK_OK(zc_free(buffer));
    CHECK_OK(zc_free(in));
    close(ends[0]);
    close(ends[1]);
    return got;
}

/* With userfaultfd, a system call ends the conflict as a store would; with mprotect it fails. */
static void guarded_by_pool(const void *protect)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    bool other = strcmp(protect, "userfaultfd") == 0;

    CHECK(setenv("ZC_PROTECT", protect, 1) == 0);
    CHECK(setenv("ZC_POOLS", "64K:2:userfaultfd,128K:2,256K:2:mprotect", 1) == 0);
    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("loop", &options, &comm));
    loop_hold(comm, true);
    CHECK(read_into_flight(comm, (size_t)64 << 10) == 2);
    CHECK(stats_now().conflicts == 1 && stats_now().renames == 1);
    CHECK(read_into_flight(comm, (size_t)256 << 10) == -1);
    CHECK(read_into_flight(comm, (size_t)128 << 10) == (other ? 2 : -1));
    CHECK(stats_now().sends_protected == 3);
    CHECK_OK(zc_close(comm));
}

Test(variables, pool_protection)
{
    apart(guarded_by_pool, "mprotect");
    apart(guarded_by_pool, "userfaultfd");
}

static void pool_at_its_cap(const void *argument)
{
    void *p[4];

    (void)argument;
    CHECK(setenv("ZC_POOLS", "128K:1:cap=4:fail", 1) == 0);
    for (int i = 0; i < 4; i++)
        p[i] = ALLOC((size_t)128 << 10);
    errno = 0;
    CHECK(zc_alloc((size_t)128 << 10) == NULL && errno == ENOMEM);
    CHECKF(strstr(zc_errmsg(), "4"), "%s", zc_errmsg());
    CHECK_OK(zc_free(p[2]));
    p[2] = ALLOC((size_t)128 << 10);
    for (int i = 0; i < 4; i++)
        CHECK_OK(zc_free(p[i]));
}

Test(variables, pool_cap)
{
    apart(pool_at_its_cap, NULL);
}

/* What a program asks for goes before what the variable says; 0 leaves it to the variable. */
static void variable_and_option(const void *argument)
{
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *by_variable = NULL, *by_option = NULL;
    char *p = ALLOC(100000);

    (void)argument;
    CHECK_OK(zc_open("loop", &options, &by_variable));
    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("loop", &options, &by_option));
    memset(p, 1, 100000);
    zc_stats before = stats_now();
    CHECK_OK(zc_send(p, 100000, 0, 1, by_variable));
    CHECK(stats_now().sends_copied == before.sends_copied + 1);
    CHECK_OK(zc_send(p, 100000, 0, 1, by_option));
    CHECK(stats_now().sends_protected == before.sends_protected + 1);
    CHECK_OK(zc_recv(p, 100000, 0, 1, by_variable, NULL));
    CHECK_OK(zc_recv(p, 100000, 0, 1, by_option, NULL));
    CHECK_OK(zc_free(p));
    CHECK_OK(zc_close(by_variable));
    CHECK_OK(zc_close(by_option));
}

Test(variables, options_go_first)
{
    CHECK(setenv("ZC_POLICY", "copy", 1) == 0);
    apart(variable_and_option, NULL);
}
