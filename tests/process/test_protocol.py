#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The wire protocol of a running daemon: framing, every request, every reply, every limit, who may ask what."""

import contextlib
import os
import signal
import struct
import sys

sys.dont_write_bytecode = True
import tap
from epmdtest import (  # noqa: E402
    Case, DUMP, HERE_V4, HERE_V6, KILL, MAX_BODY, NAMES, OTHER_V4, OTHER_V6, PORT2, STOP, alive2,
    alive2_body, dump, frame, has_ipv6, kill, names, need_ipv6, parse_alive2, parse_names, parse_port2, port2,
    private_network, stop)

REFUSED_6 = struct.pack('>BBI', 118, 1, 99)
REFUSED_5 = struct.pack('>BBH', 121, 1, 99)

# Bytes that are no well-formed UTF-8, and why.
NOT_UTF8 = {
    'a lone continuation byte': b'a\x80',
    'an end in the middle of a character': b'a\xc3',
    'overlong, two bytes': b'\xc0\xaf',
    'overlong, three bytes': b'\xe0\x80\xaf',
    'overlong, four bytes': b'\xf0\x80\x80\xaf',
    'a surrogate': b'\xed\xa0\x80',
    'over U+10FFFF': b'\xf4\x90\x80\x80',
    'a byte that UTF-8 never has': b'\xff',
    'a five-byte form': b'\xf8\x88\x80\x80\x80',
    'Latin-1': 'f\u00fcnf'.encode('latin-1'),
}


