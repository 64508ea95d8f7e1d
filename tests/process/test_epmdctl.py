#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""epmdctl: each command against our daemon, the upstream one, a dead port, servers that misbehave, and hosts that do
not resolve. What the daemon tells over Varlink comes from a small server here, which can misbehave as well."""

import contextlib
import json
import os
import pty
import pwd
import re
import select
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import unicodedata

sys.dont_write_bytecode = True
import tap  # noqa: E402
from epmdtest import (  # noqa: E402
    CLONE_NEWUSER, Case, DEADLINE, EPMD, HERE_V4, LIBC, UPSTREAM, alive2, clean_env, listener, port_of, private_network)

TOP_SRCDIR = os.environ.get('TOP_SRCDIR') or os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
EPMDCTL = os.path.abspath(os.environ.get('EPMDCTL') or os.path.join(os.path.dirname(EPMD), 'epmdctl'))

# Statuses.
OK, NO, NO_EPMD, USAGE = 0, 1, 2, 64
UNKNOWN_HOST = 'no-such-host.invalid'
# For servers that never answer; long enough for those that do.
SHORT = '--timeout=0.3'
CLONE_NEWUTS = 0x04000000
SINCE = 1700000000000000  # 2023-11-14 22:13:20 UTC


def node(name, port, **more):
    """A node as the daemon describes it."""
    fields = dict(name=name, port=port, type=77, protocol=0, highestVersion=6, lowestVersion=5, creation=1234,
                  extra='', since=SINCE, uid=0, unit='rabbitmq-server.service')
    fields.update(more)
    return {key: value for key, value in fields.items() if value is not ...}


COUNTERS = {name: number for number, name in enumerate(
    ('registrations', 'unregistrations', 'lookups', 'misses', 'names', 'dumps', 'connections', 'refusedTaken',
     'refusedInvalid', 'refusedFull', 'refusedReserved', 'refusedQuota', 'refusedPeers', 'malformed', 'timeouts',
     'restores'), 100)}


def statistics(**more):
    return dict({'since': SINCE, 'port': 4369, 'nodes': 2, 'connections': 3, 'counters': COUNTERS}, **more)


class FakeVarlink:
    """What the daemon tells, or something else: how(conn, request) writes the reply."""

    def __init__(self, case, how):
        self.path = os.path.join(case.directory, 'varlink')
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        case.serve(listener(self.path), lambda conn: how(conn, self._request(conn)))

    @staticmethod
    def _request(conn):
        data = b''
        while not data.endswith(b'\0'):
            piece = conn.recv(65536)
            if not piece:
                return {}
            data += piece
        return json.loads(data[:-1])


def answer(conn, message):
    conn.sendall(json.dumps(message).encode() + b'\0')


def display_width(text):
    """Columns of a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in 'WF' else 1 for c in text)


class CtlCase(Case):
    """Runs epmdctl. Its Varlink socket is one that is not there, unless a test makes one."""

    def setUp(self):
        super().setUp()
        self.varlink = os.path.join(self.directory, 'varlink')

    def serve(self, sock, handle):
        """A server in a child: handle(connection) for each one that connects."""
        pid = os.fork()
        if pid == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                while True:
                    conn = sock.accept()[0]
                    with contextlib.suppress(OSError):
                        handle(conn)
                    conn.close()
            finally:
                os._exit(1)
        sock.close()
        self.addCleanup(os.waitpid, pid, 0)
        self.addCleanup(os.kill, pid, signal.SIGKILL)

    def fake_epmd(self, reply, host='127.0.0.1', port=0):
        """An epmd on a port of its own that replies to everything with the same bytes, or with reply(request)."""
        sock = listener(host, port)
        number = port_of(sock)

        def handle(conn):
            request = conn.recv(4096)
            conn.sendall(reply(request) if callable(reply) else reply)

        self.serve(sock, handle)
        return number

    def silent_port(self, host='127.0.0.1'):
        """A port on which connections are made and nothing is ever said."""
        return port_of(self.listener(host))

    def fake_varlink(self, nodes=(), stats=None):
        """The daemon's interface, with these nodes."""
        def reply(conn, request):
            method = request.get('method')
            if method == 'org.erlang.epmd.List':
                answer(conn, {'parameters': {'nodes': list(nodes)}})
            elif method == 'org.erlang.epmd.Statistics':
                answer(conn, {'parameters': stats or statistics()})
            else:
                name = request['parameters']['name']
                found = [item for item in nodes if item['name'] == name]
                answer(conn, {'parameters': {'node': found[0]}} if found else
                       {'error': 'org.erlang.epmd.NotRegistered', 'parameters': {'name': name}})
        FakeVarlink(self, reply)

    def environment(self, **more):
        return {'EPMD_VARLINK_SOCKET': self.varlink, 'TZ': 'UTC', **more}

    def start_ctl(self, *args, env=None):
        return self.command(*args, program=EPMDCTL, env=self.environment(**(env or {})))

    def ctl(self, *args, status=OK, env=None):
        """Runs it to its end: (stdout, stderr)."""
        process = self.start_ctl(*args, env=env)
        # Some of its answers take a look at every process of the machine.
        process.wait(4 * DEADLINE)
        out, err = process.out.text(), process.err.text()
        self.assertEqual(process.status, status, f'{" ".join(process.argv)}\n{out}{err}')
        return out, err

    def ctl_json(self, *args, status=OK, env=None):
        out, err = self.ctl(*args, '--json', status=status, env=env)
        self.assertTrue(out.isascii(), out)
        return json.loads(out), err

    def daemon_with(self, *nodes, program=EPMD, **how):
        """A daemon where these names are registered, the last one being the newest. Each has a port that accepts."""
        daemon = self.start_foreground(program=program, **how)
        self.ports = {}
        for name in nodes:
            self.ports[name] = port_of(self.listener())
            self.register(daemon, name, port=self.ports[name])
        return daemon

    def need_upstream(self):
        if not UPSTREAM:
            self.skipTest('no epmd of Erlang/OTP here: apt-get install erlang-base')

    def start_in_terminal(self, *args, env=None):
        """epmdctl on a terminal of its own: (pid, terminal)."""
        argv = [EPMDCTL, *map(str, args)]
        pid, terminal = pty.fork()
        if pid == 0:
            try:
                os.execve(argv[0], argv, env or clean_env(self.environment()))
            finally:
                os._exit(127)
        return pid, terminal

    def run_in_terminal(self, *args, env):
        """What it writes on a terminal."""
        pid, terminal = self.start_in_terminal(*args, env=env)
        written = bytearray()
        # Reading fails when the last process has closed the other side.
        with contextlib.suppress(OSError):
            while select.select([terminal], [], [], DEADLINE)[0]:
                written += os.read(terminal, 65536)
        os.close(terminal)
        os.waitpid(pid, 0)
        return written.decode()


