/* SPDX-License-Identifier: MIT
 *
 * How ranks find each other by TCP, and what comes of it when something else is at the port. */
#include "transport/bootstrap.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "ranks.h"

TestSuite(bootstrap, .timeout = 100);

static const uint64_t LONG = 20000000000, SHORT = 300000000;

/* A port of this machine that nobody listens at, as an address. */
static const char *free_root(void)
{
    static _Thread_local char root[32];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, length) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&at, &length) == 0);
    close(fd);
    snprintf(root, sizeof root, "127.0.0.1:%d", ntohs(at.sin_port));
    return root;
}

static struct sockaddr_in address_of(const char *root)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons((uint16_t)strtol(strrchr(root, ':') + 1, NULL, 10));
    return at;
}

/* Connects to `root`, as soon as somebody listens there. */
static int visit(const char *root)
{
    struct sockaddr_in at = address_of(root);
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0)
            return fd;
        close(fd);
        usleep(1000);
    }
}

/* One that comes to the root, and how it fares. */
struct comer {
    const char *root, *protocol;
    int rank, size;
    uint64_t timeout;
    int rounds;
    int result;
    char message[512];
    _Atomic bool over;
    pthread_t thread;
};

static void exchange(struct bootstrap *b, const struct comer *comer)
{
    uint64_t mine[3], all[3 * 64];
    CHECK(bootstrap_rank(b) == comer->rank && bootstrap_size(b) == comer->size && comer->size <= 64);
    for (int round = 0; round < comer->rounds; round++) {
        for (int i = 0; i < 3; i++)
            mine[i] = (uint64_t)comer->rank * 1000 + (uint64_t)round * 10 + (uint64_t)i;
        CHECK_OK(bootstrap_allgather(b, mine, sizeof mine, all));
        for (int r = 0; r < comer->size; r++)
            for (int i = 0; i < 3; i++)
                CHECK(all[3 * r + i] == (uint64_t)(r * 1000 + round * 10 + i));
    }
    if (comer->rounds) {
        CHECK_IS(bootstrap_agree(b, 0), 0);
        CHECK_IS(bootstrap_agree(b, comer->rank == comer->size - 1 ? -EPERM : 0), -EPERM);
    }
}

static void *come(void *argument)
{
    struct comer *comer = argument;
    struct bootstrap *b = NULL;
    comer->result = bootstrap_open(comer->root, comer->rank, comer->size, comer->protocol ? comer->protocol : "test 1",
                                   comer->timeout ? comer->timeout : LONG, &b);
    CHECKF(comer->result || !*zc_errmsg(), "rank %d: no error, but \"%s\"", comer->rank, zc_errmsg());
    if (comer->result)
        snprintf(comer->message, sizeof comer->message, "%s", zc_errmsg());
    else
        exchange(b, comer);
    bootstrap_close(b);
    comer->over = true;
    return NULL;
}

static void start(struct comer *comer)
{
    comer->thread = thread_start(come, comer);
}

/* Of two that would be the same rank, waits until one is told so; says which. */
static struct comer *refused_first(struct comer *one, struct comer *other)
{
    while (!one->over && !other->over)
        usleep(1000);
    return one->over ? one : other;
}

/* Waits for it; it ends with `result`, and says `text`. */
static void finish(struct comer *comer, int result, const char *text)
{
    thread_join(comer->thread);
    CHECKF(comer->result == result && strstr(comer->message, text), "rank %d: %d, \"%s\"", comer->rank, comer->result,
           comer->message);
}

Test(bootstrap, ranks_exchange_bytes)
{
    for (int size = 1; size <= 9; size += 2) {
        const char *root = free_root();
        struct comer comers[9];
        for (int r = size - 1; r >= 0; r--) {
            comers[r] = (struct comer){.root = root, .rank = r, .size = size, .rounds = 20};
            start(&comers[r]);
        }
        for (int r = 0; r < size; r++)
            finish(&comers[r], 0, "");
    }
}

