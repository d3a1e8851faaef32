/* SPDX-License-Identifier: MIT
 *
 * zc: message buffers that are sent and received without copies and without blocking,
 * and that an early write cannot corrupt.
 *
 * THE PROMISE
 *
 * After zc_send() returns, the message *is* what the buffer held. The caller may at once overwrite
 * the buffer, send it again, to other peers too, or free it. After zc_irecv() returns, the first
 * touch of the received bytes waits until they have landed. There is no request to track.
 *
 * Stores ordered before zc_send() are in the message and stores ordered after it are not; stores
 * that race with the call itself are the program's own race. No call and no store waits for a
 * *send* to be received for longer than a copy would have taken, so that a program that runs with
 * copying sends runs with zc.
 *
 * HOW (R. Power, "Using Memory-Protection to Simplify Zero-copy Operations", and docs/design.md)
 *
 * zc_alloc() hands out whole pages of pools. Each page is mapped twice: the application uses the
 * *user mapping*, transports use the *wire mapping* only. While a message is in flight the user
 * mapping is protected; a store that comes too early faults, waits briefly, and then gets fresh
 * pages (a *rename*), while what is in flight keeps the old ones.
 *
 * CONVENTIONS
 *
 * - Functions that return int return 0 or a negative errno value; zc_errmsg() then says, for this
 *   thread, what was done to what and what was expected. Outputs come last and are untouched on
 *   failure, unless said otherwise. Functions that return a pointer return NULL and set errno.
 * - Argument order is that of MPI: buffer, length, peer, tag, communicator. Lengths are bytes.
 * - Every function may be called from any thread at any time, unless said otherwise. None may be
 *   called from a signal handler.
 * - Errors common to all calls, not repeated below. -EINVAL: a buffer that is not live zc memory where that is
 *   required, a range that leaves its buffer or is longer than PTRDIFF_MAX (one of no bytes may be at its buffer's
 *   end), a communicator or a required output that is NULL. -EBADF: a closed communicator. -EPERM: in a forked child;
 *   or MPI was initialised below MPI_THREAD_SERIALIZED and this is not the thread that opened the communicator (also
 *   zc_wait, zc_wait_any and zc_cancel of a receive over it).
 * - A struct of options starts with its own size, so that it can grow: use the ..._INIT macros. One of an older header
 *   is shorter, and the fields that it lacks take their defaults; one of a newer header is longer, and the fields that
 *   this library does not know must be zero (-EINVAL otherwise). A struct of statistics is filled in as far as the size
 *   that the caller sets; counts that this library does not know stay as they were.
 *
 * CAVEATS (docs/caveats.md has them in full)
 *
 * - A *system call* of the application on a buffer that is in flight, or was left protected after
 *   it was re-sent, fails with EFAULT instead of waiting. Call zc_writable() or zc_wait() first.
 * - The same goes for the application's own MPI calls on such a buffer: MPI_Recv into it dies
 *   inside MPI. Use zc calls, or zc_writable() first.
 * - A store to a buffer in flight with SIGSEGV blocked kills the process (sigprocmask(2)).
 * - Do not mprotect, munmap or madvise memory of zc; do not install a SIGSEGV handler that neither
 *   chains to the one before nor leaves it in place.
 * - After fork(2) the child may use nothing of its parent: a touch of a buffer ends it with a
 *   message, zc_free() does nothing, and other calls are -EPERM. exec is fine.
 * - Pages are the unit: bytes that share a page with a receive in flight wait with it.
 * - Below MPI_THREAD_MULTIPLE nobody may call MPI on behalf of a thread that waits in a fault: a
 *   bare touch of a receive in flight is then an error (zc_wait() first), and a conflict with a
 *   send renames at once, whatever ZC_CONFLICT says. For the same reason ZC_PROGRESS=thread is
 *   without effect there.
 */
#ifndef ZC_H
#define ZC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ZC_VERSION_MAJOR 0
#define ZC_VERSION_MINOR 1
#define ZC_VERSION_PATCH 0

#if defined(__GNUC__)
#define ZC_API __attribute__((visibility("default")))
#else
#define ZC_API
#endif

/* ---- allocation: malloc's family, always page-isolated -------------------------------------- */

/* Returns a buffer of at least `size` bytes (size 0 is taken as 1) on pages of its own, aligned to
 * a page, recycled and therefore not zeroed; at most 25 % larger than asked, in whole pages
 * (zc_aligned_alloc and pools with from= in ZC_POOLS may waste more); from 2 MiB on huge pages where
 * the kernel gives them. NULL with errno:
 *   ENOMEM  memory, address space or the pool's cap is exhausted (option `full`)
 *   EINVAL  an ill-formed ZC_... variable; zc_errmsg() names it, as where ZC_TRACE cannot be written
 *   EPERM   in a forked child */