class Framing(Case):
    """Length:16 and Length bytes, in whatever pieces they come."""

    def test_lengths_at_and_past_the_limits(self):
        daemon = self.start()
        self.register(daemon, 'one', port=1001)
        for length in (1, 2, MAX_BODY - 1, MAX_BODY):
            with self.subTest(length=length):
                conn = self.connect(daemon).send(frame(NAMES + b'x' * (length - 1)))
                self.assertEqual(parse_names(conn.read_all()).nodes, [(b'one', 1001)])
        for length in (0, MAX_BODY + 1, 0x8000, 0xffff):
            with self.subTest(length=length):
                self.assert_silent_close(self.connect(daemon).send(struct.pack('>H', length)))
                conn = self.connect(daemon)
                # It may be closed before all of it is sent.
                with contextlib.suppress(ConnectionError):
                    conn.send(struct.pack('>H', length) + NAMES * length)
                self.assert_silent_close(conn)

    def test_split_at_every_byte(self):
        daemon = self.start()
        packet = alive2('split', port=1234, extra=b'ex')
        for cut in range(1, len(packet)):
            with self.subTest(cut=cut):
                conn = self.connect(daemon).send(packet[:cut]).wait_consumed().send(packet[cut:])
                self.assertEqual(parse_alive2(conn.recv(6)).result, 0)
                conn.close()
        self.assert_registered(daemon)

    def test_every_byte_alone(self):
        daemon = self.start()
        self.register(daemon, 'there', port=7)
        for packet in (names(), port2('there'), alive2('alone')):
            conn = self.connect(daemon)
            for byte in packet:
                conn.send(bytes([byte])).wait_consumed()
            self.assertNotEqual(conn.recv(4), b'')

    def test_closes_after_one_request(self):
        daemon = self.start()
        self.register(daemon, 'held', port=42)
        for packet in (names(), port2('held'), port2('unknown'), dump(), kill()):
            with self.subTest(packet=packet):
                conn = self.connect(daemon).send(packet)
                self.assertNotEqual(conn.read_all(), b'')
                self.assertEqual(conn.end, 'eof')

    def test_a_registered_connection_stays(self):
        daemon = self.start()
        node = self.register(daemon, 'stays')
        for _turn in range(3):
            self.assert_registered(daemon, 'stays')
        self.assertFalse(node.has_ended())

    def test_reply_in_one_piece(self):
        """Clients take a registration reply that comes in pieces for garbage."""
        daemon = self.start()
        for high, size in ((6, 6), (5, 4)):
            conn = self.connect(daemon).send(alive2(f'whole{high}', high=high))
            self.assertEqual(len(conn.recv_once()), size)
        conn = self.connect(daemon).send(names())
        self.assertEqual(len(parse_names(conn.recv_once()).nodes), 2)
        conn = self.connect(daemon).send(port2('whole6'))
        self.assertIsNotNone(parse_port2(conn.recv_once()))

    def test_trailing_bytes_with_the_length(self):
        """What follows the packet when its length becomes known: closed, and not executed."""
        daemon = self.start()
        self.register(daemon, 'here')
        for packet in (alive2('never'), names(), dump(), kill(), port2('here')):
            for extra in (b'\0', packet):
                with self.subTest(packet=packet, extra=extra):
                    self.assert_silent_close(self.connect(daemon).send(packet + extra))
        self.assert_registered(daemon, 'here')

    def test_trailing_bytes_with_the_second_length_byte(self):
        daemon = self.start()
        for packet in (alive2('never'), names(), kill()):
            with self.subTest(packet=packet):
                conn = self.connect(daemon).send(packet[:1]).wait_consumed()
                self.assert_silent_close(conn.send(packet[1:] + b'\0'))
        self.assert_registered(daemon)

    def test_trailing_bytes_after_the_length(self):
        """What follows the packet when the length was known before: never read, and the answer arrives whole."""
        daemon = self.start()
        self.register(daemon, 'here', port=99)
        for packet, check in ((names(), parse_names), (port2('here'), parse_port2), (kill(), None), (dump(), None)):
            with self.subTest(packet=packet):
                expected = daemon.ask(packet)
                conn = self.connect(daemon).send(packet[:2]).wait_consumed().send(packet[2:] + b'trailing' * 100)
                reply = conn.read_all()
                self.assertEqual(reply, expected)
                self.assertNotEqual(reply, b'')
                if check:
                    self.assertIsNotNone(check(reply))

    def test_trailing_bytes_after_a_big_reply(self):
        """Unread input makes close() a reset, which would throw away what is still on its way to a slow reader."""
        daemon = self.start()
        wanted = [f'{number:03}' + 'x' * 252 for number in range(300)]
        for name in wanted:
            self.register(daemon, name)
        conn = self.connect(daemon, rcvbuf=2048)
        conn.send(names()[:2]).wait_consumed().send(names()[2:] + b'trailing').send(b'more')
        self.assertEqual([name.decode() for name, _port in parse_names(conn.read_all()).nodes], wanted[::-1])

    def test_trailing_bytes_of_a_registration(self):
        """After the length was known they are bytes from a registered node: it is unregistered."""
        daemon = self.start()
        packet = alive2('talker')
        conn = self.connect(daemon).send(packet[:2]).wait_consumed().send(packet[2:] + b'\0')
        self.assertIn(conn.read_all()[:2], (b'', b'\x76\x00'))
        self.assert_registered(daemon)

    def test_bytes_from_a_registered_node(self):
        daemon = self.start()
        for data in (b'\0', names(), alive2('again')):
            with self.subTest(data=data):
                node = self.register(daemon, 'talker')
                self.assert_silent_close(node.send(data))
                self.assert_registered(daemon)

    def test_extra_bytes_inside_the_length(self):
        daemon = self.start()
        node = self.connect(daemon).send(frame(alive2_body('extra', port=5, extra=b'ee') + b'junk\0junk'))
        self.assertEqual(parse_alive2(node.recv(6)).result, 0)
        self.assertEqual(daemon.lookup('extra').extra, b'ee')
        self.assertEqual(parse_names(daemon.ask(frame(NAMES + b'\0junk'))).nodes, [(b'extra', 5)])
        self.assertEqual(daemon.ask(frame(DUMP + b'junk')), daemon.ask(dump()))
        self.assertEqual(daemon.ask(frame(KILL + b'junk')), b'NO')
        self.assertIsNone(parse_port2(daemon.ask(port2(b'extra' + b'junk'))))

    def test_end_in_the_middle_of_a_packet(self):
        """A port scanner is no error: closed, and nothing in the log."""
        daemon = self.start()
        packet = alive2('half')
        for cut in range(0, len(packet)):
            with self.subTest(cut=cut):
                conn = self.connect(daemon).send(packet[:cut]).half_close()
                self.assert_reply(conn, b'')
        self.assert_registered(daemon)
        daemon.drain()
        self.assertEqual([line for line in daemon.err.text().splitlines() if 'Serving' not in line], [])

    def test_half_close_after_the_request(self):
        daemon = self.start()
        node = self.register(daemon, 'half', port=3)
        for packet in (names(), port2('half'), dump(), kill()):
            with self.subTest(packet=packet):
                expected = daemon.ask(packet)
                self.assert_reply(self.connect(daemon).send(packet).half_close(), expected)
        self.assertFalse(node.has_ended())

    def test_half_close_ends_a_registration(self):
        daemon = self.start()
        node = self.register(daemon, 'halved').half_close()
        self.assert_reply(node, b'')
        self.assert_registered(daemon)

    def test_half_close_right_after_the_registration(self):
        daemon = self.start()
        node = self.connect(daemon).send(alive2('gone')).half_close()
        reply = node.read_all()
        self.assertEqual(parse_alive2(reply).result, 0)
        self.assert_registered(daemon)

    def test_unknown_tags(self):
        daemon = self.start('-relaxed_command_check')
        known = {tag[0] for tag in (b'x', PORT2, NAMES, DUMP, KILL, STOP)}
        for tag in set(range(256)) - known:
            for body in (bytes([tag]), bytes([tag]) + b'name'):
                with self.subTest(body=body):
                    self.assert_reply(self.connect(daemon).send(frame(body)), b'')

    def test_connect_and_close(self):
        daemon = self.start()
        for _turn in range(50):
            self.connect(daemon).close()
            self.connect(daemon).send(names()).close()
            self.connect(daemon).reset()
        self.assert_registered(daemon)


