# SPDX-License-Identifier: Apache-2.0
"""Random settings and steps: what clients of an epmd do, what they must not do, and what happens to the epmd meanwhile."""

import contextlib
import os
import random
import signal
import socket
import struct

from driver import Setting
from model import LONGEST_REQUEST, RULES, UPSTREAM, Peer, Rules

OTHER_USERS = 61001, 61002
LOCAL = [('127.0.0.1', '127.0.0.1'), ('127.0.0.5', '127.0.0.1'), ('127.0.0.1', '127.8.8.8')]
HERE = ('192.0.2.1', '192.0.2.1')
REMOTE = [('192.0.2.2', '192.0.2.1'), ('198.51.100.3', '192.0.2.1')]
# Few, so that they meet.
COMMON = [b'a', b'b', b'c', b'rabbit', b'\xc3\xa9t\xc3\xa9', b'two words', b'vip', b'vips', b'svc', b'svc-1']
LONG = [b'x' * 254, b'x' * 255, '\U0001f600'.encode() * 255, '\u20ac'.encode() * 254]
ODD = [b'', b'\0', b'a\0', b'a\0b', b'a\nb', b'\x7f', b'\x01', b'\xff', b'a\xc3', b'\xed\xa0\x80', b'\xc0\xaf', b'x' * 256, b'x' * 1021,
       b'%s%n', b'a at port 1', b' ']
RESERVE = (('vip', OTHER_USERS[0]), ('svc*', OTHER_USERS[1]), ('svc-1', OTHER_USERS[0]), ('ra*', 0))
ALLOW = {'local': (), '192.0.2.0/24': ('192.0.2.0/24',), '192.0.2.2,198.51.100.0/24': ('192.0.2.2/32', '198.51.100.0/24'),
         'any': None}


def frame(body):
    return struct.pack('>H', len(body) & 0xffff) + body


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(('::1', 0))
        return True
    return False


class World:
    """What the machine lets a run have: its own network, several users."""

    def __init__(self, is_private):
        self.is_private = is_private
        self.users = [os.geteuid()]
        with contextlib.suppress(OSError):
            for user in OTHER_USERS:
                os.seteuid(user)
                os.seteuid(self.users[0])
                self.users.append(user)


