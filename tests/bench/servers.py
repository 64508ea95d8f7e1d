# SPDX-License-Identifier: Apache-2.0
"""The servers that the benchmark compares, and the load generator.

The servers have one processor and the load has another, where there are two: so nothing migrates, and a server pays for
being woken and for waking its peers, as it does with peers elsewhere. Whatever is started here ends with the process that
started it, whichever way that ends.
"""

import array
import contextlib
import ctypes
import glob
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

DEADLINE = 30   # seconds for anything to happen that happens at once
PR_SET_PDEATHSIG = 1
LISTEN_FDS_START = 3
NODES_MAX = 20000  # descriptors that a server gets at most: what the goals speak of

LIBC = ctypes.CDLL(None)
HERE = os.path.dirname(os.path.abspath(__file__))

running = []    # everything with a process, to be ended at the end


class Shortage(Exception):
    """It cannot be measured here."""


def prepare():
    """Looks for the programs, and chooses the processor."""
    for path in (program('EPMD', 'epmd'), program('FLOOR', 'tests/bench/floor'), program('LOAD', 'tests/bench/load')):
        if not os.access(path, os.X_OK):
            raise SystemExit(f'bench: {path} is not there: run "make bench", which builds it')
    if not os.path.exists('/proc/self/schedstat'):
        raise SystemExit('bench: /proc/self/schedstat is not there: a kernel with CONFIG_SCHED_INFO has it')
    Process.processor = max(os.sched_getaffinity(0))
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, os.sched_getaffinity(0) - {Process.processor})


def program(variable, path):
    """A program of the build, or what the environment says."""
    build = os.environ.get('TOP_BUILDDIR') or os.path.join(HERE, '..', '..', 'build')
    return os.path.abspath(os.environ.get(variable) or os.path.join(build, path))


def find_upstream():
    """Erlang's own epmd, or None."""
    found = sorted(glob.glob('/usr/lib/erlang/erts-*/bin/epmd'))
    return found[-1] if found else None


def descriptors():
    """How many a server gets."""
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], NODES_MAX)


def clean_up():
    """Ends whatever still runs."""
    while running:
        running[-1].end()


class Process:
    """A process that ends with the block that it serves, and with this process."""

    processor = None  # of the servers
    is_load = False

    def __init__(self, command, limit=None, **options):
        def become():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if not self.is_load:
                os.sched_setaffinity(0, {self.processor})
            if limit:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            if 'listener' in self.__dict__:
                os.dup2(self.listener.fileno(), LISTEN_FDS_START, inheritable=True)
        self.process = subprocess.Popen(command, preexec_fn=become, **options)
        self.pid = self.process.pid
        running.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Ends it; a second time does nothing."""
        if self in running:
            running.remove(self)
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe:
                    pipe.close()

    def line(self):
        """The next line that it prints."""
        ready = select.select([self.process.stdout], [], [], DEADLINE)[0]
        text = self.process.stdout.readline() if ready else ''
        if not text:
            self.end()
            raise Shortage(f'{" ".join(self.process.args)} did not say what it should within {DEADLINE} s, '
                           f'status {self.process.returncode}')
        return text


class Server(Process):
    """An epmd."""

    nodes = 0   # registered by Nodes

    def __init__(self, command, port, limit=None, **options):
        self.port = port
        self.holders = []
        super().__init__(command, limit=limit or descriptors(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         **options)
        self.await_answer()
        self.empty_rss = self.rss()

    def await_answer(self):
        """Returns when it serves."""
        deadline = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(ConnectionError):
                self.names_bytes()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise Shortage(f'{" ".join(self.process.args)} does not serve port {self.port}')
            time.sleep(0.01)

    def end(self):
        for holder in self.holders:
            holder.end()
        super().end()

    def names_bytes(self):
        """Asks for the names; gives the size of the answer."""
        with socket.create_connection(('127.0.0.1', self.port), DEADLINE) as connection:
            connection.sendall(b'\0\1n')
            got = 0
            while data := connection.recv(1 << 16):
                got += len(data)
        return got

    def rss(self):
        """Bytes of memory that it uses."""
        with open(f'/proc/{self.pid}/status', encoding='ascii') as status:
            for line in status:
                if line.startswith('VmRSS:'):
                    return int(line.split()[1]) * 1024
        raise Shortage(f'no VmRSS of process {self.pid}')

    def growth(self):
        """Bytes of memory that its nodes have added."""
        return self.rss() - self.empty_rss


def free_port():
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Ours(Server):
    """This project's, as started by hand."""

    def __init__(self, stderr=subprocess.DEVNULL, limit=None):
        port = free_port()
        super().__init__([program('EPMD', 'epmd'), '-port', str(port)], port, limit, stderr=stderr)


