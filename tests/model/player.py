# SPDX-License-Identifier: Apache-2.0
"""Plays steps of a conversation with an epmd, as its service manager and as all of its clients, and tells what came.

It needs nothing but Python and Linux, and knows nothing of what should come: a script that reproduces a failure begins with
this text.

A step is a dict: its `ops` are done one after the other, none waits for the answer to another, and `look` says of which
connections the outcome is then waited for. An op is a tuple:

    ('send', conn, peer, pieces, then)  on a connection, made if there is none; then: stay, half, close or reset
    ('half', conn), ('close', conn), ('reset', conn)
    ('pause', seconds)

A step with a `signal` ends the process by it, or has it start its program anew (SIGHUP), once the ops are begun; those in
`down` come while there is no process, and the next one is started.
"""

import collections
import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import struct
import tempfile
import time

TCP_LISTEN = '0A'
PATIENCE = 10.0  # seconds that anything may take at most; it only ends failures
LIBC = ctypes.CDLL(None, use_errno=True)
ESTABLISHED, SYN_RECEIVED, CLOSE_WAIT = 1, 3, 8
Seen = collections.namedtuple('Seen', 'reply end')  # end: open, eof, reset or late


class Ended(Exception):
    """The daemon has ended although nobody told it to."""


def private_network():
    """Moves this process into a network of its own, where lo has addresses that are remote to each other. True if it can."""
    if LIBC.unshare(0x40000000 if os.geteuid() == 0 else 0x50000000) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack('16sh14x', b'lo', 0x41))
        for alias, host in ((b'lo:1', '192.0.2.1'), (b'lo:2', '192.0.2.2'), (b'lo:3', '198.51.100.3')):
            address = struct.pack('=HH4s8x', socket.AF_INET, 0, socket.inet_aton(host))
            fcntl.ioctl(control, 0x8916, struct.pack('16s16s', alias, address))
    return True


def family_of(host):
    return socket.AF_INET6 if ':' in host else socket.AF_INET


def listen_on(host):
    """A listening socket with a free port, as a service manager would make it; on :: it takes IPv4 as well."""
    sock = socket.socket(family_of(host))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if host == '::':
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((host, 0))
    sock.listen(4096)
    return sock


def server_side(ends):
    """What the kernel knows of the other end of a connection: (state, bytes unread, inode), or None when it is gone."""
    family, here, there = ends
    packed = [socket.inet_pton(family, host).ljust(16, b'\0') for host, _port in (there, here)]
    body = struct.pack('=BBBBI', family, socket.IPPROTO_TCP, 0, 0, 0xffffffff) + struct.pack('>HH', there[1], here[1])
    body += packed[0] + packed[1] + struct.pack('=III', 0, 0xffffffff, 0xffffffff)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:
        netlink.settimeout(PATIENCE)
        netlink.send(struct.pack('=IHHII', 16 + len(body), 20, 1, 1, 0) + body)
        answer = netlink.recv(4096)
    if struct.unpack_from('=H', answer, 4)[0] == 2:
        return None
    _expires, unread, _unsent, _uid, inode = struct.unpack_from('=IIIII', answer, 16 + 4 + 48)
    return answer[17], unread, inode


def readable(fds, seconds):
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _event in poll.poll(max(0, seconds) * 1000)}


class Link:
    """One connection of a client. Of what goes wrong with it only the end counts."""

    def __init__(self, peer, port):
        source, target, user = peer
        self.sock = self._socket(family_of(source), user)
        self.sock.settimeout(PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.bind((source, 0))
        self.sock.connect((target, port))
        here, there = self.sock.getsockname()[:2], (target, port)
        self.ends = self.sock.family, here, there
        # What listens on :: has IPv4 clients under their mapped addresses.
        self.mapped = socket.AF_INET6, ('::ffff:' + here[0], here[1]), ('::ffff:' + target, port)

    @staticmethod
    def _socket(family, user):
        """It belongs to whoever makes it."""
        if user == os.geteuid():
            return socket.socket(family)
        own = os.geteuid()
        os.seteuid(user)
        try:
            return socket.socket(family)
        finally:
            os.seteuid(own)

    def server_side(self):
        found = server_side(self.ends)
        return found or (server_side(self.mapped) if self.ends[0] == socket.AF_INET else None)

    def has_arrived(self):
        """Whether the other side knows that this one has ended."""
        found = self.server_side()
        return not found or found[0] not in (ESTABLISHED, SYN_RECEIVED)

    def is_closed(self):
        """Whether the daemon has closed it, after this side had."""
        found = self.server_side()
        return not found or found[0] not in (ESTABLISHED, SYN_RECEIVED, CLOSE_WAIT)

    def is_consumed(self):
        """Whether the daemon has accepted it and read all that was sent, or has closed it."""
        found = self.server_side()
        return not found or found[0] not in (ESTABLISHED, SYN_RECEIVED) or (found[2] != 0 and found[1] == 0)

    def send(self, pieces):
        for piece in pieces:
            with contextlib.suppress(OSError):
                self.sock.sendall(piece)

    def half_close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self, reset=False):
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.sock.close()

    def read(self, deadline, is_whole=lambda data: False):
        """What comes until the end, until it is whole, or until it is late."""
        data = b''
        while not is_whole(data):
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                piece = self.sock.recv(1 << 16)
            except TimeoutError:
                return Seen(data, 'late')
            except OSError as error:
                return Seen(data, 'reset' if error.errno == errno.ECONNRESET else str(error))
            if not piece:
                return Seen(data, 'eof')
            data += piece
        return Seen(data, 'open')


