#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon under pressure: restart races, slow readers, no descriptors left, deadlines, many nodes, resets."""

import contextlib
import os
import resource
import signal
import socket
import struct
import sys
import time

sys.dont_write_bytecode = True
import tap
from manager import memory_of
from epmdtest import (  # noqa: E402
    Case, Conn, DEADLINE, MAX_BODY, alive2, frame, kill, names, parse_alive2, parse_names, port2,
    raise_descriptor_limit, readable)

# What an undisturbed request may take while something is going on: thousands of times what it does take.
AT_ONCE = 1.0 * tap.PATIENCE


def long_name(number):
    """A name of 255 characters."""
    return f'{number:05}'.ljust(255, 'x')


class RestartRace(Case):
    """A node that restarts at once can be here before the end of its former connection was read."""

    CYCLES = 1000

    def assert_all_accepted(self, creations):
        self.assertEqual(len(creations), self.CYCLES)
        self.assertEqual(len(set(creations)), self.CYCLES, 'different creations')

    def test_close_and_register_again(self):
        daemon = self.start()
        packet = alive2('restarts')
        creations = []
        for turn in range(self.CYCLES):
            with contextlib.closing(Conn(daemon.addresses[0])) as node:
                reply = parse_alive2(node.send(packet).recv(6))
                self.assertEqual(reply.result, 0, f'turn {turn}')
                creations.append(reply.creation)
        self.assert_all_accepted(creations)

    def test_the_next_is_already_connected(self):
        daemon = self.start()
        packet = alive2('restarts')
        creations = []
        node = Conn(daemon.addresses[0])
        for turn in range(self.CYCLES):
            reply = parse_alive2(node.send(packet).recv(6))
            self.assertEqual(reply.result, 0, f'turn {turn}')
            creations.append(reply.creation)
            following = Conn(daemon.addresses[0])
            node.reset() if turn % 2 else node.close()
            node = following
        node.close()
        self.assert_all_accepted(creations)

    def test_many_names_at_once(self):
        """A whole host of nodes that restart together."""
        daemon = self.start()
        packets = [alive2(f'node{number}') for number in range(50)]
        nodes = [self.connect(daemon).send(packet) for packet in packets]
        for turn in range(20):
            for node in nodes:
                self.assertEqual(parse_alive2(node.recv(6)).result, 0, f'turn {turn}')
            following = [self.connect(daemon) for _packet in packets]
            for node in nodes:
                node.close()
            nodes = [conn.send(packet) for conn, packet in zip(following, packets)]
        for node in nodes:
            self.assertEqual(parse_alive2(node.recv(6)).result, 0)


