/* SPDX-License-Identifier: MIT */
#include "system.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

unsigned long long system_number(const char *path, const char *label)
{
    FILE *file = fopen(path, "r");
    unsigned long long number = 0;
    char line[512];

    while (file && fgets(line, sizeof line, file)) {
        const char *found = strstr(line, label);

        if (found) {
            number = strtoull(found + strlen(label), NULL, 10);
            break;
        }
    }
    if (file)
        fclose(file);
    return number;
}

unsigned long long system_lines(const char *path)
{
    FILE *file = fopen(path, "r");
    unsigned long long lines = 0;

    for (int c; file && (c = fgetc(file)) != EOF;)
        lines += c == '\n';
    if (file)
        fclose(file);
    return lines;
}

int system_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int n = 0;

    CHECK(directory);
    while (readdir(directory))
        n++;
    closedir(directory);
    return n;
}

long system_smaps_kb(const void *p, const char *field)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[512];
    bool inside = false;
    long kb = -1;
    while (file && kb < 0 && fgets(line, sizeof line, file)) {
        char *end;
        uintptr_t from = strtoul(line, &end, 16);
        if (*end == '-' && end > line)
            inside = from <= (uintptr_t)p && (uintptr_t)p < strtoul(end + 1, NULL, 16);
        else if (inside && strncmp(line, field, strlen(field)) == 0)
            kb = strtol(line + strlen(field) + 1, NULL, 10);
    }
    if (file)
        fclose(file);
    return kb;
}
