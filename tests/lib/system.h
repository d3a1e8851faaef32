/* SPDX-License-Identifier: MIT */
#ifndef TESTS_SYSTEM_H
#define TESTS_SYSTEM_H

/* The number that follows `label` in one of the kernel's files; 0 if there is none. */
unsigned long long system_number(const char *path, const char *label);

/* How many lines such a file has. */
unsigned long long system_lines(const char *path);

/* Descriptors that this process has open, and a constant. */
int system_descriptors(void);

/* kB that smaps says of the mapping of an address; -1: it says nothing. */
long system_smaps_kb(const void *p, const char *field);

#endif
