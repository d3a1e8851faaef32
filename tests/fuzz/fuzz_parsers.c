/* SPDX-License-Identifier: MIT
 *
 * What is parsed: variables, pools of ZC_POOLS, addresses and traces. The first byte of an input says which. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "alloc/pool_spec.h"
#include "check.h"
#include "core/options.h"
#include "tools/zc/command.h"
#include "tools/zc/trace.h"
#include "transport/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What tools/zc/trace.c says. */
int failed(const char *format, ...)
{
    (void)format;
    return 1;
}

static void variable(char *text)
{
    struct options options;
    char *environment[] = {text, NULL};

    if (options_read(environment, &options))
        CHECK(strlen(zc_errmsg()) > 0);
}

static void pools(const char *at)
{
    for (const char *end = at; *at; at = end + (*end == ',')) {
        zc_pool_options options = ZC_POOL_OPTIONS_INIT;
        size_t from = ZC_UNLIMITED;

        end = at;
        const char *wanted = pool_spec_parse(&end, &options, &from);
        CHECK(end >= at && end <= at + strlen(at));
        if (wanted)
            return;
        CHECK(options.slot_size && options.initial <= options.cap && (*end == ',' || !*end));
    }
}

static void address(const char *text)
{
    static const char *const keys[] = {"rank", "size", NULL};
    struct address address;
    uint64_t number;

    if (address_parse(text, &address))
        return;
    CHECK(address.scheme && address.name && address.count >= 0 && address.count <= ADDRESS_KEYS);
    address_check_keys(&address, keys);
    if (address_number(&address, "rank", 1, 9, 5, &number) == 0)
        CHECK(number >= 1 && number <= 9);
}

static void trace(const uint8_t *data, size_t size)
{
    struct trace trace;
    char path[32];
    int fd = memfd_create("trace", MFD_CLOEXEC);

    CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (trace_read(path, &trace) == 0)
        trace_drop(&trace);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);

    CHECK(text);
    memcpy(text, data, size);
    text[size] = 0;
    switch (size ? data[0] % 4 : 0) {
    case 0:
        variable(text + (size != 0));
        break;
    case 1:
        pools(text + 1);
        break;
    case 2:
        address(text + 1);
        break;
    case 3:
        trace(data + 1, size - 1);
        break;
    }
    free(text);
    return 0;
}