ZC_API void *zc_alloc(size_t size);

/* As zc_alloc(n * size), zeroed. ENOMEM also where the product overflows. */
ZC_API void *zc_calloc(size_t n, size_t size);

/* As zc_alloc(), aligned to `alignment`: a power of two up to 2 MiB (EINVAL otherwise). */
ZC_API void *zc_aligned_alloc(size_t alignment, size_t size);

/* As realloc(3): keeps the buffer where its slot is large enough and not four times too large, or the
 * smallest that zc_alloc has for `size`, else moves it. Where it moves, waits for receives in flight into
 * what is kept of `ptr`, never for sends. `ptr` NULL allocates, size 0 frees and returns NULL with errno 0.
 * On failure `ptr` is as it was. Errors: those of zc_alloc and zc_free (printed only where size is 0), and
 * that of a receive into it that failed. */
ZC_API void *zc_realloc(void *ptr, size_t size);

/* Gives the buffer back; NULL is fine. Never waits: what is in flight stays intact, and the pages
 * return to the pool when the last operation ends. A receive in flight lands unseen.
 *   -EINVAL  not the start of a live zc buffer (interior, foreign, freed twice): nothing is done,
 *            and since few callers look, the message is also printed on stderr */
ZC_API int zc_free(void *ptr);

/* Bytes that may be used at `ptr`, the start of a live zc buffer: all of its slot, or with ZC_DEBUG=on what was asked
 * for. 0 for any other pointer. */
ZC_API size_t zc_usable_size(const void *ptr);

/* 1 if `ptr` lies inside a live buffer of a zc pool (not of a pool's fall-back), else 0. */
ZC_API int zc_owns(const void *ptr);

/* ---- pools of one's own --------------------------------------------------------------------- */

typedef struct zc_pool zc_pool;

#define ZC_UNLIMITED ((size_t)-1)

/* Huge pages. Auto: as ZC_HUGE says, by default for slots of 2 MiB and more. Smaller slots share them. */
enum zc_huge {
    ZC_HUGE_AUTO,
    ZC_HUGE_NEVER,
    ZC_HUGE_ALWAYS,
    ZC_HUGE_HUGETLB, /* pages that the administrator has reserved (vm.nr_hugepages). Slots are rounded up to 2 MiB, and
                        2 MiB are the unit in which bytes wait for a receive in flight beside them. Where no reserved
                        pages are left, segments get ordinary huge ones, counted in zc_pool_stats.hugetlb_missed, and a
                        line on stderr says so once. ZC_DEBUG=on and the malloc preload use ordinary ones. Over shm,
                        messages of such a pool are copied in parts, each of which needs the sender to call zc on the
                        same communicator: one that waits for another communicator holds them up */
    ZC_HUGE_HUGETLB_ONLY /* the same, but then ENOMEM */
};

/* What zc_pool_alloc does at the cap. */
enum zc_full {
    ZC_FULL_DEFAULT,  /* option `full` (ZC_FULL), by default grow */
    ZC_FULL_GROW,     /* goes past the cap; over_cap counts slots had from the pool beyond it, those in threads' caches
                        included */
    ZC_FULL_FALLBACK, /* memory of mimalloc, counted in `fallbacks`. Sends of it are copied and zc_recv accepts it;
                         zc_irecv, zc_wait, zc_test, zc_wait_any, zc_cancel, zc_writable, zc_write to it, zc_guard,
                         zc_pin and zc_unpin refuse it with -EINVAL */
    ZC_FULL_FAIL      /* ENOMEM */
};

/* How the pages of buffers in flight are protected (ZC_PROTECT). */
enum zc_protect {
    ZC_PROTECT_DEFAULT,
    ZC_PROTECT_MPROTECT,   /* page protection and SIGSEGV; the default */
    ZC_PROTECT_USERFAULTFD /* userfaultfd(2), Linux 6.4: a system call on a guarded buffer waits instead of failing, and
                              any number of buffers can be protected; each fault costs two changes of threads */
};

typedef struct zc_pool_options {
    size_t size;      /* sizeof(zc_pool_options) */
    size_t slot_size; /* bytes a slot, 1..; rounded up to whole pages */
    size_t initial;   /* slots made and populated at once */
    size_t cap;       /* most live slots, 1..ZC_UNLIMITED; spares and bounces are not counted */
    enum zc_huge huge;
    enum zc_full full;
    enum zc_protect protect;
} zc_pool_options;

