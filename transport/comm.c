/* SPDX-License-Identifier: MIT */
#include "transport/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/heap.h"
#include "core/clock.h"
#include "core/options.h"
#include "core/sized.h"
#include "core/stats.h"
#include "protect/conflict.h"
#include "protect/fault.h"
#include "protect/open.h"
#include "transport/view.h"

static const struct transport *const transports[] = {
    &auto_transport,  &loop_transport, &mpi_transport, &shm_transport,
#if ZC_WITH_VERBS
    &verbs_transport,
#endif
};

/* ---- what holds say of their communicator ---- */

static void describe(const struct hold *hold, struct text *text)
{
    const struct op *op = (const struct op *)hold;
    text_add(text, op->sends ? "is being sent to rank " : "is being received into from rank ");
    if (op->peer == ZC_ANY_SOURCE)
        text_add(text, "any");
    else
        text_add_number(text, (uint64_t)op->peer);
    text_add(text, ", tag ");
    if (op->tag == ZC_ANY_TAG)
        text_add(text, "any");
    else
        text_add_number(text, (uint64_t)op->tag);
    text_add(text, ", ");
    text_add_number(text, hold->length);
    text_add(text, " bytes from byte ");
    text_add_number(text, hold->offset);
}

static void touched(const struct hold_rules *rules, int error, const char *message)
{
    struct zc_comm *comm = (struct zc_comm *)(uintptr_t)rules; /* its first member */
    if (comm->handler) {
        comm->handler(comm, error, message, comm->handler_arg);
        return;
    }
    struct text text = {0};
    text_add(&text, "zc: ");
    text_add(&text, message);
    text_add(&text, " (errno ");
    text_add_number(&text, (uint64_t)-error);
    text_add(&text, ")\n");
    text_print(&text);
    abort();
}

static void dropped(struct hold *hold)
{
    op_free(op_of(hold));
}

/* ---- checks ---- */

static int not_open(const char *call)
{
    if (arena.forked)
        return fail(-EPERM, "%s: a forked child cannot use its parent's communicator", call);
    return fail(-EBADF, "%s: the communicator is closed", call);
}

int comm_examine(const zc_comm *comm, const char *call)
{
    if (!comm)
        return fail(-EINVAL, "%s: the communicator is NULL", call);
    if (!atomic_load_explicit(&comm->open, memory_order_relaxed))
        return not_open(call);
    if (!comm_callable(comm))
        return fail(-EPERM,
                    "%s: MPI was initialised for one thread, and this is not the one that opened the "
                    "communicator (MPI_THREAD_MULTIPLE allows all)",
                    call);
    return 0;
}

static int check_tag(const zc_comm *comm, const char *call, int tag)
{
    if (!comm_has_tag(comm, tag))
        return fail(-EINVAL, "%s: tag %d, expected 0..%d", call, tag, comm->endpoint.tag_most);
    return 0;
}

int comm_examine_send(const zc_comm *comm, const char *call, int dst, int tag)
{
    int error = comm_check(comm, call);
    if (!error && !comm_has_peer(comm, dst))
        error = fail(-EINVAL, "%s: rank %d, expected 0..%d", call, dst, comm->endpoint.size - 1);
    return error ? error : check_tag(comm, call, tag);
}

int comm_examine_receive(const zc_comm *comm, const char *call, int src, int tag)
{
    int error = comm_check(comm, call);
    if (!error && src != ZC_ANY_SOURCE && !comm_has_peer(comm, src))
        error = fail(-EINVAL, "%s: rank %d, expected 0..%d or ZC_ANY_SOURCE (MPI's constants are others)", call, src,
                     comm->endpoint.size - 1);
    return error || tag == ZC_ANY_TAG ? error : check_tag(comm, call, tag);
}

int comm_check_open(const zc_comm *comm, const char *call)
{
    if (!comm)
        return fail(-EBADF, "%s: the communicator is NULL", call);
    return atomic_load(&comm->open) ? 0 : not_open(call);
}

int zc_rank(const zc_comm *comm)
{
    int error = comm_check_open(comm, "zc_rank");
    return error ? error : comm->endpoint.rank;
}

int zc_size(const zc_comm *comm)
{
    int error = comm_check_open(comm, "zc_size");
    return error ? error : comm->endpoint.size;
}

int zc_set_error_handler(zc_comm *comm, zc_error_handler *handler, void *arg)
{
    int error = comm_check(comm, "zc_set_error_handler");
    if (error)
        return error;
    comm->handler_arg = arg;
    comm->handler = handler;
    return 0;
}

/* ---- how receives end ---- */

struct number {
    char text[16];
};

static struct number number(int value, int any)
{
    struct number number = {"any"};
    if (value != any)
        snprintf(number.text, sizeof number.text, "%d", value);
    return number;
}

int comm_failed(const zc_status *result, const char *call)
{
    return fail(result->error, "%s: the receive from rank %s with tag %s: %s", call,
                number(result->source, ZC_ANY_SOURCE).text, number(result->tag, ZC_ANY_TAG).text,
                zc_strerror(result->error));
}

