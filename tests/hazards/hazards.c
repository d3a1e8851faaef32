/* SPDX-License-Identifier: MIT
 *
 * Starts each hazard over the loop transport in a process of its own and checks how it ended. Those that are
 * about ending conflicts run once for each way to end them, and for each way to release a protection. */
#include <criterion/criterion.h>
#include <criterion/hooks.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "child.h"
#include "hazard.h"

static void run(struct outcome *outcome, const char *name, const char *const environment[])
{
    const char *argv[] = {HAZARD_CHILD, name, NULL};

    check_scene = name;
    child_run(outcome, argv, environment);
}

static void run_well(const char *name)
{
    static const char *const ways[][3] = {{"ZC_CONFLICT=auto", "ZC_RELEASE=auto", NULL},
                                          {"ZC_CONFLICT=copy", "ZC_RELEASE=eager", NULL},
                                          {"ZC_CONFLICT=auto", "ZC_RELEASE=lazy", NULL}};
    struct outcome outcome;

    for (size_t i = 0; i < COUNT(ways); i++) {
        run(&outcome, name, ways[i]);
        expect_exit(&outcome, 0);
    }
}

TestSuite(hazards, .timeout = 240);

#define HAZARD_TEST(name)                                                                                              \
    Test(hazards, name)                                                                                                \
    {                                                                                                                  \
        run_well(#name);                                                                                               \
    }
HAZARDS(HAZARD_TEST)

TestSuite(deadly, .timeout = 120);

static void run_deadly(const char *name, int signal, const char *says)
{
    struct outcome outcome;

    run(&outcome, name, NULL);
    expect_signal(&outcome, signal);
    if (says)
        expect_output(&outcome, says);
}

static void remove_all(const char *folder)
{
    DIR *dir = opendir(folder);

    CHECK(dir && chdir(folder) == 0);
    for (struct dirent *entry; (entry = readdir(dir));)
        unlink(entry->d_name);
    closedir(dir);
    CHECK(chdir("/") == 0 && rmdir(folder) == 0);
}

/* A buffer in flight is in the core, from its user mapping, and only once. */
static void expect_buffer(const char *core)
{
    FILE *file = fopen(core, "r");
    size_t found = 0;

    CHECK(file);
    for (uint64_t word; fread(&word, sizeof word, 1, file) == 1;)
        found += word == CORE_WORD;
    fclose(file);
    CHECKF(found >= CORE_WORDS && found < 2 * CORE_WORDS, "%zu words of %d are in %s", found, CORE_WORDS, core);
}

/* The core is found under this name, unless the system puts it elsewhere. */
static const char *core_name(void)
{
    static char name[256];
    DIR *dir = opendir(".");

    CHECK(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strncmp(entry->d_name, "core", 4) == 0)
            snprintf(name, sizeof name, "%s", entry->d_name);
    closedir(dir);
    return *name ? name : NULL;
}

/* A foreign SIGSEGV ends the process as it would without zc: by the signal, and with a core where the
 * system makes one. */
Test(deadly, without_handler)
{
    struct outcome with, without;
    char folder[] = "/tmp/zc-cores-XXXXXX";

    CHECK(mkdtemp(folder) && chdir(folder) == 0);
    run(&without, "dies_without_zc", NULL);
    expect_signal(&without, SIGSEGV);
    if (core_name())
        CHECK(unlink(core_name()) == 0);
    run(&with, "dies_without_handler", NULL);
    expect_signal(&with, SIGSEGV);
    CHECK(!WCOREDUMP(without.status) == !WCOREDUMP(with.status));
    if (core_name())
        expect_buffer(core_name());
    else
        fprintf(stderr, "no core in the folder of the process: what it holds is not looked at\n");
    remove_all(folder);
}

Test(deadly, with_sigsegv_ignored)
{
    run_deadly("dies_with_ignored", SIGSEGV, NULL);
}

Test(deadly, after_reset)
{
    run_deadly("dies_after_reset", SIGSEGV, NULL);
}

Test(deadly, raised)
{
    run_deadly("dies_raised", SIGSEGV, NULL);
}

Test(deadly, after_store_in_flight)
{
    run_deadly("dies_after_store_in_flight", SIGSEGV, NULL);
}

Test(deadly, with_sigsegv_blocked)
{
    struct outcome outcome;

    run(&outcome, "dies_with_sigsegv_blocked", NULL);
    if (on_userfaultfd()) /* which needs no signal */
        expect_exit(&outcome, 0);
    else
        expect_signal(&outcome, SIGSEGV);
}

Test(deadly, failed_receive)
{
    run_deadly("dies_of_failed_receive", SIGABRT, "zc");
}

Test(deadly, on_conflict_abort_names_the_message)
{
    run_deadly("aborts_on_conflict", SIGABRT, "4711");
}

Test(deadly, on_timeout_abort_names_the_receive)
{
    run_deadly("aborts_on_timeout", SIGABRT, "4711");
}

Test(deadly, on_timeout_abort_names_the_send)
{
    run_deadly("aborts_on_peer_that_never_receives", SIGABRT, "4711");
}

Test(deadly, refused_mprotect_is_told)
{
    struct outcome outcome;

    run(&outcome, "dies_of_refused_mprotect", NULL);
    if (on_userfaultfd()) /* which needs no mprotect */
        expect_exit(&outcome, 0);
    else
        expect_signal(&outcome, SIGABRT), expect_output(&outcome, "seccomp");
}

Test(deadly, handler_during_resend_is_told)
{
    run_deadly("aborts_in_handler_during_resend", SIGABRT, "a signal handler touched the buffer");
}

Test(deadly, later_handler_is_told)
{
    struct outcome outcome;

    run(&outcome, "reinstalled", NULL);
    expect_exit(&outcome, 0);
    expect_output(&outcome, "zc_reinstall");
}

/* A child after fork that touches a buffer is told why it dies. */
Test(deadly, fork_child_is_told)
{
    struct outcome outcome;

    run(&outcome, "fork_child_stores", NULL);
    expect_exit(&outcome, 0);
    expect_output(&outcome, "fork");
    run(&outcome, "fork_child_loads", NULL);
    expect_exit(&outcome, 0);
    expect_output(&outcome, "fork");
}

ReportHook(PRE_ALL)(struct criterion_test_set *tests)
{
    (void)tests;
    userfaultfd_or_skip();
}
