# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Sourced by the scripts beside it, under set -e. They run from the top folder, keep standard output for results and say what they
# do on standard error.

self=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

say() { printf '%s: %s\n' "${self##*/}" "$*" >&2; }
die() { say "$*"; exit 2; }

# The comment at the head of a script is its manual.
help() { sed -n '/^# usage:/,/^[^#]/s/^# \{0,1\}//p' "$self"; }

# build PRESET [CMAKE-OPTION...]
build() {
    say "building build/$1"
    cmake --preset "$1" --log-level=WARNING "${@:2}" >&2
    cmake --build --preset "$1" >&2
}
