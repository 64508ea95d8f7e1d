#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Clients that mean harm, while 1,000 nodes are registered and somebody looks up 500 a second.

Each storm lasts 2 seconds, or 10 with --full, which is `make check-storm`. No registration may be lost or refused, memory
and descriptors stay bounded, and every look-up is answered. How long look-ups take is printed, as p99 (99th percentile), in
storm, in calm before it, and with --full at the same time from a daemon that has no storm; it decides only with --full.
"""

import contextlib
import os
import re
import resource
import signal
import sys
import time

sys.dont_write_bytecode = True
import tap
from epmdtest import (  # noqa: E402
    Case, EPMD, Process, alive2, parse_alive2, private_network, raise_descriptor_limit, readable)
from manager import memory_of  # noqa: E402

FULL = '--full' in sys.argv
STORM_SECONDS = 10.0 if FULL else 2.0
CALM_SECONDS = 5.0 if FULL else 0.5
# What the 99th percentile of look-ups may be, of that in calm.
WORSE = 3.0

NODES = 1000
FIRST_PORT = 10000
LOOKUPS = 500
# On a machine that does something else now and then, one storm of so many must show it.
ATTEMPTS = 3 if FULL else 1
COUNTS = ('opened', 'done', 'ended', 'registered', 'refused', 'bad', 'errors')
RESERVE_DESCRIPTORS = 200
# All that a storm may add to what the daemon has in memory, in KiB.
GROWTH = 40 * 1024
EVIL = 61001
# The storms come from elsewhere: they must not keep the machine from the daemon, nor must what else runs on it.
NICE, VERY_IMPORTANT = 19, -19


def find_helper():
    """The program that makes the storms: beside the tests' programs in the build directory."""
    build = os.environ.get('TOP_BUILDDIR') or os.path.dirname(EPMD)
    path = os.path.join(build, 'tests', 'process', 'storm')
    if not os.access(path, os.X_OK):
        tap.bail_out(f'{path} is not built: make -C {build} tests/process/storm')
    return path


STORM = find_helper()


