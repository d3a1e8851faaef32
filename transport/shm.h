/* SPDX-License-Identifier: MIT
 *
 * The shm transport inside: ranks are processes of one host. Each pair of ranks has a *link*: a Unix socket, and a
 * board of each (shm_ring.h), so that a process stores to no memory that another one stores to.
 *
 * Messages of at most RING_EAGER bytes go through the board. Of a longer one an *offer* goes: the segment, by a number
 * that the receiver has been *shown* over the socket, memfd included, and where in it. The receiver maps segments
 * read-only, copies once from there to where the message is to land, or lends a *view* of them, and says *done* when it
 * needs the bytes no more. Where the sender's bytes are in no segment, or the receiver cannot map it, it *pulls* the
 * message instead, and the sender sends *parts*.
 *
 * The socket also wakes: a rank that is about to sleep says so on its boards, and who puts something there for it sends
 * a byte. A rank sleeps on one descriptor for all its sockets, so that it notices at once when a peer dies, too; zc_fd
 * hands out another one that is readable when that is. */
#ifndef ZC_TRANSPORT_SHM_H
#define ZC_TRANSPORT_SHM_H

#include <stdint.h>

#include "alloc/segment.h"
#include "core/lock.h"
#include "transport/ids.h"
#include "transport/peers.h"
#include "transport/shm_ring.h"

#define SHM_PROTOCOL "zc shm 7" /* to be changed with what is on boards and sockets */

enum {
    SHM_RANKS_MOST = 256,
    SHM_NAME_MOST = 48,
    SHM_WAIT_SECONDS = 60,    /* for the others */
    SHM_SEGMENTS_MOST = 4096, /* that a rank shows at a time */
    SHM_PATIENCE_LEAST = 64,  /* polls before one that waits sleeps: fewer where that was in vain */
    SHM_PATIENCE_MOST = 4096,
    SHM_PATIENCE_CROWDED = 16, /* where there are more ranks than processors; then */
    SHM_YIELDS = 16            /* more of them, between which others may run */
};

#define NO_SEGMENT UINT32_MAX

/* ---- segments ---- */

/* A segment that a peer shows, mapped here. Lives as long as the link shows it or a message refers to it, and counts
 * against what the peer may show for so long. The link, lost or not, outlives it, as it does messages. */
struct mapping {
    struct link *link;
    const char *at;
    size_t length, slot_size, stride;
    uint32_t generation;
    int fd;          /* to show it on */
    uint32_t users;  /* the link, messages */
    uint32_t number; /* by which it is shown on, or NO_SEGMENT */
};

/* A segment that this rank shows: one of its own, or one that it passes on. */
struct show {
    const struct segment *segment;
    struct mapping *mapping;
    uint32_t generation; /* a number is used again with another one */
};

/* ---- messages that have arrived, and what became of them ---- */

enum step {
    STEP_UNMATCHED,
    STEP_LAND,  /* met its receive: is being copied, or to be */
    STEP_LENT,  /* as a view */
    STEP_PULL,  /* is to be pulled, */
    STEP_PARTS, /* or is being pulled */
    STEP_LEFT,  /* as a view, and the sender is to be told that nobody will say when that ends */
    STEP_DONE   /* the sender is to be told */
};

struct message {
    struct match match;
    struct message *next; /* of those to land, or of its link's answers */
    struct link *link;
    enum step step;
    bool offered;
    const char *bytes; /* NULL: to be pulled */
    char *own;         /* where they are, if they came whole and are not tiny */
    char tiny[RING_TINY];
    struct mapping *mapping; /* where they are, if offered */
    uint32_t id, reply;
    struct op *receive;
    size_t kept, landed;
    int error;
};

/* ---- links ---- */

struct link {
    struct shm *shm;
    int rank; /* of the peer; -1: not known yet */
    int process;
    int sock;
    int board;       /* to be handed over with the hello; -1: it was */
    int answers_on;  /* where the peer's packets come: sock, but for the link of a rank to itself */
    bool greeted;    /* the peer has said who it is, and its board is mapped */
    bool ended;      /* nothing comes on the socket any more */
    int broken;      /* to be lost with this error as soon as nobody is at its lists, */
    int error;       /* or lost with it, */
    const char *why; /* because; NULL: it has closed its communicator */
    struct ring ring;
    struct cell placing; /* between link_place and link_placed */
    uint32_t woken;      /* the number of the sleep from which this rank has woken it */
    unsigned owed;       /* times that it was not woken from its nap */
    uint32_t views;      /* that it had when this rank was about to sleep last */
    uint64_t shown[SHM_SEGMENTS_MOST / 64];
    struct mapping **mappings;              /* by number, that it shows now */
    unsigned mapped;                        /* those included that only messages refer to; */
    size_t mapped_bytes;                    /* of all of them */
    struct ids offers;                      /* struct op: told to the peer */
    struct ids pulls;                       /* struct message */
    struct op_queue sends;                  /* that wait for room: in order, but for pulled ones */
    struct message *answers, **answers_end; /* to offers, that wait for room */
    unsigned messages;                      /* that refer to it */
    struct link *next;                      /* of all; of lost ones, those that are the last of their rank */
};

