#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Nothing registered is ever lost: what must outlive the process, however it ends, and what must not."""

import contextlib
import datetime
import glob
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import time

import tap
from epmdtest import (  # noqa: E402
    DEADLINE, EPMD, alive2, frame, is_under_valgrind, kill, names, own_network_if_possible, parse_alive2, parse_names, port2, readable)
from manager import TABLE_BLOCK, Ended, ManagerCase, creations_in_log, half_closed, memory_of, served

LARGEST_NAME = '\U0001f600' * 255  # 1,020 bytes
LARGEST_EXTRA = bytes(range(255)) * 4
LOT_MAGIC = 0x3174744f4c64456d
# A user of whom nobody else has a process.
DAEMON = 61004
ENDINGS = (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT)


class Kept(ManagerCase):
    """Whatever ends the process, the nodes do not notice, and the next one knows them all."""

    def check_endings(self, count, **fields):
        # The log of the last process shows the creations; only then, it is long.
        manager = self.manage()
        nodes = self.nodes(manager, count, **fields)
        answers = self.all_answers(manager, nodes)
        # Of one that aborts valgrind makes a core of its own, which takes a minute.
        for ending in ENDINGS[:2] if is_under_valgrind() else ENDINGS:
            with self.subTest(ending=ending.name):
                status = manager.kill(ending)
                self.assertEqual(status, 0 if ending == signal.SIGTERM else -ending, 'exit status')
                manager.start()
                self.assertEqual(self.all_answers(manager, nodes), answers, 'NAMES and PORT2')
                self.assert_unnoticed(nodes)
                self.assertIn(f'Restored {count} {"node" if count == 1 else "nodes"}; 0 more have ended', manager.log())
        manager.kill()
        manager.args = ['-d', '-d', '-d']
        manager.start()
        nodes.append(self.node(manager, 'last'))
        manager.daemon.wait_stderr(r'  n0 at port')
        self.assertEqual(creations_in_log(manager.log()), {conn.name: conn.creation for conn in nodes})
        manager.kill()
        manager.args = []
        manager.start()
        # They are registered connections still, not only names.
        for conn in nodes[::2]:
            conn.close()
        manager.settle_names([conn.name for conn in nodes[1::2]])

    def test_one_node(self):
        self.check_endings(1)

    def test_five_hundred(self):
        self.check_endings(500)

    def test_five_hundred_of_version_5(self):
        self.check_endings(500, high=5, low=5)

    def test_the_largest(self):
        """Names of 255 characters, 1,020 bytes, and as much Extra: records of many blocks."""
        manager = self.manage()
        nodes = [self.node(manager, LARGEST_NAME[:251] + f'{i:04}', port=i, extra=LARGEST_EXTRA) for i in range(60)]
        answers = self.all_answers(manager, nodes)
        for round_ in range(3):
            manager.restart()
            self.assertEqual(self.all_answers(manager, nodes), answers)
            for conn in nodes[round_::4]:
                conn.close()
                manager.settle(lambda: not manager.lookup(conn.name), 'the node is gone')
            nodes[round_::4] = [self.node(manager, conn.name, port=conn.fields['port'], extra=LARGEST_EXTRA[:i * 60])
                                for i, conn in enumerate(nodes[round_::4])]
            answers = self.all_answers(manager, nodes)
        self.assert_unnoticed(nodes)

    def test_order_of_names(self):
        """Newest first, also among those of different processes, and where places in the table are used again."""
        manager = self.manage()
        nodes = [self.node(manager, f'first{i}', extra=bytes(300 * (i % 2))) for i in range(20)]
        for i in range(20):
            if i % 4 == 1:
                nodes.pop(0).close()
                manager.settle_names([conn.name for conn in nodes])
            nodes.append(self.node(manager, f'n{i}'))
            if i % 3 == 0:
                manager.restart()
        listed = [name for name, _port in manager.names()]
        self.assertEqual(listed, [conn.name for conn in reversed(nodes)])

    def test_small_queues(self):
        """The room that the kernel's default net.core.wmem_max leaves, and much less: the queue is full again and again, and
        what it holds moves to the other."""
        for size in 212992, 32768:
            with self.subTest(size=size):
                manager = self.manage()
                for number in range(2):
                    with manager.lot_end(number, 'in') as end:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
                nodes = self.nodes(manager, 700)
                answers = self.all_answers(manager, nodes)
                manager.restart()
                self.assertEqual(self.all_answers(manager, nodes), answers)
                self.assert_unnoticed(nodes)
                self.assertNotIn('register again', manager.log())


