# SPDX-License-Identifier: Apache-2.0
"""What the scenarios about Debian's packages share: a machine whose packages come
from /srv, nodes that live through all that is done to it, and what must hold
after each step."""

import contextlib
import glob
import gzip
import json
import os
import re
import threading
import time

from guest import (RUN, Failed, Registration, check, equal, fail, journal, main_pid, names, new_unit, no_failed_units,
                   run, show, state, within)

OURS = "/usr/libexec/epmd/epmd"
OTP = "/opt/otp/usr/lib/erlang"
FIRST, NEXT, REPO, OLD = "/srv/first", "/srv/next", "/srv/repo", "/srv/old"


# Packages ---------------------------------------------------------------------

def deb(directory, package):
    found = glob.glob(f"{directory}/{package}_*.deb")
    equal(f"packages {package} in {directory}", len(found), 1)
    return found[0]


def offer(*directories):
    """Makes apt see the packages of these directories, and no others."""
    with gzip.open("/srv/Packages.gz", "wt", encoding="utf-8") as index:
        for directory in directories:
            for path in sorted(glob.glob(f"{directory}/*.deb")):
                control = run(f"dpkg-deb --field '{path}'")
                digest = run(f"sha256sum '{path}'").split()[0]
                index.write(f"{control}Filename: .{path.removeprefix('/srv')}\n"
                            f"Size: {os.path.getsize(path)}\nSHA256: {digest}\n\n")
    for path in glob.glob("/etc/apt/sources.list.d/*"):
        os.unlink(path)
    with open("/etc/apt/sources.list", "w", encoding="utf-8") as sources:
        sources.write("deb [trusted=yes] file:/srv ./\n")
    run("apt-get --quiet=2 update")


def make_old():
    """An earlier erlang-base: the same one, said to be older."""
    os.makedirs(OLD)
    run(f"dpkg-deb --raw-extract {deb(REPO, 'erlang-base')} /srv/unpacked"
        r" && sed -i 's/^Version: .*/&~old/' /srv/unpacked/DEBIAN/control"
        f" && dpkg-deb -Znone --build /srv/unpacked {OLD}/erlang-base_old.deb && rm -r /srv/unpacked")


def apt(command):
    """What apt-get says."""
    return run(f"DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends {command}")


def typed(lines):
    """Types lines of README where the sources and what they were built to are; what they print."""
    build = f"{RUN}/sources/build"
    os.makedirs(build, exist_ok=True)
    run(f"cp {FIRST}/*.deb {build}")
    os.makedirs("/usr/local/sbin", exist_ok=True)
    with open("/usr/local/sbin/sudo", "w", encoding="utf-8") as sudo:
        sudo.write('#!/bin/sh\nexec "$@"\n')
    os.chmod("/usr/local/sbin/sudo", 0o755)
    said = "".join(run(f"cd {RUN}/sources; {line}") for line in lines)
    os.unlink("/usr/local/sbin/sudo")
    return said


def is_known(package):
    """Whether the package is installed, or anything of it is left."""
    found = run(f"dpkg-query --show --showformat='${{db:Status-Status}}' {package} 2>/dev/null", status=None)
    return found not in ("", "not-installed")


def is_installed(package):
    return run(f"dpkg-query --show --showformat='${{db:Status-Status}}' {package} 2>&1", status=None) == "installed"


def version(package):
    return run(f"dpkg-query --show --showformat='${{Version}}' {package}")


# Those who live through it ----------------------------------------------------

class Port(threading.Thread):
    """Connects to the port again and again; counts those that were refused."""

    def __init__(self):
        super().__init__(daemon=True)
        self.refused = self.accepted = 0
        self.longest = 0.0
        self.ended = threading.Event()
        self.start()

    def end(self):
        self.ended.set()
        self.join()

    def run(self):
        closed_since = None
        while not self.ended.wait(0.005):
            now = time.monotonic()
            try:
                names(timeout=5)
                self.accepted += 1
                closed_since = None
            except ConnectionRefusedError:
                self.refused += 1
                closed_since = closed_since or now
                self.longest = max(self.longest, now - closed_since)
            except (OSError, Failed):
                # cut off by the end of a daemon
                pass

    def during(self, what):
        """Does it; returns what it returned, how many were refused meanwhile, and for how long at most."""
        refused, self.longest = self.refused, 0.0
        returned = what()
        return returned, self.refused - refused, self.longest


