#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Surroundings that fail for longer: a service manager or a journal that does not read, no memory, no descriptors, no room.

Nobody waits for them but those who must, nothing spins meanwhile, and afterwards all is as if nothing had been.
"""

import contextlib
import errno
import os
import signal
import socket
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from faults import DEADLINE, EVER, World, Wrong, error_name  # noqa: E402
import tap  # noqa: E402
from epmdtest import Case, alive2, names, parse_alive2, parse_names, parse_port2, port2  # noqa: E402

FULL = '--full' in sys.argv
# One error of each function is enough where the daemon does not look at which it is.
ERRORS = 9 if FULL else 1
# A daemon that tries again every half a second takes few turns of its loop in so many seconds.
WATCHED, TURNS = 0.05, 100

# What does not last: signals; errors of one connection; and a full queue, whose end the kernel would tell.
PASSING = {'EINTR', 'EAGAIN', 'SHORT', 'ECONNABORTED'}
OF_ONE_CONNECTION = ('accept4', 'EPERM')


def fill(path):
    """Leaves no room in the queue of a datagram socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.sendto(b'FILLER=1', path)


class SurroundingsCase(Case):
    def setUp(self):
        super().setUp()
        self.worlds = []

    def everything(self, world):
        """All that a client may want; b'new' is registered anew."""
        if b'new' in world.nodes:
            world.unregister('new')
            world.settle()
        self.assertTrue(world.register('new', port=9), 'the registration was not answered')
        world.look_up('base1')
        world.list()
        self.assertTrue(world.call(), 'the call over Varlink was not answered')


