#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The command line: every client form with its exact text and status, and how a daemon is started by hand."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import tap
from epmdtest import (  # noqa: E402
    Case, Conn, DEADLINE, Daemon, EPMD, PR_SET_PDEATHSIG, alive2, dump, has_ipv6, kill, listener, listening_inodes, names,
    need_ipv6, parse_names, pids_listening, port_of, prctl, readable)

NO_SERVER = 'epmd: Cannot connect to local epmd\n'
NO_RESPONSE = 'epmd: no response from local epmd\n'
LOG_LINE = r'epmd: (Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}: .*'

def without_waiting(path, flags):
    """An opener for open()."""
    return os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC) | os.O_NONBLOCK | os.O_NOCTTY)


# What the client forms may be called.
FORMS = {
    'names': (('-names',), ('--names',)),
    'dump': (('-dump',), ('--dump',)),
    'started': (('-started',), ('--started',)),
    'kill': (('-kill',), ('--kill',)),
    'stop': (('-stop', 'gone'), ('--stop=gone',), ('--stop', 'gone'), ('-stop=gone',)),
}

# The seconds that a command waits for a server, and what slow machines may add.
COMMAND_TIMEOUT = 5.0
SLACK = 3.0 * tap.PATIENCE


def port_forms(port):
    """Every way to say the port."""
    return (('-port', str(port)), (f'--port={port}',), ('--port', str(port)), (f'-port={port}',))


class CommandCase(Case):
    """Asserts about a command that ran to its end."""

    def assert_ran(self, process, status, out='', err=''):
        process.wait()
        ran = process.status, process.out.text(), process.err.text()
        self.assertEqual(ran, (status, out, err), ' '.join(process.argv))

    def assert_fails_clearly(self, process, *words):
        """Status 1, nothing on stdout, and one line on stderr that names each of the words."""
        process.wait()
        text = process.err.text()
        self.assertEqual((process.status, process.out.text()), (1, ''), ' '.join(process.argv) + ': ' + text)
        self.assertRegex(text, r'\Aepmd: [^\n]+\n\Z', ' '.join(process.argv))
        for word in words:
            self.assertIn(str(word), text)

    def fake_server(self, behave, host='127.0.0.1', port=0):
        """A server in a child of the test: behave(connection, request) for each that connects. Returns its port."""
        sock = listener(host, port)
        number = port_of(sock)
        pid = os.fork()
        if pid == 0:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                while True:
                    conn = sock.accept()[0]
                    behave(conn, conn.recv(4096))
                    conn.close()
            finally:
                os._exit(1)
        sock.close()
        self.addCleanup(os.waitpid, pid, 0)
        self.addCleanup(os.kill, pid, signal.SIGKILL)
        return number

    def silent_server(self, host='127.0.0.1'):
        """A port on which connections are made and nothing is ever said."""
        return port_of(self.listener(host))

    def full_server(self, host='127.0.0.1'):
        """A port on which connections are never made: its queue is full."""
        sock = self.listener(host, backlog=0)
        waiting = []
        while True:
            conn = self.closing(socket.socket())
            conn.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                conn.connect(sock.getsockname())
            if not select.select([], [conn], [], 0.05)[1]:
                return port_of(sock)
            waiting.append(conn)


