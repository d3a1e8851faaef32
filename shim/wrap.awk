# SPDX-License-Identifier: MIT
#
# usage: awk -f wrap.awk calls >wrap.c
#
# Makes a function of each prototype in `calls`, which says what the lines below it mean and what other forms of a call
# are made besides.

function trim(text) { gsub(/^[ \t]+|[ \t]+$/, "", text); return text }

# "const int counts[]" -> counts
function name_of(parameter) { sub(/\[\]$/, "", parameter); sub(/.*[ *]/, "", parameter); return parameter }

function has(name,    i) {
    for (i = 1; i <= parameters; i++)
        if (names[i] == name) return 1
    return 0
}

function first_of(a, b) { return has(a) ? a : b != "" && has(b) ? b : "-1" }

# The arguments of "role(buffer, rest)", in buffer and rest.
function parse_role(text,    open) {
    condition = ""
    if (match(text, /\) if /)) {
        condition = substr(text, RSTART + 5)
        text = substr(text, 1, RSTART)
    }
    open = index(text, "(")
    role = substr(text, 1, open - 1)
    rest = substr(text, open + 1, length(text) - open - 1)
    buffer = substr(rest, 1, index(rest, ",") - 1)
    rest = trim(substr(rest, length(buffer) + 2))
    if (name ~ /_c$/) {
        sub(/span_mixed_far\(/, "span_mixed(", rest)
        if (sub(/span_varied\(/, "span_varied_c(", rest) == 0) sub(/span_mixed\(/, "span_mixed_c(", rest)
    }
}

# What a call borrows of each buffer: until it returns, or its request completes, or is freed; or what it makes
# accessible, no more.
function of_buffers(    i, peer, tag, lasts, how, over) {
    lasts = names[parameters] == "request"
    over = lasts ? "call_posted" : "call_over"
    printf "    struct call call = {.name = \"%s\", .buffer = %s, .lasts = %s};\n", name, buffer, lasts ? "true" : "false"
    for (i = 1; i <= roles; i++) {
        parse_role(lines[i])
        if (form == "persistent") role = "keeps"
        if (form == "split") role = role == "reads" ? "loads" : "stores"
        if (condition ~ /[&|]/) condition = "(" condition ")"
        printf "    if (call_owns(%s)%s)\n", buffer, condition == "" ? "" : " && " condition
        if (role == "keeps") {
            over = "call_made"
            printf "        call_keeps(&call, %s, %s);\n", buffer, rest
        } else if (role == "loads" || role == "stores") {
            over = "call_over"
            printf "        call_touches(%s, %s, %s);\n", buffer, rest, role == "stores" ? "true" : "false"
        } else {
            peer = role == "reads" ? first_of("dest") : first_of("source")
            tag = peer == "-1" ? "-1" : role == "reads" ? first_of("tag", "sendtag") : first_of("tag", "recvtag")
            printf "        %s = call_%s(&call, %s, %s, %s, %s);\n", buffer, role, buffer, rest, peer, tag
        }
    }
    print "    call_enter();"
    printf "    int code = P%s(%s);\n    call_leave();\n", name, arguments
    printf "    return %s(&call, code%s);\n", over, over == "call_over" ? "" : ", request"
}

# The form with a large count of one that is written by hand.
function of_counts(    inner) {
    inner = arguments
    sub(/count, datatype/, "counted.count, counted.type", inner)
    print "    struct counted counted;"
    print "    int code = counted_begin(&counted, count, datatype);"
    printf "    if (code == MPI_SUCCESS)\n        code = %s(%s);\n", substr(name, 1, length(name) - 2), inner
    print "    counted_end(&counted);\n    return code;"
}

# Fortran's return nothing.
function of_requests(    fortran) {
    fortran = type == "void"
    if (fortran) find_next()
    print "    struct completion completion;"
    printf "    %s = completion_begin(&completion, %s, %s);\n    call_enter();\n", buffer, buffer, rest
    printf "    %s(%s);\n    call_leave();\n", fortran ? "call" : "int code = P" name, arguments
    print "    completion_end(&completion);"
    if (!fortran) print "    return code;"
}

function of_fortran(    call) {
    call = lines[1]
    sub(/^is\(/, "", call)
    sub(/\)$/, "", call)
    printf "    int code = %s;\n    if (error) /* an optional argument */\n        *error = code;\n", call
}

# The function of that name which this one hides, as `call`.
function find_next() {
    printf "    static %s (*_Atomic next)(%s);\n", type, list
    printf "    %s (*call)(%s) = next;\n", type, list
    printf "    if (!call) {\n        void *found = touch_next(\"%s\");\n", name
    print "        memcpy(&call, &found, sizeof call);\n        next = call;\n    }"
}

# Inside MPI, buffers have been seen to already, and nothing could be waited for.
function of_libc(    i, line, stores) {
    print "    if (!call_inside()) {"
    for (i = 1; i <= roles; i++) {
        line = lines[i]
        stores = line ~ /^stores/
        sub(/^(loads|stores)/, "touch", line)
        sub(/\)$/, stores ? ", true)" : ", false)", line)
        print "        " line ";"
    }
    print "    }"
    find_next()
    printf "    return call(%s);\n", arguments
}

function emit(new_name, new_list, new_form,    i, parts) {
    name = new_name
    list = new_list
    form = new_form
    parameters = split(list, parts, ", ")
    arguments = ""
    for (i = 1; i <= parameters; i++) {
        names[i] = name_of(parts[i])
        arguments = arguments (i > 1 ? ", " : "") names[i]
    }
    printf "\n%s (%s)(%s);\n%s (%s)(%s)\n{\n", type, name, list, type, name, list # the C library has macros, too
    parse_role(lines[1])
    if (role == "completes") of_requests(); else if (role == "is") of_fortran(); else if (role == "counts") of_counts()
    else if (name ~ /^MPI_/) of_buffers(); else of_libc()
    print "}"
}

# MPI_Bcast -> MPI_Ibcast, for the letter I
function with_letter(letter, name,    rest) {
    rest = substr(name, 5)
    if (rest ~ /^File_/) return "MPI_File_" letter substr(rest, 6)
    return "MPI_" letter tolower(substr(rest, 1, 1)) substr(rest, 2)
}

# A prototype's parameters with large counts.
function large(list) {
    list = gensub_all(list, "int [a-z_]*count,", "int", "MPI_Count")
    list = gensub_all(list, "const int [a-z]*counts\\[\\]", "int", "MPI_Count")
    list = gensub_all(list, "const int [a-z]*displs\\[\\]", "int", "MPI_Aint")
    list = gensub_all(list, "(int|MPI_Aint) (in|out)size", "(int|MPI_Aint)", "MPI_Count")
    list = gensub_all(list, "(int|MPI_Aint) [*]position", "(int|MPI_Aint)", "MPI_Count")
    return list
}

# In each match of `pattern`, `old` becomes `new`.
function gensub_all(text, pattern, old, new,    out, part) {
    out = ""
    while (match(text, pattern)) {
        part = substr(text, RSTART, RLENGTH)
        sub(old, new, part)
        out = out substr(text, 1, RSTART - 1) part
        text = substr(text, RSTART + RLENGTH)
    }
    return out text
}

# A call and its forms; `suffix` is _c for large counts.
function forms(name, list, suffix,    status) {
    status = ", MPI_Status *status"
    if (lines[1] !~ /^counts/ || suffix) emit(name suffix, list)
    if (section == "collectives") emit(with_letter("I", name) suffix, list ", MPI_Request *request")
    if (section == "one-sided:" && list ~ /origin_count/)
        emit(with_letter("R", name) suffix, list ", MPI_Request *request")
    if (section != "files") return
    sub(/, MPI_Status \*status/, "", list)
    # A read may be over only for MPI_Wait or MPI_Test (MPICH's are): nobody could wait for it to land.
    if (name !~ /ordered/)
        emit(with_letter("i", name) suffix, list ", MPI_Request *request", name ~ /read/ ? "split" : "")
    if (name ~ /_(all|ordered)$/) emit(name "_begin" suffix, list, "split")
}

function flush(    called, given, of_mpi) {
    if (prototype == "") return
    match(prototype, /[A-Za-z_0-9]+\(/)
    called = substr(prototype, RSTART, RLENGTH - 1)
    type = trim(substr(prototype, 1, RSTART - 1))
    given = substr(prototype, RSTART + RLENGTH, length(prototype) - RSTART - RLENGTH)
    prototype = ""
    of_mpi = called ~ /^MPI_/ && lines[1] !~ /^completes/
    if (only) print "\n#if " only
    forms(called, given, "")
    if (!only && of_mpi) print "\n#if MPI_VERSION >= 4"
    if (of_mpi && large(given) != given) forms(called, large(given), "_c")
    if (section == "collectives") {
        given = given ", MPI_Info info, MPI_Request *request"
        emit(called "_init", given, "persistent")
        emit(called "_init_c", large(given), "persistent")
    }
    if (only || of_mpi) print "\n#endif"
}

BEGIN {
    print "/* Made by wrap.awk. */"
    print "#if defined(__GNUC__) && !defined(__clang__)"
    print "#pragma GCC diagnostic ignored \"-Wmaybe-uninitialized\" /* buffers that the kernel will fill */"
    print "#endif"
    print "#include \"shim/call.h\"\n#include \"shim/complete.h\"\n#include \"shim/span.h\"\n#include \"shim/touch.h\"\n#include <string.h>"
}

/^# ----/ {
    flush()
    section = $3
    only = / of MPICH/ ? "defined(MPICH)" : ""
    if (/ MPI-4/) only = only (only ? " && " : "") "MPI_VERSION >= 4"
}
/^#/ || /^$/ { next }
/^[^ ]/ { flush(); prototype = $0; roles = 0; next }
{ lines[++roles] = trim($0) }
END { flush() }
