# SPDX-License-Identifier: Apache-2.0
"""From steps that fail to a few that fail, and from those to a script that needs nothing else."""

import os
import pprint
import struct
import time

import player
from model import Peer, Registered
from driver import run_steps

TRIES_AT_FIRST = 3
LINE = 160  # characters of what is shown of anything
LESS_PATIENCE = 1.0  # what does not come is tried many times


def without_extra(packet):
    """A registration that says no more than it must; other packets are left as they are."""
    at = 13 + int.from_bytes(packet[11:13], 'big')
    if packet[2:3] != b'x' or len(packet) <= at:
        return packet
    return struct.pack('>H', at) + packet[2:at] + b'\0\0'


class Shrinker:
    """Looks for fewer and simpler steps that fail, for so long."""

    def __init__(self, setting, steps, model_of, seconds):
        self.setting, self.steps, self.model_of = setting, steps, model_of
        self.deadline = time.monotonic() + seconds
        self.found = None  # the Difference and the Sequence of the steps of now
        self.tries = 0

    def run(self):
        """The smallest that was found, or False: it does not fail every time."""
        if not any(self._fails(self.setting, self.steps) for _ in range(TRIES_AT_FIRST)):
            return False
        self.steps = self.steps[:self.found[1].number + 1]
        self._fails(self.setting._replace(patience=LESS_PATIENCE), self.steps)
        while self._smaller() or self._simpler():
            pass
        return True

    def is_late(self):
        """Whether its time was up before it was done."""
        return time.monotonic() >= self.deadline

    def _fails(self, setting, steps):
        if self.is_late():
            return False
        self.tries += 1
        try:
            difference, sequence = run_steps(setting, steps, self.model_of)
        except (OSError, OverflowError):
            # Simpler, and not possible: an address on which nobody listens.
            return False
        # Not something else that went wrong meanwhile.
        if not difference or (self.found and self.found[0].kind != difference.kind):
            return False
        self.setting, self.steps, self.found = setting, steps, (difference, sequence)
        return True

    def _smaller(self):
        """Fewer steps, then fewer ops in them: without a half, without a quarter, and so on."""
        return self._without(len(self.steps), self._cut_steps) | self._without(
            sum(len(step[part]) for step in self.steps for part in ('ops', 'down') if part in step), self._cut_ops)

    def _without(self, count, cut):
        """Delta debugging: cut(a, b) gives the steps without the items from a to b."""
        changed, size = False, max(1, count // 2)
        while size:
            at = 0
            while at < count and time.monotonic() < self.deadline:
                if self._fails(self.setting, cut(at, at + size)):
                    changed, count = True, max(0, count - size)
                else:
                    at += size
            size //= 2
        return changed

    def _cut_steps(self, a, b):
        return self.steps[:a] + self.steps[b:]

    def _cut_ops(self, a, b):
        found, number = [], 0
        for step in self.steps:
            step = dict(step)
            for part in 'ops', 'down':
                if part in step:
                    kept = [op for at, op in enumerate(step[part], number) if not a <= at < b]
                    number += len(step[part])
                    step[part] = kept
            found.append(step)
        return found

    def _simpler(self):
        """Plainer settings and ops, one after the other."""
        changed = False
        rules = self.setting.rules
        for plain in ({'listen': '127.0.0.1'}, {'args': ('-idle-timeout', '0'), 'rules': type(rules)(own_user=rules.own_user)}):
            setting = self.setting._replace(**plain)
            # Another program has other options.
            if setting != self.setting and rules.survives:
                changed |= self._fails(setting, self.steps)
        changed |= self._merged()
        for at, step in enumerate(self.steps):
            for part in 'ops', 'down':
                for number in range(len(step.get(part, ()))):
                    changed |= self._simpler_op(at, part, number)
        return changed

    def _merged(self):
        """A request that comes in several ops comes in one."""
        changed = False
        for conn in sorted({op[1] for step in self.steps for op in step['ops'] if op[0] == 'send'}):
            sends = [op for step in self.steps for op in step['ops'] if op[0] == 'send' and op[1] == conn]
            if len(sends) > 1:
                whole = ('send', conn, sends[0][2], (b''.join(b''.join(op[3]) for op in sends),), sends[-1][4])
                steps = [dict(step, ops=[whole if op is sends[-1] else op for op in step['ops'] if op not in sends[:-1]])
                         for step in self.steps]
                changed |= self._fails(self.setting, steps)
        return changed

    def _simpler_op(self, at, part, number):
        op = self.steps[at][part][number]
        if op[0] != 'send':
            return False
        _kind, conn, peer, pieces, then = op
        home = Peer('127.0.0.1', '127.0.0.1', os.geteuid())
        for other in (('send', conn, peer, (without_extra(b''.join(pieces)),), then),
                      ('send', conn, home, (b''.join(pieces),), 'stay'), ('send', conn, home, pieces, then),
                      ('send', conn, peer, (b''.join(pieces),), then)):
            if other != self.steps[at][part][number]:
                steps = [dict(step) for step in self.steps]
                steps[at][part] = steps[at][part][:number] + [other] + steps[at][part][number + 1:]
                if self._fails(self.setting, steps):
                    return True
        return False


SCRIPT_END = r'''

# --- what was found ----------------------------------------------------------------------------------------------------

import sys  # noqa: E402

# {what}
KIND = {kind!r}
PROGRAM = sys.argv[1] if len(sys.argv) > 1 else os.environ.get('EPMD', {program!r})
ARGS = {args!r}
LISTEN = {listen!r}
REFUSED_ENDS = {refused_ends!r}
STEPS = \
{steps}
# All that would be right after the last step: reply and whether the connection has ended, by connection.
WANTED = \
{wanted}


def masked(seen, port):
    """What is not the same each time is left out: creations, descriptors, the port of the daemon."""
    reply = re.sub(rb'fd = \d+', b'fd = *', seen.reply)
    if reply[:2] in (b'\x76\0', b'\x79\0'):
        reply = b'registered'
    if reply.startswith(struct.pack('>I', port)):
        reply = b'PORT' + reply[4:]
    return reply, seen.end != 'open'


def play(player):
    """All steps; gives whether the last one goes wrong."""
    replies = []
    for step in STEPS:
        seen = player.play(step)
        for op in step['ops'] + step.get('down', []):
            print(op)
        if 'signal' in step:
            print(f"signal {{step['signal']}}, and the next process")
        for conn, found in seen.items():
            print(f'    {{conn}}: {{found}}')
            replies += [found.reply] if found and found.reply[:2] in (b'\x76\0', b'\x79\0') else []
    if KIND == 'answers':
        found = {{conn: masked(one, player.port) for conn, one in seen.items() if one}}
        return found not in WANTED
    if KIND == 'noticed':
        return bool(player.noticed(list(player.links)))
    if KIND == 'creation':
        return int.from_bytes(replies[-1][2:], 'big') < 4 or replies[-1] in replies[:-1]
    print({what!r})
    return KIND == 'descriptors'


def main():
    private_network()
    player = Player(PROGRAM, ARGS, LISTEN, REFUSED_ENDS)
    try:
        player.start()
        wrong = play(player)
    except Ended as error:
        print(error)
        wrong = True
    finally:
        player.close()
    print('reproduced:' if wrong else 'not reproduced:', {what!r})
    return 1 if wrong else 0


sys.exit(main())
'''


def script(shrinker):
    """A script that shows what the shrinker has found; its status is 1 as long as it is there."""
    difference, sequence = shrinker.found
    setting = shrinker.setting
    with open(player.__file__, encoding='utf-8') as file:
        text = '#!/usr/bin/python3\n' + file.read()
    pack = struct.pack('>I', sequence.player.port)

    def masked(outcome):
        if isinstance(outcome.reply, Registered):
            return b'registered', outcome.ended
        reply = outcome.reply
        return b'PORT' + reply[4:] if reply.startswith(pack) else reply, outcome.ended

    steps = [{key: [tuple_of(op) for op in value] if key in ('ops', 'down') else value for key, value in step.items()}
             for step in sequence.played]
    return text + SCRIPT_END.format(
        what=difference.what.replace('\n', ' '), kind=difference.kind, program=setting.program, args=list(setting.args),
        listen=setting.listen, refused_ends=setting.rules.refused_ends, steps=pprint.pformat(steps, width=116),
        wanted=pprint.pformat([{conn: masked(outcome) for conn, outcome in one} for one in difference.wanted], width=116))


def tuple_of(op):
    """Without the names of the model."""
    return tuple(tuple(item) if isinstance(item, tuple) else item for item in op)


def in_words(shrinker):
    """What was found, short."""
    difference, _sequence = shrinker.found
    lines = [difference.what[:LINE], f'epmd {" ".join(shrinker.setting.args)}, on {shrinker.setting.listen}']
    for step in shrinker.steps:
        lines += [f'    {op}'[:LINE] for op in step['ops']]
        if 'signal' in step:
            lines += [f'    signal {step["signal"]}'] + [f'    while it is away: {op}'[:LINE] for op in step['down']]
    lines += [f'right would be {dict(one)}'[:LINE] for one in difference.wanted[:4]]
    return lines + ['its log:'] + [f'    {line}'[:LINE] for line in difference.log[-6:]]