class Answers(CommandCase):
    """Client forms and what a living daemon has to say."""

    def test_no_server(self):
        port = self.reserve()
        for command, forms in FORMS.items():
            for form in forms:
                with self.subTest(form=form):
                    expected = '' if command == 'started' else NO_SERVER
                    self.assert_ran(self.run_command('-port', port, *form), 1, err=expected)

    def test_names(self):
        daemon = self.start_foreground()
        header = f'epmd: up and running on port {daemon.port} with data:\n'
        self.assert_ran(self.run_command('-port', daemon.port, '-names'), 0, header)
        self.register(daemon, 'one', port=1111)
        self.register(daemon, 'two words', port=2222)
        self.register(daemon, '\u00e9\u20ac', port=0)
        lines = 'name \u00e9\u20ac at port 0\nname two words at port 2222\nname one at port 1111\n'
        for port in port_forms(daemon.port):
            for form in FORMS['names']:
                for argv in ((*port, *form), (*form, *port)):
                    with self.subTest(argv=argv):
                        self.assert_ran(self.run_command(*argv), 0, header + lines)

    def test_names_of_many(self):
        """More than one read() on either side."""
        daemon = self.start_foreground()
        wanted = [f'{number:03}' + 'x' * 250 for number in range(400)]
        for name in wanted:
            self.register(daemon, name, port=5)
        process = self.run_command('-port', daemon.port, '-names')
        lines = process.out.text().splitlines()[1:]
        self.assertEqual(lines, [f'name {name} at port 5' for name in reversed(wanted)])

    def test_dump(self):
        daemon = self.start_foreground()
        self.register(daemon, 'old').close()
        self.assert_registered(daemon)
        self.register(daemon, 'active', port=1111)
        expected = f'epmd: up and running on port {daemon.port} with data:\n'.encode() + daemon.ask(dump())[4:]
        self.assertIn(b'active name     <active> at port 1111', expected)
        for form in FORMS['dump']:
            process = self.run_command(*form, '-port', daemon.port)
            self.assertEqual((process.status, bytes(process.out.data), process.err.text()), (0, expected, ''))

    def test_started(self):
        daemon = self.start_foreground()
        self.register(daemon, 'one')
        for form in FORMS['started']:
            self.assert_ran(self.run_command('-port', daemon.port, *form), 0)

    def test_kill(self):
        for form in FORMS['kill']:
            daemon = self.start_foreground()
            self.assert_ran(self.run_command('-port', daemon.port, *form), 0, 'Killed\n')
            self.assertEqual(daemon.wait(), 0)

    def test_kill_with_nodes(self):
        daemon = self.start_foreground()
        self.register(daemon, 'lives')
        for form in FORMS['kill']:
            process = self.run_command(*form, '-port', daemon.port)
            self.assert_ran(process, 1, 'Killing not allowed - living nodes in database.\n')
        self.assert_registered(daemon, 'lives')

    def test_kill_relaxed(self):
        for how in ({'args': ('-relaxed_command_check',)}, {'args': ('--relaxed-command-check',)},
                    {'env': {'ERL_EPMD_RELAXED_COMMAND_CHECK': '1'}}, {'env': {'ERL_EPMD_RELAXED_COMMAND_CHECK': '0'}},
                    {'env': {'ERL_EPMD_RELAXED_COMMAND_CHECK': ''}}):
            with self.subTest(how=how):
                daemon = self.start_foreground(*how.get('args', ()), env=how.get('env'))
                self.register(daemon, 'lives')
                self.assert_ran(self.run_command('-port', daemon.port, '-kill'), 0, 'Killed\n')
                self.assertEqual(daemon.wait(), 0)

    def test_stop(self):
        daemon = self.start_foreground('-relaxed_command_check')
        for form in FORMS['stop']:
            with self.subTest(form=form):
                node = self.register(daemon, 'gone')
                self.assert_ran(self.run_command('-port', daemon.port, *form), 0, 'STOPPED\n')
                self.assert_reply(node, b'')

    def test_stop_of_an_unknown_name(self):
        daemon = self.start_foreground('-relaxed_command_check')
        for form in FORMS['stop']:
            self.assert_ran(self.run_command(*form, '-port', daemon.port), 1, 'NOEXIST\n')

    def test_stop_not_allowed(self):
        daemon = self.start_foreground()
        self.register(daemon, 'gone')
        process = self.run_command('-port', daemon.port, '-stop', 'gone')
        self.assert_ran(process, 1, 'epmd: local epmd responded with <>\n')
        self.assert_registered(daemon, 'gone')

    def test_port_from_the_environment(self):
        daemon = self.start_foreground()
        nobody = self.reserve()
        header = f'epmd: up and running on port {daemon.port} with data:\n'
        self.assert_ran(self.run_command('-names', env={'ERL_EPMD_PORT': str(daemon.port)}), 0, header)
        for port in port_forms(daemon.port):
            self.assert_ran(self.run_command('-names', *port, env={'ERL_EPMD_PORT': str(nobody)}), 0, header)
        env = {'ERL_EPMD_PORT': str(daemon.port)}
        self.assert_ran(self.run_command('-names', '-port', nobody, env=env), 1, err=NO_SERVER)

    def test_options_of_the_daemon_beside_a_command(self):
        """erl and its friends pass whatever they were given: a command with such options is still the command."""
        daemon = self.start_foreground()
        header = f'epmd: up and running on port {daemon.port} with data:\n'
        for more in (('-d',), ('-debug', '-d'), ('-address', '127.0.0.1'), ('-packet_timeout', '5')):
            process = self.run_command(*more, '-names', '-port', daemon.port)
            self.assertEqual((process.status, process.out.text()), (0, header), more)

    def test_settings_of_the_daemon_do_not_matter_to_a_command(self):
        """Nor does what nobody could serve with: only the port counts."""
        daemon = self.start_foreground()
        header = f'epmd: up and running on port {daemon.port} with data:\n'
        for env in ({'ERL_EPMD_ADDRESS': 'localhost'}, {'EPMD_ALLOW': 'foo'}, {'EPMD_MAX_NODES_PER_USER': '0'},
                    {'EPMD_RESERVE': 'nonsense'}):
            self.assert_ran(self.run_command('-names', '-port', daemon.port, env=env), 0, header)
            self.assert_ran(self.run_command('-started', '-port', daemon.port, env=env), 0)
            self.assertEqual(self.run_command('-help', env=env).status, 0)
            process = self.run_command('-port', self.reserve(), env=env)
            self.assertEqual(process.status, 1)
            self.assertIn(*env, process.err.text())
        for more in (('-address', 'localhost'), ('-allow', 'foo'), ('-max-nodes-per-user', '0')):
            self.assert_ran(self.run_command('-names', *more, '-port', daemon.port), 0, header)
            self.assert_fails_clearly(self.run_command(*more, '-port', self.reserve()), *more)

    def test_the_port_does_matter_to_a_command(self):
        """An option corrects the environment, and who asks for help gets it."""
        daemon = self.start_foreground()
        header = f'epmd: up and running on port {daemon.port} with data:\n'
        env = {'ERL_EPMD_PORT': 'x'}
        self.assert_ran(self.run_command('-names', '-port', daemon.port, env=env), 0, header)
        self.assert_fails_clearly(self.run_command('-names', env=env), 'ERL_EPMD_PORT', '"x"')
        for form in ('-help', '-version'):
            self.assertEqual(self.run_command(form, env=env).status, 0)

    def test_server_on_ipv6_only(self):
        need_ipv6(self)
        sock = self.listener('::1')
        daemon = self.start(listeners=[sock])
        process = self.run_command('-names', '-port', daemon.port)
        self.assert_ran(process, 0, f'epmd: up and running on port {daemon.port} with data:\n')

    def test_help_and_version(self):
        for form in ('--help', '-help'):
            process = self.run_command(form)
            self.assertEqual((process.status, process.err.text()), (0, ''))
            for word in ('-names', '-daemon', '-port', '-systemd', 'ERL_EPMD_PORT'):
                self.assertIn(word, process.out.text())
        for form in ('--version', '-version'):
            process = self.run_command(form)
            self.assertEqual((process.status, process.err.text()), (0, ''))
            self.assertRegex(process.out.text(), r'\Aepmd\b[^\n]* \d+(\.\d+)*[^\n]*\n')