class SlowReaders(Case):
    """A client that does not read disturbs nobody and loses its connection at the deadline."""

    def setUp(self):
        super().setUp()
        raise_descriptor_limit(self, 2000)

    def start_full(self, *args):
        """A daemon with 1,000 nodes of long names: NAMES is more than its sockets take at once.

        They have their small buffers from the listener. The kernel's own would grow until they held the whole reply.
        """
        sock = self.listener()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        daemon = self.start(*args, listeners=[sock])
        for number in range(1000):
            self.register(daemon, long_name(number))
        return daemon

    def assert_served_at_once(self, daemon):
        begun = time.monotonic()
        self.assertIsNotNone(daemon.lookup(long_name(500)))
        self.assertIsNone(daemon.lookup('nobody'))
        self.register(daemon, 'newcomer').close()
        self.assertEqual(len(self.names_of_nodes(daemon)), 1000)
        self.assertLess(time.monotonic() - begun, AT_ONCE)

    def names_of_nodes(self, daemon):
        return [name for name, _port in daemon.names() if name != b'newcomer']

    @tap.beside
    def test_clients_that_do_not_read(self):
        daemon = self.start_full('-packet_timeout', '2')
        begun = time.monotonic()
        lazy = [self.connect(daemon, rcvbuf=1024).send(names()) for _number in range(100)]
        self.assert_served_at_once(daemon)
        self.assertFalse([conn for conn in lazy if conn.has_ended()], 'slow readers have time until the deadline')
        # To see the end of a connection they would have to read; what the daemon holds shows it, too.
        daemon.settle(lambda: daemon.leaked()['socket'] == 1000, 'only the nodes still have connections')
        self.assertGreater(time.monotonic() - begun, 1.9)
        self.assertLess(time.monotonic() - begun, 3.5)
        self.assertLess(len(lazy[0].read_all()), 100000)
        self.assertEqual(len(self.names_of_nodes(daemon)), 1000)

    def test_a_client_that_reads_late_gets_everything(self):
        daemon = self.start_full()
        slow = [self.connect(daemon, rcvbuf=1024).send(names()) for _number in range(5)]
        self.assert_served_at_once(daemon)
        for conn in slow:
            reply = parse_names(conn.read_all())
            self.assertEqual(conn.end, 'eof')
            found = [name.decode() for name, _port in reply.nodes]
            self.assertEqual(found, [long_name(number) for number in range(999, -1, -1)])

    def test_bytes_that_come_before_the_end_of_a_long_reply(self):
        """They do not reset the connection on which it is still under way."""
        daemon = self.start('-packet_timeout', '30')
        for number in range(1000):
            self.register(daemon, long_name(number))
        conn = self.connect(daemon).send(names())
        self.assert_served_at_once(daemon)
        conn.send(b'more')
        self.assertEqual(len(parse_names(conn.read_all()).nodes), 1000)
        self.assertEqual(conn.end, 'eof')

    def test_a_slow_reader_sees_one_moment(self):
        """What registers and leaves while it reads neither mixes nor breaks its reply."""
        daemon = self.start_full()
        slow = self.connect(daemon, rcvbuf=1024).send(names())
        before = slow.recv(1000)
        for number in range(5):
            self.conns[number].close()
            self.register(daemon, f'late{number}')
        reply = parse_names(before + slow.read_all())
        found = [name.decode() for name, _port in reply.nodes]
        self.assertEqual(found, [long_name(number) for number in range(999, -1, -1)])

    def test_versions_that_nobody_reads_any_more(self):
        """Each slow reader has a version of the list of its own; when they have gone so has the memory."""
        self.skip_where_memory_is_kept()
        daemon = self.start_full()
        daemon.names()
        before = memory_of(daemon.pid)
        slow = []
        for number in range(6):
            slow.append(self.connect(daemon, rcvbuf=1024).send(names()).wait_consumed())
            self.register(daemon, f'late{number}')
        full = memory_of(daemon.pid)
        self.assertGreater(full - before, 1000)
        for conn in slow:
            conn.reset()
        daemon.settle(lambda: memory_of(daemon.pid) < before + (full - before) / 2, 'most of that is given back')

    def test_more_versions_than_are_kept(self):
        """The readers of the oldest lose their connections; the others get their list to the end."""
        daemon = self.start_full()
        slow = []
        for number in range(12):
            slow.append(self.connect(daemon, rcvbuf=1024).send(names()).wait_consumed())
            self.register(daemon, f'late{number}')
        for number, conn in enumerate(slow[4:], 4):
            self.assertEqual(len(parse_names(conn.read_all()).nodes), 1000 + number)
        for conn in slow[:4]:
            conn.read_all()
            self.assertEqual(conn.end, 'reset')

    def test_a_reader_that_leaves(self):
        daemon = self.start_full()
        for turn in range(20):
            conn = self.connect(daemon, rcvbuf=1024).send(names())
            conn.recv(10)
            conn.reset() if turn % 2 else conn.close()
        self.assert_served_at_once(daemon)


