/* SPDX-License-Identifier: MIT
 *
 * The ZC_... variables. They are read once a process, so each case runs in a child of its own. */
#include "core/options.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

/* Without what the caller's environment says. */
static void clear(void)
{
    char name[64];
    for (char **entry = environ; *entry;) {
        size_t length = strcspn(*entry, "=");
        if (strncmp(*entry, "ZC_", 3) == 0 && length < sizeof name) {
            memcpy(name, *entry, length);
            name[length] = 0;
            unsetenv(name);
            entry = environ;
        } else {
            entry++;
        }
    }
}

struct option_case {
    const char *variable, *value;
    uint64_t number; /* expected */
    const char *says;
};

/* Runs body(c) in a child with the variable set. */
static void in_child(const struct option_case *c, void (*body)(const struct option_case *))
{
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        clear();
        if (c->variable)
            setenv(c->variable, c->value, 1);
        body(c);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECKF(status == 0, "%s=%s: status %#x", c->variable ? c->variable : "(none)", c->value ? c->value : "",
           (unsigned)status);
}

static uint64_t value_of(const struct options *o, const char *variable)
{
    const struct {
        const char *variable;
        uint64_t value;
    } all[] = {{"ZC_CONFLICT", o->conflict},
               {"ZC_ON_CONFLICT", o->on_conflict},
               {"ZC_POLICY", o->policy},
               {"ZC_RELEASE", o->release},
               {"ZC_PROGRESS", o->progress},
               {"ZC_ON_TIMEOUT", o->on_timeout},
               {"ZC_FAULT_TIMEOUT", o->fault_timeout_ms},
               {"ZC_MAX_IN_FLIGHT", o->max_in_flight},
               {"ZC_MAX_VIEWS", o->max_views},
               {"ZC_FULL", o->full},
               {"ZC_HUGE", o->huge},
               {"ZC_MAPS", o->maps},
               {"ZC_MALLOC_THRESHOLD", o->malloc_threshold},
               {"ZC_MALLOC_MOST", o->malloc_most}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i].variable, variable) == 0)
            return all[i].value;
    CHECKF(false, "no variable %s", variable);
    return 0;
}

static const struct option_case defaults[] = {
    {"ZC_CONFLICT", NULL, ZC_CONFLICT_AUTO, NULL},
    {"ZC_ON_CONFLICT", NULL, ZC_ON_CONFLICT_QUIET, NULL},
    {"ZC_POLICY", NULL, ZC_POLICY_AUTO, NULL},
    {"ZC_RELEASE", NULL, ZC_RELEASE_AUTO, NULL},
    {"ZC_PROGRESS", NULL, ZC_PROGRESS_CALLS, NULL},
    {"ZC_ON_TIMEOUT", NULL, ZC_ON_TIMEOUT_WAIT, NULL},
    {"ZC_FAULT_TIMEOUT", NULL, 10000, NULL},
    {"ZC_MAX_IN_FLIGHT", NULL, 0, NULL},
    {"ZC_FULL", NULL, ZC_FULL_GROW, NULL},
    {"ZC_HUGE", NULL, ZC_HUGE_AUTO, NULL},
    {"ZC_MAPS", NULL, 0, NULL},
    {"ZC_MALLOC_THRESHOLD", NULL, 64 << 10, NULL},
    {"ZC_MALLOC_MOST", NULL, 64 << 20, NULL},
};

enum { DEFAULTS = sizeof defaults / sizeof defaults[0] };

static void are_default_but(const struct options *options, const char *variable)
{
    for (size_t i = 0; i < DEFAULTS; i++)
        if (!variable || strcmp(defaults[i].variable, variable) != 0)
            CHECKF(value_of(options, defaults[i].variable) == defaults[i].number, "%s", defaults[i].variable);
}

static void without(const struct option_case *c)
{
    const struct options *options;
    (void)c;
    CHECK_OK(options_get(&options));
    are_default_but(options, NULL);
    CHECK(!strcmp(options->pools, ""));
}

Test(options, defaults)
{
    in_child(&(struct option_case){NULL, NULL, 0, NULL}, without);
}

static void good(const struct option_case *c)
{
    const struct options *options, *again;
    CHECK_OK(options_get(&options));
    CHECKF(value_of(options, c->variable) == c->number, "%s=%s", c->variable, c->value);
    are_default_but(options, c->variable);
    /* The answer stays what it was. */
    clear();
    CHECK_OK(options_get(&again));
    CHECK(again == options && value_of(options, c->variable) == c->number);
}

/* After clearenv(3) there is none. */
static void no_environment(const struct option_case *c)
{
    const struct options *options;
    (void)c;
    CHECK(clearenv() == 0 && !environ);
    CHECK_OK(options_get(&options));
    CHECK(options->conflict == ZC_CONFLICT_AUTO);
}

Test(options, an_environment_that_was_cleared)
{
    const struct option_case none = {0};
    in_child(&none, no_environment);
}

