#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2317 # the functions are called by name
# What gcc's analyzer, clang-tidy, cppcheck and shellcheck find, which is nothing. What is not to be found has its reason
# at the place, in .clang-tidy or below. Prints TAP; "make lint" runs it.
[ -n "${BASH_VERSION-}" ] || exec bash "$0"
set -euo pipefail

: "${TOP_SRCDIR:=$(readlink -f "$(dirname "$(readlink -f "$0")")/..")}"
: "${TOP_BUILDDIR:=$TOP_SRCDIR/build}"
read -ra cppflags <<<"$(pkg-config --cflags-only-I libsystemd libmnl jansson smartcols check)"
cppflags+=(-D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64 '-DSETTINGS_FILE="settings"' -I"$TOP_SRCDIR/src"
           -I"$TOP_BUILDDIR" -isystem "${ERLANG_ROOT:-/usr/lib/erlang}/usr/include")
jobs=$(nproc)
n=0 failed=0

cd "$TOP_SRCDIR"
programs=(src/*.c tests/process/*.c tests/bench/*.c tests/interop/*.c tests/faults/*.c)
# For clang-tidy alone: the others do not know that the macros of these end the program.
checks=(tests/unit/*.c tests/fuzz/*.c)
mapfile -t scripts < <({ grep -rlE '^(#!.*\b(ba)?sh( |$)|# shellcheck shell=)' bootstrap .ci systemd tests
                         ls src/completion/bash/* debian/*inst debian/*rm debian/tests/[!c]* 2>/dev/null || true; } | sort -u)

# All that has comments, but for settings that people read, and what programs make or need as it is.
mapfile -t sources < <({ find src systemd man bootstrap .ci configure.ac Makefile.am -type f ! -name epmd.default ! -name README
                         find tests -type f ! -path '*/corpus/*' ! -path '*/crashes/*' ! -path '*/dict/*' ! -name README ! -name '.*'
                         ls debian/rules debian/*inst debian/*rm debian/tests/[!c]*; } 2>/dev/null | grep -v __pycache__ | sort)

# Each takes files, and prints what is wrong with them.

analyze() {
    # fd-leak: it takes what dup2() puts into its place, and what a struct takes away, for lost. Descriptors are counted
    # after each test instead.
    printf '%s\0' "$@" | xargs -0 -n1 -P"$jobs" gcc "${cppflags[@]}" -std=gnu11 -O2 -Wall -Wextra -Werror -fanalyzer \
        -Wno-analyzer-fd-leak -c -o /dev/null
}

tidy() {
    # What is left of its talk, "1234 warnings generated", is of the system's headers.
    export FLAGS=${cppflags[*]}
    # shellcheck disable=SC2016 # for the shells of xargs
    printf '%s\0' "$@" | xargs -0 -n4 -P"$jobs" sh -c 'clang-tidy --quiet "$@" -- -std=gnu11 $FLAGS 2>/dev/null' sh
}

check_cpp() {
    # normalCheckLevelMaxBranches: it says that there is more than it looks at, which is so.
    cppcheck --quiet --enable=warning,performance,portability --inline-suppr --error-exitcode=1 --std=c11 -j"$jobs" \
        --template=gcc --suppress=normalCheckLevelMaxBranches -DJSON_INTEGER_FORMAT='"lld"' "${cppflags[@]}" "$@"
}

check_shell() {
    # SC1091: it does not follow what is only there when a package is installed.
    shellcheck --exclude=SC1091 "$@"
}

# By whoever reads one file alone.
check_licences() {
    local silent
    silent=$(grep -L 'SPDX-License-Identifier: Apache-2\.0' "$@" || true)
    [ -z "$silent" ] || {
        printf '%s does not say its licence\n' "$silent"
        return 1
    }
}

# point TOOL NAME COMMAND...: one test; what the command prints is shown when it fails.
point() {
    local tool=$1 name=$2 output
    shift 2
    n=$((n + 1))
    if ! command -v "$tool" >/dev/null; then
        echo "ok $n - $name # SKIP no $tool here: apt-get install $tool"
    elif output=$("$@" 2>&1); then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name"
        printf '%s\n' "$output" | head -n 200 | sed 's/^/# /'
        failed=1
    fi
}

# finds WHAT COMMAND...: the command fails, and says that.
finds() {
    local what=$1 output
    shift
    if output=$("$@" 2>&1); then
        echo "nothing is found, though there is something"
        return 1
    fi
    grep -qe "$what" <<<"$output" || {
        printf '%s\n' "$output"
        return 1
    }
}

# Where clang-tidy finds the same .clang-tidy.
scratch=$(mktemp -d "$TOP_BUILDDIR/lint.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cp .clang-tidy "$scratch"
cat >"$scratch/bad.c" <<'END'
#include <stdlib.h>

int bad(const char *text);

int bad(const char *text) {
        int few[2] = {}, *p = malloc(sizeof *p);

        *p = atoi(text);
        free(p);
        return few[2] + *p;
}
END
# shellcheck disable=SC2016 # it is a script
echo 'rm $1/*' >"$scratch/bad.sh"

point gcc "gcc -fanalyzer: nothing in ${#programs[@]} files" analyze "${programs[@]}"
point clang-tidy "clang-tidy: nothing in $((${#programs[@]} + ${#checks[@]})) files" tidy "${programs[@]}" "${checks[@]}"
point cppcheck "cppcheck: nothing in ${#programs[@]} files" check_cpp "${programs[@]}"
point shellcheck "shellcheck: nothing in ${#scripts[@]} scripts" check_shell "${scripts[@]}"
point grep "licences: said in each of ${#sources[@]} files" check_licences "${sources[@]}"
point gcc "gcc -fanalyzer notices a use after free" finds analyzer-use-after-free analyze "$scratch/bad.c"
point clang-tidy "clang-tidy notices a number that nobody checks" finds cert-err34-c tidy "$scratch/bad.c"
point cppcheck "cppcheck notices an index out of bounds" finds arrayIndexOutOfBounds check_cpp "$scratch/bad.c"
point shellcheck "shellcheck notices a word without quotes" finds SC2086 check_shell -s sh "$scratch/bad.sh"
point grep "licences: a file that says nothing of one is noticed" finds bad.c check_licences "$scratch/bad.c"
echo "1..$n"
exit $failed
