/* SPDX-License-Identifier: MIT
 *
 * A program of MPI's session model alone: its calls are MPI's. */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pattern.h"
#include "zc.h"

enum { SIZE = 1000000, ROUNDS = 3, TAG = 7 };

int main(void)
{
    MPI_Session session;
    MPI_Group group;
    MPI_Comm comm;
    MPI_Request request;
    int rank, size;
    void *room = malloc(4 * SIZE);
    MPI_Session_init(MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &session);
    MPI_Group_from_session_pset(session, "mpi://WORLD", &group);
    MPI_Comm_create_from_group(group, "zc", MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &comm);
    MPI_Comm_rank(comm, &rank);
    MPI_Buffer_attach(room, 4 * SIZE);
    char *out = zc_alloc(SIZE), *in = zc_alloc(SIZE);
    CHECK(out && in);
    for (unsigned round = 0; round < ROUNDS; round++) {
        MPI_Request null[2];
        pattern_fill(out, SIZE, round);
        MPI_Ibsend(out, SIZE, MPI_BYTE, 1 - rank, TAG, comm, &request);
        MPI_Recv(in, SIZE, MPI_BYTE, 1 - rank, TAG, comm, MPI_STATUS_IGNORE);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        CHECK_PATTERN(in, SIZE, round);

        MPI_Irecv(in, SIZE, MPI_BYTE, 1 - rank, TAG, comm, &request);
        MPI_Bsend(out, SIZE, MPI_BYTE, 1 - rank, TAG, comm);
        memset(out, 0, SIZE);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        CHECK_PATTERN(in, SIZE, round);

        for (int i = 0; i < 2; i++) /* which are over at once, with one handle */
            MPI_Isend(i == 0 ? out : in, SIZE, MPI_BYTE, MPI_PROC_NULL, TAG, comm, &null[i]);
        for (int i = 0; i < 2; i++)
            MPI_Wait(&null[i], MPI_STATUS_IGNORE);
    }
    MPI_Bsend(out, SIZE, MPI_BYTE, 1 - rank, TAG, comm);
    MPI_Recv(in, SIZE, MPI_BYTE, 1 - rank, TAG, comm, MPI_STATUS_IGNORE);
    MPI_Buffer_detach(&room, &size);
    free(room);
    zc_free(out);
    zc_free(in);
    MPI_Group_free(&group);
    MPI_Comm_free(&comm);
    MPI_Session_finalize(&session);
    return 0;
}
