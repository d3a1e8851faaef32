/* SPDX-License-Identifier: MIT
 *
 * What ends when a peer fails or leaves. What is in flight with others goes on, and so does what the peer has sent
 * before and is still there: whole messages, and segments of it that are mapped here. */
#include <sys/epoll.h>
#include <sys/socket.h>

#include "core/sys.h"
#include "transport/shm.h"

/* May what was offered still be looked at, without anybody who would tell when that is over? By a peer that lives, and
 * by those to whom it has passed that on. But one that has closed its communicator looks at nothing. */
static bool is_looked_at(const struct link *link)
{
    const struct board *theirs = link->ring.theirs;
    return theirs && (!link->ended || atomic_load(&theirs->left) == LEFT_ONE || atomic_load(&theirs->passed));
}

void shm_abandon(struct op *op, int error)
{
    struct message *passed = op->in.passed;
    if (passed && passed->step == STEP_LENT && !passed->link->error) {
        shm_count_view(passed, UINT32_MAX);
        link_answer(passed->link, passed, STEP_LEFT);
        link_push(passed->link);
    }
    op_abandon(op, error);
}

static void lose_sends(struct link *link)
{
    bool looked_at = is_looked_at(link);
    for (struct op *op = op_queue_take(&link->sends), *next; op; op = next) {
        next = op->in.next;
        if (!op->in.asked) /* others have been offered */
            shm_over(link->shm, op, link->error);
    }
    for (uint32_t id = 0; id < link->offers.room; id++) {
        struct op *op = ids_find(&link->offers, id);
        if (op) {
            ids_drop(&link->offers, id);
            if (looked_at)
                shm_abandon(op, link->error);
            else
                shm_over(link->shm, op, link->error);
        }
    }
}

static void lose_answers(struct link *link)
{
    for (struct message *message = link->answers, *next; message; message = next) {
        next = message->next;
        if (message->step == STEP_DONE)
            shm_free_message(message);
    }
    link->answers = NULL;
    link->answers_end = &link->answers;
    for (uint32_t id = 0; id < link->pulls.room; id++) {
        struct message *message = ids_find(&link->pulls, id);
        if (message) {
            ids_drop(&link->pulls, id);
            peers_fail(&link->shm->common, message->receive, link->error);
            shm_free_message(message);
        }
    }
}

void link_abandon(struct link *link)
{
    for (uint32_t id = 0; id < link->offers.room; id++) {
        struct op *op = ids_find(&link->offers, id);
        if (op) {
            ids_drop(&link->offers, id);
            op_abandon(op, 0);
        }
    }
}

void link_break(struct link *link, int error, const char *why)
{
    if (link->broken)
        return;
    link->broken = error;
    link->why = why;
}

void link_lose(struct link *link, int error, const char *why)
{
    struct shm *shm = link->shm;
    if (link->error)
        return;
    link->error = error;
    link->why = why;
    if (why && !link->ended)
        atomic_store(&link->ring.mine->left, LEFT_ONE);
    /* A child that was forked just now may have it open as well: epoll would go on with it, */
    epoll_ctl(shm->epoll, EPOLL_CTL_DEL, link->answers_on, NULL);
    if (link->answers_on != link->sock)
        sys_close(link->answers_on); /* not libc's, in which the thread could be cancelled: it has the lock */
    if (link->board >= 0)
        sys_close(link->board);
    /* and the peer would not be told. */
    shutdown(link->sock, SHUT_RDWR);
    sys_close(link->sock);
    lose_sends(link);
    lose_answers(link);
    if (link->rank >= 0 && shm->peers[link->rank] == link)
        peers_lose_receives(&shm->common);
    segments_drop(link);
    board_unmap(link->ring.mine);
    board_unmap(link->ring.theirs);
    link->ring = (struct ring){0};
}