class Output(CommandCase):
    """Where it cannot be written to the status is 1, and why is told."""

    def assert_not_written(self, daemon, redirection, why):
        for args in (('-names',), ('-dump',), ('-stop', 'nobody'), ('-help',), ('-version',)):
            process = self.run_command('-c', f'exec "$@" {redirection}', 'sh', EPMD, *args, '-port', daemon.port,
                                       program='/bin/sh')
            self.assert_ran(process, 1, err=f'epmd: failed to write the output: {why}\n')

    def test_full(self):
        daemon = self.start_foreground('-relaxed_command_check')
        self.assert_not_written(daemon, '>/dev/full', 'No space left on device')
        # More than fits into a buffer.
        for number in range(30):
            self.register(daemon, f'{number:03}' + 'x' * 250)
        self.assert_not_written(daemon, '>/dev/full', 'No space left on device')

    def test_broken_pipe(self):
        """Here SIGPIPE is ignored, by Python; elsewhere it ends the command silently, as it ends others."""
        reader, writer = os.pipe()
        os.close(reader)
        self.addCleanup(os.close, writer)
        self.assert_not_written(self.start_foreground('-relaxed_command_check'), f'>/proc/{os.getpid()}/fd/{writer}',
                                'Broken pipe')


class BadServers(CommandCase):
    """Servers that close early, say something else, or say nothing."""

    def test_closed_early(self):
        for data in (b'', b'\0', b'\0\0\x11'):
            port = self.fake_server(lambda conn, _request, data=data: conn.sendall(data))
            for command in ('-names', '-dump'):
                with self.subTest(data=data, command=command):
                    self.assert_ran(self.run_command(command, '-port', port), 1, NO_RESPONSE)
            self.assert_ran(self.run_command('-started', '-port', port), 1)

    def test_no_listing(self):
        """What begins with no number of a port is no list, and not that of an epmd on a port of a billion."""
        port = self.fake_server(lambda conn, request: conn.sendall(b'HTTP/1.0 400 Bad\x1b Request\r\n'))
        for command in ('-names', '-dump'):
            self.assert_ran(self.run_command(command, '-port', port), 1,
                            'epmd: local epmd responded with <HTTP/1.0 400 Bad\\x1b Request\\x0d\n>\n')
        self.assert_ran(self.run_command('-started', '-port', port), 1)

    def test_closed_without_an_answer(self):
        port = self.fake_server(lambda conn, request: None)
        for form in (('-kill',), ('-stop', 'name')):
            self.assert_ran(self.run_command('-port', port, *form), 1, 'epmd: local epmd responded with <>\n')

    def test_another_answer(self):
        port = self.fake_server(lambda conn, request: conn.sendall(b'hello'))
        for form in (('-kill',), ('-stop', 'name')):
            process = self.run_command('-port', port, *form)
            self.assertEqual(process.status, 1)
            self.assertIn('hello', process.out.text() + process.err.text())

    def test_upstreams_answer_to_stop(self):
        port = self.fake_server(lambda conn, request: conn.sendall(b'NOEXISTSTOPPED'))
        self.assert_ran(self.run_command('-port', port, '-stop', 'name'), 1, 'NOEXIST\n')

    def test_names_that_would_speak_to_the_terminal(self):
        """A server may say anything: no control character of it but the newlines reaches the terminal raw."""
        port = self.fake_server(lambda conn, request: conn.sendall(b'\0\0\x11\x11name a\x1b[2Jb\x07 at port 1\n'))
        process = self.run_command('-port', port, '-names')
        self.assertNotIn('\x1b', process.out.text())
        self.assertNotIn('\x07', process.out.text())
        self.assertIn('[2Jb', process.out.text())

    @tap.beside
    def test_time_out(self):
        """All of them at once, because each takes its five seconds."""
        def dribble(conn, _request):
            """Says something every half second, and is never done."""
            with contextlib.suppress(OSError):
                while conn.send(b'\0'):
                    readable([conn], 0.5)

        servers = {'never answers': self.silent_server(), 'never accepts': self.full_server()}
        dribbling = [('-names',), ('-dump',), ('-started',), ('-kill',), ('-stop', 'name')]
        begun = time.monotonic()
        running = []
        for why, port in servers.items():
            for form in (('-names',), ('-dump',), ('-started',), ('-kill',), ('-stop', 'name'), (), ('-daemon',)):
                running.append((why, form, self.command('-port', port, *form)))
        for form in dribbling:
            running.append(('is never done', form, self.command('-port', self.fake_server(dribble), *form)))
        for why, form, process in running:
            with self.subTest(why=why, form=form):
                self.assertEqual(process.wait(COMMAND_TIMEOUT + SLACK), 1)
                self.assertGreater(time.monotonic() - begun, COMMAND_TIMEOUT - 0.5)
                said = process.out.text() + process.err.text()
                if form == ('-started',):
                    self.assertEqual(said, '')
                else:
                    self.assertRegex(said, r'\Aepmd: [^\n]+\n\Z')