// clang-format off
#define ZC_POOL_OPTIONS_INIT {sizeof(zc_pool_options), 0, 0, ZC_UNLIMITED, ZC_HUGE_AUTO, ZC_FULL_DEFAULT, \
     ZC_PROTECT_DEFAULT}
// clang-format on

typedef struct zc_pool_stats {
    size_t size;      /* in: sizeof(zc_pool_stats) */
    size_t slot_size; /* bytes */
    size_t segments;  /* mapped now */
    size_t slots;     /* populated now, live or not */
    size_t live;      /* with the application */
    size_t peak;      /* most ever live; with several threads, up to what their caches hold too high */
    size_t cap;
    uint64_t allocs, fallbacks, over_cap; /* since the pool was opened */
    size_t cached;         /* free, and kept by threads for themselves: up to 64 slots and 256 KiB each */
    size_t in_flight;      /* slots held by a send (or its copy), by a receive not reported yet, or by a guard */
    size_t idle_protected; /* live, not in flight, and perhaps still protected: the next store to each faults */
    size_t waste;          /* populated, but neither live nor in flight: cached, spare, or waiting to be used */
    uint64_t renamed;      /* conflicts ended by fresh pages, since the pool was opened */
    uint64_t refills;      /* times that a thread's cache was empty */
    size_t hugetlb_missed; /* segments mapped now for which no reserved pages were left */
} zc_pool_stats;

/* Opens a pool, whose buffers are as those of zc_alloc.
 *   -EINVAL   slot_size 0 or larger than zc's address space allows, cap 0, an unknown enum value, initial > cap; an
 *             ill-formed ZC_... variable
 *   -ENOMEM   what `initial` needs
 *   -ENOTSUP  ZC_PROTECT_USERFAULTFD was asked for here and cannot be had, as for hugetlb pages. (If ZC_PROTECT asks
 *             for it, mprotect serves, which is said once on stderr.)
 * Where userfaultfd may catch faults of user mode only, the pool is opened: system calls on a guarded buffer then fail
 * with EFAULT as with mprotect, and zc_errmsg() says so. */
ZC_API int zc_pool_open(const zc_pool_options *options, zc_pool **pool);

/* A slot of the pool, aligned to a page; free it with zc_free(). NULL with errno ENOMEM as `full` says. */
ZC_API void *zc_pool_alloc(zc_pool *pool);

/* Fills *stats up to stats->size, which the caller sets (-EINVAL: it has not). Looks at each slot, so that it is slow
 * for large pools. `zc top` shows the same of another process, and of the pools of zc_alloc. */
ZC_API int zc_pool_stats_get(zc_pool *pool, zc_pool_stats *stats);

/* Gives whole segments, of which nothing is live or in flight, back to the system, after threads' caches were
 * emptied; the number of bytes of address space goes to *released (may be NULL), on failure too. Other threads may go
 * on allocating. -ENOMEM: pages had to be exchanged with another segment first, and mappings have run out for that.
 * Of all calls on a pool: -EINVAL, it is NULL or closed. */
ZC_API int zc_pool_trim(zc_pool *pool, size_t *released);

/* Closes the pool and gives its memory back to the system; NULL is fine. No other thread may be using the pool.
 * -EBUSY: a slot is live or in flight, and the pool stays open; errors of zc_pool_trim. */
ZC_API int zc_pool_close(zc_pool *pool);

/* ---- communicators -------------------------------------------------------------------------- */

typedef struct zc_comm zc_comm;

/* Of receives and probes. MPI's constants are not zc's: MPI_ANY_SOURCE, MPI_PROC_NULL and the like are no ranks here
 * (-EINVAL), and there is no null rank. */
#define ZC_ANY_SOURCE (-31331)
#define ZC_ANY_TAG (-1)

/* In every enum of options, 0 is "as the ZC_... variable says, else the library's default". */

/* What a store that meets a send in flight does (ZC_CONFLICT). */
enum zc_conflict {
    ZC_CONFLICT_DEFAULT,
    ZC_CONFLICT_AUTO, /* wait as long as a rename would take, then rename; the default */
    ZC_CONFLICT_WAIT, /* wait until the send has left: the paper. Can deadlock, as blocking sends can */
    ZC_CONFLICT_COPY  /* rename at once */
};

