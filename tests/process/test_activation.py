#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon under a service manager: the sockets that it is given, what it notifies, and how it ends."""

import functools
import os
import re
import signal
import socket
import struct
import sys
import time

sys.dont_write_bytecode = True
import tap
from epmdtest import (  # noqa: E402
    DEADLINE, Case, Daemon, EPMD, Process, alive2, dump, has_ipv6, kill, names, parse_names, port2,
    parse_port2, port_of, readable)

EXIT_OWN_ACCORD = 77
LINES_IN_A_SECOND = 10


class Listeners(Case):
    """The sockets passed in."""

    def test_each_family(self):
        path = os.path.join(self.directory, 'socket')
        socks = [self.listener('127.0.0.1'), self.listener(path)]
        if has_ipv6():
            socks += [self.listener('::1'), self.listener('::', dual_stack=True)]
        daemon = self.start(listeners=socks)
        node = self.register(daemon, 'everywhere', port=77)
        for address in daemon.addresses:
            with self.subTest(address=address):
                self.assertEqual(parse_port2(daemon.ask(port2('everywhere'), address)).port, 77)
        self.assertFalse(node.has_ended())

    def test_ports_of_their_own(self):
        """Two sockets of different ports: erl_epmd believes only an answer that names the port it asked."""
        socks = [self.listener(), self.listener(), self.listener('127.0.0.3')]
        daemon = self.start(listeners=socks)
        self.register(daemon, 'one', address=daemon.addresses[1], port=5)
        for sock in socks:
            reply = parse_names(daemon.ask(names(), sock.getsockname()))
            self.assertEqual(reply, (port_of(sock), [(b'one', 5)]))
            self.assertEqual(daemon.ask(dump(), sock.getsockname())[:4], struct.pack('>I', port_of(sock)))

    def test_many(self):
        socks = [self.listener() for _number in range(40)]
        daemon = self.start(listeners=socks)
        for sock in socks:
            self.assertEqual(parse_names(daemon.ask(names(), sock.getsockname())).port, port_of(sock))

    def test_named(self):
        daemon = self.start(listeners=[self.listener(), self.listener()], fd_names=['epmd.socket', 'other.socket'])
        for address in daemon.addresses:
            self.assertEqual(parse_names(daemon.ask(names(), address)).port, address[1])

    def test_both_forms_of_the_option(self):
        daemon = self._ready(Daemon([EPMD, '--systemd'], [(sock := self.listener()).getsockname()], fds=[sock],
                                    env={'LISTEN_FDS': '1'}, own_pid=['LISTEN_PID']))
        self.assertEqual(parse_names(daemon.ask(names())).port, daemon.port)

    def test_waiting_connections_are_served(self):
        """The connection that made the service manager start it."""
        sock = self.listener()
        first = [self.connect(None, address=sock.getsockname()).send(names()) for _number in range(20)]
        self.start(listeners=[sock])
        for conn in first:
            self.assert_reply(conn, struct.pack('>I', port_of(sock)))

    def test_the_sockets_stay_with_the_service_manager(self):
        """It must not shut down what it only borrowed: the next instance serves the same port."""
        sock = self.listener()
        for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            daemon = self.start(listeners=[sock])
            self.register(daemon, 'again')
            daemon.signal(end)
            daemon.wait()
            late = self.connect(daemon).send(names())
            following = self.start(listeners=[sock])
            self.assert_reply(late, struct.pack('>I', port_of(sock)))
            following.signal(signal.SIGTERM)
            self.assertEqual(following.wait(), 0)

    def test_a_blocking_socket(self):
        """A connection that vanishes before accept() must not make the daemon wait in it."""
        sock = self.listener()
        os.set_blocking(sock.fileno(), True)
        daemon = self.start(listeners=[sock])
        for _turn in range(50):
            self.connect(daemon).reset()
        self.assertEqual(daemon.names(), [])


