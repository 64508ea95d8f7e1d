# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What containers boot from: for each release a root file system with Debian's
# packages, and an image of this project built inside that root (the sonames of
# libraries differ between releases). Both are cached, each named after a hash
# of all that it is made from, and put in place by a rename: a cached directory
# is complete, and one that nobody needs any more may be removed at any time.

CACHE=${EPMD_TEST_CACHE:-/var/cache/epmd-tests}

# What this project is built with.
BUILD_PACKAGES=(
    gcc make autoconf automake pkg-config libc6-dev
    libsystemd-dev libunistring-dev uthash-dev libmnl-dev libjansson-dev
    libsmartcols-dev check
)
PACKAGES=(
    # the machine
    systemd systemd-sysv dbus iproute2 procps python3
    # what people run on it
    erlang-base erlang-dev elixir rabbitmq-server ejabberd
    "${BUILD_PACKAGES[@]}"
)
# Installed, but started only by the scenarios that are about them.
DISABLED_UNITS=(rabbitmq-server.service ejabberd.service epmd.service epmd.socket)

suite_of() {
    case $1 in
        12) echo bookworm ;;
        13) echo trixie ;;
    esac
}

# Prints the mirror that this machine installs its own packages from.
mirror() {
    local uri
    uri=$(apt-get indextargets --format "\$(REPO_URI) \$(COMPONENT) \$(CODENAME)" \
              'Created-By: Packages' 'Origin: Debian' \
          | awk '$2 == "main" && $3 !~ /-/ && !first { first = $1 } END { print first }')
    [ -n "$uri" ] || {
        echo "no Debian mirror in this machine's apt sources, or never 'apt-get update'd" >&2
        return 1
    }
    echo "$uri"
}

# Installs Debian in DIRECTORY; OPTIONs are mmdebstrap's.
install_debian() { # RELEASE DIRECTORY OPTION...
    local suite uri
    suite=$(suite_of "$1")
    uri=$(mirror) || return 1
    mmdebstrap --quiet --variant=minbase \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --aptopt='Acquire::Retries "3"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        "${@:3}" "$suite" "$2" \
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"
}

# Makes a root file system in DIRECTORY.
make_root() { # RELEASE DIRECTORY
    # shellcheck disable=SC2016 # $1 is for the hook, which mmdebstrap runs
    install_debian "$1" "$2" --include="$(IFS=,; echo "${PACKAGES[*]}")" \
        --customize-hook='chroot "$1" systemctl --quiet disable '"${DISABLED_UNITS[*]}" \
        --customize-hook='rm -f "$1"/etc/resolv.conf "$1"/etc/hostname; : >"$1"/etc/machine-id'
}

# Makes one of 32 bits, to build in. The check that is left out is for machines that have to be emulated.
make_root32() { # RELEASE DIRECTORY
    install_debian "$1" "$2" --include="$(IFS=,; echo "${BUILD_PACKAGES[*]}")" --architectures=i386 --skip=check/qemu
}

# Prints the names of the source files that the image is built from, tracked or
# not yet, terminated by NUL. Our own scripts are left out: a change to a
# scenario needs no new build.
list_sources() {
    if git -c safe.directory='*' -C "$TOP_SRCDIR" rev-parse --git-dir >/dev/null 2>&1; then
        git -c safe.directory='*' -C "$TOP_SRCDIR" ls-files -z --cached --others --exclude-standard
    else
        (cd "$TOP_SRCDIR" && find . -path ./build -prune -o -type f -printf '%P\0')
    fi | while IFS= read -r -d '' file; do
        case $file in tests/system/*) continue ;; esac
        [ ! -f "$TOP_SRCDIR/$file" ] || printf '%s\0' "$file"
    done | sort -z
}

pack_sources() { # ARCHIVE
    list_sources | tar -C "$TOP_SRCDIR" --null --files-from=- --mtime='2026-01-01 UTC' \
        --owner=0 --group=0 --numeric-owner -cf "$1"
}

# Builds the project inside ROOT and installs it below DIRECTORY.
make_image() { # ROOT SOURCES DIRECTORY
    export IMAGE_ROOT=$1 IMAGE_DIR=$3
    export -f build_image in_root
    unshare --mount --pid --fork --kill-child --net bash -euc build_image <"$2" >"$2.log" 2>&1 || {
        echo "building this project in $1 failed:" >&2
        tail -n 40 "$2.log" >&2
        return 1
    }
}

# Reads the sources as a tar archive, and runs a script of the shell beside them
# in a throw-away overlay of ROOT: they are in /src, and /bld and /out are empty.
# Runs in namespaces of its own, so that its mounts and processes end with it.
in_root() { # ROOT SCRIPT
    local ram=/tmp
    mount -t tmpfs tmpfs "$ram"
    mkdir "$ram"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$ram/upper,workdir=$ram/work" "$ram/root"
    mkdir "$ram"/root/{src,bld,out}
    mount -t proc proc "$ram/root/proc"
    mount --bind /dev "$ram/root/dev"
    tar -C "$ram/root/src" -xf -
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 chroot "$ram/root" sh -euc "$2"
}

build_image() {
    # shellcheck disable=SC2016 # expanded by the shell inside
    in_root "$IMAGE_ROOT" '
        cd /src
        [ -x configure ] || autoreconf --install --force
        cd /bld
        /src/configure --prefix=/usr --sysconfdir=/etc --localstatedir=/var \
            --with-systemdsystemunitdir=/usr/lib/systemd/system
        make -j"$(nproc)"
        make install DESTDIR=/out'
    cp -a /tmp/root/out/. "$IMAGE_DIR"
}

# Prints the path of the cached directory NAME, made by MAKER ARGS... DIRECTORY
# if it is not there. Two runs at the same time make it once. In a subshell, for
# its trap.
cached() ( # NAME MAKER ARGS...
    name=$1 dir=$CACHE/$1
    shift
    mkdir -p "$CACHE"
    exec {lock}>"$CACHE/.lock-${name%-*}"
    flock "$lock"
    if [ ! -d "$dir" ]; then
        made=$(mktemp -d "$CACHE/.new-XXXXXXXX")
        trap 'rm -rf --one-file-system "$made"' EXIT
        "$@" "$made" >&2 || exit 1
        chmod 755 "$made"
        mv -T "$made" "$dir"
    fi
    echo "$dir"
)

root_of() { # RELEASE
    local key
    key=$(declare -p PACKAGES DISABLED_UNITS | cat - <(declare -f install_debian make_root) | sha256sum | cut -c1-12)
    cached "root-$1-$key" make_root "$1"
}

root32_of() { # RELEASE
    local key
    key=$(declare -p BUILD_PACKAGES | cat - <(declare -f install_debian make_root32) | sha256sum | cut -c1-12)
    cached "root32-$1-$key" make_root32 "$1"
}

image_of() { # RELEASE ROOT SCRATCH
    local key sources=$3/sources-$1.tar
    # Each state of the sources leaves one.
    find "$CACHE" -maxdepth 1 -name 'image-*' -mtime +7 -exec rm -rf {} + 2>/dev/null || :
    # What is built is exactly what the key is of, also while somebody edits.
    pack_sources "$sources" || return 1
    key=$( { echo "$2"; declare -f in_root build_image; sha256sum <"$sources"; } | sha256sum | cut -c1-12)
    cached "image-$1-$key" make_image "$2" "$sources"
}
