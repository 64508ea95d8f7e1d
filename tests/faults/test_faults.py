#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every allocation and system call that can fail does: one after the other, and at random.

Each scenario is done once while calls are counted. Then, for each function, each call of it and each error that it can
give, it is done again with just that one fault. Whatever it is, the daemon must go on serving, or end with a message that
explains it and be followed by a process that knows every acknowledged registration; it never gives a wrong answer, spins, or
leaks descriptors. Plain `make check` takes a sample of the cases; --full, which is `make check-faults`, all of them.
"""

import collections
import contextlib
import errno
import os
import random
import signal
import socket
import sys
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from faults import BROKEN, DEADLINE, EPMD, EXPLAINED, SHORT, Faults, World, Wrong, error_name  # noqa: E402
import tap  # noqa: E402
from epmdtest import (  # noqa: E402
    Case, Conn, Process, dump, names, parse_names, parse_port2, pids_listening, port2, readable, stop)

FULL = '--full' in sys.argv
# Of a function that is called more often in a scenario, so many calls fail, the first and the last among them.
OCCURRENCES = 60 if FULL else 2
ERRORS = 9 if FULL else 1
SHOWN = 20
LONG_NAME = 'n' * 200


def occurrences(calls, most):
    """Which calls are to fail: all, or the first ones, the last ones and some in between."""
    if calls <= most:
        return range(1, calls + 1)
    edge = max(1, most // 3)
    middle = most - 2 * edge
    between = [edge + (i + 1) * (calls - 2 * edge) // (middle + 1) for i in range(middle)]
    return sorted({*range(1, edge + 1), *between, *range(calls - edge + 1, calls + 1)})


class FaultCase(Case):
    """Does a scenario with each fault."""

    def setUp(self):
        super().setUp()
        self.worlds = []
        self.counts = collections.Counter()
        self.failures = []

    def diagnostics(self):
        return '\n'.join(self.failures[:SHOWN] + [f'({len(self.failures)} cases failed)'])

    def each_fault(self, make, act, crash=True, replenish=0, spare=(), most=OCCURRENCES):
        """make(): a World; act(world): what is done with it, over and over; most: calls of one function that fail."""
        world = make()
        act(world)
        world.check(crash)
        world.faults.disarm()
        act(world)
        calls, errors = world.faults.calls(), world.faults.errors()
        world.check(crash)
        for name in calls:
            if name in spare:
                continue
            for number in occurrences(calls[name], min(most, OCCURRENCES)):
                for error in errors[name][:ERRORS]:
                    world = self.one_fault(world, make, act, (name, number, error), crash, replenish)
        world.end()
        if FULL:
            words = ', '.join(f'{count} {what}' for what, count in sorted(self.counts.items()))
            tap.remark(f'{self.id().split(".", 1)[1]}: {words}')
        if self.failures:
            self.fail(f'{len(self.failures)} of {self.counts["cases"]} cases failed')

    def one_fault(self, world, make, act, fault, crash, replenish):
        """Gives the world to go on with."""
        name, number, error = fault
        world.exits = world.warnings = world.closed = 0
        try:
            world.faults.arm(name, number, error)
            act(world)
            happened = world.faults.injected > 0 or world.exits > 0
            world.check(crash)
            self.tally(world, happened)
            world.replenish(replenish)
            return world
        except Exception as wrong:
            self.counts['cases'] += 1
            self.counts['failed'] += 1
            what = str(wrong) if isinstance(wrong, Wrong) else traceback.format_exc()
            log = world.daemon.err.text()[-1500:]
            self.failures.append(f'{name}() call {number}, {error_name(error)}: {what}\n{log}')
            self.discard(world)
            return make()

    def tally(self, world, happened):
        if not happened:
            self.counts['not reached'] += 1
            return
        self.counts['cases'] += 1
        if world.exits:
            self.counts['ended and restored'] += 1
        elif world.closed:
            self.counts['request closed'] += 1
        elif not world.warnings:
            self.counts['unnoticed'] += 1
        if world.warnings:
            self.counts['lost with a warning'] += 1

    def discard(self, world):
        for conn in world.nodes.values():
            conn.close()
        world.daemon.end()


@tap.beside
class Single(FaultCase):
    """One fault at a time."""

    def test_registration(self):
        def act(world):
            for name in (b'one', b'two'):
                if name in world.nodes:
                    world.unregister(name)
            world.register('one', port=1, extra=bytes(100))
            world.register('two', port=2, pieces=3, high=5, low=5)
            if b'one' in world.nodes:
                world.unregister('one')
                world.register('one', port=3)

        self.each_fault(lambda: World(self), act)

    def test_refusal(self):
        """Of a name that is taken. What is read of the connection that has it may not say that it has ended."""
        def make():
            world = World(self)
            world.faults.limit('recv', [errno.EINTR, errno.ENOMEM, SHORT])
            return world

        self.each_fault(make, lambda world: world.refused('base0'), crash=False)

    def test_look_up(self):
        def act(world):
            world.look_up('base1')
            world.look_up('nobody')
            world.list(names())
            world.list(dump())
            world.call('org.erlang.epmd.Statistics')
            # With a change, so that the list is not the one of before.
            if b'changing' in world.nodes:
                world.unregister('changing')
            else:
                world.register('changing', port=5)
            world.settle()
            world.call()

        self.each_fault(lambda: World(self), act, crash=False)

    def test_long_listing(self):
        """Longer than what the kernel takes at once, to a client that reads slowly."""
        def make():
            world = World(self, nodes=0)
            for number in range(400):
                world.register(f'{LONG_NAME}{number}', port=number + 1)
            return world

        def act(world):
            world.list(names(), rcvbuf=2048)
            world.list(dump(), rcvbuf=2048)

        self.each_fault(make, act, crash=False)

    def test_take_over(self):
        def act(world):
            world.crash()
            world.start()

        # Of a parked connection the kernel says ENOTCONN only when it has ended.
        self.each_fault(lambda: World(self, nodes=50), act, replenish=50, spare=('getpeername',))

    def test_start(self):
        def act(world):
            world.crash()
            world.forget()
            world.start()
            world.register('after')

        self.each_fault(lambda: World(self, nodes=0), act)

    def test_reload(self):
        def act(world):
            world.manager.notify.skip()
            world.daemon.signal(1)
            world.wait_ready()

        self.each_fault(lambda: World(self, nodes=20), act, replenish=20, spare=('getpeername',))

    def test_full_queue(self):
        """Registrations for which the connections that are parked must move from one queue to the other."""
        def make():
            world = World(self, nodes=12)
            for number in range(2):
                with world.manager.lot_end(number, 'in') as end:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
            return world

        def act(world):
            for number in range(12):
                if f'more{number}'.encode() in world.nodes:
                    world.unregister(f'more{number}')
            for number in range(12):
                world.register(f'more{number}', port=number + 1)

        self.each_fault(make, act, replenish=12, spare=('getpeername',))

    def test_stop(self):
        """A node is stopped by request; then nobody is registered, and the daemon ends by request."""
        def act(world):
            if b'stopped' in world.nodes:
                world.unregister('stopped')
            world.register('stopped', port=3)
            reply, _end = world.ask(stop('stopped'))
            if reply not in (b'', b'STOPPED', b'NOEXIST'):
                raise Wrong(f'STOP was answered with {reply!r}')
            if b'stopped' in world.nodes and (reply or world.nodes[b'stopped'].has_ended()):
                world.unregister('stopped')

        self.each_fault(lambda: World(self, '-relaxed_command_check'), act, crash=False)


@tap.beside
class ByHand(FaultCase):
    """A daemon that opens its sockets itself, in the foreground and with -daemon."""

    def ask(self, port):
        """Whether an epmd serves the port; one that is about to does."""
        try:
            with contextlib.closing(Conn(('127.0.0.1', port), timeout=DEADLINE)) as conn:
                reply = conn.send(names()).read_all()
            return bool(reply) and parse_names(reply).nodes == []
        except (ConnectionRefusedError, ConnectionResetError):
            return False

    def begin(self, *args):
        """Starts one. Returns whether it serves; if not, it has said why, and nobody is left."""
        process = Process([EPMD, '-port', self.port, *args], env=self.faults.env())
        self.addCleanup(process.end)
        try:
            deadline = time.monotonic() + DEADLINE
            while '-daemon' in args or not self.ask(self.port):
                if process.ends_within(0.005):
                    break
                if time.monotonic() >= deadline:
                    raise Wrong('it neither serves nor ends')
            serves = process.status is None or process.status == 0
            while not serves and not process.err.eof:
                # What went to the background has its last word after the one that was started.
                readable([process.err.fd], 0.1)
                process.drain()
            self.explained(process)
            self.seen = self.faults.calls()
            self.faults.disarm()
            # One in the background that has said that it serves may end later, and tells syslog why.
            later = process.status == 0 and not pids_listening(self.port)
            if serves and not later and not self.ask(self.port):
                raise Wrong(f'status {process.status}, and nobody serves')
            return serves and not later
        finally:
            self.end(process)

    def explained(self, process):
        text = process.err.text()
        if found := BROKEN.search(text):
            raise Wrong(f'the log has {found[0]!r}')
        if process.status not in (None, 0) and (process.status != 1 or not EXPLAINED.search(text)):
            raise Wrong(f'it ended with status {process.status} and said {text!r}')

    def end(self, process):
        """Ends whoever is left."""
        process.end()
        while pids := pids_listening(self.port):
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def check(self, *args):
        self.port = self.reserve()
        self.faults = Faults(self.directory)
        for _ in range(2):  # the first one tells which functions there are
            self.assertTrue(self.begin(*args))
            calls, errors = dict(self.seen), self.faults.errors()
        for name in calls:
            for number in occurrences(calls[name], OCCURRENCES):
                for error in errors[name][:ERRORS]:
                    self.faults.arm(name, number, error)
                    try:
                        self.counts['served' if self.begin(*args) else 'ended'] += 1
                    except Wrong as wrong:
                        self.failures.append(f'{name}() call {number}, {error_name(error)}: {wrong}')
        if FULL:
            words = ', '.join(f'{count} {what}' for what, count in sorted(self.counts.items()))
            tap.remark(f'{self.id().split(".", 1)[1]}: {words}')
        if self.failures:
            self.fail(f'{len(self.failures)} cases failed')

    def test_foreground(self):
        self.check()

    def test_background(self):
        self.check('-daemon')


@tap.beside
class Slow(FaultCase):
    """What takes a second each time; only with --full."""

    def test_time_out(self):
        """Requests that never come to their end, until they are closed."""
        def act(world):
            half = [world.send(world.connect(), names()[:2]) for _ in range(3)]
            slow = world.send(world.connect(world.varlink), b'{')
            for conn in half + [slow]:
                if world.receive(conn):
                    raise Wrong('half a request was answered')
                conn.close()

        self.each_fault(lambda: World(self, '-packet_timeout', '1'), act, crash=False, most=3)

    def test_idle_exit(self):
        """Nobody is registered, nobody asks, and the daemon ends; the next request starts another one."""
        def act(world):
            world.list()
            if not world.daemon.ends_within(DEADLINE):
                raise Wrong('an idle daemon does not end')
            world.follow()
            world.wait_ready()

        self.each_fault(lambda: World(self, '-idle-timeout', '1', nodes=0), act, crash=False, most=2)


@tap.beside
class Warnings(FaultCase):
    """What is lost is told, however much there is to tell."""

    def test_not_kept(self):
        # More lines than there are in a second come first.
        world = World(self)
        for _ in range(5):
            world.refused('base0')
        world.faults.arm('sendmsg', 1, errno.EPIPE)
        self.assertTrue(world.register('lonely'))
        self.assertEqual(world.faults.injected, 1)
        world.faults.disarm()
        world.daemon.settle(lambda: 'register again when epmd restarts' in world.manager.log(), 'the warning')
        world.crash()
        world.start()
        self.assertIn('1 node of the former epmd had not been kept', world.manager.log())
        world.drop_lost()
        self.assertNotIn(b'lonely', world.nodes)
        world.end()


@tap.beside
class LateBytes(FaultCase):
    """What a peer sends after its request resets its connection, if it comes at the wrong time; it has its reply by then."""

    def test_reply(self):
        world = World(self, env={'EPMD_FAULTS_LATE': '1'})
        for packet in port2('base1'), names():
            # Now and then they come before the last look.
            for _turn in range(100):
                with contextlib.closing(world.send(world.connect(), packet)) as conn:
                    world.wait_read(conn)
                    world.send(conn, b'more')
                    reply = world.receive(conn)
                if packet == names():
                    self.assertEqual(len(parse_names(reply).nodes), 5)
                else:
                    self.assertEqual(parse_port2(reply).port, 20001)
                world.list()
                if world.faults.injected > 0:
                    break
            self.assertGreater(world.faults.injected, 0, 'no bytes came late')
            world.faults.disarm()
        world.end()


@tap.beside
class Random(FaultCase):
    """Many faults, in any order, also in the processes that follow one another."""

    SECONDS = 60 if FULL else 1.5
    RATES = (0.001, 0.01, 0.05)

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get('FAULTS_SEED') or random.SystemRandom().randrange(1 << 32))
        self.random = random.Random(self.seed)

    def diagnostics(self):
        return f'the same once more: FAULTS_SEED={self.seed}\n{super(FaultCase, self).diagnostics()[-3000:]}'

    def some_requests(self, world):
        for _ in range(self.random.randrange(1, 30)):
            number = self.random.randrange(12)
            name = f'random{number}'
            what = self.random.randrange(8)
            if what < 3:
                if name.encode() in world.nodes:
                    world.unregister(name)
                else:
                    world.register(name, port=number + 1, pieces=self.random.choice((1, 1, 2)))
            elif what == 3:
                world.ask(port2(name))
            elif what == 4:
                world.ask(self.random.choice((names(), dump())))
            elif what == 5:
                world.call('org.erlang.epmd.Statistics')
            elif what == 6:
                world.refused('base0') if b'base0' in world.nodes else None
            elif self.random.random() < 0.3:
                world.crash()
                world.start()

    def test_random(self):
        world, rounds = World(self), 0
        world.patience = 5
        # These say of a connection that it has ended, and then it has.
        world.faults.limit('recv', [errno.EINTR, SHORT])
        world.faults.limit('getpeername', [])
        world.faults.limit('shutdown', [])
        deadline = time.monotonic() + self.SECONDS
        while time.monotonic() < deadline:
            world.faults.at_random(self.random.randrange(1 << 63), self.random.choice(self.RATES))
            self.some_requests(world)
            world.check()
            world.replenish(5)
            world.exits = 0
            rounds += 1
        world.end()
        if FULL:
            tap.remark(f'Random.test_random: {world.faults.all_injected} faults in {rounds} rounds, seed {self.seed}')
        self.assertGreater(world.faults.all_injected, 0)


if __name__ == '__main__':
    # A sanitizer makes each of the many starts of a daemon longer.
    tap.TEST_LIMIT = 1800 if FULL else 240
    if FULL:
        sys.argv.remove('--full')
    else:
        del Slow
    tap.main()