class Registration(Case):
    """ALIVE2_REQ."""

    def assert_refused(self, daemon, packet, reply=REFUSED_6):
        """The error reply, and then the end: a connection that registered nothing is not kept."""
        self.assert_reply(self.connect(daemon).send(packet), reply)

    def test_short_and_lying_bodies(self):
        daemon = self.start()
        whole = alive2_body('name', extra=b'xy')
        cases = {f'cut after {cut} bytes': whole[:cut] for cut in range(1, len(whole))}
        cases['13 bytes, no name, no extra'] = alive2_body('')
        cases['Nlen one past the body'] = alive2_body('name', nlen=5)
        cases['Nlen far past the body'] = alive2_body('name', nlen=0xffff)
        cases['Elen one past the body'] = alive2_body('name', elen=1)
        cases['Elen far past the body'] = alive2_body('name', elen=0xffff)
        cases['Nlen and Elen together past the body'] = alive2_body('name', extra=b'xy', elen=3)
        for why, body in cases.items():
            with self.subTest(why=why):
                self.assert_reply(self.connect(daemon).send(frame(body)), b'')
        self.assert_registered(daemon)

    def test_nul_in_the_name(self):
        daemon = self.start()
        for name in (b'\0', b'a\0', b'\0a', b'a\0b', b'a\0\xff', b'\0' * 1021):
            with self.subTest(name=name):
                self.assert_reply(self.connect(daemon).send(alive2(name)), b'')
        self.assert_registered(daemon)

    def test_silent_checks_come_before_the_error_reply(self):
        daemon = self.start()
        cases = {
            'Nlen over 1020, past the body': alive2_body('a' * 1021, nlen=1100),
            'Elen over 1020, past the body': alive2_body('name', extra=b'', elen=1021),
            'not UTF-8, Elen past the body': alive2_body(b'\xff', elen=1),
            'a control character and a NUL': alive2_body(b'\x01\0'),
            'over 1020 and a NUL': alive2_body(b'a' * 1020 + b'\0'),
        }
        for why, body in cases.items():
            with self.subTest(why=why):
                self.assert_reply(self.connect(daemon).send(frame(body)), b'')

    def test_names_at_the_limits(self):
        daemon = self.start()
        good = {
            'one byte': b'a',
            '255 ASCII characters': b'a' * 255,
            '255 characters of two bytes': '\u00e9' * 255,
            '255 characters of three bytes': '\u20ac' * 255,
            '255 characters of four bytes, 1020 bytes': '\U0001f600' * 255,
            'the last before the surrogates': b'\xed\x9f\xbf',
            'U+10FFFF': b'\xf4\x8f\xbf\xbf',
            'a space': 'two words',
            'a tilde': '~',
            'U+0080, after DEL': b'\xc2\x80',
        }
        nodes = {why: self.register(daemon, name) for why, name in good.items()}
        for why, name in good.items():
            with self.subTest(why=why):
                found = daemon.lookup(name)
                self.assertIsNotNone(found)
                self.assertEqual(found.name, name if isinstance(name, bytes) else name.encode())
                self.assertFalse(nodes[why].has_ended())

    def test_names_past_the_limits(self):
        daemon = self.start()
        bad = {
            '256 ASCII characters': b'a' * 256,
            '256 characters of two bytes': '\u00e9' * 256,
            '1020 bytes, 510 characters': '\u00e9' * 510,
            '1021 bytes': b'a' * 1021,
            '3000 bytes': b'a' * 3000,
            'empty, with an extra': b'',
        }
        bad.update(NOT_UTF8)
        for why, name in bad.items():
            with self.subTest(why=why):
                self.assert_refused(daemon, alive2(name, extra=b'x'))
                self.assert_refused(daemon, alive2(name, extra=b'x', high=5), REFUSED_5)
        self.assert_registered(daemon)

    def test_control_characters(self):
        """They would forge lines of NAMES and of logs."""
        daemon = self.start()
        for code in [*range(1, 32), 127]:
            for name in (bytes([code]), b'a%cb' % code, b'line\nname evil at port 1'[:4] + bytes([code])):
                with self.subTest(name=name):
                    self.assert_refused(daemon, alive2(name))
        self.assert_registered(daemon)

    def test_extra_at_the_limits(self):
        daemon = self.start()
        for extra in (b'', b'\0', bytes(range(256)), b'e' * 1019, b'e' * 1020):
            with self.subTest(size=len(extra)):
                node = self.register(daemon, 'extra', extra=extra)
                self.assertEqual(daemon.lookup('extra').extra, extra)
                node.close()
        self.assert_refused(daemon, alive2('extra', extra=b'e' * 1021))
        self.assert_refused(daemon, alive2('extra', extra=b'e' * 3000, high=5), REFUSED_5)
        node = self.register(daemon, '\U0001f600' * 255, extra=b'e' * 1020)
        self.assertEqual(daemon.lookup('\U0001f600' * 255).extra, b'e' * 1020)
        self.assert_registered(daemon, '\U0001f600' * 255)

    def test_the_longest_packet(self):
        daemon = self.start()
        body = alive2_body('a' * 255, extra=b'e' * 1020)
        node = self.connect(daemon).send(frame(body + b'j' * (MAX_BODY - len(body))))
        self.assertEqual(parse_alive2(node.recv(6)).result, 0)
        self.assert_registered(daemon, 'a' * 255)

    def test_any_port_type_protocol_and_versions(self):
        daemon = self.start()
        rows = ((0, 77, 0, 6, 6), (65535, 0, 255, 65535, 0), (1, 255, 1, 6, 65535), (4369, 104, 0, 7, 5),
                (80, 72, 9, 5, 5), (9, 1, 2, 0, 0))
        for row in rows:
            with self.subTest(row=row):
                port, node_type, protocol, high, low = row
                node = self.register(daemon, 'any', port=port, node_type=node_type, protocol=protocol, high=high,
                                     low=low)
                found = daemon.lookup('any')
                self.assertEqual((found.port, found.node_type, found.protocol, found.high, found.low), row)
                node.close()

    def test_the_version_picks_the_form_of_the_reply(self):
        daemon = self.start()
        for high, tag, size in ((0, 121, 4), (1, 121, 4), (5, 121, 4), (6, 118, 6), (7, 118, 6), (65535, 118, 6)):
            with self.subTest(high=high):
                node = self.connect(daemon).send(alive2(f'v{high}', high=high, low=0))
                reply = parse_alive2(node.recv_once())
                self.assertEqual((reply.tag, reply.result), (tag, 0))
                refused = REFUSED_6 if size == 6 else REFUSED_5
                self.assert_refused(daemon, alive2(f'v{high}', high=high, low=0), refused)

    def test_a_taken_name(self):
        daemon = self.start()
        holder = self.register(daemon, 'taken', port=1)
        for _turn in range(3):
            self.assert_refused(daemon, alive2('taken', port=2))
        self.assertEqual(daemon.lookup('taken').port, 1)
        self.assertFalse(holder.has_ended())

    def test_names_are_compared_byte_by_byte(self):
        daemon = self.start()
        wanted = ('node', 'Node', 'nod', 'node ', 'nod\u00e9', 'node\u0301', 'nod\u00e9\u0301')
        for port, name in enumerate(wanted):
            self.register(daemon, name, port=port)
        for port, name in enumerate(wanted):
            self.assertEqual(daemon.lookup(name).port, port)
        self.assert_registered(daemon, *wanted)

    def test_nothing_on_another_connection_removes_a_record(self):
        daemon = self.start()
        holder = self.register(daemon, 'mine', port=11)
        packet = alive2('mine', port=22)
        self.assert_refused(daemon, packet)
        for cut in (1, 2, 10, len(packet) - 1):
            self.connect(daemon).send(packet[:cut]).wait_consumed().close()
            self.connect(daemon).send(packet[:cut]).wait_consumed().reset()
        self.connect(daemon).send(packet).reset()
        self.connect(daemon).send(packet).close()
        late = self.connect(daemon).send(packet).half_close()
        self.assertEqual(late.read_all(), REFUSED_6)
        refused = self.connect(daemon).send(packet)
        self.assertEqual(refused.read_all(), REFUSED_6)
        with contextlib.suppress(ConnectionError):
            refused.send(b'bytes of a node that was refused')
        for _turn in range(3):
            self.assertEqual(daemon.lookup('mine').port, 11)
        self.assertFalse(holder.has_ended())

    def test_a_reset_unregisters(self):
        daemon = self.start()
        self.register(daemon, 'reset').reset()
        self.assert_registered(daemon)

    def test_a_name_whose_holder_is_gone_is_free(self):
        daemon = self.start()
        for _turn in range(20):
            for leave in ('close', 'reset', 'half_close'):
                node = self.register(daemon, 'again')
                following = self.connect(daemon)
                getattr(node, leave)()
                reply = parse_alive2(following.send(alive2('again')).recv(6))
                self.assertEqual(reply.result, 0, f'after {leave}')
                following.close()

    def test_creations_are_never_small(self):
        daemon = self.start()
        for number in range(60):
            high = 6 if number % 2 else 5
            creation = self.register(daemon, f'n{number}', high=high).creation
            if high == 6:
                self.assertGreater(creation, 3)
            else:
                self.assertIn(creation, (1, 2, 3))

    def test_a_returning_name_never_gets_the_creation_it_had(self):
        daemon = self.start()
        before = set()
        for _turn in range(100):
            node = self.register(daemon, 'returns')
            self.assertGreater(node.creation, 3)
            self.assertNotIn(node.creation, before)
            before.add(node.creation)
            node.close()

    def test_a_returning_old_node_gets_another_creation(self):
        """Versions below 6 have three creations: at least the last one is not given again."""
        daemon = self.start()
        last = None
        for _turn in range(20):
            node = self.register(daemon, 'old', high=5, low=5)
            self.assertNotEqual(node.creation, last)
            last = node.creation
            node.close()

    def test_creations_over_restarts_of_the_daemon(self):
        sock = self.listener()
        before = []
        for _life in range(5):
            daemon = self.start(listeners=[sock])
            for _turn in range(5):
                node = self.register(daemon, 'returns')
                before.append(node.creation)
                node.close()
                self.assert_registered(daemon)
            daemon.signal(signal.SIGKILL)
            daemon.wait()
        self.assertEqual(len(set(before)), len(before), f'creations {before}')