class Descriptors(Case):
    """At the limit of descriptors those that only wait give way; nodes never do."""

    LIMIT = ((resource.RLIMIT_NOFILE, 64, 64),)

    def test_the_oldest_that_waits_makes_room(self):
        daemon = self.start('--max-nodes-per-user=1000000', limits=self.LIMIT)
        nodes = [self.register(daemon, f'node{number}') for number in range(10)]
        idle = [self.connect(daemon).send(b'\0') for _number in range(150)]
        self.assertEqual(len(daemon.names()), 10)
        ended = [conn.has_ended() for conn in idle]
        self.assertTrue(ended[0])
        self.assertFalse(ended[-1])
        self.assertEqual(ended, sorted(ended, reverse=True), 'the oldest ended first')
        for node in nodes:
            self.assertFalse(node.has_ended())

    def leave_descriptors(self, daemon, number):
        """Lets the kernel run out of descriptors earlier than the daemon expects."""
        used = {int(fd) for fd in os.listdir(f'/proc/{daemon.pid}/fd')}
        limit = ([fd for fd in range(64) if fd not in used] + [64])[number]
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, limit))

    def test_exhausted_by_those_who_wait(self):
        daemon = self.start('--max-nodes-per-user=1000000', limits=self.LIMIT)
        nodes = [self.register(daemon, f'node{number}') for number in range(10)]
        self.leave_descriptors(daemon, 3)
        idle = [self.connect(daemon).send(b'\0') for _number in range(15)]
        self.assertEqual(len(parse_names(self.connect(daemon).send(names()).read_all()).nodes), 10)
        self.assertTrue(idle[0].has_ended(), 'the one that has waited longest gave way')
        for node in nodes:
            self.assertFalse(node.has_ended())

    @tap.beside
    def test_exhausted_by_nodes(self):
        daemon = self.start('--max-nodes-per-user=1000000', limits=self.LIMIT)
        nodes = [self.register(daemon, f'node{number}') for number in range(10)]
        self.leave_descriptors(daemon, 0)
        begun, cpu = time.monotonic(), daemon.cpu_seconds()
        probe = self.connect(daemon).send(names())
        self.assertFalse(readable([probe], 1.5), 'there is no descriptor for it')
        elapsed, cpu = time.monotonic() - begun, daemon.cpu_seconds() - cpu
        self.assertLess(cpu, 0.25 * elapsed, 'CPU seconds while nothing could be done')
        nodes.pop().close()
        self.assertEqual(len(parse_names(probe.read_all()).nodes), 9)
        for node in nodes:
            self.assertFalse(node.has_ended())

    def test_a_slot_that_becomes_free_is_used_at_once(self):
        daemon = self.start('--max-nodes-per-user=1000000', limits=self.LIMIT)
        node = self.register(daemon, 'stays')
        for _turn in range(5):
            idle = [self.connect(daemon).send(b'\0') for _number in range(100)]
            probe = self.connect(daemon).send(port2('stays'))
            for conn in idle:
                conn.close()
            self.assertEqual(probe.read_all()[:2], b'\x77\0')
        self.assertFalse(node.has_ended())

    def test_too_many_nodes(self):
        """Nodes alone cannot take every descriptor: look-ups are still answered, and the nodes that are in stay in."""
        daemon = self.start('--max-nodes-per-user=1000000', limits=self.LIMIT)
        accepted, refused = [], 0
        for number in range(100):
            conn = self.connect(daemon, timeout=2).send(alive2(f'node{number}'))
            if parse_alive2(conn.recv(6)).result == 0:
                accepted.append(conn)
            else:
                refused += 1
        self.assertGreater(len(accepted), 10)
        self.assertGreater(refused, 0)
        self.assertEqual(len(daemon.names()), len(accepted))
        for conn in accepted:
            self.assertFalse(conn.has_ended())
        accepted.pop().close()
        self.assert_registered(daemon, *[f'node{number}' for number in range(len(accepted))])
        self.register(daemon, 'one more')

    def test_the_soft_limit_is_raised(self):
        raise_descriptor_limit(self, 300)
        self.skip_under_valgrind('it keeps the limit that it began with')
        daemon = self.start('--max-nodes-per-user=1000000', limits=((resource.RLIMIT_NOFILE, 100, 300),))
        for number in range(150):
            self.register(daemon, f'node{number}')
        with open(f'/proc/{daemon.pid}/limits', encoding='ascii') as limits:
            line = next(line for line in limits if line.startswith('Max open files'))
        self.assertEqual(line.split()[3:5], ['300', '300'])


