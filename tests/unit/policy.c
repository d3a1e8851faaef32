/* SPDX-License-Identifier: MIT
 *
 * Copy or protect: what is decided from given costs and histories. Costs are forced by observing them, so that
 * no machine's speed decides a test; a fault counts as 5 µs as long as policy_open has not measured one. */
#include "protect/policy.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "check.h"
#include "core/clock.h"

enum { SIZE = 1 << 20, FAULT = 5000 };

static struct zc_pool pool;
static struct slot slot;
static const struct slot unused; /* as a pool makes it */

static void costs(uint64_t copy, uint64_t protect, uint64_t unprotect)
{
    pool = (struct zc_pool){.slot_size = SIZE, .stride = SIZE};
    slot = unused;
    policy_observe(&pool, COST_COPY, SIZE, copy);
    policy_observe(&pool, COST_PROTECT, SIZE, protect);
    policy_observe(&pool, COST_UNPROTECT, SIZE, unprotect);
}

/* A cycle of 45 µs against copies of 10 µs: it pays from 5 sends a write on. */
static void costs_dear(void)
{
    costs(10000, 20000, 20000);
}

/* A cycle of 9 µs against copies of 100 µs. */
static void costs_cheap(void)
{
    costs(100000, 2000, 2000);
}

static bool protects(struct slot *s)
{
    return policy_protects(&pool, s, SIZE);
}

static void resend(struct slot *s)
{
    if (policy_resent(s))
        policy_goes_on(&pool);
}

/* One protection of the slot that saw `sends` sends before the store that ended it. */
static void run(struct slot *s, int sends)
{
    policy_protected(s);
    for (int i = 1; i < sends; i++)
        resend(s);
    policy_written(&pool, s);
}

/* Sends that are copied before one is protected, at most `most`. */
static int copies(struct slot *s, int most)
{
    int n = 0;
    while (n < most && !protects(s))
        n++;
    return n;
}

Test(policy, starts_by_copying_and_tries_the_second_send)
{
    for (int i = 0; i < 2; i++) {
        if (i)
            costs_cheap();
        else
            costs_dear();
        CHECK(!protects(&slot));
        CHECK(protects(&slot));
    }
}

Test(policy, never_tries_what_it_cannot_afford)
{
    costs(1000000000, 2000000000, 2000000000); /* a trial of 4 s: 2 % of the time is not enough for it */
    for (int i = 0; i < 1000; i++)
        CHECK(!protects(&slot));
}

/* A trial takes 45 µs: 1/50 of the time is for that, and 1 ms to begin with. */
static int begin_trials(struct slot *slots, int n, uint64_t *share)
{
    int trials = 0;
    uint64_t before = clock_ns();
    for (int i = 0; i < n; i++) {
        slots[i] = (struct slot){.run = 1}; /* nothing else keeps it from a trial */
        trials += protects(&slots[i]);
    }
    *share = (clock_ns() - before) / 50 / 45000;
    return trials;
}

Test(policy, trials_use_up_their_share)
{
    struct slot slots[200];
    uint64_t share;

    costs_dear();
    int trials = begin_trials(slots, 200, &share);
    CHECKF(trials >= 22 && trials <= 22 + 1 + (int)share, "%d trials", trials);
    for (int i = 0; i < trials; i++)
        run(&slots[i], 1); /* what was lost is lost */
    trials = begin_trials(slots, 200, &share);
    CHECKF(trials <= 1 + (int)share, "%d trials", trials);
}

Test(policy, trials_that_pay_cost_nothing)
{
    struct slot slots[200];
    uint64_t share;

    costs_dear();
    int trials = begin_trials(slots, 200, &share);
    for (int i = 0; i < trials; i++)
        run(&slots[i], 5); /* 50 µs of copies */
    CHECK(begin_trials(slots, 20, &share) == 20);
}

Test(policy, a_run_without_end_is_known_to_other_slots)
{
    struct slot fresh = unused;

    costs_dear();
    policy_protected(&slot);
    for (int i = 1; i < 12; i++)
        resend(&slot); /* and it is never written */
    CHECK(protects(&fresh));
}

