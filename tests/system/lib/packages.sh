# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Debian's packages of this project, for the scenarios about them: what they are
# built in, a minimal system with what debian/control names; and the machine that
# they are installed on, which has packages in /srv/repo that can be installed
# without a network. Cached as in images.sh.

BUILD_TOOLS=(lintian pkg-config)
MACHINE_PACKAGES=(
    systemd systemd-sysv dbus libnss-systemd iproute2 procps python3 adduser
    libjansson4 libmnl0 libsmartcols1
)
REPO_PACKAGES=(erlang-base rabbitmq-server)

make_build_root() { # RELEASE DIRECTORY
    # shellcheck disable=SC2016 # $1 is for the hook, which mmdebstrap runs
    TOP_SRCDIR=$TOP_SRCDIR install_debian "$1" "$2" \
        --variant=buildd --include="$(IFS=,; echo "${BUILD_TOOLS[*]}")" \
        --customize-hook='APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get build-dep --quiet=2 --yes \
            --no-install-recommends -o DPkg::Chroot-Directory="$1" "$TOP_SRCDIR" >&2'
}

make_machine() { # RELEASE DIRECTORY
    local unistring
    case $1 in
        12) unistring=libunistring2 ;;
        13) unistring=libunistring5 ;;
    esac
    # shellcheck disable=SC2016 # $1 is for the hook, which mmdebstrap runs
    REPO_PACKAGES=${REPO_PACKAGES[*]} install_debian "$1" "$2" \
        --include="$unistring,$(IFS=,; echo "${MACHINE_PACKAGES[*]}")" \
        --customize-hook='rm "$1"/var/cache/apt/archives/*.deb "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap' \
        --customize-hook='APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get install --quiet=2 --yes --download-only \
            --no-install-recommends $REPO_PACKAGES >&2' \
        --customize-hook='mkdir "$1/srv/repo"; mv "$1"/var/cache/apt/archives/*.deb "$1/srv/repo"' \
        --customize-hook='rm -f "$1"/etc/resolv.conf "$1"/etc/hostname; : >"$1"/etc/machine-id'
}

# Builds the packages inside ROOT; what is of interest goes to DIRECTORY.
make_packages() { # ROOT SOURCES DIRECTORY
    export IMAGE_ROOT=$1 IMAGE_DIR=$3
    export -f build_packages in_root
    unshare --mount --pid --fork --kill-child --net bash -euc build_packages <"$2" >"$3.log" 2>&1 || {
        echo "building the packages in $1 failed:" >&2
        tail -n 60 "$3.log" >&2
        rm "$3.log"
        return 1
    }
    rm "$3.log"
}

# The packages, built by a user, each time another one, because the kernel counts
# the descriptors in flight of each; once more from the source package, in another
# place, time zone and language; the next version of them; what lintian says.
build_packages() {
    ip link set lo up
    # shellcheck disable=SC2016 # expanded by the shell inside
    in_root "$IMAGE_ROOT" '
        user=$((20000 + $(date +%N | sed "s/^0*//") % 20000))
        mkdir -p /src/tests/system
        chown -R "$user:$user" /src /bld /out
        exec setpriv --reuid="$user" --regid="$user" --clear-groups env HOME=/nonexistent USER=builder sh -euc "
            cd /src
            ./bootstrap deb
            mkdir /out/srv /out/srv/first /out/srv/second /out/srv/next
            mv build/epmd[_-]* /out/srv/first
            umask 027
            export TZ=Pacific/Kiritimati LC_ALL=C DEB_BUILD_OPTIONS=nocheck
            mkdir -p /bld/at/another
            dpkg-source -x /out/srv/first/*.dsc /bld/at/another/place
            cd /bld/at/another/place
            cp -a debian/tests /out/srv
            dpkg-buildpackage -us -uc -b
            mv ../epmd[_-]* /out/srv/second
            readelf -dW debian/epmd/usr/libexec/epmd/epmd >/out/srv/elf
            { sed \"1s/)/+next)/; 6q\" debian/changelog; echo; cat debian/changelog; } >debian/changelog.new
            mv debian/changelog.new debian/changelog
            rm debian/files
            dpkg-buildpackage -us -uc -b -nc
            mv ../epmd[_-]* /out/srv/next
            cd /out/srv/first
            lintian --version >/out/srv/lintian
            lintian -EvI --pedantic --show-overrides --fail-on=none *.changes >>/out/srv/lintian 2>&1
        "'
    cp -a /tmp/root/out/. "$IMAGE_DIR"
}

# Prints the path of the root that the packages are built in.
build_root_of() { # RELEASE
    local key
    key=$( { declare -p BUILD_TOOLS; declare -f install_debian make_build_root
             sed -n '/^Build-Depends:/,/^[^ ]*:/p' "$TOP_SRCDIR/debian/control"
           } | sha256sum | cut -c1-12)
    cached "build-$1-$key" make_build_root "$1"
}

machine_of() { # RELEASE
    local key
    key=$( { declare -p MACHINE_PACKAGES REPO_PACKAGES; declare -f install_debian make_machine
           } | sha256sum | cut -c1-12)
    cached "machine-$1-$key" make_machine "$1"
}

# Prints the path of what build_packages leaves.
packages_of() { # RELEASE SCRATCH
    local key root sources
    find "$CACHE" -maxdepth 1 -name 'packages-*' -mtime +7 -exec rm -rf {} + 2>/dev/null || :
    root=$(build_root_of "$1") || return 1
    sources=$(mktemp "$2/sources-XXXXXX")
    pack_sources "$sources" || return 1
    key=$( { echo "$root"; declare -f in_root build_packages; sha256sum <"$sources"; } | sha256sum | cut -c1-12)
    cached "packages-$1-$key" make_packages "$root" "$sources"
}
