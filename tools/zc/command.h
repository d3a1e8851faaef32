/* SPDX-License-Identifier: MIT
 *
 * The subcommands of zc(1): one file each, and one row each of the table in zc.c. */
#ifndef ZC_TOOLS_COMMAND_H
#define ZC_TOOLS_COMMAND_H

struct command {
    const char *name;
    const char *arguments;             /* for the usage line */
    const char *summary;               /* one line, for the list of subcommands */
    const char *help;                  /* what --help says besides, of whole lines */
    int (*run)(int argc, char **argv); /* argv[0] is the subcommand's name; returns the exit status */
};

extern const struct command command_info, command_top, command_record, command_tune, command_bench, command_race;

enum {
    STATUS_FAILED = 1, /* it could not be done */
    STATUS_USAGE = 2,  /* usage error */
    STATUS_NOT_RUN = 127
};

/* Say what is wrong on standard error, after the subcommand's name, and return the exit status. */
int failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
int misused(const char *format, ...) __attribute__((format(printf, 1, 2))); /* and point to --help */

/* Parses `--NAME`, `--NAME VALUE` and `--NAME=VALUE` until the first other argument, whose place is returned; -1 with
 * a message if an option is unknown or lacks its value. The list ends with a NULL name. */
struct flag {
    const char *name; /* without the dashes */
    int *set;         /* becomes 1; or NULL, and */
    const char **value;
};
int parse_flags(int argc, char **argv, const struct flag *flags);

/* Runs a program and waits for it, whatever keys are pressed. Its exit status; 128 + n if signal n ended it;
 * -1, with a message, if it could not be run. */
int run_program(char **argv);

/* "4 KiB": whole in the largest unit that loses nothing, else with one decimal. Valid until the fourth next call. */
const char *size_text(unsigned long long bytes);

/* Prints it as a string of JSON; what is not UTF-8 as U+FFFD. */
void print_quoted(const char *text);

#endif
