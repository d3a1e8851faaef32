/* SPDX-License-Identifier: MIT */
#include "transport/match.h"

static bool matches(int source, int tag, const struct match *message)
{
    return (source == ZC_ANY_SOURCE || source == message->source) && (tag == ZC_ANY_TAG || tag == message->tag);
}

static void append(struct match_list *list, struct match *match)
{
    match->next = NULL;
    if (list->first)
        list->last->next = match;
    else
        list->first = match;
    list->last = match;
}

static bool take(struct match_list *list, struct match *match)
{
    struct match *before = NULL, *at = list->first;
    while (at && at != match) {
        before = at;
        at = at->next;
    }
    if (!at)
        return false;
    if (before)
        before->next = at->next;
    else
        list->first = at->next;
    if (list->last == at)
        list->last = before;
    return true;
}

struct match *match_message(struct match_queue *queue, struct match *message)
{
    for (struct match *receive = queue->receives.first; receive; receive = receive->next) {
        if (matches(receive->source, receive->tag, message)) {
            take(&queue->receives, receive);
            return receive;
        }
    }
    append(&queue->messages, message);
    return NULL;
}

struct match *match_probe(const struct match_queue *queue, int source, int tag)
{
    struct match *message = queue->messages.first;
    while (message && !matches(source, tag, message))
        message = message->next;
    return message;
}

struct match *match_receive(struct match_queue *queue, struct match *receive)
{
    struct match *message = match_probe(queue, receive->source, receive->tag);
    if (message)
        take(&queue->messages, message);
    else
        append(&queue->receives, receive);
    return message;
}

bool match_remove(struct match_queue *queue, struct match *match)
{
    return take(&queue->receives, match) || take(&queue->messages, match);
}