class BadSockets(Case):
    """What is no listening stream socket is named in a clear error."""

    def start_with(self, fds, fd_names=None, pid=True, fd_count=None):
        """Starts epmd -systemd, which is to fail."""
        notify = self.new_notify()
        env = {'LISTEN_FDS': str(len(fds) if fd_count is None else fd_count), 'NOTIFY_SOCKET': notify.path}
        if fd_names:
            env['LISTEN_FDNAMES'] = ':'.join(fd_names)
        process = self.kept(Process([EPMD, '-systemd'], env=env, fds=fds, own_pid=['LISTEN_PID'] if pid else []))
        return process, notify

    def run_with(self, *args, **kwargs):
        """Runs epmd -systemd to its end; the process and all that it notified."""
        process, notify = self.start_with(*args, **kwargs)
        process.wait()
        notify.drain()
        return process, notify.messages

    def assert_refused(self, process, *words):
        text = process.err.text()
        self.assertEqual((process.status, process.out.text()), (1, ''), text)
        self.assertRegex(text, r'\Aepmd: [^\n]+\n\Z')
        for word in words:
            self.assertIn(word, text)

    def assert_notified_failure(self, messages):
        self.assertFalse([message for message in messages if 'READY' in message])
        numbers = [int(message['ERRNO']) for message in messages if 'ERRNO' in message]
        self.assertEqual(len(numbers), 1, messages)
        self.assertGreater(numbers[0], 0)

    @tap.beside
    def test_wrong_kinds(self):
        pipe = [os.fdopen(fd, 'rb', 0) for fd in os.pipe2(os.O_CLOEXEC)]
        accepted = self.connect(None, address=self.listener().getsockname())
        path = functools.partial(os.path.join, self.directory)
        kinds = {
            'UDP': self.listener(kind=socket.SOCK_DGRAM, listen=False),
            'TCP, bound only': self.listener(listen=False),
            'TCP, a connection': accepted,
            'Unix datagram': self.listener(path('datagram'), kind=socket.SOCK_DGRAM, listen=False),
            'Unix packets': self.listener(path('packets'), kind=socket.SOCK_SEQPACKET),
            'a pipe': self.closing(pipe[0]),
            'the other end': self.closing(pipe[1]),
            'a file': self.closing(open('/dev/null', 'rb')),
        }
        # All at once: it may take its time to end, lest a service manager restart it without a pause.
        started = {kind: self.start_with([thing.fileno()], ['thething.socket']) for kind, thing in kinds.items()}
        for kind, (process, notify) in started.items():
            with self.subTest(kind=kind):
                process.wait()
                notify.drain()
                self.assert_refused(process, 'thething.socket')
                self.assert_notified_failure(notify.messages)

    @tap.beside
    def test_the_bad_one(self):
        """Among good ones, without a name, and where less is open than was promised. All at once, as above."""
        bad = self.listener(kind=socket.SOCK_DGRAM, listen=False)
        three = [self.listener(), bad, self.listener()]
        named = self.start_with(three, ['good', 'wrong', 'alsogood'])
        unnamed = self.start_with([bad])
        not_open = self.start_with([self.listener()], fd_count=2)
        for process, notify in (named, unnamed, not_open):
            process.wait()
            notify.drain()
            self.assert_refused(process)
            self.assertFalse([message for message in notify.messages if 'READY' in message])
        self.assert_notified_failure(named[1].messages)
        self.assert_notified_failure(unnamed[1].messages)
        self.assertIn('wrong', named[0].err.text())
        self.assertNotIn('good', named[0].err.text())

    @tap.beside
    def test_bad_settings(self):
        """A typing error is no reason to keep the machine busy with one start after the other."""
        notify = self.new_notify()
        begun = time.monotonic()
        process = self.kept(Process([EPMD, '-systemd'], env={'EPMD_ALLOW': 'privat', 'NOTIFY_SOCKET': notify.path}))
        process.wait()
        self.assert_refused(process, 'privat')
        self.assertGreater(time.monotonic() - begun, 0.95)

    def test_none_passed(self):
        process, _messages = self.run_with([])
        self.assert_refused(process, 'systemd', 'socket')

    def test_meant_for_another_process(self):
        """Activation variables that an ancestor left behind: not activated, and so it tells nobody anything."""
        process, messages = self.run_with([self.listener()], pid=False)
        self.assert_refused(process, 'systemd')
        self.assertEqual(messages, [])


