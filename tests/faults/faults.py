# SPDX-License-Identifier: Apache-2.0
"""Failing allocations and system calls, for tests: the driver's side of faults.c, and a world in which a daemon meets them.

A World has a daemon under the fake service manager, the library loaded, and nodes whose registration was acknowledged. What
it knows of them must be true whatever fails: each is found, with its port and its creation, or its connection has been
closed and the log has said that some would be lost.
"""

import contextlib
import errno
import json
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'process'))
import tap  # noqa: E402
from epmdtest import (  # noqa: E402
    DEADLINE, EPMD, Conn, alive2, descriptors, dump, names, parse_alive2, parse_names, parse_port2, port2, readable,
    server_side, to_bytes)
from manager import Manager  # noqa: E402

HEADER = struct.Struct('=QqQQqQQQqqQ')
COUNTED = struct.Struct('=24s8iQ')
FUNCTIONS_MAX = 64
NO_FUNCTION, ANY_FUNCTION, SHORT = -1, -2, -1
EVER = (1 << 64) - 1

# How often an idle daemon may look for events in OBSERVED seconds; one that spins does it thousands of times.
IDLE_TURNS, OBSERVED = 25, 0.01
SANITIZED = b'__asan_init' in open(EPMD, 'rb').read()

WARNED = re.compile(r'register again|Registrations will be lost|could not be waited for and was closed')
# What a process must have said that ends by itself: what it tried and why that failed.
EXPLAINED = re.compile(r'[Ff]ailed to .+: .+|No socket was passed|Socket \d+ of those passed|out of memory'
                       r'|Nothing to do for 1 seconds')
BROKEN = re.compile(r'Sanitizer|runtime error|Assertion|stack smashing|corrupt')


def library():
    build = os.environ.get('TOP_BUILDDIR') or os.path.dirname(EPMD)
    path = os.path.join(os.path.abspath(build), 'tests', 'faults', 'faults.so')
    if not os.path.exists(path):
        tap.bail_out(f'{path} is not built: make -C {build} tests/faults/faults.so')
    return path


def error_name(error):
    return 'SHORT' if error == SHORT else errno.errorcode[error]


class Faults:
    """What is to fail, and how often it was called: the memory that is shared with the library."""

    def __init__(self, directory):
        self.path = os.path.join(directory, 'faults')
        size = HEADER.size + FUNCTIONS_MAX * COUNTED.size
        with open(self.path, 'w+b') as file:
            file.truncate(size)
            self.memory = mmap.mmap(file.fileno(), size)
        self.all_injected = 0
        self.disarm()

    def env(self):
        env = {'LD_PRELOAD': library(), 'EPMD_FAULTS': self.path}
        if SANITIZED:
            env['ASAN_OPTIONS'] = 'verify_asan_link_order=0:' + os.environ.get('ASAN_OPTIONS', '')
        return env

    def _put(self, function, first=0, times=0, error=0, rate=0, seed=0):
        self.all_injected += self.injected
        version, n_functions = self._header()[0], self._header()[10]
        HEADER.pack_into(self.memory, 0, version, NO_FUNCTION, 0, 0, 0, 0, 0, 0, NO_FUNCTION, 0, n_functions)
        for index in range(FUNCTIONS_MAX):
            struct.pack_into('=Q', self.memory, HEADER.size + index * COUNTED.size + COUNTED.size - 8, 0)
        HEADER.pack_into(self.memory, 0, version, function, first, times, error, rate, seed, 0, NO_FUNCTION, 0, n_functions)

    def _header(self):
        return HEADER.unpack_from(self.memory, 0)

    def _rows(self):
        for index in range(self._header()[10]):
            name, *errors, calls = COUNTED.unpack_from(self.memory, HEADER.size + index * COUNTED.size)
            yield name.rstrip(b'\0').decode(), [error for error in errors if error], calls

    def arm(self, name, first, error, times=1):
        """Lets the calls of a function fail that begin with the first from now on."""
        self._put([row[0] for row in self._rows()].index(name), first, times, error)

    def at_random(self, seed, rate):
        """Lets each call fail with a probability."""
        self._put(ANY_FUNCTION, rate=int(rate * (1 << 32)), seed=seed)

    def disarm(self):
        """Lets everything work, and counts anew."""
        self._put(NO_FUNCTION)

    def limit(self, name, errors):
        """A function gives only these errors from now on."""
        for index, (row, _errors, _calls) in enumerate(self._rows()):
            if row == name:
                struct.pack_into('=8i', self.memory, HEADER.size + index * COUNTED.size + 24,
                                 *errors, *[0] * (8 - len(errors)))

    @property
    def want_memory(self):
        """Whether somebody may have got no memory."""
        header = self._header()
        return header[7] > 0 and (header[1] == ANY_FUNCTION or header[9] == errno.ENOMEM)

    @property
    def injected(self):
        return self._header()[7]

    def calls(self):
        """How often each function was called since it was armed or disarmed."""
        return {name: calls for name, _errors, calls in self._rows()}

    def errors(self):
        return {name: errors for name, errors, _calls in self._rows()}