class Upstream(Server):
    """Erlang's own."""

    def __init__(self, path):
        port = free_port()
        super().__init__([path, '-port', str(port)], port, stderr=subprocess.DEVNULL)


class Stored(Server):
    """This project's, as a service: with a socket that is passed in, a runtime directory in memory, and somebody who keeps
    what it stores."""

    def __init__(self, limit=None):
        self.directory = tempfile.mkdtemp(dir='/dev/shm')
        self.kept = []
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(f'{self.directory}/notify')
        self.listener = socket.socket()
        self.listener.bind(('127.0.0.1', 0))
        self.listener.listen(4096)
        os.mkdir(f'{self.directory}/run')
        self.keeper = threading.Thread(target=self.keep, daemon=True)
        self.keeper.start()
        environment = {'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'epmd.socket', 'NOTIFY_SOCKET': f'{self.directory}/notify',
                       'RUNTIME_DIRECTORY': f'{self.directory}/run'}
        super().__init__(['/bin/sh', '-c', 'LISTEN_PID=$$ exec "$0" "$@"', program('EPMD', 'epmd'), '-systemd',
                          '-idle-timeout', '0'], self.listener.getsockname()[1], limit, stderr=subprocess.DEVNULL,
                         env=os.environ | environment, pass_fds=(LISTEN_FDS_START,))

    def keep(self):
        """Reads notifications, keeping the descriptors in them, as the service manager does."""
        with contextlib.suppress(OSError):
            while True:
                message, control, _, _ = self.notify.recvmsg(4096, socket.CMSG_SPACE(16 * 4))
                if not message:
                    return
                for _, _, data in control:
                    fds = array.array('i')
                    fds.frombytes(data[:len(data) // fds.itemsize * fds.itemsize])
                    self.kept += fds

    def keeps(self):
        """Whether the daemon has stored what it stores: both ends of two lots."""
        return len(self.kept) == 4

    def end(self):
        if self not in running:
            return
        super().end()
        with contextlib.suppress(OSError):
            self.notify.shutdown(socket.SHUT_RDWR)
        self.keeper.join()
        for fd in self.kept:
            os.close(fd)
        self.notify.close()
        self.listener.close()
        shutil.rmtree(self.directory)


class Floor(Process):
    """The kernel's own work: accepts, reads once, writes so many bytes, closes."""

    def __init__(self, size, stay=False):
        super().__init__([program('FLOOR', 'tests/bench/floor'), str(size)] + ['stay'] * stay, text=True,
                         stdout=subprocess.PIPE)
        self.port = int(self.line())


class Nodes(Process):
    """Nodes that are registered as long as this lives."""

    is_load = True

    def __init__(self, server, first, count, fill=False):
        self.server = server
        super().__init__([program('LOAD', 'tests/bench/load'), 'fill' if fill else 'hold', str(server.port), str(first),
                          str(count)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        server.holders.append(self)
        self.count = int(self.line())
        server.nodes += self.count

    def leave(self):
        """Closes all of them at once; gives the milliseconds until the server has none."""
        self.process.stdin.write('leave\n')
        self.process.stdin.flush()
        return float(self.line())


def load(verb, kind, count, at_once, targets, processors=None):
    """Runs the load generator on servers, each with the nodes in it and the bytes of a reply; gives the numbers that it
    prints."""
    servers = [f'{server.port},{server.pid},{nodes},{reply}' for server, nodes, reply in targets]
    done = subprocess.run([program('LOAD', 'tests/bench/load'), verb, kind, str(count), str(at_once)] + servers,
                          capture_output=True, text=True, check=False,
                          preexec_fn=processors and (lambda: os.sched_setaffinity(0, processors)))
    if done.returncode != 0:
        raise Shortage(f'{" ".join(done.args)}: {done.stderr.strip() or f"status {done.returncode}"}')
    return [float(number) for number in done.stdout.split()]


def run_load(kind, count, at_once, targets):
    """The processor time of each server for a connection, in µs."""
    return load('run', kind, count, at_once, targets)


def latency(count, at_once, targets):
    """Median and 99th percentile of a look-up among so many clients, in µs, of each server.

    They share the processor of the servers. With one of their own the clients are what is slow, whoever serves: they take
    twice as long for a connection as a server, and longer the more often it sleeps and has to be woken.
    """
    numbers = load('latency', 'found', count, at_once, targets, {Process.processor})
    return list(zip(numbers[::2], numbers[1::2]))
