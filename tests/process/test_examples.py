#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The examples of epmdctl(1) and epmd-protocol(7), word for word, and the tables of bytes of the latter on what is really
sent. That every other example of README and the pages has a test that runs it is shown here, too."""

import ast
import contextlib
import os
import re
import shutil
import stat
import sys

sys.dont_write_bytecode = True
import tap  # noqa: E402
from epmdtest import EPMD, UPSTREAM, alive2, dump, names, port2, private_network, stop  # noqa: E402
from test_epmdctl import CtlCase, EPMDCTL, TOP_SRCDIR, node, statistics, take_name  # noqa: E402

sys.path.insert(1, os.path.join(os.path.abspath(TOP_SRCDIR), 'tests'))
import examples  # noqa: E402

CTL, PROTOCOL = 'epmdctl.1', 'epmd-protocol.7'


def strings_of(path):
    """Every string in a file of Python."""
    with open(path, encoding='utf-8') as file:
        return {item.value for item in ast.walk(ast.parse(file.read()))
                if isinstance(item, ast.Constant) and isinstance(item.value, str)}


class Table(CtlCase):
    def test_each_has_a_runner(self):
        found = examples.all_examples(TOP_SRCDIR)
        self.assertEqual(list(examples.problems(found)), [])
        for example in found:
            name = examples.name_of(example.lines)
            runner = examples.RUNNERS[example.source][name]
            folder = 'tests' if '/' in runner else 'tests/system/scenarios'
            strings = strings_of(os.path.join(TOP_SRCDIR, folder, runner))
            self.assertTrue(name in strings, f'{runner} does not run "{name}"')
            if (example.source, name) in examples.LINE_BY_LINE:
                for line in example.lines:
                    command = examples.command_of(line)
                    self.assertTrue(command in strings, f'{runner} does not run "{command}"')

    def test_what_is_wrong_is_noticed(self):
        found = examples.all_examples(TOP_SRCDIR)
        more = examples.Example('README', ['epmd -new'])
        self.assertEqual(len(list(examples.problems(found + [more]))), 1)
        self.assertEqual(len(list(examples.problems(found[1:]))), 1)
        self.assertEqual(len(list(examples.problems(found + found[:1]))), 1)
        with self.assertRaises(AssertionError):
            examples.run(TOP_SRCDIR, examples.PROCESS, {})

    def test_extraction(self):
        self.assertEqual(examples.of_readme('a\n\n    b   # c\n    d\n\n        e\nf\n    g\n\n    h\n'),
                         [['b   # c', 'd', ''], ['h', '']])
        self.assertEqual(examples.of_page('.Pp\n.Bd -literal -offset indent\n$ a \\e\n  b\n.Ed\n.Dl c d\ne\n'),
                         [['$ a \\', '  b', ''], ['c d', '']])


# --- epmdctl(1) and epmd-protocol(7) ---------------------------------------------------------------------------------

class Runner(CtlCase):
    """Runs each example with a function of its own; on the ports of the pages, which are free in a private network."""

    @private_network
    def test_examples(self):
        self.prepare()
        ran = examples.run(TOP_SRCDIR, examples.PROCESS, {
            CTL: {
                '$ epmdctl': self.show,
                '$ epmdctl check': lambda lines: self.assertIn('ok       node ', self.type(lines)),
                '$ until epmdctl lookup rabbit >/dev/null; do sleep 1; done':
                    lambda lines: self.assertEqual(self.type(lines), ''),
                '$ epmdctl register c1 4711 -- my-cnode --port 4711': self.hold,
                "$ epmdctl --json | jq -r '.[] | select(.uid == 109) | .name'": self.select,
                '$ epmdctl stats --prometheus >epmd.prom.new': self.collect,
            },
            PROTOCOL: {
                'name rabbit at port 25672': self.line_of_names,
                'active name     <rabbit> at port 25672, fd = 9': self.lines_of_dump,
                '00 0e 78 87 07 4d 00 00 06 00 06 00 01 61 00 00': self.register_bytes,
                '76 00 01 02 03 04': self.creation_bytes,
                '00 02 7a 61': self.look_up_bytes,
                "$ exec 3<>/dev/tcp/127.0.0.1/4369; printf '\\0\\1n' >&3; tail -c +5 <&3": self.by_shell,
            }})
        self.assertGreaterEqual(ran, 12)
        if self.missing:
            self.skipTest(self.missing)

    def prepare(self):
        """A daemon with a node, what it would tell over Varlink, and the programs by their names."""
        self.daemon = self.start_foreground(port=4369)
        listening = self.listener('0.0.0.0', 25672)
        self.missing = None
        self.register(self.daemon, 'rabbit', port=25672)
        self.fake_varlink([node('rabbit', listening.getsockname()[1], uid=109)], statistics(port=4369))
        self.bin = os.path.join(self.directory, 'bin')
        os.mkdir(self.bin)
        os.symlink(EPMDCTL, os.path.join(self.bin, 'epmdctl'))

    def program(self, name, script):
        path = os.path.join(self.bin, name)
        with open(path, 'w', encoding='ascii') as file:
            file.write(script)
        os.chmod(path, stat.S_IRWXU)

    def type(self, lines):
        """Types the lines that have a prompt; what is shown, and must be all that there is to be seen."""
        commands = '\n'.join(line.removeprefix('$ ') for line in lines if line.startswith('$ '))
        env = self.environment(PATH=self.bin + ':' + os.environ.get('PATH', '/bin'))
        process = self.command('-e', '-c', f'cd "$0"\n{commands}', self.directory, program='/bin/bash', env=env)
        process.wait()
        self.assertEqual((process.status, process.err.text()), (0, ''), commands)
        return process.out.text()

    # epmdctl

    def show(self, lines):
        shown = self.type(lines)
        self.assertRegex(shown, r'(?m)^rabbit +25672 +normal +5-6 +1234 +\S+ +rabbitmq-server\.service +Tue 2023-11-14')
        self.assertRegex(shown, r'(?m)^ +owner: ')
        self.assertRegex(shown, r'(?m)^ +unit: rabbitmq-server\.service$')

    def hold(self, lines):
        """The name is there while the program runs."""
        self.program('my-cnode', '#!/bin/sh\necho "$@"; epmdctl -q lookup c1@127.0.0.1\n')
        env = self.environment(PATH=self.bin + ':' + os.environ.get('PATH', '/bin'))
        process = self.command('-c', lines[0].removeprefix('$ '), program='/bin/bash', env=env)
        process.wait()
        self.assertEqual(process.status, 0, process.err.text())
        self.assertRegex(process.out.text(), r'\A--port 4711\n(?s:.*)\n +port: 4711\n')
        self.assertRegex(process.err.text(), r'\Aepmdctl: c1 is registered with .*, port 4711, creation \d+\n\Z')

    def select(self, lines):
        if not shutil.which('jq'):
            self.missing = 'no jq here: apt-get install jq'
            return
        self.assertEqual(self.type(lines), 'rabbit\n')

    def collect(self, lines):
        self.assertEqual(self.type(lines), '')
        with open(os.path.join(self.directory, 'epmd.prom'), encoding='ascii') as file:
            self.assertIn('\nepmd_nodes 2\n', file.read())

    # The protocol

    def line_of_names(self, lines):
        self.assertEqual(self.daemon.ask(names())[4:], (lines[0] + '\n').encode())

    def lines_of_dump(self, lines):
        """The numbers of descriptors are the daemon's own."""
        self.register(self.daemon, 'c1', port=4711).close()
        self.assert_registered(self.daemon, 'rabbit')
        active, old = re.sub(rb'fd = \d+', b'fd = N', self.daemon.ask(dump())[4:]).split(b'\0')[:2]
        wanted = [re.sub(r'fd = \d+', 'fd = N', line).encode() for line in lines]
        self.assertEqual([active, old], [wanted[0] + b'\n', wanted[1] + b' \n'])

    def register_bytes(self, lines):
        self.request = bytes.fromhex(lines[0])
        self.assertEqual(self.request, alive2('a', port=34567))

    def creation_bytes(self, lines):
        """The creation is only an example."""
        example = bytes.fromhex(lines[0])
        self.answered = []
        for program in filter(None, (EPMD, UPSTREAM)):
            daemon = self.start_foreground(program=program)
            conn = self.connect(daemon).send(self.request)
            received = conn.recv_once()
            self.assertEqual((received[:2], len(received)), (example[:2], len(example)))
            self.answered.append(daemon)

    def look_up_bytes(self, lines):
        question, found = (bytes.fromhex(line) for line in lines)
        for daemon in self.answered:
            self.assertEqual(daemon.ask(question), found)

    def by_shell(self, lines):
        self.assertEqual(self.type(lines), 'name rabbit at port 25672\n')