class Player:
    """One daemon after the other, on the same socket, store and runtime directory, and their clients."""

    def __init__(self, program, args=(), listen='127.0.0.1', refused_ends=True, patience=PATIENCE):
        """patience: seconds to wait for what is to be read."""
        self.argv = [program, '-systemd', *args]
        self.refused_ends, self.patience = refused_ends, patience
        self.links, self.fired, self.store = {}, [], []
        self.pid = self.pidfd = self.status = None
        # First, as the address may not be one of this host.
        self.listener = listen_on(listen)
        self.directory = tempfile.mkdtemp(prefix='epmd-model.')
        os.mkdir(os.path.join(self.directory, 'run'), 0o700)
        self.log = os.path.join(self.directory, 'log')
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(os.path.join(self.directory, 'notify'))
        self.told = []
        self.port = self.listener.getsockname()[1]
        # Upstream does not ask its socket for the port that NAMES is to say; ours ignores it here.
        self.argv += ['-port', str(self.port)]
        self.home = ('127.0.0.1', '127.0.0.1', os.geteuid())

    # --- its processes

    def start(self):
        """Starts a process, and waits until it serves."""
        self.drain()
        self.told.clear()
        passed = [(self.listener.fileno(), 'epmd.socket')] + self.store
        env = {key: value for key, value in os.environ.items() if not key.startswith(('ERL_EPMD_', 'EPMD_', 'LISTEN_'))}
        env.update(LC_ALL='C', LISTEN_FDS=str(len(passed)), LISTEN_FDNAMES=':'.join(name for _fd, name in passed),
                   NOTIFY_SOCKET=self.notify.getsockname(), RUNTIME_DIRECTORY=os.path.join(self.directory, 'run'))
        self.status = None
        self.pid = os.fork()
        if self.pid == 0:
            self._become(env, [fd for fd, _name in passed])
        self.pidfd = os.pidfd_open(self.pid)
        self.wait_told('READY=1')
        return self

    def _become(self, env, fds):
        """In the child: never returns."""
        try:
            LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            # First out of the way, then into place: a source may have the number of another one's place.
            for place, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds], 3):
                os.dup2(fd, place)
            env['LISTEN_PID'] = str(os.getpid())
            os.execve(self.argv[0], self.argv, env)
        finally:
            os._exit(127)

    def drain(self):
        """Hears what the process notifies, and keeps what it wants to be kept."""
        while readable([self.notify], 0):
            data, fds, _flags, _address = socket.recv_fds(self.notify, 1 << 16, 64)
            lines = data.decode().splitlines()
            self.told += lines
            name = next((line[7:] for line in lines if line.startswith('FDNAME=')), 'stored')
            if 'FDSTORE=1' in lines:
                self.store += [(fd, name) for fd in fds]
            for fd in [] if 'FDSTORE=1' in lines else fds:
                os.close(fd)
            if 'FDSTOREREMOVE=1' in lines:
                for fd, _name in [item for item in self.store if item[1] == name]:
                    os.close(fd)
                self.store = [item for item in self.store if item[1] != name]

    def wait(self, condition, what):
        """Waits for a condition that polling finds; gives whether it came."""
        deadline, nap = time.monotonic() + PATIENCE, 0
        while not condition():
            if time.monotonic() >= deadline:
                return False
            # The first look is mostly late enough.
            readable([self.notify], nap)
            nap = min(0.002, nap + 0.0002)
            self.drain()
            self.check_alive(what)
        return True

    def wait_told(self, line):
        """Waits for a notification, which is then forgotten."""
        if not self.wait(lambda: line in self.told, line):
            raise Ended(f'no {line} was notified within {PATIENCE} s')
        del self.told[:self.told.index(line) + 1]

    def check_alive(self, what=''):
        if self.pidfd is not None and readable([self.pidfd], 0):
            raise Ended(f'the daemon ended{what and " before " + what} with status {self.reap()}')

    def reap(self):
        """Waits for the end of the process; gives its status, negative for a signal."""
        if self.status is None:
            deadline = time.monotonic() + PATIENCE
            while not readable([self.pidfd], 0.01):
                self.drain()
                if time.monotonic() >= deadline:
                    raise Ended(f'the daemon did not end within {PATIENCE} s')
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self.pidfd)
            self.pidfd = None
            self.drain()
        return self.status

    def said(self, lines=20):
        """The last lines of its log."""
        if not os.path.exists(self.log):
            return []
        with open(self.log, encoding='utf-8', errors='backslashreplace') as log:
            return log.read().splitlines()[-lines:]

    def close(self):
        """The end of everything; without regard for what the process thinks of it."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.reap()
        for link in self.links.values():
            link.close()
        for fd, _name in self.store:
            os.close(fd)
        self.listener.close()
        self.notify.close()
        shutil.rmtree(self.directory)

    # --- its clients

    def play(self, step):
        """Does one step; gives what was seen of each connection that is to be looked at."""
        self.fired = []
        self.drain()
        for op in step['ops']:
            self._do(op)
        if 'signal' in step:
            self._next_process(step)
        seen = {conn: self._look(conn, how) for conn, how in step['look'].items()}
        self._settle(step.get('absent', ()))
        self.check_alive()
        return seen

    def _do(self, op):
        kind, conn, *rest = op
        if kind == 'pause':
            time.sleep(conn)
            return
        if kind == 'send':
            peer, pieces, kind = rest
            if conn not in self.links:
                self.links[conn] = Link(peer, self.port)
            self.links[conn].send(pieces)
        link = self.links.get(conn)
        if not link or kind == 'stay':
            return
        if kind == 'half':
            link.half_close()
        else:
            link.close(reset=kind == 'reset')
            self.fired.append((link, kind))
            del self.links[conn]
        # So that it has happened before what comes next.
        self.wait(link.has_arrived, 'the end of a connection arrived')

    def _next_process(self, step):
        if step['signal'] == signal.SIGHUP:
            self.told.clear()
            signal.pidfd_send_signal(self.pidfd, signal.SIGHUP)
        else:
            if step['signal']:
                signal.pidfd_send_signal(self.pidfd, step['signal'])
            status = self.reap()
            # Told to by a request ours says that it need not be started again.
            if status not in {0: (0, 77), signal.SIGTERM: (0,)}.get(step['signal'], (-step['signal'],)):
                raise Ended(f'the daemon ended with status {status} after signal {step["signal"]}')
        for op in step['down']:
            self._do(op)
        if step['signal'] == signal.SIGHUP:
            self.wait_told('RELOADING=1')
            self.wait_told('READY=1')
        else:
            self.start()

    def _look(self, conn, how):
        """How: quiet (all was read, nothing came), end (it ends), answer (it ends, or a registration does not)."""
        link = self.links.get(conn)
        if not link:
            return None
        if how == 'quiet':
            self.wait(link.is_consumed, 'it had read a request')
            if not readable([link.sock], 0):
                return Seen(b'', 'open')
        seen = link.read(time.monotonic() + self.patience, self._is_whole if how == 'answer' else lambda data: False)
        if seen.end != 'open':
            link.close()
            del self.links[conn]
        return seen

    def _is_whole(self, data):
        """A reply after which the connection stays. It comes in one piece: clients take no other."""
        return data[:2] in (b'\x76\0', b'\x79\0') or (not self.refused_ends and data[:2] in (b'\x76\1', b'\x79\1'))

    def noticed(self, conns):
        """Those of the connections on which anything has come."""
        fds = {self.links[conn].sock.fileno(): conn for conn in conns if conn in self.links}
        return sorted(fds[fd] for fd in readable(fds, 0))

    def _settle(self, absent):
        """Waits until the daemon has read the ends of connections. Of one that was reset the kernel knows no more, and a close is
        a reset where there was something left to read."""
        for link, kind in self.fired:
            if kind == 'close':
                self.wait(link.is_closed, 'the end of a connection was read')
        if self.fired:
            for _turn in range(2):
                self.ask(b'\0\1n', split=True)
        # Not by look-ups: upstream cannot be asked for the longest names.
        lines = [b'name ' + name + b' at port ' for name in absent]
        if lines:
            self.wait(lambda: not any(line in self.ask(b'\0\1n').reply for line in lines), 'names were gone')

    def ask(self, packet, split=False, half=False):
        """One request of this host; in two parts it comes through the loop and not at once with its connection. half: it is
        the end of what is said, so that a node ends too."""
        link = Link(self.home, self.port)
        if split:
            link.send([packet[:1]])
            self.wait(link.is_consumed, 'it had read a byte')
            link.send([packet[1:]])
        else:
            link.send([packet])
        if half:
            link.half_close()
        seen = link.read(time.monotonic() + self.patience)
        link.close()
        return seen

    def _connections(self):
        """How many connections the process holds, as the kernel knows them."""
        with open('/proc/net/tcp', encoding='ascii') as table:
            rows = [row.split() for row in table][1:]
        return sum(int(row[1].rsplit(':', 1)[1], 16) == self.port and row[3] != TCP_LISTEN and row[9] != '0' for row in rows)

    def descriptors(self):
        """How many descriptors of each kind the process holds when it has no connection any more: the end of one reaches its
        peer before it is closed. The timer of its loop may come later."""
        deadline = time.monotonic() + PATIENCE
        while self._connections() and time.monotonic() < deadline:
            readable([self.notify], 0.001)
        kinds = collections.Counter()
        for fd in os.listdir(f'/proc/{self.pid}/fd'):
            with contextlib.suppress(OSError):
                kinds[re.sub(r':\[?\d+\]?$', '', os.readlink(f'/proc/{self.pid}/fd/{fd}'))] += 1
        kinds.pop('anon_inode:[timerfd]', None)
        return kinds
