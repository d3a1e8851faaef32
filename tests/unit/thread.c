/* SPDX-License-Identifier: MIT
 *
 * What a thread gives back at its end. */
#include "core/thread.h"

#include <criterion/criterion.h>
#include <pthread.h>

#include "check.h"
#include "ranks.h"

static int given[8], gave;

static void give(void *what)
{
    given[gave++] = *(int *)what;
}

static int one = 1, two = 2, three = 3;

static void *keep_all(void *unused)
{
    CHECK(thread_keeps(THREAD_COUNTS, give, &three));
    CHECK(thread_keeps(THREAD_OP, give, &one));
    CHECK(thread_keeps(THREAD_CACHES, give, &two));
    return unused;
}

/* Counts come last: what is given back before may count. */
Test(thread, gives_back_in_order)
{
    thread_join(thread_start(keep_all, NULL));
    CHECK(gave == 3 && given[0] == 1 && given[1] == 2 && given[2] == 3);
}

static pthread_key_t late_key;

static void late(void *unused)
{
    (void)unused;
    CHECK(gave == 1);
    CHECK(thread_keeps(THREAD_OP, give, &two));
}

static void *keep_late(void *unused)
{
    CHECK(thread_keeps(THREAD_OP, give, &one)); /* makes its key before that of `late` */
    CHECK(pthread_key_create(&late_key, late) == 0 && pthread_setspecific(late_key, &late_key) == 0);
    return unused;
}

Test(thread, gives_back_what_a_late_destructor_kept)
{
    thread_join(thread_start(keep_late, NULL));
    CHECK(gave == 2 && given[0] == 1 && given[1] == 2);
}
