/* SPDX-License-Identifier: MIT */
#include <pthread.h>

#include "races.h"

static NOINLINE void *early(void *buf)
{
    static char from[SIZE];
    memcpy(buf, from, SIZE);
    return NULL;
}

static void sender(void)
{
    MPI_Request request;
    pthread_t thread;
    char *buf = calloc(1, SIZE);
    MPI_Isend(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    if (!BUGGY)
        MPI_Wait(&request, IGNORE);
    pthread_create(&thread, NULL, early, buf);
    pthread_join(thread, NULL);
    MPI_Wait(&request, IGNORE);
    free(buf);
}

static void receiver(void)
{
    receive(1);
}