class Deadlines(Case):
    """A request has so many seconds from accept, whatever its sender does."""

    @tap.beside
    def test_deadline_is_absolute(self):
        """Silent, halfway through, byte by byte: all of them at once; a registered node beside them."""
        daemon = self.start('-packet_timeout', '1')
        node = self.register(daemon, 'stays')
        begun = time.monotonic()
        silent = self.connect(daemon)
        half = self.connect(daemon).send(alive2('half')[:-1])
        dribble = self.connect(daemon).send(struct.pack('>H', MAX_BODY))
        waiting, ended = {silent: 'silent', half: 'half', dribble: 'dribble'}, {}
        while waiting and time.monotonic() - begun < 3:
            # A byte every tenth of a second would keep a limit that each byte refreshes from ever coming.
            with contextlib.suppress(ConnectionError):
                if dribble in waiting:
                    dribble.send(b'n')
            until = time.monotonic() + 0.1
            while (left := until - time.monotonic()) > 0 and waiting:
                for conn in readable(waiting, left):
                    self.assert_silent_close(conn)
                    ended[waiting.pop(conn)] = time.monotonic() - begun
        self.assertEqual(sorted(ended), ['dribble', 'half', 'silent'])
        for what, seconds in ended.items():
            self.assertGreater(seconds, 0.95, what)
            self.assertLess(seconds, 2.1, what)
        self.assertFalse(node.has_ended())
        self.assert_registered(daemon, 'stays')

    @tap.beside
    def test_many_deadlines(self):
        daemon = self.start('--packet-timeout=1')
        begun = time.monotonic()
        conns = [self.connect(daemon).send(b'\0\5') for _number in range(300)]
        for conn in conns:
            self.assert_silent_close(conn)
        self.assertGreater(time.monotonic() - begun, 0.95)
        self.assertLess(time.monotonic() - begun, 2.1)

    @tap.beside
    def test_a_request_in_time(self):
        daemon = self.start('-packet_timeout', '1')
        conn = self.connect(daemon).send(names()[:1])
        self.assertEqual(readable([conn], 0.5), [])
        self.assert_reply(conn.send(names()[1:]), struct.pack('>I', daemon.port))


class Crowds(Case):
    """Many nodes, and storms of connections."""

    def test_two_thousand_nodes(self):
        raise_descriptor_limit(self, 2200)
        daemon = self.start()
        for number in range(2000):
            self.register(daemon, f'node{number}', port=number)
        self.assertEqual(daemon.names(), [(b'node%d' % number, number) for number in range(1999, -1, -1)])
        for number in range(2000):
            self.assertEqual(daemon.lookup(f'node{number}').port, number)
        self.assertEqual(daemon.ask(kill()), b'NO')
        for conn in self.conns:
            conn.close()
        self.assert_registered(daemon)

    def test_two_thousand_nodes_leave_together(self):
        raise_descriptor_limit(self, 2200)
        daemon = self.start()
        for number in range(2000):
            self.register(daemon, f'node{number}')
        # While it cannot run, all of them go: then all ends are there in one turn of its loop.
        daemon.stop()
        for conn in self.conns:
            conn.reset()
        begun = time.monotonic()
        daemon.signal(signal.SIGCONT)
        self.assert_registered(daemon)
        self.assertLess(time.monotonic() - begun, 2 * AT_ONCE)

    def test_connect_and_reset(self):
        daemon = self.start()
        node = self.register(daemon, 'stays')
        openings = (b'', b'\0', alive2('stays')[:-1], alive2('stays'), alive2('passing'), names(), port2('stays'),
                    frame(b'q'), b'\xff\xff')
        for turn in range(2000):
            conn = Conn(daemon.addresses[0])
            with contextlib.suppress(ConnectionError):
                conn.send(openings[turn % len(openings)])
            conn.reset()
        self.assert_registered(daemon, 'stays')
        self.assertFalse(node.has_ended())

    def test_reset_before_accept(self):
        """They are gone when it comes to accept them."""
        daemon = self.start()
        daemon.stop()
        for turn in range(1000):
            conn = Conn(daemon.addresses[0])
            conn.send(names() if turn % 2 else alive2(f'gone{turn}'))
            conn.reset()
        daemon.signal(signal.SIGCONT)
        self.assert_registered(daemon)

    def test_all_ask_at_once(self):
        """A burst that was waiting is served whole, and fairly beside a node that registers."""
        daemon = self.start()
        self.register(daemon, 'here', port=8)
        daemon.stop()
        asking = [self.connect(daemon).send(port2('here')) for _number in range(800)]
        daemon.signal(signal.SIGCONT)
        for conn in asking:
            self.assertEqual(conn.read_all()[2:4], b'\0\x08')


if __name__ == '__main__':
    tap.main()
