# SPDX-License-Identifier: Apache-2.0
"""What the tests of the running daemon share: processes, connections, packets, and cleaning up after them.

A test case derives from Case. Case.start() gives a daemon that serves; everything a test opens through its case is
closed when it ends, every process is ended and reaped, and a daemon under test must then hold exactly the descriptors
that it held before, and end with status 0 on SIGTERM.
"""

import collections
import contextlib
import ctypes
import errno
import fcntl
import functools
import glob
import os
import pickle
import re
import resource
import select
import shutil
import signal
import socket
import struct
import tempfile
import time
import traceback
import unittest

import tap
from tap import LIBC, PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, prctl

# The longest time that anything which should happen "at once" may take: generous, because it only ends failures. A daemon
# under valgrind takes some times as long.
DEADLINE = 10.0 * tap.PATIENCE

LISTEN_FDS_START = 3
DESCRIBED_LINES = 20
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

# What the surroundings of the test may carry that would change what a daemon does.
PRIVATE_ENV = ('ERL_EPMD_', 'NOTIFY_SOCKET', 'LISTEN_', 'WATCHDOG_', 'JOURNAL_STREAM', 'INVOCATION_ID')


def _find_program():
    """The program under test: $EPMD, or epmd in the build directory, which is build/ when none is named."""
    path = os.environ.get('EPMD')
    if not path:
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
        path = os.path.join(os.environ.get('TOP_BUILDDIR') or os.path.join(source, 'build'), 'epmd')
    path = os.path.abspath(path)
    if not os.access(path, os.X_OK):
        tap.bail_out(f'{path} is no program: build it first, or say EPMD=/path/to/epmd')
    return path


def _find_upstream():
    """The epmd of Erlang/OTP where its package is installed, or None."""
    found = sorted(glob.glob('/usr/lib/erlang/erts-*/bin/epmd'))
    return found[-1] if found else None


EPMD = _find_program()
UPSTREAM = _find_upstream()
# The tests can be tried on upstream itself: then the rows of protocol.md that differ fail, and only those.
TESTING_UPSTREAM = UPSTREAM is not None and os.path.realpath(EPMD) == os.path.realpath(UPSTREAM)


# What a daemon leaves behind when it goes to the background comes back to the test as its child, to be reaped here.
prctl(PR_SET_CHILD_SUBREAPER, 1)

# --- packets ---------------------------------------------------------------------------------------------------------

MAX_BODY = 3057
ALIVE2, PORT2, NAMES, DUMP, KILL, STOP = b'x', b'z', b'n', b'd', b'k', b's'


def frame(body):
    return struct.pack('>H', len(body)) + body


def to_bytes(name):
    return name if isinstance(name, bytes) else name.encode()


def alive2_body(name, port=4711, node_type=77, protocol=0, high=6, low=6, extra=b'', nlen=None, elen=None):
    """The body of ALIVE2_REQ; nlen and elen lie about the lengths when given."""
    name = to_bytes(name)
    nlen = len(name) if nlen is None else nlen
    elen = len(extra) if elen is None else elen
    head = struct.pack('>cHBBHHH', ALIVE2, port, node_type, protocol, high, low, nlen)
    return head + name + struct.pack('>H', elen) + extra


def alive2(name, **fields):
    return frame(alive2_body(name, **fields))


def port2(name):
    return frame(PORT2 + to_bytes(name))


def names():
    return frame(NAMES)


def dump():
    return frame(DUMP)


def kill():
    return frame(KILL)


def stop(name):
    return frame(STOP + to_bytes(name))


Registered = collections.namedtuple('Registered', 'tag result creation')
Found = collections.namedtuple('Found', 'port node_type protocol high low name extra')
Names = collections.namedtuple('Names', 'port nodes')


def parse_alive2(reply):
    """The registration reply, in either of its two forms; anything else is an error."""
    if len(reply) == 6 and reply[0] == 118:
        return Registered(*struct.unpack('>BBI', reply))
    if len(reply) == 4 and reply[0] == 121:
        return Registered(*struct.unpack('>BBH', reply))
    raise AssertionError(f'no ALIVE2 reply: {reply!r}')


