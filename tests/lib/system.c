/* SPDX-License-Identifier: MIT */
#include "system.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