class BadArguments(CommandCase):
    """One specific line on stderr, status 1."""

    def test_ports(self):
        for value in ('70000', '65536', '0', '-1', 'x', '', '12x', ' 12', '4369.0', '0x1111', '18446744073709555985'):
            for form in (('-port', value), (f'--port={value}',)):
                for command in ((), ('-names',), ('-daemon',)):
                    with self.subTest(form=form, command=command):
                        self.assert_fails_clearly(self.run_command(*form, *command), 'port', value)

    def test_port_in_the_environment(self):
        for value in ('70000', '0', 'x', '-5'):
            with self.subTest(value=value):
                process = self.run_command('-names', env={'ERL_EPMD_PORT': value})
                self.assert_fails_clearly(process, 'ERL_EPMD_PORT', value)

    def test_the_limits_of_the_port(self):
        for value in ('1', '65535'):
            process = self.run_command('-port', value, '-started')
            self.assertEqual(process.err.text(), '')

    def test_other_numbers(self):
        for option in ('packet_timeout', 'delay_accept', 'delay_write', 'idle-timeout'):
            for value in ('x', '-1', '', '5s', '99999999999999999999'):
                with self.subTest(option=option, value=value):
                    self.assert_fails_clearly(self.run_command('-' + option, value), value)

    def test_missing_values(self):
        for option in ('-port', '--port', '-address', '--address', '-stop', '--stop', '-packet_timeout',
                       '-delay_accept', '-delay_write', '--idle-timeout', '--packet-timeout'):
            with self.subTest(option=option):
                self.assert_fails_clearly(self.run_command(option), option.lstrip('-'))

    def test_unknown_options(self):
        for option in ('-x', '--x', '-frobnicate', '--frobnicate=1', '-nämes', '-h', '-?', '-', '-NAMES', '-Names'):
            with self.subTest(option=option):
                self.assert_fails_clearly(self.run_command(option, '-port', '1'), option)

    def test_abbreviations(self):
        """-k for -kill would be a dangerous kindness."""
        for option in ('-k', '-ki', '-kil', '--kil', '-n', '-na', '-name', '--name', '-s', '-st', '-stopp', '--sto=x',
                       '-du', '-de', '-debu', '-da', '-daemo', '--daem', '-p', '-po', '--por=1', '-a',
                       '--addr=127.0.0.1', '-sys', '--system', '-relaxed', '--relaxed-command', '-pack', '-start',
                       '--vers', '-hel'):
            with self.subTest(option=option):
                self.assert_fails_clearly(self.run_command(option), option.lstrip('-').split('=')[0])

    def test_values_for_options_that_take_none(self):
        for option in ('--names=yes', '--kill=now', '--daemon=1', '-d=1', '--debug=2', '--systemd=x', '--started='):
            with self.subTest(option=option):
                self.assert_fails_clearly(self.run_command(option), option.lstrip('-').split('=')[0])

    def test_operands(self):
        for argv in (('names',), ('-names', 'node'), ('-port', '4369', '4370'), ('-stop', 'a', 'b'), ('-d', '2')):
            with self.subTest(argv=argv):
                self.assert_fails_clearly(self.run_command(*argv), argv[-1])

    def test_addresses(self):
        for value in ('localhost', '127.0.0.1x', '127.0.0', '300.1.1.1', '127.0.0.9,nonsense', '1::2::3'):
            with self.subTest(value=value):
                process = self.run_command('-port', self.reserve(), '-address', value)
                self.assert_fails_clearly(process, value.split(',')[-1])