class List(CtlCase):
    def test_names_only(self):
        """Where the daemon does not tell more: names and ports, newest first, and why there is no more."""
        daemon = self.daemon_with('rabbit', 'ejabberd')
        out, err = self.ctl('-p', daemon.port)
        rabbit, ejabberd = self.ports['rabbit'], self.ports['ejabberd']
        self.assertEqual(out, f'NODE      PORT\nejabberd {ejabberd}\nrabbit   {rabbit}\n\n2 nodes registered.\n')
        self.assertEqual(err, f'epmdctl: {self.varlink}: No such file or directory; asked by NAMES, which tells only '
                              'names and ports\n')

    def test_forms(self):
        daemon = self.daemon_with('rabbit')
        table = f'rabbit {self.ports["rabbit"]}\n'
        for args in (('list', '--no-legend'), ('--no-legend',), ('--no-legend', 'list', 'localhost')):
            for port in ((f'--port={daemon.port}',), ('-p', daemon.port)):
                self.assertEqual(self.ctl(*args, *port)[0], table, args)
        self.assertEqual(self.ctl('--no-legend', env={'ERL_EPMD_PORT': str(daemon.port)})[0], table)
        self.assertEqual(self.ctl('-q', 'list', '-p', daemon.port), ('rabbit\n', ''))
        self.assertEqual(self.ctl('list', '127.0.0.1', '--no-legend', '-p', daemon.port), (table, ''))

    def test_empty(self):
        daemon = self.daemon_with()
        self.assertEqual(self.ctl('-p', daemon.port)[0], '0 nodes registered.\n')
        self.assertEqual(self.ctl('-p', daemon.port, '--no-legend')[0], '')
        self.assertEqual(self.ctl_json('-p', daemon.port)[0], [])

    def test_details(self):
        daemon = self.daemon_with('rabbit', 'c1')
        nodes = [node('c1', self.ports['c1'], type=104, uid=..., unit=..., creation=4294967295, lowestVersion=1),
                 node('rabbit', self.ports['rabbit'], extra='AQI=')]
        self.fake_varlink(nodes)
        out, err = self.ctl('-p', daemon.port)
        self.assertEqual(err, '')
        rows = [re.split(r' {2,}| (?=\d+$)', line.strip()) for line in out.splitlines()]
        self.assertEqual([' '.join(row).split() for row in rows[:3]], [
            ['NODE', 'PORT', 'TYPE', 'VERSIONS', 'CREATION', 'OWNER', 'UNIT', 'SINCE'],
            ['c1', str(self.ports['c1']), 'hidden', '1-6', '4294967295', '-', '-', 'Tue', '2023-11-14', '22:13:20',
             'UTC'],
            ['rabbit', str(self.ports['rabbit']), 'normal', '5-6', '1234', 'root', 'rabbitmq-server.service', 'Tue',
             '2023-11-14', '22:13:20', 'UTC']])
        self.assertEqual(out.splitlines()[3:], ['', '2 nodes registered.'])
        self.assertEqual(self.ctl_json('-p', daemon.port), (nodes, ''))

    def test_null_details(self):
        """What is not known may also be there as null."""
        daemon = self.daemon_with('a')
        self.fake_varlink([node('a', self.ports['a'], uid=None, unit=None, type=1)])
        found, err = self.ctl_json('-p', daemon.port)
        self.assertEqual((found, err), ([node('a', self.ports['a'], uid=..., unit=..., type=1)], ''))

    def test_another_daemon(self):
        """Details of a daemon that is not the one on the port are not believed."""
        daemon = self.daemon_with('a')
        for nodes in ([], [node('b', self.ports['a'])], [node('a', self.ports['a'] ^ 1)], [node('aa', 1)]):
            self.fake_varlink(nodes)
            found, err = self.ctl_json('-p', daemon.port)
            self.assertEqual(found, [{'name': 'a', 'port': self.ports['a']}])
            self.assertEqual(err, f'epmdctl: the epmd on port {daemon.port} is not the one behind {self.varlink}; '
                                  'asked by NAMES, which tells only names and ports\n')

    def test_between_the_questions(self):
        """A node that has come or gone meanwhile does not spoil the details of the others."""
        daemon = self.daemon_with('a', 'b')
        self.fake_varlink([node('c', 1), node('a', self.ports['a'])])
        out, err = self.ctl('-p', daemon.port, '--no-legend')
        self.assertEqual(err, '')
        self.assertEqual([line.split()[:4] for line in out.splitlines()],
                         [['b', str(self.ports['b']), '-', '-'], ['a', str(self.ports['a']), 'normal', '5-6']])
        self.assertEqual(self.ctl_json('-p', daemon.port)[0],
                         [{'name': 'b', 'port': self.ports['b']}, node('a', self.ports['a'])])

    @tap.beside
    def test_bad_varlink(self):
        """Whatever comes from that socket, the names are told, and why there is no more than these."""
        daemon = self.daemon_with('a')
        good = node('a', self.ports['a'])

        def says(data):
            return lambda conn, _request: conn.sendall(data)

        def endless(conn, _request):
            while True:
                conn.sendall(b'{"parameters": "' + b'x' * 65536)

        def silent(conn, _request):
            conn.recv(1)

        def message(value):
            return lambda conn, _request: answer(conn, value)

        malformed = 'the answer is not one of org.erlang.epmd'
        cases = [
            (lambda _conn, _request: None, 'closed before the end of the answer'),
            (says(b'{"parameters": '), 'closed before the end of the answer'),
            (silent, 'no answer in time'),
            (endless, '(no answer in time|the answer has no end)'),
            (says(b'\0'), malformed),
            (says(b'\xff\xfe\0'), malformed),
            (says(b'[' * 100000 + b'\0'), malformed),
            (says(b'HTTP/1.0 400 Bad Request\r\n\r\n\0'), malformed),
            (message([]), malformed),
            (message({}), malformed),
            (message({'parameters': {}}), malformed),
            (message({'parameters': {'nodes': {}}}), malformed),
            (message({'parameters': {'nodes': [1]}}), malformed),
            (message({'parameters': {'nodes': [dict(good, port=65536)]}}), malformed),
            (message({'parameters': {'nodes': [dict(good, port=-1)]}}), malformed),
            (message({'parameters': {'nodes': [dict(good, creation='1')]}}), malformed),
            (message({'parameters': {'nodes': [dict(good, name=None)]}}), malformed),
            (message({'parameters': {'nodes': [dict(good, name='a\0')]}}), malformed),
            (message({'parameters': {'nodes': [dict(good, type=256)]}}), malformed),
            (message({'parameters': {'nodes': [good, {}]}}), malformed),
            (message({'error': 3}), malformed),
            (message({'error': 'org.varlink.service.MethodNotFound'}), 'org.varlink.service.MethodNotFound'),
            (message({'error': '\033[2J' * 1000}), r'(\\x1b\[2J)+(\\x1b)?(\[2?)?'),
        ]
        for number, (how, why) in enumerate(cases):
            FakeVarlink(self, how)
            found, err = self.ctl_json('-p', daemon.port, SHORT)
            self.assertEqual(found, [{'name': 'a', 'port': self.ports['a']}], number)
            self.assertRegex(err, rf'\Aepmdctl: {re.escape(self.varlink)}: {why}; asked by NAMES, [^\n]*\n\Z', number)

    def test_more_than_the_reply(self):
        """What follows the NUL belongs to another message."""
        daemon = self.daemon_with('a')
        good = {'parameters': {'nodes': [node('a', self.ports['a'])]}}
        FakeVarlink(self, lambda conn, _request: conn.sendall(json.dumps(good).encode() + b'\0garbage'))
        self.assertEqual(self.ctl_json('-p', daemon.port), (good['parameters']['nodes'], ''))

    def test_path_too_long(self):
        daemon = self.daemon_with('a')
        path = '/' + 'x' * 200
        _out, err = self.ctl('-p', daemon.port, env={'EPMD_VARLINK_SOCKET': path})
        self.assertIn(f'{path}: File name too long; ', err)

    def test_upstream(self):
        self.need_upstream()
        daemon = self.daemon_with('rabbit', 'c1', program=UPSTREAM)
        self.fake_varlink([])
        out, err = self.ctl('-p', daemon.port, '--no-legend')
        self.assertEqual(out, f'c1     {self.ports["c1"]}\nrabbit {self.ports["rabbit"]}\n')
        self.assertIn('is not the one behind', err)
        self.assertEqual(self.ctl('list', '127.0.0.1', '-q', '-p', daemon.port), ('c1\nrabbit\n', ''))

    def test_dead_port(self):
        port = self.reserve()
        _out, err = self.ctl('-p', port, status=NO_EPMD)
        self.assertRegex(err, rf'\Aepmdctl: \[::1\]:{port}: [^\n]+\nepmdctl: 127.0.0.1:{port}: Connection refused\n'
                              rf'epmdctl: no epmd answers on port {port} of this host; what is wrong is told by: '
                              r'epmdctl check\n\Z')
        _out, err = self.ctl('list', '127.0.0.2', '-p', port, status=NO_EPMD)
        self.assertEqual(err, f'epmdctl: 127.0.0.2:{port}: Connection refused\n'
                              f'epmdctl: no epmd answers on port {port} of 127.0.0.2; what is wrong is told by: '
                              'epmdctl check 127.0.0.2\n')

    @tap.beside
    def test_bad_servers(self):
        for port, why in ((self.silent_port(), 'accepts connections, but did not answer within 0.3 s'),
                          (self.fake_epmd(b''), 'closed the connection without an answer'),
                          (self.fake_epmd(b'\0\0'), 'what listens there is no epmd'),
                          (self.fake_epmd(b'HTTP/1.0 400 Bad Request\r\n'), 'what listens there is no epmd')):
            out, err = self.ctl('-p', port, SHORT, status=NO_EPMD)
            self.assertEqual(out, '')
            self.assertIn(f'epmdctl: 127.0.0.1:{port}: {why}\n', err)

    def test_unknown_host(self):
        out, err = self.ctl('list', UNKNOWN_HOST, '--timeout=3', status=NO_EPMD)
        self.assertEqual(out, '')
        self.assertRegex(err, rf'\Aepmdctl: {UNKNOWN_HOST}: [^\n]*; see what its name resolves to with: getent ahosts '
                              rf'{UNKNOWN_HOST}\nepmdctl: no epmd answers on port 4369 of {UNKNOWN_HOST}; [^\n]*\n\Z')

    def test_foreign_bytes(self):
        """Names that an epmd should not have let in do no harm to a terminal, nor to the table."""
        lines = b'name a\033[2Jb at port 1\nname x\xffy at port 2\nname tab\there at port 3\nno line\n' \
                b'name w\\e at port 4\n'
        port = self.fake_epmd(struct.pack('>I', 4369) + lines)
        out, err = self.ctl('list', '127.0.0.1', '-p', port)
        self.assertEqual(out, 'NODE        PORT\na\\x1b[2Jb      1\nx\\xffy         2\ntab\\x09here    3\n'
                              'w\\\\e           4\n\n4 nodes registered.\n')
        self.assertEqual(err, 'epmdctl: lines of the answer that are no nodes: 1; are there line breaks in names?\n')
        found, _err = self.ctl_json('list', '127.0.0.1', '-p', port)
        self.assertEqual([item['name'] for item in found], ['a\033[2Jb', 'x\\xffy', 'tab\there', 'w\\e'])

    def test_wide_names(self):
        """Columns stand below each other, whatever the width of the letters and whatever the locale."""
        names = ['日本語', 'nød', 'ｆｕｌｌ', 'e\u0301te\u0301', '🐰', 'plain']
        daemon = self.daemon_with(*names)
        for locale in ('C', 'C.UTF-8', 'POSIX', 'xx_XX'):
            lines = self.ctl('-p', daemon.port, env={'LC_ALL': locale})[0].splitlines()[:len(names) + 1]
            for name, line in zip(['NODE', *reversed(names)], lines, strict=True):
                self.assertTrue(line.startswith(name), (line, name))
            self.assertEqual(len({display_width(line) for line in lines}), 1, lines)

    def test_colour(self):
        """Only on a terminal, and only if nobody minds."""
        daemon = self.daemon_with('rabbit')
        for extra, coloured in (({'TERM': 'xterm'}, True), ({'TERM': 'xterm', 'NO_COLOR': ''}, True),
                                ({'TERM': 'xterm', 'NO_COLOR': '1'}, False), ({'TERM': 'dumb'}, False), ({}, False)):
            env = clean_env(self.environment(**extra))
            if 'TERM' not in extra:
                env.pop('TERM', None)
            text = self.run_in_terminal('-p', daemon.port, env=env)
            self.assertIn('rabbit', text)
            self.assertEqual('\033[' in text, coloured, (extra, text))
        self.assertNotIn('\033', self.ctl('-p', daemon.port, env={'TERM': 'xterm'})[0])

    def test_many_nodes(self):
        lines = b''.join(b'name node%d at port %d\n' % (i, i % 60000) for i in range(20000))
        port = self.fake_epmd(struct.pack('>I', 4369) + lines)
        out, _err = self.ctl('list', '127.0.0.1', '-p', port)
        self.assertTrue(out.endswith('\n\n20000 nodes registered.\n'))
        self.assertEqual(out.count('\n'), 20003)


