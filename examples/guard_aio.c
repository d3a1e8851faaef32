/* SPDX-License-Identifier: MIT
 *
 * A buffer handed to POSIX AIO: written to a file and read back, while the program overwrites or reads it at once.
 *
 * What to look at is main(): guard, give the wire address to the operation, go on, and unguard when it is over. */
#include <aio.h>

#include "guard.h"

/* Ends a guard when its operation is over. Another thread does it where the program itself may be waiting. */
static void over(union sigval value)
{
    zc_unguard(value.sival_ptr);
}

static void await(struct aiocb *operation)
{
    const struct aiocb *const list[] = {operation};
    while (aio_error(operation) == EINPROGRESS)
        aio_suspend(list, 1, NULL);
    must(aio_return(operation) == (ssize_t)LENGTH, "the transfer");
}

int main(void)
{
    FILE *file = tmpfile();
    char *out = zc_alloc(LENGTH), *in = zc_alloc(LENGTH);
    struct zc_guard guard;
    must(file && out && in, "setting up");
    struct aiocb operation = {.aio_fildes = fileno(file), .aio_nbytes = LENGTH};

    /* The operation reads the buffer: an early store gets fresh pages. */
    memset(out, 'a', LENGTH);
    must(zc_guard(out, LENGTH, ZC_DENY_STORES, &guard) == 0, "zc_guard");
    operation.aio_buf = guard.wire;
    must(aio_write(&operation) == 0, "aio_write");
    memset(out, 'b', LENGTH);
    await(&operation);
    must(zc_unguard(&guard) == 0, "zc_unguard");

    /* The operation stores to the buffer: an early touch waits for zc_unguard(). */
    memset(in, 'c', LENGTH);
    must(zc_guard(in, LENGTH, ZC_DENY_ALL, &guard) == 0, "zc_guard");
    operation.aio_buf = guard.wire;
    operation.aio_sigevent =
        (struct sigevent){.sigev_notify = SIGEV_THREAD, .sigev_notify_function = over, .sigev_value.sival_ptr = &guard};
    must(aio_read(&operation) == 0, "aio_read");
    must(all(in, 'a'), "reading back what was written"); /* waits at the first byte */
    must(all(out, 'b'), "keeping what was stored meanwhile");
    await(&operation);

    printf("guard_aio: %zu bytes written and read back, both buffers touched at once\n", LENGTH);
    zc_free(out);
    zc_free(in);
    fclose(file);
    return 0;
}