# --- the tables of epmd-protocol(7) ----------------------------------------------------------------------------------

def tables():
    """The tables of bytes in their order: rows of (bytes, value, meaning)."""
    with open(os.path.join(TOP_SRCDIR, 'man', PROTOCOL), encoding='utf-8') as file:
        found = re.findall(r'^\.Bl -column "Bytes".*\n((?:\.It .*\n)+)\.El', file.read(), flags=re.M)
    return [[[cell.strip() for cell in row.removeprefix('.It ').split('Ta')] for row in table.splitlines()[1:]]
            for table in found]


def fits(value, allowed):
    """Whether a number is among those of a table: one, several, from one to another, or any."""
    if not allowed:
        return True
    if match := re.fullmatch(r'(\d+) to (\d+)', allowed):
        return int(match[1]) <= value <= int(match[2])
    return value in [int(number) for number in allowed.split(',')]


def decode(table, data):
    """The fields of a packet, by the first word of what they mean; an error where the packet is not as in the table."""
    fields, at = {}, 0
    for size, allowed, meaning in table:
        name = re.match(r'\w+', meaning)[0]
        count = int(size) if size.isdigit() else int.from_bytes(fields[size], 'big') if size else len(data) - at
        fields[name], at = data[at:at + count], at + count
        if at > len(data):
            raise AssertionError(f'{data!r} ends within {meaning!r}')
        if allowed and not fits(int.from_bytes(fields[name], 'big'), allowed):
            raise AssertionError(f'{meaning!r} is {fields[name]!r}, the table allows {allowed}')
    if at != len(data):
        raise AssertionError(f'{data!r} has more than {table!r}')
    return fields


