# SPDX-License-Identifier: Apache-2.0
"""A service manager as far as a daemon can tell, for the tests of what survives the daemon.

It passes listening sockets, keeps the descriptors that the daemon hands over (FDSTORE) and passes them to the next process,
gives it a runtime directory that outlives it, and listens to what it notifies. Like systemd it hears all that a process
has said before it starts the next one.
"""

import contextlib
import fcntl
import os
import re
import signal
import socket
import struct
import tempfile
import termios
import time

from epmdtest import (DEADLINE, EPMD, Case, Conn, Daemon, Notify, alive2, descriptors, names, parse_alive2, parse_names,
                      parse_port2, port2, port_of, readable, server_side, to_bytes)

LOT_ENDS = [f'epmd-lot-{number}-{end}' for number in range(2) for end in ('in', 'out')]
TABLE_BLOCK = 128
TCP_FIN_WAIT2, TCP_TIME_WAIT, TCP_LISTEN = '05', '06', '0A'


class StoringNotify(Notify):
    """A NOTIFY_SOCKET whose owner keeps the descriptors that come with FDSTORE=1."""

    def __init__(self, directory):
        super().__init__(directory)
        self.store = []

    def drain(self):
        while self.sock.fileno() >= 0 and readable([self.sock], 0):
            data, fds, _flags, _address = socket.recv_fds(self.sock, 65536, 64)
            message = dict(line.split('=', 1) for line in data.decode().splitlines() if '=' in line)
            message['at'] = time.monotonic()
            self.messages.append(message)
            self._obey(message, fds)

    def _obey(self, message, fds):
        name = message.get('FDNAME', 'stored')
        if message.get('FDSTORE') == '1':
            for fd in fds:
                # Received descriptors stay open across exec; the next process is to have them under its numbers only.
                os.set_inheritable(fd, False)
            self.store += [(fd, name) for fd in fds]
        else:
            for fd in fds:
                os.close(fd)
        if message.get('FDSTOREREMOVE') == '1':
            self.empty(name)

    def skip(self):
        """What has been said up to now is of no interest any more."""
        self.drain()
        self.taken = len(self.messages)

    def empty(self, name=None):
        """Closes what is stored, under one name or all of it."""
        for fd, stored in self.store:
            if name in (None, stored):
                os.close(fd)
        self.store = [item for item in self.store if name not in (None, item[1])]

    def close(self):
        super().close()
        self.empty()


class Ended:
    """What server_side() must know of a connection whose socket is about to be closed."""

    def __init__(self, conn):
        self.family = conn.sock.family
        self.here, self.there = conn.sock.getsockname(), conn.sock.getpeername()

    def getsockname(self):
        return self.here

    def getpeername(self):
        return self.there


