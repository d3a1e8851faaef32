/* SPDX-License-Identifier: MIT */
#include "transport/match.h"

#include <stddef.h>

#include "zc.h"

static bool matches(int source, int tag, const struct match *message)
{
    return (source == ZC_ANY_SOURCE || source == message->source) && (tag == ZC_ANY_TAG || tag == message->tag);
}

static void append(struct match **list, struct match *match)
{
    while (*list)
        list = &(*list)->next;
    match->next = NULL;
    *list = match;
}

static bool take(struct match **list, struct match *match)
{
    while (*list && *list != match)
        list = &(*list)->next;
    if (!*list)
        return false;
    *list = match->next;
    return true;
}

struct match *match_message(struct match_queue *queue, struct match *message)
{
    for (struct match *receive = queue->receives; receive; receive = receive->next) {
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
    struct match *message = queue->messages;
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