/* Such as of buffers that are received into in place. */
Test(policy, runs_without_end_pay_however_dear_protection_is)
{
    struct slot fresh = unused;

    costs(1000, 20000, 20000); /* 45 sends pay */
    policy_protected(&slot);
    for (int i = 1; i < 100; i++)
        resend(&slot);
    CHECK(protects(&fresh));
}

Test(policy, no_more_is_copied_than_once_where_that_costs_more_than_trials)
{
    costs_cheap();
    for (int i = 0; i < 1000; i++) {
        struct slot fresh = unused;
        CHECK(!protects(&fresh));
        CHECK(protects(&fresh));
    }
}

Test(policy, what_was_lost_once_does_not_keep_from_noticing_a_change)
{
    costs_dear();
    CHECK(!protects(&slot));
    CHECK(protects(&slot));
    for (int i = 0; i < 10000; i++)
        run(&slot, 1);
    usleep(10000); /* 1/50 of it is for a trial */
    int n = copies(&slot, 100);
    CHECKF(n <= 32, "%d copies before a trial", n);
}

/* A trial takes 45 µs, so 2 % of this pause would do for 44 of them. */
Test(policy, a_pause_earns_one_trial)
{
    costs_dear();
    for (int i = 0; i < 10000 && copies(&slot, 100) < 100; i++)
        run(&slot, 1);
    usleep(100000);
    int tried = 0;
    for (int i = 0; i < 200; i++) { /* which takes hardly any time */
        slot = unused;
        CHECK(!protects(&slot));
        if (protects(&slot)) {
            run(&slot, 1);
            tried++;
        }
    }
    CHECKF(tried >= 1 && tried < 20, "%d trials", tried);
}

Test(policy, a_small_part_of_a_slot_is_copied)
{
    costs_cheap();
    run(&slot, 200);
    CHECK(protects(&slot));
    CHECK(!policy_protects(&pool, &slot, SIZE / 4 - 1));
    CHECK(policy_protects(&pool, &slot, SIZE / 4));
    struct slot fresh = unused;
    CHECK(!policy_protects(&pool, &fresh, 0));
}

Test(policy, long_runs_are_protected_again_at_once)
{
    costs_dear();
    CHECK(copies(&slot, 10) == 1);
    run(&slot, 20);
    for (int i = 1; i < 32; i++)
        CHECK(protects(&slot));
    CHECK(!protects(&slot)); /* to see what a copy costs now */
    CHECK(protects(&slot));
}

Test(policy, copies_that_were_taken_for_too_dear_are_found_cheap)
{
    int protections = 0;

    costs(100000, 20000, 20000);
    for (int i = 0; i < 2000; i++) {
        if (protects(&slot)) {
            run(&slot, 2);
            protections += i >= 1000;
        } else {
            policy_observe(&pool, COST_COPY, SIZE, 10000);
        }
    }
    CHECKF(protections < 100, "%d of 1000", protections);
}

Test(policy, runs_that_just_pay)
{
    costs_dear();
    for (int i = 0; i < 20; i++)
        run(&slot, 6); /* 60 µs of copies for a cycle of 45 */
    CHECK(protects(&slot));
    costs_dear();
    for (int i = 0; i < 20; i++)
        run(&slot, 4); /* 40 µs for 45 */
    CHECK(copies(&slot, 100) > 0);
}

Test(policy, waiting_for_what_is_in_flight_counts)
{
    costs_dear();
    policy_observe(&pool, COST_STORE, SIZE, 100000); /* a cycle of 125 µs now */
    for (int i = 0; i < 20; i++)
        run(&slot, 6);
    CHECK(copies(&slot, 100) > 0);
    for (int i = 0; i < 20; i++)
        run(&slot, 16);
    CHECK(protects(&slot));
}