class Held(Registration):
    """A C node, say, which does not come back: who has lost it lost a registration."""

    def is_untouched(self):
        self.connection.setblocking(False)
        try:
            # neither data nor an end
            self.connection.recv(1)
            return False
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.connection.setblocking(True)


def unpack_otp():
    """An Erlang of one's own, as a release has it; it knows nothing of that of Debian."""
    run(f"mkdir -p /opt/otp && dpkg-deb --extract {deb(REPO, 'erlang-base')} /opt/otp")
    erts = glob.glob(f"{OTP}/erts-*/bin")[0]
    new_unit("live.service", f"""
[Unit]
Description=A release of Erlang, with its own Erlang/OTP
[Service]
Environment=HOME=/root ROOTDIR={OTP} BINDIR={erts} EMU=beam PROGNAME=erl
ExecStart={erts}/erlexec -noinput -sname live
KillMode=process
""")


def require_epmd():
    """A unit such as ejabberd's, which a restart of epmd.service would restart."""
    new_unit("dependent.service", """
[Unit]
Requires=epmd.service
After=epmd.service
[Service]
ExecStart=/usr/bin/sleep infinity
""")
    run("systemctl start dependent.service")
    return main_pid("dependent.service")


# What must hold ---------------------------------------------------------------

def listeners():
    """The processes that have the port, systemd aside."""
    listing = run("ss --no-header --listening --tcp --numeric --processes 'sport = :4369'")
    return sorted({int(pid) for pid in re.findall(r'"epmd",pid=(\d+)', listing)})


def program():
    """What runs as epmd.service, having been asked something."""
    names()
    return os.readlink(f"/proc/{main_pid()}/exe")


def holds(step, ours=True, nodes=("live",)):
    """All that must hold after each step."""
    try:
        within(20, f"{nodes} registered", lambda: set(nodes) <= set(listed()))
        equal("epmd.socket", state("epmd.socket"), "active")
        equal("epmd.socket is enabled", run("systemctl is-enabled epmd.socket", status=None).strip(), "enabled")
        if ours:
            equal("the program", program(), OURS)
            for unit in "epmd-varlink.socket", "epmd-diag.socket":
                equal(unit, state(unit), "active")
            # which the daemon knows by the one socket, and tells over the other
            owners = {node["name"]: node.get("uid") for node in json.loads(run("epmdctl --json list"))}
            check(all(owners.get(node) == 0 for node in nodes), f"owners: {owners}")
            run("epmdctl stats")
        else:
            check(program().startswith("/usr/lib/erlang/erts-"), f"the program is {program()}")
            equal("drop-ins", show("epmd.service", "DropInPaths") + show("epmd.socket", "DropInPaths"), "")
        equal("who has the port", listeners(), [main_pid()])
        check(run("epmd -names").startswith("epmd: up and running on port 4369"), "epmd -names")
        check(journal("--boot --unit=epmd"), "journalctl -u epmd is empty")
        installed = [package for package in ("epmd", "epmd-units", "erlang-base") if is_installed(package)]
        equal("dpkg --verify", run(f"dpkg --verify {' '.join(installed)}"), "")
        equal("dpkg --audit", run("dpkg --audit"), "")
        no_failed_units()
    except Exception as error:
        fail(f"after {step}: {error}")


def listed():
    with contextlib.suppress(OSError):
        return list(names())
    return []


# Traces -----------------------------------------------------------------------

# What installing and removing any package leaves, and what time leaves.
IGNORED = re.compile(r"/(proc|sys|dev|tmp|var/tmp|srv|root|opt/otp)/|/run/(test|systemd|log|udev|lock|dbus|user)/|"
                     r"/run/private$|/opt/otp$|/var/log/|/var/lib/(dpkg|apt|ucf)/|/var/cache/|/var/lib/systemd/(catalog|random-seed|timers)|"
                     r"/etc/ld\.so\.cache$|/etc/(passwd|group|shadow|gshadow)-$|/etc/apt/|/etc/mtab$|/var/backups/")


def snapshot():
    """All files, and those who may own them."""
    found = set()
    for directory in ("/etc", "/usr", "/var", "/run", "/opt", "/home", "/tmp"):
        for top, directories, files in os.walk(directory):
            for name in directories + files:
                path = f"{top}/{name}"
                if not IGNORED.search(path) and not path.endswith((".pyc", "__pycache__")):
                    found.add(path)
    return found | set(run("getent passwd; getent group").splitlines())
