# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Sourced by the scripts beside it, under set -e. They run from the top folder, keep standard output for results and say what they
# do on standard error.

unset CDPATH # or cd may go elsewhere
self=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Where Open MPI is installed as well, mpiexec is its own; programs that are started here look for one, too.
if mpich=$(command -v mpiexec.mpich) && [ "$(realpath "$mpich")" != "$(realpath "$(command -v mpiexec)")" ]; then
    mkdir -p build/mpich
    ln -sf "$mpich" build/mpich/mpiexec
    PATH=$PWD/build/mpich:$PATH
fi

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