/* It leaves small pages to be faulted in: paid for as a trial is, unless that is paid back soon. */
Test(policy, protecting_part_of_a_huge_page_counts_until_it_was_done)
{
    struct slot first = unused, second = unused;

    costs_dear();
    pool.huge = true;
    for (int i = 0; i < 20; i++)
        run(&slot, 20);
    CHECK(protects(&slot));
    CHECK(protects(&first)); /* with what trials may take to begin with, and those runs have earned */
    CHECK(!protects(&second));
    pool.huge = false;
    CHECK(protects(&second));
    pool.huge = true;
    pool.slot_size = HUGE_BYTES;
    CHECK(policy_protects(&pool, &second, HUGE_BYTES));

    costs(40000, 20000, 20000); /* 64 copies take twice as long as the faults on 256 pages */
    pool.huge = true;
    run(&slot, 20);
    for (int i = 0; i < 20; i++) {
        struct slot fresh = unused;
        CHECK(protects(&fresh));
    }
}

Test(policy, a_single_send_is_protected_where_copying_costs_more)
{
    costs_cheap();
    run(&slot, 1);
    CHECK(protects(&slot));
    /* Between a cycle with a fault and, twice, one that ends at completion. A store that came early is remembered. */
    costs(6000, 1000, 1000);
    run(&slot, 1);
    CHECK(copies(&slot, 10) == 1);
    CHECK(protects(&slot));
    /* Not dear enough for the risk. */
    costs(3000, 1000, 1000);
    CHECK(policy_cost(&pool, COST_COPY, SIZE) > 2000);
    run(&slot, 1);
    CHECK(copies(&slot, 10) > 0);
}

Test(policy, backs_off_exponentially)
{
    static const int skips[] = {1, 2, 4, 8, 16, 32, 32, 32};

    costs_dear();
    CHECK(copies(&slot, 10) == 1);
    for (size_t i = 0; i < sizeof skips / sizeof skips[0]; i++) {
        run(&slot, 1);
        int n = copies(&slot, 100);
        CHECKF(n == skips[i], "after %zu losses %d copies, expected %d", i + 1, n, skips[i]);
    }
}

Test(policy, a_run_that_pays_ends_backing_off)
{
    costs_dear();
    for (int i = 0; i < 6; i++)
        run(&slot, 1);
    run(&slot, 20);
    CHECK(slot.skip == 0 && slot.backoff == 0);
}

Test(policy, a_change_of_pattern_is_noticed_within_32_sends)
{
    costs_dear();
    for (int i = 0; i < 10; i++)
        run(&slot, 1); /* as far back off as it goes */
    int n = copies(&slot, 100);
    CHECKF(n <= 32, "%d copies before a trial", n);
    /* The buffer is not written any more: the trial sees a long run, and protects from then on. */
    run(&slot, 12);
    CHECK(protects(&slot));
    CHECK(protects(&slot));

    /* And back: written after every send. */
    for (n = 0; protects(&slot) && n < 100; n++)
        run(&slot, 1);
    CHECKF(n <= 32, "%d protections that did not pay", n);
}

Test(policy, other_slots_of_the_pool_share_what_was_learned)
{
    struct slot fresh = unused;

    costs_dear();
    for (int i = 0; i < 10; i++)
        run(&slot, 30);
    CHECK(protects(&fresh));
    run(&slot, 1); /* one short run does not weigh much */
    CHECK(protects(&fresh));
    /* That protection does not pay is no reason to try it on each new buffer. */
    costs_dear();
    run(&slot, 1);
    for (int i = 0; i < 10; i++) {
        fresh = unused;
        CHECK(!protects(&fresh));
    }
    CHECK(protects(&fresh));
}

Test(policy, one_short_run_may_be_chance_and_two_are_not)
{
    struct slot other = unused;

    costs_dear();
    for (int i = 0; i < 3; i++)
        run(&other, 30);
    run(&slot, 1);
    CHECK(protects(&slot));
    run(&slot, 1);
    CHECK(!protects(&slot));
    CHECK(protects(&other));
}

Test(policy, what_a_pool_saw_long_ago_is_forgotten)
{
    struct slot other = unused, fresh = unused;

    costs_dear();
    for (int i = 0; i < 100; i++)
        run(&other, 100);
    for (int i = 0; i < 32; i++)
        run(&other, 2);
    CHECK(!protects(&fresh));
}