Test(options, good_values)
{
    static const struct option_case cases[] = {
        {"ZC_CONFLICT", "auto", ZC_CONFLICT_AUTO, NULL},
        {"ZC_CONFLICT", "wait", ZC_CONFLICT_WAIT, NULL},
        {"ZC_CONFLICT", "copy", ZC_CONFLICT_COPY, NULL},
        {"ZC_ON_CONFLICT", "quiet", ZC_ON_CONFLICT_QUIET, NULL},
        {"ZC_ON_CONFLICT", "report", ZC_ON_CONFLICT_REPORT, NULL},
        {"ZC_ON_CONFLICT", "abort", ZC_ON_CONFLICT_ABORT, NULL},
        {"ZC_POLICY", "auto", ZC_POLICY_AUTO, NULL},
        {"ZC_POLICY", "protect", ZC_POLICY_PROTECT, NULL},
        {"ZC_POLICY", "copy", ZC_POLICY_COPY, NULL},
        {"ZC_RELEASE", "auto", ZC_RELEASE_AUTO, NULL},
        {"ZC_RELEASE", "eager", ZC_RELEASE_EAGER, NULL},
        {"ZC_RELEASE", "lazy", ZC_RELEASE_LAZY, NULL},
        {"ZC_PROGRESS", "calls", ZC_PROGRESS_CALLS, NULL},
        {"ZC_PROGRESS", "thread", ZC_PROGRESS_THREAD, NULL},
        {"ZC_ON_TIMEOUT", "wait", ZC_ON_TIMEOUT_WAIT, NULL},
        {"ZC_ON_TIMEOUT", "abort", ZC_ON_TIMEOUT_ABORT, NULL},
        {"ZC_FULL", "grow", ZC_FULL_GROW, NULL},
        {"ZC_FULL", "fallback", ZC_FULL_FALLBACK, NULL},
        {"ZC_FULL", "fail", ZC_FULL_FAIL, NULL},
        {"ZC_HUGE", "auto", ZC_HUGE_AUTO, NULL},
        {"ZC_HUGE", "never", ZC_HUGE_NEVER, NULL},
        {"ZC_HUGE", "always", ZC_HUGE_ALWAYS, NULL},
        {"ZC_FAULT_TIMEOUT", "0", 0, NULL},
        {"ZC_FAULT_TIMEOUT", "250", 250, NULL},
        {"ZC_FAULT_TIMEOUT", "4294967295", UINT32_MAX, NULL},
        {"ZC_MAX_IN_FLIGHT", "2K", 2048, NULL},
        {"ZC_MALLOC_THRESHOLD", "1M", 1 << 20, NULL},
        {"ZC_MAPS", "007", 7, NULL},
        {"ZC_MAPS", "3G", (uint64_t)3 << 30, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        in_child(&cases[i], good);
}

static void text(const struct option_case *c)
{
    const struct options *options;
    CHECK_OK(options_get(&options));
    CHECK(!strcmp(options->pools, strcmp(c->variable, "ZC_POOLS") == 0 ? c->value : ""));
    CHECK(!strcmp(options->transport, strcmp(c->variable, "ZC_TRANSPORT") == 0 ? c->value : ""));
    CHECK(!strcmp(options->host, strcmp(c->variable, "ZC_HOST") == 0 ? c->value : ""));
}

Test(options, texts_are_kept_as_they_are)
{
    in_child(&(struct option_case){"ZC_POOLS", "any text: it is parsed later", 0, NULL}, text);
    in_child(&(struct option_case){"ZC_TRANSPORT", "any text: it is parsed later", 0, NULL}, text);
    in_child(&(struct option_case){"ZC_HOST", "any text", 0, NULL}, text);
}

static void bad(const struct option_case *c)
{
    const struct options *options = NULL;
    char whole[128];

    CHECK_FAILS(options_get(&options), -EINVAL, c->says);
    snprintf(whole, sizeof whole, "%s=%.60s", c->variable, c->value);
    CHECK_FAILS(options_get(&options), -EINVAL, whole); /* names what was wrong, again */
    CHECK(!options);
    /* And so does the public API, where it comes up first. */
    errno = 0;
    CHECK(!zc_alloc(1));
    CHECK(errno == EINVAL);
    CHECK(strstr(zc_errmsg(), whole));
    zc_comm *comm = NULL;
    CHECK_FAILS(zc_open("loop", NULL, &comm), -EINVAL, whole);
    CHECK(!comm);
}

Test(options, malformed_values_are_named)
{
    static const struct option_case cases[] = {
        {"ZC_CONFLICT", "never", 0, "expected one of auto wait copy"},
        {"ZC_CONFLICT", "", 0, "expected one of auto wait copy"},
        {"ZC_CONFLICT", "Auto", 0, "expected one of auto wait copy"},
        {"ZC_CONFLICT", "auto ", 0, "expected one of auto wait copy"},
        {"ZC_CONFLICT", "1", 0, "expected one of auto wait copy"},
        {"ZC_ON_CONFLICT", "loud", 0, "expected one of quiet report abort"},
        {"ZC_POLICY", "protec", 0, "expected one of auto protect copy"},
        {"ZC_RELEASE", "lazyy", 0, "expected one of auto eager lazy"},
        {"ZC_PROGRESS", "threads", 0, "expected one of calls thread"},
        {"ZC_ON_TIMEOUT", "0", 0, "expected one of wait abort"},
        {"ZC_FULL", "default", 0, "expected one of grow fallback fail"},
        {"ZC_HUGE", "yes", 0, "expected one of auto never always"},
        {"ZC_FAULT_TIMEOUT", "", 0, "expected a whole number"},
        {"ZC_FAULT_TIMEOUT", "-1", 0, "expected a whole number"},
        {"ZC_FAULT_TIMEOUT", "+1", 0, "expected a whole number"},
        {"ZC_FAULT_TIMEOUT", " 1", 0, "expected a whole number"},
        {"ZC_FAULT_TIMEOUT", "10s", 0, "expected a whole number"},
        {"ZC_FAULT_TIMEOUT", "4294967296", 0, "expected a whole number"},
        {"ZC_FAULT_TIMEOUT", "18446744073709551617", 0, "expected a whole number"},
        {"ZC_FAULT_TIMEOUT", "18014398509481984K", 0, "expected a whole number"},
        {"ZC_MAX_IN_FLIGHT", "many", 0, "expected a whole number"},
        {"ZC_MAX_IN_FLIGHT", "1KK", 0, "expected a whole number"},
        {"ZC_MAPS", "0x10", 0, "expected a whole number"},
        {"ZC_MAPS", "4G", 0, "expected a whole number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        in_child(&cases[i], bad);
}

/* Of those that are no texts. */
Test(options, each_variable_refuses_what_is_no_value)
{
    struct option_text row;
    int texts = 0;
    for (size_t i = 0; options_describe(i, &row); i++) {
        if (strcmp(row.values, "TEXT") == 0)
            texts++;
        else
            in_child(&(struct option_case){row.variable, "?", 0, row.help}, bad);
    }
    CHECK(texts == 5); /* RACE, TRANSPORT, HOST, POOLS, TRACE */
}

static void unknown(const struct option_case *c)
{
    const struct options *options = NULL;
    char start[64];

    snprintf(start, sizeof start, "%s: no such variable; known are ZC_CONFLICT", c->variable);
    CHECK_FAILS(options_get(&options), -EINVAL, start);
    CHECK_FAILS(options_get(&options), -EINVAL, "ZC_POOLS"); /* the last of the list */
}

Test(options, unknown_variables_are_named)
{
    static const struct option_case cases[] = {
        {"ZC_CONFLICTS", "auto", 0, NULL}, {"ZC_CONFLIC", "auto", 0, NULL}, {"ZC_", "", 0, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        in_child(&cases[i], unknown);
}

static void foreign(const struct option_case *c)
{
    const struct options *options;
    (void)c;
    CHECK_OK(options_get(&options));
    are_default_but(options, NULL);
}

Test(options, other_variables_are_none_of_ours)
{
    in_child(&(struct option_case){"ZCC_CONFLICT", "never", 0, NULL}, foreign);
    in_child(&(struct option_case){"zc_conflict", "never", 0, NULL}, foreign);
    in_child(&(struct option_case){"XZC_CONFLICT", "never", 0, NULL}, foreign);
}

static void very_long(const struct option_case *c)
{
    const struct options *options = NULL;
    CHECK_FAILS(options_get(&options), -EINVAL, c->says);
}

Test(options, a_very_long_value_or_name_is_cut)
{
    static char text[100000] = "ZC_";
    memset(text + 3, 'x', sizeof text - 4);
    in_child(&(struct option_case){"ZC_CONFLICT", text, 0, "ZC_CONFLICT=ZC_xxxx"}, very_long);
    in_child(&(struct option_case){"ZC_CONFLICT", text, 0, "expected one of auto"}, very_long);
    in_child(&(struct option_case){text, "", 0, "ZC_xxxx"}, very_long);
}

Test(options, sizes)
{
    static const struct {
        const char *text;
        uint64_t value;
        size_t used; /* 0: refused */
    } cases[] = {{"0", 0, 1},
                 {"12", 12, 2},
                 {"12:3", 12, 2},
                 {"4K", 4096, 2},
                 {"4KB", 4096, 2},
                 {"3M", (uint64_t)3 << 20, 2},
                 {"2G,", (uint64_t)2 << 30, 2},
                 {"1T", (uint64_t)1 << 40, 2},
                 {"4k", 4, 1},
                 {"18446744073709551615", UINT64_MAX, 20},
                 {"16777215T", (uint64_t)16777215 << 40, 9},
                 {"18446744073709551616", 0, 0},
                 {"16777216T", 0, 0},
                 {"18014398509481984K", 0, 0},
                 {"", 0, 0},
                 {"K", 0, 0},
                 {"-1", 0, 0},
                 {" 1", 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t value = 77;
        const char *end = parse_size(cases[i].text, &value);
        CHECKF(end == (cases[i].used ? cases[i].text + cases[i].used : NULL), "%s", cases[i].text);
        CHECKF(value == (end ? cases[i].value : 77), "%s", cases[i].text);
    }
}
