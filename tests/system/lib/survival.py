# SPDX-License-Identifier: Apache-2.0
"""Nothing registered is lost, whatever happens to the daemon: the scenarios
called survival, which differ in the number of nodes. Every check is made with
the units as shipped; a seed in its output makes a run repeatable."""

import contextlib
import json
import os
import random
import re
import resource
import select
import signal
import socket
import struct
import threading
import time

from guest import (NAMES_REQ, Shell, append_options, check, connect, drop_in, equal, fail, journal,
                   main, main_pid, milliseconds, names, new_unit, processes, read_all, run, show,
                   state, within)

SEED = 4
SERVICE = "epmd.service"
VARLINK = "/run/org.erlang.epmd"
EXTRA_MAX = bytes(range(255)) * 4
# Fewer than the names that the daemon remembers after their nodes have gone,
# 1,000, which are also others than those that are to return.
REMEMBERED = 500
KILLS = 50


# Nodes ------------------------------------------------------------------------

class Refused(Exception):
    """No registration; the connection is closed."""


class Node:
    """One registration, over a connection that says nothing more."""

    def __init__(self, name, port, version=6, extra=b"", source=None):
        self.name, self.port, self.version, self.extra = name, port, version, extra
        self.socket = None
        self.creation = None
        self.register(source)

    def register(self, source=None):
        encoded = self.name.encode()
        body = (struct.pack(">BHBBHHH", 120, self.port, 77, 0, self.version, 5, len(encoded))
                + encoded + struct.pack(">H", len(self.extra)) + self.extra)
        self.socket = socket.socket()
        if source:
            # So that a million connections do not run out of ports.
            self.socket.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            self.socket.bind((source, 0))
        try:
            self.socket.settimeout(20)
            self.socket.connect(("127.0.0.1", 4369))
            self.socket.sendall(struct.pack(">H", len(body)) + body)
            reply = self.socket.recv(6)
        except (ConnectionResetError, BrokenPipeError):
            reply = b""
        if reply[:2] not in (b"v\0", b"y\0"):
            self.socket.close()
            raise Refused(f"{self.name[:20]!r}: reply {reply!r}")
        self.creation = int.from_bytes(reply[2:], "big")

    def close(self):
        self.socket.close()

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def is_untouched(self):
        poll = select.poll()
        poll.register(self.socket, select.POLLIN | select.POLLRDHUP)
        return not poll.poll(0)

    def assert_eof(self):
        try:
            got = self.socket.recv(1)
        except ConnectionResetError:
            got = b""
        equal(f"what {self.name[:20]!r} gets", got, b"")


def make_node(i):
    """Number I of the nodes: every tenth has the longest name, 255 characters of
    four bytes, every tenth the longest Extra, some both."""
    name = f"n{i:05}"
    if i % 10 == 3:
        name = "".join(chr(0x1F600 + int(digit)) for digit in f"{i:0255}")
    extra = EXTRA_MAX if i % 10 == 7 or i % 30 == 3 else bytes(i % 3)
    return Node(name, 1024 + i, 5 if i % 2 else 6, extra)


# What the daemon says -----------------------------------------------------------

def ask(request):
    with connect(timeout=20) as connection:
        connection.sendall(request)
        return read_all(connection)


def ask_port(name):
    encoded = name.encode()
    return ask(struct.pack(">HB", len(encoded) + 1, 122) + encoded)


def listed():
    """The names, also those with blanks or of the largest size."""
    return re.findall(r"^name (.*) at port \d+$", ask(NAMES_REQ)[4:].decode(), re.M)