class AnyMoment(ManagerCase):
    """50 kills while nodes come and go."""

    ROUNDS = 50
    PERMANENT = 150

    def setUp(self):
        super().setUp()
        self.seed = random.SystemRandom().randrange(1 << 32)
        self.random = random.Random(self.seed)
        self.live = {}        # registered and not closed, by name
        self.unanswered = []  # sent
        self.given = {}       # every creation ever given, and to whom
        self.left = []        # closed since the last start
        self.serial = 0

    def diagnostics(self):
        return f'seed {self.seed}\n' + super().diagnostics()

    def registers(self, manager):
        """A name that is new, or that returns."""
        self.serial += 1
        name = f'a{self.random.randrange(60)}'.encode()
        if name in self.live or any(conn.name == name for conn in self.unanswered):
            return
        fields = {'port': self.serial, 'high': self.random.choice((6, 6, 5)),
                  'extra': bytes(self.random.choice((0, 0, 700)))}
        self.unanswered.append(self.begin(manager, name, **fields))

    def leaves(self):
        names_ = [name for name in self.live if name.startswith(b'a')]
        if names_:
            conn = self.live.pop(self.random.choice(names_))
            self.left.append(Ended(conn))
            if self.random.random() < 0.2:
                conn.reset()
            conn.close()

    def some_traffic(self, manager, n):
        for _ in range(self.random.randrange(n)):
            if self.random.random() < 0.6:
                self.registers(manager)
            else:
                self.leaves()
            if self.random.random() < 0.2:
                self.take_answers()

    def take_answers(self, wait=False):
        """Those that are there, or all."""
        for conn in list(self.unanswered):
            if not wait and not readable([conn], 0):
                continue
            self.unanswered.remove(conn)
            if self.finish(conn):
                self.live[conn.name] = conn
                if conn.fields['high'] >= 6:
                    self.assertNotIn(conn.creation, self.given, f'creation of {conn.name!r}, given before')
                    self.given[conn.creation] = conn.name
            else:
                conn.close()

    def kill_while_starting(self, manager, took):
        """At a moment of the start and of the take-over, before it can serve or just when it does."""
        manager.spawn()
        self.some_traffic(manager, 4)
        manager.pump(self.random.uniform(0, took))
        manager.kill()

    def kill_while_serving(self, manager):
        self.some_traffic(manager, 40)
        manager.kill()

    def check(self, manager):
        """The first answer first, then what was under way when the process was killed."""
        answered = {name: conn.fields['port'] for name, conn in self.live.items()}
        unknown = {conn.name for conn in self.unanswered}
        first = dict(manager.first)
        self.assertEqual({name: port for name, port in first.items() if name not in unknown}, answered, 'the first NAMES')
        self.take_answers(wait=True)
        self.assertEqual(dict(manager.names()), {name: conn.fields['port'] for name, conn in self.live.items()})
        for name in self.random.sample(sorted(self.live), 5):
            found, fields = manager.lookup(name), self.live[name].fields
            self.assertEqual((found.port, found.extra), (fields['port'], fields.get('extra', b'')))
        self.assert_unnoticed(self.live.values())

    def test_kills(self):
        manager = self.manage(start=False)
        began = time.monotonic()
        manager.start()
        took = 1.5 * (time.monotonic() - began)
        # So that the connections move from one queue to the other again and again.
        for number in range(2):
            with manager.lot_end(number, 'in') as end:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        for conn in self.nodes(manager, self.PERMANENT):
            self.live[conn.name] = conn
            self.given[conn.creation] = conn.name
        for _ in range(self.ROUNDS):
            if self.random.random() < 0.5:
                manager.kill()
                self.kill_while_starting(manager, took)
            else:
                self.kill_while_serving(manager)
            self.some_traffic(manager, 6)
            manager.wait_arrived(self.left)
            self.left = []
            manager.start()
            self.check(manager)
        manager.kill()
        manager.args = ['-d', '-d', '-d']
        manager.start()
        self.node(manager, 'last')
        manager.daemon.wait_stderr(r'  n0 at port')
        kept = creations_in_log(manager.log())
        self.assertEqual({name: kept.get(name) for name in self.live},
                         {name: conn.creation for name, conn in self.live.items()})


class InBetween(ManagerCase):
    """What happens while no process runs, or just when it ends."""

    def test_asked_while_down(self):
        manager = self.manage()
        self.node(manager, 'there', port=7)
        expected = manager.ask(names()), manager.ask(port2('there'))
        manager.kill()
        asking = [self.connect(manager.daemon).send(packet) for packet in (names(), port2('there'))]
        coming = self.begin(manager, 'coming')
        taken = self.connect(manager.daemon).send(alive2('there'))
        manager.start()
        self.assertEqual(tuple(conn.read_all() for conn in asking), expected)
        self.assertTrue(self.finish(coming))
        self.assertEqual(parse_alive2(taken.read_all()).result, 1, 'result for a name that is taken')

    def test_ended_while_down(self):
        """Closed, closed for writing, reset, or said something: gone in the first answer, and told so properly."""
        manager = self.manage()
        closed, half, reset, loud, stays = (self.node(manager, name)
                                            for name in ('closed', 'half', 'reset', 'loud', 'stays'))
        manager.kill()
        ended = [Ended(conn) for conn in (closed, half, reset)]
        closed.close()
        half.half_close()
        reset.reset()
        loud.send(b'?')
        manager.wait_arrived(ended)
        manager.wait_unread(loud)
        manager.start()
        self.assertEqual([name for name, _port in manager.first], [b'stays'])
        self.assert_ends(half)
        self.assertEqual(half.end, 'eof')
        self.assert_ends(loud)
        self.assert_unnoticed([stays])
        manager.settle(lambda: not half_closed(manager.port), 'nobody waits for the end of a connection')
        self.assertIn('Restored 1 node; 4 more have ended', manager.log())

    def test_ended_just_before(self):
        """A node that the killed process had unregistered already does not come back; nor does its connection stay open."""
        manager = self.manage()
        nodes = self.nodes(manager, 10)
        nodes[0].half_close()
        nodes[1].send(b'?')
        manager.settle_names([conn.name for conn in nodes[2:]])
        self.assert_ends(nodes[0])
        self.assert_ends(nodes[1])
        manager.restart()
        self.assertEqual(len(manager.names()), 8)
        for conn in nodes[2:6]:
            conn.close()
        manager.settle_names([conn.name for conn in nodes[6:]])
        manager.restart()
        self.assertEqual(len(manager.names()), 4)
        manager.settle(lambda: not half_closed(manager.port), 'nobody waits for the end of a connection')

    def test_killed_before_the_reply(self):
        """A registration that is stored, but whose reply has not left, is answered by the next process or closed; it does
        not leave the node waiting. The process is held in between by a log that nobody reads."""
        manager = self.manage()
        self.fill_log(manager)
        conn = self.begin(manager, 'waiting')
        conn.wait_consumed()
        deadline = time.monotonic() + 10
        while manager.in_flight() == 0:
            self.assertLess(time.monotonic(), deadline, 'the connection was not parked')
            manager.pump(0.001)
        self.assert_unnoticed([conn])
        manager.restart()
        known = [name for name, _port in manager.names()]
        self.assertEqual(known, [b'waiting'] if self.finish(conn) else [])
        if known:
            manager.restart()
            self.assertEqual(conn.creation, self.creation_of(manager, b'waiting'))
            self.assert_unnoticed([conn])

    @staticmethod
    def fill_log(manager):
        """Leaves the daemon's stderr no room for another line."""
        writer = os.open(f'/proc/self/fd/{manager.daemon.err.fd}', os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b'-' * 4095 + b'\n')
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b'\n')
        os.close(writer)

    def creation_of(self, manager, name):
        manager.kill()
        manager.args = ['-d', '-d', '-d']
        manager.start()
        self.node(manager, 'another')
        manager.daemon.wait_stderr(r'  another at port')
        return creations_in_log(manager.log())[name]

    def test_same_name_again(self):
        """The name of a node that is gone is free at once, also when both happen while no process runs."""
        manager = self.manage()
        old = self.node(manager, 'again', port=1)
        for port in range(2, 8):
            manager.kill()
            ended = [Ended(old)]
            old.close()
            manager.wait_arrived(ended)
            new = self.begin(manager, 'again', port=port)
            manager.start()
            self.assertTrue(self.finish(new))
            self.assertNotEqual(new.creation, old.creation)
            self.assertEqual(manager.names(), [(b'again', port)])
            old = new