/* ---- opening ---- */

static int check_option(const char *name, int value, int most)
{
    if (value < 0 || value > most)
        return fail(-EINVAL, "zc_open: options.%s is %d, expected 0..%d (see zc.h)", name, value, most);
    return 0;
}

int comm_prepare(void)
{
    int error = protect_open();
    return error ? error : heap_open(); /* for its variables: they are told of now, not at the first allocation */
}

int comm_options(const zc_options *given, zc_options *options)
{
    zc_options none = ZC_OPTIONS_INIT;
    *options = none;
    int error = given ? sized_take(options, sizeof *options, given, "zc_open", "ZC_OPTIONS_INIT") : 0;
    if (error || (error = check_option("conflict", (int)options->conflict, ZC_CONFLICT_COPY)) ||
        (error = check_option("on_conflict", (int)options->on_conflict, ZC_ON_CONFLICT_ABORT)) ||
        (error = check_option("policy", (int)options->policy, ZC_POLICY_COPY)) ||
        (error = check_option("release", (int)options->release, ZC_RELEASE_LAZY)) ||
        (error = check_option("progress", (int)options->progress, ZC_PROGRESS_THREAD)) ||
        (error = check_option("on_timeout", (int)options->on_timeout, ZC_ON_TIMEOUT_ABORT)))
        return error;
    return 0;
}

/* Options of the call, of the environment where the call leaves it open. */
static int set_options(struct zc_comm *comm, const zc_options *options, bool *poll)
{
    const struct options *defaults;
    int error = options_get(&defaults);
    if (error)
        return error;
    uint64_t timeout_ms = options->fault_timeout_ms ? options->fault_timeout_ms : defaults->fault_timeout_ms;
    comm->rules =
        (struct hold_rules){.conflict = options->conflict ? options->conflict : defaults->conflict,
                            .on_conflict = options->on_conflict ? options->on_conflict : defaults->on_conflict,
                            .on_timeout = options->on_timeout ? options->on_timeout : defaults->on_timeout,
                            .policy = options->policy ? options->policy : defaults->policy,
                            .release = options->release ? options->release : defaults->release,
                            .timeout_ns = timeout_ms * 1000000,
                            .comm = true,
                            .describe = describe,
                            .touched = touched,
                            .dropped = dropped};
    comm->max_in_flight = options->max_in_flight ? options->max_in_flight : (uint32_t)defaults->max_in_flight;
    comm->max_views = options->max_views ? options->max_views : (uint32_t)defaults->max_views;
    *poll = (options->progress ? options->progress : defaults->progress) == ZC_PROGRESS_THREAD;
    return 0;
}

static int open_endpoint(const struct transport *transport, const struct address *address, void *native,
                         struct endpoint *endpoint)
{
    int error = transport->open(address, native, endpoint);
    return error ? address_refused(address->origin, address->whole, "", error) : 0;
}

int comm_open(const struct transport *transport, const struct address *address, void *native, const zc_options *options,
              zc_comm **out)
{
    bool poll = false;
    int error = comm_prepare();
    struct zc_comm *comm = error ? NULL : calloc(1, sizeof *comm);
    if (!comm)
        return error ? error : fail(-ENOMEM, "zc_open: no memory");
    error = set_options(comm, options, &poll);
    if (!error)
        error = open_endpoint(transport, address, native, &comm->endpoint);
    if (error) {
        free(comm);
        return error;
    }
    comm->transport = transport;
    comm->endpoint.ends_with_mpi |= native != NULL;
    comm->owner = pthread_self();
    comm->rules.helper = comm->endpoint.any_thread;
    fault_reinstall(); /* MPI and UCX install handlers of their own */
    atomic_store(&conflict_progress, comm_poll_all);
    if (comm->rules.helper) {
        comm->progressor = (struct progressor){.progress = comm_look, .context = comm, .poll = poll};
        error = helper_attach(&comm->progressor);
    }
    if (error) {
        transport->close(&comm->endpoint);
        free(comm);
        return error;
    }
    comm_enlist(comm);
    *out = comm;
    return 0;
}

int comm_find_transport(const char *scheme, const struct transport **transport)
{
    for (size_t i = 0; i < sizeof transports / sizeof transports[0]; i++)
        if (strcmp(transports[i]->scheme, scheme) == 0) {
            *transport = transports[i];
            return 0;
        }
    if (strcmp(scheme, "verbs") == 0)
        return fail(-ENOTSUP, "zc_open: this libzc was built without the transport \"%s\"", scheme);
    return fail(-EINVAL, "zc_open: there is no transport \"%s\"; known are mpi, loop, shm, verbs and auto", scheme);
}

int zc_open(const char *text, const zc_options *options, zc_comm **comm)
{
    struct address address;
    const struct transport *transport = NULL;
    zc_options own;
    int error = address_parse(text, &address);
    if (!error && !comm)
        error = fail(-EINVAL, "zc_open: comm is NULL");
    if (!error)
        error = comm_find_transport(address.scheme, &transport);
    if (!error && transport == &mpi_transport)
        return comm_open_world(&address, options, comm);
    if (!error)
        error = comm_options(options, &own);
    if (!error && own.transport)
        error = fail(-EINVAL, "zc_open: options.transport is \"%s\", but the address \"%s\" says what to talk over",
                     own.transport, text);
    return error ? error : comm_open(transport, &address, NULL, &own, comm);
}