class Notifications(Case):
    """READY, STATUS, WATCHDOG, STOPPING."""

    def test_ready_comes_once_and_is_true(self):
        sock = self.listener()
        daemon = self.start(listeners=[sock])
        self.assertEqual(daemon.names(), [])
        daemon.signal(signal.SIGTERM)
        daemon.notify.wait('STOPPING', '1', process=daemon)
        daemon.wait()
        daemon.notify.drain()
        self.assertEqual(len([message for message in daemon.notify.messages if 'READY' in message]), 1)
        self.assertEqual(len([message for message in daemon.notify.messages if 'STOPPING' in message]), 1)

    def test_signals(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number):
                daemon = self.start()
                node = self.register(daemon, 'lives')
                waiting = self.connect(daemon).send(b'\0').wait_consumed()
                daemon.signal(number)
                daemon.notify.wait('STOPPING', '1', process=daemon)
                self.assertEqual(daemon.wait(), 0)
                self.assertEqual((node.read_all(), waiting.read_all()), (b'', b''))

    def test_hangup_is_no_end(self):
        """A terminal that closes, or a reload, ends nobody's registration."""
        daemon = self.start()
        self.register(daemon, 'lives')
        daemon.signal(signal.SIGHUP)
        self.assert_registered(daemon, 'lives')
        self.assertFalse(daemon.ends_within(0))

    def wait_status(self, daemon, nodes, others):
        """Waits for the STATUS that counts so many nodes, and other connections beside them."""
        while True:
            text = daemon.notify.wait('STATUS', process=daemon)['STATUS']
            counts = re.search(r'(\d+) nodes?\b.*?(\d+)[^\d]*connections?\b', text)
            self.assertIsNotNone(counts, text)
            if (int(counts[1]), int(counts[2])) == (nodes, others):
                return

    @tap.beside
    def test_status_counts(self):
        daemon = self.start()
        nodes = [self.register(daemon, name) for name in ('one', 'two')]
        self.wait_status(daemon, 2, 0)
        idle = self.connect(daemon).send(b'\0').wait_consumed()
        self.wait_status(daemon, 2, 1)
        nodes.pop().close()
        idle.close()
        self.wait_status(daemon, 1, 0)
        # Nothing happens now, and nothing is said.
        self.assertIsNone(daemon.notify.next(1.2))

    @tap.beside
    def test_status_at_most_once_a_second(self):
        """However much happens, and without losing the last word."""
        daemon = self.start()
        deadline = time.monotonic() + 1.5
        count = 0
        while time.monotonic() < deadline:
            node = self.register(daemon, f'n{count}')
            node.close()
            count += 1
        for name in ('last', 'of', 'all'):
            self.register(daemon, name)
        self.assertGreater(count, 10)
        self.wait_status(daemon, 3, 0)
        times = [message['at'] for message in daemon.notify.messages if 'STATUS' in message and 'READY' not in message]
        self.assertGreater(len(times), 1)
        # They were taken from the socket later than they came: only their number tells how often they were sent.
        self.assertLessEqual(len(times), 4)

    @tap.beside
    def test_watchdog(self):
        """Twice in each period, so that one late turn does no harm."""
        daemon = self.start(watchdog_usec=400000)
        times = [daemon.notify.wait('WATCHDOG', '1', process=daemon, timeout=1)['at'] for _turn in range(4)]
        for earlier, later in zip(times, times[1:]):
            self.assertLess(later - earlier, 0.4)

    def test_watchdog_of_another_process(self):
        daemon = self.start(env={'WATCHDOG_USEC': '100000', 'WATCHDOG_PID': str(os.getpid())})
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline:
            self.assertNotIn('WATCHDOG', daemon.notify.next(deadline - time.monotonic()) or {})

    def test_no_watchdog_unless_asked(self):
        daemon = self.start()
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            self.assertNotIn('WATCHDOG', daemon.notify.next(deadline - time.monotonic()) or {})

    def test_tells_nothing_in_the_foreground(self):
        """Started by hand or by erl inside some service: the notification socket is that service's, not ours."""
        notify = self.new_notify()
        env = {'NOTIFY_SOCKET': notify.path, 'WATCHDOG_USEC': '100000', 'LISTEN_FDS': '1'}
        daemon = self.start_foreground(env=env)
        self.register(daemon, 'one')
        daemon.names()
        self.assertIsNone(notify.next(0.3))
        daemon.signal(signal.SIGTERM)
        daemon.wait()
        self.assertIsNone(notify.next(0))

    def test_serves_without_a_notification_socket(self):
        sock = self.listener()
        daemon = self.start(listeners=[sock], notify=False)
        self.assertEqual(daemon.names(), [])

    def test_a_notification_socket_that_is_gone(self):
        daemon = self.start(notify=False, env={'NOTIFY_SOCKET': os.path.join(self.directory, 'nobody')})
        self.register(daemon, 'one')
        self.assertEqual(daemon.names(), [(b'one', 4711)])