struct shm {
    struct peers common; /* first */
    char name[SHM_NAME_MOST + 1];
    int directory, listener, epoll, bell;
    bool again;           /* some ranks were not met, for want of room or turned away: tried until all are */
    bool unaccepted;      /* somebody who has connected */
    const char *unlinked; /* why the last process that came, and was not linked with, was not */
    int outer, chime;     /* of zc_fd: an epoll of `epoll` and of this */
    struct link **peers;  /* by rank: the last one; NULL before it has come */
    struct link *links;
    struct link *retired;  /* lost, and others are there in their places; to be freed */
    struct link elsewhere; /* stands for ranks that take no part: lost from the beginning */
    struct message *free_messages;
    struct registrar registrar;
    struct ids shows;
    uint32_t *show_of;          /* by granule: 1 + number; 0: not shown */
    unsigned looks;             /* polls, and receives that took at once what was there */
    unsigned polls;             /* that found nothing, since one did */
    _Atomic unsigned patience;  /* polls of one that waits, before it sleeps: changes under the lock, and is */
    unsigned patience_most;     /* read without it; at most so many */
    bool crowded;               /* more ranks than processors: others may run, then it naps before it sleeps */
    _Atomic bool watched;       /* zc_fd was handed out: always asleep */
    bool chimed;                /* there, since zc_progress */
    _Atomic unsigned watchers;  /* threads that sleep at other endpoints, and are to be woken for this one */
    _Atomic bool sleeping;      /* a thread sleeps in epoll, */
    _Atomic uint32_t followers; /* and these wait for what it finds */
    bool rung;                  /* the bell, for those two: the last of them that wakes takes that back */
    uint32_t sleeps;            /* the number of the last */
    _Atomic bool owes;          /* to some link */
    _Atomic uint32_t events;    /* futex: what has happened that a thread may sleep for */
    bool happened;              /* something has, and threads that sleep are to be told when the lock is dropped */
    struct message *landing, **landing_end; /* messages to be copied then */
    struct shm *next;                       /* of the process, for its children */
};

/* ---- shm_open.c ---- */

/* Who is to meet, and by what name. */
struct shm_group {
    char name[SHM_NAME_MOST + 1];
    int rank, size;
    const bool *with; /* by rank: takes part; NULL: all do */
};

/* As the transport's check and open. */
int shm_check(const struct address *address);
int shm_open_endpoint(const struct address *address, void *native, struct endpoint *endpoint);
int shm_open_group(const struct shm_group *group, uint64_t timeout_ns, struct endpoint *endpoint);

/* Parts from the others as far as it was opened, and frees it. */
void shm_free(struct shm *shm);

/* ---- shm.c ---- */

void shm_lock(struct shm *shm);

/* Drops the lock, copies what is to land, and ends the operations that are over. */
void shm_unlock(struct shm *shm);

/* The operation is over, a receive as its status says. Its memory is not touched any more. */
void shm_over(struct shm *shm, struct op *op, int error);

/* ---- all of the following under the lock ---- */

/* The receive has met the message: delivers it or starts to. */
void shm_pair(struct shm *shm, struct op *receive, struct message *message);

struct message *shm_new_message(struct shm *shm, struct link *link);
void shm_free_message(struct message *message);

/* Adds to how many of the messages that the peer has in flight are views here, as it is told. Before it is told that
 * one is done, so that it never takes another one for it. */
void shm_count_view(const struct message *message, uint32_t change);

/* ---- shm_copy.c ---- */

void shm_copy(char *to, const char *from, size_t length);

/* ---- shm_link.c ---- */

/* Takes cells of the peer. True if there were any. */
bool link_take(struct link *link);

/* Takes cells of the peer, too, up to a message of the tag, and receives that. As the transport's receive_now. */
int link_receive(struct link *link, void *wire, size_t cap, int tag, zc_status *status);

/* Puts as much as there is room for of all that waits for the peer, and wakes it. */
void link_push(struct link *link);

/* Starts to send. As the transport's send. */
int link_send(struct link *link, struct op *op);

/* As the transport's place and placed. */
char *link_place(struct link *link, size_t length, int tag);
void link_placed(struct link *link);

/* Puts an answer where link_push finds it. */
void link_answer(struct link *link, struct message *message, enum step step);

/* ---- shm_lose.c ---- */

/* Others may look at its bytes, and nobody will say when they have done: op_abandon. Who has sent a message that it
 * passes on is told. */
void shm_abandon(struct op *op, int error);

/* This rank closes, and the peer still looks at messages: they stay as they are. */
void link_abandon(struct link *link);

/* The peer failed with `error`, or left in good order (`why` NULL): ends all that is in flight with it. Not for a
 * function that is at its lists. */
void link_lose(struct link *link, int error, const char *why);

/* It is to be lost. */
void link_break(struct link *link, int error, const char *why);