class Serving(CommandCase):
    """A daemon that binds its addresses itself."""

    def assert_served(self, port, *hosts):
        for host in hosts:
            with contextlib.closing(Conn((host, port))) as conn:
                self.assertEqual(parse_names(conn.send(names()).read_all()).port, port, host)

    def assert_not_served(self, port, *hosts):
        for host in hosts:
            with self.assertRaises(ConnectionRefusedError, msg=host):
                Conn((host, port)).close()

    def loopbacks(self):
        return ('127.0.0.1', '::1') if has_ipv6() else ('127.0.0.1',)

    def test_all_addresses(self):
        daemon = self.start_foreground()
        self.assert_served(daemon.port, '127.0.0.1', '127.0.0.77', *self.loopbacks())

    def test_port_forms(self):
        for form in port_forms(self.reserve()):
            port = int(re.sub(r'\D', '', form[-1]))
            process = self.start_foreground(*form, port=port)
            self.assert_served(port, '127.0.0.1')
            process.signal(signal.SIGTERM)
            self.assertEqual(process.wait(), 0)

    def test_the_port_from_the_environment(self):
        port = self.reserve()
        process = self.command(env={'ERL_EPMD_PORT': str(port)})
        self.wait_listening(port, process)
        self.assert_served(port, *self.loopbacks())
        process.signal(signal.SIGTERM)
        self.assertEqual(process.wait(), 0)

    def wait_listening(self, port, process):
        deadline = time.monotonic() + DEADLINE
        while process.pid not in pids_listening(port):
            self.assertFalse(process.ends_within(0.005), 'the daemon ended')
            self.assertLess(time.monotonic(), deadline)

    def test_options_win_over_the_environment(self):
        port, other = self.reserve(), self.reserve()
        daemon = self.start_foreground('-address', '127.0.0.8', port=port,
                                       env={'ERL_EPMD_PORT': str(other), 'ERL_EPMD_ADDRESS': '127.0.0.9'})
        self.assert_served(daemon.port, '127.0.0.8')
        self.assert_not_served(daemon.port, '127.0.0.9')
        self.assertEqual(listening_inodes(other), set())

    def test_address_lists(self):
        for form in (('-address', '127.0.0.9,127.0.0.10'), ('-address', '127.0.0.9 127.0.0.10'),
                     ('--address=127.0.0.9,127.0.0.10',), ('--address', '127.0.0.9, 127.0.0.10'), ('environment',)):
            with self.subTest(form=form):
                env = {'ERL_EPMD_ADDRESS': '127.0.0.9,127.0.0.10'} if form == ('environment',) else None
                daemon = self.start_foreground(*(() if env else form), env=env)
                self.assert_served(daemon.port, '127.0.0.9', '127.0.0.10', *self.loopbacks())
                self.assert_not_served(daemon.port, '127.0.0.8', '127.0.0.11')

    def test_address_that_is_already_implied(self):
        for value in ('127.0.0.1', '127.0.0.1,127.0.0.1', '127.0.0.1,::1'):
            if ':' in value and not has_ipv6():
                continue
            daemon = self.start_foreground('-address', value)
            self.assert_served(daemon.port, *self.loopbacks())
            self.assert_not_served(daemon.port, '127.0.0.2')

    def test_address_of_ipv6(self):
        need_ipv6(self)
        daemon = self.start_foreground('-address', '::1')
        self.assert_served(daemon.port, '::1', '127.0.0.1')
        self.assert_not_served(daemon.port, '127.0.0.2')

    def test_address_that_is_not_here(self):
        process = self.run_command('-port', self.reserve(), '-address', '192.0.2.77')
        self.assert_fails_clearly(process, '192.0.2.77')

    def test_an_epmd_elsewhere(self):
        """The address is taken by a program that is no epmd; that there is an epmd on another one is no success."""
        port = self.reserve()
        daemon = Daemon([EPMD, '-port', str(port), '-address', '127.0.0.2'], [('127.0.0.1', port)])
        self._ready(daemon)
        other = self.listener('127.0.0.5', port)
        process = self.run_command('-port', port, '-address', '127.0.0.5')
        self.assert_fails_clearly(process, '127.0.0.5')
        other.close()

    def test_signals(self):
        """The last is that of a terminal that closes."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            daemon = self.start_foreground()
            self.register(daemon, 'lives')
            daemon.signal(number)
            self.assertEqual(daemon.wait(), 0)

    def test_ignored_signals(self):
        """What a shell without job control starts in the background is not ended by Ctrl-C, nor what nohup starts by the end
        of the terminal."""
        port = self.reserve()
        daemon = self._ready(Daemon(['/bin/sh', '-c', 'trap "" INT HUP; exec "$@"', 'sh', EPMD, '-port', str(port)],
                                    [('127.0.0.1', port)]))
        daemon.signal(signal.SIGINT)
        daemon.signal(signal.SIGHUP)
        # What comes together with a signal may be served before it.
        for _ in range(2):
            self.assertEqual(daemon.names(), [])

    def test_standard_error_that_nobody_reads(self):
        """Without -d nobody waits for it; what it did not take is counted."""
        port = self.reserve()
        daemon = self._ready(Daemon([EPMD, '-port', str(port)], [('127.0.0.1', port)]))
        fcntl.fcntl(daemon.err.fd, fcntl.F_SETPIPE_SZ, 8192)
        drain, daemon.drain = daemon.drain, lambda: None
        for number in range(9):
            self.connect(daemon).send(alive2('\U0001f600' * 254 + str(number))).recv(6)
        daemon.drain = drain
        daemon.wait_stderr('Registered \U0001f600')
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 0)
        self.assertRegex(daemon.err.text(), r'Before this \d+ messages were not taken')

    def test_a_terminal_that_nobody_reads(self):
        port = self.reserve()
        master, slave = pty.openpty()
        name = os.ttyname(slave)
        self.addCleanup(os.close, master)
        with os.fdopen(slave) as terminal:
            process = subprocess.Popen([EPMD, '-port', str(port)], stderr=terminal)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertTrue(select.select([master], [], [], DEADLINE)[0])
        # There is room left in its queue, but not for a line.
        with open(name, 'wb', buffering=0, opener=without_waiting) as full:
            while full.write(bytes(256)):
                pass
        os.read(master, 256)
        for number in range(3):
            with contextlib.closing(Conn(('127.0.0.1', port))) as conn:
                conn.send(alive2('\U0001f600' * 254 + str(number))).recv(6)
        with contextlib.closing(Conn(('127.0.0.1', port))) as conn:
            self.assertEqual(parse_names(conn.send(names()).read_all()).port, port)
        process.terminate()
        self.assertEqual(process.wait(DEADLINE), 0)

    def test_an_implied_loopback_that_is_taken(self):
        port = self.reserve()
        other = self.listener('127.0.0.1', port)
        daemon = self._ready(Daemon([EPMD, '-port', str(port), '-address', '127.0.0.2'], [('127.0.0.2', port)]))
        daemon.wait_stderr(f'Not listening on 127.0.0.1:{port}, which another program has')
        other.close()

    def test_closed_descriptors(self):
        """Nothing that the daemon opens is taken for its standard output and error."""
        port = self.reserve()
        script = 'exec 0<&- 1>&- 2>&-; exec "$@"'
        daemon = self._ready(Daemon(['/bin/sh', '-c', script, 'sh', EPMD, '-port', str(port)], [('127.0.0.1', port)]))
        self.assertEqual([os.readlink(f'/proc/{daemon.pid}/fd/{fd}') for fd in range(3)], 3 * ['/dev/null'])

    def test_debug_levels(self):
        """Each level says more than the one below it, all of it on stderr and in upstream's form."""
        lines = []
        for options in ((), ('-d',), ('-d', '-debug'), ('--debug', '-d', '-d')):
            daemon = self.start_foreground(*options)
            self.register(daemon, 'loud', port=31337)
            self.assertIsNotNone(daemon.lookup('loud'))
            daemon.names()
            daemon.signal(signal.SIGTERM)
            daemon.wait()
            text = daemon.err.text()
            self.assertEqual(daemon.out.text(), '')
            for line in text.splitlines():
                self.assertRegex(line, rf'\A{LOG_LINE}\Z')
            if options:
                self.assertRegex(text, r'loud.*31337|31337.*loud')
            lines.append(len(text.splitlines()))
        self.assertEqual(lines, sorted(set(lines)), 'the number of lines at the levels 0 to 3')

    def test_log_of_registrations(self):
        """One line for each registration, refusal and end; scans leave none."""
        daemon = self.start_foreground()
        node = self.register(daemon, 'noted', port=31337)
        self.connect(daemon).send(alive2('noted', port=31338)).read_all()
        self.connect(daemon).close()
        self.connect(daemon).send(b'\0\1').wait_consumed().close()
        self.connect(daemon).send(b'GET / HTTP/1.0\r\n\r\n').read_all()
        node.close()
        self.assert_registered(daemon)
        daemon.drain()
        begun, *lines = daemon.err.text().splitlines()
        self.assertIn('Serving', begun)
        self.assertEqual(len(lines), 3, lines)
        for line, port in zip(lines, (31337, 31338, 31337)):
            self.assertRegex(line, rf'\A{LOG_LINE}\Z')
            self.assertIn('noted', line)
            self.assertIn(str(port), line)

    def test_hex_dump(self):
        daemon = self.start_foreground('-d', '-d')
        daemon.lookup('abc')
        daemon.wait_stderr(r'(?i)7a\s?61\s?62\s?63')

    def test_peers_cannot_forge_the_log(self):
        daemon = self.start_foreground('-d', '-d', '-d')
        daemon.lookup('a\nepmd: forged\x1b[2J\x07')
        self.connect(daemon).send(b'\0\x01\n').read_all()
        self.assertEqual(self.connect(daemon).send(b'\x00\x14x' + b'\n\x1b\x07' * 6 + b'\n').read_all(), b'')
        daemon.signal(signal.SIGTERM)
        daemon.wait()
        text = daemon.err.text()
        self.assertNotIn('\x1b', text)
        self.assertNotIn('\x07', text)
        for line in text.splitlines():
            self.assertRegex(line, rf'\A{LOG_LINE}\Z')

    @tap.beside
    def test_delays(self):
        conns = {}
        for option in ('-delay_write', '-delay_accept'):
            port = self.reserve()
            self.wait_listening(port, self.command('-port', port, option, '1'))
            begun = time.monotonic()
            conns[option] = self.connect(None, address=('127.0.0.1', port)).send(names()), begun
        for option, (conn, begun) in conns.items():
            self.assertNotEqual(conn.read_all(), b'')
            self.assertGreater(time.monotonic() - begun, 0.95, option)


