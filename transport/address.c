/* SPDX-License-Identifier: MIT */
#include "transport/address.h"

#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "core/options.h"

int address_parse(const char *text, struct address *address)
{
    if (!text || strlen(text) >= sizeof address->text)
        return fail(-EINVAL, "zc_open: the address is %s", text ? "longer than 255 characters" : "NULL");
    memset(address, 0, sizeof *address);
    memcpy(address->text, text, strlen(text) + 1);
    address->scheme = address->text;
    address->name = "";
    char *query = strchr(address->text, '?');
    if (query)
        *query++ = 0;
    char *name = strchr(address->text, ':');
    if (name) {
        *name++ = 0;
        address->name = name;
    }
    for (char *key = query; key; address->count++) {
        char *next = strchr(key, '&'), *value = strchr(key, '=');
        if (next)
            *next++ = 0;
        if (!value || value == key || (next && value >= next) || address->count == ADDRESS_KEYS)
            return fail(-EINVAL, "zc_open: \"%s\": at character %d: expected %s", text, (int)(key - address->text) + 1,
                        address->count == ADDRESS_KEYS ? "at most 10 parameters" : "key=value");
        *value++ = 0;
        if (address_text(address, key, NULL))
            return fail(-EINVAL, "zc_open: \"%s\": at character %d: expected \"%s\" once", text,
                        (int)(key - address->text) + 1, key);
        address->parameters[address->count].key = key;
        address->parameters[address->count].value = value;
        key = next;
    }
    return 0;
}

int address_number(const struct address *address, const char *key, uint64_t least, uint64_t most, uint64_t initial,
                   uint64_t *value)
{
    *value = initial;
    for (int i = 0; i < address->count; i++) {
        if (strcmp(address->parameters[i].key, key) != 0)
            continue;
        const char *end = parse_size(address->parameters[i].value, value);
        if (!end || *end || *value < least || *value > most)
            return fail(-EINVAL, "zc_open: %s: %s=%s, expected %llu..%llu", address->scheme, key,
                        address->parameters[i].value, (unsigned long long)least, (unsigned long long)most);
    }
    return 0;
}

const char *address_text(const struct address *address, const char *key, const char *initial)
{
    for (int i = 0; i < address->count; i++)
        if (strcmp(address->parameters[i].key, key) == 0)
            return address->parameters[i].value;
    return initial;
}

int address_check_keys(const struct address *address, const char *const known[])
{
    for (int i = 0; i < address->count; i++) {
        int k = 0;
        while (known[k] && strcmp(known[k], address->parameters[i].key) != 0)
            k++;
        if (!known[k])
            return fail(-EINVAL, "zc_open: %s: there is no parameter \"%s\"", address->scheme,
                        address->parameters[i].key);
    }
    return 0;
}

int address_check_bare(const struct address *address)
{
    if (*address->name || address->count)
        return fail(-EINVAL, "zc_open: %s takes no name and no parameters", address->scheme);
    return 0;
}

int address_refused(const char *origin, const char *whole, const char *expected, int error)
{
    if (!origin)
        return error;
    return fail(error, "zc_open_mpi: %s is \"%.100s\"%s: %s", origin, whole, expected, zc_errmsg());
}
