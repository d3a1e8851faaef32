/* SPDX-License-Identifier: MIT
 *
 * The case of a message past 2 GiB. */
#include <stdlib.h>
#include <string.h>

#include "conformance.h"
#include "system.h"

#define BIG (((size_t)2 << 30) + 3 * MIB + 12345)
#define STEP (16 * MIB)

/* Room for what each rank of this machine holds at once: the buffer, a copy on the way and one of the
 * transport's at worst. TEST_BIG=0 switches the case off. */
bool big_fits(int ranks_here)
{
    const char *wanted = getenv("TEST_BIG");
    unsigned long long available = system_number("/proc/meminfo", "MemAvailable:") * KIB;

    return !(wanted && strcmp(wanted, "0") == 0) && available > (unsigned long long)ranks_here * 3 * BIG;
}

/* Bytes are looked at around steps, around 2 GiB, and at the end: this is about lengths, not about
 * every byte, which the other cases look at. */
static size_t place(size_t i)
{
    size_t at = i * STEP;

    return at + 64 <= BIG ? at : at < BIG + STEP ? BIG - 64 : BIG;
}

void case_big(struct conf *c)
{
    char *buffer = zc_alloc(BIG);
    zc_status status;
    size_t around = ((size_t)2 << 30) - 32;

    CHECKF(buffer, "%zu bytes", BIG);
    if (c->rank == 0) {
        for (size_t i = 0; place(i) < BIG; i++)
            pattern_fill(buffer + place(i), 64, i);
        pattern_fill(buffer + around, 64, 999);
        CHECK_OK(zc_send(buffer, BIG, 1, 400, c->comm));
        memset(buffer, 0xff, 64);
        memset(buffer + BIG - 64, 0xff, 64);
        CHECK_OK(zc_send(buffer, 64, 1, 400, c->comm));
        CHECK_OK(zc_flush(c->comm));
    } else if (c->rank == 1) {
        CHECK_OK(zc_probe(0, 400, c->comm, &status));
        CHECKF(status.length == BIG, "probed %zu", status.length);
        CHECK_OK(zc_recv(buffer, BIG, 0, 400, c->comm, &status));
        CHECKF(status.length == BIG, "received %zu", status.length);
        for (size_t i = 0; place(i) < BIG; i++)
            if (place(i) + 64 <= around || place(i) >= around + 64)
                CHECKF(pattern_differs(buffer + place(i), 64, i) == PATTERN_SAME, "at %zu", place(i));
        CHECK_PATTERN(buffer + around, 64, 999);
        CHECK_OK(zc_recv(buffer, BIG, 0, 400, c->comm, &status));
        CHECK(status.length == 64);
        CHECK_BYTES(buffer, 64, 0xff);
    }
    conf_barrier(c);
    CHECK_OK(zc_free(buffer));
}
