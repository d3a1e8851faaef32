/* SPDX-License-Identifier: MIT
 *
 * many N: N messages of a page each in flight at once. What cannot be protected is copied and counted, and nothing is
 * lost. Then the same buffers, with protections that remain of messages that have left. Either way protections end in
 * the order that splits mappings most, each second first, and ending one never fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "transport/loop.h"
#include "userfaultfd.h"

enum { PAGE = 4096 };

int main(int argc, char *argv[])
{
    userfaultfd_or_skip();
    size_t n = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    zc_options options = ZC_OPTIONS_INIT;
    zc_comm *comm = NULL;
    /* Each of these that is in flight on userfaultfd keeps mappings, of which there are no more than for some
     * 16,000. */
    bool userfaultfd = on_userfaultfd();
    size_t stored_each = userfaultfd ? 20 : 2;
    char **buffer = calloc(n ? n : 1, sizeof *buffer), *in = ALLOC(PAGE);

    CHECK(buffer && n);
    options.policy = ZC_POLICY_PROTECT;
    options.release = ZC_RELEASE_LAZY;
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
    CHECK(!userfaultfd || stats.sends_protected == n);
    for (size_t i = 0; i < n; i += stored_each)
        ((volatile char *)buffer[i])[100] = (char)~i;

    loop_hold(comm, false);
    for (size_t i = 0, told; i < n; i++) {
        CHECK_OK(zc_recv(in, PAGE, 0, 1, comm, NULL));
        memcpy(&told, in, sizeof told);
        CHECKF(told == i && in[100] == (char)i, "message %zu is %zu, %d", i, told, in[100]);
    }
    for (size_t i = 0; i < n; i++)
        CHECK(buffer[i][100] == (char)(i % stored_each ? i : ~i));

    zc_stats before = stats_now();
    for (size_t i = 0; i < n; i++) {
        CHECK_OK(zc_send(buffer[i], PAGE, 0, 1, comm));
        CHECK_OK(zc_recv(in, PAGE, 0, 1, comm, NULL));
    }
    CHECK_OK(zc_flush(comm));
    for (size_t first = 0; first < 2; first++)
        for (size_t i = first; i < n; i += 2)
            ((volatile char *)buffer[i])[200] = 1;
    zc_stats now = stats_now();
    size_t idle = now.faults_idle - before.faults_idle;
    CHECK(idle > 1000 && (!userfaultfd || idle == n));
    for (size_t i = 0; i < n; i++)
        CHECK_OK(zc_free(buffer[i]));
    CHECK_OK(zc_free(in));
    CHECK_OK(zc_close(comm));
    printf("%zu messages in flight: %llu protected, %llu copied; %zu protections ended when idle\n", n,
           (unsigned long long)stats.sends_protected, (unsigned long long)stats.sends_copied, idle);
    free(buffer);
    return 0;
}