Test(policy, a_new_owner_starts_anew)
{
    costs_dear();
    CHECK(copies(&slot, 10) == 1);
    policy_protected(&slot);
    for (int i = 0; i < 30; i++)
        resend(&slot);
    CHECK(protects(&slot));
    slot_forget(&slot);
    CHECK(!slot.run && !slot.estimate && !slot.skip && !slot.backoff);
}

Test(policy, run_lengths_saturate)
{
    costs_dear();
    run(&slot, 10000);
    CHECK(slot.estimate == 255 && slot.run == 1);
    for (int i = 0; i < 300; i++)
        resend(&slot);
    CHECK(slot.run == 255 && slot.estimate == 255);
}

Test(policy, a_store_without_a_protection_teaches_nothing)
{
    costs_dear();
    policy_written(&pool, &slot);
    CHECK(!slot.run && !slot.estimate && !slot.skip && !slot.backoff);
}

/* ---- receivers that are behind ---- */

/* `n` messages are taken, in `held` or `copied` ns each, as they are sent; of each `every`, the first ones are `timed`.
 * How many of them are copied? */
static int take_timed(int n, uint64_t held, uint64_t copied, int timed, int every)
{
    int copies = 0;
    for (int i = 0; i < n; i++) {
        bool feeds = policy_feeds(&pool, SIZE);
        copies += feeds;
        policy_taken(&pool, feeds, SIZE, i % every >= timed ? 0 : feeds ? copied : held);
    }
    return copies;
}

/* The same, each of them timed. */
static int take(int n, uint64_t held, uint64_t copied)
{
    return take_timed(n, held, copied, 1, 1);
}

Test(policy, copies_for_a_receiver_that_takes_copies_faster)
{
    costs_dear();
    CHECK(!policy_feeds(&pool, SIZE));
    take(200, 30000, 24000);
    int copies = take(10000, 30000, 24000);
    CHECKF(copies > 9700, "%d of 10000", copies);
    CHECK(policy_feeds(&pool, SIZE / 4) && !policy_feeds(&pool, SIZE / 4 - 1));
}

/* What counts is that they delay nothing while the receiver takes its time, as it does without them. */
Test(policy, copies_that_take_nearly_as_long_as_the_receiver_takes_then)
{
    costs_dear();
    int copies = take(10000, 30000, 13000);
    CHECKF(copies > 9000, "%d of 10000", copies);
}

Test(policy, does_not_copy_where_receivers_gain_little)
{
    costs_dear();
    take(200, 30000, 28000);
    int copies = take(10000, 30000, 28000);
    CHECKF(copies > 0 && copies < 300, "%d of 10000", copies); /* trials */
}

Test(policy, does_not_copy_for_a_slow_receiver)
{
    costs_dear();
    CHECK(take(10000, 90000, 20000) == 0);
}

Test(policy, does_not_copy_where_copies_are_slower_than_receivers)
{
    costs_dear();
    CHECK(take(10000, 12000, 5000) == 0);
}

Test(policy, stops_copying_for_a_receiver_that_became_slow)
{
    costs_dear();
    take(1000, 30000, 20000);
    CHECK(policy_feeds(&pool, SIZE));
    int copies = take(1000, 120000, 110000);
    CHECKF(copies <= 64, "%d", copies);
}

Test(policy, stops_copying_where_it_gains_no_more)
{
    costs_dear();
    take(200, 30000, 20000);
    CHECK(policy_feeds(&pool, SIZE));
    take(2000, 30000, 30000);
    int copies = take(10000, 30000, 30000);
    CHECKF(copies < 300, "%d of 10000", copies);
}

/* Copies may be what makes a receiver prompt. */
Test(policy, goes_on_copying_for_a_receiver_that_is_slow_without_that)
{
    costs_dear();
    take(200, 30000, 20000);
    CHECK(policy_feeds(&pool, SIZE));
    int copies = take(10000, 90000, 20000);
    CHECKF(copies > 9700, "%d of 10000", copies);
}

/* As of a sender that waits for all messages now and then. */
Test(policy, copies_where_most_messages_are_timed)
{
    costs_dear();
    int copies = take_timed(10000, 30000, 20000, 3, 4);
    CHECKF(copies > 9000, "%d of 10000", copies);
}

