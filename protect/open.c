/* SPDX-License-Identifier: MIT */
#include "protect/open.h"

#include "alloc/arena.h"
#include "alloc/hooks.h"
#include "core/error.h"
#include "core/options.h"
#include "core/thread.h"
#include "protect/backend.h"
#include "protect/fault.h"
#include "protect/maps.h"
#include "protect/pages.h"
#include "protect/policy.h"

static struct kept_error preparing;

static void prepare_once(void)
{
    const struct options *options;
    int error = arena_open();
    if (!error)
        error = options_get(&options);
    error_keep(&preparing, error);
    if (error)
        return;
    static const struct pool_hooks hooks = {backend_choose, backend_mapped, maps_account, slot_settle_popped};
    pool_hooks_set(&hooks);
    maps_open(options->maps);
}

int protect_prepare(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    thread_once(&once, prepare_once);
    int error = error_again(&preparing);
    return error ? error : arena_open(); /* which refuses in a forked child */
}

static void open_once(void)
{
    policy_open();
    fault_reinstall();
}

int protect_open(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int error = protect_prepare();
    if (!error)
        thread_once(&once, open_once);
    return error;
}