class Manager:
    """Runs one daemon after the other on the same sockets, store and runtime directory."""

    def __init__(self, case, *args, listeners=None, fd_names=None, program=EPMD, wrapper=()):
        self.case, self.args, self.program, self.wrapper = case, args, program, list(wrapper)
        self.listeners = listeners or [case.listener()]
        self.fd_names = fd_names or ['epmd.socket'] * len(self.listeners)
        self.directory = tempfile.mkdtemp(dir=case.directory)
        self.runtime = os.path.join(self.directory, 'run')
        os.mkdir(self.runtime, 0o700)
        self.table = os.path.join(self.runtime, 'table')
        self.notify = case.closing(StoringNotify(self.directory))
        self.daemon, self.first = None, None

    # --- its processes

    def spawn(self, limits=(), env=None):
        """Starts the next process, and does not wait."""
        self.notify.skip()
        passed = list(zip((sock.fileno() for sock in self.listeners), self.fd_names)) + self.notify.store
        variables = {
            'LISTEN_FDS': str(len(passed)),
            'LISTEN_FDNAMES': ':'.join(name for _fd, name in passed),
            'NOTIFY_SOCKET': self.notify.path,
        }
        if self.runtime:
            variables['RUNTIME_DIRECTORY'] = self.runtime
        variables.update(env or {})
        addresses = [sock.getsockname()[:2] for sock in self.listeners]
        argv = [*self.wrapper, self.program, '-systemd', '-idle-timeout', '0', *self.args]
        self.daemon = Daemon(argv, addresses, notify=self.notify, env=variables, fds=[fd for fd, _name in passed],
                             own_pid=['LISTEN_PID'], limits=limits)
        self.case.kept(self.daemon)
        # After, so that it comes before the process is ended without regard for what it holds.
        self.case.addCleanup(self.end)
        return self

    def start(self, **how):
        """Starts the next process; what it answers first, to NAMES, is in `first`."""
        self.spawn(**how)
        self.wait('READY', '1')
        self.first = parse_names(self.daemon.ask(names())).nodes
        self.daemon.before = descriptors(self.daemon.pid)
        return self

    def kill(self, number=signal.SIGKILL):
        """Ends the process by a signal; gives its status. What is stored stays."""
        with contextlib.suppress(ProcessLookupError):
            self.daemon.signal(number)
        status = self.daemon.wait()
        self.daemon.end()
        self.notify.drain()
        return status

    def stop(self):
        """As systemctl stop does it without FileDescriptorStorePreserve=: the runtime directory is all that is left."""
        status = self.kill(signal.SIGTERM)
        self.notify.empty()
        return status

    def restart(self, number=signal.SIGKILL):
        self.kill(number)
        return self.start()

    def reload(self):
        """Has the process start its program anew; returns when that serves."""
        self.daemon.signal(signal.SIGHUP)
        self.wait('RELOADING', '1')
        self.wait('READY', '1')
        return self

    def wait(self, key, value=None):
        """The next notification that has the key (with that value); an error when the process ends without it."""
        deadline = time.monotonic() + DEADLINE
        while True:
            ended = self.daemon.ends_within(0)
            while message := self.notify.next(0):
                if key in message and value in (None, message[key]):
                    return message
            if ended:
                raise AssertionError(f'{key} was never notified: the daemon ended with status {self.daemon.status}')
            if time.monotonic() >= deadline:
                raise AssertionError(f'no {key} was notified within {DEADLINE} s')
            readable([self.notify, self.daemon.pidfd], deadline - time.monotonic())

    def pump(self, seconds):
        """Listens for so long, as a manager does that has nothing else to do."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            readable([self.notify], left)
            self.notify.drain()

    def end(self):
        """The end of the last process, with the checks that every daemon must pass."""
        if self.daemon and self.daemon.status is None:
            self.notify.drain()
            self.case._end_daemon(self.daemon)

    # --- its daemon

    @property
    def port(self):
        return port_of(self.listeners[0])

    @property
    def address(self):
        return self.listeners[0].getsockname()[:2]

    def ask(self, packet, address=None):
        """One request, and all of the answer; the daemon may be started later."""
        self.notify.drain()
        return self.daemon.ask(packet, address)

    def names(self):
        return parse_names(self.ask(names())).nodes

    def lookup(self, name):
        return parse_port2(self.ask(port2(name)))

    def log(self):
        """All that the process of now has said."""
        self.daemon.err.drain()
        return self.daemon.err.text()

    def settle(self, condition, what):
        self.notify.drain()
        self.daemon.settle(condition, what)

    def settle_names(self, expected):
        """Waits until exactly these are registered."""
        wanted, found = sorted(to_bytes(name) for name in expected), None

        def matches():
            nonlocal found
            found = sorted(name for name, _port in self.names())
            return found == wanted

        try:
            self.settle(matches, '')
        except AssertionError:
            self.case.assertEqual(found, wanted, 'the registered names')

    def wait_arrived(self, ended):
        """Waits until what these clients, Ended, have done has arrived at the other side: who starts before cannot know."""
        deadline = time.monotonic() + DEADLINE
        while any(server_side(client) for client in ended):
            if time.monotonic() >= deadline:
                raise AssertionError('connections were closed, and their other sides do not notice')
            self.pump(0.001)

    def wait_unread(self, conn):
        """The same for something that a client has said."""
        deadline = time.monotonic() + DEADLINE
        while (state := server_side(conn.sock)) and not state.unread:
            if time.monotonic() >= deadline:
                raise AssertionError('what was sent did not arrive')
            self.pump(0.001)

    # --- its store

    def stored(self, name):
        """The descriptor that is stored under a name."""
        self.notify.drain()
        return next(fd for fd, stored in self.notify.store if stored == name)

    @contextlib.contextmanager
    def lot_end(self, number, end):
        """A socket object for one end of a parking lot."""
        with socket.socket(fileno=os.dup(self.stored(f'epmd-lot-{number}-{end}'))) as sock:
            yield sock

    def in_flight(self):
        """How many descriptors are parked, in both lots."""
        total = 0
        for number in range(2):
            with open(f'/proc/self/fdinfo/{self.stored(f"epmd-lot-{number}-out")}', encoding='ascii') as info:
                total += int(re.search(r'scm_fds:\s*(\d+)', info.read())[1])
        return total

    def queued_bytes(self):
        """The memory of what is queued in both lots, as the kernel accounts it."""
        total = 0
        for number in range(2):
            raw = fcntl.ioctl(self.stored(f'epmd-lot-{number}-in'), termios.TIOCOUTQ, bytes(4))
            total += struct.unpack('i', raw)[0]
        return total


class ManagerCase(Case):
    """A test with managers, and many nodes."""

    def setUp(self):
        super().setUp()
        self.managers = []

    def manage(self, *args, start=True, **how):
        manager = Manager(self, *args, **how)
        self.managers.append(manager)
        return manager.start() if start else manager

    def begin(self, manager, name, source=None, **fields):
        """Sends a registration, and leaves the answer for later."""
        conn = Conn(manager.address, source=source)
        self.conns.append(conn)
        self.addCleanup(conn.close)
        conn.name, conn.fields = to_bytes(name), fields
        return conn.send(alive2(name, **fields))

    def finish(self, conn):
        """Takes the answer: True when the node is registered, False when the connection was closed instead."""
        size = 6 if conn.fields.get('high', 6) >= 6 else 4
        reply = conn.recv(size)
        if not reply:
            return False
        parsed = parse_alive2(reply)
        self.assertEqual(parsed.result, 0, f'result of the registration of {conn.name!r}')
        conn.creation = parsed.creation
        return True

    def node(self, manager, name, **fields):
        """A registered node."""
        conn = self.begin(manager, name, **fields)
        self.assertTrue(self.finish(conn), f'the registration of {conn.name!r} was not answered')
        return conn

    def nodes(self, manager, count, prefix='n', first_port=10000, **fields):
        """Many at once, so that the daemon gets bursts."""
        found = []
        for start in range(0, count, 100):
            burst = [self.begin(manager, f'{prefix}{i}', port=first_port + i, **fields)
                     for i in range(start, min(start + 100, count))]
            for conn in burst:
                self.assertTrue(self.finish(conn), f'the registration of {conn.name!r} was not answered')
            manager.daemon.err.drain()
            found += burst
        return found

    def all_answers(self, manager, nodes):
        """What the daemon says of all of them, byte for byte."""
        return [manager.ask(names())] + [manager.ask(port2(conn.name)) for conn in nodes]

    def assert_unnoticed(self, conns):
        """No byte came, and no end."""
        noticed = [conn.name for conn in readable(conns, 0)]
        self.assertEqual(noticed, [], 'nodes that noticed something')

    def assert_ends(self, conn):
        """The daemon ends the connection, without a byte; or the manager does, which lets go of what it has stored."""
        for manager in self.managers:
            manager.notify.drain()
        self.assert_silent_close(conn)


def creations_in_log(text):
    """The creation of each name, from the table that -d -d -d prints at every change; the last one counts."""
    return {match[1].encode(): int(match[2])
            for match in re.finditer(r': +(\S+) at port \d+, creation (\d+), fd', text)}


def _tcp_rows():
    with open('/proc/net/tcp', encoding='ascii') as table:
        next(table)
        return [row.split() for row in table]


def half_closed(port):
    """Connections to the port whose other end has never answered their FIN."""
    return [row for row in _tcp_rows() if int(row[2].rsplit(':', 1)[1], 16) == port and row[3] == TCP_FIN_WAIT2]


def served(port):
    """The connections on the side of the port, but for those that only wait for stray packets."""
    return [row for row in _tcp_rows()
            if int(row[1].rsplit(':', 1)[1], 16) == port and row[3] not in (TCP_TIME_WAIT, TCP_LISTEN)]


def memory_of(pid):
    """VmRSS in KiB."""
    with open(f'/proc/{pid}/status', encoding='ascii', errors='replace') as status:
        return int(re.search(r'VmRSS:\s*(\d+)', status.read())[1])