class OwnAccord(Case):
    """Exit 77: nobody is to restart it before the next connection."""

    @tap.beside
    def test_kill(self):
        daemon = self.start()
        self.assert_reply(self.connect(daemon).send(kill()), b'OK')
        self.assertEqual(daemon.wait(), EXIT_OWN_ACCORD)
        daemon.notify.wait('STOPPING', '1')

    @tap.beside
    def test_kill_relaxed_with_nodes(self):
        daemon = self.start('-relaxed_command_check')
        node = self.register(daemon, 'lives')
        self.assert_reply(self.connect(daemon).send(kill()), b'OK')
        self.assertEqual(daemon.wait(), EXIT_OWN_ACCORD)
        self.assertEqual(node.read_all(), b'')

    @tap.beside
    def test_idle_timeout(self):
        """One daemon with nothing to do, one that is asked now and then, one with a node, one with a connection.

        And two that never end so: told not to, and in the foreground.
        """
        self.skip_under_valgrind('a start takes as long as what is measured')
        begun = time.monotonic()
        lasting = self.start('--idle-timeout=0'), self.start_foreground()
        idle = self.start('--idle-timeout=1')
        asked, noded, connected = (self.start('-idle-timeout', '1') for _number in range(3))
        node = self.register(noded, 'lives')
        conn = self.connect(connected).send(b'\0').wait_consumed()
        while not idle.ends_within(0.25):
            self.assertEqual(asked.names(), [])
            self.assertLess(time.monotonic() - begun, 2.5, 'the idle one still runs')
        self.assertGreater(time.monotonic() - begun, 0.95)
        self.assertEqual(idle.status, EXIT_OWN_ACCORD)
        while time.monotonic() - begun < 2.2:
            self.assertEqual(asked.names(), [])
            self.assertFalse(noded.ends_within(0.1))
            self.assertFalse(connected.ends_within(0.1))
        left = time.monotonic()
        node.close()
        conn.close()
        for daemon in (noded, connected, asked):
            self.assertEqual(daemon.wait(3), EXIT_OWN_ACCORD)
            self.assertGreater(time.monotonic() - left, 0.7)
        for daemon in lasting:
            self.assertFalse(daemon.ends_within(0))

    @tap.beside
    def test_what_comes_while_it_ends_is_served_by_the_next(self):
        sock = self.listener()
        daemon = self.start('--idle-timeout=1', listeners=[sock])
        self.assertEqual(daemon.wait(3), EXIT_OWN_ACCORD)
        late = self.connect(daemon).send(names())
        self.start('--idle-timeout=1', listeners=[sock])
        self.assert_reply(late, struct.pack('>I', port_of(sock)))


class LinesOfSuccessors(Case):
    """Who may end the daemon, and so has it started again, writes no more by it."""

    def setUp(self):
        super().setUp()
        # For each line of the log a moment before which it was not there, and one at which it was.
        self.lines, self.marked = [], time.monotonic()

    def mark(self, daemon, seen):
        """Notes the lines of a daemon beyond those seen; gives how many there are now."""
        daemon.drain()
        now, count = time.monotonic(), daemon.err.data.count(b'\n')
        self.lines += [(self.marked, now)] * (count - seen)
        self.marked = now
        return count

    def storm(self, daemon, seen, seconds):
        """Has refusals logged, for so long, or until the daemon ends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            conn = self.connect(daemon).send(alive2('a\nb'))
            if conn not in readable([conn, daemon.pidfd], DEADLINE):
                break
            conn.read_all()
            conn.close()
            seen = self.mark(daemon, seen)
        return seen

    @tap.beside
    def test_kill(self):
        sock = self.listener()
        for _turn in range(3):
            daemon = self.start(listeners=[sock])
            seen = self.storm(daemon, self.mark(daemon, 0), 1.2)
            self.assert_reply(self.connect(daemon).send(kill()), b'OK')
            seen = self.storm(daemon, self.mark(daemon, seen), DEADLINE)
            self.assertEqual(daemon.wait(), EXIT_OWN_ACCORD)
            self.mark(daemon, seen)
            self.assertIn('asked for it', daemon.err.text())
            self.assertIn('held back', daemon.err.text())
        self.assertGreater(len(self.lines), 3 * LINES_IN_A_SECOND)
        for first, last in zip(self.lines, self.lines[LINES_IN_A_SECOND:]):
            self.assertGreaterEqual(last[1] - first[0], 1, f'seconds in which there were {LINES_IN_A_SECOND + 1} lines')


if __name__ == '__main__':
    tap.main()
