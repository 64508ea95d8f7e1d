#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random operations on the daemon, compared with a model of it; the model compared with the reference; and the proof that what
is wrong is found.

MODEL_SEED chooses the operations, MODEL_SECONDS how long the first test is (20).
"""

import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, 'process')]
import tap  # noqa: E402
from epmdtest import EPMD, TESTING_UPSTREAM, UPSTREAM  # noqa: E402
import campaign  # noqa: E402
from driver import Setting, run_steps  # noqa: E402
from generator import World  # noqa: E402
from model import LONGEST_EXTRA, Model, Released, Rules  # noqa: E402
from player import listen_on, private_network, server_side  # noqa: E402
from shrink import Shrinker, in_words, script  # noqa: E402

SEED = int(os.environ.get('MODEL_SEED') or random.SystemRandom().randrange(1 << 32))
SECONDS = float(os.environ.get('MODEL_SECONDS') or 20)
REFERENCE_SECONDS = 5
SHRINK_SECONDS = 40
# A wrong model must differ within so many sequences, and by no more than so many operations.
SEQUENCES = 40
FEW = 6
WORLD = World(private_network())


def has_diag():
    """Whether the kernel tells what the other side of a connection has read: the module may be missing."""
    with listen_on('127.0.0.1') as server, socket.create_connection(server.getsockname()) as client:
        try:
            return server_side((socket.AF_INET, client.getsockname(), client.getpeername())) is not None
        except OSError:
            return False


class Compared(unittest.TestCase):
    """No operations lead to anything that the model does not do."""

    def setUp(self):
        if not has_diag():
            self.skipTest('the kernel has no sock_diag for TCP')
        self.notes = []

    def diagnostics(self):
        return '\n'.join([f'MODEL_SEED={SEED}'] + self.notes)

    def compare(self, program, seconds, is_upstream):
        result = campaign.campaign(WORLD, program, SEED, seconds, is_upstream)
        if not result.found:
            print(f'# {result.sequences} sequences, {result.ops} operations', flush=True)
            return
        shrinker = Shrinker(result.setting, result.steps, Model, SHRINK_SECONDS)
        if not shrinker.run():
            self.fail(f'sequence {result.number} differs, but not every time: {result.found.what}')
        path = os.path.join(os.environ.get('TOP_BUILDDIR') or '.', f'model-{SEED}-{result.number}.py')
        with open(path, 'w', encoding='utf-8') as file:
            file.write(script(shrinker))
        self.notes += in_words(shrinker)
        self.fail(f'sequence {result.number} differs; this reproduces it: {path}')

    def compare_ours(self):
        if TESTING_UPSTREAM:
            self.skipTest('the program under test is the reference')
        self.compare(EPMD, SECONDS, False)

    def compare_reference(self):
        if UPSTREAM is None:
            self.skipTest("Erlang's own epmd is not installed here")
        self.compare(UPSTREAM, REFERENCE_SECONDS, True)


setattr(Compared, f'test_the_daemon_with_seed_{SEED}', Compared.compare_ours)
setattr(Compared, f'test_the_reference_with_seed_{SEED}', Compared.compare_reference)


@tap.beside
class Soak(unittest.TestCase):
    """A few seconds of what "make soak" does for longer."""

    def test_soak(self):
        if TESTING_UPSTREAM or not has_diag():
            self.skipTest('the program under test is the reference, or the kernel has no sock_diag for TCP')
        done = subprocess.run([os.path.join(os.path.dirname(os.path.abspath(__file__)), 'soak'), '--minutes=0.22', f'--program={EPMD}'], capture_output=True,
                              text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stdout[-2000:] + done.stderr[-2000:])
        self.assertIn('too few to say whether anything grows', done.stdout)
        self.assertRegex(done.stdout, '(?m)^1 restarts')
        self.assertIn('well: nothing', done.stdout)


# --- models that are wrong: to the driver they are as much as a daemon that is ---------------------------------------


class OldestFirst(Model):
    """NAMES in the wrong order."""

    def names(self):
        lines = [b'name %s at port %d\n' % (node.name, node.port) for node in self.nodes]
        return struct.pack('>I', self.port) + b''.join(lines)


class ForgetsReset(Model):
    """A node goes without its name being remembered."""

    def end(self, conn):
        before = self.released
        super().end(conn)
        self.released = before


class ReadsOn(Model):
    """A request is done in spite of the bytes that came with it."""

    def receive(self, conn, data, known=True):
        if conn in self.conns and not self.conns[conn].data and data[:3] == b'\0\1n':
            data = data[:3]
        super().receive(conn, data, known)


class LosesOne(Model):
    """A restart loses the node that was registered last."""

    def restart(self):
        super().restart()
        if self.nodes:
            name, port, *_rest = self.nodes[-1]
            self.released += (Released(name, port, self.nodes[-1].serial),)
            self.nodes = self.nodes[:-1]


class AllowsOneMore(Model):
    """Extra of one byte too many is accepted."""

    def _may_register(self, node):
        return super()._may_register(node._replace(extra=node.extra[:LONGEST_EXTRA] + node.extra[LONGEST_EXTRA + 1:]))


class Left(unittest.TestCase):
    """Nothing is left behind by a sequence that could not begin."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = directory.name
        self.enterContext(mock.patch('tempfile.tempdir', self.path))

    def test_a_program_that_ends(self):
        difference, _sequence = run_steps(Setting('/bin/false', (), Rules(), '127.0.0.1'), [])
        self.assertEqual((difference.kind, os.listdir(self.path)), ('ended', []))

    def test_an_address_that_cannot_be_had(self):
        with self.assertRaises(OSError):
            run_steps(Setting(EPMD, (), Rules(), 'fe80::1'), [])
        self.assertEqual(os.listdir(self.path), [])