class LookUp(Case):
    """PORT2_REQ."""

    def test_unknown(self):
        daemon = self.start()
        for name in ('nobody', 'a', 'a' * 255, '\U0001f600' * 255, 'two words'):
            self.assert_reply(self.connect(daemon).send(port2(name)), b'\x77\x01')

    def test_found(self):
        daemon = self.start()
        self.register(daemon, 'found', port=0x1234, node_type=72, protocol=1, high=7, low=5, extra=b'\x01\0\xff')
        expected = b'\x77\0' + struct.pack('>HBBHHH', 0x1234, 72, 1, 7, 5, 5) + b'found' + b'\0\x03\x01\0\xff'
        self.assert_reply(self.connect(daemon).send(port2('found')), expected)

    def test_one_trailing_nul_is_dropped(self):
        daemon = self.start()
        self.register(daemon, 'found', port=9)
        self.assertEqual(daemon.lookup(b'found\0').port, 9)
        self.assertIsNone(daemon.lookup(b'foun\0'))

    def test_names_that_are_none(self):
        daemon = self.start()
        cases = {'empty': b'', 'only a NUL': b'\0', 'two NULs': b'a\0\0', 'a NUL inside': b'a\0b',
                 'a NUL first': b'\0a', '256 characters': b'a' * 256, '1021 bytes': b'a' * 1021,
                 'the longest packet': b'a' * (MAX_BODY - 1),
                 '256 characters of four bytes': '\U0001f600'.encode() * 256}
        cases.update(NOT_UTF8)
        for why, name in cases.items():
            with self.subTest(why=why):
                self.assert_reply(self.connect(daemon).send(frame(PORT2 + name)), b'')

    def test_the_longest_name(self):
        """Upstream is off by one here."""
        daemon = self.start()
        for name in (b'a' * 255, '\U0001f600'.encode() * 255):
            self.register(daemon, name, port=255)
            self.assertEqual(daemon.lookup(name).port, 255)
            self.assertEqual(daemon.lookup(name + b'\0').port, 255)

    def test_gone_after_the_end_of_the_node(self):
        daemon = self.start()
        node = self.register(daemon, 'goes')
        self.assertIsNotNone(daemon.lookup('goes'))
        node.close()
        daemon.settle(lambda: daemon.lookup('goes') is None, 'the name is unknown')