def parse_port2(reply):
    """The look-up reply: None when the name is unknown; a reply that is not complete to the byte is an error."""
    if reply == b'\x77\x01':
        return None
    if len(reply) < 14 or reply[:2] != b'\x77\x00':
        raise AssertionError(f'no PORT2 reply: {reply!r}')
    port, node_type, protocol, high, low, nlen = struct.unpack_from('>HBBHHH', reply, 2)
    name = reply[12:12 + nlen]
    (elen,) = struct.unpack_from('>H', reply, 12 + nlen)
    extra = reply[14 + nlen:]
    if len(name) != nlen or len(extra) != elen:
        raise AssertionError(f'PORT2 reply with wrong lengths: {reply!r}')
    return Found(port, node_type, protocol, high, low, name, extra)


def parse_names(reply):
    """The port and the (name, port) pairs of a NAMES reply, in the order in which they came."""
    if len(reply) < 4:
        raise AssertionError(f'no NAMES reply: {reply!r}')
    nodes = []
    for line in reply[4:].split(b'\n')[:-1]:
        match = re.fullmatch(rb'name (.+) at port (\d+)', line)
        if not match:
            raise AssertionError(f'no line of NAMES: {line!r}')
        nodes.append((match[1], int(match[2])))
    if reply[4:] and not reply.endswith(b'\n'):
        raise AssertionError(f'NAMES ends in the middle of a line: {reply[-80:]!r}')
    return Names(struct.unpack('>I', reply[:4])[0], nodes)


# --- sockets ---------------------------------------------------------------------------------------------------------

def readable(things, timeout):
    """Those of the things that have something to read, or an end, within the time; as many things as one likes."""
    by_fd = {thing if isinstance(thing, int) else thing.fileno(): thing for thing in things}
    poll = select.poll()
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    return [by_fd[fd] for fd, _event in poll.poll(max(0, timeout) * 1000)]


def family_of(host):
    if host.startswith('/'):
        return socket.AF_UNIX
    return socket.AF_INET6 if ':' in host else socket.AF_INET