class Wrong(AssertionError):
    """Something that must not happen, whatever fails."""


class Lost(Wrong):
    """A registered node that no wait brings back."""


class World:
    """A daemon, its faults, and what must be true of it. A process that ends is followed by another, as systemd does it."""

    def __init__(self, case, *args, nodes=5, env=None, **how):
        self.case, self.nodes = case, {}
        self.directory = os.path.join(case.directory, f'world{len(case.worlds)}')
        os.mkdir(self.directory)
        case.worlds.append(self)
        self.faults = Faults(self.directory)
        self.varlink = os.path.join(self.directory, 'varlink')
        self.env = {**self.faults.env(), **(env or {})}
        listeners = [case.listener(), case.listener(self.varlink)]
        self.manager = Manager(case, *args, listeners=listeners, fd_names=['epmd.socket', 'varlink'],
                               **how)
        self.exits = self.warnings = self.closed = 0
        self.patience = 1  # processes that may end before nothing fails any more
        self.said = ''
        self.start()
        self.baseline = descriptors(self.daemon.pid)
        for number in range(nodes):
            if not self.register(f'base{number}', port=20000 + number, extra=bytes(number % 20 * 40)):
                raise Wrong('a registration was not answered, and nothing failed')

    @property
    def daemon(self):
        return self.manager.daemon

    # --- processes

    def start(self):
        """Starts the next process and those after it, until one is ready. All of this may fail."""
        self.spawn()
        self.wait_ready()

    def spawn(self):
        self.began = time.monotonic()
        self.manager.spawn(env=self.env)

    def wait_ready(self, key='READY'):
        deadline = time.monotonic() + DEADLINE
        while not self.notified(key):
            if self.daemon.ends_within(0):
                self.follow()
            elif time.monotonic() >= deadline:
                raise Wrong(f'the process lives, and {key}=1 was not notified within {DEADLINE} s')
            else:
                readable([self.manager.notify, self.daemon.pidfd, self.daemon.err.fd], 0.1)
                self.daemon.drain()

    def notified(self, key):
        while message := self.manager.notify.next(0):
            if message.get(key) == '1':
                return True
        return False

    def follow(self):
        """The process has ended by itself: with what it owes to an administrator, and the next one starts, unharmed."""
        log = self.take_log()
        self.exits += 1
        if self.exits % self.patience == 0:
            self.faults.disarm()
        if self.exits > 10 * self.patience:
            raise Wrong('one process after the other ended')
        status = self.daemon.status
        if status <= 0:
            raise Wrong(f'the process ended with status {status}')
        if not EXPLAINED.search(log):
            raise Wrong(f'the process ended with status {status} and did not say why')
        self.daemon.end()
        self.manager.notify.drain()
        self.spawn()

    def take_log(self):
        self.daemon.drain()
        text = self.daemon.err.text()
        if found := BROKEN.search(text):
            raise Wrong(f'the log has {found[0]!r}')
        if WARNED.search(text):
            self.said += text
        return text

    def crash(self):
        """kill -9."""
        self.take_log()
        self.manager.kill(signal.SIGKILL)

    def end(self):
        """SIGTERM; what a sanitizer says then is of interest."""
        if self.daemon.status is None:
            status = self.manager.kill(signal.SIGTERM)
            self.take_log()
            if status != 0:
                raise Wrong(f'status {status} after SIGTERM')

    def forget(self):
        """Nothing was ever here: no nodes, no store, no table."""
        for conn in self.nodes.values():
            conn.close()
        self.nodes.clear()
        self.manager.notify.empty()
        shutil.rmtree(self.manager.runtime)
        os.mkdir(self.manager.runtime, 0o700)

    # --- requests, whose answer may be the end of the connection

    def connect(self, address=None, **how):
        conn = Conn(address or self.manager.address, **how)
        conn.sock.setblocking(False)
        return conn

    def receive(self, conn, size=1 << 30, until=None):
        """What comes until there is so much of it, or the end of it; processes that end meanwhile are followed."""
        data, deadline = b'', time.monotonic() + DEADLINE
        while len(data) < size and not (until and data.endswith(until)):
            ready = readable([conn, self.manager.notify, self.daemon.pidfd, self.daemon.err.fd], 0.5)
            self.daemon.drain()
            if conn in ready:
                try:
                    piece = conn.sock.recv(min(size - len(data), 65536))
                except ConnectionResetError:
                    conn.end = 'reset'
                    break
                if not piece:
                    conn.end = 'eof'
                    break
                data += piece
            elif self.daemon.pidfd in ready and self.daemon.ends_within(0):
                self.follow()
                self.wait_ready()
            elif time.monotonic() >= deadline:
                raise Wrong(f'nobody answers a request, or ends its connection, within {DEADLINE} s')
        return data

    def send(self, conn, packet):
        # What the peer of a dead connection gets is for receive() to see.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            conn.sock.send(packet)
        return conn

    def wait_read(self, conn):
        """Waits until the daemon has read what was sent, or has closed the connection, or has ended."""
        deadline = time.monotonic() + DEADLINE
        while not self.daemon.ends_within(0.001) and not readable([conn], 0):
            state = server_side(conn.sock)
            if state is None or (state.inode and not state.unread):
                return
            if time.monotonic() >= deadline:
                raise Wrong('the daemon does not read what was sent')

    def ask(self, packet, address=None, **how):
        """One request and its whole answer; b'' when it was closed instead."""
        conn = self.send(self.connect(address, **how), packet)
        with contextlib.closing(conn):
            data = self.receive(conn)
            if not data:
                self.closed += 1
        return data, conn.end

    def register(self, name, pieces=1, **fields):
        """Whether it is acknowledged; if not, its connection was closed."""
        packet, conn = alive2(name, **fields), self.connect()
        conn.name, conn.port = to_bytes(name), fields.get('port', 4711)
        for i in range(pieces):
            self.send(conn, packet[i * len(packet) // pieces:(i + 1) * len(packet) // pieces])
            if i + 1 < pieces:
                self.wait_read(conn)
        size = 6 if fields.get('high', 6) >= 6 else 4
        reply = self.receive(conn, size)
        if len(reply) < size:
            conn.close()
            self.closed += 1
            return False
        parsed = parse_alive2(reply)
        if parsed.result != 0:
            conn.close()
            # An error it is, and not that the name is taken.
            if not self.faults.want_memory:
                raise Wrong(f'the registration of {name!r} was refused: {reply!r}')
            self.closed += 1
            return False
        conn.creation = parsed.creation
        self.nodes[conn.name] = conn
        return True

    def refused(self, name):
        """A registration that must not succeed: the name is taken."""
        with contextlib.closing(self.send(self.connect(), alive2(name))) as conn:
            reply = self.receive(conn, 6)
            if len(reply) < 6:
                reply = b''
        self.closed += not reply
        if reply and parse_alive2(reply).result != 1 and not self.nodes[to_bytes(name)].has_ended():
            raise Wrong(f'the second registration of {name!r} was answered with {reply!r}')

    def unregister(self, name):
        self.nodes.pop(to_bytes(name)).close()

    def look_up(self, name):
        reply, _end = self.ask(port2(name))
        if not reply:
            return
        found, node = parse_port2(reply), self.nodes.get(to_bytes(name))
        if (found and found.port) != (node and node.port):
            raise Wrong(f'the look-up of {name!r} says {found}')

    def list(self, packet=names(), **how):
        """NAMES or DUMP, which may be cut off only where the client can know it."""
        reply, end = self.ask(packet, **how)
        if not reply or end == 'reset':
            return
        if packet == dump():
            found = re.findall(rb'active name     <(.+)> at port (\d+), fd = \d+\n\0', reply)
            found = [(name, int(port)) for name, port in found]
        else:
            found = parse_names(reply).nodes
        self.compare(found, 'NAMES' if packet == names() else 'DUMP')

    def compare(self, found, what):
        expected = sorted((conn.name, conn.port) for conn in self.nodes.values())
        if sorted(found) != expected:
            raise Wrong(f'{what} has {sorted(found)[:9]}, and registered are {expected[:9]}')

    def call(self, method='org.erlang.epmd.List'):
        """A call of Varlink: its answer, or None when there was none. A list is whole, or is none."""
        with contextlib.closing(self.connect(self.varlink)) as conn:
            self.send(conn, json.dumps({'method': method}).encode() + b'\0')
            reply = self.receive(conn, until=b'\0')
        if not reply.endswith(b'\0'):
            return None
        try:
            answer = json.loads(reply[:-1])
        except ValueError as error:
            raise Wrong(f'{method} was answered with what is no JSON: {error}: {reply[:300]!r}') from None
        if 'error' in answer:
            raise Wrong(f'{method} was answered with {answer}')
        if method.endswith('.List'):
            self.compare_records(answer['parameters']['nodes'])
        return answer

    def compare_records(self, records):
        found = {record['name'].encode(): (record['port'], record['creation']) for record in records}
        expected = {conn.name: (conn.port, conn.creation) for conn in self.nodes.values()}
        if found != expected:
            raise Wrong(f'ports and creations are {found}, and were {expected}')

    # --- what must be true

    def drop_lost(self):
        """Nodes may be lost only if the log has warned of it, and they must know."""
        self.take_log()
        lost = [conn for conn in self.nodes.values() if conn.has_ended()]
        if lost and not self.said:
            raise Lost(f'{len(lost)} registered nodes were lost without a word, among them {lost[0].name!r}')
        self.warnings += bool(lost)
        for conn in lost:
            self.unregister(conn.name)

    def settle(self):
        """Waits until the daemon has seen the ends of connections, and says exactly what is true."""
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                self.drop_lost()
                reply, _end = self.ask(names())
                if not reply:
                    raise Wrong('NAMES was not answered')
                self.compare(parse_names(reply).nodes, 'NAMES')
                return
            except Lost:
                raise
            except Wrong:
                if time.monotonic() >= deadline:
                    raise
            self.manager.pump(0.002)

    def check_answers(self):
        self.settle()
        answer = self.call()
        if not answer:
            raise Wrong('a call over Varlink was not answered, and nothing fails any more')

    def leaked(self):
        now = descriptors(self.daemon.pid)
        now['socket'] -= len(self.nodes)
        now.pop('anon_inode:[timerfd]', None)
        return now - self.baseline

    def check_descriptors(self):
        deadline = time.monotonic() + DEADLINE
        while self.leaked():
            if time.monotonic() >= deadline:
                raise Wrong(f'descriptors are left open: {self.leaked()}')
            self.list()

    def check_rest(self):
        """An idle daemon does nothing."""
        self.faults.disarm()
        self.manager.pump(OBSERVED)
        turns = self.faults.calls()['epoll_wait']
        if turns > IDLE_TURNS:
            raise Wrong(f'it spins: {turns} turns of its loop in {OBSERVED} s without anything to do')

    def check(self, crash=True):
        """All that must be true after a fault, and, with crash, after the next process has taken over as well."""
        self.faults.disarm()
        if self.daemon.ends_within(0):
            self.follow()
            self.wait_ready()
        self.check_answers()
        self.check_descriptors()
        self.check_rest()
        if crash:
            self.crash()
            self.start()
            self.check_answers()
        self.said = ''

    def replenish(self, count):
        """Nodes for those that were lost."""
        for number in range(count):
            name = f'base{number}'
            if to_bytes(name) not in self.nodes and not self.register(name, port=20000 + number):
                raise Wrong('a registration was not answered, and nothing fails')