/* What is said about it (ZC_ON_CONFLICT). */
enum zc_on_conflict {
    ZC_ON_CONFLICT_DEFAULT,
    ZC_ON_CONFLICT_QUIET,  /* the default */
    ZC_ON_CONFLICT_REPORT, /* a line on stderr: who writes where, what is in flight to whom */
    ZC_ON_CONFLICT_ABORT   /* the same, then abort(3) */
};

/* How zc_send keeps its promise (ZC_POLICY). */
enum zc_policy {
    ZC_POLICY_DEFAULT,
    ZC_POLICY_AUTO,    /* by cost, history and the receivers' pace; the default */
    ZC_POLICY_PROTECT, /* protect whenever it is possible */
    ZC_POLICY_COPY     /* never protect */
};

/* What completion does to the protection (ZC_RELEASE). */
enum zc_release {
    ZC_RELEASE_DEFAULT,
    ZC_RELEASE_AUTO,  /* by history; the default */
    ZC_RELEASE_EAGER, /* ends it at once */
    ZC_RELEASE_LAZY   /* leaves it to the next store: re-sending then costs nothing */
};

/* Who makes progress (ZC_PROGRESS). */
enum zc_progress_mode {
    ZC_PROGRESS_DEFAULT,
    ZC_PROGRESS_CALLS, /* zc calls and waiting make progress; the default */
    ZC_PROGRESS_THREAD /* a thread polls as well, every 100 µs; costs processor time */
};

/* What a fault does that has waited for fault_timeout_ms (ZC_ON_TIMEOUT). */
enum zc_on_timeout {
    ZC_ON_TIMEOUT_DEFAULT,
    ZC_ON_TIMEOUT_WAIT, /* say so on stderr, once, and wait on; the default */
    ZC_ON_TIMEOUT_ABORT /* say so and abort(3) */
};

typedef struct zc_options {
    size_t size; /* sizeof(zc_options) */
    enum zc_conflict conflict;
    enum zc_on_conflict on_conflict;
    enum zc_policy policy;
    enum zc_release release;
    enum zc_progress_mode progress;
    enum zc_on_timeout on_timeout;
    uint32_t fault_timeout_ms; /* until a fault, zc_flush or zc_close that waits says so; zc_close waits no longer than
                                  that for others to release views and to listen. 0: ZC_FAULT_TIMEOUT, else 10,000 */
    uint32_t max_in_flight;    /* bound on sends in flight, which each further thread inside zc_send may exceed by one.
                                  At the bound zc_send waits for a completion: "no call waits" no longer holds.
                                  0: ZC_MAX_IN_FLIGHT, else no bound */
    uint32_t max_views;        /* most messages that zc_recv_view lends at a time, so that a program which forgets to
                                  release them cannot keep all memory of its peers. 0: ZC_MAX_VIEWS, else no bound */
    const char *transport;     /* of zc_open_mpi and the address "mpi" (-EINVAL with any other): "mpi", "shm" where its
                                  processes are of one host and user, "auto" (shm between those that are, MPI for
                                  others; see docs/shm.md), or "verbs[:DEVICE][?...]" without rank, size and root.
                                  NULL: ZC_TRANSPORT, else mpi */
} zc_options;

// clang-format off
#define ZC_OPTIONS_INIT {sizeof(zc_options), ZC_CONFLICT_DEFAULT, ZC_ON_CONFLICT_DEFAULT, ZC_POLICY_DEFAULT, \
     ZC_RELEASE_DEFAULT, ZC_PROGRESS_DEFAULT, ZC_ON_TIMEOUT_DEFAULT, 0, 0, 0, NULL}
// clang-format on