def has_ipv6():
    """Whether ::1 can be used here."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(('::1', 0))
        return True
    except OSError:
        return False


def listener(host='127.0.0.1', port=0, kind=socket.SOCK_STREAM, listen=True, dual_stack=False, backlog=4096):
    """A socket bound to host (an address, or a path for AF_UNIX), as a service manager would make it."""
    family = family_of(host)
    sock = socket.socket(family, kind)
    if family == socket.AF_UNIX:
        sock.bind(host)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual_stack else 1)
        sock.bind((host, port))
    if listen:
        sock.listen(backlog)
    return sock


def port_of(sock):
    return sock.getsockname()[1]


class ReservedPort:
    """A TCP port that nobody else is given while this lives, on which a daemon can listen all the same.

    The kernel lets two sockets share a port when both have SO_REUSEADDR and at most one listens; this one never does.
    """

    def __init__(self):
        self.sockets = []
        while not self.sockets:
            with contextlib.ExitStack() as stack:
                first = stack.enter_context(listener('0.0.0.0', listen=False))
                self.number = port_of(first)
                held = [first]
                if has_ipv6():
                    try:
                        held.append(stack.enter_context(listener('::', self.number, listen=False)))
                    except OSError as error:
                        if error.errno != errno.EADDRINUSE:
                            raise
                        continue
                stack.pop_all()
                self.sockets = held

    def close(self):
        for sock in self.sockets:
            sock.close()


class Conn:
    """One connection of a test to a daemon. Every wait has a deadline."""

    def __init__(self, address, source=None, device=None, rcvbuf=None, timeout=DEADLINE):
        self.family = socket.AF_UNIX if isinstance(address, str) else family_of(address[0])
        self.end = None
        self.sock = socket.socket(self.family, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if source:
            self.sock.bind((source, 0))
        if device:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if self.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect(address)

    def fileno(self):
        return self.sock.fileno()

    def send(self, data):
        self.sock.sendall(data)
        return self

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def recv(self, count):
        """Exactly count bytes, or what came before the end."""
        data = bytearray()
        while len(data) < count:
            piece = self._piece(count - len(data))
            if not piece:
                break
            data += piece
        return bytes(data)

    def recv_once(self, count=65536):
        """What one recv() gives: the way clients read a reply that must come in one piece."""
        return self._piece(count)

    def read_all(self):
        """Every byte until the server ends the connection; self.end says how: 'eof' or 'reset'."""
        data = bytearray()
        while piece := self._piece(65536):
            data += piece
        return bytes(data)

    def _piece(self, count):
        try:
            piece = self.sock.recv(count)
        except ConnectionResetError:
            self.end = 'reset'
            return b''
        except TimeoutError:
            seconds = self.sock.gettimeout()
            raise AssertionError(f'nothing came and nobody closed the connection within {seconds} s') from None
        if not piece:
            self.end = 'eof'
        return piece

    def has_ended(self):
        """Whether the server has closed the connection by now; does not wait, takes no data."""
        if not readable([self], 0):
            return False
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b''
        except ConnectionResetError:
            return True

    def wait_consumed(self):
        """Waits until the daemon has accepted this connection and read all that was sent, or has closed it."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            state = server_side(self.sock)
            if state is None or (state.inode != 0 and state.unread == 0):
                return self
            readable([self], 0.001)
        raise AssertionError('the daemon has not read what was sent')

    def reset(self):
        """Ends the connection by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()


TCP_ESTABLISHED, TCP_SYN_RECV = 1, 3
ServerSide = collections.namedtuple('ServerSide', 'unread inode')


def server_side(client):
    """What the kernel knows about the server's end of a connection; None when it is gone or closing.

    The inode is 0 until the server has accepted it.
    """
    try:
        state = _diag(client) if _has_diag() else _row_of(client)
    except OSError as error:
        # Where the server has reset it, it has no peer any more.
        if error.errno != errno.ENOTCONN:
            raise
        return None
    return state[1] if state and state[0] in (TCP_ESTABLISHED, TCP_SYN_RECV) else None


NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, NLMSG_ERROR = 4, 20, 1, 2


def _diag(client):
    """Asks sock_diag for the peer of a socket: at once, however many others there are. (state, ServerSide) or None."""
    ends = client.getpeername(), client.getsockname()
    address = [socket.inet_pton(client.family, end[0]).ljust(16, b'\0') for end in ends]
    ports = struct.pack('>HH', *[end[1] for end in ends])
    body = struct.pack('=BBBBI', client.family, socket.IPPROTO_TCP, 0, 0, 0xffffffff) + ports + b''.join(address)
    body += struct.pack('=III', 0, 0xffffffff, 0xffffffff)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(DEADLINE)
        netlink.send(struct.pack('=IHHII', 16 + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + body)
        answer = netlink.recv(4096)
    if struct.unpack_from('=H', answer, 4)[0] == NLMSG_ERROR:
        return None
    _expires, unread, _unsent, _uid, inode = struct.unpack_from('=IIIII', answer, 16 + 4 + 48)
    return answer[17], ServerSide(unread, inode)


@functools.cache
def _has_diag():
    """Whether the kernel answers sock_diag: the module may be missing."""
    with listener() as server, socket.create_connection(server.getsockname()) as client:
        try:
            return _diag(client) is not None
        except OSError:
            return False


def _row_of(client):
    """The same from /proc, which lists every socket there is."""
    wanted = client.getpeername()[1], client.getsockname()[1]
    for path in ('/proc/net/tcp', '/proc/net/tcp6'):
        if not os.path.exists(path):
            continue
        with open(path, encoding='ascii') as table:
            next(table)
            for row in table:
                field = row.split()
                if tuple(int(end.rsplit(':', 1)[1], 16) for end in field[1:3]) == wanted:
                    return int(field[3], 16), ServerSide(int(field[4].split(':')[1], 16), int(field[9]))
    return None


def listening_inodes(port):
    """The inodes of the sockets that listen on a TCP port."""
    found = set()
    for path in ('/proc/net/tcp', '/proc/net/tcp6'):
        if not os.path.exists(path):
            continue
        with open(path, encoding='ascii') as table:
            next(table)
            for row in table:
                field = row.split()
                if field[3] == '0A' and int(field[1].rsplit(':', 1)[1], 16) == port:
                    found.add(field[9])
    return found


def _offspring():
    """The processes of this test: its children, to which belongs what they left in the background."""
    path = f'/proc/{os.getpid()}/task/{os.getpid()}/children'
    if os.path.exists(path):
        with open(path, encoding='ascii') as children:
            return children.read().split()
    return [path.split('/')[2] for path in glob.glob('/proc/[0-9]*')]


def pids_listening(port):
    """The processes of this test that hold a listening socket on the port, without itself."""
    wanted = {f'socket:[{inode}]' for inode in listening_inodes(port)}
    found = set()
    for pid in _offspring():
        for path in glob.glob(f'/proc/{pid}/fd/*'):
            with contextlib.suppress(OSError):
                if os.readlink(path) in wanted:
                    found.add(int(pid))
    return sorted(found - {os.getpid()})


# --- processes -------------------------------------------------------------------------------------------------------

def clean_env(extra=None):
    env = {key: value for key, value in os.environ.items() if not key.startswith(PRIVATE_ENV)}
    env['LC_ALL'] = 'C'
    env.update(extra or {})
    return env


class Stream:
    """The reading end of a pipe from a process, and all that came through it."""

    def __init__(self):
        self.fd, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.fd, False)
        # A daemon must not wait for the test to read its log; where the size is not granted the default has to do.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.data = bytearray()
        self.eof = False

    def close_writer(self):
        os.close(self.writer)

    def drain(self):
        while not self.eof:
            try:
                piece = os.read(self.fd, 65536)
            except BlockingIOError:
                return
            self.data += piece
            self.eof = not piece

    def close(self):
        if self.fd >= 0:
            self.drain()
            os.close(self.fd)
            self.fd, self.eof = -1, True

    def text(self):
        return self.data.decode(errors='backslashreplace')


class Process:
    """A program that the test started: its output, its end, and the certainty that it is reaped."""

    def __init__(self, argv, env=None, fds=(), own_pid=(), limits=()):
        """own_pid names the variables that are to hold the process's own id; fds become 3, 4, and so on."""
        self.argv = [str(word) for word in argv]
        self.status = None
        self.out, self.err = Stream(), Stream()
        # Python warns about fork() beside threads; there are none here.
        self.pid = os.fork()
        if self.pid == 0:
            self._become(clean_env(env), list(fds), own_pid, limits)
        self.out.close_writer()
        self.err.close_writer()
        self.pidfd = os.pidfd_open(self.pid)

    def _become(self, env, fds, own_pid, limits):
        """In the child: never returns."""
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.setitimer(signal.ITIMER_REAL, 0)
            with open(os.devnull, 'rb') as null:
                os.dup2(null.fileno(), 0)
            os.dup2(self.out.writer, 1)
            os.dup2(self.err.writer, 2)
            # First out of the way, then into place: a source may have the number of another one's place.
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
            for place, fd in enumerate(high, LISTEN_FDS_START):
                os.dup2(fd, place)
            for name in own_pid:
                env[name] = str(os.getpid())
            for kind, soft, hard in limits:
                resource.setrlimit(kind, (soft, hard))
            os.execve(self.argv[0], self.argv, env)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(127)

    def pump(self, timeout):
        """Takes output; returns after an event or the time-out, True when the process has ended."""
        ready = readable([self.pidfd] + self.sources(), timeout)
        self.drain()
        return self.pidfd in ready

    def sources(self):
        """What has output to take, as long as it can have any."""
        return [stream.fd for stream in (self.out, self.err) if not stream.eof]

    def drain(self):
        """Takes the output that is there, so that the process never waits for this one."""
        self.out.drain()
        self.err.drain()

    def wait(self, timeout=DEADLINE):
        """The exit status; negative for a signal. A process that does not end in time is an error."""
        if self.status is None:
            if not self.ends_within(timeout):
                raise AssertionError(f'{" ".join(self.argv)} did not end within {timeout} s')
        return self.status

    def ends_within(self, timeout):
        """Whether the process ends within the time: True at once when it does."""
        deadline = time.monotonic() + timeout
        while self.status is None:
            if self.pump(deadline - time.monotonic()):
                self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                self.drain()
            elif time.monotonic() >= deadline:
                return False
        return True

    def wait_stderr(self, pattern, timeout=DEADLINE):
        """Waits until stderr has a match for the pattern."""
        deadline = time.monotonic() + timeout
        while True:
            self.err.drain()
            if match := re.search(pattern, self.err.text()):
                return match
            if self.status is not None or time.monotonic() >= deadline:
                raise AssertionError(f'no {pattern!r} on stderr of {" ".join(self.argv)}')
            if self.pump(deadline - time.monotonic()):
                self.wait()

    def signal(self, number):
        signal.pidfd_send_signal(self.pidfd, number)

    def stop(self):
        """Has it stand still, until SIGCONT; the signal alone takes a moment to arrive."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def end(self):
        """Makes sure that it is gone, without regard for its status."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.wait()
        if self.pidfd >= 0:
            self.out.close()
            self.err.close()
            os.close(self.pidfd)
            self.pidfd = -1

    def describe(self):
        """What it said last, short enough to be read."""
        lines = [line[:120] for line in self.err.text().splitlines()]
        left_out = [f'({len(lines) - DESCRIBED_LINES} lines left out)'] if len(lines) > DESCRIBED_LINES else []
        head = f'stderr of {" ".join(self.argv)} (status {self.status}):'
        return '\n'.join([head, *left_out, *lines[-DESCRIBED_LINES:]])