class Creations(ManagerCase):
    """A name that returns never gets a creation that it had before.

    Creations count on from the last one given, which is in the table, and from a random number where there is no table.
    """

    NAMES = 12

    def check(self, version, end):
        """Two names stay while the others come back; end(manager, nodes) ends the process and starts the next."""
        manager = self.manage()
        fields = {'high': version, 'low': 5}
        had = {f'n{i}': [] for i in range(self.NAMES)}
        for _ in range(6):
            nodes = {name: self.node(manager, name, **fields) for name in had}
            for name, conn in nodes.items():
                if version == 6:
                    self.assertNotIn(conn.creation, [c for given in had.values() for c in given], f'creation of {name}')
                else:
                    self.assertIn(conn.creation, (1, 2, 3))
                    self.assertNotEqual([conn.creation], had[name][-1:], f'creation of {name}, which returns')
                had[name].append(conn.creation)
            end(manager, nodes)
        return manager

    def end_by(self, how):
        def kill(manager, nodes):
            manager.kill()
            ended = [Ended(conn) for conn in nodes.values()]
            for conn in nodes.values():
                conn.close()
            manager.wait_arrived(ended)
            manager.start()

        def close_and_kill(manager, nodes):
            for conn in nodes.values():
                conn.close()
            manager.settle_names([])
            kill(manager, {})

        def stop(manager, nodes):
            self.assertEqual(manager.stop(), 0)
            for conn in nodes.values():
                self.assert_ends(conn)
                conn.close()
            manager.start()
            self.assertEqual(manager.names(), [])

        def idle(manager, nodes):
            for conn in nodes.values():
                conn.close()
            manager.settle_names([])
            manager.kill(signal.SIGTERM)
            manager.args = ['-idle-timeout', '0.01']
            # It may have ended before it could be asked anything.
            manager.spawn()
            self.assertEqual(manager.daemon.wait(), 77, 'status of the idle exit')
            manager.args = []
            manager.start()

        return locals()[how]

    def test_kill(self):
        for version in 6, 5:
            with self.subTest(version=version):
                self.check(version, self.end_by('kill'))

    def test_close_and_kill(self):
        for version in 6, 5:
            with self.subTest(version=version):
                self.check(version, self.end_by('close_and_kill'))

    def test_stop(self):
        for version in 6, 5:
            with self.subTest(version=version):
                self.check(version, self.end_by('stop'))

    def test_idle_exit(self):
        for version in 6, 5:
            with self.subTest(version=version):
                self.check(version, self.end_by('idle'))

    @tap.beside
    def test_killed_by_request(self):
        """epmd -kill ends the nodes, not the memory of their creations."""
        manager = self.manage('-relaxed_command_check')
        old = self.node(manager, 'n')
        self.assertEqual(manager.ask(frame(b'k')), b'OK')
        self.assertEqual(manager.daemon.wait(), 77)
        self.assert_ends(old)
        manager.start()
        self.assertEqual(manager.names(), [])
        self.assertGreater(self.node(manager, 'n').creation, old.creation)

    def test_clock_set_back(self):
        """By a day, while no process is there: the nodes stay, and no creation comes back."""
        with open(EPMD, 'rb') as program:
            if b'libasan' in program.read():
                self.skipTest('AddressSanitizer must be the first library, and so must the one that changes the clock')
        (library,) = glob.glob('/usr/lib/*/faketime/libfaketime.so.1')
        yesterday = {'LD_PRELOAD': library, 'FAKETIME': '-1d', 'FAKETIME_DONT_FAKE_MONOTONIC': '1'}
        manager = self.manage()
        stays = [self.node(manager, 'stays')]
        had = {}
        for env in ({}, yesterday, {}):
            manager.kill()
            back = datetime.timedelta(days=1 if env else 0)
            days = [datetime.datetime.now() - back]
            manager.start(env=env)
            days.append(datetime.datetime.now() - back)
            self.assertRegex(manager.log(), '|'.join(day.strftime('epmd: %a %b %e ') for day in days))
            self.assert_unnoticed(stays)
            for version in (6, 5):
                conn = self.node(manager, f'n{version}', high=version)
                self.assertNotIn(conn.creation, had.setdefault(version, [])[-1 if version == 5 else 0:])
                had[version].append(conn.creation)
                conn.close()
            manager.settle_names(['stays'])

    def test_counter_goes_on(self):
        """Behind the last one given, also where its node was never remembered."""
        manager = self.manage()
        last = 0
        for _ in range(5):
            conn = self.node(manager, 'n')
            if last:
                self.assertEqual(conn.creation, last + 1)
            last = conn.creation
            conn.close()
            manager.settle_names([])
            manager.stop()
            manager.start()


class Told(ManagerCase):
    def test_end_of_a_life(self):
        """Each registration has its end in the log, also one whose connection was lost with the process."""
        manager = self.manage()
        self.node(manager, 'a', port=1).close()
        manager.settle_names([])
        self.node(manager, 'n\u00f8d "x"', port=4711)
        manager.stop()
        manager.start()
        lost = re.findall(r'Unregistered .*', manager.log())
        self.assertEqual(lost, ['Unregistered n\u00f8d "x" at port 4711: its connection was not kept'])
        manager.restart()
        self.assertNotIn('Unregistered', manager.log())