/* Opens a communicator; `options` may be NULL. Addresses:
 *   "mpi"                      all of MPI_COMM_WORLD, as zc_open_mpi() would: options->transport and ZC_TRANSPORT say
 *                              what they talk over; initialises MPI (MPI_THREAD_MULTIPLE) if nobody
 *                              has, and then finalises it when the program exits with status 0; sends
 *                              that nobody has received after fault_timeout_ms end the job there, with a
 *                              message. Collective.
 *   "loop"                     this process alone, rank 0 of 1
 *   "loop:NAME?rank=R&size=N"  N ranks inside this process, one a thread; returns when all are there. A rank that has
 *                              closed and opens the name again waits until the others have done so as well
 *   "verbs:DEVICE?rank=R&size=N&root=HOST:PORT"
 *                              N processes over InfiniBand or RoCE; rank 0 listens at HOST:PORT, where the
 *                              others find it. DEVICE may be left out. More parameters: port=P, gid=I and
 *                              mtu=BYTES of the device; wait=SECONDS for the others (60); timeout=MS after which
 *                              a peer that does not answer is lost (10..3,600,000; ZC_PEER_TIMEOUT, else
 *                              4000); unregistered=copy: a pool that the device does not register is sent by
 *                              copy (it cannot grow otherwise). Returns when all are connected
 *   "shm:NAME?rank=R&size=N"   N processes of one user on this host; NAME is 1 to 48 letters, digits, '_', '-'
 *                              or '.'. They meet in $XDG_RUNTIME_DIR/zc, else /tmp/zc-UID. wait=SECONDS for the
 *                              others (60). Returns when all are there. A peer can read every pool that a message to
 *                              it was sent from. A process that is killed can be replaced: by one that opens its rank.
 *                              A rank that has closed and opens the name again waits until the others have done so as
 *                              well
 * For a given MPI communicator see zc_open_mpi() in zc_mpi.h.
 *   -EINVAL   malformed address, options or ZC_... variable; a rank outside 0..size-1
 *   -EEXIST   that rank is taken
 *   -EIO      MPI or the device failed; -EPERM: MPI is already finalised
 *   -ENODEV   verbs: no such device, or none that is up; -ENOTSUP: built without that transport
 *   -ETIMEDOUT, -ECONNRESET, -EADDRINUSE, -EPROTO
 *             verbs: not all ranks came; one left again, or this one came when all were there; the port is taken;
 *             something else answers there
 *   -ETIMEDOUT, -EPROTO, -EPERM
 *             shm: not all ranks came, or a process that is stopped is in their way; one is of another version of zc or
 *             page size; the directory or a peer is another user's, or the peer is in another pid namespace
 *   -ENOMEM   also: what is mapped already cannot be registered
 *   others    what the system refused; zc_errmsg() says what that was for */
ZC_API int zc_open(const char *address, const zc_options *options, zc_comm **comm);

/* Waits until all sends of `comm` have left, cancels its receives and ends it; NULL is fine. Waits up to
 * fault_timeout_ms for others to release views of its messages. Views held longer stay valid, and their pages are not
 * reused. As long it waits for verbs and shm peers to hear what it still has to tell them, such as that their messages
 * were received: sends of a peer that does not listen may fail there with -ECONNRESET. Messages to this rank that
 * nobody has received are dropped, also while it waits, so that all can close at the same time. Collective for mpi, but
 * only MPI_Finalize waits until all ranks have closed it. Buffers stay the application's. Receives that had not landed
 * are reported by zc_wait as -ECANCELED. No other thread may be using `comm`; using it later is -EBADF. Returns the
 * first error of a send that nobody has been told of. */
ZC_API int zc_close(zc_comm *comm);

ZC_API int zc_rank(const zc_comm *comm); /* 0..size-1; -EBADF: closed or NULL */
ZC_API int zc_size(const zc_comm *comm); /* >= 1; -EBADF */

/* ---- messages ------------------------------------------------------------------------------- */

typedef struct zc_status {
    int source;    /* rank of the sender */
    int tag;       /* of the message */
    size_t length; /* bytes received; for a truncated message, bytes known to be kept (mpi: 0) */
    int error;     /* 0 or a negative errno value: what zc_wait returns */
} zc_status;

/* Sends buf[0..len) to rank `dst` with `tag` (0..32767 on every transport; mpi takes up to its
 * MPI_TAG_UB). Any length, 0 and more than 2 GiB included. `buf` may point anywhere into a zc buffer,
 * and the range must lie inside it, or into foreign memory, which is copied. Returns at once, with the
 * promise above; only bytes that are being received are waited for, as a touch of them would.
 *   -EINVAL   dst, tag or range; NULL with len > 0
 *   -ENOMEM   neither protection nor a copy could be had; nothing was sent, nothing is lost
 *   -EIO      the transport failed
 *   -ECONNRESET, -EPROTO
 *             verbs, shm: `dst` is gone, or does not behave as zc. What was in flight with it has failed, what is with
 *             other ranks goes on
 * and the error of a receive into these bytes that failed. */
ZC_API int zc_send(const void *buf, size_t len, int dst, int tag, zc_comm *comm);

/* The same, and gives the buffer up as zc_free() does, so that nothing needs protection. `buf` must be
 * the start of a live zc buffer (-EINVAL). On failure the buffer is still the caller's. */
ZC_API int zc_send_free(void *buf, size_t len, int dst, int tag, zc_comm *comm);

