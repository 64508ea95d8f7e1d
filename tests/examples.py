# SPDX-License-Identifier: Apache-2.0
"""The examples of README and the pages: what is shown there as something to type, to write into a file, or to see.

Each of them is run by one test, word for word; RUNNERS says by which. A runner hands its functions to run(), which calls
each with the lines of its example, and fails if there is an example without a function or a function without an example.
tests/process/test_examples.py shows that every example has its runner.
"""

import collections
import os
import re

# source: README, or the name of a page; lines: as a person sees them.
Example = collections.namedtuple('Example', 'source lines')

PAGES = ('epmd-protocol.7', 'epmd.1', 'epmd.service.8', 'epmdctl.1')

# By whom: a file of tests/process, or a scenario of tests/system. An example is named by its first line.
PROCESS, MACHINE, SOURCES, CLUSTER = 'process/test_examples.py', 'examples', 'installation', 'cluster'
DEBIAN, DEBIAN_ERLANG = 'packages', 'packages-erlang'
RUNNERS = {
    'README': {
        './bootstrap run': SOURCES,
        './bootstrap deb': DEBIAN,
        'sudo apt install ./build/epmd_*.deb': DEBIAN_ERLANG,
        'sudo apt install ./build/epmd_*.deb ./build/epmd-units_*.deb': DEBIAN,
        './bootstrap': SOURCES,
        'autoreconf -fi && mkdir -p build && (cd build && ../configure) && make -C build': SOURCES,
        'erl -sname a': SOURCES,
        'EPMD_ALLOW=private,203.0.113.0/24': SOURCES,
        'sudo systemctl restart epmd': SOURCES,
        'betty$ erl -sname a -setcookie secret': CLUSTER,
        'sudo make -C build install && sudo systemctl daemon-reload': SOURCES,
        'sudo systemctl disable --now epmd.socket epmd.service': SOURCES,
        'make -C build check': SOURCES,
        'build/epmd -port 4370 -d -d -d': SOURCES,
    },
    'epmd.1': {
        '$ epmd -names': MACHINE,
        '$ epmd --port=4370 --address=127.0.0.1 --daemon': MACHINE,
        '$ systemd-socket-activate -l 4370 epmd -systemd': MACHINE,
        '$ epmd -d -d -port 4370': MACHINE,
        'if epmd -started; then echo "epmd is running"; fi': MACHINE,
    },
    'epmd.service.8': {
        '# systemctl enable --now epmd.socket': MACHINE,
        "# systemctl stop epmd.socket 'epmd@*.socket' epmd.service": MACHINE,
        '# systemctl reload epmd.service': MACHINE,
        '# systemctl edit epmd.socket': MACHINE,
        '[Socket] ListenStream= ListenStream=127.0.0.1:4369': MACHINE,
        '[Socket] ListenStream= ListenStream=4370': MACHINE,
        '# systemctl restart epmd.socket': MACHINE,
        '# systemctl enable --now epmd@192.0.2.7.socket': MACHINE,
        '# systemctl enable --now \\': MACHINE,
        '# systemctl edit epmd.service': MACHINE,
        '[Service] ExecStart= ExecStart=@bindir@/epmd -systemd --idle-timeout=0': MACHINE,
        '$ systemd-analyze security epmd.service': MACHINE,
        "# echo 'EPMD_ALLOW=private,203.0.113.0/24' >>@environmentfile@": MACHINE,
        '[Socket] IPAddressDeny=any IPAddressAllow=localhost': MACHINE,
        "$ varlinkctl call /run/org.erlang.epmd org.erlang.epmd.List '{}'": MACHINE,
        '$ journalctl -u epmd': MACHINE,
        "$ systemctl list-sockets 'epmd*'": MACHINE,
        '$ journalctl -f -u epmd': MACHINE,
        '$ journalctl -o json --output-fields=MESSAGE,EPMD_PORT EPMD_NODE=rabbit': MACHINE,
        '[Unit] Wants=epmd.socket After=epmd.socket': MACHINE,
    },
    'epmdctl.1': {
        '$ epmdctl': PROCESS,
        '$ epmdctl check': PROCESS,
        '$ until epmdctl lookup rabbit >/dev/null; do sleep 1; done': PROCESS,
        '$ epmdctl register c1 4711 -- my-cnode --port 4711': PROCESS,
        "$ epmdctl --json | jq -r '.[] | select(.uid == 109) | .name'": PROCESS,
        '$ epmdctl stats --prometheus >epmd.prom.new': PROCESS,
    },
    'epmd-protocol.7': {
        'name rabbit at port 25672': PROCESS,
        'active name     <rabbit> at port 25672, fd = 9': PROCESS,
        '00 0e 78 87 07 4d 00 00 06 00 06 00 01 61 00 00': PROCESS,
        '76 00 01 02 03 04': PROCESS,
        '00 02 7a 61': PROCESS,
        "$ exec 3<>/dev/tcp/127.0.0.1/4369; printf '\\0\\1n' >&3; tail -c +5 <&3": PROCESS,
    },
}


