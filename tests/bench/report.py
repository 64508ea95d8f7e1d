# SPDX-License-Identifier: Apache-2.0
"""What the benchmark has found, as a table, as JSON and as a picture."""

import json
import os
import platform
import shutil
import statistics
import subprocess

# row: what is done, the goal in words, the goal
ROWS = {
    'lookup': ('CPU per look-up', 'at most 1.10 of the floor', 1.10),
    'names': ('CPU per NAMES', 'at most 1.5 of the floor', 1.5),
    'register': ('CPU per register-and-close', 'at most 1.25 of the floor', 1.25),
    'register, store': ('the same with the store', 'at most 1.6 of the floor', 1.6),
    'leave': ('all nodes leaving at once', 'under 1 s', 1.0),
    'latency': ('latency of 64 clients', "at most upstream's with 1 node", 1.0),
    'memory empty': ('memory, empty', "at most upstream's", 1.0),
    'memory per node': ('memory per node', 'at most 512 bytes', 512),
    'activation': ('cold activation', "at most 1.25 of stock's", 1.25),
    'held': ('nodes held', 'RLIMIT_NOFILE less 64', 1.0),
}

PICTURE = '''set title "Processor time of the server for one look-up"
set xlabel "registered nodes"
set ylabel "microseconds"
set logscale xy
set key left top
set grid
plot {plots}
'''


class Results:
    """The rows of the table, what is only for information, and the curves of the picture."""

    def __init__(self):
        self.cases = {row: [] for row in ROWS}
        self.skipped = {}
        self.infos = []
        self.notes = []
        self.curves = {}

    def add(self, row, case, value, text, spread=''):
        self.cases[row].append({'case': case, 'value': value, 'measured': text, 'spread': spread,
                                'ok': value < ROWS[row][2] if row == 'leave' else value <= ROWS[row][2]})

    def ratio(self, row, case, ours, base):
        """The median of the ratios, round by round: what disturbs the machine disturbs neighbours alike."""
        ratios = [x / y for x, y in zip(ours, base)]
        middle = statistics.median(ratios)
        self.add(row, case, middle, f'{statistics.median(ours):.2f} / {statistics.median(base):.2f} = {middle:.3f}',
                 f'{min(ratios):.2f} to {max(ratios):.2f}' if len(ratios) > 1 else '')

    def seconds(self, row, case, values):
        self.add(row, case, statistics.median(values), f'{statistics.median(values):.3f} s',
                 f'{min(values):.3f} to {max(values):.3f}')

    def bytes(self, row, case, value):
        self.add(row, case, value, f'{value:.0f} bytes')

    def kilobytes(self, row, ours, base):
        self.add(row, '', ours / base, f'{ours} / {base} KiB = {ours / base:.3f}')

    def count(self, row, case, got, want):
        # The goal is a number to reach, not to stay below.
        self.add(row, case, want / max(got, 1), f'{got} of {want}')

    def info(self, what, ours, base):
        ratios = [x / y for x, y in zip(ours, base)]
        self.info_text(what, f'{statistics.median(ours):.2f} / {statistics.median(base):.2f} µs = '
                             f'{statistics.median(ratios):.2f}')

    def info_text(self, what, text):
        self.infos.append({'what': what, 'measured': text})

    def note(self, text):
        self.notes.append(text)

    def skip(self, row, why):
        self.skipped[row] = why

    def curve(self, kind, size, contender, values):
        self.curves.setdefault(f'{contender}, {kind}', {})[size] = {
            'median': statistics.median(values), 'min': min(values), 'max': max(values)}

    def verdict(self, row):
        """OK, SHORT, or that it was not measured, which is neither."""
        if not self.cases[row]:
            return 'NOT MEASURED'
        return 'OK' if all(case['ok'] for case in self.cases[row]) else 'SHORT'


def table(results):
    """The table as text: a line for each row of the goals, with its worst case, and one for each case below it."""
    lines = [f'{"work":<28}{"to reach":<32}{"measured, the worst":<36}verdict']
    for row, (what, goal, _) in ROWS.items():
        cases = results.cases[row]
        if not cases:
            lines.append(f'{what:<28}{goal:<32}{results.skipped.get(row, ""):<36}NOT MEASURED')
            continue
        worst = max(cases, key=lambda case: case['value'])
        lines.append(f'{what:<28}{goal:<32}{worst["measured"]:<36}{results.verdict(row)}')
        for case in cases:
            spread = f'  ({case["spread"]})' if case['spread'] else ''
            lines.append(f'    {case["case"]:<32}{case["measured"]:<30}{spread}')
    lines += ['', 'For information:'] + [f'    {info["what"]:<68}{info["measured"]}' for info in results.infos]
    return '\n'.join(lines + [f'Note: {note}' for note in results.notes]) + '\n'


def as_json(results):
    """The same for programs."""
    rows = [{'row': row, 'what': what, 'goal': goal, 'verdict': results.verdict(row), 'cases': results.cases[row],
             'skipped': results.skipped.get(row)} for row, (what, goal, _) in ROWS.items()]
    return json.dumps({'kernel': platform.release(), 'processors': os.cpu_count(), 'rows': rows,
                       'information': results.infos, 'notes': results.notes, 'lookup_microseconds': results.curves},
                      indent=2) + '\n'


def draw(results, out):
    """The picture of the look-ups; tells whether there is one."""
    if not shutil.which('gnuplot'):
        return False
    data, plots = [], []
    for name in ('floor, found', 'ours, found', 'ours, missing', 'upstream, found'):
        points = results.curves.get(name)
        if points:
            plots.append(f'"-" using 1:2:3:4 with yerrorlines title "{name}"')
            data += [f'{size} {y["median"]} {y["min"]} {y["max"]}' for size, y in sorted(points.items())] + ['e']
    for terminal, name in (('svg size 800,500', 'lookup.svg'), ('png size 800,500', 'lookup.png')):
        script = (f'set terminal {terminal}\nset output "{out}/{name}"\n' + PICTURE.format(plots=', '.join(plots)) +
                  '\n'.join(data) + '\n')
        subprocess.run(['gnuplot'], input=script, text=True, check=True)
    return True


def publish(results, out):
    """Prints the table and writes everything; gives the exit status."""
    text = table(results)
    print(text, end='')
    for name, content in (('bench.txt', text), ('bench.json', as_json(results))):
        with open(os.path.join(out, name), 'w', encoding='utf-8') as file:
            file.write(content)
    if not draw(results, out):
        print('No picture: gnuplot is not here (Debian: gnuplot-nox)')
    print(f'Results in {out}')
    return 1 if any(results.verdict(row) == 'SHORT' for row in ROWS) else 0