/* A sender that has other things to do has no time for copies, nor for looking how long messages take. */
Test(policy, does_not_copy_where_nothing_is_seen_of_receivers)
{
    costs_dear();
    take(40, 30000, 20000); /* in the middle of the first trial */
    CHECK(policy_feeds(&pool, SIZE));
    int copies = take_timed(10000, 30000, 20000, 1, 100);
    CHECKF(copies <= 64, "%d of 10000", copies);
    costs_dear();
    take(200, 30000, 20000);
    CHECK(policy_feeds(&pool, SIZE));
    copies = take_timed(10000, 30000, 20000, 1, 100);
    CHECKF(copies <= 64, "%d of 10000", copies);
}

/* The first copies go to cold memory. */
Test(policy, a_trial_does_not_count_its_first_copies)
{
    int trials = 0;

    costs_dear();
    for (int i = 0; i < 100; i++) { /* one trial */
        bool feeds = policy_feeds(&pool, SIZE);
        trials += feeds;
        policy_taken(&pool, feeds, SIZE, !feeds ? 30000 : trials <= 12 ? 60000 : 20000);
    }
    CHECK(policy_feeds(&pool, SIZE));
}

Test(policy, starts_copying_where_it_gains_later)
{
    costs_dear();
    take(5000, 30000, 30000);
    CHECK(!policy_feeds(&pool, SIZE));
    take(2000, 30000, 20000);
    int copies = take(1000, 30000, 20000);
    CHECKF(copies > 900, "%d of 1000", copies);
}

Test(policy, a_few_outliers_do_not_change_what_receivers_gain)
{
    int copies = 0;

    costs_dear();
    for (int i = 0; i < 10000; i++) {
        bool feeds = policy_feeds(&pool, SIZE);
        copies += feeds && i >= 500;
        uint64_t slice = i % 7 == 0 ? 4000000 : 0;
        policy_taken(&pool, feeds, SIZE, slice + (feeds ? 20000 : 30000));
    }
    CHECKF(copies > 9000, "%d of 9500", copies);
}

Test(policy, parts_of_slots_show_receivers_as_whole_ones_do)
{
    costs_dear();
    int copies = 0;
    for (int i = 0; i < 1000; i++) {
        bool feeds = policy_feeds(&pool, SIZE / 2);
        copies += feeds;
        policy_taken(&pool, feeds, SIZE / 2, feeds ? 10000 : 15000);
    }
    CHECKF(copies > 600, "%d of 1000", copies);
    costs_dear();
    for (int i = 0; i < 500; i++) /* small ones show nothing */
        policy_taken(&pool, false, SIZE / 8, 30000);
    CHECK(!policy_feeds(&pool, SIZE));
}

Test(policy, lingers_while_a_run_is_seen_or_nothing_is_known)
{
    costs_dear();
    policy_protected(&slot);
    CHECK(policy_lingers(&pool, &slot));
    resend(&slot);
    for (int i = 0; i < 100; i++)
        CHECK(policy_lingers(&pool, &slot));
}

Test(policy, lingers_during_a_run_whatever_it_costs)
{
    costs_cheap(); /* a fault is dearer than protecting and its end */
    for (int i = 0; i < 10; i++)
        run(&slot, 1);
    policy_protected(&slot);
    resend(&slot);
    for (int i = 0; i < 100; i++)
        CHECK(policy_lingers(&pool, &slot));
}

Test(policy, lingers_where_the_next_send_is_likely_to_gain)
{
    costs_dear();
    for (int i = 0; i < 10; i++)
        run(&slot, 10);
    policy_protected(&slot);
    for (int i = 0; i < 100; i++)
        CHECK(policy_lingers(&pool, &slot));
}

