/* SPDX-License-Identifier: MIT */
#include "loop.h"

#include "check.h"

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
