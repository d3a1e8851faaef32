/* SPDX-License-Identifier: MIT
 *
 * Stacks: walked by libunwind where something happens, made readable by elfutils afterwards. */
#define UNW_LOCAL_ONLY
#include <elfutils/libdwfl.h>
#include <libunwind.h>
#include <string.h>
#include <unistd.h>

#include "shim/race/race.h"

void stack_walk(struct stack *stack)
{
    unw_context_t context;
    unw_cursor_t cursor;
    unw_word_t pc;
    stack->depth = 0;
    stack->exact = false;
    unw_getcontext(&context);
    if (unw_init_local(&cursor, &context) != 0)
        return;
    do {
        if (unw_is_signal_frame(&cursor) > 0) { /* it was interrupted by the fault */
            stack->depth = 0;
            stack->exact = true;
        }
        if (unw_get_reg(&cursor, UNW_REG_IP, &pc) != 0 || pc == 0)
            break;
        if (stack->depth < FRAMES_MOST)
            stack->pc[stack->depth++] = pc;
    } while (unw_step(&cursor) > 0);
}

/* ---- symbols ---- */

struct frame {
    const char *function, *file, *module; /* "" where unknown */
    int line;
};

static Dwfl *open_symbols(void)
{
    static char *path;
    static const Dwfl_Callbacks callbacks = {
        .find_elf = dwfl_linux_proc_find_elf, .find_debuginfo = dwfl_standard_find_debuginfo, .debuginfo_path = &path};
    Dwfl *dwfl = dwfl_begin(&callbacks); /* anew each time: libraries come and go */
    if (dwfl && (dwfl_linux_proc_report(dwfl, getpid()) != 0 || dwfl_report_end(dwfl, NULL, NULL) != 0)) {
        dwfl_end(dwfl);
        return NULL;
    }
    return dwfl;
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static struct frame look_up(Dwfl *dwfl, uintptr_t pc)
{
    struct frame frame = {"", "", "", 0};
    Dwfl_Module *module = dwfl ? dwfl_addrmodule(dwfl, pc) : NULL;
    if (!module)
        return frame;
    const char *name = dwfl_module_info(module, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    const char *function = dwfl_module_addrname(module, pc);
    Dwfl_Line *line = dwfl_module_getsrc(module, pc);
    const char *file = line ? dwfl_lineinfo(line, NULL, &frame.line, NULL, NULL, NULL) : NULL;
    frame.module = name ? base_of(name) : "";
    frame.function = function ? function : "";
    frame.file = file ? file : "";
    return frame;
}

/* Calls of zc's libraries at the top are how it was seen, not what happened. */
static bool of_zc(const struct frame *frame)
{
    return strncmp(frame->module, "libzc", 5) == 0;
}

static void for_each_frame(const struct stack *stack, FILE *out,
                           void (*print)(const struct frame *frame, uintptr_t pc, int number, FILE *out))
{
    Dwfl *dwfl = open_symbols();
    int number = 0;
    for (int i = 0; i < stack->depth; i++) {
        /* A call that never returns may be the last instruction of its function. */
        uintptr_t pc = stack->pc[i] - (i > 0 || !stack->exact ? 1 : 0);
        struct frame frame = look_up(dwfl, pc);
        if (number > 0 || !of_zc(&frame))
            print(&frame, stack->pc[i], number++, out);
        if (strcmp(frame.function, "main") == 0)
            break;
    }
    if (dwfl)
        dwfl_end(dwfl);
}

static void print_text(const struct frame *frame, uintptr_t pc, int number, FILE *out)
{
    fprintf(out, "    #%d %s", number, *frame->function ? frame->function : "?");
    if (*frame->file)
        fprintf(out, " at %s:%d\n", frame->file, frame->line);
    else
        fprintf(out, " (%#zx in %s)\n", (size_t)pc, *frame->module ? frame->module : "?");
}

void stack_print_text(const struct stack *stack, FILE *out)
{
    for_each_frame(stack, out, print_text);
}

static void print_string(const char *text, FILE *out)
{
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', out);
        if ((unsigned char)*text >= ' ')
            fputc(*text, out);
    }
    fputc('"', out);
}

static void print_json(const struct frame *frame, uintptr_t pc, int number, FILE *out)
{
    fprintf(out, "%s{\"pc\":\"%#zx\",\"function\":", number ? "," : "", (size_t)pc);
    print_string(frame->function, out);
    fputs(",\"file\":", out);
    print_string(frame->file, out);
    fprintf(out, ",\"line\":%d,\"module\":", frame->line);
    print_string(frame->module, out);
    fputc('}', out);
}

void stack_print_json(const struct stack *stack, FILE *out)
{
    fputc('[', out);
    for_each_frame(stack, out, print_json);
    fputc(']', out);
}