class Listing(Case):
    """NAMES_REQ and DUMP_REQ."""

    def test_names_of_an_empty_daemon(self):
        daemon = self.start()
        self.assert_reply(self.connect(daemon).send(names()), struct.pack('>I', daemon.port))

    def test_names_newest_first(self):
        daemon = self.start()
        nodes = {name: self.register(daemon, name, port=port) for port, name in enumerate(('a', 'b', 'c d', '\u00e9'))}
        expected = struct.pack('>I', daemon.port) + ('name \u00e9 at port 3\nname c d at port 2\nname b at port 1\n'
                                                    'name a at port 0\n').encode()
        self.assert_reply(self.connect(daemon).send(names()), expected)
        nodes['b'].close()
        self.assert_registered(daemon, 'a', 'c d', '\u00e9')
        self.register(daemon, 'b', port=65535)
        self.assertEqual(daemon.names(), [(b'b', 65535), ('\u00e9'.encode(), 3), (b'c d', 2), (b'a', 0)])

    def test_names_says_the_port_that_was_reached(self):
        socks = [self.listener(), self.listener('127.0.0.2')]
        if has_ipv6():
            socks += [self.listener('::1'), self.listener('::', dual_stack=True)]
        daemon = self.start(listeners=socks)
        reached = daemon.addresses
        if has_ipv6():
            reached = reached[:-1] + [('127.0.0.3', reached[-1][1]), ('::1', reached[-1][1])]
        for address in reached:
            with self.subTest(address=address):
                self.assertEqual(daemon.ask(names(), address), struct.pack('>I', address[1]))
                self.assertEqual(daemon.ask(dump(), address), struct.pack('>I', address[1]))

    def test_dump(self):
        daemon = self.start()
        for name in ('old one', 'older'):
            self.register(daemon, name, port=17).close()
            self.assert_registered(daemon)
        self.register(daemon, 'first', port=1)
        self.register(daemon, 'second', port=2)
        reply = daemon.ask(dump())
        self.assertEqual(reply[:4], struct.pack('>I', daemon.port))
        lines = reply[4:].split(b'\0')
        self.assertEqual(lines.pop(), b'')
        self.assertRegex(lines[0], rb'\Aactive name     <second> at port 2, fd = \d+\n\Z')
        self.assertRegex(lines[1], rb'\Aactive name     <first> at port 1, fd = \d+\n\Z')
        old = sorted(lines[2:])
        self.assertEqual(len(old), 2)
        self.assertRegex(old[0], rb'\Aold/unused name <old one>, port = 17, fd = -?\d+ \n\Z')
        self.assertRegex(old[1], rb'\Aold/unused name <older>, port = 17, fd = -?\d+ \n\Z')

    def test_a_returning_name_is_no_longer_old(self):
        daemon = self.start()
        self.register(daemon, 'back').close()
        self.assert_registered(daemon)
        self.assertRegex(daemon.ask(dump()), rb'old/unused name <back>')
        self.register(daemon, 'back')
        reply = daemon.ask(dump())
        self.assertRegex(reply, rb'active name     <back>')
        self.assertNotIn(b'old/unused', reply)


