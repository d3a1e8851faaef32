/* SPDX-License-Identifier: MIT
 *
 * Matching by source and tag. */
#include "transport/match.h"

#include <criterion/criterion.h>

#include "check.h"
#include "pattern.h"

static struct match entry(int source, int tag)
{
    return (struct match){.source = source, .tag = tag};
}

Test(match, message_takes_the_oldest_receive_that_matches)
{
    struct match_queue queue = {0};
    struct match other = entry(1, 5), first = entry(ZC_ANY_SOURCE, 7), second = entry(2, 7), message = entry(2, 7);

    CHECK(!match_receive(&queue, &other));
    CHECK(!match_receive(&queue, &first));
    CHECK(!match_receive(&queue, &second));
    CHECK(match_message(&queue, &message) == &first);
    CHECK(match_message(&queue, &message) == &second);
    CHECK(!match_message(&queue, &message));
    struct match late = entry(1, 5);
    CHECK(match_message(&queue, &late) == &other);
    CHECK(match_probe(&queue, ZC_ANY_SOURCE, ZC_ANY_TAG) == &message);
}

Test(match, receive_takes_the_oldest_message_that_matches)
{
    struct match_queue queue = {0};
    struct match a = entry(0, 1), b = entry(1, 2), c = entry(0, 2), d = entry(1, 1);
    struct match any = entry(ZC_ANY_SOURCE, ZC_ANY_TAG), tag = entry(ZC_ANY_SOURCE, 2), source = entry(1, ZC_ANY_TAG);

    CHECK(!match_message(&queue, &a));
    CHECK(!match_message(&queue, &b));
    CHECK(!match_message(&queue, &c));
    CHECK(!match_message(&queue, &d));
    CHECK(match_receive(&queue, &tag) == &b);
    CHECK(match_receive(&queue, &source) == &d);
    CHECK(match_receive(&queue, &any) == &a);
    CHECK(match_receive(&queue, &any) == &c);
    CHECK(!match_receive(&queue, &any));
    CHECK(!match_probe(&queue, ZC_ANY_SOURCE, ZC_ANY_TAG));
    CHECK(match_message(&queue, &a) == &any);
}

Test(match, what_does_not_match_waits)
{
    struct match_queue queue = {0};
    struct match message = entry(3, 4), source = entry(4, 4), tag = entry(3, 3), zero = entry(0, 0);

    CHECK(!match_message(&queue, &message));
    CHECK(!match_receive(&queue, &source));
    CHECK(!match_receive(&queue, &tag));
    CHECK(!match_receive(&queue, &zero));
    CHECK(match_probe(&queue, ZC_ANY_SOURCE, ZC_ANY_TAG) == &message);
    CHECK(match_probe(&queue, 3, 4) == &message);
}

Test(match, probe_leaves_the_message)
{
    struct match_queue queue = {0};
    struct match a = entry(0, 1), b = entry(1, 1);

    CHECK(!match_probe(&queue, ZC_ANY_SOURCE, ZC_ANY_TAG));
    match_message(&queue, &a);
    match_message(&queue, &b);
    for (int i = 0; i < 2; i++) {
        CHECK(match_probe(&queue, ZC_ANY_SOURCE, ZC_ANY_TAG) == &a);
        CHECK(match_probe(&queue, 1, ZC_ANY_TAG) == &b);
        CHECK(match_probe(&queue, 1, 1) == &b);
        CHECK(!match_probe(&queue, 2, 1));
        CHECK(!match_probe(&queue, 1, 2));
    }
}

Test(match, remove_takes_out_either_kind_once)
{
    struct match_queue queue = {0};
    struct match receives[3], messages[3];

    for (int i = 0; i < 3; i++) {
        receives[i] = entry(0, 1);
        messages[i] = entry(5, 5);
        CHECK(!match_receive(&queue, &receives[i]));
        CHECK(!match_message(&queue, &messages[i]));
    }
    CHECK(match_remove(&queue, &receives[1])); /* the middle, the end, the front */
    CHECK(!match_remove(&queue, &receives[1]));
    CHECK(match_remove(&queue, &messages[2]));
    CHECK(!match_remove(&queue, &messages[2]));
    CHECK(match_remove(&queue, &messages[0]));

    struct match late = entry(0, 1), last = entry(5, 5), any = entry(5, ZC_ANY_TAG);
    CHECK(match_message(&queue, &late) == &receives[0]);
    CHECK(match_message(&queue, &late) == &receives[2]);
    CHECK(!match_remove(&queue, &receives[0]));
    CHECK(!match_message(&queue, &last)); /* behind what is left */
    CHECK(match_receive(&queue, &any) == &messages[1]);
    CHECK(match_receive(&queue, &any) == &last);
    CHECK(!match_remove(&queue, &last));
    CHECK(!match_receive(&queue, &any));
}

/* The same rules, written down as a search through everything in order of arrival. */
struct arrival {
    struct match match;
    bool receives, there;
};

static bool goes_with(const struct match *receive, const struct match *message)
{
    return (receive->source == ZC_ANY_SOURCE || receive->source == message->source) &&
           (receive->tag == ZC_ANY_TAG || receive->tag == message->tag);
}

static struct match *expected(struct arrival all[], int n, struct arrival *now)
{
    for (int i = 0; i < n; i++) {
        struct arrival *other = &all[i];
        bool fits = now->receives ? goes_with(&now->match, &other->match) : goes_with(&other->match, &now->match);
        if (other->there && other->receives != now->receives && fits) {
            other->there = false;
            now->there = false;
            return &other->match;
        }
    }
    return NULL;
}

Test(match, agrees_with_a_search_in_order_of_arrival)
{
    enum { ARRIVALS = 400 };
    static struct arrival all[ARRIVALS];

    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct match_queue queue = {0};
        uint64_t random = seed;
        for (int i = 0; i < ARRIVALS; i++) {
            struct arrival *now = &all[i];
            now->receives = random_below(&random, 2);
            now->there = true;
            int source = (int)random_below(&random, 3), tag = (int)random_below(&random, 3);
            if (now->receives) { /* ZC_ANY_... is for these */
                source = source ? source - 1 : ZC_ANY_SOURCE;
                tag = tag ? tag - 1 : ZC_ANY_TAG;
            }
            now->match = entry(source, tag);
            struct match *want = expected(all, i, now);
            struct match *got = now->receives ? match_receive(&queue, &now->match) : match_message(&queue, &now->match);
            CHECKF(got == want, "seed %d, arrival %d", (int)seed, i);
            int victim = (int)random_below(&random, (uint64_t)i + 1);
            if (random_below(&random, 8) == 0) {
                CHECK(match_remove(&queue, &all[victim].match) == all[victim].there);
                all[victim].there = false;
            }
        }
    }
}