def creations():
    """Name to creation of all nodes, as the daemon remembers them."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(VARLINK)
        connection.sendall(b'{"method":"org.erlang.epmd.List"}\0')
        reply = bytearray()
        while not reply.endswith(b"\0"):
            got = connection.recv(1 << 20)
            check(got, "the Varlink socket was closed without a reply")
            reply += got
    return {node["name"]: node["creation"] for node in json.loads(reply[:-1])["parameters"]["nodes"]}


def settle(count):
    within(20, f"{count} nodes are registered", lambda: len(listed()) == count)


class World:
    """Nodes that stay registered, and what the daemon says of them."""

    def __init__(self, count):
        self.random = random.Random(SEED)
        self.epoll = select.epoll()
        self.nodes = []
        for i in range(count):
            self.add(make_node(i))
        self.remember()

    def add(self, node):
        self.nodes.append(node)
        self.epoll.register(node.socket, select.EPOLLIN | select.EPOLLRDHUP)

    def remember(self):
        self.sample = self.random.sample([node.name for node in self.nodes], min(100, len(self.nodes)))
        self.names = ask(NAMES_REQ)
        self.answers = [ask_port(name) for name in self.sample]
        registered = {node.name for node in self.nodes}
        self.creations = within(5, "a new list of creations",
                                lambda: (found := creations()).keys() == registered and found)
        for node in self.nodes:
            if node.version >= 6:
                equal(f"creation of {node.name[:20]!r}", self.creations[node.name], node.creation)

    def verify(self, event):
        """Nothing has changed, and no node has noticed anything."""
        got = ask(NAMES_REQ)
        check(got == self.names, f"NAMES after {event}: {len(got)} bytes, want the same {len(self.names)} as before")
        for name, answer in zip(self.sample, self.answers):
            equal(f"PORT2 of {name[:20]!r} after {event}", ask_port(name), answer)
        # A list that somebody has just asked for may be given once more.
        within(5, f"creations are as before {event}", lambda: creations() == self.creations)
        equal(f"connections that noticed {event}", len(self.epoll.poll(0, len(self.nodes) or 1)), 0)

    def remove(self, nodes):
        for node in nodes:
            self.nodes.remove(node)
            node.close()

    def all_end(self):
        """Every node sees the end of its connection."""
        for node in self.nodes:
            node.assert_eof()
            node.close()
        self.nodes = []

    def close(self):
        for node in self.nodes:
            node.close()
        self.nodes = []
        settle(0)


# Events -------------------------------------------------------------------------

def another_process(before):
    within(20, "another process serves", lambda: main_pid() not in (0, before) and state(SERVICE) == "active")


def signalled(name):
    def event():
        before = main_pid()
        run(f"systemctl kill --signal={name} {SERVICE}")
        another_process(before)
    return event


def restarted(unit):
    def event():
        before = main_pid()
        run(f"systemctl restart {unit}")
        another_process(before)
    return event


def hung():
    drop_in(SERVICE, "[Service]\nWatchdogSec=1\n")
    run("systemctl restart epmd")
    before = main_pid()
    os.kill(before, signal.SIGSTOP)
    another_process(before)
    check(any("atchdog" in line for line in journal("_PID=1 --unit=epmd.service")),
          "nothing about the watchdog in the journal")
    drop_in(SERVICE, "")
    run("systemctl restart epmd")


def unchanged(command):
    """Nothing happens to the daemon, only around it."""
    def event():
        before = main_pid()
        run(command)
        equal(f"process after {command}", main_pid(), before)
    return event


def reloaded():
    """The program starts anew in its process; who requires it goes on."""
    new_unit("requirer.service", "[Unit]\nRequires=epmd.service\nAfter=epmd.service\n"
             "[Service]\nExecStart=sleep infinity\n")
    run("systemctl start requirer.service")
    before, requirer = main_pid(), show("requirer.service", "InvocationID")
    anew = exec_count()
    for _ in range(3):
        run("systemctl reload epmd")
        anew += 1
        within(20, "the program has started anew", lambda: exec_count() == anew and state(SERVICE) == "active")
        ask(NAMES_REQ)
    equal("process after a reload", main_pid(), before)
    equal("InvocationID of a unit that requires it", show("requirer.service", "InvocationID"), requirer)
    equal("a unit that requires it", state("requirer.service"), "active")
    run("systemctl stop requirer.service")


def exec_count():
    return sum("anew, with" in line for line in journal(f"--unit={SERVICE}"))


EVENTS = {
    "restart": restarted("epmd"),
    "kill -9": signalled("KILL"),
    "abort": signalled("ABRT"),
    "the watchdog": hung,
    "daemon-reload": unchanged("systemctl daemon-reload"),
    "daemon-reexec": unchanged("systemctl daemon-reexec"),
    "restart of the socket": restarted("epmd.socket"),
    "reload": reloaded,
}


def all_events(world):
    for name, event in EVENTS.items():
        event()
        world.verify(name)


def ended_while_down(world):
    """Nodes that end while no process looks are gone from the first answer on."""
    gone = world.random.sample(world.nodes, min(30, len(world.nodes) // 2))
    kept = [node.name for node in world.nodes if node not in gone]
    before = main_pid()
    os.kill(before, signal.SIGSTOP)
    half = gone[::3]
    for node in half:
        node.socket.shutdown(socket.SHUT_WR)
    for i, node in enumerate(gone):
        if node not in half:
            (node.reset if i % 3 == 1 else node.close)()
    os.kill(before, signal.SIGKILL)
    equal("the first answer after nodes have ended", sorted(listed()), sorted(kept))
    for node in half:
        node.assert_eof()
    for node in gone:
        world.nodes.remove(node)
        node.close()
    another_process(before)
    world.remember()


# Kills at any moment --------------------------------------------------------------

class Killer(threading.Thread):
    """Kills the daemon again and again: half of the times while it starts and
    takes over, the others while it serves."""

    def __init__(self, seed, startup):
        super().__init__(daemon=True)
        self.startup = startup
        self.random = random.Random(seed)
        self.kills = 0

    def run(self):
        last = 0
        wait = threading.Event().wait
        while self.kills < KILLS:
            pids = [pid for pid in processes("epmd") if pid != last]
            if not pids:
                continue
            # a random moment, not a wait for anything
            early, late = (0, self.startup), (self.startup, 2 * self.startup + 0.1)
            wait(self.random.uniform(*early if self.kills % 2 else late))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)
                last = pids[0]
                self.kills += 1


class Traffic:
    """Nodes that come and go, with names that return."""

    def __init__(self):
        self.random = random.Random(SEED)
        self.live = {}
        self.given = {}
        self.registered = self.unanswered = 0

    def step(self):
        name = f"t{self.random.randrange(60)}"
        node = self.live.pop(name, None)
        if node:
            (node.reset if self.random.random() < 0.3 else node.close)()
            return
        try:
            node = Node(name, self.random.randrange(1, 65536), self.random.choice((5, 6, 6)),
                        bytes(self.random.choice((0, 0, 700))))
        except Refused as refused:
            check("reply b''" in str(refused), f"refused while killed again and again: {refused}")
            self.unanswered += 1
            return
        self.registered += 1
        if node.version >= 6:
            check(node.creation not in self.given,
                  f"creation of {name}: that of {self.given.get(node.creation)} again")
            self.given[node.creation] = name
        self.live[name] = node


def same_names(event, want):
    """Exactly these are registered; what has just ended may take a moment."""
    deadline = time.monotonic() + 5
    while (got := sorted(listed())) != want:
        if time.monotonic() > deadline:
            fail(f"after {event}: missing {[name[:20] for name in want if name not in got]}, "
                 f"too many {[name[:20] for name in got if name not in want]}")


def started():
    return sum(line.startswith("Started epmd.service") for line in journal(f"_PID=1 UNIT={SERVICE}"))


def kills_at_any_moment(world, startup):
    """startup: seconds from the start of a process to its readiness."""
    before, killer, traffic = started(), Killer(SEED, startup), Traffic()
    killer.start()
    while killer.is_alive():
        traffic.step()
    equal("kills", killer.kills, KILLS)
    want = sorted([node.name for node in world.nodes] + list(traffic.live))
    same_names(f"{KILLS} kills", want)
    within(20, "the service is active", lambda: state(SERVICE) == "active")
    known = within(5, "a new list of creations", lambda: sorted(found := creations()) == want and found)
    for node in traffic.live.values():
        check(node.is_untouched(), f"{node.name} was told something")
        if node.version >= 6:
            equal(f"creation of {node.name}", known[node.name], node.creation)
        node.close()
    settle(len(world.nodes))
    world.verify(f"{KILLS} kills")
    early = KILLS - (started() - before)
    check(early > 0, "no kill came before the daemon was ready")
    check(traffic.registered > KILLS, f"only {traffic.registered} registrations meanwhile")
    return f"{KILLS} kills ({early} before READY) over {traffic.registered} registrations"


# Stop, start and creations ----------------------------------------------------------

def systemd_version():
    return int(re.match(r"systemd (\d+)", run("systemctl --version")).group(1))


def returns(nodes):
    """Registers all of them again, each under a creation that it had not."""
    for node in nodes:
        had = node.creation
        node.register()
        check(node.creation != had, f"{node.name[:20]!r} of version {node.version} returned with its creation {had}")


def stop_and_start(world):
    run("systemctl stop epmd.service 2>&1")
    equal(SERVICE, state(SERVICE), "inactive")
    if systemd_version() >= 254:
        # these end while nothing runs
        ended = world.nodes[-400:]
        world.remove(ended)
        run("systemctl start epmd.service")
        equal("nodes after stop and start", sorted(listed()), sorted(node.name for node in world.nodes))
        equal("connections that noticed", len(world.epoll.poll(0, len(world.nodes) or 1)), 0)
    else:
        ended = world.nodes[-REMEMBERED:]
        world.all_end()
        run("systemctl start epmd.service")
        equal("nodes after stop and start", listed(), [])
    returns(ended)
    for node in ended:
        world.add(node)
    world.remember()
    world.verify("stop and start")


def idle_exit(world):
    """The creations survive the end of an idle daemon as well."""
    ended = world.nodes[-REMEMBERED:]
    # the last ones to end are those that are remembered
    for node in world.nodes[:-REMEMBERED]:
        node.close()
    settle(len(ended))
    world.nodes = ended
    append_options("--idle-timeout=0.5")
    run("systemctl restart epmd")
    world.close()
    within(10, "the idle daemon ends", lambda: state(SERVICE) == "inactive")
    equal("its status", show(SERVICE, "ExecMainStatus"), "77")
    drop_in(SERVICE, "")
    returns(ended)
    for node in ended:
        node.close()
    settle(0)


# Erlang -------------------------------------------------------------------------

def erlang():
    a = Shell("erl -sname a -setcookie survival", "betty")
    before, creation = main_pid(), creations()["a"]
    lines = registered_lines()
    equal("lines of the registration of a", lines, 1)
    os.kill(before, signal.SIGKILL)
    another_process(before)
    equal("nodes after kill -9", listed(), ["a"])
    b = Shell("erl -sname b -setcookie survival", "betty")
    equal("ping of b", a.evaluate("net_adm:ping('b@betty')."), "pong")
    equal("creation of a, in epmd", creations()["a"], creation)
    equal("creation of a, in the node", a.evaluate("erlang:system_info(creation)."), str(creation))
    equal("lines of the registration of a", registered_lines(), lines)
    a.abort()
    b.abort()
    settle(0)


def registered_lines():
    return sum(line.startswith("Registered a ") for line in journal(f"--unit={SERVICE}"))


# Figures ------------------------------------------------------------------------

def cpu(pid):
    """Seconds that a process has spent."""
    with open(f"/proc/{pid}/schedstat", encoding="utf-8") as stat:
        return int(stat.read().split()[0]) / 1e9


def first_answers(world):
    """Seconds from a kill -9 to the first byte of the first answer."""
    took = []
    for _ in range(10):
        before = main_pid()
        start = time.monotonic()
        os.kill(before, signal.SIGKILL)
        with connect(timeout=20) as connection:
            connection.sendall(NAMES_REQ)
            check(connection.recv(1), "no answer after kill -9")
            took.append(time.monotonic() - start)
        another_process(before)
    world.verify("kill -9")
    return took


def start_time():
    """Seconds from the start of the process to READY=1, and of CPU that it spent
    until then; the least of some: making the sandbox takes longer than all else,
    and varies."""
    took, spent = [], []
    for _ in range(15):
        run("systemctl restart epmd")
        spent.append(cpu(main_pid()))
        took.append((int(show(SERVICE, "ActiveEnterTimestampMonotonic"))
                     - int(show(SERVICE, "ExecMainStartTimestampMonotonic"))) / 1e6)
    return min(took), min(spent)


def take_over(world, empty):
    """Compares with the start of a daemon without nodes."""
    full = start_time()
    world.verify("restarts")
    took, spent = full[0] - empty[0], full[1] - empty[1]
    # The CPU, because how long it takes depends on what else the machine does.
    check(spent < 0.1, f"taking over {len(world.nodes)} nodes took {spent * 1000:.0f} ms of CPU, {took * 1000:.0f} ms")
    return full[0], f"taking over {took * 1000:.1f} ms, of CPU {spent * 1000:.1f} ms"


def cost(count):
    """Seconds of CPU of the daemon and of PID 1 for COUNT registrations; the
    least of three rounds, so that others on the machine matter less."""
    daemon, manager = [], []
    for _ in range(3):
        run("systemctl restart epmd")
        ask(NAMES_REQ)
        before = cpu(main_pid()), cpu(1)
        nodes = [make_node(i) for i in range(count)]
        daemon.append(cpu(main_pid()) - before[0])
        manager.append(cpu(1) - before[1])
        for node in nodes:
            node.close()
        settle(0)
    return min(daemon), min(manager)


def costs(count):
    # What else the machine does may make one of the two dearer, or both; that it does so three times is unlikely.
    for _ in range(3):
        kept, manager = cost(count)
        drop_in(SERVICE, "[Service]\nRuntimeDirectory=\nFileDescriptorStoreMax=0\n")
        run("systemctl restart epmd")
        lost, _ = cost(count)
        drop_in(SERVICE, "")
        run("systemctl restart epmd")
        extra, most = (kept - lost) / count * 1e6, max(10, lost / count * 1e6 / 2)
        if extra <= most:
            break
    # On a machine where each of them takes longer, so does the difference.
    check(extra <= most, f"a registration costs {extra:.1f} us more with the store, at most {most:.1f}")
    check(manager < 1, f"{count} registrations cost PID 1 {manager:.2f} s")
    return (f"PID 1 {manager * 1000:.0f} ms for {count} registrations, a registration "
            f"{kept / count * 1e6:.1f} us CPU, without the store {lost / count * 1e6:.1f}")


# A million cycles -----------------------------------------------------------------

class Usage:
    """What a daemon holds, in its process and in the kernel."""

    def __init__(self):
        pid = main_pid()
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            self.rss = int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1))
        self.descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        with open("/proc/net/sockstat", encoding="utf-8") as stat:
            # of this network namespace; "alloc" would be of the whole machine
            self.inuse = int(re.search(r"TCP: inuse (\d+)", stat.read()).group(1))
        # The queues of parked connections, of the pairs made in its network namespace.
        listing = run(f"nsenter --net=/proc/{pid}/ns/net ss --no-header --unix --all")
        queues = [line.split()[2:4] for line in listing.splitlines() if line.startswith("u_seq")]
        self.queued = sum(int(received) for received, _ in queues)
        self.memory = sum(int(sent) for _, sent in queues)

    def __str__(self):
        return (f"RSS {self.rss} kB, {self.descriptors} descriptors, {self.queued} bytes of tags and "
                f"{self.memory} of memory in flight, {self.inuse} TCP sockets")


def cycles(number, count, client):
    """Registers and closes COUNT times; forks, so that clients run side by side."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for i in range(count):
            source = f"127.{number}.{client}.{1 + i // 10000}"
            Node(f"c{client}-{i % 300}", 1 + i % 60000, 5 + i % 2, b"", source).close()
        status = 0
    finally:
        os._exit(status)