@tap.beside
class Storms(Case):
    """Each test is a storm, in a network of its own: where its effect does not decide, there may be several."""

    def setUp(self):
        super().setUp()
        raise_descriptor_limit(self, 8 * NODES)

    def assert_many(self, count, many):
        """It was a storm. How much one is depends on the machine: in `make check` it only must have been something."""
        self.assertGreater(count, many if FULL else 20)

    # --- the weather

    def blow(self, daemon, kind, places, rate=0, seconds=STORM_SECONDS, uid=0, nice=NICE):
        """Starts a storm, or the look-ups."""
        words = [STORM, kind, daemon.port, places, rate, seconds, NODES, uid, nice]
        return self.kept(Process(words))

    def outcome(self, storm):
        """What became of its connections."""
        self.assertEqual(storm.wait(60), 0, storm.err.text())
        return {name: int(value) for name, value in re.findall(r'(\w+)=(\d+)', storm.out.text())}

    def watch(self, daemon, process):
        """Waits for its end, and gives the most memory and the most descriptors that the daemon had meanwhile."""
        memory, descriptors = 0, 0
        while not process.ends_within(0.1):
            daemon.drain()
            memory = max(memory, memory_of(daemon.pid))
            # The number of its descriptors, from Linux 6.2 on; 0 before.
            descriptors = max(descriptors, os.stat(f'/proc/{daemon.pid}/fd').st_size)
        return memory, descriptors

    def lookups(self, daemon, seconds):
        """500 a second, whatever happens."""
        return self.blow(daemon, 'lookup', LOOKUPS, LOOKUPS, seconds, nice=VERY_IMPORTANT)

    def p99(self, lookups, seconds):
        """All of them must have found their node."""
        found = self.outcome(lookups)
        self.assertEqual((found['bad'], found['errors']), (0, 0), f'look-ups that failed: {found}')
        self.assert_many(found['done'], 0.9 * LOOKUPS * seconds)
        return max(1, found['p99'])

    def calm(self, args=()):
        """A daemon with its nodes."""
        limit = descriptor_limit()
        daemon = self.start(*args, limits=((resource.RLIMIT_NOFILE, limit, limit),))
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, daemon.pid, VERY_IMPORTANT)
        self.nodes = []
        for number in range(NODES):
            self.nodes.append(self.connect(daemon).send(alive2(f'node{number}', port=FIRST_PORT + number)))
        for number, node in enumerate(self.nodes):
            self.assertEqual(parse_alive2(node.recv(6)).result, 0, f'node{number}')
        return daemon

    def weather(self, name, *storms, uid=0, args=()):
        """Storms (of kind, places, rate) beside the look-ups; gives what became of the storms."""
        # What the machine does at that time is seen by a daemon that has no storm.
        twin = self.calm() if FULL else None
        for left in reversed(range(ATTEMPTS)):
            daemon = self.calm(args)
            ratio, outcomes = self.one_storm(name, daemon, twin, storms, uid)
            self.assert_nothing_lost(daemon)
            if ratio <= WORSE or not left:
                break
            daemon.signal(signal.SIGTERM)
            daemon.wait()
        if FULL:
            self.assertLessEqual(ratio, WORSE, 'the 99th percentile of look-ups in storm, of that in calm')
        return outcomes

    def one_storm(self, name, daemon, twin, storms, uid):
        """Look-ups in calm, and in storm; gives how much worse they were then."""
        before = self.p99(self.lookups(daemon, CALM_SECONDS), CALM_SECONDS)
        memory, lines, begun = memory_of(daemon.pid), self.lines_of(daemon), time.monotonic()
        processes = [self.blow(daemon, *storm, uid=uid) for storm in storms]
        beside = self.lookups(twin, STORM_SECONDS) if twin else None
        lookups = self.lookups(daemon, STORM_SECONDS)
        most, descriptors = self.watch(daemon, lookups)
        during = self.p99(lookups, STORM_SECONDS)
        beside = self.p99(beside, STORM_SECONDS) if beside else before
        outcomes = [self.outcome(process) for process in processes]
        counts = '; '.join(f'{key} {sum(found[key] for found in outcomes)}' for key in COUNTS)
        ratio = during / before
        twins = f', {beside} µs beside it' if twin else ''
        tap.remark(f'{name}: look-ups p99 {during} µs in storm, {before} µs before{twins}, {ratio:.1f} times; '
                   f'{most - memory} KiB more memory; {descriptors} descriptors; storm: {counts}')
        self.assertLess(most - memory, GROWTH, 'KiB that it has grown by')
        self.assertLessEqual(self.lines_of(daemon) - lines, 10 * (time.monotonic() - begun + 1), 'lines')
        return ratio, outcomes

    def lines_of(self, daemon):
        daemon.drain()
        return daemon.err.data.count(b'\n')

    def assert_nothing_lost(self, daemon):
        """All nodes are still there, they alone, the daemon holds nothing else, and goes on as before."""
        noticed = [self.nodes.index(node) for node in readable(self.nodes, 0)]
        self.assertEqual(noticed, [], 'nodes that noticed something')
        wanted = sorted((b'node%d' % number, FIRST_PORT + number) for number in range(NODES))
        daemon.settle(lambda: len(daemon.names()) == NODES, 'as many nodes as before')
        self.assertEqual(sorted(daemon.names()), wanted)
        daemon.settle(lambda: sum(daemon.leaked().values()) == NODES, 'as many descriptors as before')
        self.register(daemon, 'afterwards').close()
        self.assertIsNone(daemon.lookup('nobody'))

    def need_users(self):
        if os.geteuid() != 0:
            self.skipTest('needs root, to be several users')

    # --- the storms

    @private_network
    def test_idle_connections_up_to_the_limit(self):
        """More than the machine lets the daemon have."""
        places = descriptor_limit() // 2 + RESERVE_DESCRIPTORS
        storm = 'idle', places, self.rate(places, 0.8)
        outcomes = self.weather('idle', storm, storm)
        self.assert_many(sum(found['opened'] for found in outcomes), descriptor_limit())

    @private_network
    def test_a_byte_a_second(self):
        (found,) = self.weather('dribble', ('dribble', 5000, self.rate(5000, 0.2)))
        self.assert_many(found['open'], 4999)
        self.assertEqual(found['ended'], 0, found)

    @private_network
    def test_names_that_nobody_reads(self):
        (found,) = self.weather('names', ('names', 2000, self.rate(2000, 0.2)))
        self.assert_many(found['opened'], 1999)

    @private_network
    def test_connect_and_reset(self):
        (found,) = self.weather('reset', ('reset', 64, 5000))
        self.assert_many(found['done'], 1000 * STORM_SECONDS)

    @private_network
    def test_garbage(self):
        """100,000 connections a minute."""
        (found,) = self.weather('garbage', ('garbage', 1000, 100000 // 60))
        self.assert_many(found['done'], 0.8 * 100000 / 60 * STORM_SECONDS)

    @private_network
    def test_a_user_who_fills_his_quota(self):
        """He has his half of all before the storm is over, and goes on."""
        self.need_users()
        rate = self.rate(descriptor_limit() // 2, 0.8)
        (found,) = self.weather('quota', ('quota', descriptor_limit() - RESERVE_DESCRIPTORS, rate), uid=EVIL)
        self.assert_many(found['registered'], 1000)
        self.assert_many(found['registered'] + found['refused'], 1.1 * descriptor_limit() / 2)
        self.assertLessEqual(found['registered'], descriptor_limit() // 2)
        self.assertEqual(found['bad'], 0, found)

    @private_network
    def test_kill_and_stop_of_others(self):
        self.need_users()
        (found,) = self.weather('ends', ('ends', 16, 2000), uid=EVIL, args=['-relaxed_command_check'])
        self.assertEqual(found['bad'], 0, found)
        self.assert_many(found['done'], 500 * STORM_SECONDS)

    @private_network
    def test_registrations_that_are_reset(self):
        """Before, during and after the reply: of names that are taken, and of free ones."""
        (found,) = self.weather('races', ('races', 64, 3000))
        self.assertEqual(found['bad'], 0, found)
        self.assert_many(found['done'], 1000 * STORM_SECONDS)

    def rate(self, count, part):
        """So many in that part of the storm."""
        return int(count / (part * STORM_SECONDS))


def descriptor_limit():
    """The descriptors that the daemon may have: as many as a storm of this length can take from it."""
    return min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


if __name__ == '__main__':
    sys.argv = [word for word in sys.argv if word != '--full']
    tap.BESIDE = 1 if FULL else 3
    if FULL:
        tap.TEST_LIMIT = 200
    tap.main()
