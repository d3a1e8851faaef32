! SPDX-License-Identifier: MIT
!
! shim_f08: a program in Fortran 2008, whose module calls functions that the shim would not see under their names of C.
! Two ranks; rank 0 sends late, so that rank 1 is there before the message.
program f08
    use, intrinsic :: iso_c_binding
    use mpi_f08
    implicit none
    interface
        function zc_alloc(bytes) bind(C)
            import
            integer(c_size_t), value :: bytes
            type(c_ptr) :: zc_alloc
        end function
    end interface
    integer, parameter :: n = 200000, rounds = 5, tag = 7
    integer, pointer :: buf(:), more(:)
    type(MPI_Request) :: requests(2)
    integer :: rank, round, count, done(2)
    logical :: flag

    call MPI_Init()
    call MPI_Comm_rank(MPI_COMM_WORLD, rank)
    call c_f_pointer(zc_alloc(4_c_size_t * n), buf, [n])
    call c_f_pointer(zc_alloc(4_c_size_t * n), more, [n])

    do round = 1, rounds
        if (rank == 0) then
            buf = round
            call late()
            call MPI_Isend(buf, n, MPI_INTEGER, 1, tag, MPI_COMM_WORLD, requests(1))
            buf = 0
            call MPI_Wait(requests(1), MPI_STATUS_IGNORE)
        else
            call MPI_Irecv(buf, n, MPI_INTEGER, 0, tag, MPI_COMM_WORLD, requests(1))
            call MPI_Wait(requests(1), MPI_STATUS_IGNORE)
            call expect(buf, round)
        end if
    end do

    do round = 1, rounds
        if (rank == 0) then
            buf = round
            more = -round
            call late()
            call MPI_Isend(buf, n, MPI_INTEGER, 1, tag, MPI_COMM_WORLD, requests(1))
            call MPI_Isend(more, n, MPI_INTEGER, 1, tag, MPI_COMM_WORLD, requests(2))
        else
            call MPI_Irecv(buf, n, MPI_INTEGER, 0, tag, MPI_COMM_WORLD, requests(1))
            call MPI_Irecv(more, n, MPI_INTEGER, 0, tag, MPI_COMM_WORLD, requests(2))
        end if
        if (mod(round, 2) == 0) then
            call MPI_Waitall(2, requests, MPI_STATUSES_IGNORE)
        else
            call MPI_Waitsome(2, requests, count, done, MPI_STATUSES_IGNORE)
            flag = .false.
            do while (.not. flag)
                call MPI_Testall(2, requests, flag, MPI_STATUSES_IGNORE)
            end do
        end if
        if (rank == 1) then
            call expect(buf, round)
            call expect(more, -round)
        end if
    end do

    if (rank == 0) then
        call MPI_Send_init(buf, n, MPI_INTEGER, 1, tag, MPI_COMM_WORLD, requests(1))
    else
        call MPI_Recv_init(buf, n, MPI_INTEGER, 0, tag, MPI_COMM_WORLD, requests(1))
    end if
    do round = 1, rounds
        if (rank == 0) then
            buf = round
            call late()
        end if
        call MPI_Start(requests(1))
        if (rank == 0) buf = 0
        call MPI_Wait(requests(1), MPI_STATUS_IGNORE)
        if (rank == 1) call expect(buf, round)
    end do
    call MPI_Request_free(requests(1))

    ! What is buffered leaves before the end.
    if (rank == 0) then
        buf = 99
        call MPI_Bsend(buf, n, MPI_INTEGER, 1, tag, MPI_COMM_WORLD)
        buf = 0
    else
        call late()
        call MPI_Recv(buf, n, MPI_INTEGER, 0, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE)
        call expect(buf, 99)
    end if
    call MPI_Finalize()

contains
    subroutine late()
        double precision :: begin
        begin = MPI_Wtime()
        do while (MPI_Wtime() < begin + 0.02d0)
        end do
    end subroutine

    subroutine expect(array, value)
        integer, intent(in) :: array(:), value
        if (all(array == value)) return
        print *, 'shim_f08: element 1 is', array(1), ', not', value, 'in round', round
        call MPI_Abort(MPI_COMM_WORLD, 1)
    end subroutine
end program