class Output(CtlCase):
    """What cannot be written is no success, and why is told."""

    FORMS = (('list',), ('list', '-q'), ('list', '--json'), ('list', '127.0.0.1', '--no-legend'), ('lookup', 'rabbit'),
             ('lookup', 'rabbit', '--json'), ('lookup', 'none', '--json'), ('check', '127.0.0.1'),
             ('check', '127.0.0.1', '--json'), ('stats',), ('stats', '--json'), ('stats', '--prometheus'), ('--help',),
             ('--version',))

    def assert_not_written(self, daemon, redirection, why):
        self.fake_varlink([node('rabbit', self.ports['rabbit'])], statistics(port=daemon.port))
        for args in self.FORMS:
            process = self.command('-c', f'exec "$@" {redirection}', 'sh', EPMDCTL, *args, '-p', daemon.port,
                                   program='/bin/sh', env=self.environment())
            self.assertEqual(process.wait(), 71, (args, process.err.text()))
            told = f'epmdctl: failed to write the output: {why}\n'
            self.assertEqual(process.err.text().count(told), 1, (args, process.err.text()))
            self.assertNotIn('memory', process.err.text())

    def test_full(self):
        self.assert_not_written(self.daemon_with('rabbit'), '>/dev/full', 'No space left on device')

    def test_full_of_much(self):
        """More than fits into a buffer."""
        daemon = self.daemon_with(*(f'{number:03}' + 'x' * 250 for number in range(40)), 'rabbit')
        self.assert_not_written(daemon, '>/dev/full', 'No space left on device')

    def test_broken_pipe(self):
        """Here SIGPIPE is ignored, by Python; elsewhere it ends the command silently, as it ends others."""
        reader, writer = os.pipe()
        os.close(reader)
        self.addCleanup(os.close, writer)
        self.assert_not_written(self.daemon_with('rabbit'), f'>/proc/{os.getpid()}/fd/{writer}', 'Broken pipe')

    def test_closed(self):
        self.assert_not_written(self.daemon_with('rabbit'), '>&-', 'Bad file descriptor')

    def test_closed_descriptors_are_not_taken(self):
        """Else messages would go to the epmd, and what comes from it would be the command's input."""
        for redirection in ('2>&-', '<&- >&- 2>&-', '<&-'):
            server = self.listener()
            process = self.command('-c', f'exec "$@" {redirection}', 'sh', EPMDCTL, 'register', 'x', '1', '-p',
                                   port_of(server), '--', 'sh', '-c', 'cat; true', program='/bin/sh',
                                   env=self.environment())
            self.assertTrue(select.select([server], [], [], DEADLINE)[0])
            conn = self.closing(server.accept()[0])
            conn.settimeout(DEADLINE)
            self.assertEqual(conn.recv(4096), alive2('x', port=1, node_type=72, high=6, low=5))
            conn.sendall(b'v\0\0\0\0\1for nobody')
            # It may end with some of that unread, which resets the connection.
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(conn.recv(4096), b'', redirection)
            self.assertEqual((process.wait(), process.out.text()), (0, ''), redirection)


class Daemon(CtlCase):
    """With what our own daemon tells over its Varlink socket, instead of the server of these tests."""

    def setUp(self):
        super().setUp()
        tcp, varlink = self.listener(), self.listener(self.varlink)
        self.daemon = self.start(listeners=[tcp, varlink], fd_names=['epmd', 'varlink'])
        self.port = self.daemon.port
        self.node_port = port_of(self.listener('0.0.0.0'))
        self.register(self.daemon, 'first', port=self.node_port)
        self.conn = self.register(self.daemon, 'nød', port=self.node_port, extra=b'xy')

    def test_list(self):
        before = int(time.time()) - 60
        out, err = self.ctl('-p', self.port)
        self.assertEqual(err, '')
        lines = out.splitlines()
        self.assertEqual(lines[0].split(), ['NODE', 'PORT', 'TYPE', 'VERSIONS', 'CREATION', 'OWNER', 'UNIT', 'SINCE'])
        self.assertEqual(lines[1].split()[:5], ['nød', str(self.node_port), 'normal', '6-6', str(self.conn.creation)])
        found, err = self.ctl_json('-p', self.port)
        self.assertEqual(err, '')
        self.assertEqual([item['name'] for item in found], ['nød', 'first'])
        self.assertEqual((found[0]['creation'], found[0]['extra']), (self.conn.creation, 'eHk='))
        self.assertGreater(found[0]['since'], before * 1000000)

    def test_lookup(self):
        out, _err = self.ctl('lookup', 'nød', '-p', self.port)
        self.assertIn(f'creation: {self.conn.creation}\n', out)
        self.ctl('lookup', 'none', '-p', self.port, status=NO)

    def listener_verdict(self, port, status):
        findings, _err = self.ctl_json('check', '-p', port, status=status)
        return [item['verdict'] for item in findings if item['check'] == 'listener']

    def test_check(self):
        """It is told from another epmd on this host, with nodes and without any."""
        other = self.start_foreground()
        self.assertEqual(self.listener_verdict(self.port, OK), ['ok'])
        self.assertEqual(self.listener_verdict(other.port, 1), ['warning'])
        for conn in self.conns:
            conn.close()
        self.assert_registered(self.daemon)
        self.assertEqual(self.listener_verdict(self.port, OK), ['ok'])
        self.assertEqual(self.listener_verdict(other.port, 1), ['warning'])

    def test_stats(self):
        self.ctl('lookup', 'none', '-p', self.port, status=NO)
        found, err = self.ctl_json('stats')
        self.assertEqual(err, '')
        self.assertEqual(set(found['counters']), set(COUNTERS))
        self.assertEqual((found['nodes'], found['counters']['registrations'], found['counters']['misses']), (2, 2, 1))
        self.assertIn('epmd_nodes 2\n', self.ctl('stats', '--prometheus')[0])
        self.assertRegex(self.ctl('stats')[0], r'\nnodes now +2\n')