class Notify:
    """A private NOTIFY_SOCKET: what a service tells its manager."""

    def __init__(self, directory):
        self.path = os.path.join(directory, 'notify')
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.messages = []
        self.taken = 0

    def fileno(self):
        return self.sock.fileno()

    def drain(self):
        """Takes in what has come. The kernel keeps only a few messages, and then makes their sender wait."""
        while self.sock.fileno() >= 0 and readable([self.sock], 0):
            data, fds, _flags, _address = socket.recv_fds(self.sock, 65536, 64)
            for fd in fds:
                os.close(fd)
            message = dict(line.split('=', 1) for line in data.decode().splitlines() if '=' in line)
            message['at'] = time.monotonic()
            self.messages.append(message)

    def next(self, timeout=DEADLINE):
        """The next message as a dict with its time of arrival under 'at', or None."""
        if self.taken == len(self.messages):
            readable([self.sock], timeout)
            self.drain()
        if self.taken == len(self.messages):
            return None
        self.taken += 1
        return self.messages[self.taken - 1]

    def wait(self, key, value=None, process=None, timeout=DEADLINE):
        """The next message that has the key (with that value); gives up when the process ends without it."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.next(0)
            if message is None and process and process.ends_within(0):
                # Its last words may have come in the meantime.
                message = self.next(0)
                if message is None:
                    raise AssertionError(f'{key} was never notified: the daemon ended with status {process.status}')
            if message and key in message and value in (None, message[key]):
                return message
            if time.monotonic() >= deadline:
                raise AssertionError(f'no {key} was notified within {timeout} s')
            # Looking after the process has taken in what has come meanwhile.
            if message is None and self.taken == len(self.messages):
                readable([self.sock] + ([process.pidfd] if process else []), deadline - time.monotonic())

    def close(self):
        self.sock.close()


def is_under_valgrind():
    return os.path.basename(EPMD) == 'valgrind'


def state_of(pid):
    """R: it runs; S: it sleeps; and so on."""
    with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as stat:
        return stat.read().rsplit(')', 1)[1].split()[0]


def descriptors(pid):
    """How many descriptors of each kind a process holds when it has done what it has to do: the end of a connection reaches
    its peer before it is closed."""
    deadline = time.monotonic() + DEADLINE
    while state_of(pid) == 'R':
        if time.monotonic() >= deadline:
            raise AssertionError(f'process {pid} did not come to rest within {DEADLINE} s')
        os.sched_yield()
    kinds = collections.Counter()
    for path in glob.glob(f'/proc/{pid}/fd/*'):
        with contextlib.suppress(OSError):
            kinds[re.sub(r':\[?\d+\]?$', '', os.readlink(path))] += 1
    return kinds


class Daemon(Process):
    """A serving epmd: addresses says where, the first one is where connect() goes."""

    def __init__(self, argv, addresses, notify=None, **how):
        self.addresses = addresses
        self.notify = notify
        self.before = None
        self.counted = False
        super().__init__(argv, **how)

    @property
    def port(self):
        return self.addresses[0][1]

    def sources(self):
        return super().sources() + ([self.notify] if self.notify else [])

    def drain(self):
        super().drain()
        if self.notify:
            self.notify.drain()

    def wait_ready(self):
        if self.notify:
            self.notify.wait('READY', '1', process=self)
            # After an answer it has surely closed the socket through which it notified.
            self.ask(names())
        else:
            for address in self.addresses:
                self._wait_connectable(address)
        self.before = descriptors(self.pid)
        return self

    def _wait_connectable(self, address):
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                with contextlib.closing(Conn(address)) as probe:
                    probe.send(names()).read_all()
                return
            except ConnectionRefusedError:
                if self.ends_within(0.002):
                    raise AssertionError(f'it ended with status {self.status} instead of listening') from None
                if time.monotonic() >= deadline:
                    raise

    def ask(self, packet, address=None):
        """One request, and all of the answer."""
        self.drain()
        with contextlib.closing(Conn(address or self.addresses[0])) as conn:
            return conn.send(packet).read_all()

    def names(self):
        return parse_names(self.ask(names())).nodes

    def lookup(self, name):
        return parse_port2(self.ask(port2(name)))

    def settle(self, condition, what):
        """Asks NAMES again and again until the condition holds: each answer is one more turn of the daemon's loop."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() >= deadline:
                raise AssertionError(f'after {DEADLINE} s still not: {what}')
            self.ask(names())

    def end(self):
        """A daemon that still runs here, and whose descriptors nobody has counted, is a mistake of the test."""
        forgotten = self.status is None and self.before is not None and not self.counted
        super().end()
        if forgotten:
            raise AssertionError(f'{" ".join(self.argv)}: nobody counted the descriptors that it held at the end')

    def leaked(self):
        """What it holds now that it did not hold when it was ready. The timer of the event loop may come later."""
        now = descriptors(self.pid)
        now.pop('anon_inode:[timerfd]', None)
        return now - self.before

    def cpu_seconds(self):
        with open(f'/proc/{self.pid}/stat', encoding='ascii', errors='replace') as stat:
            fields = stat.read().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


