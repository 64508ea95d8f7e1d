#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds for 32 bits, in a root file system of such a Debian, and runs there what
# tests modules: the unit tests and the corpora of the fuzz targets. Prints TAP,
# one test point for the build and one for each program. Needs root.
[ -n "${BASH_VERSION-}" ] || exec bash "$0"
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
: "${TOP_SRCDIR:=$(readlink -f "$here/../..")}"
# shellcheck source=tests/system/lib/images.sh
. "$here/lib/images.sh"
release=12 failed=0

skip_all() {
    echo "1..0 # SKIP $*"
    exit 0
}

bail_out() {
    echo "Bail out! $*"
    exit 1
}

# In the root file system. Its output is the build's; descriptor 3 takes the verdicts.
# shellcheck disable=SC2016 # expanded by the shell inside
script='
    cd /src
    [ -x configure ] || autoreconf --install --force
    cd /bld
    /src/configure --enable-werror CFLAGS="-O1 -g"
    modules="\$(unit_tests) \$(fuzz_replays)"
    make -j"$(nproc)" all
    make -j"$(nproc)" check TESTS= check_PROGRAMS="$modules"
    readelf -h epmd | grep -q "Class: *ELF32"
    echo "ok - it builds for 32 bits, without a warning" >&3
    make -k -j"$(nproc)" check TESTS="$modules" check_PROGRAMS="$modules" || :
    for trs in tests/unit/*.trs tests/fuzz/*.trs; do
        name=${trs%.trs}
        if grep -q "^:global-test-result: PASS" "$trs"; then
            echo "ok - $name in 32 bits # $(grep -c "^:test-result: PASS" "$trs") passed" >&3
        else
            echo "not ok - $name in 32 bits" >&3
            { grep -A 5 "^not ok" "$name.log" || tail -n 20 "$name.log"; } | head -n 60 | sed "s/^/# /" >&3
        fi
    done'

build_and_run() {
    ip link set lo up
    in_root "$1" "$2"
}

[ "$(id -u)" = 0 ] || skip_all "needs root, to build in another root file system: sudo $0"
case $(dpkg --print-architecture) in
    amd64 | i386) ;;
    *) skip_all "needs a processor that runs programs of i386" ;;
esac
command -v mmdebstrap >/dev/null || bail_out "mmdebstrap not found: apt-get install mmdebstrap"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/epmd-check32.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
root=$(root32_of $release) || bail_out "no root file system of Debian $release in 32 bits"
pack_sources "$tmp/sources" || bail_out "the sources cannot be packed"
export -f build_and_run in_root
unshare --mount --pid --fork --kill-child --net bash -euc 'build_and_run "$@"' sh "$root" "$script" \
    <"$tmp/sources" >"$tmp/log" 2>&1 3>"$tmp/points" || failed=1
awk '/^(not )?ok/ { sub(/ok/, "ok " ++n) } { print } END { print "1.." n + '$failed' }' "$tmp/points"
if [ $failed = 1 ]; then
    echo "not ok - it builds and runs for 32 bits"
    grep -vE '^(checking|config\.status|PASS)' "$tmp/log" | tail -n 60 | tr -cd '[:print:]\n\t' | sed 's/^/# /'
    exit 1
fi
! grep -q '^not ok' "$tmp/points"