def many_cycles(number, count, clients=2):
    pids = [cycles(number, count // clients, client) for client in range(clients)]
    for pid in pids:
        equal("status of a client", os.waitpid(pid, 0)[1], 0)


def a_million_cycles(count=1_000_000):
    """Leave nothing behind, while some stay registered."""
    world = World(500)
    many_cycles(1, 50_000)
    settle(len(world.nodes))
    before = Usage()
    began = time.monotonic()
    many_cycles(2, count)
    settle(len(world.nodes))
    took, after = time.monotonic() - began, Usage()
    world.verify("a million registrations")
    check(after.rss <= before.rss + 1024, f"RSS has grown: {before}; {after}")
    check(after.descriptors <= before.descriptors, f"descriptors have grown: {before}; {after}")
    # Dead connections may wait there, no more than there are live ones and 512; each takes a mark and a tag, of eight
    # bytes.
    most = 16 * (2 * len(world.nodes) + 512 + 1)
    check(after.queued <= most and after.memory < 4 << 20, f"in flight: {before}; {after}")
    check(after.inuse <= before.inuse, f"sockets have grown: {before}; {after}")
    world.close()
    return f"{count} registrations and ends in {took:.0f} s: {before}; then {after}"


# ------------------------------------------------------------------------------

def no_warnings(everything):
    """None about the units at any time; before a kill, none at all."""
    warnings = [line for line in journal("_PID=1 --priority=warning") if "epmd" in line]
    if not everything:
        warnings = [line for line in warnings
                    if re.search(r"\.(service|socket|conf):\d+:|nknown|gnoring|"
                                 r"result '(?!signal|core-dump|watchdog)", line)]
    equal("systemd's warnings about the units", warnings, [])
    equal("the daemon's warnings", journal(f"_SYSTEMD_UNIT={SERVICE} --priority=warning"), [])


def scenario(count, large):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    check(hard >= count + 200, f"the limit of descriptors is {hard}, too few for {count} nodes")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names()
    no_warnings(everything=True)
    erlang()
    empty = start_time()
    world = World(count)
    all_events(world)
    answers = first_answers(world)
    startup, took = take_over(world, empty)
    kills = kills_at_any_moment(world, startup)
    ended_while_down(world)
    stop_and_start(world)
    idle_exit(world)
    measured = [f"{count} nodes", f"first answer after kill -9 {milliseconds(answers)}",
                took, costs(count), kills]
    if large:
        measured.append(a_million_cycles())
    no_warnings(everything=False)
    return ", ".join(measured)


def with_nodes(count, large=False):
    main(lambda: scenario(count, large))