# --- test cases ------------------------------------------------------------------------------------------------------

class Case(unittest.TestCase):
    """A test with daemons and connections that end with it."""

    maxDiff = 4000

    def setUp(self):
        self.processes = []
        self.conns = []
        self.directory = tempfile.mkdtemp(prefix='epmdtest.')
        self.addCleanup(shutil.rmtree, self.directory)

    def diagnostics(self):
        for process in self.processes:
            process.drain()
        return '\n'.join(process.describe() for process in self.processes)

    def skip_under_valgrind(self, reason):
        if is_under_valgrind():
            self.skipTest(f'under valgrind: {reason}')

    def skip_where_memory_is_kept(self):
        """After it was freed: nothing can be said of how much there is."""
        self.skip_under_valgrind('it keeps what is freed')
        with open(EPMD, 'rb') as program:
            if b'__asan_init' in program.read():
                self.skipTest('AddressSanitizer keeps what is freed')

    def kept(self, process):
        self.processes.append(process)
        self.addCleanup(process.end)
        return process

    def closing(self, thing):
        self.addCleanup(thing.close)
        return thing

    def reserve(self):
        return self.closing(ReservedPort()).number

    def listener(self, *args, **kwargs):
        return self.closing(listener(*args, **kwargs))

    def new_notify(self):
        return self.closing(Notify(tempfile.mkdtemp(dir=self.directory)))

    def start(self, *args, listeners=None, env=None, limits=(), program=EPMD, notify=True, fd_names=None,
              watchdog_usec=None):
        """An activated daemon that is ready; its listeners are the test's, by default one on 127.0.0.1."""
        socks = listeners or [self.listener()]
        addresses = [sock.getsockname() for sock in socks]
        addresses = [where if isinstance(where, str) else where[:2] for where in addresses]
        own, variables = ['LISTEN_PID'], {'LISTEN_FDS': str(len(socks))}
        notify = self.new_notify() if notify else None
        if notify:
            variables['NOTIFY_SOCKET'] = notify.path
        if fd_names:
            variables['LISTEN_FDNAMES'] = ':'.join(fd_names)
        if watchdog_usec:
            variables['WATCHDOG_USEC'] = str(watchdog_usec)
            own.append('WATCHDOG_PID')
        variables.update(env or {})
        # Upstream does not ask its socket for the port that NAMES is to say.
        port = ['-port', port_of(socks[0])] if program == UPSTREAM and not isinstance(addresses[0], str) else []
        daemon = Daemon([program, '-systemd', *port, *args], addresses, notify=notify, env=variables, fds=socks,
                        own_pid=own, limits=limits)
        return self._ready(daemon)

    def start_foreground(self, *args, port=None, hosts=('127.0.0.1',), env=None, program=EPMD):
        """A daemon that binds its port itself."""
        port = port or self.reserve()
        daemon = Daemon([program, '-port', port, *args], [(host, port) for host in hosts], env=env)
        return self._ready(daemon)

    def _ready(self, daemon):
        self.kept(daemon)
        daemon.wait_ready()
        self.addCleanup(self._end_daemon, daemon)
        return daemon

    def _end_daemon(self, daemon):
        """The end of every daemon: nothing leaked, and SIGTERM ends it well."""
        daemon.counted = True
        if daemon.status is not None:
            return
        for conn in self.conns:
            conn.close()
        if daemon.before is not None:
            daemon.settle(lambda: not daemon.leaked(), 'only the descriptors that it had when it was ready')
        daemon.signal(signal.SIGTERM)
        status = daemon.wait()
        if not daemon.argv[0] == UPSTREAM:
            self.assertEqual(status, 0, 'exit status after SIGTERM')

    def run_command(self, *args, env=None, program=EPMD):
        """A command that runs to its end."""
        process = self.command(*args, env=env, program=program)
        process.wait()
        return process

    def command(self, *args, env=None, program=EPMD):
        return self.kept(Process([program, *args], env=env))

    def connect(self, daemon, address=None, **how):
        if daemon:
            # Where much is registered much is logged, and the daemon would wait for a full pipe.
            daemon.drain()
        conn = Conn(address or daemon.addresses[0], **how)
        self.conns.append(conn)
        self.addCleanup(conn.close)
        return conn

    def register(self, daemon, name, address=None, **fields):
        """A registered node: its connection, with the creation in conn.creation."""
        conn = self.connect(daemon, address=address).send(alive2(name, **fields))
        reply = parse_alive2(conn.recv(6 if fields.get('high', 6) >= 6 else 4))
        self.assertEqual(reply.result, 0, f'result of the registration of {name!r}')
        conn.creation = reply.creation
        return conn

    def assert_silent_close(self, conn):
        """The server ends the connection without a byte: by FIN, or by RST where it left input unread."""
        self.assertEqual(conn.read_all(), b'')

    def assert_reply(self, conn, expected):
        """The whole reply, and then a proper end."""
        self.assertEqual(conn.read_all(), expected)
        self.assertEqual(conn.end, 'eof', 'the way in which the connection ended')

    def assert_registered(self, daemon, *expected):
        """The registered names are exactly these, in any order; waits for the daemon to have seen what was sent."""
        wanted = sorted(to_bytes(name) for name in expected)
        found = None

        def matches():
            nonlocal found
            found = sorted(name for name, _port in daemon.names())
            return found == wanted

        try:
            daemon.settle(matches, '')
        except AssertionError:
            self.assertEqual(found, wanted, 'the registered names')


