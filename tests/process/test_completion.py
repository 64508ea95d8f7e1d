#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The completions of bash and zsh for both programs, with the nodes of a daemon that runs."""

import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
import tap  # noqa: E402
from epmdtest import Case, DEADLINE, EPMD, clean_env  # noqa: E402

TOP_SRCDIR = os.environ.get('TOP_SRCDIR') or os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
COMPLETION = os.path.join(os.path.abspath(TOP_SRCDIR), 'src', 'completion')
EPMDCTL = os.path.abspath(os.environ.get('EPMDCTL') or os.path.join(os.path.dirname(EPMD), 'epmdctl'))
ZSH_DRIVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'complete.zsh')

# As readline splits a line: an equals sign and an at sign are words of their own.
WORD = re.compile(r'[=@]+|[^\s=@]+')

BASH_DRIVER = '''
. "$1"
function=$2
shift 2
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$function" "$1"
printf '%s\\n' "${COMPREPLY[@]}"
'''


class CompletionCase(Case):
    """Completes lines whose last word is unfinished."""

    def setUp(self):
        super().setUp()
        # The functions call the programs by the names on the line.
        path = os.path.dirname(EPMD) + ':' + os.path.dirname(EPMDCTL) + ':' + os.environ.get('PATH', '/usr/bin:/bin')
        self.env = clean_env({'PATH': path, 'LC_ALL': 'C.UTF-8', 'TERM': 'xterm', 'HOME': self.directory,
                              'EPMD_VARLINK_SOCKET': os.path.join(self.directory, 'none')})

    def daemon(self):
        """A daemon with some nodes, one with a name that a shell must quote."""
        daemon = self.start_foreground()
        for name in ('rabbit', 'rab it', 'nød', 'x\u009bj'):
            self.register(daemon, name)
        return daemon.port

    def run_shell(self, *argv):
        done = subprocess.run(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=DEADLINE, check=False)
        self.assertEqual(done.stderr.decode(), '', ' '.join(argv))
        return sorted(set(done.stdout.decode().split('\n')) - {''})

    def assert_all_options(self, program, complete):
        """What is offered is exactly what --help has."""
        text = subprocess.run([program, '--help'], env=self.env, stdout=subprocess.PIPE, check=True).stdout.decode()
        wanted = set(re.findall(r'(?<![\w-])--?([a-z][a-z_-]*)', text))
        offered = {word.lstrip('-').rstrip('=') for word in complete}
        # epmd takes GNU's spelling as well, and each word with one dash or two.
        offered = {word if word in wanted else word.replace('-', '_') for word in offered}
        self.assertEqual(offered, wanted)


class Bash(CompletionCase):
    def complete(self, line):
        words = WORD.findall(line) + ([''] if line.endswith(' ') else [])
        program = words[0]
        return self.run_shell('bash', '-c', BASH_DRIVER, 'bash', os.path.join(COMPLETION, 'bash', program),
                              '_' + program, *words)

    def test_epmd_options(self):
        self.assert_all_options(EPMD, self.complete('epmd -') + self.complete('epmd --'))
        self.assertEqual(self.complete('epmd -st'), ['-started', '-stop'])
        self.assertEqual(self.complete('epmd --st'), ['--started', '--stop'])
        self.assertEqual(self.complete('epmd -allow '), ['any', 'local', 'private'])

    def test_epmd_stop(self):
        port = self.daemon()
        for line in (f'epmd -port {port} -stop r', f'epmd --port={port} --stop=r', f'epmd --port {port} --stop r'):
            self.assertEqual(self.complete(line), ['rab\\ it', 'rabbit'], line)
        self.assertEqual(self.complete(f'epmd -port {port} -stop n'), ['nød'])
        self.assertIn('rabbit', self.complete(f'epmd -port {port} --stop='))

    def test_epmd_stop_without_daemon(self):
        self.assertEqual(self.complete(f'epmd -port {self.reserve()} -stop r'), [])

    def test_epmdctl_words(self):
        self.assertEqual(self.complete('epmdctl '), ['check', 'help', 'list', 'lookup', 'register', 'stats'])
        self.assertEqual(self.complete('epmdctl --port=4370 l'), ['list', 'lookup'])
        self.assert_all_options(EPMDCTL, self.complete('epmdctl -'))
        self.assertEqual(self.complete('epmdctl register --type='), ['hidden', 'normal'])
        self.assertEqual(self.complete('epmdctl --type n'), ['normal'])

    def test_epmdctl_lookup(self):
        port = self.daemon()
        for line in (f'epmdctl --port={port} lookup r', f'epmdctl -p {port} lookup r',
                     f'epmdctl --port {port} lookup r'):
            self.assertEqual(self.complete(line), ['rab\\ it', 'rabbit'], line)
        # A name that is shown escaped would not be found.
        self.assertEqual(self.complete(f'epmdctl -p {port} lookup x'), [])

    def test_epmdctl_hosts(self):
        self.assertIn('localhost', self.complete('epmdctl lookup rabbit@loc'))
        self.assertIn('localhost', self.complete('epmdctl lookup rabbit@'))
        self.assertIn('localhost', self.complete('epmdctl check loc'))


class Zsh(CompletionCase):
    def setUp(self):
        if not shutil.which('zsh'):
            self.skipTest('no zsh here: apt-get install zsh')
        super().setUp()

    def complete(self, line):
        found = self.run_shell('zsh', '-f', ZSH_DRIVER, os.path.join(COMPLETION, 'zsh'), line)
        return sorted(match.removeprefix('match:') for match in found)

    def test_epmd_options(self):
        self.assert_all_options(EPMD, self.complete('epmd -') + self.complete('epmd --'))
        self.assertEqual(self.complete('epmd -st'), ['-started', '-stop'])
        self.assertEqual(self.complete('epmd -allow '), ['any', 'local', 'private'])

    def test_epmd_stop(self):
        port = self.daemon()
        for line in (f'epmd -port {port} -stop r', f'epmd --port={port} --stop=r'):
            self.assertEqual(self.complete(line), ['rab\\ it', 'rabbit'], line)

    def test_epmdctl_words(self):
        self.assertEqual(self.complete('epmdctl '), ['check', 'help', 'list', 'lookup', 'register', 'stats'])
        self.assert_all_options(EPMDCTL, self.complete('epmdctl -'))
        self.assertEqual(self.complete('epmdctl register --type='), ['hidden', 'normal'])

    def test_epmdctl_lookup(self):
        port = self.daemon()
        for line in (f'epmdctl --port={port} lookup r', f'epmdctl -p {port} lookup r'):
            self.assertEqual(self.complete(line), ['rab\\ it', 'rabbit'], line)
        self.assertEqual(self.complete(f'epmdctl -p {port} lookup x'), [])

    def test_epmdctl_hosts(self):
        self.assertIn('localhost', self.complete('epmdctl lookup rabbit@loc'))
        self.assertIn('localhost', self.complete('epmdctl check loc'))

    def test_epmdctl_register_command(self):
        self.assertIn('epmdctl', self.complete('epmdctl register a 1 -- epmdc'))


if __name__ == '__main__':
    tap.main()
