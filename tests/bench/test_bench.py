#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the benchmark concludes, and that its tools do what they say; no time is of interest here."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, '..', 'process')]
import report  # noqa: E402
import servers  # noqa: E402
import tap  # noqa: E402


def results(lookup=1.0, activation=True):
    """Such as a run has: one row measured, one left out with a reason, the others not measured."""
    found = report.Results()
    found.ratio('lookup', 'found, 1 nodes', [lookup * 40, lookup * 42, lookup * 90], [40, 42, 90])
    found.ratio('lookup', 'missing, 1 nodes', [30, 30, 30], [40, 40, 40])
    found.count('held', 'RLIMIT_NOFILE 1024', 960, 960)
    found.seconds('leave', '19000 nodes', [0.4, 0.5, 0.6])
    for name in ('floor', 'ours', 'upstream'):
        for size in (1, 1000):
            found.curve('found', size, name, [30, 31, 33])
    found.info_text('something', '1 µs')
    if not activation:
        found.skip('activation', 'needs root')
    return found


class Report(unittest.TestCase):
    def publish(self, found):
        """What is printed, the JSON, the names of the files, and the exit status."""
        with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile('w+') as printed:
            stdout, sys.stdout = sys.stdout, printed
            try:
                status = report.publish(found, out)
            finally:
                sys.stdout = stdout
            printed.seek(0)
            with open(f'{out}/bench.json', encoding='utf-8') as file:
                return printed.read(), json.load(file), sorted(os.listdir(out)), status

    def test_all_reached(self):
        text, found, _files, status = self.publish(results())
        self.assertEqual(status, 0)
        self.assertNotIn('SHORT', text)
        rows = {row['row']: row for row in found['rows']}
        self.assertEqual([rows[name]['verdict'] for name in ('lookup', 'held', 'leave')], ['OK'] * 3)
        self.assertEqual(len(rows['lookup']['cases']), 2)

    def test_short(self):
        text, found, _files, status = self.publish(results(lookup=1.11))
        self.assertEqual(status, 1)
        self.assertRegex(text, r'CPU per look-up +at most 1\.10 of the floor +.* = 1\.110 +SHORT')
        self.assertEqual([row['verdict'] for row in found['rows'] if row['row'] == 'lookup'], ['SHORT'])

    def test_at_the_goal(self):
        self.assertEqual(self.publish(results(lookup=1.10))[3], 0)

    def test_not_measured_is_not_reached(self):
        text, found, _files, status = self.publish(results(activation=False))
        self.assertEqual(status, 0)
        self.assertRegex(text, r'cold activation .*needs root +NOT MEASURED')
        self.assertEqual({row['row'] for row in found['rows'] if row['verdict'] == 'NOT MEASURED'},
                         set(report.ROWS) - {'lookup', 'held', 'leave'})

    def test_picture(self):
        if not shutil.which('gnuplot'):
            self.skipTest('gnuplot is not here (Debian: gnuplot-nox)')
        _text, _found, files, _status = self.publish(results())
        self.assertEqual(files, ['bench.json', 'bench.txt', 'lookup.png', 'lookup.svg'])


class Tools(unittest.TestCase):
    def setUp(self):
        servers.prepare()
        self.addCleanup(servers.clean_up)

    def test_floor(self):
        for kind, reply, stay in (('found', 34, False), ('names', 5000, False), ('register', 6, True)):
            times = servers.run_load(kind, 20, 2, [(servers.Floor(reply, stay), 0, reply)])
            self.assertEqual(len(times), 1)
            self.assertGreater(times[0], 0)

    def test_wrong_reply(self):
        with self.assertRaisesRegex(servers.Shortage, 'a reply of 33 bytes, expected 34'):
            servers.run_load('found', 5, 1, [(servers.Floor(33), 0, 34)])

    def test_daemon(self):
        server = servers.Ours()
        held = servers.Nodes(server, 0, 50)
        self.assertEqual(server.nodes, 50)
        for kind, reply in (('found', 34), ('missing', 2), ('names', server.names_bytes())):
            self.assertGreater(servers.run_load(kind, 20, 4, [(server, 50, reply)])[0], 0)
        (median, late), = servers.latency(128, 64, [(server, 50, 34)])
        self.assertGreater(median, 0)
        self.assertGreaterEqual(late, median)
        self.assertGreater(held.leave(), 0)
        self.assertEqual(server.names_bytes(), 4)

    def test_store(self):
        server = servers.Stored()
        # A thread of its own takes what is stored.
        deadline = time.monotonic() + servers.DEADLINE
        while not server.keeps() and time.monotonic() < deadline:
            time.sleep(0.001)
        self.assertTrue(server.keeps())
        self.assertEqual(servers.Nodes(server, 0, 10).count, 10)


if __name__ == '__main__':
    tap.main()