Test(bootstrap, one_rank_needs_no_root)
{
    struct bootstrap *b;
    char byte = 7, all = 0;
    CHECK_OK(bootstrap_open("", 0, 1, "test 1", LONG, &b));
    CHECK_OK(bootstrap_allgather(b, &byte, 1, &all));
    CHECK(all == 7);
    bootstrap_close(b);
    bootstrap_close(NULL);
}

static _Atomic int to_itself; /* so many connections, */
static _Atomic int connects;  /* of all */

/* As the kernel would: gives the socket the port that it is to be connected to, which is free, for its own. */
// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
int connect(int fd, const struct sockaddr *at, socklen_t length)
{
    static int (*real)(int, const struct sockaddr *, socklen_t);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "connect");
    connects++;
    if (to_itself > 0) {
        to_itself--;
        CHECK(bind(fd, at, length) == 0);
    }
    return real(fd, at, length);
}

/* A socket that waits for its root may be connected to itself; the root is not kept from its port by that. */
Test(bootstrap, a_rank_meets_itself)
{
    const char *root = free_root();
    struct comer one = {.root = root, .rank = 1, .size = 2, .rounds = 1}, zero = one;
    zero.rank = 0;
    to_itself = 2;
    start(&one);
    while (!one.over && connects < 3)
        usleep(1000);
    start(&zero);
    finish(&zero, 0, "");
    finish(&one, 0, "");
}

Test(bootstrap, ill_formed_roots)
{
    static const char *const roots[] = {"",        "localhost",      ":80",          "localhost:",      "localhost:0",
                                        "x:65536", "localhost:12a4", "localhost:-1", "localhost:123456"};
    struct bootstrap *b;
    for (size_t i = 0; i < sizeof roots / sizeof roots[0]; i++)
        CHECK_FAILS(bootstrap_open(roots[i], 0, 2, "test 1", LONG, &b), -EINVAL, "HOST:PORT");
    CHECK_FAILS(bootstrap_open("no.such.host.invalid:80", 1, 2, "test 1", LONG, &b), -EINVAL, "no.such.host.invalid");
}

Test(bootstrap, nobody_comes)
{
    struct bootstrap *b;
    CHECK_FAILS(bootstrap_open(free_root(), 0, 3, "test 1", SHORT, &b), -ETIMEDOUT, "1 of 3 ranks");
    CHECK_FAILS(bootstrap_open(free_root(), 1, 3, "test 1", SHORT, &b), -ETIMEDOUT, "not to be reached");
}

Test(bootstrap, some_do_not_come)
{
    const char *root = free_root();
    struct comer zero = {.root = root, .rank = 0, .size = 4, .timeout = 10 * SHORT};
    struct comer one = {.root = root, .rank = 1, .size = 4}, three = {.root = root, .rank = 3, .size = 4};
    start(&zero), start(&one), start(&three);
    finish(&zero, -ETIMEDOUT, "the first that is missing is 2");
    finish(&one, -ECONNRESET, "hung up");
    finish(&three, -ECONNRESET, "hung up");
}

static void limit_descriptors(rlim_t most)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = most;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

Test(bootstrap, no_descriptors_for_the_ranks)
{
    const char *root = free_root();
    struct comer zero = {.root = root, .rank = 0, .size = 3};
    struct sockaddr_in at = address_of(root);
    int more = socket(AF_INET, SOCK_STREAM, 0);
    start(&zero);
    int first = visit(root);
    limit_descriptors(64);
    while (dup(first) >= 0)
        ;
    CHECK(connect(more, (struct sockaddr *)&at, sizeof at) == 0);
    finish(&zero, -EMFILE, "can take in no more than 1 of 3 ranks: Too many open files (limit: RLIMIT_NOFILE)");
}

Test(bootstrap, fewer_descriptors_than_rank_0_looks_at)
{
    struct bootstrap *b;
    limit_descriptors(16);
    CHECK_FAILS(bootstrap_open(free_root(), 0, 3, "test 1", LONG, &b), -EMFILE, "no more than 1 of 3 ranks: Too many");
}

