/* SPDX-License-Identifier: MIT */
#include "loop.h"

#include "check.h"
#include "pattern.h"

zc_comm *loop_with(enum zc_conflict conflict, enum zc_policy policy, enum zc_release release)
{
    zc_comm *comm = NULL;
    zc_options options = ZC_OPTIONS_INIT;
    options.conflict = conflict;
    options.policy = policy;
    options.release = release;
    options.on_timeout = ZC_ON_TIMEOUT_ABORT;
    options.fault_timeout_ms = 60000;
    CHECK_OK(zc_open("loop", &options, &comm));
    return comm;
}

zc_comm *loop_renaming(enum zc_release release)
{
    return loop_with(ZC_CONFLICT_COPY, ZC_POLICY_PROTECT, release);
}

void loop_resend(zc_comm *comm, char *const bufs[], int n, void *got, size_t size)
{
    for (int i = 0; i < n; i++)
        pattern_fill(bufs[i], size, (unsigned)i);
    for (int i = 0; i < 2 * n; i++) {
        CHECK_OK(zc_send(bufs[i % n], size, 0, 0, comm));
        CHECK_OK(zc_recv(got, size, 0, 0, comm, NULL));
    }
}