class Generator:
    """All that one random number makes: a setting and steps."""

    def __init__(self, seed, world, program, is_upstream=False):
        self.random = random.Random(seed)
        self.world, self.program, self.is_upstream = world, program, is_upstream
        self.last = 0
        self.open = {}   # connections that may be there: what is still to be sent
        self.named = {}  # those that may be registered: the name
        self.setting = self._setting()
        self.peers = self._peers()

    # --- the setting

    def _setting(self):
        rules, args = dict(RULES, own_user=os.geteuid()), []
        if self.is_upstream:
            rules.update(UPSTREAM)
        if self.random.random() < 0.5:
            rules['relaxed'] = True
            args.append('-relaxed_command_check')
        listen = '0.0.0.0' if self.world.is_private else '127.0.0.1'
        if not self.is_upstream:
            listen = self._policy(rules, args, listen)
        return Setting(self.program, tuple(args), Rules(**rules), listen)

    def _policy(self, rules, args, listen):
        args += ['-idle-timeout', '0', '-d']
        if self.random.random() < 0.5:
            rules['reserve'] = RESERVE
            args += ['-reserve', ' '.join(f'{pattern}:{user}' for pattern, user in RESERVE)]
        if self.random.random() < 0.4:
            rules['quota'] = self.random.randrange(1, 5)
            args += ['-max-nodes-per-user', str(rules['quota'])]
        allow = self.random.choice(list(ALLOW))
        rules['allow'] = ALLOW[allow]
        args += ['-allow', allow]
        return '::' if self.world.is_private and has_ipv6() and self.random.random() < 0.3 else listen

    def _peers(self):
        """Addresses, the more likely ones oftener."""
        local = LOCAL * 3
        if self.setting.listen == '127.0.0.1':
            local = LOCAL[:2]
        elif self.setting.listen == '::':
            local = local + [('::1', '::1')] * 3
        return local + ([HERE] + REMOTE if self.world.is_private else [])

    # --- packets

    def _name(self):
        kind = self.random.random()
        if kind < 0.8:
            return self.random.choice(COMMON)
        return self.random.choice(LONG if kind < 0.88 else ODD)

    def _alive2(self, name=None):
        name, extra = name or self._name(), b''
        if self.random.random() < 0.2:
            extra = self.random.randbytes(self.random.choice((1, 3, 200, 1019, 1020, 1021)))
        high = self.random.choice((6, 6, 6, 5, 5, 0, 7, 65535))
        kind = self.random.choice((77, 77, 72, 104, 110, 0, 255))
        fields = self.random.choice((0, 1, 4711, 25672, 65535)), kind, self.random.choice((0, 0, 1, 255)), high, \
            self.random.choice((5, 6, 0, 65535))
        nlen, elen = len(name), len(extra)
        if self.random.random() < 0.05:
            nlen = self.random.choice((0, 1, nlen + 1, 1020, 1021, 0x7fff, 0xffff))
        if self.random.random() < 0.05:
            elen = self.random.choice((0, 1, elen + 1, 1020, 1021, 0x7fff, 0xffff))
        body = b'x' + struct.pack('>HBBHHH', *fields, nlen) + name + struct.pack('>H', elen) + extra
        if self.random.random() < 0.05:
            body = body[:self.random.randrange(1, len(body))]
        elif self.random.random() < 0.05:
            body += b'junk'
        return frame(body)

    def _bad(self):
        """What is no request."""
        return self.random.choice((
            b'\0\0', b'\0\0n', frame(b'n' * (LONGEST_REQUEST + 1)), b'\xff\xff' + b'x' * 60, b'GET / HTTP/1.0\r\n\r\n',
            frame(bytes([self.random.randrange(256)])), frame(self.random.randbytes(self.random.randrange(1, 60))),
            b'\0\1nn', b'\0\1n\0\1n', frame(b'x'), frame(b's'), frame(b'n' * LONGEST_REQUEST)))

    def packet(self):
        """A request, most of them good ones. KILL is not among them: see steps()."""
        kind = self.random.random()
        if kind < 0.4:
            packet = self._alive2()
        elif kind < 0.6:
            packet = frame(b'z' + self._name() + self.random.choice((b'', b'', b'', b'\0')))
        elif kind < 0.78:
            packet = frame(b'n' + self.random.choice((b'', b'', b'junk')))
        elif kind < 0.84:
            packet = frame(b'd')
        elif kind < 0.92:
            packet = frame(b's' + self._name())
        else:
            packet = self._bad()
        return frame(b'?') if packet[2:3] == b'k' else packet

    def split(self, packet):
        """The packet in pieces."""
        if len(packet) < 2 or self.random.random() < 0.6:
            return (packet,)
        count = min(self.random.choice((1, 1, 2, 3)), len(packet) - 1)
        cuts = sorted(self.random.choice((1, 2, 3, self.random.randrange(1, len(packet)), len(packet) - 1))
                      for _ in range(count))
        ends = sorted({cut for cut in cuts if 0 < cut < len(packet)} | {0, len(packet)})
        return tuple(packet[a:b] for a, b in zip(ends, ends[1:]))

    def peer(self):
        source, target = self.random.choice(self.peers)
        return Peer(source, target, self.random.choice(self.world.users))

    # --- ops

    def _new(self, packet, then='stay'):
        self.last += 1
        return ('send', self.last, self.peer(), self.split(packet), then)

    def _request(self):
        """A whole request on a connection of its own."""
        then = self.random.choice(('stay',) * 17 + ('half', 'close', 'reset'))
        op = self._new(self.packet(), then)
        if then in ('stay', 'half'):
            self.open[op[1]] = b''
            packet = b''.join(op[3])
            if packet[2:3] == b'x' and len(packet) > 15:
                self.named[op[1]] = packet[13:13 + int.from_bytes(packet[11:13], 'big')]
        return op

    def _begin(self):
        """The first bytes of a request."""
        packet = self.packet()
        cut = self.random.randrange(len(packet))
        op = self._new(packet[:cut])
        self.open[op[1]] = packet[cut:]
        return op

    def _go_on(self, conn):
        """More bytes on a connection: the rest of its request, some of it, or something else."""
        rest = self.open[conn] or self.random.choice((b'\0', b'\0\1n', b'xyz'))
        if self.random.random() < 0.3:
            cut = self.random.randrange(len(rest))
            self.open[conn] = rest[cut:]
            return ('send', conn, self.peer(), (rest[:cut],), 'stay')
        if self.random.random() < 0.1:
            rest += b'more'
        self.open[conn] = b''
        then = self.random.choice(('stay',) * 9 + ('half',))
        return ('send', conn, self.peer(), self.split(rest), then)

    def _end(self, conn):
        kind = self.random.choice(('close', 'close', 'reset', 'half'))
        if kind != 'half':
            self.open.pop(conn)
        return (kind, conn)

    def _op(self, taken):
        free = [conn for conn in self.open if conn not in taken]
        kind = self.random.random()
        if kind < 0.03:
            return ('pause', self.random.choice((0, 0.001, 0.01)))
        if kind < 0.6 or not free:
            return self._request()
        if kind < 0.7:
            return self._begin()
        conn = self.random.choice(free)
        waiting = [other for other in free if self.open[other]]
        if kind < 0.85:
            return self._go_on(self.random.choice(waiting or free))
        return self._end(conn)

    def ops(self, count):
        """So many at once, on different connections; at most one of them with several possible outcomes of its own."""
        found, taken = [], set()
        for _ in range(count):
            op = self._op(taken)
            if op[0] == 'send' and op[4] != 'stay' and any(other[0] == 'send' and other[4] != 'stay' for other in found):
                op = op[:4] + ('stay',)
            taken.add(op[1])
            found.append(op)
        return found

    def _return(self):
        """A name goes, and comes back at once."""
        conn = self.random.choice([conn for conn in self.named if conn in self.open])
        name = self.named.pop(conn)
        end = self._end(conn)
        op = self._new(self._alive2(name))
        self.open[op[1]], self.named[op[1]] = b'', name
        return [end, op]

    def _whole_ops(self, count):
        """The same while the process changes: no half requests, of which nobody knows which process has them."""
        found, taken = [], set()
        while len(found) < count:
            op = self._end(self.random.choice(list(self.open))) if self.open and self.random.random() < 0.4 \
                else self._new(self.packet())
            if op[1] in taken or op[0] == 'send' and not self._is_whole(b''.join(op[3])):
                continue
            taken.add(op[1])
            if op[0] == 'send':
                self.open[op[1]] = b''
            found.append(op)
        return found

    @staticmethod
    def _is_whole(packet):
        return len(packet) > 2 and len(packet) == 2 + struct.unpack('>H', packet[:2])[0]

    def steps(self, count):
        """A sequence."""
        found = []
        for _ in range(count):
            kind = self.random.random()
            if kind < 0.05 and not self.is_upstream:
                number = self.random.choice((signal.SIGKILL,) * 5 + (signal.SIGTERM, signal.SIGHUP))
                found.append({'ops': self._whole_ops(self.random.randrange(3)), 'signal': int(number),
                              'down': self._whole_ops(self.random.randrange(3))})
            elif kind < 0.054:
                self.last += 1
                kill = ('send', self.last, self.peer(), (frame(b'k'),), 'stay')
                found.append({'ops': [kill], 'signal': 0, 'down': []})
            elif kind < 0.1 and any(conn in self.open for conn in self.named):
                found.append({'ops': self._return()})
            else:
                found.append({'ops': self.ops(self.random.choice((1, 1, 1, 2, 2, 3)))})
        return found