class KillAndStop(Case):
    """KILL_REQ and STOP_REQ."""

    def test_kill_with_nodes(self):
        daemon = self.start_foreground()
        node = self.register(daemon, 'lives')
        self.assert_reply(self.connect(daemon).send(kill()), b'NO')
        self.assert_registered(daemon, 'lives')
        self.assertFalse(node.has_ended())

    def test_kill_without_nodes(self):
        daemon = self.start_foreground()
        self.register(daemon, 'lived').close()
        self.assert_registered(daemon)
        self.assert_reply(self.connect(daemon).send(kill()), b'OK')
        self.assertEqual(daemon.wait(), 0)

    def test_registration_together_with_kill(self):
        """What is acknowledged after the KILL stays, however close behind it came."""
        daemon = self.start_foreground()
        killing, late = self.connect(daemon), self.connect(daemon)
        for conn in killing, late:
            conn.send(b'\0').wait_consumed()
        # While it cannot run, both come: then both are there in one turn of its loop.
        daemon.stop()
        killing.send(kill()[1:])
        late.send(alive2('late')[1:])
        daemon.signal(signal.SIGCONT)
        self.assert_reply(killing, b'OK')
        self.assertEqual(parse_alive2(late.recv(6)).result, 0)
        self.assertFalse(daemon.ends_within(0.3))
        self.assert_registered(daemon, 'late')
        late.close()
        self.assert_registered(daemon)

    def test_kill_with_nodes_relaxed(self):
        daemon = self.start_foreground('-relaxed_command_check')
        node = self.register(daemon, 'lives')
        self.assert_reply(self.connect(daemon).send(kill()), b'OK')
        self.assertEqual(daemon.wait(), 0)
        self.assertEqual(node.read_all(), b'')

    def test_stop_is_not_for_everyone(self):
        daemon = self.start()
        node = self.register(daemon, 'stays')
        self.assert_reply(self.connect(daemon).send(stop('stays')), b'')
        self.assert_reply(self.connect(daemon).send(stop('nobody')), b'')
        self.assert_registered(daemon, 'stays')
        self.assertFalse(node.has_ended())

    def test_stop_relaxed(self):
        daemon = self.start('-relaxed_command_check')
        node, other = self.register(daemon, 'goes'), self.register(daemon, 'stays')
        self.assert_reply(self.connect(daemon).send(stop('goes')), b'STOPPED')
        self.assert_reply(node, b'')
        self.assertEqual(daemon.names(), [(b'stays', 4711)])
        self.assertFalse(other.has_ended())
        self.register(daemon, 'goes')

    def test_stop_of_an_unknown_name(self):
        """Upstream says NOEXISTSTOPPED."""
        daemon = self.start('-relaxed_command_check')
        self.register(daemon, 'stays')
        for name in ('nobody', 'stay', 'stays junk', 'a' * 255):
            with self.subTest(name=name):
                self.assert_reply(self.connect(daemon).send(stop(name)), b'NOEXIST')
        self.assert_registered(daemon, 'stays')


