/* SPDX-License-Identifier: MIT
 *
 * zc(1): finds the subcommand, and what the subcommands share. */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "tools/zc/command.h"
#include "zc.h"

static const struct command *const commands[] = {
    &command_info, &command_top, &command_record, &command_tune, &command_bench, &command_race,
};

enum { COMMANDS = sizeof commands / sizeof commands[0] };

static const struct command *current;

static void say(const char *format, va_list args)
{
    fflush(stdout);
    fprintf(stderr, "zc%s%s: ", current ? " " : "", current ? current->name : "");
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

int failed(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(format, args);
    va_end(args);
    return STATUS_FAILED;
}

int misused(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(format, args);
    va_end(args);
    fprintf(stderr, "See zc %s%s--help.\n", current ? current->name : "", current ? " " : "");
    return STATUS_USAGE;
}

int parse_flags(int argc, char **argv, const struct flag *flags)
{
    int at = 1;
    for (; at < argc && argv[at][0] == '-' && argv[at][1]; at++) {
        if (strcmp(argv[at], "--") == 0)
            return at + 1;
        const char *name = argv[at] + strspn(argv[at], "-");
        size_t length = strcspn(name, "=");
        const struct flag *flag = flags;
        while (flag->name && (strncmp(flag->name, name, length) != 0 || flag->name[length]))
            flag++;
        if (!flag->name || argv[at][1] != '-' || (flag->set && name[length])) {
            misused("%s: no such option", argv[at]);
            return -1;
        }
        if (flag->set) {
            *flag->set = 1;
        } else if (name[length]) {
            *flag->value = name + length + 1;
        } else if (++at < argc) {
            *flag->value = argv[at];
        } else {
            misused("--%s: expected a value after it", name);
            return -1;
        }
    }
    return at;
}

const char *size_text(unsigned long long bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    static char texts[4][32];
    static unsigned turn;
    char *text = texts[turn++ % 4];
    int unit = 0;
    double value = (double)bytes;
    for (; value >= 1024 && unit < 4; unit++)
        value /= 1024;
    int whole = value == (double)(unsigned long long)value;
    snprintf(text, sizeof texts[0], "%.*f %s", whole ? 0 : 1, value, units[unit]);
    return text;
}

/* Bytes of the character of UTF-8 that the text, which is not empty, begins with; 0 if it does not. */
static size_t character_at(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t length = *at < 0x80 ? 1 : *at < 0xc2 ? 0 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : *at < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if (at[i] >> 6 != 2)
            return 0;
    /* What fewer bytes could say, halves of a pair, and what is past the last. */
    bool excluded = (*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] >= 0xa0) || (*at == 0xf0 && at[1] < 0x90) ||
                    (*at == 0xf4 && at[1] >= 0x90);
    return excluded ? 0 : length;
}

void print_quoted(const char *text)
{
    putchar('"');
    while (*text) {
        size_t length = character_at(text);
        if (length == 0)
            fputs("\\ufffd", stdout);
        else if ((unsigned char)*text < ' ')
            printf("\\u%04x", (unsigned char)*text);
        else
            printf("%s%.*s", *text == '"' || *text == '\\' ? "\\" : "", (int)length, text);
        text += length ? length : 1;
    }
    putchar('"');
}

static int is_help(const char *argument)
{
    return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

static void print_commands(FILE *out)
{
    fputs("usage: zc COMMAND [ARGUMENT...]\n\n", out);
    for (int i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\nzc COMMAND --help says more about each, zc --version which zc this is, and zc(7) what zc is.\n"
          "Exit status: 0, done; 1, it could not be done; 2, usage error.\n",
          out);
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_commands(stderr);
        return STATUS_USAGE;
    }
    if (is_help(argv[1])) {
        print_commands(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("zc %s\n", zc_version());
        return 0;
    }
    const struct command *command = NULL;
    for (int i = 0; i < COMMANDS && !command; i++)
        if (strcmp(commands[i]->name, argv[1]) == 0)
            command = commands[i];
    if (!command)
        return misused("%s: no such command", argv[1]);
    current = command;
    if (argc > 2 && is_help(argv[2])) {
        printf("usage: zc %s %s\n\n%s.\n\n%s", command->name, command->arguments, command->summary, command->help);
        return 0;
    }
    return command->run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    int status = run(argc, argv);
    if (fflush(stdout) || ferror(stdout))
        return failed("standard output cannot be written");
    return status;
}
