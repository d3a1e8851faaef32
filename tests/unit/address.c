/* SPDX-License-Identifier: MIT
 *
 * Addresses of communicators. */
#include "transport/address.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "check.h"

Test(address, scheme_name_and_parameters)
{
    struct address address;

    CHECK_OK(address_parse("mpi", &address));
    CHECK(!strcmp(address.scheme, "mpi") && !strcmp(address.name, "") && address.count == 0);
    CHECK_OK(address_parse("loop:here", &address));
    CHECK(!strcmp(address.scheme, "loop") && !strcmp(address.name, "here") && address.count == 0);
    CHECK_OK(address_parse("loop:a:b?rank=1&size=20", &address));
    CHECK(!strcmp(address.scheme, "loop") && !strcmp(address.name, "a:b") && address.count == 2);
    CHECK(!strcmp(address.parameters[0].key, "rank") && !strcmp(address.parameters[0].value, "1"));
    CHECK(!strcmp(address.parameters[1].key, "size") && !strcmp(address.parameters[1].value, "20"));
    CHECK_OK(address_parse("x?k=", &address));
    CHECK(!strcmp(address.name, "") && !strcmp(address.parameters[0].value, ""));
    CHECK_OK(address_parse("x?k=a:b=c?d", &address)); /* only the first of each sign separates */
    CHECK(!strcmp(address.scheme, "x") && !strcmp(address.parameters[0].value, "a:b=c?d"));
    CHECK_OK(address_parse("", &address));
    CHECK(!strcmp(address.scheme, ""));
}

Test(address, errors_point_at_the_place)
{
    struct address address;

    CHECK_FAILS(address_parse(NULL, &address), -EINVAL, "NULL");
    CHECK_FAILS(address_parse("loop:x?", &address), -EINVAL, "at character 8: expected key=value");
    CHECK_FAILS(address_parse("loop:x?rank", &address), -EINVAL, "at character 8: expected key=value");
    CHECK_FAILS(address_parse("loop:x?=1", &address), -EINVAL, "at character 8: expected key=value");
    CHECK_FAILS(address_parse("loop:x?rank&size=1", &address), -EINVAL, "at character 8: expected key=value");
    CHECK_FAILS(address_parse("loop:x?rank=0&size", &address), -EINVAL, "at character 15: expected key=value");
    CHECK_FAILS(address_parse("loop:x?rank=0&", &address), -EINVAL, "at character 15: expected key=value");
    CHECK_FAILS(address_parse("loop:x?rank=0&&size=1", &address), -EINVAL, "\"loop:x?rank=0&&size=1\"");
    CHECK_FAILS(address_parse("x?a=0&b=1&a=", &address), -EINVAL, "at character 11: expected \"a\" once");
    CHECK_OK(address_parse("x?a=0&aa=1", &address));
}

Test(address, limits)
{
    struct address address;
    char text[300];

    memset(text, 'n', sizeof text);
    memcpy(text, "loop:", 5);
    text[255] = 0;
    CHECK_OK(address_parse(text, &address));
    CHECK(strlen(address.name) == 250);
    text[255] = 'n';
    text[256] = 0;
    CHECK_FAILS(address_parse(text, &address), -EINVAL, "longer than 255");
    CHECK_OK(address_parse("x?a=1&b=2&c=3&d=4&e=5&f=6&g=7&h=8&i=9&j=0", &address));
    CHECK(address.count == 10 && !strcmp(address.parameters[9].key, "j"));
    CHECK_FAILS(address_parse("x?a=1&b=2&c=3&d=4&e=5&f=6&g=7&h=8&i=9&j=0&k=1", &address), -EINVAL,
                "at character 43: expected at most 10 parameters");
}

Test(address, numbers)
{
    struct address address;
    uint64_t n = 0;

    CHECK_OK(address_parse("x?a=5&b=2K&c=x&d=&e=3x&f=-1&g=18446744073709551616", &address));
    CHECK_OK(address_number(&address, "a", 5, 5, 1, &n));
    CHECK(n == 5);
    CHECK_OK(address_number(&address, "b", 0, 4096, 1, &n));
    CHECK(n == 2048);
    CHECK_OK(address_number(&address, "none", 0, 4, 3, &n));
    CHECK(n == 3);
    CHECK_FAILS(address_number(&address, "a", 0, 4, 1, &n), -EINVAL, "a=5, expected 0..4");
    CHECK_FAILS(address_number(&address, "a", 6, 9, 6, &n), -EINVAL, "a=5, expected 6..9");
    for (const char *bad = "cdefg"; *bad; bad++)
        CHECK_FAILS(address_number(&address, (char[]){*bad, 0}, 0, UINT64_MAX, 1, &n), -EINVAL, "expected 0..");
}

Test(address, unknown_keys)
{
    struct address address;

    CHECK_OK(address_parse("loop:x?rank=1&size=2", &address));
    CHECK_OK(address_check_keys(&address, (const char *const[]){"size", "rank", NULL}));
    CHECK_FAILS(address_check_keys(&address, (const char *const[]){"rank", NULL}), -EINVAL,
                "loop: there is no parameter \"size\"");
    CHECK_FAILS(address_check_keys(&address, (const char *const[]){NULL}), -EINVAL, "\"rank\"");
    CHECK_OK(address_parse("mpi", &address));
    CHECK_OK(address_check_keys(&address, (const char *const[]){NULL}));
}