class PortTaken(CommandCase):
    """Status 0 only if an epmd answers there."""

    def test_by_an_epmd(self):
        daemon = self.start_foreground()
        self.register(daemon, 'lives')
        for form in ((), ('-daemon',), ('--daemon',), ('-address', '127.0.0.1')):
            with self.subTest(form=form):
                process = self.run_command('-port', daemon.port, *form)
                self.assertEqual((process.status, process.out.text()), (0, ''), process.err.text())
        self.assert_registered(daemon, 'lives')

    def test_by_an_epmd_on_ipv4_only(self):
        """What erl starts must give way to one that holds the IPv4 port, and not become a second one on IPv6."""
        daemon = self.start(listeners=[self.listener('127.0.0.1')])
        for form in ((), ('-daemon',)):
            process = self.run_command('-port', daemon.port, *form)
            self.assertEqual(process.status, 0, process.err.text())
        self.assertEqual(pids_listening(daemon.port), [daemon.pid])

    def test_by_a_dual_stack_epmd(self):
        need_ipv6(self)
        daemon = self.start(listeners=[self.listener('::', dual_stack=True)])
        for form in ((), ('-daemon',)):
            process = self.run_command('-port', daemon.port, *form)
            self.assertEqual(process.status, 0, process.err.text())
        self.assertEqual(pids_listening(daemon.port), [daemon.pid])

    def test_by_something_else(self):
        others = {
            'closes': lambda conn, request: None,
            'speaks something else': lambda conn, request: conn.sendall(b'SSH-2.0-OpenSSH_9.2p1\r\n'),
            'says two bytes': lambda conn, request: conn.sendall(b'\0\0'),
            'speaks HTTP': lambda conn, request: conn.sendall(b'HTTP/1.0 400 Bad Request\r\n\r\n'),
            'echoes': lambda conn, request: conn.sendall(request),
        }
        for why, behave in others.items():
            port = self.fake_server(behave)
            for form in ((), ('-daemon',)):
                with self.subTest(why=why, form=form):
                    self.assert_fails_clearly(self.run_command('-port', port, *form), port)