/* Receives the next message from `src` (or ZC_ANY_SOURCE) with `tag` (or ZC_ANY_TAG) into buf[0..cap),
 * zc or foreign memory, and waits for it. Lands through the wire mapping: nothing is protected, and an
 * idle protection stays. `status` may be NULL. Messages of one sender that match are taken in the order
 * they were sent.
 *   -EMSGSIZE  the message is longer than cap: the first cap bytes may be in `buf`, the rest is lost,
 *              other messages are unharmed; *status is filled
 *   -EBUSY     another receive into these bytes is in flight, or a guard with ZC_DENY_ALL holds some of them
 *   -ECANCELED (zc_wait) zc_cancel, or zc_close; verbs, shm: `src` has closed its communicator or, of ZC_ANY_SOURCE,
 *              all other ranks have, if there are any (which transport auto does not see)
 *   -EINVAL    src, tag or range; NULL with cap > 0
 *   -EIO, -ECONNRESET, -EPROTO, -ENOMEM as above */
ZC_API int zc_recv(void *buf, size_t cap, int src, int tag, zc_comm *comm, zc_status *status);

/* The same into a new zc buffer of the message's size, which the caller frees. Errors as zc_recv, but for -EMSGSIZE;
 * -ENOMEM: there is no memory for the message, which is lost. */
ZC_API int zc_recv_alloc(void **buf, int src, int tag, zc_comm *comm, zc_status *status);

/* As zc_recv, but returns at once; the first touch of the pages of buf[0..cap) waits until the message
 * has landed. Several disjoint receives may be in flight into one buffer. A landed receive that nobody
 * has asked about is forgotten when another into its bytes is posted. `buf` must be zc memory, but not the stack that
 * the caller runs on. Errors as zc_recv: those of the message itself are told by zc_wait. A receive that fails is never
 * shown as data: a bare touch calls the error handler, and calls that need its bytes return its error, until that has
 * returned or zc_wait has told of it. One of no bytes at the very end of its buffer cannot be asked about, since no
 * pointer names it, and is forgotten when it has landed; others of no bytes are kept until they are asked about.
 * Thousands of receives into one buffer that are in flight, or that nobody has asked about, make each further one there
 * slower: buffers of their own, or zc_wait, do not. */
ZC_API int zc_irecv(void *buf, size_t cap, int src, int tag, zc_comm *comm);

/* A received message that is read where it is. Plain data, of the communicator that it came over. */
typedef struct zc_view {
    const void *data; /* until zc_release */
    size_t length;    /* bytes */
    zc_status status;
    void *lease; /* zc's own, as is: */
    uint64_t turn;
} zc_view;

/* Receives as zc_recv_alloc, but lends the message instead of giving it away. Over shm, messages of more than 8 KiB are
 * then not copied at all: `data` is the sender's memory, mapped read-only, and for the sender the message is in flight
 * until zc_release: it may store to its buffer (which then gets fresh pages), send it again, or free it; its zc_flush
 * counts it as received, zc_close waits for a while, zc_wait on the buffer until the release. `data` stays valid if the
 * sender, or a rank that forwarded the message, dies. A sender that circumvents zc can change what it has lent: copy
 * what is to be checked first. Once max_views are lent, messages are copied; as they always are over other transports.
 * Errors as zc_recv_alloc; *view is untouched then. */
ZC_API int zc_recv_view(zc_view *view, int src, int tag, zc_comm *comm);

/* Gives it back, and makes *view empty; from any thread; NULL is fine. zc_close gives back what was not.
 * -EINVAL: it is empty, or was released already, be it by way of a copy of *view. */
ZC_API int zc_release(zc_view *view);

/* zc_send of what `view` shows, which may be released at once. Over shm, and where `comm` is the communicator that it
 * came over, without a copy: `dst` is then shown the pool of the first sender. Errors as zc_send and zc_release. */
ZC_API int zc_forward(const zc_view *view, int dst, int tag, zc_comm *comm);

/* A descriptor that is readable when there may be something to do for `comm`, for poll(2), epoll and event loops: then
 * call zc_progress, take what has come (zc_iprobe tells), and poll again. It stays readable until zc_progress is
 * called, even if another thread's call has taken the message in. So one thread should poll it, and only that thread
 * call zc_progress on `comm`. It belongs to `comm`, which closes it. From then on each message to this process, when it
 * is idle, costs its sender a system call.
 *   -ENOTSUP  not over this transport (over shm it is)
 *   -EMFILE, -ENFILE, -ENOMEM  no descriptor is left, or no memory for one */
