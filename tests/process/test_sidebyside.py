#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The same conversations with upstream's epmd and with this one: what comes back must be the same to the byte.

A conversation is a list of steps. Some steps note an outcome: the bytes that have come on a connection, and whether
the daemon has closed it. The outcomes of both daemons must agree, but for the deliberate differences: those are listed
beside the conversation, and then each daemon must do exactly what is listed for it, so that the list stays true.
"""

import collections
import re
import signal
import struct
import sys

sys.dont_write_bytecode = True
import tap
from epmdtest import (  # noqa: E402
    Case, DUMP, EPMD, KILL, MAX_BODY, NAMES, PORT2, STOP, TESTING_UPSTREAM, UPSTREAM, alive2, alive2_body, dump, frame,
    kill, names, need_ipv6, port2, readable, stop)

NO_UPSTREAM = "Erlang's own epmd is not installed here"
CLOSED, OPEN = 'closed', 'open'

# --- steps -----------------------------------------------------------------------------------------------------------


def send(conn, data):
    """Sends on the connection of that name, which is made when it is first used; waits until it has been read."""
    return 'send', conn, data


def look(conn):
    """Notes what has come on the connection."""
    return 'look', conn


def half_close(conn):
    return 'half_close', conn


def close(conn):
    return 'close', conn


def reset(conn):
    return 'reset', conn


def ask(packet):
    """A connection of its own for one request, noted."""
    return 'ask', packet


def node(conn, name, **fields):
    """Registers, and notes the reply."""
    return [send(conn, alive2(name, **fields)), look(conn)]


Talk = collections.namedtuple('Talk', 'steps relaxed differs')
TALKS = {}


def talk(title, *steps, relaxed=False, differs=None):
    """Adds a conversation. differs: for the number of an outcome, what upstream does and what we do."""
    flat = []
    for step in steps:
        flat += step if isinstance(step, list) else [step]
    assert title not in TALKS, title
    TALKS[title] = Talk(flat, relaxed, differs or {})


# --- outcomes as they are noted: a creation, the port of the daemon and descriptors are masked -----------------------

OK_6 = b'\x76\0<creation>'
REFUSED_6 = struct.pack('>BBI', 118, 1, 99)
REFUSED_5 = struct.pack('>BBH', 121, 1, 99)
UNKNOWN = b'\x77\x01'


def mask(data, port):
    if len(data) == 6 and data[:2] == b'\x76\0' and struct.unpack('>I', data[2:])[0] > 3:
        return OK_6
    if len(data) == 4 and data[:2] == b'\x79\0' and struct.unpack('>H', data[2:])[0] in (1, 2, 3):
        return b'\x79\0<creation>'
    if data[:4] == struct.pack('>I', port):
        data = b'<port>' + data[4:]
    return re.sub(rb'fd = -?\d+', b'fd = <fd>', data)


# --- the conversations -----------------------------------------------------------------------------------------------

for length in (0, MAX_BODY + 1, 0x7fff, 0x8000, 0xffff):
    talk(f'length {length}', ask(struct.pack('>H', length)))
for length in (1, 2, MAX_BODY - 1, MAX_BODY):
    talk(f'NAMES in a packet of length {length}', ask(frame(NAMES + b'x' * (length - 1))))

talk('split in the length', send('a', names()[:1]), look('a'), send('a', names()[1:]), look('a'))
talk('split after the length', send('a', names()[:2]), look('a'), send('a', names()[2:]), look('a'))
talk('a registration byte by byte', *[send('a', bytes([byte])) for byte in alive2('slow', extra=b'x')], look('a'),
     ask(port2('slow')))
talk('connect and say nothing', send('a', b''), look('a'))
talk('close in the middle', send('a', alive2('half')[:-1]), close('a'), ask(names()))
talk('half-close in the middle', send('a', alive2('half')[:-1]), half_close('a'), look('a'), ask(names()))
talk('half-close before anything', send('a', b''), half_close('a'), look('a'))
for title, packet in (('NAMES', names()), ('PORT2', port2('n')), ('DUMP', dump()), ('KILL', kill())):
    talk(f'half-close after {title}', node('n', 'n'), send('a', packet), half_close('a'), look('a'))
    talk(f'a byte that comes with {title}', node('n', 'n'), ask(packet + b'\0'), ask(names()))
    talk(f'a byte that comes with the second part of the length of {title}', node('n', 'n'),
         send('a', packet[:1]), send('a', packet[1:] + b'\0'), look('a'), ask(names()))
    talk(f'a byte that comes with the body of {title}', node('n', 'n'), send('a', packet[:2]),
         send('a', packet[2:] + b'\0'), look('a'))
    talk(f'two {title} in one', node('n', 'n'), ask(packet * 2), ask(names()))
talk('a byte that comes with a registration', ask(alive2('n') + b'\0'), ask(names()))
talk('two registrations in one', ask(alive2('one') + alive2('two')), ask(names()))
talk('half-close of a registered node', node('a', 'n'), half_close('a'), look('a'), ask(names()))
talk('half-close right after a registration', send('a', alive2('n')), half_close('a'), look('a'), ask(names()))
talk('a byte from a registered node', node('a', 'n'), send('a', b'\0'), look('a'), ask(names()))
talk('a request from a registered node', node('a', 'n'), send('a', names()), look('a'), ask(names()))
talk('a second registration on a connection', node('a', 'n'), send('a', alive2('m')), look('a'), ask(names()))
talk('close of a registered node', node('a', 'n'), close('a'), ask(names()), ask(port2('n')))
talk('reset of a registered node', node('a', 'n'), reset('a'), ask(names()), ask(port2('n')))

for tag in sorted(set(range(256)) - {tag[0] for tag in (b'x', PORT2, NAMES, DUMP, KILL, STOP)}):
    if tag in (0, 1, 97, 98, 99, 100, 101, 108, 109, 111, 114, 116, 117, 118, 119, 121, 122, 123, 127, 128, 255):
        talk(f'unknown tag {tag}', ask(frame(bytes([tag]))), ask(frame(bytes([tag]) + b'name')))

whole = alive2_body('name', extra=b'xy')
for cut in range(1, len(whole)):
    talk(f'ALIVE2 cut after {cut} bytes', ask(frame(whole[:cut])))
talk('ALIVE2 of 13 bytes', ask(frame(alive2_body(''))), ask(names()))
for lie in (5, 6, 1020, 1021, 0x7fff, 0xffff):
    talk(f'ALIVE2 with Nlen {lie} for four bytes', ask(frame(alive2_body('name', nlen=lie))), ask(names()))
for lie in (1, 2, 1020, 1021, 0x7fff, 0xffff):
    talk(f'ALIVE2 with Elen {lie} for none', ask(frame(alive2_body('name', elen=lie))), ask(names()))
talk('ALIVE2 with both lengths past the body', ask(frame(alive2_body('name', extra=b'xy', elen=3))), ask(names()))
for name in (b'\0', b'a\0', b'\0a', b'a\0b', b'a\0\xff', b'\0' * 1021, b'a' * 1020 + b'\0'):
    talk(f'ALIVE2 with a NUL: {name[:4]!r}, {len(name)} bytes', ask(alive2(name)), ask(names()))

# A refused registration: upstream keeps the connection, and a node that tries again and again fills it.
REFUSED_NAMES = {
    'of 256 characters': b'a' * 256,
    'of 1020 bytes, 510 characters': '\u00e9'.encode() * 510,
    'of 1021 bytes': b'a' * 1021,
    'of 3000 bytes': b'a' * 3000,
    'with a lone continuation byte': b'a\x80',
    'that ends in a character': b'a\xc3',
    'overlong in two bytes': b'\xc0\xaf',
    'overlong in three bytes': b'\xe0\x80\xaf',
    'overlong in four bytes': b'\xf0\x80\x80\xaf',
    'with a surrogate': b'\xed\xa0\x80',
    'over U+10FFFF': b'\xf4\x90\x80\x80',
    'with a byte that UTF-8 never has': b'\xff',
}
for title, name in REFUSED_NAMES.items():
    for high, refused in ((6, REFUSED_6), (5, REFUSED_5)):
        talk(f'a name {title}, version {high}', ask(alive2(name, high=high)), ask(names()),
             differs={0: ((refused, OPEN), (refused, CLOSED))})
talk('Extra of 1021 bytes', ask(alive2('n', extra=b'e' * 1021)), ask(names()),
     differs={0: ((REFUSED_6, OPEN), (REFUSED_6, CLOSED))})
for high, refused in ((6, REFUSED_6), (5, REFUSED_5)):
    talk(f'a taken name, version {high}', node('a', 'n', port=1), ask(alive2('n', port=2, high=high)), look('a'),
         ask(port2('n')), differs={1: ((refused, OPEN), (refused, CLOSED))})

# Names that forge lines of NAMES: refused here.
for code in (1, 9, 10, 13, 27, 31, 127):
    talk(f'control character {code} in a name', ask(alive2(b'a' + bytes([code]) + b'b')),
         differs={0: ((OK_6, OPEN), (REFUSED_6, CLOSED))})
talk('an empty name with an Extra', ask(alive2('', extra=b'x')), differs={0: ((OK_6, OPEN), (REFUSED_6, CLOSED))})

GOOD_NAMES = ('a', 'a' * 254, '\u00e9' * 254, '\u20ac' * 254, '\U0001f600' * 254, b'\xed\x9f\xbf', b'\xf4\x8f\xbf\xbf',
              'two words', ' ', '~', b'\xc2\x80', 'a@b.c', '%s%n', '"', '<>')
for name in GOOD_NAMES:
    talk(f'the name {name[:12]!r} of length {len(name)}', node('a', name), ask(port2(name)), ask(names()), ask(dump()))
talk('names of 255 characters are registered', node('a', 'a' * 255), node('b', '\U0001f600' * 255), ask(names()))
# Upstream is off by one.
FOUND_255 = b'\x77\0' + struct.pack('>HBBHHH', 4711, 77, 0, 6, 6, 255) + b'a' * 255 + b'\0\0'
talk('a name of 255 characters is looked up', node('a', 'a' * 255), ask(port2('a' * 255)),
     differs={1: ((b'', CLOSED), (FOUND_255, CLOSED))})
for size in (0, 1, 2, 255, 256, 1019, 1020):
    talk(f'Extra of {size} bytes', node('a', 'n', extra=(bytes(range(256)) * 4)[:size]),
         ask(port2('n')))
talk('junk after Extra', send('a', frame(alive2_body('n', extra=b'e') + b'junk')), look('a'), ask(port2('n')))
for high in (0, 1, 5, 6, 7, 65535):
    talk(f'HighestVersion {high}', node('a', 'n', high=high, low=0), ask(port2('n')))
for fields in ({'port': 0}, {'port': 65535}, {'node_type': 0}, {'node_type': 72}, {'node_type': 104},
               {'node_type': 255}, {'protocol': 1}, {'protocol': 255}, {'low': 0}, {'low': 7}, {'low': 65535}):
    talk(f'registered with {fields}', node('a', 'n', **fields), ask(port2('n')), ask(names()))
talk('names are compared byte by byte', node('a', 'n', port=1), node('b', 'N', port=2), node('c', 'n ', port=3),
     ask(port2('n')), ask(port2('N')), ask(port2('n ')), ask(port2(' n')))

talk('PORT2 of an unknown name', ask(port2('nobody')), ask(port2('a' * 254)))
# The same off-by-one of upstream, for a name that nobody has.
talk('PORT2 of an unknown name of 255 characters', ask(port2('a' * 255)),
     differs={0: ((b'', CLOSED), (UNKNOWN, CLOSED))})
talk('PORT2 with a trailing NUL', node('a', 'n'), ask(port2(b'n\0')), ask(port2(b'x\0')))
NO_NAMES = (b'', b'\0', b'\0\0', b'n\0\0', b'n\0x', b'\0n', b'a' * 256, b'a' * 1021, b'a' * (MAX_BODY - 1), b'\xff',
            b'n\xc3', b'\xed\xa0\x80', b'\xc0\xaf')
for name in NO_NAMES:
    talk(f'PORT2 with {name[:4]!r}, {len(name)} bytes', node('a', 'n'), ask(frame(PORT2 + name)))
talk('PORT2 with junk after the name', node('a', 'n'), ask(port2('n junk')))

talk('NAMES of nobody', ask(names()))
talk('NAMES, newest first', node('a', 'a', port=1), node('b', 'b', port=0), node('c', '\u00e9', port=65535),
     ask(names()), close('b'), ask(names()), node('d', 'b', port=7), ask(names()))
talk('NAMES with junk', node('a', 'a'), ask(frame(NAMES + b'\0junk')))
talk('DUMP of nobody', ask(dump()))
talk('DUMP of active and old names', node('a', 'a', port=1), node('b', 'b c', port=2), close('a'), ask(dump()),
     node('c', 'c', port=3), ask(dump()), node('d', 'a', port=4), ask(dump()))
talk('DUMP of several old names', *[[*node(name, name), close(name)] for name in 'abcde'], ask(dump()))
talk('DUMP with junk', node('a', 'a'), ask(frame(DUMP + b'junk')))

talk('KILL with nodes', node('a', 'n'), ask(kill()), look('a'), ask(frame(KILL + b'junk')), ask(names()))
talk('STOP, not allowed', node('a', 'n'), ask(stop('n')), ask(stop('nobody')), look('a'), ask(names()))
talk('STOP', node('a', 'n'), node('b', 'm'), ask(stop('n')), look('a'), look('b'), ask(names()), node('c', 'n'),
     relaxed=True)
talk('STOP with junk after the name', node('a', 'n'), ask(stop('n junk')), look('a'), relaxed=True,
     differs={1: ((b'NOEXISTSTOPPED', CLOSED), (b'NOEXIST', CLOSED))})
talk('STOP of an unknown name', ask(stop('nobody')), relaxed=True,
     differs={0: ((b'NOEXISTSTOPPED', CLOSED), (b'NOEXIST', CLOSED))})
talk('NAMES, PORT2, DUMP and ALIVE2 when relaxed', node('a', 'n'), ask(names()), ask(port2('n')), ask(dump()),
     relaxed=True)
talk('STOP with a trailing NUL', node('a', 'n'), ask(stop(b'n\0')), look('a'), relaxed=True)
talk('STOP without a name', node('a', 'n'), ask(stop(b'')), look('a'), relaxed=True)
for name in (b'\xff', b'n\xc3', b'a' * 256, b'a' * 1021, b'a' * (MAX_BODY - 1)):
    talk(f'STOP with {name[:4]!r}, {len(name)} bytes', node('a', 'n'), ask(stop(name)), look('a'), relaxed=True,
         differs={1: ((b'NOEXISTSTOPPED', CLOSED), (b'NOEXIST', CLOSED))})
# What is before the first NUL is the name.
for name in (b'n\0\0', b'n\0x'):
    talk(f'STOP with a NUL inside: {name!r}', node('a', 'n'), ask(stop(name)), look('a'), relaxed=True)
talk('STOP of only a NUL', ask(stop(b'\0')), relaxed=True,
     differs={0: ((b'NOEXISTSTOPPED', CLOSED), (b'NOEXIST', CLOSED))})



class BothCase(Case):
    """Runs both daemons."""

    def setUp(self):
        super().setUp()
        if UPSTREAM is None:
            self.skipTest(NO_UPSTREAM)
        if TESTING_UPSTREAM:
            self.skipTest('the program under test is upstream itself')

    def outcome(self, daemon, conn):
        """What has come on the connection by now, and whether the daemon has closed it."""
        for _turn in range(3):
            daemon.ask(names())
        data, state = b'', OPEN
        while state == OPEN and readable([conn], 0):
            piece = conn.recv_once()
            data += piece
            if not piece:
                state = CLOSED
        return mask(data, daemon.port), state

    def hold(self, program, steps, relaxed):
        """The outcomes of a conversation with one program."""
        daemon = self.start(*(['-relaxed_command_check'] if relaxed else []), program=program)
        conns, outcomes = {}, []
        for kind, what, *rest in steps:
            if kind == 'ask':
                conn = self.connect(daemon).send(what).wait_consumed()
                outcomes.append(self.outcome(daemon, conn))
                continue
            if what not in conns:
                conns[what] = self.connect(daemon)
            conn = conns[what]
            if kind == 'send':
                conn.send(rest[0]).wait_consumed()
            elif kind == 'look':
                outcomes.append(self.outcome(daemon, conn))
            elif kind == 'half_close':
                conn.half_close()
                self.turns(daemon)
            else:
                getattr(conn, kind)()
                del conns[what]
                self.turns(daemon)
        return outcomes

    def turns(self, daemon):
        """Lets the daemon's loop turn: an end has no bytes whose reading could be seen.

        One turn of ours accepts up to 64 connections, and serves those that come meanwhile before it looks at others.
        """
        for _turn in range(150):
            daemon.ask(names())


def _method_of(title, one):
    def test(self):
        theirs = self.hold(UPSTREAM, one.steps, one.relaxed)
        ours = self.hold(EPMD, one.steps, one.relaxed)
        for number, pair in one.differs.items():
            self.assertNotEqual(*pair, 'a listed difference must be one')
            self.assertEqual(theirs[number], pair[0], f'upstream, outcome {number}')
            self.assertEqual(ours[number], pair[1], f'ours, outcome {number}')
        same = [number for number in range(len(theirs)) if number not in one.differs]
        self.assertEqual([ours[number] for number in same], [theirs[number] for number in same])
        self.assertTrue(theirs)

    test.__doc__ = title
    return test


class Conversations(BothCase):
    """One test for each entry of TALKS."""


for place, (talk_title, talk_entry) in enumerate(TALKS.items()):
    method = _method_of(talk_title, talk_entry)
    method.__name__ = f'test_{place:03}_' + re.sub(r'\W+', '_', talk_title, flags=re.ASCII).strip('_')
    setattr(Conversations, method.__name__, method)


class Circumstances(BothCase):
    """Deliberate differences that need more than bytes to show."""

    def both(self, function):
        return function(UPSTREAM), function(EPMD)

    def test_kill_without_nodes(self):
        """The same reply and end in the foreground; our status when activated is told apart by the units."""
        def status(program):
            daemon = self.start_foreground(program=program)
            return daemon.ask(kill()), daemon.wait()

        self.assertEqual(self.both(status), ((b'OK', 0), (b'OK', 0)))

    def test_kill_relaxed_with_nodes(self):
        def status(program):
            daemon = self.start_foreground('-relaxed_command_check', program=program)
            conn = self.register(daemon, 'n')
            return daemon.ask(kill()), conn.read_all(), daemon.wait()

        self.assertEqual(self.both(status), ((b'OK', b'', 0), (b'OK', b'', 0)))

    def test_the_port_of_another_socket(self):
        """NAMES says the port that was reached; upstream its configured one."""
        def said(program):
            daemon = self.start(listeners=[self.listener(), self.listener()], program=program)
            first, second = (address[1] for address in daemon.addresses)
            reply = struct.unpack('>I', daemon.ask(names(), daemon.addresses[1])[:4])[0]
            return {first: 'configured', second: 'reached'}[reply]

        self.assertEqual(self.both(said), ('configured', 'reached'))

    def test_v4_mapped_loopback(self):
        """Through a dual-stack socket upstream takes 127.0.0.2 for a remote host."""
        need_ipv6(self)

        def registered(program):
            daemon = self.start(listeners=[self.listener('::', dual_stack=True)], program=program)
            conn = self.connect(daemon, address=('127.0.0.1', daemon.port), source='127.0.0.2')
            return mask(conn.send(alive2('n')).recv(6), 0)

        self.assertEqual(self.both(registered), (b'', OK_6))

    def test_a_name_whose_holder_has_left(self):
        """The end of the holder and the registration of its successor are there in the same turn of the loop."""
        def result(program):
            daemon = self.start(program=program)
            packet = alive2('n')
            following = self.connect(daemon).send(packet[:-1]).wait_consumed()
            holder = self.register(daemon, 'n')
            daemon.stop()
            following.send(packet[-1:])
            holder.close()
            daemon.signal(signal.SIGCONT)
            return mask(following.recv(6), 0)

        self.assertEqual(self.both(result), (REFUSED_6, OK_6))

    def test_what_a_partial_packet_leaves_in_the_log(self):
        def said(program):
            daemon = self.start(program=program)
            self.connect(daemon).send(b'\0').wait_consumed().close()
            self.turns(daemon)
            daemon.drain()
            return 'partial' in daemon.err.text()

        self.assertEqual(self.both(said), (True, False))


class Commands(BothCase):
    """Both programs as clients of the same daemon."""

    def results(self, *args, env=None):
        """Status, stdout and stderr of both. Upstream ends its error line with a carriage return."""
        found = []
        for program in (UPSTREAM, EPMD):
            process = self.run_command(*args, env=env, program=program)
            found.append((process.status, bytes(process.out.data), process.err.text().replace('\r', '')))
        return found

    def assert_same(self, *args):
        theirs, ours = self.results(*args)
        self.assertEqual(ours, theirs, args)
        return ours

    def test_each_against_each_daemon(self):
        for program in (UPSTREAM, EPMD):
            with self.subTest(daemon=program):
                daemon = self.start_foreground('-relaxed_command_check', program=program)
                port = ('-port', str(daemon.port))
                self.assert_same(*port, '-names')
                self.register(daemon, 'old').close()
                self.assert_registered(daemon)
                self.register(daemon, 'one', port=1)
                self.register(daemon, 'two words', port=2)
                for form in (('-names',), ('-dump',), ('-started',)):
                    self.assertEqual(self.assert_same(*port, *form)[0], 0)
                # Upstream says that it went well.
                found = self.results(*port, '-stop', 'nobody')
                self.assertEqual(found, [(0, b'NOEXIST\n', ''), (1, b'NOEXIST\n', '')])
                self.register(daemon, 'gone')
                theirs = self.run_command(*port, '-stop', 'gone', program=UPSTREAM)
                self.register(daemon, 'gone')
                ours = self.run_command(*port, '-stop', 'gone')
                self.assertEqual((ours.status, ours.out.text()), (theirs.status, theirs.out.text()))
                self.assertEqual((ours.status, ours.out.text()), (0, 'STOPPED\n'))

    def test_kill(self):
        for program in (UPSTREAM, EPMD):
            for client in (UPSTREAM, EPMD):
                with self.subTest(daemon=program, client=client):
                    daemon = self.start_foreground(program=program)
                    node_conn = self.register(daemon, 'n')
                    process = self.run_command('-port', daemon.port, '-kill', program=client)
                    self.assertEqual((process.status, process.out.text()),
                                     (1, 'Killing not allowed - living nodes in database.\n'))
                    node_conn.close()
                    self.assert_registered(daemon)
                    process = self.run_command('-port', daemon.port, '-kill', program=client)
                    self.assertEqual((process.status, process.out.text()), (0, 'Killed\n'))
                    self.assertEqual(daemon.wait(), 0)

    def test_no_server(self):
        port = ('-port', str(self.reserve()))
        for form in (('-names',), ('-dump',), ('-kill',), ('-stop', 'n'), ('-started',)):
            self.assertEqual(self.assert_same(*port, *form)[0], 1)

    def test_stop_not_allowed(self):
        daemon = self.start_foreground()
        self.assertEqual(self.assert_same('-port', str(daemon.port), '-stop', 'n')[0], 1)


if __name__ == '__main__':
    tap.main()