Test(bootstrap, a_rank_started_twice)
{
    const char *root = free_root();
    struct comer first = {.root = root, .rank = 1, .size = 3}, again = first;
    struct comer zero = {.root = root, .rank = 0, .size = 3}, two = {.root = root, .rank = 2, .size = 3};
    start(&zero), start(&first), start(&again);
    struct comer *refused = refused_first(&first, &again), *taken = refused == &first ? &again : &first;
    start(&two);
    thread_join(first.thread), thread_join(again.thread);
    CHECKF(taken->result == 0, "%s", taken->message);
    CHECKF(refused->result == -EEXIST && strstr(refused->message, "rank 1 is there already"), "%s", refused->message);
    finish(&zero, 0, "");
    finish(&two, 0, "");
}

Test(bootstrap, rank_0_started_twice)
{
    const char *root = free_root();
    struct comer first = {.root = root, .rank = 0, .size = 2}, again = first,
                 one = {.root = root, .rank = 1, .size = 2};
    start(&first), start(&again);
    struct comer *refused = refused_first(&first, &again), *taken = refused == &first ? &again : &first;
    start(&one);
    thread_join(first.thread), thread_join(again.thread);
    CHECK(taken->result == 0);
    CHECKF(refused->result == -EADDRINUSE && strstr(refused->message, "started twice"), "%s", refused->message);
    finish(&one, 0, "");
}

Test(bootstrap, another_size)
{
    const char *root = free_root();
    struct comer zero = {.root = root, .rank = 0, .size = 2}, wrong = {.root = root, .rank = 1, .size = 3};
    start(&zero), start(&wrong);
    finish(&wrong, -EINVAL, "rank 0 says size=2, rank 1 says size=3");
    struct comer right = {.root = root, .rank = 1, .size = 2};
    start(&right);
    finish(&zero, 0, "");
    finish(&right, 0, "");
}

Test(bootstrap, another_version)
{
    const char *root = free_root();
    struct comer zero = {.root = root, .rank = 0, .size = 2, .timeout = 10 * SHORT};
    struct comer wrong = {.root = root, .rank = 1, .size = 2, .protocol = "test 2"};
    start(&zero), start(&wrong);
    finish(&wrong, -EPROTO, "versions differ");
    finish(&zero, -ETIMEDOUT, "refused: rank 0 speaks \"test 1\", rank 1 \"test 2\"");
}

/* Whoever else comes to the port neither joins nor keeps others from joining, be there many and be they slow. */
Test(bootstrap, garbage_at_the_port)
{
    const char *root = free_root();
    struct comer zero = {.root = root, .rank = 0, .size = 3};
    int fds[40];
    char garbage[5000];
    memset(garbage, 'z', sizeof garbage);
    start(&zero);
    for (int i = 0; i < 40; i++) {
        fds[i] = visit(root);
        if (i % 4 == 0) /* says nothing */
            continue;
        ssize_t sent = send(fds[i], i % 4 == 1 ? "GET / HTTP/1.0\r\n\r\n" : garbage, i % 4 == 2 ? 1 : 18, MSG_NOSIGNAL);
        CHECK(sent > 0 || errno == EPIPE || errno == ECONNRESET);
        if (i % 4 == 3)
            send(fds[i], garbage, sizeof garbage, MSG_NOSIGNAL);
    }
    struct comer one = {.root = root, .rank = 1, .size = 3}, two = {.root = root, .rank = 2, .size = 3};
    start(&one), start(&two);
    finish(&zero, 0, "");
    finish(&one, 0, "");
    finish(&two, 0, "");
    for (int i = 0; i < 40; i++)
        close(fds[i]);
}