Test(policy, lingers_once_in_a_while_where_each_send_is_written)
{
    costs_cheap();
    for (int i = 0; i < 10; i++)
        run(&slot, 1);
    int lingered = 0, since = 0, longest = 0;
    for (int i = 0; i < 330; i++) {
        if (!protects(&slot))
            continue;
        policy_protected(&slot);
        if (policy_lingers(&pool, &slot)) {
            lingered++;
            since = 0;
        }
        longest = ++since > longest ? since : longest;
    }
    CHECKF(lingered >= 9 && lingered <= 11, "%d of 330", lingered);
    CHECKF(longest <= 33, "not for %d sends", longest);
}

Test(policy, costs_are_of_whole_slots)
{
    pool = (struct zc_pool){.slot_size = SIZE, .stride = SIZE};
    policy_observe(&pool, COST_COPY, SIZE / 4, 1000);
    CHECK(policy_cost(&pool, COST_COPY, SIZE) == 4000);
    CHECK(policy_cost(&pool, COST_COPY, SIZE / 2) == 2000);
    CHECK(policy_cost(&pool, COST_COPY, 0) == 0);
    policy_observe(&pool, COST_RENAME, SIZE, 7000);
    CHECK(policy_cost(&pool, COST_RENAME, 1) == 7000); /* a rename is always of all */
}

Test(policy, costs_follow_what_is_observed)
{
    costs(10000, 20000, 20000);
    policy_observe(&pool, COST_COPY, 0, 1); /* of nothing: no observation */
    CHECK(policy_cost(&pool, COST_COPY, SIZE) == 10000);
    for (int i = 0; i < 100; i++)
        policy_observe(&pool, COST_COPY, SIZE, 20000);
    uint64_t cost = policy_cost(&pool, COST_COPY, SIZE);
    CHECKF(cost > 19900 && cost <= 20000, "%d", (int)cost);
    policy_observe(&pool, COST_COPY, SIZE, 5000);
    CHECK(policy_cost(&pool, COST_COPY, SIZE) <= (3 * cost + 5000) / 4); /* faster down than up */
    for (int i = 0; i < 100; i++)
        policy_observe(&pool, COST_COPY, SIZE, 5000);
    cost = policy_cost(&pool, COST_COPY, SIZE);
    CHECKF(cost >= 5000 && cost < 5100, "%d", (int)cost);
    CHECK(policy_cost(&pool, COST_PROTECT, SIZE) == 20000); /* each kind by itself */
}

Test(policy, an_outlier_counts_fourfold_at_most)
{
    costs(10000, 20000, 20000);
    policy_observe(&pool, COST_COPY, SIZE, UINT64_MAX / SIZE);
    CHECK(policy_cost(&pool, COST_COPY, SIZE) == (7 * 10000 + 40000) / 8);
}

Test(policy, the_first_copy_counts_four_times_what_the_probe_found_at_most)
{
    pool = (struct zc_pool){.slot_size = SIZE, .stride = SIZE};
    uint64_t probed = policy_cost(&pool, COST_COPY, SIZE);
    policy_observe(&pool, COST_COPY, SIZE, 100 * probed);
    CHECK(policy_cost(&pool, COST_COPY, SIZE) == 4 * probed);
}

/* A fault with SIGSEGV blocked ends the process, so there is none to be measured. */
Test(policy, opens_in_a_thread_that_blocks_all_signals)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    policy_open();
    CHECK(policy_cost(&(struct zc_pool){.slot_size = 4096}, COST_PROTECT, 0) > 0);
}

Test(policy, costs_start_from_a_probe)
{
    policy_open();
    struct zc_pool small = {.slot_size = 4096, .stride = 4096}, large = {.slot_size = 64 << 20, .stride = 64 << 20};
    for (enum cost cost = COST_COPY; cost < COSTS; cost++) {
        CHECK(policy_cost(&small, cost, small.slot_size) > 0);
        CHECK(policy_cost(&small, cost, small.slot_size) < policy_cost(&large, cost, large.slot_size));
    }
    CHECK(policy_cost(&large, COST_RENAME, 0) > policy_cost(&large, COST_COPY, large.slot_size));
    struct zc_pool huge = {.slot_size = 64 << 20, .stride = 64 << 20, .huge = true};
    CHECK(policy_cost(&huge, COST_PROTECT, 0) <= policy_cost(&large, COST_PROTECT, 0));
}