class Lookup(CtlCase):
    def daemon_with_extra(self, program=EPMD):
        daemon = self.start_foreground(program=program)
        self.register(daemon, 'rabbit', port=25672, node_type=77, high=6, low=5, extra=b'x\x01y')
        return daemon

    def test_found(self):
        for program in filter(None, (EPMD, UPSTREAM)):
            daemon = self.daemon_with_extra(program)
            out, err = self.ctl('lookup', 'rabbit@127.0.0.1', '-p', daemon.port)
            self.assertEqual(err, '')
            self.assertEqual(out, 'rabbit@127.0.0.1\n    port: 25672\n    type: normal (77), protocol 0\n'
                                  'versions: 5 to 6\n   extra: x\\x01y\n'
                                  f'   asked: 127.0.0.1:{daemon.port}: registered\n')

    def test_local(self):
        """On this host ::1 is tried first, and what happened there is told."""
        daemon = self.daemon_with_extra()
        out, err = self.ctl('lookup', 'rabbit', '-p', daemon.port)
        self.assertEqual(err, '')
        self.assertRegex(out, rf'\Arabbit\n(.*\n)*   asked: \[::1\]:{daemon.port}: .*registered\n\Z')

    def test_details(self):
        daemon = self.daemon_with_extra()
        known = node('rabbit', 25672, extra='eAF5', uid=54321, unit='a\033.service', peer='[::1]:40000')
        self.fake_varlink([known])
        out, _err = self.ctl('lookup', 'rabbit', '-p', daemon.port)
        self.assertIn('creation: 1234\n   owner: 54321\n    unit: a\\x1b.service\n    peer: [::1]:40000\n'
                      '   since: Tue 2023-11-14 22:13:20 UTC\n', out)
        found, _err = self.ctl_json('lookup', 'rabbit', '-p', daemon.port)
        self.assertEqual(found['node'], known)

    def test_details_of_another(self):
        daemon = self.daemon_with_extra()
        self.fake_varlink([node('rabbit', 1)])
        self.assertNotIn('creation', self.ctl('lookup', 'rabbit', '-p', daemon.port)[0])

    def test_json(self):
        for program in filter(None, (EPMD, UPSTREAM)):
            daemon = self.daemon_with_extra(program)
            found, _err = self.ctl_json('lookup', 'rabbit@127.0.0.1', '-p', daemon.port)
            self.assertEqual(found, {
                'registered': True, 'asked': [{'address': f'127.0.0.1:{daemon.port}', 'result': 'registered'}],
                'node': {'name': 'rabbit', 'port': 25672, 'type': 77, 'protocol': 0, 'highestVersion': 6,
                         'lowestVersion': 5, 'extra': 'eAF5'}})
            missed, _err = self.ctl_json('lookup', 'x@127.0.0.1', '-p', daemon.port, status=NO)
            self.assertEqual(missed, {'registered': False, 'asked': [
                {'address': f'127.0.0.1:{daemon.port}', 'result': 'not registered'}]})

    def test_not_registered(self):
        for program in filter(None, (EPMD, UPSTREAM)):
            daemon = self.daemon_with_extra(program)
            out, err = self.ctl('lookup', 'x@127.0.0.1', '-p', daemon.port, status=NO)
            self.assertEqual((out, err), ('', f'epmdctl: 127.0.0.1:{daemon.port}: not registered\nepmdctl: x is not '
                                              'registered; who is, is told by: epmdctl list 127.0.0.1\n'))

    def test_long_and_strange_names(self):
        daemon = self.start_foreground()
        for name in ('ø' * 255, 'a b', '日本'):
            self.register(daemon, name)
            out, _err = self.ctl('lookup', name, '-p', daemon.port)
            self.assertTrue(out.startswith(name + '\n'))
        self.ctl('lookup', 'x' * 1020, '-p', daemon.port, status=NO_EPMD)

    @tap.beside
    def test_no_epmd(self):
        for port, why in ((self.reserve(), 'Connection refused'),
                          (self.silent_port(), 'accepts connections, but did not answer within 0.3 s'),
                          (self.fake_epmd(b''), 'closed the connection without an answer'),
                          (self.fake_epmd(b'\x77\x00\x01'), 'what listens there is no epmd'),
                          (self.fake_epmd(b'no'), 'what listens there is no epmd')):
            out, err = self.ctl('lookup', 'x@127.0.0.1', '-p', port, SHORT, status=NO_EPMD)
            self.assertEqual((out, err), ('', f'epmdctl: 127.0.0.1:{port}: {why}\n'
                                              f'epmdctl: no epmd answers on port {port} of 127.0.0.1; what is wrong '
                                              'is told by: epmdctl check 127.0.0.1\n'))

    def test_unknown_host(self):
        _out, err = self.ctl('lookup', f'x@{UNKNOWN_HOST}', '--timeout=3', status=NO_EPMD)
        self.assertIn(f'epmdctl: {UNKNOWN_HOST}: ', err)

    def test_bad_names(self):
        for name in ('', '@host', 'x@', 'x' * 1021):
            self.ctl('lookup', name, status=USAGE)