@tap.beside
class Manager(SurroundingsCase):
    """PID 1 does not read its notification socket."""

    @contextlib.contextmanager
    def deaf(self, world):
        """It has said nothing of interest yet, and its queue is full."""
        notify = world.manager.notify
        notify.skip()
        fill(notify.path)
        hear, notify.drain = notify.drain, lambda: None
        try:
            yield
        finally:
            notify.drain = hear

    def hear(self, world, key, pattern='1'):
        """Waits for a notification that comes once there is room."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            world.manager.pump(0.01)
            while message := world.manager.notify.next(0):
                if pattern in message.get(key, ''):
                    return
        self.fail(f'no {key} with {pattern} came')

    def test_while_serving(self):
        world = World(self, env={'WATCHDOG_USEC': '100000'})
        with self.deaf(world):
            deadline = time.monotonic() + 1.3  # more than one STATUS= and several WATCHDOG=1 were due
            while time.monotonic() < deadline:
                self.everything(world)
        self.hear(world, 'STATUS', '6 nodes registered')
        self.hear(world, 'WATCHDOG')
        world.check()

    def test_while_starting(self):
        """The successor serves before it is heard."""
        world = World(self)
        world.crash()
        with self.deaf(world):
            world.manager.notify.skip = lambda: None
            world.spawn()
            self.everything(world)
            del world.manager.notify.skip
        self.hear(world, 'READY')
        world.check()

    def test_while_starting_for_the_first_time(self):
        """What it has to store must arrive: it waits for that, as it serves nobody yet."""
        world = World(self, nodes=0)
        world.crash()
        world.forget()
        with self.deaf(world):
            world.manager.notify.skip = lambda: None
            world.spawn()
            asking = world.send(world.connect(), names())
            world.manager.pump(0.2)
            del world.manager.notify.skip
        self.hear(world, 'READY')
        self.assertEqual(parse_names(world.receive(asking)).nodes, [])
        self.everything(world)
        world.check()

    def test_while_reloading(self):
        world = World(self)
        with self.deaf(world):
            world.daemon.signal(1)
            deadline = time.monotonic() + DEADLINE
            while 'Restored' not in world.take_log().split('Starting', 1)[-1]:
                self.assertLess(time.monotonic(), deadline, 'it did not start its program anew')
                world.daemon.ends_within(0.01)
            self.everything(world)
        self.hear(world, 'READY')
        world.check()

    def test_while_ending(self):
        world = World(self)
        with self.deaf(world):
            world.end()
        world.start()
        world.check()


@tap.beside
class Journal(SurroundingsCase):
    """The journal is there, and then it is not."""

    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.directory, 'journal')
        self.journal = self.open()

    def open(self):
        """A journal, or another one in its place."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        sock = self.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sock.bind(self.path)
        sock.setblocking(False)
        return sock

    def world(self):
        # As systemd says it of a service whose stderr goes to the journal.
        script = 'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2); export JOURNAL_STREAM; exec "$@"'
        # With -d nothing is held back.
        return World(self, '-d', env={'EPMD_FAULTS_JOURNAL': self.path}, wrapper=['/bin/sh', '-c', script, 'sh'])

    def entries(self):
        """What the journal has got, as a list of dicts."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                lines = self.journal.recv(65536).decode().splitlines()
                found.append(dict(line.split('=', 1) for line in lines))
        return found

    def wait_entry(self, text, act):
        """Acts until the journal has an entry with the text; gives it."""
        deadline = time.monotonic() + DEADLINE
        while True:
            for entry in self.entries():
                if text in entry.get('MESSAGE', ''):
                    return entry
            self.assertLess(time.monotonic(), deadline, f'the journal has no {text!r}')
            act()

    def test_fields(self):
        world = self.world()
        self.entries()
        self.everything(world)
        entry = self.wait_entry('Registered new', lambda: None)
        self.assertEqual((entry['EPMD_NODE'], entry['EPMD_PORT'], entry['PRIORITY'], entry['SYSLOG_IDENTIFIER']),
                         ('new', '9', '6', 'epmd'))
        self.assertEqual(int(entry['EPMD_CREATION']), world.nodes[b'new'].creation)

    def test_stuck(self):
        """It does not read, and later it does."""
        world = self.world()
        fill(self.path)
        for _ in range(20):
            self.everything(world)
        self.wait_entry('messages were not taken', lambda: self.everything(world))
        world.check()

    def test_dead(self):
        """Nobody has its socket any more, then somebody else has."""
        world = self.world()
        self.journal.close()
        for _ in range(3):
            self.everything(world)
        self.journal = self.open()
        self.wait_entry('messages were not taken', lambda: self.everything(world))
        world.check()

    def test_gone(self):
        world = self.world()
        os.unlink(self.path)
        self.everything(world)
        world.check()


@tap.beside
class Lasting(SurroundingsCase):
    """A call that fails every time, for a while, and then works again."""

    def begin(self, world):
        """Sends one of each request, and ends a node."""
        world.closed = 0
        if b'base4' in world.nodes:
            world.unregister('base4')
        asked = {name: world.connect() for name in ('register', 'look up', 'list')}
        for name, packet in ('register', alive2('lasting')), ('look up', port2('base1')), ('list', names()):
            world.send(asked[name], packet)
        return asked

    def finish(self, world, asked):
        """What was not answered before is answered now, or was closed."""
        reply = world.receive(asked['register'], 6)
        if reply and parse_alive2(reply).result == 0:
            conn = asked.pop('register')
            conn.name, conn.port, conn.creation = b'lasting', 4711, parse_alive2(reply).creation
            world.nodes[b'lasting'] = conn
        reply = world.receive(asked['look up'])
        if reply and (not parse_port2(reply) or parse_port2(reply).port != world.nodes[b'base1'].port):
            raise Wrong(f'the look-up says {reply!r}')
        reply = world.receive(asked['list'])
        if reply and not {(f'base{number}'.encode(), 20000 + number) for number in range(4)} <= set(parse_names(reply).nodes):
            raise Wrong(f'NAMES says {reply!r}')
        for conn in asked.values():
            conn.close()

    def watch(self, world):
        """It does not spin while it cannot do what it wants."""
        world.manager.pump(WATCHED)
        turns = world.faults.calls()['epoll_wait']
        if turns > TURNS:
            raise Wrong(f'it spins: {turns} turns of its loop in {WATCHED} s')

    def one(self, world, name, error):
        world.faults.arm(name, 1, error, EVER)
        asked = self.begin(world)
        self.watch(world)
        injected = world.faults.injected
        world.faults.disarm()
        self.finish(world, asked)
        world.check()
        if b'lasting' in world.nodes:
            world.unregister('lasting')
        world.replenish(5)
        return injected

    def test_each(self):
        tried, bad, world = 0, [], World(self)
        for name, errors in world.faults.errors().items():
            for error in [error for error in errors if error_name(error) not in PASSING][:ERRORS]:
                if (name, error_name(error)) == OF_ONE_CONNECTION:
                    continue
                try:
                    tried += self.one(world, name, error) > 0
                except Exception as wrong:
                    bad.append(f'{name}(), {error_name(error)}: {wrong}\n{world.daemon.err.text()[-800:]}')
                    for conn in world.nodes.values():
                        conn.close()
                    world.daemon.end()
                    world = World(self)
        if FULL:
            tap.remark(f'Lasting.test_each: {tried} cases')
        self.assertGreater(tried, 5, 'faults that happened')
        self.assertEqual(bad, [])

    def test_the_cure(self):
        """More descriptors help only who has too few."""
        for name, error, cure in (('epoll_ctl', errno.ENOSPC, 'raise fs.epoll.max_user_watches'),
                                  ('accept4', errno.ENFILE, 'raise fs.file-max')):
            world = World(self)
            world.faults.arm(name, 1, error)
            asking = world.send(world.connect(), names()[:2])
            world.daemon.wait_stderr(cure)
            world.faults.disarm()
            asking.close()
            self.assertNotIn('LimitNOFILE', world.take_log())
            world.end()

    def test_want_after_want(self):
        """No descriptor for a connection, and then no memory to listen again."""
        world = World(self)
        world.faults.arm('accept4', 1, errno.EMFILE, EVER)
        asking = world.send(world.connect(), names())
        world.daemon.wait_stderr('No new connections')
        world.faults.arm('epoll_ctl', 1, errno.ENOMEM)
        self.assertEqual(len(parse_names(world.receive(asking)).nodes), 5)
        self.assertEqual(world.faults.injected, 1)
        asking.close()
        world.check()

    def test_reload_after_want(self):
        """It would listen again in half a second, but then a new program is about to take over."""
        world = World(self)
        hangs = world.send(world.connect(), names()[:2])
        world.wait_read(hangs)
        world.faults.arm('accept4', 1, errno.ENFILE, EVER)
        asking = world.send(world.connect(), names())
        world.daemon.wait_stderr('No new connections')
        world.faults.disarm()
        world.manager.pump(0.25)
        world.daemon.signal(signal.SIGHUP)
        world.manager.wait('RELOADING', '1')
        late = world.send(world.connect(), names()[:2])
        world.manager.wait('READY', '1')
        world.send(late, names()[2:])
        for conn in asking, late:
            self.assertEqual(len(parse_names(world.receive(conn)).nodes), 5)
            conn.close()
        hangs.close()
        world.check()

    def test_full_file_system(self):
        """No block for the table from the beginning, and from a moment on."""
        world = World(self, nodes=0)
        world.crash()
        world.forget()
        world.faults.arm('posix_fallocate', 1, errno.ENOSPC, EVER)
        world.start()
        self.everything(world)
        self.assertIn('Registrations will be lost', world.take_log())
        world.check()
        self.assertEqual(world.nodes, {}, 'nodes that had to go')


if __name__ == '__main__':
    # A sanitizer makes each of the many starts of a daemon longer.
    tap.TEST_LIMIT = 1800 if FULL else 240
    if FULL:
        sys.argv.remove('--full')
    tap.main()