/* ---- shm_directory.c: where ranks meet ---- */

/* Opens $XDG_RUNTIME_DIR/zc or /tmp/zc-UID, which nobody else may enter. 0 or an error. */
int directory_open(int *out);

/* The pid namespace of this process, a number; 0: not known. */
uint64_t pid_namespace(void);

/* Listens as the rank, and connects to all that listen already: each socket is given to `met`. 0; -EEXIST; -ETIMEDOUT:
 * another process keeps the lock; or another error of the file system. */
int directory_enter(struct shm *shm, uint64_t timeout_ns, int (*met)(struct shm *shm, int rank, int sock));

/* The lock under which that is done. Who has it may be stopped: false, if it did not come free meanwhile.
 * PLACE_LOCK_NS: enough if nobody is. */
enum { PLACE_LOCK_NS = 500000000 };
bool place_lock(const struct shm *shm, uint64_t timeout_ns);
void place_unlock(const struct shm *shm);

/* A socket that is connected to the rank, or -1: it is not there (what it has left behind is removed), with *error 0;
 * it is, with -EAGAIN, but has yet to accept too many others; or another error. With the lock. */
int place_connect(const struct shm *shm, int rank, int *error);

/* Removes this rank's socket; or that of a rank whose process has ended. */
void directory_leave(struct shm *shm);
void directory_sweep(struct shm *shm, int rank, int process);

/* ---- shm_meet.c: how they do ---- */

/* Takes the rank, and waits until all others are there. On failure shm_part undoes what was done. */
int shm_meet(struct shm *shm, uint64_t timeout_ns);
void shm_part(struct shm *shm);

/* Deals with what sockets tell. True if there was anything. */
bool shm_attend(struct shm *shm);

/* The same for one link, as far as a cell may refer to it: all that is on the socket by now. */
void link_hear(struct link *link);

/* ---- shm_packet.c ---- */

enum packet_kind { PACKET_HELLO, PACKET_WAKE, PACKET_SHOW, PACKET_FORGET };

/* On a socket, perhaps with a descriptor. */
struct packet {
    uint32_t kind;
    uint32_t page_bytes; /* hello */
    int32_t rank, size;
    char protocol[16];
    uint64_t pids;               /* hello: pid_namespace */
    uint32_t number, generation; /* show, forget */
    uint64_t length, slot_size, stride;
};

/* 0 or -errno; -EAGAIN: no room. `fd` -1: none. */
int packet_send(int sock, const struct packet *packet, int fd);

/* 1 and *fd, perhaps -1; 0: nothing there; -ECONNRESET: the end; -EPROTO: something else. */
int packet_receive(int sock, struct packet *packet, int *fd);

/* How many are there to receive. */
int packets_there(int sock);

/* ---- shm_segments.c ---- */

int segments_open(struct shm *shm);
void segments_close(struct shm *shm);

/* Says in the cell where `wire` is in a segment that the peer is shown, if it is in one and that can be. */
void segments_locate(struct link *link, const char *wire, struct cell *cell);

/* The same for bytes of a peer's segment. */
void segments_locate_on(struct link *link, struct mapping *mapping, const char *bytes, struct cell *cell);

/* The peer shows a segment, or a board, or forgets a segment. `fd` is taken over. 0 or -EPROTO. */
int segments_shown(struct link *link, const struct packet *packet, int fd);
int segments_forgotten(struct link *link, const struct packet *packet);
void segments_drop(struct link *link); /* all of them */

/* Where offered bytes are. False if the cell cannot be true. *mapping is NULL where they are to be pulled, else it is
 * used once more. */
bool segments_find(struct link *link, const struct cell *cell, struct mapping **mapping, const char **bytes);
void mapping_put(struct mapping *mapping);

/* A board of this process, with a descriptor for the peer; and the peer's. NULL, with errno and a message. */
struct board *board_create(int *fd);
const struct board *board_map(int fd);
void board_unmap(const struct board *board);

/* ---- shm_sleep.c ---- */

/* At a struct shm. */
extern const struct sleeping shm_sleeping;

/* The descriptor to wait on, or -errno. From now on peers wake this rank, whatever it does. */
int shm_fd(struct endpoint *endpoint);
void shm_rearm(struct endpoint *endpoint);

static inline unsigned shm_patience(const struct shm *shm)
{
    return atomic_load_explicit(&shm->patience, memory_order_relaxed);
}

static inline void shm_set_patience(struct shm *shm, unsigned polls)
{
    atomic_store_explicit(&shm->patience, polls, memory_order_relaxed);
}

/* Something has happened that threads may be sleeping for. Without the lock. */
void shm_happened(struct shm *shm);

/* Wakes the peer if it is asleep; or only if it waits for room, too. From a nap not at once: shm_wake_owed does it. */
void link_wake(struct link *link);
void link_wake_for_room(struct link *link);
void shm_wake_owed(struct shm *shm);

/* The same without the lock. */
void shm_settle(struct shm *shm);

#endif
