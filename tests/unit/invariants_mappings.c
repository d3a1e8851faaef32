/* SPDX-License-Identifier: MIT
 *
 * The two mappings of a segment (docs/design.md): seals, fork and core dumps, before and after renames. */
#include <sys/wait.h>

#include "invariants.h"

/* The VmFlags of the mapping at `p` have `flag`. */
static bool has_flag(const void *p, const char *flag)
{
    char line[512];
    bool inside = false, has = false;
    FILE *file = fopen("/proc/self/smaps", "re");
    CHECK(file);
    while (fgets(line, sizeof line, file)) {
        char *end;
        uintptr_t from = strtoull(line, &end, 16);
        if (end > line && *end == '-')
            inside = from <= (uintptr_t)p && (uintptr_t)p < strtoull(end + 1, NULL, 16);
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            has = strstr(line, flag) != NULL;
    }
    fclose(file);
    return has;
}

/* Neither mapping is inherited ("dc"); core dumps have the pages once ("dd" on the wire mapping only). */
static void check_flags(const char *p)
{
    const char *wire = backing_wire(backing_of(p));
    CHECK(has_flag(p, " dc") && has_flag(wire, " dc"));
    CHECK(!has_flag(p, " dd") && has_flag(wire, " dd"));
}

Test(mappings, flags_of_both)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1);
    check_flags(b);
    for (unsigned i = 0; i < 4; i++) {
        CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
        store(b, 1);
        CHECK(backing_of(b) != slot_home(slot_at(b)) || i);
        check_flags(b);
        char in[2 * PAGE];
        CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
        check_flags(b);
    }
    CHECK_OK(zc_close(comm));
}

/* Trimming gives a slot that shows pages of a segment that goes others, mapped anew from the wire mapping. */
Test(mappings, flags_after_a_trim)
{
    zc_comm *comm = loop_strict();
    zc_pool *pool = pool_of_pages(256); /* two slots a segment */
    char *a[2] = {slot_in(pool), slot_in(pool)};
    struct segment *first = slot_segment(slot_at(a[0]));
    CHECK(slot_segment(slot_at(a[1])) == first);
    char in[PAGE];
    CHECK_OK(zc_send(a[0], PAGE, 0, 1, comm));
    store(a[0], 1); /* shows a page of the second segment now */
    CHECK_OK(zc_recv(in, sizeof in, 0, 1, comm, NULL));
    CHECK(backing_wire(backing_of(a[0])) - arena_wire_of(first->user) >= (long)first->length ||
          backing_wire(backing_of(a[0])) < arena_wire_of(first->user));
    CHECK_OK(zc_free(a[0]));
    size_t released;
    CHECK_OK(zc_pool_trim(pool, &released));
    CHECK(released > 0);
    a[0] = slot_in(pool);
    CHECK(slot_segment(slot_at(a[0])) == first);
    check_flags(a[0]);
    store(a[0], 3);
    CHECK(load(backing_wire(backing_of(a[0]))) == 3);
    CHECK_REST(pool);
    CHECK_OK(zc_close(comm));
}

Test(mappings, a_segment_is_sealed)
{
    char *b = buffer(2, 1);
    struct segment *segment = slot_segment(slot_at(b));
    int seals = fcntl(segment->fd, F_GET_SEALS);
    CHECK((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) == (F_SEAL_SHRINK | F_SEAL_GROW));
    CHECK(ftruncate(segment->fd, 0) == -1 && errno == EPERM);
    CHECK(ftruncate(segment->fd, (off_t)segment->length * 2) == -1 && errno == EPERM);
}

/* In a child both ranges are taken, so that no later mapping lands there unseen. */
Test(mappings, a_child_has_neither)
{
    zc_comm *comm = loop_strict();
    char *b = buffer(2, 1), *wire = backing_wire(backing_of(b));
    CHECK_OK(zc_send(b, 2 * PAGE, 0, 1, comm));
    pid_t child = fork();
    if (child == 0) {
        CHECK_PAGES(b, "--");
        CHECK_PAGES(wire, "--");
        CHECK(!kernel_reads(b) && !kernel_reads(wire));
        CHECK_OK(zc_free(b));
        CHECK(!zc_alloc(1) && errno == EPERM);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    store(b, 1);
    CHECK_MESSAGE(comm, 1, 0, 2 * PAGE, 1);
    CHECK_OK(zc_close(comm));
}