class Background(CommandCase):
    """-daemon: the parent returns once the child listens."""

    def start_daemon(self, *args, port=None, env=None):
        """Runs the parent to its end; the port, and the pid of what it left in the background."""
        port = port or self.reserve()
        parent = self.run_command('-port', port, '-daemon', *args, env=env)
        pids = pids_listening(port)
        for pid in pids:
            self.addCleanup(self.end_daemon, pid)
        self.assertEqual((parent.status, parent.out.text(), parent.err.text()), (0, '', ''))
        self.assertEqual(len(pids), 1, 'processes that listen once the parent has returned')
        return parent, port, pids[0]

    def end_daemon(self, pid):
        """It is this process's child now, because its parent has ended."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError), os.fdopen(os.pidfd_open(pid), 'rb') as pidfd:
            os.kill(pid, signal.SIGTERM)
            hangs = not select.select([pidfd], [], [], DEADLINE)[0]
            if hangs:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.assertFalse(hangs, 'SIGTERM does not end it')

    def test_serves_when_the_parent_returns(self):
        for form in ((), ('-d',), ('--debug',)):
            parent, port, pid = self.start_daemon(*form)
            self.assertNotEqual(pid, parent.pid)
            with contextlib.closing(Conn(('127.0.0.1', port))) as conn:
                self.assertEqual(parse_names(conn.send(names()).read_all()), (port, []))

    def test_is_detached(self):
        self.skip_under_valgrind('it keeps where it writes to')
        parent, _port, pid = self.start_daemon()
        self.assertNotEqual(os.getsid(pid), os.getsid(0))
        self.assertEqual(os.readlink(f'/proc/{pid}/cwd'), '/')
        for number in range(3):
            target = os.readlink(f'/proc/{pid}/fd/{number}')
            self.assertTrue(target == '/dev/null' or target.startswith('socket:'), f'descriptor {number} is {target}')
        parent.drain()
        self.assertTrue(parent.out.eof and parent.err.eof, 'the daemon still holds the output of its parent')

    def test_ends_well(self):
        for end in ('SIGTERM', 'SIGINT', 'kill'):
            _parent, port, pid = self.start_daemon()
            if end == 'kill':
                with contextlib.closing(Conn(('127.0.0.1', port))) as conn:
                    self.assertEqual(conn.send(kill()).read_all(), b'OK')
            else:
                os.kill(pid, getattr(signal, end))
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0, end)

    def test_tells_no_service_manager(self):
        """erl in a service starts it so: the notification socket is the one of that service."""
        notify = self.new_notify()
        self.start_daemon(env={'NOTIFY_SOCKET': notify.path, 'WATCHDOG_USEC': '100000'})
        self.assertIsNone(notify.next(0.3))

    def devices(self):
        """A directory for start_with_devices()."""
        if self.run_command('-rm', 'true', program='/usr/bin/unshare').status != 0:
            self.skipTest('no mount namespace can be made here')
        directory = tempfile.mkdtemp(dir=self.directory)
        open(f'{directory}/null', 'w', encoding='ascii').close()
        return directory

    def start_with_devices(self, directory, port):
        """epmd -daemon in a mount namespace where /dev is that directory and /run is empty; the parent."""
        script = ('mount --bind /dev/null "$1/null" && mount --bind "$1" /dev && mount -t tmpfs none /run && shift && '
                  'exec "$@"')
        return self.run_command('-rm', 'sh', '-c', script, 'sh', directory, EPMD, '-daemon', '-port', port,
                                program='/usr/bin/unshare')

    def test_syslog_where_there_is_no_journal(self):
        """/dev/log is the test's."""
        directory = self.devices()
        log = self.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        log.bind(f'{directory}/log')
        log.settimeout(DEADLINE)
        port = self.reserve()
        parent = self.start_with_devices(directory, port)
        for pid in pids_listening(port):
            self.addCleanup(self.end_daemon, pid)
        self.assertEqual((parent.status, parent.err.text()), (0, ''))
        self.assertRegex(log.recv(4096).decode(), r'^<30>.* epmd\[\d+\]: Serving 2 sockets')
        # Nobody waits for one that does not read.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
            other.setblocking(False)
            while True:
                other.sendto(b'full', f'{directory}/log')
        for number in range(3):
            with contextlib.closing(Conn(('127.0.0.1', port))) as conn:
                conn.send(alive2(f'n{number}')).recv(6)
        with contextlib.closing(Conn(('127.0.0.1', port))) as conn:
            self.assertEqual(parse_names(conn.send(names()).read_all()).port, port)

    def test_failure_is_the_status_of_the_parent(self):
        process = self.run_command('-daemon', '-port', self.reserve(), '-address', '192.0.2.77')
        self.assert_fails_clearly(process, '192.0.2.77')

    def test_closed_descriptors(self):
        port = self.reserve()
        for closed in ('0<&- 1>&- 2>&-', '0<&- 1>&-', '2>&-'):
            with self.subTest(closed=closed):
                parent = self.run_command('-c', f'exec {closed}; exec "$@"', 'sh', EPMD, '-daemon', '-port', str(port),
                                          program='/bin/sh')
                pids = pids_listening(port)
                self.assertEqual((parent.status, len(pids)), (0, 1))
                self.assertEqual([os.readlink(f'/proc/{pids[0]}/fd/{fd}') for fd in range(3)], 3 * ['/dev/null'])
                self.end_daemon(pids[0])

    def test_no_log_at_all(self):
        """Where there is neither a journal nor a syslog nothing comes on the console."""
        directory = self.devices()
        open(f'{directory}/console', 'w', encoding='ascii').close()
        port = self.reserve()
        parent = self.start_with_devices(directory, port)
        self.assertEqual((parent.status, parent.err.text()), (0, ''))
        for pid in pids_listening(port):
            self.end_daemon(pid)
        self.assertEqual(os.path.getsize(f'{directory}/console'), 0)

    def test_many_at_once(self):
        """Nodes that start together all start one: all succeed, one of them serves."""
        port = self.reserve()
        parents = [self.command('-port', port, '-daemon') for _number in range(8)]
        for parent in parents:
            self.assertEqual(parent.wait(), 0, parent.err.text())
        pids = pids_listening(port)
        for pid in pids:
            self.addCleanup(self.end_daemon, pid)
        self.assertEqual(len(pids), 1)


if __name__ == '__main__':
    tap.main()
