# SPDX-License-Identifier: MIT
#
# usage: awk -f wrap.awk calls >wrap.c
#
# Makes a function of each prototype in `calls`, which says what the lines below it mean. Of a collective of MPI, the
# same with a request is made as well: MPI_Ibcast of MPI_Bcast.

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
}

# reads and writes: what is borrowed of each buffer, until the call returns or its request completes.
function of_buffers(    i, peer, tag, lasts) {
    lasts = names[parameters] == "request"
    printf "    struct call call = {.name = \"%s\", .buffer = %s, .lasts = %s};\n", name, buffer, lasts ? "true" : "false"
    for (i = 1; i <= roles; i++) {
        parse_role(lines[i])
        peer = role == "reads" ? first_of("dest") : first_of("source")
        tag = peer == "-1" ? "-1" : role == "reads" ? first_of("tag", "sendtag") : first_of("tag", "recvtag")
        if (condition ~ /&/) condition = "(" condition ")"
        printf "    if (zc_owns(%s)%s)\n", buffer, condition == "" ? "" : " && " condition
        printf "        %s = call_%s(&call, %s, %s, %s, %s);\n", buffer, role, buffer, rest, peer, tag
    }
    print "    call_enter();"
    printf "    int code = P%s(%s);\n    call_leave();\n", name, arguments
    printf "    return %s(&call, code%s);\n", lasts ? "call_posted" : "call_over", lasts ? ", request" : ""
}

function of_requests() {
    print "    struct completion completion;"
    printf "    %s = completion_begin(&completion, %s, %s);\n    call_enter();\n", buffer, buffer, rest
    printf "    int code = P%s(%s);\n    call_leave();\n", name, arguments
    print "    completion_end(&completion);\n    return code;"
}

function of_libc(    i) {
    printf "    static %s (*_Atomic next)(%s);\n", type, list
    for (i = 1; i <= roles; i++)
        print "    touch_" lines[i] ";"
    printf "    %s (*call)(%s) = next;\n", type, list
    printf "    if (!call) {\n        void *found = touch_next(\"%s\");\n", name
    print "        memcpy(&call, &found, sizeof call);\n        next = call;\n    }"
    printf "    return call(%s);\n", arguments
}

function emit(    i, parts) {
    match(prototype, /[A-Za-z_0-9]+\(/)
    name = substr(prototype, RSTART, RLENGTH - 1)
    type = trim(substr(prototype, 1, RSTART - 1))
    list = substr(prototype, RSTART + RLENGTH, length(prototype) - RSTART - RLENGTH)
    parameters = split(list, parts, ", ")
    arguments = ""
    for (i = 1; i <= parameters; i++) {
        names[i] = name_of(parts[i])
        arguments = arguments (i > 1 ? ", " : "") names[i]
    }
    printf "\n%s (%s)(%s);\n%s (%s)(%s)\n{\n", type, name, list, type, name, list # the C library has macros, too
    parse_role(lines[1])
    if (role == "completes") of_requests(); else if (name ~ /^MPI_/) of_buffers(); else of_libc()
    print "}"
}

function flush() {
    if (prototype == "") return
    emit()
    if (section == "collectives") {
        sub(/MPI_./, "MPI_I" tolower(substr(name, 5, 1)), prototype)
        sub(/\)$/, ", MPI_Request *request)", prototype)
        emit()
    }
    prototype = ""
}

BEGIN {
    print "/* Made by wrap.awk. */"
    print "#if defined(__GNUC__) && !defined(__clang__)"
    print "#pragma GCC diagnostic ignored \"-Wmaybe-uninitialized\" /* buffers that the kernel will fill */"
    print "#endif"
    print "#include \"shim/call.h\"\n#include \"shim/complete.h\"\n#include \"shim/span.h\"\n#include \"shim/touch.h\"\n#include <string.h>"
}

/^# ----/ { flush(); section = $3 }
/^#/ || /^$/ { next }
/^[^ ]/ { flush(); prototype = $0; roles = 0; next }
{ lines[++roles] = trim($0) }
END { flush() }