# Whose lines are commands of their own, so that the runner must have each of them.
LINE_BY_LINE = [('README', 'make -C build check')]


def of_readme(text):
    """Blocks that are indented by four blanks, behind an empty line."""
    return [re.sub('^    ', '', block, flags=re.M).split('\n')
            for block in re.findall(r'(?<=\n\n)((?:    \S.*\n)+)', text)]


def of_page(text):
    """What is displayed literally, as it is shown."""
    displays = re.findall(r'^\.Bd -literal.*\n((?:.*\n)*?)\.Ed$', text, flags=re.M)
    displays += re.findall(r'^\.D[l1] (.*\n)', text, flags=re.M)
    return [display.replace('\\e', '\\').split('\n') for display in displays]


def file_of_page(top, page):
    """In the sources; a page that names what configure chooses is made from a file.in."""
    path = os.path.join(top, 'man', page)
    return path + '.in' if os.path.exists(path + '.in') else path


def command_of(line):
    """A line without what explains it."""
    return re.sub(r' {2,}# .*', '', line)


def name_of(lines):
    """The first line, or for a drop-in, whose first lines say little, the first three."""
    return ' '.join(command_of(line) for line in (lines[:3] if lines[0].startswith('[') else lines[:1]))


def all_examples(top):
    """Every example of a tree of the sources."""
    with open(os.path.join(top, 'README'), encoding='utf-8') as file:
        found = [Example('README', lines[:-1]) for lines in of_readme(file.read())]
    for page in PAGES:
        with open(file_of_page(top, page), encoding='utf-8') as file:
            found += [Example(page, lines[:-1]) for lines in of_page(file.read())]
    return found


def problems(examples, runners=RUNNERS):
    """What is wrong with the table, one line each."""
    found = collections.Counter((example.source, name_of(example.lines)) for example in examples)
    wanted = {(source, name) for source, names in runners.items() for name in names}
    yield from (f'{source}: nothing runs the example "{name}"' for source, name in sorted(set(found) - wanted))
    yield from (f'{source} does not have the example "{name}"' for source, name in sorted(wanted - set(found)))
    yield from (f'{source} has the example "{name}" twice' for (source, name), n in found.items() if n > 1)


def run(top, runner, functions, chosen=()):
    """Runs the examples of a runner in their order. functions: by source and name; chosen: pairs of what is in the
    sources, and what configure has put there. How many they were."""
    mine = [example for example in all_examples(top)
            if RUNNERS.get(example.source, {}).get(name_of(example.lines)) == runner]
    names = {(example.source, name_of(example.lines)) for example in mine}
    given = {(source, name) for source, by_name in functions.items() for name in by_name}
    if names != given:
        raise AssertionError(f'{runner} has no function for {sorted(names - given)}, no example for {sorted(given - names)}')
    for example in mine:
        lines = '\n'.join(example.lines)
        for name, value in chosen:
            lines = lines.replace(name, value)
        functions[example.source][name_of(example.lines)](lines.split('\n'))
    return len(mine)
