/* SPDX-License-Identifier: MIT
 *
 * A buffer handed to io_uring: written to a file and read back, while the program overwrites or reads it at once.
 *
 * What to look at is main(): guard, give the wire address to the operation, go on, and unguard when it is over. */
#include <liburing.h>
#include <pthread.h>

#include "guard.h"

/* The thread that takes completions: each ends the guard that it carries. */
static void *complete(void *ring)
{
    for (int i = 0; i < 2; i++) {
        struct io_uring_cqe *completion;
        must(io_uring_wait_cqe(ring, &completion) == 0, "io_uring_wait_cqe");
        must(completion->res == (int)LENGTH, "the transfer");
        must(zc_unguard(io_uring_cqe_get_data(completion)) == 0, "zc_unguard");
        io_uring_cqe_seen(ring, completion);
    }
    return NULL;
}

int main(void)
{
    FILE *file = tmpfile();
    char *out = zc_alloc(LENGTH), *in = zc_alloc(LENGTH);
    struct zc_guard writing, reading;
    struct io_uring ring;
    pthread_t thread;
    must(file && out && in, "setting up");
    int error = io_uring_queue_init(4, &ring, 0);
    if (error) {
        fprintf(stderr, "guard_uring: skipped: no io_uring here: %s\n", strerror(-error));
        return 77;
    }

    /* The operation reads the buffer: an early store gets fresh pages. */
    memset(out, 'a', LENGTH);
    must(zc_guard(out, LENGTH, ZC_DENY_STORES, &writing) == 0, "zc_guard");
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring);
    io_uring_prep_write(entry, fileno(file), writing.wire, LENGTH, 0);
    io_uring_sqe_set_data(entry, &writing);
    io_uring_sqe_set_flags(entry, IOSQE_IO_LINK); /* the file is read after that */

    /* The operation stores to the buffer: an early touch waits for zc_unguard(). */
    memset(in, 'c', LENGTH);
    must(zc_guard(in, LENGTH, ZC_DENY_ALL, &reading) == 0, "zc_guard");
    entry = io_uring_get_sqe(&ring);
    io_uring_prep_read(entry, fileno(file), reading.wire, LENGTH, 0);
    io_uring_sqe_set_data(entry, &reading);

    must(io_uring_submit(&ring) == 2, "io_uring_submit");
    memset(out, 'b', LENGTH);
    must(pthread_create(&thread, NULL, complete, &ring) == 0, "pthread_create");
    must(all(in, 'a'), "reading back what was written"); /* waits at the first byte */
    must(all(out, 'b'), "keeping what was stored meanwhile");
    pthread_join(thread, NULL);

    printf("guard_uring: %zu bytes written and read back, both buffers touched at once\n", LENGTH);
    io_uring_queue_exit(&ring);
    zc_free(out);
    zc_free(in);
    fclose(file);
    return 0;
}