/* Says which rank it is. */
static void say_hello(int fd, int32_t rank, int32_t size)
{
    struct {
        char magic[8];
        uint32_t order;
        int32_t rank, size;
        char protocol[BOOTSTRAP_PROTOCOL_BYTES];
    } hello = {"zc ranks", 0x01020304, rank, size, "test 1"};
    CHECK(send(fd, &hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello);
}

/* The first comes before all others and speaks last, of the others each when its turn is, or many at a time. */
Test(bootstrap, slow_ranks)
{
    enum { SIZE = 48, ALONE = 24 };
    const char *root = free_root();
    struct comer zero = {.root = root, .rank = 0, .size = SIZE};
    int fds[SIZE];
    start(&zero);
    fds[1] = visit(root);
    for (int r = 2; r < SIZE; r++) {
        fds[r] = visit(root);
        if (r < ALONE) {
            say_hello(fds[r], r, SIZE);
            usleep(1000);
        }
    }
    for (int r = ALONE; r < SIZE; r++)
        say_hello(fds[r], r, SIZE);
    say_hello(fds[1], 1, SIZE);
    for (int r = 1; r < SIZE; r++) {
        char byte;
        CHECKF(recv(fds[r], &byte, 1, 0) == 1, "rank %d was dropped", r);
        close(fds[r]);
    }
    finish(&zero, 0, "");
}

static void interrupted(int signal)
{
    (void)signal;
}

/* Nobody answers the second visitor of a listener that takes one, until it is told that there is none. */
Test(bootstrap, signals_while_connecting)
{
    struct sigaction action = {.sa_handler = interrupted};
    const char *root = free_root();
    struct sockaddr_in at = address_of(root);
    struct comer zero = {.root = root, .rank = 0, .size = 2}, one = {.root = root, .rank = 1, .size = 2};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    CHECK(bind(listener, (struct sockaddr *)&at, sizeof at) == 0 && listen(listener, 0) == 0);
    int visitor = visit(root);
    start(&one);
    for (int i = 0; i < 1500; i++) {
        CHECK(pthread_kill(one.thread, SIGUSR1) == 0);
        usleep(1000);
        if (i == 100)
            close(listener);
    }
    start(&zero);
    finish(&one, 0, "");
    finish(&zero, 0, "");
    close(visitor);
}

static void *serve_garbage(void *argument)
{
    int listener = *(int *)argument, fd = accept(listener, NULL, NULL);
    char garbage[4096];
    memset(garbage, 'z', sizeof garbage);
    send(fd, garbage, sizeof garbage, MSG_NOSIGNAL);
    usleep(200000);
    close(fd);
    return NULL;
}

Test(bootstrap, garbage_in_place_of_rank_0)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&at, length) == 0 && listen(listener, 4) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&at, &length) == 0);
    char root[32];
    snprintf(root, sizeof root, "127.0.0.1:%d", ntohs(at.sin_port));
    pthread_t server = thread_start(serve_garbage, &listener);
    struct bootstrap *b;
    CHECK_FAILS(bootstrap_open(root, 1, 2, "test 1", LONG, &b), -EPROTO, "is not rank 0");
    thread_join(server);
    /* One that listens and never says a word. */
    CHECK_FAILS(bootstrap_open(root, 1, 2, "test 1", SHORT, &b), -ETIMEDOUT, "has not seen all ranks");
    close(listener);
}

/* A rank that goes away in the middle is an error for all, not a hang. */
Test(bootstrap, a_rank_leaves_before_the_exchange)
{
    const char *root = free_root();
    struct comer one = {.root = root, .rank = 1, .size = 3}, two = one;
    struct bootstrap *b;
    char byte = 0, all[3];
    two.rank = 2;
    start(&one), start(&two); /* they come, and exchange nothing */
    CHECK_OK(bootstrap_open(root, 0, 3, "test 1", LONG, &b));
    finish(&one, 0, "");
    finish(&two, 0, "");
    CHECK_FAILS(bootstrap_allgather(b, &byte, 1, all), -ECONNRESET, "rank 1 was lost");
    bootstrap_close(b);
}