class Register(CtlCase):
    def wait_registered(self, process):
        return process.wait_stderr(r'epmdctl: (.*) is registered with .*, port (\d+), creation (\d+)\n')

    def names(self, daemon):
        return dict(daemon.names())

    def fifo(self):
        """Where a shell can wait for a line that never comes."""
        path = os.path.join(self.directory, 'fifo')
        os.mkfifo(path)
        fd = os.open(path, os.O_RDWR)
        self.addCleanup(os.close, fd)
        return path

    def test_command(self):
        """The name is there while the command runs; the command's status is ours; its output is its own."""
        for program in filter(None, (EPMD, UPSTREAM)):
            daemon = self.start_foreground(program=program)
            out, _err = self.ctl('register', 'c1', '4711', '-p', daemon.port, '--', EPMDCTL, 'lookup', 'c1@127.0.0.1',
                                 '-p', daemon.port)
            self.assertIn('    port: 4711\n    type: hidden (72), protocol 0\nversions: 5 to 6\n', out)
            self.ctl('register', 'c1', '4711', '-p', daemon.port, '--', 'sh', '-c', 'exit 17', status=17)
            self.assert_registered(daemon)

    def test_type(self):
        daemon = self.start_foreground()
        for word, number in (('normal', 77), ('hidden', 72), ('104', 104), ('0', 0), ('255', 255)):
            found, _err = self.ctl_json('lookup', 'x', status=NO, env={'ERL_EPMD_PORT': str(daemon.port)})
            self.assertFalse(found['registered'])
            out, _err = self.ctl('register', 'x', '1', f'--type={word}', '-p', daemon.port, '--', EPMDCTL, '--json',
                                 'lookup', 'x', '-p', daemon.port)
            self.assertEqual(json.loads(out)['node']['type'], number)

    def test_command_statuses(self):
        daemon = self.start_foreground()
        script = os.path.join(self.directory, 'script')
        with open(script, 'w', encoding='ascii') as file:
            file.write('#!/bin/sh\n')
        for command, status in ((['sh', '-c', 'kill -9 $$'], -9), (['sh', '-c', 'kill -15 $$'], -15),
                                (['sh', '-c', 'kill -11 $$'], -11), (['/nonexistent'], 127), ([script], 126),
                                (['true'], 0), (['false'], 1)):
            _out, err = self.ctl('register', 'x', '1', '-p', daemon.port, '--', *command, status=status)
            self.assertEqual(f'failed to run {command[0]}' in err, status in (126, 127))
        self.assert_registered(daemon)

    def test_signals_are_passed_on(self):
        daemon = self.start_foreground()
        process = self.start_ctl('register', 'x', '1', '-p', daemon.port, '--', 'sh', '-c',
                                 f'trap "exit 5" TERM; echo up; read line <{self.fifo()}')
        while 'up\n' not in process.out.text():
            process.pump(DEADLINE)
        process.signal(signal.SIGTERM)
        self.assertEqual(process.wait(), 5)
        self.assert_registered(daemon)

    def test_held_until_a_signal(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            daemon = self.start_foreground()
            process = self.start_ctl('register', 'nød', '4711', '-p', daemon.port)
            self.assertEqual(self.wait_registered(process)[2], '4711')
            self.assert_registered(daemon, 'nød')
            process.signal(number)
            self.assertEqual(process.wait(), 0)
            self.assert_registered(daemon)

    def test_ignored_signals_do_not_end_it(self):
        """What nohup and shells without job control ask for."""
        daemon = self.start_foreground()
        process = self.command('-c', 'trap "" HUP INT; exec "$@"', 'sh', EPMDCTL, 'register', 'x', '1', '-p', str(daemon.port),
                               program='/bin/sh', env=self.environment())
        self.wait_registered(process)
        process.signal(signal.SIGHUP)
        process.signal(signal.SIGINT)
        # Signals come before what it says of this.
        daemon.signal(signal.SIGTERM)
        process.wait_stderr('lost the epmd')
        self.assertEqual(daemon.wait(), 0)
        process.signal(signal.SIGTERM)
        self.assertEqual(process.wait(), 0)

    def test_ended_children_are_noticed(self):
        """Also where whoever starts it does not care for its own, which is inherited."""
        daemon = self.start_foreground()
        script = 'import os, signal, sys\n' \
                 'signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execv(sys.argv[1], sys.argv[1:])'
        for command, status in (('true', 0), ('exit 7', 7), ('kill -9 $$', -9)):
            process = self.command('-c', script, EPMDCTL, 'register', 'x', '1', '-p', daemon.port, '--', 'sh', '-c',
                                   command, program=sys.executable, env=self.environment())
            self.assertEqual(process.wait(), status)

    def have_it_register_again(self, server, process):
        """It has lost its registration; its next request is read and not answered."""
        conn = self.closing(server.accept()[0])
        conn.sendall(b'v\0\0\0\0\1')
        self.wait_registered(process)
        conn.close()
        self.assertTrue(select.select([server], [], [], DEADLINE)[0])
        again = self.closing(server.accept()[0])
        again.settimeout(DEADLINE)
        self.assertEqual(again.recv(4096)[2:3], b'x')

    @tap.beside
    def test_signals_are_heard_while_it_registers_again(self):
        """An epmd that accepts and says nothing is no reason to wait for the end of the time."""
        for command, number in (((), signal.SIGTERM), (('--', 'sh', '-c', f'read line <{self.fifo()}'), signal.SIGINT)):
            server = self.listener()
            process = self.start_ctl('register', 'x', '1', '--timeout=3600', '-p', port_of(server), *command)
            self.have_it_register_again(server, process)
            process.signal(number)
            self.assertEqual(process.wait(), -number if command else 0)

    @tap.beside
    def test_end_of_the_command_while_it_registers_again(self):
        server, fifo = self.listener(), self.fifo()
        process = self.start_ctl('register', 'x', '1', '--timeout=3600', '-p', port_of(server), '--', 'sh', '-c',
                                 f'read line <{fifo}; exit 9')
        self.have_it_register_again(server, process)
        with open(fifo, 'w', encoding='ascii') as file:
            file.write('\n')
        self.assertEqual(process.wait(), 9)

    def test_messages_that_nobody_reads(self):
        """A pipe that has closed does not end it, but is the command's own matter."""
        port, fifo = self.reserve(), self.fifo()
        first = self.start_foreground(port=port)
        script = 'import os, signal, sys\n' \
                 'signal.signal(signal.SIGPIPE, signal.SIG_DFL)\nos.dup2(int(sys.argv[1]), 2)\n' \
                 'os.execv(sys.argv[2], sys.argv[2:])'
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        os.close(reader)
        process = self.command('-c', script, writer, EPMDCTL, 'register', 'x', '1', '-p', port, '--', 'sh', '-c',
                               f'read line <{fifo}; kill -PIPE $$', program=sys.executable, env=self.environment())
        os.close(writer)
        first.wait_stderr('Registered x at')
        first.signal(signal.SIGTERM)
        first.wait()
        second = self.start_foreground(port=port)
        second.wait_stderr('Registered x at')
        with open(fifo, 'w', encoding='ascii') as file:
            file.write('\n')
        self.assertEqual(process.wait(), -signal.SIGPIPE)

    def test_held_until_the_terminal_goes(self):
        daemon = self.start_foreground()
        pid, terminal = self.start_in_terminal('register', 'x', '1', '-p', daemon.port)
        self.assertTrue(select.select([terminal], [], [], DEADLINE)[0])
        self.assert_registered(daemon, 'x')
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        self.assert_registered(daemon)

    def test_control_c_is_for_the_command(self):
        """The terminal sends it to both; the command decides, and its status counts."""
        daemon = self.start_foreground()
        script = f'trap "echo caught; exit 6" INT; echo up; read line <{self.fifo()}'
        pid, terminal = self.start_in_terminal('-q', 'register', 'x', '1', '-p', daemon.port, '--', 'sh', '-c', script)
        seen, deadline = b'', time.monotonic() + DEADLINE
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.05)[0]:
                    seen += os.read(terminal, 4096)
                elif b'up' in seen:
                    # Until it is heard: a shell that is about to open the FIFO notes it, and then waits there.
                    os.write(terminal, b'\x03')
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 6)
        self.assertEqual(seen.count(b'caught'), 1)

    def test_taken(self):
        for program in filter(None, (EPMD, UPSTREAM)):
            daemon = self.daemon_with('x', program=program)
            out, err = self.ctl('register', 'x', '1', '-p', daemon.port, '--', 'echo', 'ran', status=NO)
            self.assertEqual(out, '')
            self.assertRegex(err, r'\Aepmdctl: [^\n]*: refused: the name is taken[^\n]*\n\Z')

    def test_names_that_are_not_valid(self):
        daemon = self.start_foreground()
        for name in ('a\nb', 'ø' * 256):
            _out, err = self.ctl('register', name, '1', '-p', daemon.port, '--', 'true', status=NO)
            self.assertIn('refused: the name is taken, not valid, ', err)

    @tap.beside
    def test_no_epmd(self):
        for port, why in ((self.reserve(), 'no epmd at .*: Connection refused'),
                          (self.silent_port(), 'no answer in time'),
                          (self.fake_epmd(b''), 'closed the connection without an answer.*'),
                          (self.fake_epmd(b'HTTP/1.0'), 'what listens there is no epmd'),
                          (self.fake_epmd(b'v\0\0'), 'what listens there is no epmd')):
            out, err = self.ctl('register', 'x', '1', '-p', port, SHORT, '--', 'echo', 'ran', status=NO_EPMD)
            self.assertEqual(out, '')
            self.assertRegex(err, rf'\Aepmdctl: [^\n]*{why}\n\Z')

    @tap.beside
    def test_comes_back(self):
        """An epmd that restarts and has forgotten the name is told again; one that is away meanwhile is awaited."""
        port = self.reserve()
        first = self.start_foreground(port=port)
        process = self.start_ctl('register', 'x', '4711', '-p', port)
        self.wait_registered(process)
        first.signal(signal.SIGTERM)
        first.wait()
        process.wait_stderr(r'lost the epmd at .*; registering again\n')
        second = self.start_foreground(port=port)
        process.wait_stderr(r'(?s)lost the epmd.*x is registered with')
        self.assertEqual(self.names(second), {b'x': 4711})
        process.signal(signal.SIGTERM)
        self.assertEqual(process.wait(), 0)
        self.assertLessEqual(process.err.text().count('no epmd at'), 1, 'the same failure is told once')

    def test_quiet(self):
        daemon = self.start_foreground()
        self.assertEqual(self.ctl('-q', 'register', 'x', '1', '-p', daemon.port, '--', 'true'), ('', ''))

    def test_bad_arguments(self):
        for args in (('x',), ('x', '0'), ('x', '65536'), ('x', 'http'), ('', '1'), ('x@host', '1'), ('x' * 1021, '1')):
            self.ctl('register', *args, status=USAGE)

    def test_descriptor_is_not_inherited(self):
        """Whatever the command leaves behind cannot hold the name."""
        daemon = self.start_foreground()
        out, _err = self.ctl('register', 'x', '1', '-p', daemon.port, '--', 'sh', '-c',
                             'ls -l /proc/self/fd | grep -c socket', status=1)
        self.assertEqual(out, '0\n')