# --- a network of one's own ------------------------------------------------------------------------------------------

SIOCSIFFLAGS, SIOCSIFADDR = 0x8914, 0x8916
IFF_UP_RUNNING = 0x41
HERE_V4, OTHER_V4 = '192.0.2.1', '192.0.2.2'
HERE_V6, OTHER_V6 = '2001:db8::1', '2001:db8::2'


def add_addresses(prefix, hosts_v4, hosts_v6):
    """In a private network: gives lo more addresses, those of IPv4 as aliases that begin with the prefix (bytes)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for number, host in enumerate(hosts_v4):
            address = struct.pack('=HH4s8x', socket.AF_INET, 0, socket.inet_aton(host))
            fcntl.ioctl(control, SIOCSIFADDR, struct.pack('16s16s', b'lo:%s%d' % (prefix, number), address))
    if not has_ipv6():
        return
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        for host in hosts_v6:
            packed = socket.inet_pton(socket.AF_INET6, host)
            fcntl.ioctl(control, SIOCSIFADDR, struct.pack('=16sIi', packed, 128, socket.if_nametoindex('lo')))
    for host in hosts_v6:
        _wait_for_address(host)


def _wait_for_address(host):
    """The kernel takes an address of IPv6 into use when it finds the time."""
    deadline = time.monotonic() + DEADLINE
    while True:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            try:
                sock.bind((host, 0))
                return
            except OSError as problem:
                if problem.errno != errno.EADDRNOTAVAIL or time.monotonic() >= deadline:
                    raise
        time.sleep(0.001)


def _enter_private_network():
    """Moves this process into a network namespace where lo also has two addresses that are not loopback ones."""
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWNET | CLONE_NEWUSER
    if LIBC.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), 'unshare')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack('16sh14x', b'lo', IFF_UP_RUNNING))
    add_addresses(b'', (HERE_V4, OTHER_V4), (HERE_V6, OTHER_V6))


def private_network(method):
    """Runs a test method in a child with a network of its own; skips it where the kernel does not allow that.

    A connection between two of the addresses there is a remote one to the daemon, though it never leaves lo.
    """
    def run(self):
        if (why := _in_private_network(self, method)) is not None:
            self.skipTest(why)

    return functools.wraps(method)(run)


def own_network_if_possible(method):
    """The same for a test that leaves so many closed connections behind that others would be slowed down.

    The kernel remembers each for a minute, and lists them all in /proc/net/tcp. Where there can be no other network the test
    runs in the one that there is.
    """
    def run(self):
        if _in_private_network(self, method) is not None:
            method(self)

    return functools.wraps(method)(run)


def _in_private_network(case, method):
    """Runs it there to its end and fails if it did; otherwise None, or why it could not be run."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _run_in_private_network(case, method, writer)
    os.close(writer)
    with os.fdopen(reader, 'rb') as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    verdict, text = pickle.loads(data) if data else ('failed', 'the child ended without a verdict')
    if verdict == 'failed':
        case.fail(text)
    return text if verdict == 'skipped' else None


