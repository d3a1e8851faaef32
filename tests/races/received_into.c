/* SPDX-License-Identifier: MIT */
/* Another call of MPI writes what is being sent; or every second byte behind it. */
#include "races.h"

static NOINLINE void early(char *buf)
{
    MPI_Recv(buf, SIZE, MPI_BYTE, 1, TAG, COMM, IGNORE);
}

static void receive_strided(char *buf)
{
    MPI_Datatype strided;
    MPI_Type_vector(SIZE / 2, 1, 2, MPI_BYTE, &strided);
    MPI_Type_commit(&strided);
    MPI_Recv(buf, 1, strided, 1, TAG, COMM, IGNORE);
    MPI_Type_free(&strided);
}

static void sender(void)
{
    MPI_Request request;
    char *buf = calloc(2, SIZE), *other = calloc(1, SIZE);
    MPI_Isend(buf, SIZE, MPI_BYTE, 1, TAG, COMM, &request);
    early(BUGGY ? buf : other);
    receive_strided(buf + SIZE);
    MPI_Wait(&request, IGNORE);
    free(other);
    free(buf);
}

static void receiver(void)
{
    char *buf = calloc(1, SIZE);
    MPI_Send(buf, SIZE, MPI_BYTE, 0, TAG, COMM);
    MPI_Send(buf, SIZE / 2, MPI_BYTE, 0, TAG, COMM);
    free(buf);
    receive(1);
}