class Check(CtlCase):
    """Findings are (check, verdict, text, cure)."""

    def check(self, *args, status, env=None):
        findings, err = self.ctl_json('check', *args, status=status, env=env)
        self.assertEqual(err, '')
        return findings

    def find(self, findings, check, pattern, verdict):
        """The one finding of a check whose text has a match."""
        found = [item for item in findings if item['check'] == check and re.search(pattern, item['text'])]
        self.assertEqual([item['verdict'] for item in found], [verdict], (check, pattern, findings))
        return found[0]

    def test_ours(self):
        """All is well: the daemon is the one behind the Varlink socket, and its nodes can be reached."""
        daemon = self.start_foreground(hosts=('127.0.0.1', '::1'))
        node_port = port_of(self.listener('0.0.0.0'))
        self.register(daemon, 'rabbit', port=node_port)
        self.fake_varlink([node('rabbit', node_port)])
        findings = self.check('-p', daemon.port, status=OK)
        self.find(findings, 'environment', 'no ERL_EPMD_', 'ok')
        self.find(findings, 'name', ' is ', 'ok')
        self.find(findings, 'port', rf'^127.0.0.1:{daemon.port}: answered$', 'ok')
        self.find(findings, 'listener', '^epmd for systemd$', 'ok')
        self.find(findings, 'node', rf'^rabbit: port {node_port} accepts connections on all IPv4 addresses$', 'ok')

    def test_text(self):
        """For people: a line for each, the cure below it, and colour only on a terminal."""
        daemon = self.daemon_with('rabbit')
        self.listener()
        out, err = self.ctl('check', '127.0.0.1', '-p', daemon.port)
        self.assertEqual(err, '')
        self.assertEqual(out, 'ok       environment  no ERL_EPMD_* is set; the port is ' + f'{daemon.port}\n'
                              'ok       name         127.0.0.1 is 127.0.0.1\n'
                              f'ok       port         127.0.0.1:{daemon.port}: answered\n'
                              f'ok       node         rabbit: port {self.ports["rabbit"]} accepts connections\n')
        out, _err = self.ctl('check', '127.0.0.1', '-p', self.reserve(), status=2)
        self.assertRegex(out, r'\nproblem  port         127.0.0.1:\d+: Connection refused\n {22}cure: [^\n]+\n\Z')
        text = self.run_in_terminal('check', '127.0.0.1', '-p', daemon.port,
                                    env=clean_env(self.environment(TERM='xterm')))
        self.assertIn('\033[32mok     \033[0m', text)

    def test_upstream(self):
        self.need_upstream()
        daemon = self.daemon_with('rabbit', program=UPSTREAM)
        findings = self.check('-p', daemon.port, status=1)
        found = self.find(findings, 'listener', rf'^epmd \(PID {daemon.pid}\), which systemd does not manage',
                          'warning')
        self.assertIn('systemctl enable --now epmd.socket', found['cure'])
        self.find(findings, 'node', r'^rabbit: port \d+ accepts connections on 127.0.0.1 only', 'note')
        self.check('127.0.0.1', '-p', daemon.port, status=OK)

    def test_unprivileged(self):
        """Without the right to look into other processes it tells less, and still all that can be seen."""
        if os.geteuid() != 0:
            self.skipTest('needs root, to become somebody else')
        daemon = self.daemon_with('rabbit')
        nobody = pwd.getpwnam('nobody').pw_uid
        copy = os.path.join(self.directory, 'epmdctl')
        with open(EPMDCTL, 'rb') as source, open(copy, 'wb') as target:
            target.write(source.read())
        os.chmod(copy, stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        os.chmod(self.directory, stat.S_IRWXU | stat.S_IXGRP | stat.S_IXOTH)
        done = subprocess.run([copy, '--json', 'check', '-p', str(daemon.port)], user=nobody, group=nobody,
                              extra_groups=[], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=clean_env(self.environment()), timeout=DEADLINE, check=False)
        self.assertEqual(done.stderr, b'')
        findings = json.loads(done.stdout)
        self.find(findings, 'listener', '^an epmd on a socket of root', 'note')
        self.find(findings, 'node', r'^rabbit: port \d+ accepts connections', 'note')

    def test_dead_port(self):
        port = self.reserve()
        findings = self.check('-p', port, status=2)
        self.find(findings, 'port', rf'^127.0.0.1:{port}: Connection refused$', 'problem')
        self.assertFalse([item for item in findings if item['check'] in ('listener', 'node', 'exposure')])
        self.check('127.0.0.1', '-p', port, status=2)

    @tap.beside
    def test_silent_port(self):
        port = self.silent_port()
        findings = self.check('-p', port, SHORT, status=2)
        self.find(findings, 'port', rf'^127.0.0.1:{port}: accepts connections, but did not answer within 0.3 s$',
                  'problem')
        found = self.find(findings, 'listener', r' has port \d+, and is no epmd that answers$', 'problem')
        self.assertIn(f'PID {os.getpid()}', found['text'])
        self.assertIn(f'ss -ltnp \'sport = :{port}\'', found['cure'])

    def test_not_an_epmd(self):
        for reply, why in ((b'HTTP/1.0 400 Bad Request\r\n', 'what listens there is no epmd'),
                           (b'', 'closed the connection without an answer')):
            port = self.fake_epmd(reply)
            for host in ((), ('127.0.0.1',)):
                findings = self.check(*host, '-p', port, status=2)
                self.find(findings, 'port', why, 'problem')

    def test_unknown_host(self):
        findings = self.check(UNKNOWN_HOST, '--timeout=3', status=2)
        found = self.find(findings, 'name', rf'^{UNKNOWN_HOST} has no address: ', 'problem')
        self.assertTrue(found['cure'])
        self.assertEqual([item['check'] for item in findings], ['environment', 'name'])

    def test_own_name_unknown(self):
        """Nodes whose host has no address cannot find each other."""
        daemon = self.start_foreground()
        flags = CLONE_NEWUTS if os.geteuid() == 0 else CLONE_NEWUTS | CLONE_NEWUSER
        script = 'import ctypes, os, sys\n' \
                 f'if ctypes.CDLL(None).unshare({flags}): os._exit(77)\n' \
                 'import socket\nsocket.sethostname("nameless.example")\nos.execv(sys.argv[1], sys.argv[1:])'
        process = self.command('-c', script, EPMDCTL, '--json', '--timeout=3', 'check', '-p', daemon.port,
                               program=sys.executable, env=self.environment())
        if process.wait() == 77:
            self.skipTest('no UTS namespace can be made here')
        found = self.find(json.loads(process.out.text()), 'name', '^nameless has no address: ', 'problem')
        self.assertEqual(found['cure'], 'add to /etc/hosts the line: 127.0.1.1 nameless')
        self.assertEqual(process.status, 2)

    def test_told_port(self):
        """Erlang refuses a list that tells another port than the one asked."""
        port = self.fake_epmd(struct.pack('>I', 4370))
        for host in ((), ('127.0.0.1',)):
            findings = self.check(*host, '-p', port, status=2)
            found = self.find(findings, 'port', r'says that its port is 4370, which Erlang takes for {error,address}',
                              'problem')
            self.assertIn(f'-port {port}', found['cure'])

    def test_nodes(self):
        daemon = self.start_foreground()
        dead = self.reserve()
        self.register(daemon, 'dead\u009bnode', port=dead)
        self.register(daemon, 'client', port=0)
        self.register(daemon, 'other', port=port_of(self.listener('127.0.0.2')))
        findings = self.check('-p', daemon.port, status=2)
        found = self.find(findings, 'node', rf'^dead\\xc2\\x9bnode: port {dead}: Connection refused$', 'problem')
        self.assertIn('restart', found['cure'])
        self.find(findings, 'node', '^client: registered without a port', 'note')
        self.find(findings, 'node', r'^other: port \d+ accepts connections on 127.0.0.2 only, not from other hosts$',
                  'note')
        self.check('127.0.0.1', '-p', daemon.port, status=2)

    def test_node_of_a_unit(self):
        """Where the unit is known, the cure names it."""
        daemon = self.start_foreground()
        dead = self.reserve()
        self.register(daemon, 'rabbit', port=dead)
        self.fake_varlink([node('rabbit', dead)])
        found = self.find(self.check('-p', daemon.port, status=2), 'node', '^rabbit: ', 'problem')
        self.assertEqual(found['cure'],
                         'it is registered, but does not listen: systemctl restart rabbitmq-server.service')

    def test_environment(self):
        daemon = self.start_foreground()
        port = str(daemon.port)
        for variable, value, pattern, verdict, status in (
                ('ERL_EPMD_PORT', port, rf'^ERL_EPMD_PORT={port}: nodes and tools without', 'note', 1),
                ('ERL_EPMD_ADDRESS', '127.0.0.1,::1', '^ERL_EPMD_ADDRESS=127.0.0.1,::1: ', 'note', 1),
                ('ERL_EPMD_ADDRESS', 'localhost', '"localhost" is not an address', 'problem', 2),
                ('ERL_EPMD_ADDRESS', ' ,', '^ERL_EPMD_ADDRESS is empty, which means all addresses$', 'note', 1),
                ('ERL_EPMD_ADDRESS', '\033[2J', r'"\\x1b\[2J" is not an address', 'problem', 2),
                ('ERL_EPMD_\033[2J', '1', r'^ERL_EPMD_\\x1b\[2J is set, which nothing reads$', 'warning', 1),
                ('ERL_EPMD_PORTS', '1', '^ERL_EPMD_PORTS is set, which nothing reads$', 'warning', 1),
                ('ERL_EPMD_RELAXED_COMMAND_CHECK', '', 'lets living nodes be unregistered$', 'note', 1)):
            args = () if variable == 'ERL_EPMD_PORT' else ('-p', port)
            findings = self.check(*args, status=status, env={variable: value})
            self.find(findings, 'environment', pattern, verdict)
            self.find(findings, 'port', rf'^127.0.0.1:{port}: answered$', 'ok')

    def test_more_nodes_than_descriptors(self):
        lines = ''.join(f'name n{number} at port {port_of(self.listener())}\n' for number in range(100))
        port = self.reserve()
        self.fake_epmd(struct.pack('>I', port) + lines.encode(), port=port)
        process = self.command('-c', 'ulimit -n 20; exec "$@"', 'sh', EPMDCTL, '--json', 'check', '127.0.0.1', '-p', port,
                               program='/bin/sh', env=self.environment())
        self.assertEqual(process.wait(), 0, process.out.text())
        nodes = [item for item in json.loads(process.out.text()) if item['check'] == 'node']
        self.assertEqual([item['verdict'] for item in nodes], ['ok'] * 100)

    def test_bad_port_variable(self):
        for value in ('0', '65536', 'http', '-1', '4369x'):
            findings, _err = self.ctl_json('check', '127.0.0.1', status=2, env={'ERL_EPMD_PORT': value})
            self.find(findings, 'environment', f'^ERL_EPMD_PORT={value} is not a port$', 'problem')

    @private_network
    def test_exposure(self):
        """An address that is not private counts; whether the daemon limits whom it answers makes the difference."""
        daemon = self.start_foreground()
        findings, _err = self.ctl_json('check', '-p', daemon.port, status=1)
        found = self.find(findings, 'exposure', rf'^listens on (.*, )?{re.escape(HERE_V4)}', 'warning')
        self.assertIn('firewall', found['cure'])
        node_port = port_of(self.listener('0.0.0.0'))
        self.register(daemon, 'rabbit', port=node_port)
        self.fake_varlink([node('rabbit', node_port)])
        findings, _err = self.ctl_json('check', '-p', daemon.port, status=OK)
        self.find(findings, 'exposure', 'EPMD_ALLOW', 'ok')

    @private_network
    def test_loopback_only(self):
        daemon = self.start_foreground('-address', '127.0.0.1')
        findings, _err = self.ctl_json('check', '-p', daemon.port, status=1)
        self.find(findings, 'exposure', '^this host only', 'note')
        findings, _err = self.ctl_json('check', HERE_V4, '-p', daemon.port, status=2)
        self.find(findings, 'port', rf'^{HERE_V4}:{daemon.port}: Connection refused$', 'problem')


class Stats(CtlCase):
    def test_table(self):
        self.fake_varlink(stats=statistics())
        out, err = self.ctl('stats')
        self.assertEqual(err, '')
        lines = out.splitlines()
        self.assertEqual(lines[0], 'Since Tue 2023-11-14 22:13:20 UTC, on port 4369:')
        values = {re.split(' {2,}', line.strip())[0]: int(line.split()[-1]) for line in lines[1:]}
        self.assertEqual((values['nodes now'], values['connections now'], values['registrations']), (2, 3, 100))
        self.assertEqual(sorted(values.values()), sorted([2, 3, *COUNTERS.values()]))

    def test_json(self):
        for stats in (statistics(), statistics(counters={})):
            self.fake_varlink(stats=stats)
            self.assertEqual(self.ctl_json('stats'), (stats, ''))

    def test_several_ports(self):
        several = statistics()
        del several['port']
        self.fake_varlink(stats=several)
        self.assertEqual(self.ctl_json('stats', '-p', '4370'), (several, ''))

    def test_prometheus(self):
        """The text format, checked line by line: help and type once for each metric, before its values."""
        self.fake_varlink(stats=statistics())
        out, err = self.ctl('stats', '--prometheus')
        self.assertEqual(err, '')
        self.assertTrue(out.endswith('\n'))
        helped, typed, values = set(), {}, {}
        for line in out.splitlines():
            if match := re.fullmatch(r'# HELP (\w+) \S.*', line):
                self.assertNotIn(match[1], helped)
                helped.add(match[1])
            elif match := re.fullmatch(r'# TYPE (\w+) (counter|gauge)', line):
                self.assertNotIn(match[1], typed)
                typed[match[1]] = match[2]
            else:
                match = re.fullmatch(r'(([a-z_]+)(?:\{reason="[a-z]+"\})?) ([0-9]+(?:\.[0-9]+)?)', line)
                self.assertTrue(match, line)
                self.assertIn(match[2], typed)
                self.assertEqual(typed[match[2]] == 'counter', match[2].endswith('_total'))
                self.assertNotIn(match[1], values)
                values[match[1]] = float(match[3])
        self.assertEqual(helped, set(typed))
        self.assertEqual(values['epmd_nodes'], 2)
        self.assertEqual(values['epmd_start_time_seconds'], SINCE / 1e6)
        self.assertEqual(values['epmd_registrations_total'], COUNTERS['registrations'])
        self.assertEqual(values['epmd_refused_total{reason="taken"}'], COUNTERS['refusedTaken'])
        self.assertEqual(sorted(values.values()), sorted([2, 3, SINCE / 1e6, *COUNTERS.values()]))

    def test_another_port(self):
        self.fake_varlink(stats=statistics())
        out, err = self.ctl('stats', '-p', '4370', status=NO_EPMD)
        self.assertEqual(out, '')
        self.assertIn('counts for the epmd on port 4369, not on port 4370', err)

    def test_nobody(self):
        out, err = self.ctl('stats', status=NO_EPMD)
        self.assertEqual(out, '')
        self.assertIn(f'{self.varlink}: No such file or directory\n', err)
        self.assertIn('systemctl enable --now epmd.socket', err)

    @tap.beside
    def test_bad_replies(self):
        for reply in ({'parameters': statistics(counters=[])}, {'parameters': statistics(counters={'a': 'b'})},
                      {'parameters': statistics(nodes=-1)}, {'parameters': statistics(since=None)}):
            FakeVarlink(self, lambda conn, _request, reply=reply: answer(conn, reply))
            out, err = self.ctl('stats', status=NO_EPMD)
            self.assertEqual(out, '')
            self.assertIn('the answer is not one of org.erlang.epmd', err)
        FakeVarlink(self, lambda conn, _request: conn.recv(1))
        self.assertIn('no answer in time', self.ctl('stats', SHORT, status=NO_EPMD)[1])


class CommandLine(CtlCase):
    def test_help(self):
        for args in (('--help',), ('-h',), ('help',), ('list', '--help'), ('--help', 'nonsense')):
            out, err = self.ctl(*args)
            self.assertTrue(out.startswith('Usage: epmdctl '), args)
            self.assertEqual(err, '')
            self.assertLessEqual(max(map(len, out.splitlines())), 80)

    def test_version(self):
        out, err = self.ctl('--version')
        self.assertRegex(out, r'\Aepmdctl \(epmd for systemd\) \d+\.\d+\.\d+\n\Z')
        self.assertEqual(err, '')

    def test_usage(self):
        """One line that says what is wrong, status 64, nothing on stdout."""
        for args, word in ((('nonsense',), '"nonsense"'), (('--nonsense',), '--nonsense'), (('-x',), '-x'),
                           (('--port',), '--port'), (('-p', '0'), '"0"'), (('-p', '65536'), '"65536"'),
                           (('-p', ' 1'), '" 1"'), (('--timeout', '0'), '"0"'), (('--timeout=soon',), '"soon"'),
                           (('--timeout=nan',), '"nan"'), (('--type=256', 'register', 'a', '1'), '"256"'),
                           (('--type=x', 'register', 'a', '1'), '"x"'), (('--type=normal',), 'register'),
                           (('list', 'a', 'b'), 'list [HOST]'), (('lookup',), 'NAME[@HOST]'),
                           (('lookup', 'a', 'b'), 'NAME[@HOST]'), (('register', 'a'), 'NAME PORT'),
                           (('stats', 'host'), 'stats'), (('--prometheus',), 'stats'),
                           (('stats', '--prometheus', '--json'), 'exclude'),
                           (('register', 'a', '1', '--json'), 'register'), (('',), '""'),
                           (('list', '-xq'), 'option -xq;'), (('list', '-qx'), 'option -qx;'),
                           (('list', 'a', '-ñq', 'b'), 'option -ñq;'), (('', '-xq'), 'option -xq;'),
                           (('--json=1',), 'option --json=1 takes no value'), (('--quiet=',), 'takes no value'),
                           (('list', ''), '[HOST]'), (('check', ''), '[HOST]'),
                           (('list', '--json', ''), '[HOST]')):
            out, err = self.ctl(*args, status=USAGE)
            self.assertEqual(out, '', args)
            self.assertRegex(err, r'\Aepmdctl: [^\n]+\n\Z', args)
            self.assertIn(word, err, args)

    def test_words_that_would_speak_to_the_terminal(self):
        """Scripts pass on what they have got: no control character of it comes through, and a message is one line."""
        word = 'a\033[2J\nb\u009b\\'
        for args, status in (((word,), USAGE), ((f'--{word}',), USAGE), (('-p', word), USAGE), (('list', word), NO_EPMD),
                             (('lookup', f'x@{word}'), NO_EPMD), (('check', word), NO_EPMD),
                             (('register', f'{word}@', '1'), USAGE), (('list', word), NO_EPMD)):
            out, err = self.ctl(*args, status=status)
            self.assertIn('a\\x1b[2J\\x0ab\\xc2\\x9b\\', out + err)
            for line in (out + err).splitlines():
                self.assertTrue(line.isprintable(), line)
                self.assertRegex(line, '^(epmdctl: |ok +|problem +| +cure: )')

    def test_decimal_comma(self):
        """Numbers are the same in every language."""
        made = subprocess.run(['localedef', '-i', 'de_DE', '-f', 'UTF-8', f'{self.directory}/de_DE.UTF-8'], check=False,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) if shutil.which('localedef') else None
        if not made or made.returncode != 0:
            self.skipTest('no locale with a decimal comma can be made here: apt-get install locales')
        german = {'LOCPATH': self.directory, 'LC_ALL': 'de_DE.UTF-8'}
        self.fake_varlink(stats=statistics())
        self.assertIn('Di 2023-11-14', self.ctl('stats', env=german)[0], 'it is in use')
        _out, err = self.ctl('-p', self.silent_port(), '--timeout', '0.3', status=NO_EPMD, env=german)
        self.assertIn('did not answer within 0.3 s', err)
        self.ctl('--timeout', '0,3', status=USAGE, env=german)

    def test_bad_environment(self):
        for value in ('0', '65536', 'x'):
            _out, err = self.ctl(status=USAGE, env={'ERL_EPMD_PORT': value})
            self.assertIn(f'ERL_EPMD_PORT "{value}"', err)
        # An option wins, an empty value is none.
        daemon = self.daemon_with('a')
        self.ctl('-p', daemon.port, env={'ERL_EPMD_PORT': 'x'})
        self.ctl('list', '-p', daemon.port, env={'ERL_EPMD_PORT': ''})


class Matrix(CtlCase):
    """Every command against every kind of other side: the status, and what people are told."""

    COMMANDS = {
        'list': ('list',), 'lookup': ('lookup', 'rabbit'), 'register': ('register', 'c1', '4711', '--', 'echo', 'ran'),
        'check': ('check',), 'stats': ('stats',)}
    NO_STATS = NO_EPMD, r'^epmdctl: .*/varlink: No such file or directory$'
    # Status and what is said, on whichever stream.
    WANTED = {
        'ours': {
            'list': (OK, r'^rabbit +\d+ +normal +6-6 +\d+ +'), 'lookup': (OK, r'^ *creation: \d+$'),
            'register': (OK, r'^ran$'), 'check': (OK, r'^ok +listener +epmd for systemd$'),
            'stats': (OK, r'^ *nodes now +1$')},
        'upstream': {
            'list': (OK, r'asked by NAMES, which tells only names and ports$'), 'lookup': (OK, r'^ +port: \d+$'),
            'register': (OK, r'^ran$'), 'check': (NO, r'^warning +listener +epmd \(PID \d+\), which systemd does not'),
            'stats': NO_STATS},
        'dead port': {
            'list': (NO_EPMD, r'^epmdctl: 127.0.0.1:\d+: Connection refused$'),
            'lookup': (NO_EPMD, r'^epmdctl: 127.0.0.1:\d+: Connection refused$'),
            'register': (NO_EPMD, r'^epmdctl: no epmd at .*: Connection refused$'),
            'check': (NO_EPMD, r'^problem +port +127.0.0.1:\d+: Connection refused$'), 'stats': NO_STATS},
        'silent port': {
            'list': (NO_EPMD, r'accepts connections, but did not answer within 0.1 s$'),
            'lookup': (NO_EPMD, r'accepts connections, but did not answer within 0.1 s$'),
            'register': (NO_EPMD, r'no answer in time$'),
            'check': (NO_EPMD, r'^problem +port +.*accepts connections, but did not answer'), 'stats': NO_STATS},
        'unknown host': {
            'list': (NO_EPMD, rf'^epmdctl: no epmd answers on port 4369 of {UNKNOWN_HOST}; '),
            'lookup': (NO_EPMD, rf'^epmdctl: no epmd answers on port 4369 of {UNKNOWN_HOST}; '),
            # These are for this host only.
            'register': (USAGE, '^epmdctl: '),
            'check': (NO_EPMD, rf'^problem +name +{UNKNOWN_HOST} has no address'),
            'stats': (USAGE, '^epmdctl: ')}}

    def run_all(self, against, *options, host=None, environment=None):
        for command, (status, pattern) in self.WANTED[against].items():
            words = list(self.COMMANDS[command])
            if host:
                words[1:2] = [f'{words[1]}@{host}'] if command in ('lookup', 'register') else [host]
            out, err = self.ctl(*options, *words, status=status, env=environment)
            self.assertRegex(out + err, re.compile(pattern, re.M), f'{command} against {against}')
            self.assertEqual('ran' in out, command == 'register' and status == OK, out)

    def test_ours(self):
        daemon = self.start(listeners=[self.listener(), self.listener(self.varlink)], fd_names=['epmd.socket', 'varlink'])
        rabbit = self.listener('0.0.0.0')
        self.register(daemon, 'rabbit', port=port_of(rabbit))
        self.run_all('ours', '-p', daemon.port)

    def test_upstream(self):
        self.need_upstream()
        daemon = self.daemon_with('rabbit', program=UPSTREAM)
        self.run_all('upstream', '-p', daemon.port)

    def test_dead_port(self):
        self.run_all('dead port', '-p', self.reserve())

    def test_silent_port(self):
        self.run_all('silent port', '--timeout=0.1', '-p', self.silent_port())

    def test_unknown_host(self):
        self.run_all('unknown host', '--timeout=3', host=UNKNOWN_HOST)

    def test_nothing_is_left_out(self):
        self.assertEqual({against: sorted(row) for against, row in self.WANTED.items()},
                         {against: sorted(self.COMMANDS) for against in (
                             'ours', 'upstream', 'dead port', 'silent port', 'unknown host')})


def take_name():
    """Where this is allowed, a host name that resolves, for these tests alone: the machine's own need not."""
    if LIBC.unshare(CLONE_NEWUTS) == 0:
        socket.sethostname('localhost')


if __name__ == '__main__':
    take_name()
    tap.main()
