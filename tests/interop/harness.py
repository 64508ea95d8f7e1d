# SPDX-License-Identifier: Apache-2.0
"""What the interop tests share: an epmd that is started by its first
connection, Erlang nodes driven line by line, and their certain end.

Every process of a Host carries the mark of that host in its environment.
Erlang starts daemons of its own that leave the process group, so this mark, not
the parentage, tells which processes are ours to look at and to end.
"""

import atexit
import ctypes
import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid

TOP_SRCDIR = os.environ.get("TOP_SRCDIR") or os.path.abspath(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
TOP_BUILDDIR = os.environ.get("TOP_BUILDDIR") or os.path.join(TOP_SRCDIR, "build")
EPMD = os.path.abspath(os.environ.get("EPMD") or os.path.join(TOP_BUILDDIR, "epmd"))
EI_NODE = os.path.join(TOP_BUILDDIR, "tests", "interop", "ei_node")

# The longest that any single event may take; each is normally well under a second.
DEADLINE = 15.0

MARK = "EPMD_INTEROP"

# Passed on where set, because systemd-socket-activate empties the environment.
SANITIZERS = ("ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS")

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)

# Ends the tests as Ctrl-C does, so that what atexit registered still runs.
signal.signal(signal.SIGTERM, signal.default_int_handler)

# Evaluates the lines of standard input and answers each with one line.  The
# end of the input ends the node, so that none outlives a harness that died.
SERVE_STDIN = """spawn(fun() ->
    io:format("ready~n"),
    Loop = fun Loop() ->
        case io:get_line("") of
            Line when is_list(Line) ->
                {ok, Tokens, _} = erl_scan:string(Line),
                {ok, Exprs} = erl_parse:parse_exprs(Tokens),
                Answer = try {value, V, _} = erl_eval:exprs(Exprs, []), V
                         catch Class:Reason -> {Class, Reason} end,
                io:format("~0tp~n", [Answer]),
                Loop();
            _ -> halt(0)
        end
    end,
    Loop() end)."""


def missing_tools(*names):
    """The reason to skip, or None: what these tests need and is not installed."""
    for name in names:
        if shutil.which(name) is None:
            return f"{name} is not installed"
    return None


def wait_until(condition, what, deadline=DEADLINE):
    """Returns the first true value of condition(), or fails naming what was awaited."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline:g} s")
        time.sleep(0.02)


def free_port():
    """A free port below the ephemeral range, where no outgoing connection can
    take it while the daemon is down."""
    for port in range(20000 + os.getpid() % 10000, 32000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port on 127.0.0.1 between 20000 and 32000")


class Output:
    """Collects the lines of a pipe, so that the writer never blocks on us."""

    def __init__(self, pipe):
        self.lines = []
        self.taken = 0
        self.ended = False
        self.changed = threading.Condition()
        self.pipe = pipe
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def _collect(self):
        with self.pipe:
            for line in self.pipe:
                with self.changed:
                    self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                    self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def next_line(self, accept=lambda line: True, what="a line"):
        """The next line not yet taken that accept() likes; those before it are dropped."""
        end = time.monotonic() + DEADLINE
        with self.changed:
            while True:
                while self.taken < len(self.lines):
                    line = self.lines[self.taken]
                    self.taken += 1
                    if accept(line):
                        return line
                if self.ended or not self.changed.wait(end - time.monotonic()):
                    raise AssertionError(f"{what}: not seen in {self.lines}")

    def text(self):
        """Everything, once the writer has closed its end."""
        self.thread.join(DEADLINE)
        return "\n".join(self.lines)


def die_with_parent():
    """In a new child: the kernel ends it when this process goes, even by SIGKILL."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child with its standard output and error collected."""

    def __init__(self, argv, env):
        self.child = subprocess.Popen(
            argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True, preexec_fn=die_with_parent)
        self.out = Output(self.child.stdout)
        self.err = Output(self.child.stderr)
        self.pid = self.child.pid
        self.name = f"{os.path.basename(argv[0])}[{self.pid}]"

    def tell(self, line):
        """Writes one line to its standard input."""
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()

    def ask(self, line):
        """Writes one line to its standard input and returns the next of its output."""
        self.tell(line)
        return self.out.next_line(what=f"an answer to {line!r}")

    def signal(self, number):
        self.child.send_signal(number)

    def wait(self):
        return self.child.wait(DEADLINE)

    def end(self):
        """Kills it if it lives, and frees its pipes."""
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(DEADLINE)
        self.child.stdin.close()
        self.out.thread.join(DEADLINE)
        self.err.thread.join(DEADLINE)