class Locality(Case):
    """Who is local: loopback, v4-mapped loopback, one's own address, AF_UNIX; and what the others may ask."""

    def assert_local(self, daemon, address, source=None):
        conn = self.connect(daemon, address=address, source=source).send(alive2('local'))
        self.assertEqual(parse_alive2(conn.recv(6)).result, 0)
        conn.close()
        self.assertNotEqual(self.connect(daemon, address=address, source=source).send(dump()).read_all(), b'')
        self.assert_registered(daemon)
        self.assertEqual(self.connect(daemon, address=address, source=source).send(stop('x')).read_all(), b'NOEXIST')

    def assert_remote(self, daemon, address, source):
        """Look-ups and NAMES are answered; everything else is closed without a word, and without effect."""
        ask = lambda packet: self.connect(daemon, address=address, source=source).send(packet)
        self.assertEqual(parse_port2(ask(port2('here')).read_all()).port, 31)
        self.assert_reply(ask(port2('nobody')), b'\x77\x01')
        self.assertEqual(parse_names(ask(names()).read_all()), (address[1], [(b'here', 31)]))
        for packet in (alive2('remote'), alive2('here'), alive2(b'\xff'), dump(), kill(), stop('here'), stop('x')):
            with self.subTest(packet=packet):
                self.assert_reply(ask(packet), b'')
        self.assert_registered(daemon, 'here')

    def test_loopback_addresses(self):
        daemon = self.start('-relaxed_command_check', listeners=[self.listener('0.0.0.0')])
        for host in ('127.0.0.1', '127.0.0.2', '127.255.255.254'):
            for source in (None, '127.0.0.1', '127.9.9.9'):
                with self.subTest(host=host, source=source):
                    self.assert_local(daemon, (host, daemon.port), source)

    def test_ipv6_loopback(self):
        need_ipv6(self)
        daemon = self.start('-relaxed_command_check', listeners=[self.listener('::1')])
        self.assert_local(daemon, ('::1', daemon.port))

    def test_v4_mapped_loopback(self):
        """A dual-stack socket sees ::ffff:127.0.0.2, which upstream takes for remote."""
        need_ipv6(self)
        daemon = self.start('-relaxed_command_check', listeners=[self.listener('::', dual_stack=True)])
        self.assert_local(daemon, ('::1', daemon.port))
        for host in ('127.0.0.1', '127.0.0.2'):
            for source in ('127.0.0.1', '127.0.0.2', '127.1.2.3'):
                with self.subTest(host=host, source=source):
                    self.assert_local(daemon, (host, daemon.port), source)

    def test_unix_socket(self):
        path = os.path.join(self.directory, 'epmd')
        daemon = self.start('-relaxed_command_check', listeners=[self.listener(path)])
        self.assert_local(daemon, path)
        self.register(daemon, 'here', port=31)
        self.assertEqual(daemon.lookup('here').port, 31)
        self.assertEqual(parse_names(daemon.ask(names())).nodes, [(b'here', 31)])

    @private_network
    def test_own_address_is_local(self):
        daemon = self.start('-relaxed_command_check', listeners=[self.listener('0.0.0.0')])
        self.assert_local(daemon, (HERE_V4, daemon.port))
        self.assert_local(daemon, (OTHER_V4, daemon.port), OTHER_V4)

    @private_network
    def test_own_v4_mapped_address_is_local(self):
        need_ipv6(self)
        daemon = self.start('-relaxed_command_check', listeners=[self.listener('::', dual_stack=True)])
        self.assert_local(daemon, (HERE_V4, daemon.port))
        self.assert_local(daemon, (HERE_V6, daemon.port))

    @private_network
    def test_another_address_is_remote(self):
        daemon = self.start('-relaxed_command_check', '-allow', 'any', listeners=[self.listener('0.0.0.0')])
        self.register(daemon, 'here', address=('127.0.0.1', daemon.port), port=31)
        self.assert_remote(daemon, (HERE_V4, daemon.port), OTHER_V4)
        self.assert_remote(daemon, ('127.0.0.1', daemon.port), OTHER_V4)

    @private_network
    def test_another_v4_mapped_address_is_remote(self):
        need_ipv6(self)
        daemon = self.start('-relaxed_command_check', '-allow', 'any',
                            listeners=[self.listener('::', dual_stack=True)])
        self.register(daemon, 'here', address=('127.0.0.1', daemon.port), port=31)
        self.assert_remote(daemon, (HERE_V4, daemon.port), OTHER_V4)
        self.assert_remote(daemon, (HERE_V6, daemon.port), OTHER_V6)


if __name__ == '__main__':
    tap.main()