/* ---- closing ---- */

long comm_sending(zc_comm *comm)
{
    const struct transport *transport = comm->transport;
    long sending = atomic_load_explicit(&comm->sending, memory_order_acquire);
    return sending > 0 && transport->unreceived ? transport->unreceived(&comm->endpoint, &comm->sending) : sending;
}

/* Waits until all sends have left; says so once if that takes longer than a fault may wait. An impatient caller is
 * let go then: false. One that `closes` receives nothing any more: what has come is dropped already now, since its
 * senders, this rank itself perhaps, may be closing as well and wait for that. */
static bool flush(zc_comm *comm, bool patient, bool closes)
{
    bool told = false;
    uint64_t start = clock_ns();
    struct waiting waiting = {.deadline = start + comm->rules.timeout_ns, .looks = closes, .source = ZC_ANY_SOURCE};
    for (long sending; (sending = comm_sending(comm)) > 0; comm_poll_waiting(comm, NULL, &waiting)) {
        if (closes)
            comm_drop_messages(comm);
        if (told || clock_ns() - start < comm->rules.timeout_ns)
            continue;
        fprintf(stderr, "zc: rank %d %s: %ld sends have not been received for %llu ms\n", comm->endpoint.rank,
                patient ? "still waits" : "gives up", sending, (unsigned long long)(comm->rules.timeout_ns / 1000000));
        if (!patient)
            return false;
        told = true;
        waiting.deadline = 0;
    }
    return true;
}

int zc_flush(zc_comm *comm)
{
    int error = comm_check(comm, "zc_flush");
    if (error)
        return error;
    flush(comm, true, false);
    error = atomic_exchange(&comm->send_error, 0);
    return error ? fail(error, "zc_flush: a send failed: %s", zc_strerror(error)) : 0;
}

/* A receive of the list that has not landed, or NULL. */
static struct op *pending_receive(zc_comm *comm)
{
    lock_take(&comm->ops);
    struct op *op = comm->receives;
    while (op && op->hold.landed)
        op = op->next;
    lock_drop(&comm->ops);
    return op;
}

bool comm_busy(zc_comm *comm)
{
    return atomic_load(&comm->sending) > 0 || pending_receive(comm);
}

/* Waits until it is over, but no longer than a fault may wait, since that is up to the programs of others. False: it is
 * not. */
static bool wait_for_others(zc_comm *comm, bool (*over)(zc_comm *comm))
{
    struct waiting waiting = {.deadline = clock_ns() + comm->rules.timeout_ns};
    while (!over(comm)) {
        if (clock_ns() >= waiting.deadline)
            return false;
        comm_poll_waiting(comm, NULL, &waiting);
    }
    return true;
}

/* They have given back what they looked at. */
static bool no_views(zc_comm *comm)
{
    return atomic_load_explicit(&comm->sending, memory_order_acquire) <= 0;
}

static bool parted(zc_comm *comm)
{
    return !comm->transport->parted || comm->transport->parted(&comm->endpoint);
}

static bool close_comm(zc_comm *comm, bool patient)
{
    struct waiting waiting = {0};
    lease_end_all(comm); /* a peer that is closing, too, waits for them */
    if (!flush(comm, patient, true))
        return false;
    if (!wait_for_others(comm, no_views))
        fprintf(stderr, "zc: rank %d closes while others look at %ld of its messages: their pages stay in use\n",
                comm->endpoint.rank, atomic_load(&comm->sending));
    for (struct op *op; (op = pending_receive(comm));) {
        comm->transport->cancel(&comm->endpoint, op);
        comm_poll_waiting(comm, op, &waiting);
    }
    if (!wait_for_others(comm, parted))
        fprintf(stderr,
                "zc: rank %d closes before others have heard all of it: they have taken in nothing for %llu ms\n",
                comm->endpoint.rank, (unsigned long long)(comm->rules.timeout_ns / 1000000));
    if (comm->rules.helper)
        helper_detach(&comm->progressor);
    comm_delist(comm);
    comm->transport->close(&comm->endpoint);
    ops_end(comm);
    return true;
}

int zc_close(zc_comm *comm)
{
    if (!comm)
        return 0;
    int error = comm_check(comm, "zc_close");
    if (error)
        return error;
    close_comm(comm, true);
    error = atomic_exchange(&comm->send_error, 0);
    return error ? fail(error, "zc_close: a send had failed: %s", zc_strerror(error)) : 0;
}

bool comm_close_all_of_mpi(bool patient)
{
    bool closed = true;
    for (struct zc_comm *comm = comm_list(); comm; comm = comm->next)
        if (atomic_load(&comm->open) && comm->endpoint.ends_with_mpi)
            closed &= close_comm(comm, patient);
    return closed;
}
