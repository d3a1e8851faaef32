/* SPDX-License-Identifier: MIT
 *
 * many N: N messages of a page each in flight at once. Every twentieth buffer is stored to meanwhile. What cannot be
 * protected is copied and counted, nothing is lost, and all can be written to at the end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "transport/loop.h"

enum { PAGE = 4096, STORED_EACH = 20 };

int main(int argc, char *argv[])
{
    size_t n = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    const char *protect = getenv("ZC_PROTECT");
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    char **buffer = calloc(n ? n : 1, sizeof *buffer), *in = ALLOC(PAGE);

    CHECK(buffer && n);
    options.policy = ZC_POLICY_PROTECT;
    CHECK_OK(zc_open("loop", &options, &comm));
    loop_hold(comm, true);
    for (size_t i = 0; i < n; i++) {
        buffer[i] = ALLOC(PAGE);
        memset(buffer[i], (int)i, PAGE);
        memcpy(buffer[i], &i, sizeof i);
        CHECK_OK(zc_send(buffer[i], PAGE, 0, 1, comm));
    }
    zc_stats stats = stats_now();
    CHECK(stats.sends == n && stats.sends_protected + stats.sends_copied == n);
    CHECK(stats.sends_copied == stats.unreserved);
    CHECK(!protect || strcmp(protect, "userfaultfd") != 0 || stats.sends_protected == n);
    for (size_t i = 0; i < n; i += STORED_EACH)
        ((volatile char *)buffer[i])[100] = (char)~i;

    loop_hold(comm, false);
    for (size_t i = 0, told; i < n; i++) {
        CHECK_OK(zc_recv(in, PAGE, 0, 1, comm, NULL));
        memcpy(&told, in, sizeof told);
        CHECKF(told == i && in[100] == (char)i, "message %zu is %zu, %d", i, told, in[100]);
    }
    for (size_t i = 0; i < n; i++) {
        CHECK(buffer[i][100] == (char)(i % STORED_EACH ? i : ~i));
        ((volatile char *)buffer[i])[200] = 1;
    }
    for (size_t i = 0; i < n; i++)
        CHECK_OK(zc_free(buffer[i]));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
    printf("%zu messages in flight: %llu protected, %llu copied\n", n, (unsigned long long)stats.sends_protected,
           (unsigned long long)stats.sends_copied);
    free(buffer);
    return 0;
}