ZC_API int zc_fd(zc_comm *comm);

/* zc_send, then zc_recv. The buffers may be the same. Errors of both; where an argument is refused nothing is sent. */
ZC_API int zc_sendrecv(const void *sendbuf, size_t sendlen, int dst, int sendtag, void *recvbuf, size_t cap, int src,
                       int recvtag, zc_comm *comm, zc_status *status);

/* ---- completion: the buffer is the handle --------------------------------------------------- */

/* Waits for the oldest unreported receive whose range contains `buf`, reports it, and makes its pages
 * accessible; returns its error. If there is none, waits until no send in flight and no guard needs the page
 * of `buf` and returns 0 with *status zero (source and tag -1): value semantics leave nothing to report for a
 * send; see zc_flush. `status` may be NULL. Errors of the receive: -EMSGSIZE, -ECANCELED (also where another
 * thread cancels it meanwhile), -EIO, -ECONNRESET, -EPROTO, -ENOMEM, as of zc_recv. */
ZC_API int zc_wait(const void *buf, zc_status *status);

/* As zc_wait without waiting: *done is 1 if zc_wait would have returned, and then it is reported (an error of the
 * receive, too); else 0. */
ZC_API int zc_test(const void *buf, int *done, zc_status *status);

/* zc_wait for whichever of the n >= 1 pointers is done first; its place, from 0, goes to *index, also where its receive
 * failed. (One that another thread cancels meanwhile counts as none.) -EINVAL: n, or one of the pointers; nothing is
 * waited for then. */
ZC_API int zc_wait_any(int n, const void *const bufs[], int *index, zc_status *status);

/* Cancels the receive that zc_wait(buf) would name: 0, and the buffer is usable and unchanged, and touches of it by
 * other threads go on; nothing is left to report, but to a zc_wait in which another thread is already;
 * -EALREADY if it has landed (zc_wait tells); -ENOENT if there is none (sends cannot be cancelled). */
ZC_API int zc_cancel(const void *buf);

/* Waits until all sends of `comm` have left this process's buffers (for large messages: until they were
 * received, if only as a view that has not been released yet). Sends that other threads post meanwhile are waited for
 * as well: until there is a moment with nothing in flight. Returns the first error of a send that nobody has been told
 * of. */
ZC_API int zc_flush(zc_comm *comm);

/* Makes progress on `comm`: looks at operations in flight and ends those that are complete. Never waits. (Calls that do
 * make progress on all communicators.) */
ZC_API int zc_progress(zc_comm *comm);

/* Waits for a message that zc_recv(…, src, tag, comm) would take, and describes it; `status` may be NULL.
 * -EINVAL (src, tag), -ECANCELED, -EIO, -ECONNRESET, -EPROTO as of zc_recv. */
ZC_API int zc_probe(int src, int tag, zc_comm *comm, zc_status *status);

/* The same without waiting: *found is 0 or 1, *status is filled in if 1. */
ZC_API int zc_iprobe(int src, int tag, zc_comm *comm, int *found, zc_status *status);

/* ---- access without faults ------------------------------------------------------------------ */

/* Makes the whole buffer that contains `buf` readable and writable, ending conflicts as a store would:
 * waits for receives in flight, and for sends at most as long as a copy takes. Afterwards system calls
 * on it work until it is sent again. Returns the error of a receive into it that failed. */
ZC_API int zc_writable(void *buf);

/* memcpy(dst, src, n) into a zc buffer through the wire mapping: ends conflicts, but neither needs nor
 * ends an idle protection. `src` may be anything readable, a zc buffer in any state included. Waits for receives into
 * either. -EINVAL: dst..dst+n is not inside one zc buffer, src..src+n leaves its own, or src is NULL and n is not 0;
 * and the error of a receive into either that failed. */
ZC_API int zc_write(void *dst, const void *src, size_t n);

/* What a guard keeps from the program: its stores, or its loads as well. */
enum zc_deny { ZC_DENY_STORES = 1, ZC_DENY_ALL = 2 };

/* A hold of the application: the paper's `protect`, for any asynchronous operation (collectives,
 * io_uring, AIO, a copy engine). Plain data; one thread at a time. */
struct zc_guard {
    void *wire;    /* give this address, not the buffer's, to the operation */
    size_t length; /* bytes */
    void *hold;    /* zc's own, as is: */
    uint64_t turn;
};

