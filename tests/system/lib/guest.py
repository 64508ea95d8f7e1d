# SPDX-License-Identifier: Apache-2.0
"""What the scenarios share. They run inside a booted machine, as root; a check
that does not hold ends the scenario with a message."""

import contextlib
import glob
import os
import re
import select
import socket
import statistics
import struct
import subprocess
import sys
import time

PORT = 4369
NAMES_REQ = b"\x00\x01n"
RUN = "/run/test"


class Failed(Exception):
    """A check did not hold."""


def fail(message):
    raise Failed(message)


def check(condition, message):
    if not condition:
        fail(message)


def equal(what, got, want):
    if got != want:
        fail(f"{what}: got {got!r}, want {want!r}")


def within(seconds, what, condition):
    """Waits for the condition, and gives what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            fail(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def main(scenario):
    """Runs the scenario, a function that returns what it measured."""
    try:
        measured = scenario()
    except Failed as failed:
        sys.exit(f"FAILED: {failed}")
    with open(f"{RUN}/measured", "w", encoding="utf-8") as out:
        out.write(measured + "\n")


# Commands ---------------------------------------------------------------------

def run(command, status=0, **options):
    """Runs a shell command; returns its output, standard error included."""
    done = subprocess.run(command, shell=True, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          **options)
    if status is not None and done.returncode != status:
        fail(f"status {done.returncode}, want {status}: {command}\n{done.stdout}")
    return done.stdout


def state(unit):
    """The ActiveState of a unit."""
    return show(unit, "ActiveState")


def show(unit, key):
    return run(f"systemctl show -P {key} {unit}").strip()


def main_pid(unit="epmd.service"):
    return int(show(unit, "MainPID"))


def journal(selection):
    """The messages of the journal, one string each; all that was logged before
    this call is in it."""
    run("journalctl --sync")
    return run(f"journalctl --quiet --no-pager --output=cat {selection}").splitlines()


def no_failed_units():
    failed = run("systemctl --failed --no-legend --plain")
    equal("failed units", failed, "")


def processes(name):
    """The ids of the processes called NAME."""
    found = []
    for path in glob.glob("/proc/[0-9]*/comm"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as comm:
            if comm.read().strip() == name:
                found.append(int(path.split("/")[2]))
    return found


def drop_in(unit, text, name="test"):
    """Changes a unit until the next reboot, as an administrator would."""
    directory = f"/run/systemd/system/{unit}.d"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/{name}.conf", "w", encoding="utf-8") as out:
        out.write(text)
    run("systemctl daemon-reload")


def exec_start():
    """The command line of epmd.service."""
    return re.search(r"argv\[\]=([^;]*)", show("epmd.service", "ExecStart")).group(1).strip()


def append_options(options):
    drop_in("epmd.service", f"[Service]\nExecStart=\nExecStart={exec_start()} {options}\n")


def new_unit(unit, text):
    with open(f"/run/systemd/system/{unit}", "w", encoding="utf-8") as out:
        out.write(text)
    run("systemctl daemon-reload")


# The protocol -----------------------------------------------------------------

def connect(address="127.0.0.1", port=PORT, timeout=10):
    return socket.create_connection((address, port), timeout)


def read_all(connection):
    data = b""
    while True:
        got = connection.recv(65536)
        if not got:
            return data
        data += got


def names(address="127.0.0.1", port=PORT, timeout=10):
    """Asks for the names; returns them as a dict of name to port."""
    with connect(address, port, timeout) as connection:
        connection.sendall(NAMES_REQ)
        reply = read_all(connection)
    check(len(reply) >= 4, f"NAMES_REQ to {address}: reply {reply!r}")
    found = {}
    for line in reply[4:].decode().splitlines():
        word = line.split()
        found[word[1]] = int(word[4])
    return found


class Registration:
    """A node's registration, which lasts until it is closed."""

    def __init__(self, name, port=4711, address="127.0.0.1"):
        body = struct.pack(">BHBBHHH", 120, port, 77, 0, 6, 6, len(name)) + name.encode() + b"\0\0"
        self.connection = connect(address)
        self.connection.sendall(struct.pack(">H", len(body)) + body)
        reply = self.connection.recv(6)
        check(len(reply) == 6 and reply[:2] == b"v\0", f"registration of {name}: reply {reply!r}")
        self.creation = struct.unpack(">I", reply[2:])[0]

    def close(self):
        self.connection.close()


def seconds_to_reply(**target):
    start = time.monotonic()
    names(**target)
    return time.monotonic() - start


def milliseconds(seconds):
    return f"{statistics.median(seconds) * 1000:.3g} ms"


# Erlang -----------------------------------------------------------------------

class Shell:
    """An Erlang shell on a terminal of a machine of the test, to type in as a
    person does."""

    def __init__(self, command, host):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"{RUN}/{host}.agent")
        self.socket.sendall(f"TERM=dumb exec script --quiet --return --command '{command}' /dev/null\n".encode())
        self.seen = ""
        self.await_match(self.PROMPT)

    # as in "1> ", or "(a@betty)1> " in a node that has a name
    PROMPT = r"(^|\n|\r)(\([^)]*\))?\d+> $"

    def await_match(self, pattern, seconds=20):
        """Reads until PATTERN matches; returns all that came since the last call."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                fail(f"no {pattern!r} from the Erlang shell within {seconds} s; it said {self.seen!r}")
            got = self.socket.recv(65536)
            if not got:
                fail(f"the Erlang shell ended; it said {self.seen!r}")
            self.seen += got.decode(errors="replace")
        seen, self.seen = self.seen, ""
        return seen

    def evaluate(self, line):
        """Types a line; returns what the shell says up to the next prompt."""
        self.socket.sendall(line.encode() + b"\r")
        said = self.await_match(r"\n(\([^)]*\))?\d+> $").replace("\r", "")
        # The terminal echoes the line first.
        return "\n".join(said.split("\n")[1:-1])

    def abort(self):
        """The way of old hands: Ctrl-C, then a."""
        self.socket.sendall(b"\x03")
        self.await_match(r"\(a\)bort")
        self.socket.sendall(b"a\r")
        while self.socket.recv(65536):
            pass
        self.socket.close()


def agent(host, command, status=0):
    """Runs a command on any machine of the test; returns its output."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{RUN}/{host}.agent")
        connection.sendall(f"{{ {command}\n}} 2>&1 </dev/null; printf '\\n%s' $?\n".encode())
        connection.shutdown(socket.SHUT_WR)
        output, _, got = read_all(connection).decode().rpartition("\n")
    if status is not None and int(got) != status:
        fail(f"status {got}, want {status}, on {host}: {command}\n{output}")
    return output
