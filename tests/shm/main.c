/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

enum { LIMIT_SECONDS = 60 };

struct shm_case {
    const char *name;
    void (*run)(void);
};

#define ENTRY(name) {#name, case_##name},
static const struct shm_case cases[] = {CASES(ENTRY)};

static atomic_int *told;

const char *address_of(int rank, int size)
{
    static _Thread_local char address[96];

    snprintf(address, sizeof address, "shm:case%d?rank=%d&size=%d&wait=20", ranks_process, rank, size);
    return address;
}

zc_comm *open_rank(int rank, int size)
{
    zc_comm *comm = NULL;

    CHECK_OK(zc_open(address_of(rank, size), NULL, &comm));
    return comm;
}

void tell(int n)
{
    atomic_store(told, n);
}

void await(int n)
{
    while (atomic_load(told) < n)
        usleep(1000);
}

int files_left(void)
{
    char path[64];
    int n = 0;

    snprintf(path, sizeof path, "%s/zc", getenv("XDG_RUNTIME_DIR"));
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        n += entry->d_name[0] != '.';
    if (directory)
        closedir(directory);
    return n;
}

/* With a run-time directory of its own. */
static void run(const struct shm_case *which)
{
    char run_directory[] = "/tmp/zc-shm-test-XXXXXX", path[64];
    int status;

    CHECK(mkdtemp(run_directory));
    setenv("XDG_RUNTIME_DIR", run_directory, 1);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        setpgid(0, 0);
        check_scene = which->name;
        alarm(LIMIT_SECONDS);
        ranks_transport = "shm";
        ranks_process = (int)getpid();
        told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(told != MAP_FAILED);
        which->run();
        CHECKF(files_left() == 0, "%d files are left", files_left());
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    kill(-child, SIGKILL); /* ranks that wait for one that failed, for ever */
    snprintf(path, sizeof path, "%s/zc", run_directory);
    rmdir(path);
    rmdir(run_directory);
    CHECKF(status == 0, "%s ended with status %#x", which->name, (unsigned)status);
}

int main(int argc, char *argv[])
{
    unsigned ran = 0;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool wanted = argc == 1;

        for (int a = 1; a < argc; a++)
            wanted |= strcmp(argv[a], cases[i].name) == 0;
        if (!wanted)
            continue;
        printf("shm: %s\n", cases[i].name);
        fflush(stdout);
        run(&cases[i]);
        ran++;
    }
    CHECKF(ran > 0, "there is no such case");
    printf("%u passed, 0 failed\n", ran);
    return 0;
}