/* Guards buf[0..len), inside one zc buffer, until zc_unguard: ZC_DENY_STORES (the operation reads;
 * an early store gets fresh pages) or ZC_DENY_ALL (it writes; an early touch waits for zc_unguard). ZC_CONFLICT,
 * ZC_ON_CONFLICT, ZC_FAULT_TIMEOUT and ZC_ON_TIMEOUT hold for both. A guard of no bytes keeps nothing from anybody.
 *   -EINVAL  range, deny; the caller's own stack
 *   -EBUSY   ZC_DENY_STORES: a receive into the buffer is in flight, or failed and was not waited for; or it is pinned.
 *            ZC_DENY_ALL: such a receive or another such guard holds some of these bytes
 *   -ENOMEM  no spare pages or mappings for it */
ZC_API int zc_guard(void *buf, size_t len, enum zc_deny deny, struct zc_guard *guard);

/* Ends it, from any thread, and makes *guard zero; NULL is fine. -EINVAL: it is zero, or was ended already, be it by
 * way of a copy of *guard. */
ZC_API int zc_unguard(struct zc_guard *guard);

/* Keeps the pages under the buffer from being exchanged, for addresses that peers know; sends of it are
 * copied from then on, and what is in flight is ended as by a store. *wire (may be NULL) gets the wire address of
 * `buf`. Until zc_unpin or zc_free, however often it was pinned. */
ZC_API int zc_pin(void *buf, void **wire);

/* -EINVAL: it is not pinned. */
ZC_API int zc_unpin(void *buf);

/* ---- errors, statistics, version ------------------------------------------------------------ */

/* Called where no return code can be given: a touch of a failed receive, an error in a fault. May run in a
 * signal handler, on the thread that touched; `message` is valid during the call. If it returns after a
 * failed receive, the touch goes on and sees undefined bytes. */
typedef void zc_error_handler(zc_comm *comm, int error, const char *message, void *arg);

/* NULL restores the default, which prints the message and calls abort(3). `arg` is handed on. To be set while nothing
 * is being received over `comm`. */
ZC_API int zc_set_error_handler(zc_comm *comm, zc_error_handler *handler, void *arg);

/* Puts zc's SIGSEGV handler back above one that was installed later, to which faults that are not zc's are passed on.
 * Needed where the later handler does not call the one before: stores to buffers in flight would then end the process.
 * zc prints a line on stderr when it notices. -EPERM: in a forked child. */
ZC_API int zc_reinstall(void);

/* Counts since the start of the process. */
typedef struct zc_stats {
    size_t size; /* in: sizeof(zc_stats) */
    uint64_t allocs, frees, fallbacks;
    uint64_t sends;            /* all; the next five sum up to it */
    uint64_t sends_empty;      /* of length 0 */
    uint64_t sends_inline;     /* taken by the transport before zc_send returned: no copy, no protection */
    uint64_t sends_protected;  /* protected by a system call */
    uint64_t sends_free;       /* already protected, given up, or forwarded: no copy, no system call */
    uint64_t sends_copied;     /* through a bounce slot; includes foreign memory */
    uint64_t sends_foreign;    /* memory that is not zc's */
    uint64_t receives;         /* all */
    uint64_t receives_bounced; /* landed elsewhere because a send was in flight */
    uint64_t faults;           /* of ours */
    uint64_t faults_idle;      /* ended an idle protection */
    uint64_t faults_spurious;  /* found nothing to do */
    uint64_t waits;            /* faults, zc_wait, zc_wait_any, and calls that needed bytes in use, that waited for an
                                  operation; not zc_recv, zc_probe and the like, which wait for a message */
    uint64_t conflicts;        /* stores that met a send in flight */
    uint64_t renames;          /* conflicts ended by fresh pages */
    uint64_t protects;         /* protecting system calls */
    uint64_t unprotects;
    uint64_t remaps;        /* other page-table system calls of renames */
    uint64_t segments;      /* mapped so far */
    uint64_t registrations; /* of segments with transports */
    uint64_t unreserved;    /* sends copied because spares or mappings ran out */
    uint64_t views_lent;    /* by zc_recv_view, without a copy */
} zc_stats;

/* Fills *stats up to stats->size, which the caller sets (-EINVAL: it has not). */
ZC_API int zc_stats_get(zc_stats *stats);

/* A short text for a return value of zc, as strerror(3); never NULL. */
ZC_API const char *zc_strerror(int error);

/* What the last failed zc call of this thread did to what; "" if none. Valid until the next one. */
ZC_API const char *zc_errmsg(void);

/* "0.1.0" */
ZC_API const char *zc_version(void);

#ifdef __cplusplus
}
#endif

#endif