class Tables(CtlCase):
    def test_tables(self):
        """Each table, by what is sent to the daemon and what it replies."""
        frame, alive, alive_x, alive_old, port, missed, found, listed, stopped = tables()
        daemon = self.start_foreground('-relaxed_command_check')
        for name, fields in (('a', {}), ('nød', {'extra': b'xyz', 'low': 5, 'node_type': 72})):
            request = alive2(name, port=4711, **fields)
            decode(frame, request)
            sent = decode(alive, request)
            self.assertEqual((int.from_bytes(sent['length'], 'big'), sent['NodeName']), (len(request) - 2, name.encode()))
            got = decode(alive_x, self.connect(daemon).send(request).recv_once())
            self.assertGreater(int.from_bytes(got['Creation'], 'big'), 3)
            self.assertEqual(decode(port, port2(name))['NodeName'], name.encode())
            told = decode(found, daemon.ask(port2(name)))
            for field in ('PortNo', 'NodeType', 'Protocol', 'HighestVersion', 'LowestVersion', 'NodeName', 'Extra'):
                self.assertEqual(told[field], sent[field], field)
            refused = decode(alive_x, self.connect(daemon).send(request).read_all())
            self.assertEqual((refused['Result'], refused['Creation'][-1]), (b'\1', 99))
        decode(alive_old, self.connect(daemon).send(alive2('old', high=5, low=5)).recv_once())
        decode(missed, daemon.ask(port2('nobody')))
        self.assertEqual(int.from_bytes(decode(listed, daemon.ask(names()))['the'], 'big'), daemon.port)
        self.assertEqual(decode(stopped, stop('old'))['NodeName'], b'old')
        self.assertEqual(daemon.ask(stop('old')), b'STOPPED')

    def test_tags(self):
        """The table of requests has the tags that the tests send."""
        with open(os.path.join(TOP_SRCDIR, 'man', PROTOCOL), encoding='utf-8') as file:
            tags = dict(re.findall(r'^\.It (\w+)_REQ Ta (\d+) ', file.read(), flags=re.M))
        self.assertEqual(tags, {'ALIVE2': '120', 'PORT2': '122', 'NAMES': '110', 'DUMP': '100', 'KILL': '107',
                                'STOP': '115'})

    def test_what_is_wrong_is_noticed(self):
        alive = tables()[1]
        good = alive2('a', extra=b'x')
        decode(alive, good)
        for bad in (good[:-1], good + b'x', good[:2] + b'y' + good[3:]):
            with self.assertRaises(AssertionError):
                decode(alive, bad)


if __name__ == '__main__':
    take_name()
    tap.main()