class Host:
    """One host's worth of Erlang: a port held for epmd, a home with a cookie, nodes."""

    def __init__(self, *epmd_options):
        self.epmd_options = epmd_options
        self.home = tempfile.mkdtemp(prefix="epmd-interop-")
        self.token = uuid.uuid4().hex
        self.cookie = uuid.uuid4().hex
        cookie_file = os.path.join(self.home, ".erlang.cookie")
        with open(cookie_file, "w", encoding="ascii") as file:
            file.write(self.cookie)
        os.chmod(cookie_file, 0o400)
        self.port = free_port()
        self.processes = []
        self.daemon = None
        # unittest does not run its clean-ups when it is interrupted.
        atexit.register(self.end)

    def environment(self):
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": self.home,
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.port),
            "ERL_CRASH_DUMP": "/dev/null",
            MARK: self.token,
        }

    def _start(self, argv, env):
        process = Process(argv, env)
        self.processes.append(process)
        return process

    def listen(self):
        """Holds the port; the program starts at the first connection, with the
        same process id and without ERL_EPMD_PORT."""
        passed = [MARK] + [name for name in SANITIZERS if name in os.environ]
        env = self.environment()
        env.update({name: os.environ[name] for name in passed if name in os.environ})
        env.update({"SYSTEMD_LOG_LEVEL": "info", "SYSTEMD_LOG_TARGET": "console"})
        argv = ["systemd-socket-activate", "-l", f"127.0.0.1:{self.port}"]
        for name in passed:
            argv += ["-E", name]
        self.daemon = self._start(argv + [EPMD, "-systemd", *self.epmd_options], env)
        self.daemon.err.next_line(lambda line: line.startswith("Listening on"),
                                  "systemd-socket-activate listening")

    def daemon_program(self):
        """The program that the holder of the port runs just now."""
        return os.path.basename(os.readlink(f"/proc/{self.daemon.pid}/exe"))

    def await_activation(self):
        """Returns once a connection has come and the program has been started."""
        self.daemon.err.next_line(lambda line: line.startswith("Execing"),
                                  "a connection that starts the daemon")

    def end_daemon(self):
        """Asks the daemon to end, and returns its exit status and its log."""
        self.daemon.signal(signal.SIGTERM)
        return self.daemon.wait(), self.daemon.err.text()

    def erl(self, name, form="-name"):
        """Starts a node as people do, but for the loop that reads standard input."""
        return self._start(
            ["erl", form, name, "-noshell",
             "-kernel", "inet_dist_use_interface", "{127,0,0,1}",
             "-eval", SERVE_STDIN], self.environment())

    def node(self, name, form="-name"):
        """A node that is up and registered: a node registers before it evaluates."""
        node = self.erl(name, form)
        node.out.next_line(lambda line: line == "ready", f"start of node {name}")
        return node

    def ei_node(self, name):
        """The C node, which obeys commands on its standard input."""
        return self._start([EI_NODE, name, self.cookie], self.environment())

    def names(self):
        """{name: port} as epmd tells anyone who asks with NAMES_REQ."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE) as conn:
            conn.sendall(b"\0\1n")
            reply = b""
            while chunk := conn.recv(4096):
                reply += chunk
        nodes = {}
        for line in reply[4:].decode().splitlines():
            _, name, _, _, port = line.split(" ")
            nodes[name] = int(port)
        return nodes

    def programs(self):
        """{pid: program} of all live processes of this host."""
        mark = f"{MARK}={self.token}".encode()
        found = {}
        for path in glob.glob("/proc/[0-9]*"):
            try:
                with open(f"{path}/environ", "rb") as environ:
                    if mark not in environ.read().split(b"\0"):
                        continue
                found[int(path[6:])] = os.path.basename(os.readlink(f"{path}/exe"))
            except OSError:
                continue  # it ended meanwhile, or is another user's
        return found

    def _none_left(self):
        """Kills what is left of this host's processes; true when nothing was."""
        left = self.programs()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return not left

    def diagnostics(self):
        """What the processes said on standard error, for a test that failed."""
        return "\n".join(f"{process.name}: {line}" for process in self.processes
                         for line in process.err.lines)

    def end(self):
        """Ends everything, also what Erlang left in the background."""
        atexit.unregister(self.end)
        for process in self.processes:
            process.end()
        wait_until(self._none_left, "end of the processes of this test")
        shutil.rmtree(self.home, ignore_errors=True)