class Damage(ManagerCase):
    """Of a table that is not what was written, what is sound is kept, and the rest dropped with a warning."""

    COUNT = 24

    def damaged(self, damage):
        """A process that finds the table as damage(path, nodes) has left it, and the nodes of the former one."""
        manager = self.manage()
        nodes = self.nodes(manager, self.COUNT, prefix='node-')
        nodes += [self.node(manager, f'large-{i}', port=i, extra=LARGEST_EXTRA) for i in range(4)]
        answers = {conn.name: manager.ask(port2(conn.name)) for conn in nodes}
        manager.kill()
        damage(manager.table, nodes)
        manager.start()
        return manager, nodes, answers

    def test_stored_by_a_later_version(self):
        """An administrator has gone back to this one: what it does not know is dropped, everything else is served."""
        manager = self.manage()
        nodes = self.nodes(manager, 3)
        manager.kill()
        ends = [self.closing(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
        manager.notify.store.append((os.dup(ends[0].fileno()), 'epmd-later'))
        manager.start()
        self.assertIn('Dropping "epmd-later"', manager.log())
        self.assertNotIn('epmd-later', [name for _fd, name in manager.notify.store])
        self.assertEqual(len(manager.names()), 3)
        self.assert_unnoticed(nodes)

    def check_sound(self, manager, nodes, answers):
        """Each name that is left has its own answer and its own connection, each other node has lost its. How many have."""
        found = {name for name, _port in manager.names()}
        self.assertLessEqual(found, set(answers))
        left = [conn for conn in nodes if conn.name in found]
        for conn in nodes:
            if conn not in left:
                self.assert_ends(conn)
                conn.close()
        for conn in left:
            self.assertEqual(manager.ask(port2(conn.name)), answers[conn.name])
        self.assert_unnoticed(left)
        for conn in left[::2]:
            conn.close()
        manager.settle_names([conn.name for conn in left[1::2]])
        newcomer = self.node(manager, 'newcomer')
        manager.restart()
        manager.settle_names([b'newcomer'] + [conn.name for conn in left[1::2]])
        self.assert_unnoticed([newcomer] + left[1::2])
        return len(nodes) - len(left)

    def check_damage(self, damage, warning='damaged'):
        manager, nodes, answers = self.damaged(damage)
        log = manager.log()
        lost = self.check_sound(manager, nodes, answers)
        if lost:
            self.assertIn(warning, log)
        manager.end()
        return lost

    def test_flipped_bits(self):
        """Anywhere in the blocks that are in use: at most the record that was hit is lost."""
        seed = random.SystemRandom().randrange(1 << 32)
        choose = random.Random(seed)
        hits = 0
        for _ in range(12):
            at = choose.randrange(TABLE_BLOCK, (self.COUNT + 4 * 20) * TABLE_BLOCK)

            def flip(path, _nodes, at=at):
                with open(path, 'r+b') as table:
                    table.seek(at)
                    byte = table.read(1)[0]
                    table.seek(at)
                    table.write(bytes([byte ^ 1 << choose.randrange(8)]))

            with self.subTest(seed=seed, at=at):
                lost = self.check_damage(flip)
                self.assertLessEqual(lost, 1)
                hits += lost
        self.assertGreater(hits, 0, f'no record was hit, seed {seed}')

    def test_every_part_of_a_record(self):
        """One flipped bit in each field of a head, in the name and in what follows the head."""
        for at in (0, 4, 8, 16, 24, 32, 40, 46, 56, 66):
            def flip(path, nodes, at=at):
                with open(path, 'r+b') as table:
                    data = bytearray(table.read())
                    data[data.index(nodes[3].name) // TABLE_BLOCK * TABLE_BLOCK + at] ^= 4
                    table.seek(0)
                    table.write(data)

            # Only the link to the next block means nothing where there is none, and the rest of the block.
            with self.subTest(at=at):
                self.assertEqual(self.check_damage(flip), 0 if at == 4 else 1)

    def test_truncated(self):
        for size in 0, 1, TABLE_BLOCK, 5 * TABLE_BLOCK, 20 * TABLE_BLOCK + 17:
            with self.subTest(size=size):
                def cut(path, _nodes, size=size):
                    os.truncate(path, size)

                manager, nodes, answers = self.damaged(cut)
                self.assertGreater(self.check_sound(manager, nodes, answers), 0)
                manager.end()

    def test_another_version(self):
        """A table that this program does not understand: it begins without, says so, and serves."""
        for at in 0, 8, 12:
            def change(path, _nodes, at=at):
                with open(path, 'r+b') as table:
                    table.seek(at)
                    table.write(b'\x99')

            with self.subTest(at=at):
                lost = self.check_damage(change, warning='another version')
                self.assertEqual(lost, self.COUNT + 4)

    def test_garbage(self):
        choose = random.Random(1)
        for size in 100, 64 * 1024, 1 << 20:
            def fill(path, _nodes, size=size):
                with open(path, 'wb') as table:
                    table.write(choose.randbytes(size))

            with self.subTest(size=size):
                self.assertEqual(self.check_damage(fill, warning='another version'), self.COUNT + 4)

    def test_no_table(self):
        """Lost altogether: the connections belong to nobody and are closed."""
        manager, nodes, answers = self.damaged(lambda path, _nodes: os.unlink(path))
        self.assertEqual(self.check_sound(manager, nodes, answers), len(nodes))

    def test_a_directory(self):
        """A table that cannot be opened: served all the same, without a store, and said so."""
        def replace(path, _nodes):
            os.unlink(path)
            os.mkdir(path)

        manager, nodes, _answers = self.damaged(replace)
        self.assertIn('Registrations will be lost', manager.log())
        for conn in nodes:
            self.assert_ends(conn)
        self.node(manager, 'served')
        self.assertEqual(len(manager.names()), 1)

    def test_swapped_connections(self):
        """Connections that are parked under each other's record: neither gets the other's name."""
        manager = self.manage()
        nodes = self.nodes(manager, 5)
        answers = {conn.name: manager.ask(port2(conn.name)) for conn in nodes}
        manager.kill()
        self.park_again(manager, lambda messages: [(messages[1][0], messages[0][1]), (messages[0][0], messages[1][1]),
                                                   *messages[2:]])
        manager.start()
        self.assertIn('2 connections that do not belong to their record', manager.log())
        self.assertEqual(self.check_sound(manager, nodes, answers), 2)

    def test_strange_messages(self):
        """What is none of ours in the queue is passed over, with whatever descriptors it has."""
        manager = self.manage()
        nodes = self.nodes(manager, 5)
        manager.kill()
        with contextlib.closing(self.listener()) as stray:
            extra = [(b'', [stray.fileno()]), (b'?' * 3000, [stray.fileno()] * 5), (struct.pack('=Q', LOT_MAGIC), []),
                     (struct.pack('=QII', LOT_MAGIC, 1 << 31, 1), [stray.fileno()])]
            self.park_again(manager, lambda messages: extra[1:2] + messages[:2] + extra[2:] + messages[2:])
        manager.start()
        manager.settle_names([conn.name for conn in nodes])
        self.assert_unnoticed(nodes)
        nodes += self.nodes(manager, 1500, prefix='m')
        for conn in nodes[10:1400]:
            conn.close()
        nodes[10:1400] = []
        manager.settle_names([conn.name for conn in nodes])
        manager.restart()
        manager.settle_names([conn.name for conn in nodes])

    @staticmethod
    def park_again(manager, change):
        """Takes all messages out of the lot that is in use, and parks them as change() has them."""
        for number in range(2):
            messages = []
            with manager.lot_end(number, 'out') as out, manager.lot_end(number, 'in') as end:
                while readable([out], 0):
                    data, fds, _flags, _address = socket.recv_fds(out, 65536, 253)
                    messages.append((data, fds))
                for data, fds in change(messages) if messages else []:
                    socket.send_fds(end, [data], fds)
            for _data, fds in messages:
                for fd in fds:
                    os.close(fd)


class Reload(ManagerCase):
    """SIGHUP has the same process start its program anew."""

    def program(self):
        """A copy of the program that a test may replace."""
        path = os.path.join(self.directory, 'epmd')
        shutil.copy(EPMD, path)
        return path

    def test_same_process(self):
        manager = self.manage()
        nodes = self.nodes(manager, 200)
        answers = self.all_answers(manager, nodes)
        sockets = sorted(os.readlink(f'/proc/{manager.daemon.pid}/fd/3').split())
        before = time.monotonic()
        manager.daemon.signal(signal.SIGHUP)
        told = int(manager.wait('RELOADING', '1')['MONOTONIC_USEC'])
        # The moment at which the event loop woke up, not the one at which it said so.
        self.assertLessEqual(before * 1e6 - 1e5, told)
        self.assertLessEqual(told, time.monotonic() * 1e6)
        manager.wait('READY', '1')
        self.assertEqual(self.all_answers(manager, nodes), answers)
        self.assert_unnoticed(nodes)
        self.assertEqual(sockets, sorted(os.readlink(f'/proc/{manager.daemon.pid}/fd/3').split()), 'the listening socket')
        self.assertIsNone(manager.daemon.status)

    def test_again_and_again(self):
        """Neither descriptors nor parked connections add up, and each process can be killed."""
        manager = self.manage()
        nodes = self.nodes(manager, 20)
        manager.restart()
        for _ in range(10):
            manager.reload()
        manager.settle(lambda: not manager.daemon.leaked(), 'as many descriptors as at first')
        self.assertEqual(manager.in_flight(), 20)
        nodes += self.nodes(manager, 20, prefix='m')
        manager.restart()
        manager.settle_names([conn.name for conn in nodes])
        self.assert_unnoticed(nodes)

    def test_told_again_at_any_moment(self):
        """Also while the new program takes over, when it serves no socket yet."""
        manager = self.manage()
        nodes = self.nodes(manager, 3)
        for turn in range(20):
            manager.daemon.signal(signal.SIGHUP)
            manager.pump(0.001 + 0.0005 * turn)
            manager.daemon.signal(signal.SIGHUP)
            manager.wait('READY', '1')
            manager.settle_names([conn.name for conn in nodes])
        self.assert_unnoticed(nodes)

    def test_listener_stays_open(self):
        """Every connection during reloads is taken and answered."""
        manager = self.manage()
        self.node(manager, 'n')
        expected = manager.ask(names())
        asking = []
        for _ in range(5):
            manager.daemon.signal(signal.SIGHUP)
            ready = False
            while not ready:
                asking.append(self.connect(manager.daemon).send(names()))
                message = manager.notify.next(0.001)
                ready = bool(message) and message.get('READY') == '1'
        for conn in asking:
            self.assert_reply(conn, expected)

    def test_reset_meanwhile(self):
        """A node that has reset its connection while there was no process was kept; it is not there any more."""
        manager = self.manage()
        stays, leaves = self.nodes(manager, 2)
        manager.kill()
        leaves.reset()
        manager.start()
        manager.settle_names([stays.name])
        self.assertRegex(manager.log(), f'Unregistered {leaves.name.decode()} at port .*: connection reset')
        self.assertIn('Restored 1 node; 1 more has ended meanwhile', manager.log())

    def test_request_under_way(self):
        """One that comes to its end is answered; one that does not is closed, and holds nobody up."""
        manager = self.manage()
        finishes, hangs = self.connect(manager.daemon), self.connect(manager.daemon)
        for conn in finishes, hangs:
            conn.send(names()[:2])
            conn.wait_consumed()
        manager.daemon.signal(signal.SIGHUP)
        manager.wait('RELOADING', '1')
        finishes.send(names()[2:])
        self.assert_reply(finishes, struct.pack('>I', manager.port))
        manager.wait('READY', '1')
        self.assert_ends(hangs)
        self.assertEqual(manager.names(), [])

    def test_end_of_another_meanwhile(self):
        """It is no reason to take connections that the new program then would not know."""
        manager = self.manage()
        hangs, ends = self.connect(manager.daemon), self.connect(manager.daemon)
        for conn in hangs, ends:
            conn.send(names()[:2])
            conn.wait_consumed()
        held = manager.daemon.leaked()['socket']
        manager.daemon.signal(signal.SIGHUP)
        manager.wait('RELOADING', '1')
        ends.close()
        deadline = time.monotonic() + DEADLINE
        while manager.daemon.leaked()['socket'] >= held:
            self.assertLess(time.monotonic(), deadline, 'its end was not noticed')
            manager.pump(0.001)
        late = self.connect(manager.daemon).send(names()[:2])
        manager.wait('READY', '1')
        late.send(names()[2:])
        self.assert_reply(late, struct.pack('>I', manager.port))
        self.assert_ends(hangs)

    def test_registration_under_way(self):
        manager = self.manage()
        packet = alive2('slow')
        conn = self.connect(manager.daemon).send(packet[:7])
        conn.wait_consumed()
        manager.daemon.signal(signal.SIGHUP)
        manager.wait('RELOADING', '1')
        conn.send(packet[7:])
        self.assertEqual(parse_alive2(conn.recv(6)).result, 0)
        manager.wait('READY', '1')
        manager.settle_names([b'slow'])

    def test_new_program(self):
        self.skip_under_valgrind('that is the program of the process')
        path = self.program()
        manager = self.manage(program=path)
        nodes = self.nodes(manager, 5)
        shutil.copy(EPMD, path + '.new')
        os.rename(path + '.new', path)
        running = os.stat(f'/proc/{manager.daemon.pid}/exe').st_ino
        self.assertNotEqual(running, os.stat(path).st_ino)
        manager.reload()
        self.assertEqual(os.stat(f'/proc/{manager.daemon.pid}/exe').st_ino, os.stat(path).st_ino)
        manager.settle_names([conn.name for conn in nodes])
        self.assert_unnoticed(nodes)

    def test_no_program_there(self):
        """What can be known before leaves the old program in charge, which says so."""
        self.skip_under_valgrind('what is started anew is not what was named')
        for damage in os.unlink, lambda path: os.chmod(path, 0o644):
            path = self.program()
            manager = self.manage(program=path)
            nodes = self.nodes(manager, 5)
            damage(path)
            manager.reload()
            self.assertIn('Failed to start the new program', manager.log())
            nodes += self.nodes(manager, 5, prefix='m')
            manager.settle_names([conn.name for conn in nodes])
            self.assert_unnoticed(nodes)
            manager.end()
            os.unlink(path) if os.path.exists(path) else None

    def check_broken(self, text):
        """A new program that cannot run: whether the old one goes on or the manager starts the next, nothing is lost."""
        path = self.program()
        manager = self.manage(program=path)
        nodes = self.nodes(manager, 5)
        os.unlink(path)
        with open(path, 'wb') as program:
            program.write(text)
        os.chmod(path, 0o755)
        manager.daemon.signal(signal.SIGHUP)
        manager.wait('RELOADING', '1')
        try:
            manager.wait('READY', '1')
        except AssertionError:
            self.assertNotEqual(manager.daemon.wait(), 0)
        shutil.copy(EPMD, path + '.new')
        os.rename(path + '.new', path)
        if manager.daemon.status is not None:
            manager.start()
        return manager, nodes

    def test_broken_program(self):
        for text in b'This is no program.\n', b'#!/nonexistent\n', b'#!/bin/false\n':
            with self.subTest(text=text):
                manager, nodes = self.check_broken(text)
                # Whoever it is that serves now, it must be able to do everything.
                nodes += self.nodes(manager, 1200, prefix='m')
                for conn in nodes[50:950]:
                    conn.close()
                nodes[50:950] = []
                manager.settle_names([conn.name for conn in nodes])
                self.assert_unnoticed(nodes)
                manager.restart()
                manager.settle_names([conn.name for conn in nodes])
                self.assert_unnoticed(nodes)
                manager.end()

    def test_a_list_that_is_cut_off(self):
        """Who reads slowly while the process ends, or gives way to the next, does not take a part of the list for all of it."""
        for end in 'reload', 'kill':
            with self.subTest(end=end):
                listener = self.listener()
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                manager = self.manage(listeners=[listener])
                self.nodes(manager, 300, prefix='x' * 240)
                slow = self.connect(manager.daemon, rcvbuf=1024).send(names())
                slow.recv(100)
                # When this is answered all is kept that was not sent.
                manager.names()
                if end == 'kill':
                    manager.kill()
                else:
                    manager.daemon.signal(signal.SIGHUP)
                    manager.wait('RELOADING', '1')
                    manager.wait('READY', '1')
                slow.read_all()
                self.assertEqual(slow.end, 'reset')
                if end == 'kill':
                    manager.start()

    def test_told_to_end_before(self):
        """KILL_REQ was answered with OK: the daemon ends, whoever wants it reloaded meanwhile."""
        manager = self.manage()
        manager.daemon.ask(kill())
        manager.daemon.signal(signal.SIGHUP)
        self.assertEqual(manager.daemon.wait(), 77)

    def test_told_to_end_meanwhile(self):
        """The request for the end is among those that a reload waits for."""
        manager = self.manage()
        asker = self.connect(manager.daemon).send(kill()[:-1]).wait_consumed()
        manager.daemon.signal(signal.SIGHUP)
        manager.wait('RELOADING', '1')
        asker.send(kill()[-1:])
        self.assertEqual(asker.read_all(), b'OK')
        self.assertEqual(manager.daemon.wait(), 77)

    def test_killed_while_reloading(self):
        manager = self.manage()
        nodes = self.nodes(manager, 100)
        choose = random.Random(2)
        for _ in range(10):
            manager.daemon.signal(signal.SIGHUP)
            manager.pump(choose.uniform(0, 0.01))
            manager.restart()
            self.assertEqual(len(manager.names()), 100)
        self.assert_unnoticed(nodes)


class TakeOver(ManagerCase):
    """What comes while what an earlier process has left is taken over."""

    ALREADY_SIGNALLED = '\n'.join((
        'import os, signal, sys',
        'signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])',
        'os.kill(os.getpid(), signal.SIGTERM)',
        'os.execv(sys.argv[1], sys.argv[1:])'))

    def test_end(self):
        """The daemon is stopped as it begins, or while SIGHUP replaces its program."""
        manager = self.manage()
        nodes = self.nodes(manager, 10)
        manager.kill()
        manager.wrapper = [sys.executable, '-c', self.ALREADY_SIGNALLED]
        manager.spawn()
        self.assertEqual(manager.daemon.wait(), 0)
        manager.wrapper = []
        manager.start()
        self.assertEqual(len(manager.names()), 10)
        self.assert_unnoticed(nodes)


class Without(ManagerCase):
    """Where the store is missing or too small, epmd serves as well as it can, and says what is not kept."""

    def test_runtime_directory(self):
        """None: a restart loses the nodes, and a reload is refused."""
        manager = self.manage(start=False)
        manager.runtime = None
        manager.start()
        conn = self.node(manager, 'n')
        self.assertEqual(manager.notify.store, [])
        manager.daemon.signal(signal.SIGHUP)
        manager.daemon.wait_stderr('Not reloading')
        self.assertEqual(manager.names(), [(b'n', 4711)])
        self.assert_unnoticed([conn])
        manager.restart()
        self.assert_ends(conn)
        self.assertEqual(manager.names(), [])

    def test_runtime_directory_lost(self):
        """There was one: what is stored is given up, and the nodes are told."""
        manager = self.manage()
        nodes = self.nodes(manager, 5)
        manager.kill()
        manager.runtime = None
        manager.start()
        self.assertEqual(manager.names(), [])
        for conn in nodes:
            self.assert_ends(conn)
        manager.notify.drain()
        self.assertEqual(manager.notify.store, [])

    def test_two_runtime_directories(self):
        """RuntimeDirectory= of a drop-in adds to ours, which systemd names first."""
        manager = self.manage(start=False)
        paths = f'{manager.runtime}:{manager.runtime}-more'
        manager.start(env={'RUNTIME_DIRECTORY': paths})
        conn = self.node(manager, 'n')
        manager.kill()
        manager.start(env={'RUNTIME_DIRECTORY': paths})
        self.assertEqual(manager.names(), [(b'n', 4711)])
        self.assert_unnoticed([conn])

    def test_no_socket_to_listen_on(self):
        """Something was passed, and nothing of it can be served: that is no daemon."""
        manager = self.manage(fd_names=['epmd-lot-0-in'], start=False)
        manager.spawn()
        self.assertEqual(manager.daemon.wait(), 1)
        self.assertIn('No socket was passed by systemd that could be served', manager.log())

    def test_names_with_colons(self):
        """They spoil LISTEN_FDNAMES, but not what the stored descriptors are called."""
        socks = [self.listener('127.0.0.1'), self.listener('127.0.0.2')]
        manager = self.manage(listeners=socks, fd_names=['epmd@[2001:db8::1].socket', 'epmd.socket'])
        nodes = self.nodes(manager, 20)
        answers = self.all_answers(manager, nodes)
        for again in (manager.restart, manager.reload, manager.restart):
            again()
            self.assertEqual(self.all_answers(manager, nodes), answers)
            self.assertEqual(parse_names(manager.ask(names(), socks[1].getsockname())).port, socks[1].getsockname()[1])
            self.assert_unnoticed(nodes)

    def test_no_more_than_can_be_kept(self):
        """Whoever is registered is kept: with small queues fewer have room, and who has none is refused."""
        manager = self.manage('--max-nodes-per-user=1000000')
        manager.kill()
        for fd, name in manager.notify.store:
            if name.endswith('-in'):
                with socket.socket(fileno=os.dup(fd)) as end:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 14000)
        manager.start()
        nodes = [self.begin(manager, f'n{number}') for number in range(600)]
        nodes = [conn for conn in nodes if parse_alive2(conn.recv(6)).result == 0]
        self.assertGreater(len(nodes), 253)
        self.assertLess(len(nodes), 600)
        for _ in range(2):
            manager.restart()
            self.assertEqual(len(manager.names()), len(nodes))
            self.assert_unnoticed(nodes)
        self.assertNotIn('no room to keep them', manager.log())

    def test_full_file_system(self):
        """A table that cannot grow: all are served, some are not kept, and that is said."""
        limit = 64 * 1024
        manager = self.manage(start=False)
        manager.start(limits=[(resource.RLIMIT_FSIZE, limit, limit)])
        nodes = self.nodes(manager, 700)
        self.assertEqual(len(manager.names()), 700)
        self.assertIn('Some nodes will have to register again', manager.log())
        manager.restart()
        kept = {name for name, _port in manager.names()}
        self.assertGreater(len(kept), 400)
        self.assertLess(len(kept), 700)
        for conn in nodes:
            if conn.name not in kept:
                self.assert_ends(conn)
        self.assert_unnoticed([conn for conn in nodes if conn.name in kept])

    def test_no_room_at_all(self):
        manager = self.manage(start=False)
        manager.start(limits=[(resource.RLIMIT_FSIZE, 0, 0)])
        self.assertIn('Registrations will be lost', manager.log())
        conn = self.node(manager, 'n')
        self.assertEqual(manager.names(), [(b'n', 4711)])
        manager.restart()
        self.assert_ends(conn)
        self.assertEqual(manager.names(), [])
        self.node(manager, 'n')

    def manage_as_user(self):
        """A manager whose daemon is limited by the kernel in what it may have in flight: not root, as under the units."""
        if os.geteuid() != 0:
            self.skipTest('needs root, to run the daemon as a user of whom nothing else is in flight')
        os.chmod(self.directory, 0o711)
        manager = self.manage(start=False, wrapper=['/usr/bin/setpriv', f'--reuid={DAEMON}', f'--regid={DAEMON}',
                                                    '--clear-groups', '--pdeathsig=KILL'])
        os.chmod(manager.directory, 0o711)
        os.chmod(manager.notify.path, 0o666)
        os.chown(manager.runtime, DAEMON, DAEMON)
        return manager

    def check_fewer_descriptors(self, manager):
        """LimitNOFILE= was lowered: who has no place any more is told so."""
        manager.start()
        nodes = self.nodes(manager, 300)
        manager.kill()
        manager.start(limits=[(resource.RLIMIT_NOFILE, 150, 150)])
        left = {name for name, _port in manager.names()}
        self.assertGreater(len(left), 20)
        for conn in nodes:
            if conn.name not in left:
                self.assert_ends(conn)
        self.assert_unnoticed([conn for conn in nodes if conn.name in left])
        self.assertIn('Restored', manager.log())
        return [conn for conn in nodes if conn.name in left]

    def test_fewer_descriptors_than_nodes(self):
        self.check_fewer_descriptors(self.manage('--max-nodes-per-user=1000000', start=False))

    def test_as_many_as_descriptors(self):
        """What has ended may still be parked, and is taken back with the living: there is a descriptor for each."""
        limits = [(resource.RLIMIT_NOFILE, 128, 128)]
        manager = self.manage(start=False)
        manager.start(limits=limits)
        nodes = []
        # Until the lots are tidied up, and those that live are parked together; then most of these end.
        for round_, (ended, added) in enumerate([(0, 64), (64, 64), (1, 1), (60, 60)]):
            for conn in nodes[:ended]:
                conn.close()
            nodes = nodes[ended:]
            manager.settle_names([conn.name for conn in nodes])
            nodes += self.nodes(manager, added, prefix=f'round-{round_}-')
        manager.kill()
        manager.start(limits=limits)
        manager.settle_names([conn.name for conn in nodes])
        self.assert_unnoticed(nodes)

    def test_many_sockets_to_listen_on(self):
        """They are descriptors, too: nodes take none that the next process needs, and somebody is answered beside them."""
        limits = [(resource.RLIMIT_NOFILE, 256, 256)]
        manager = self.manage(listeners=[self.listener() for _ in range(60)], start=False)
        manager.start(limits=limits)
        nodes = []
        while True:
            conn = self.connect(manager.daemon).send(alive2(f'n{len(nodes)}'))
            if parse_alive2(conn.recv(6)).result != 0:
                break
            nodes.append(conn)
        manager.kill()
        manager.start(limits=limits)
        self.assertEqual(len(manager.names()), len(nodes))
        self.assert_unnoticed(nodes)
        self.assertGreater(len(nodes), 128)

    def test_more_in_flight_than_may_be(self):
        """The same where the kernel lets nothing be parked before enough of what is parked has gone."""
        manager = self.manage_as_user()
        nodes = self.check_fewer_descriptors(manager)
        self.assertEqual(manager.in_flight(), len(nodes))
        manager.restart()
        manager.settle_names([conn.name for conn in nodes])
        self.assert_unnoticed(nodes)

    def test_limit_of_descriptors_in_flight(self):
        """The kernel lets a user have RLIMIT_NOFILE descriptors in flight, dead ones included."""
        manager = self.manage_as_user()
        manager.start(limits=[(resource.RLIMIT_NOFILE, 300, 300)])
        nodes = self.nodes(manager, 200)
        for round_ in range(5):
            for conn in nodes[:100]:
                conn.close()
            manager.settle_names([conn.name for conn in nodes[100:]])
            nodes = nodes[100:] + self.nodes(manager, 100, prefix=f'again-{round_}-')
            self.assertLessEqual(manager.in_flight(), 300)
        self.assertNotIn('register again', manager.log())
        manager.kill()
        manager.start(limits=[(resource.RLIMIT_NOFILE, 300, 300)])
        manager.settle_names([conn.name for conn in nodes])
        self.assert_unnoticed(nodes)


class Bounded(ManagerCase):
    """What has ended is released, however much of it there was."""

    CYCLES = 30_000
    BATCH = 250
    STAY = 100

    def cycles(self, manager, first, last):
        """Nodes that register and leave, half of them under names that return."""
        for start in range(first, last, self.BATCH):
            # Loopback has more addresses than one of them has ports for closed connections to rest on.
            source = (f'127.0.{start // self.BATCH % 250}.1', 0)
            batch = []
            for i in range(start, start + self.BATCH):
                sock = socket.socket()
                sock.setsockopt(socket.SOL_IP, getattr(socket, 'IP_BIND_ADDRESS_NO_PORT', 24), 1)
                sock.bind(source)
                sock.connect(manager.address)
                sock.sendall(alive2(f'c{i}' if i % 2 else f'r{i % self.BATCH}', port=1))
                batch.append(sock)
            for sock in batch:
                sock.settimeout(10)
                reply = sock.recv(6)
                if len(reply) != 6 or reply[1] != 0:
                    self.fail(f'the reply to a registration: {reply!r}')
                sock.close()
            manager.daemon.drain()
            del manager.daemon.err.data[:]

    def footprint(self, manager):
        manager.settle(lambda: len(manager.names()) == self.STAY, 'only those that stay')
        manager.settle(lambda: len(served(manager.port)) == self.STAY, 'the connections of those that left')
        return {
            'VmRSS': memory_of(manager.daemon.pid),
            'descriptors': len(os.listdir(f'/proc/{manager.daemon.pid}/fd')),
            'table': os.stat(manager.table).st_size,
        }

    @tap.beside
    @own_network_if_possible
    def test_register_and_close(self):
        manager = self.manage()
        nodes = self.nodes(manager, self.STAY)
        self.cycles(manager, 0, self.CYCLES // 10)
        early = self.footprint(manager)
        self.cycles(manager, self.CYCLES // 10, self.CYCLES)
        late = self.footprint(manager)
        # A sanitizer keeps what is freed for a while, and so does valgrind.
        slack = 256 * 1024 if is_under_valgrind() or b'__asan_init' in open(EPMD, 'rb').read() else 256
        self.assertLessEqual(late['VmRSS'], early['VmRSS'] + slack, 'KiB')
        for what in 'descriptors', 'table':
            self.assertEqual(late[what], early[what], what)
        # As many dead as live and some slack, and one burst that was under way.
        self.assertLessEqual(manager.in_flight(), 2 * (self.STAY + self.BATCH) + 512)
        self.assertLessEqual(manager.queued_bytes(), 2 * 512 * 1024)
        manager.restart()
        manager.settle_names([conn.name for conn in nodes])
        self.assert_unnoticed(nodes)


if __name__ == '__main__':
    tap.main()