def _run_in_private_network(case, method, writer):
    """In the child: never returns."""
    verdict = 'failed', 'no verdict'
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, tap.TEST_LIMIT / 2, 1)
        try:
            _enter_private_network()
        except OSError as error:
            verdict = 'skipped', f'no network namespace can be made here: {error}'
        else:
            case._cleanups = []
            # Else a subTest would tell its failure to a result that ends with this process.
            case._outcome = None
            verdict = _verdict_of(case, method)
    finally:
        os.write(writer, pickle.dumps(verdict))
        os._exit(0)


def _verdict_of(case, method):
    """Runs the method with its cleanups; what went wrong, in words."""
    problems = []
    steps = [lambda: method(case)]
    while steps or case._cleanups:
        if steps:
            step = steps.pop()
        else:
            function, args, kwargs = case._cleanups.pop()
            step = lambda: function(*args, **kwargs)
        try:
            step()
        except unittest.SkipTest as skip:
            return 'skipped', str(skip)
        except BaseException:
            problems.append(traceback.format_exc())
    if problems:
        return 'failed', '\n'.join(problems + [case.diagnostics()])
    return 'passed', ''


def need_ipv6(case):
    if not has_ipv6():
        case.skipTest('no IPv6 here')


def raise_descriptor_limit(case, count):
    """Lets this test have many sockets, or skips it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        case.skipTest(f'needs {count} descriptors, the hard limit is {hard}')
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