class Found(unittest.TestCase):
    """What is wrong is found, made small, and reproduced by a script of its own."""

    setUp = Compared.setUp
    diagnostics = Compared.diagnostics

    def check(self, model_of):
        if TESTING_UPSTREAM:
            self.skipTest('the program under test is the reference')
        shrinker = self.found_by(model_of)
        self.notes += in_words(shrinker)
        count = sum(len(step['ops']) + len(step.get('down', ())) + ('signal' in step) for step in shrinker.steps)
        self.assertLessEqual(count, FEW, f'operations that are left, after {shrinker.tries} tries')
        self.check_script(script(shrinker))

    def found_by(self, model_of):
        """What differs every time. Some things depend on what the daemon reads at once; and of some each try takes as long as
        one waits for what does not come, so that there is no time to make it small."""
        first, slow = 0, False
        while first < SEQUENCES:
            result = campaign.campaign(WORLD, EPMD, SEED, tap.TEST_LIMIT / 2, False, first, model_of, SEQUENCES - first)
            self.assertIsNotNone(result.found, f'nothing was found in {result.ops} operations')
            shrinker = Shrinker(result.setting, result.steps, model_of, SHRINK_SECONDS)
            if shrinker.run():
                if slow or not shrinker.is_late():
                    return shrinker
                slow = True
            first = result.number + 1
        self.fail('nothing was found that can be found again')

    def check_script(self, text):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'found.py')
            with open(path, 'w', encoding='utf-8') as file:
                file.write(text)
            done = subprocess.run([sys.executable, '-I', path], capture_output=True, text=True, check=False, timeout=60)
        self.notes += (done.stdout + done.stderr).splitlines()[-10:]
        self.assertEqual(done.returncode, 1, 'status of the script')
        self.assertIn('\nreproduced: ', done.stdout)

    def test_names_in_the_wrong_order(self):
        self.check(OldestFirst)

    def test_a_name_is_not_remembered(self):
        self.check(ForgetsReset)

    def test_bytes_behind_a_request(self):
        self.check(ReadsOn)

    def test_a_restart_that_loses_a_node(self):
        self.check(LosesOne)

    def test_a_limit_that_is_off_by_one(self):
        self.check(AllowsOneMore)


if __name__ == '__main__':
    tap.TEST_LIMIT = 60 + SECONDS + 2 * SHRINK_SECONDS
    tap.main()
