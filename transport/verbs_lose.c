/* SPDX-License-Identifier: MIT
 *
 * What ends when a peer fails or leaves. What is in flight with others goes on. */
#include "transport/verbs.h"

static void lose_sends(struct verbs *verbs, struct peer *peer, int rank)
{
    for (struct op *op = op_queue_take(&peer->sends), *next; op; op = next) {
        next = op->in.next;
        if (op->in.length <= EAGER)
            peers_over(&verbs->common, op, peer->error);
    }
    for (uint32_t id = 0; id < verbs->offers.room; id++) {
        struct op *op = ids_find(&verbs->offers, id);
        if (op && op->peer == rank) {
            ids_drop(&verbs->offers, id);
            peers_over(&verbs->common, op, peer->error);
        }
    }
}

/* Reads in flight still end, each with an error of its own; the last one ends the receive. */
static void lose_answers(struct verbs *verbs, struct peer *peer, int rank)
{
    for (struct message *message = peer->answers, *next; message; message = next) {
        next = message->next;
        if (message->step == STEP_READ && message->reads) {
            message->kept = message->asked;
            message->error = peer->error;
        } else if (message->step != STEP_PULL) {
            if (message->step == STEP_READ)
                peers_fail(&verbs->common, message->receive, peer->error);
            message_free(message);
        }
    }
    peer->answers = NULL;
    peer->answers_end = &peer->answers;
    for (uint32_t id = 0; id < verbs->pulls.room; id++) {
        struct message *message = ids_find(&verbs->pulls, id);
        if (message && message->match.source == rank) {
            ids_drop(&verbs->pulls, id);
            peers_fail(&verbs->common, message->receive, peer->error);
            message_free(message);
        }
    }
}

void verbs_lose(struct verbs *verbs, struct peer *peer, int error, const char *why)
{
    if (peer->error)
        return;
    int rank = (int)(peer - verbs->peers);
    peer->error = error;
    peer->why = why;
    if (why) {
        /* From here on its device reads nothing of ours. */
        struct ibv_qp_attr attributes = {.qp_state = IBV_QPS_ERR};
        ibv_modify_qp(peer->qp, &attributes, IBV_QP_STATE);
    }
    lose_sends(verbs, peer, rank);
    lose_answers(verbs, peer, rank);
    peers_lose_receives(&verbs->common);
}
