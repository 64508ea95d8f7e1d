#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The Varlink socket of the daemon: what it tells, and what it does not let its clients do to it."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import resource
import socket
import struct
import sys
import termios
import time

sys.dont_write_bytecode = True
import tap  # noqa: E402
from epmdtest import Case, DEADLINE, names as names_request, port2, readable  # noqa: E402
from manager import memory_of  # noqa: E402

REQUEST_MAX = 16 * 1024
CHANNELS_MAX = 32
EPMD, SERVICE = 'org.erlang.epmd', 'org.varlink.service'


def message(method, parameters=None, **more):
    """A call, as bytes with the NUL behind it."""
    call = dict(method=method, **more)
    if parameters is not None:
        call['parameters'] = parameters
    return json.dumps(call).encode() + b'\0'


LIST, STATISTICS = message(f'{EPMD}.List'), message(f'{EPMD}.Statistics')


class VarlinkCase(Case):
    """A daemon with a port and a Varlink socket."""

    def start_both(self, *args, ports=1):
        self.path = os.path.join(self.directory, 'varlink')
        listeners = [self.listener() for _ in range(ports)] + [self.listener(self.path)]
        return self.start(*args, listeners=listeners, fd_names=['epmd.socket'] * ports + ['varlink'])

    def channel(self, daemon):
        return self.connect(daemon, address=self.path)

    def reply(self, channel):
        """The next reply of a channel: nothing may follow it."""
        data = bytearray()
        while not data.endswith(b'\0'):
            piece = channel.recv_once()
            self.assertTrue(piece, f'the channel was closed after {bytes(data)!r}')
            data += piece
        self.assertEqual(data.count(b'\0'), 1)
        return json.loads(data[:-1])

    def ask(self, channel, *args, **more):
        return self.reply(channel.send(message(*args, **more)))

    def parameters(self, channel, *args):
        """Of a reply that is no error."""
        answer = self.ask(channel, *args)
        self.assertEqual(list(answer), ['parameters'])
        return answer['parameters']

    def error(self, channel, *args):
        answer = self.ask(channel, *args)
        self.assertEqual(sorted(answer), ['error', 'parameters'])
        return answer['error'], answer['parameters']

    def assert_closed(self, channel):
        """The daemon ends the connection without a byte, and may have left input unread."""
        with contextlib.suppress(BrokenPipeError):
            self.assert_silent_close(channel)

    def assert_serves(self, daemon, *nodes):
        self.assertEqual(sorted(name for name, _port in daemon.names()), sorted(node.encode() for node in nodes))


def wait_read(channel):
    """Waits until the daemon has read all that was sent."""
    deadline = time.monotonic() + DEADLINE
    while struct.unpack('i', fcntl.ioctl(channel.fileno(), termios.TIOCOUTQ, b'\0' * 4))[0] > 0:
        if time.monotonic() >= deadline:
            raise AssertionError('the daemon does not read what was sent')
        readable([channel], 0.001)


class Descriptors(VarlinkCase):

    def test_signs_of_life_need_none(self):
        """Clients of both kinds take all descriptors that are left; the service manager hears of the daemon all the same."""
        self.path = os.path.join(self.directory, 'varlink')
        daemon = self.start(listeners=[self.listener(), self.listener(self.path)], fd_names=['epmd.socket', 'varlink'],
                            limits=((resource.RLIMIT_NOFILE, 256, 256),), watchdog_usec=200000)
        clients = [self.channel(daemon) for _ in range(CHANNELS_MAX)]
        clients += [self.connect(daemon).send(b'\0') for _ in range(256)]
        # When this is answered those before it have been accepted; the next takes its place.
        daemon.names()
        clients.append(self.connect(daemon).send(b'\0'))
        daemon.settle(lambda: len(os.listdir(f'/proc/{daemon.pid}/fd')) == 256, 'all descriptors are taken')
        daemon.notify.drain()
        daemon.notify.taken = len(daemon.notify.messages)
        for _turn in range(4):
            daemon.notify.wait('WATCHDOG', '1', process=daemon)
        for client in clients:
            client.close()


class Memory(VarlinkCase):

    def test_lists_that_nobody_reads(self):
        """All of them together are bounded: the oldest is closed."""
        self.skip_where_memory_is_kept()
        daemon = self.start_both()
        for number in range(600):
            self.register(daemon, '\U0001f600' * 252 + f'{number:03}', extra=bytes(1000))
        before = memory_of(daemon.pid)
        channels = [self.channel(daemon) for _ in range(CHANNELS_MAX)]
        for channel in channels:
            channel.send(LIST)
            self.assertTrue(readable([channel], DEADLINE))
        self.assertLess(memory_of(daemon.pid) - before, 40 * 1024)
        self.assertEqual(len(self.reply(channels[-1])['parameters']['nodes']), 600)
        with contextlib.suppress(ConnectionResetError):
            self.assertNotIn(b'\0', channels[0].read_all())
        for channel in channels:
            channel.close()


class Content(VarlinkCase):
    def test_nodes(self):
        daemon = self.start_both()
        channel = self.channel(daemon)
        self.assertEqual(self.parameters(channel, f'{EPMD}.List'), {'nodes': []})
        before = time.time_ns() // 1000
        conn = self.register(daemon, 'nød "1"', port=4711, node_type=104, high=6, low=5, extra=b'\0\xff')
        after = time.time_ns() // 1000
        node = self.parameters(channel, f'{EPMD}.Lookup', {'name': 'nød "1"'})['node']
        self.assertLessEqual(before - 1000000, node['since'])
        self.assertLessEqual(node.pop('since'), after + 1000000)
        # Who asks for the owner may be in another network namespace than the daemon.
        owner = node.pop('uid', os.geteuid()), node.pop('unit', '')
        self.assertEqual((owner[0], type(owner[1])), (os.geteuid(), str))
        self.assertEqual(node, {
            'name': 'nød "1"', 'port': 4711, 'type': 104, 'protocol': 0, 'highestVersion': 6, 'lowestVersion': 5,
            'creation': conn.creation, 'extra': base64.b64encode(b'\0\xff').decode(),
            'peer': '{}:{}'.format(*conn.sock.getsockname())})
        self.register(daemon, 'b')
        # A list that was just made may be given once more.
        deadline = time.monotonic() + DEADLINE
        while (found := [item['name'] for item in self.parameters(channel, f'{EPMD}.List')['nodes']]) != \
                ['b', 'nød "1"'] and time.monotonic() < deadline:
            readable([], 0.001)
        self.assertEqual(found, ['b', 'nød "1"'])

    def test_not_registered(self):
        daemon = self.start_both()
        for name in ('x', '', 'x' * 2000):
            self.assertEqual(self.error(self.channel(daemon), f'{EPMD}.Lookup', {'name': name})[0],
                             f'{EPMD}.NotRegistered')

    def test_statistics(self):
        daemon = self.start_both()
        self.register(daemon, 'a')
        daemon.ask(port2('a'))
        daemon.ask(port2('b'))
        told = self.parameters(self.channel(daemon), f'{EPMD}.Statistics')
        self.assertEqual((told['port'], told['nodes'], told['connections']), (daemon.port, 1, 1))
        counters = told['counters']
        self.assertEqual([counters[key] for key in ('registrations', 'lookups', 'misses')], [1, 2, 1])

    def test_several_ports(self):
        """Which of them a number counts for cannot be said."""
        self.assertNotIn('port', self.parameters(self.channel(self.start_both(ports=2)), f'{EPMD}.Statistics'))

    def test_beside_any_name(self):
        """The socket is found by its name also where the name of another one has colons in it, which are what divides
        the names."""
        names = ['epmd@\\x5b2001:db8::7\\x5d.socket', 'epmd@\\x5b::1\\x5d.socket', 'epmd.socket', 'varlink']
        for order in itertools.permutations(names):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.directory, 'varlink'))
            self.path = os.path.join(self.directory, 'varlink')
            listeners = [self.listener(self.path) if name == 'varlink' else self.listener() for name in order]
            address = next(sock.getsockname()[:2] for sock in listeners if sock.family == socket.AF_INET)
            daemon = self.start(listeners=listeners, fd_names=order)
            self.assertEqual(self.parameters(self.channel(daemon), f'{EPMD}.List'), {'nodes': []}, order)
            self.assertEqual(daemon.ask(names_request(), address), struct.pack('>I', address[1]), order)
            self._end_daemon(daemon)

    def test_service(self):
        """What varlinkctl asks first; each member of a reply is in the description of its interface."""
        daemon = self.start_both()
        self.register(daemon, 'a')
        channel = self.channel(daemon)
        info = self.parameters(channel, f'{SERVICE}.GetInfo')
        self.assertEqual(info['interfaces'], [SERVICE, EPMD])
        self.assertEqual(sorted(info), ['interfaces', 'product', 'url', 'vendor', 'version'])
        texts = {name: self.parameters(channel, f'{SERVICE}.GetInterfaceDescription', {'interface': name})['description']
                 for name in info['interfaces']}
        for name, text in texts.items():
            self.assertIn(f'interface {name}\n', text)
        node = self.parameters(channel, f'{EPMD}.Lookup', {'name': 'a'})['node']
        for member in [*node, *self.parameters(channel, f'{EPMD}.Statistics'), 'nodes']:
            self.assertRegex(texts[EPMD], rf'\b{member}: ')
        for method in ('List', 'Lookup', 'Statistics'):
            self.assertIn(f'method {method}(', texts[EPMD])
        self.assertEqual(self.error(channel, f'{SERVICE}.GetInterfaceDescription', {'interface': 'org.x'}),
                         (f'{SERVICE}.InterfaceNotFound', {'interface': 'org.x'}))

    def test_unknown(self):
        """An error is an answer: the channel stays."""
        daemon = self.start_both()
        channel = self.channel(daemon)
        for method, error in ((f'{EPMD}.Nothing', f'{SERVICE}.MethodNotFound'),
                              (f'{SERVICE}.Nothing', f'{SERVICE}.MethodNotFound'),
                              ('List', f'{SERVICE}.MethodNotFound'), ('', f'{SERVICE}.MethodNotFound'),
                              (f'{EPMD}.', f'{SERVICE}.MethodNotFound')):
            self.assertEqual(self.error(channel, method), (error, {'method': method}))
        for interface in ('org.erlang', f'{EPMD}.List', f'{EPMD}x', f'x{EPMD}', '', 'io.systemd.Resolve'):
            self.assertEqual(self.error(channel, f'{interface}.List'),
                             (f'{SERVICE}.InterfaceNotFound', {'interface': interface}))
        for method, name in ((f'{EPMD}.Lookup', 'name'), (f'{SERVICE}.GetInterfaceDescription', 'interface')):
            for parameters in (None, {}, {name: 1}, {name: None}, {name: ['a']}, {name: {}}, {'other': 'a'}):
                self.assertEqual(self.error(channel, method, parameters),
                                 (f'{SERVICE}.InvalidParameter', {'parameter': name}))
        self.assertEqual(self.parameters(channel, f'{EPMD}.List', {'more': 'than is asked for'}), {'nodes': []})

    def test_flags(self):
        daemon = self.start_both()
        channel = self.channel(daemon)
        self.assertEqual(self.ask(channel, f'{EPMD}.List', more=True), {'parameters': {'nodes': []}})
        self.assertEqual(self.ask(channel, f'{EPMD}.List', upgrade=True), {'parameters': {'nodes': []}})
        for method in (f'{EPMD}.List', f'{EPMD}.Nothing', 'x'):
            channel.send(message(method, oneway=True))
        self.assertIn('counters', self.parameters(channel, f'{EPMD}.Statistics'))


class Framing(VarlinkCase):
    def test_split(self):
        """Anywhere, and at every byte."""
        channel = self.channel(self.start_both())
        for at in range(1, len(LIST)):
            channel.send(LIST[:at])
            wait_read(channel)
            channel.send(LIST[at:])
            self.assertEqual(self.reply(channel), {'parameters': {'nodes': []}}, at)
        for byte in LIST:
            channel.send(bytes([byte]))
            wait_read(channel)
        self.assertEqual(self.reply(channel), {'parameters': {'nodes': []}})

    def test_several_at_once(self):
        """Each gets its reply, in their order; the last one is not whole yet."""
        channel = self.channel(self.start_both())
        calls = [message(f'{EPMD}.Nothing{number}') for number in range(50)]
        channel.send(b''.join(calls) + LIST[:20])
        data = bytearray()
        while data.count(b'\0') < len(calls):
            data += channel.recv_once()
        self.assertEqual([json.loads(reply)['parameters']['method'] for reply in data.split(b'\0')[:-1]],
                         [f'{EPMD}.Nothing{number}' for number in range(50)])
        self.assertEqual(self.reply(channel.send(LIST[20:])), {'parameters': {'nodes': []}})

    def test_half_close(self):
        """Who has nothing more to ask is still answered."""
        channel = self.channel(self.start_both())
        self.assertEqual(channel.send(LIST).half_close().read_all(), b'{"parameters":{"nodes":[]}}\0')

    def test_longest(self):
        """At the limit it is a message, one byte more is none."""
        daemon = self.start_both()
        longest = LIST[:-1].ljust(REQUEST_MAX - 1) + b'\0'
        channel = self.channel(daemon).send(longest + longest)
        self.assertEqual(channel.recv(2 * 28).count(b'\0'), 2)
        self.assert_closed(self.channel(daemon).send(LIST[:-1].ljust(REQUEST_MAX)))
        self.assertEqual(self.ask(channel, f'{EPMD}.List'), {'parameters': {'nodes': []}})

    def test_endless(self):
        daemon = self.start_both()
        self.register(daemon, 'a')
        channel = self.channel(daemon)
        with self.assertRaises((BrokenPipeError, ConnectionResetError)):
            while True:
                channel.send(b'{' * 65536)
        self.assert_serves(daemon, 'a')


class Malformed(VarlinkCase):
    def test_closes_that_connection_alone(self):
        daemon = self.start_both()
        self.register(daemon, 'a')
        good = self.channel(daemon)
        for data in (b'', b'\xff\xfe', b'{', b'}', b'[]', b'null', b'1', b'"x"', b'{}', b'{"method":1}', b'{"method":null}',
                     b'{"method":["org.erlang.epmd.List"]}', b'{"parameters":{}}', LIST[:-2], LIST[:-1] + b'x',
                     b'{"method":"a","method":"b"}', b'{"method":"org.erlang.epmd.List","parameters":[]}',
                     b'{"method":"org.erlang.epmd.List","parameters":"x"}', b'{"method":"\xff"}',
                     b'{"method":"\\ud800"}', b'{"method":"\\u0000"}', b'[' * (REQUEST_MAX - 1), b'{"a":' * 3000, b'GET / HTTP/1.0\r\n\r\n',
                     b'\x00\x01n'):
            self.assert_closed(self.channel(daemon).send(data + b'\0'))
            self.assertEqual(len(self.parameters(good, f'{EPMD}.List')['nodes']), 1, data[:40])
        self.assert_serves(daemon, 'a')

    def test_good_before_bad(self):
        """What was asked properly is answered first."""
        channel = self.channel(self.start_both()).send(LIST + b'x\0' + LIST)
        self.assertEqual(channel.read_all(), b'{"parameters":{"nodes":[]}}\0')

    def test_reset(self):
        """Who leaves in the middle of a message, or before the reply, leaves nothing behind."""
        daemon = self.start_both()
        for data in (b'', LIST[:10], LIST, LIST * 100):
            self.channel(daemon).send(data).close()
        self.assert_serves(daemon)


class Limits(VarlinkCase):
    def test_channels(self):
        """When there are too many the oldest gives way."""
        daemon = self.start_both()
        self.register(daemon, 'a')
        channels = []
        for _ in range(CHANNELS_MAX):
            channels.append(self.channel(daemon))
            self.parameters(channels[-1], f'{EPMD}.Statistics')
        self.assertEqual(len(self.parameters(channels[0], f'{EPMD}.List')['nodes']), 1)
        for number in range(3):
            late = self.channel(daemon)
            self.parameters(late, f'{EPMD}.Statistics')
            self.assert_closed(channels[number])
            self.parameters(channels[number + 1], f'{EPMD}.Statistics')
        self.assert_serves(daemon, 'a')

    def test_deadline(self):
        """So much time for everything, whatever one does or does not do with it; meanwhile the others are served."""
        daemon = self.start_both('-packet_timeout', '1')
        extra = b'x' * 1020
        for number in range(40):
            self.register(daemon, f'n{number}', extra=extra)
        silent, partial, unread, dripping = [self.channel(daemon) for _ in range(4)]
        begun = time.monotonic()
        partial.send(LIST[:10])
        # Never reads: what it asks for fills its socket, then the daemon stops to take its requests.
        unread.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while unread.sock.send(LIST * 100):
                pass
        with contextlib.suppress(OSError):
            while not readable([dripping], 0.02):
                dripping.send(b' ')
        self.assertGreaterEqual(time.monotonic() - begun, 0.9)
        for channel in (silent, partial, dripping):
            self.assert_closed(channel)
        unread.sock.settimeout(DEADLINE)
        self.assertIn(unread.read_all()[:20], (b'{"parameters":{"nodes', b'{"parameters":{"node'))
        self.assertEqual(len(daemon.names()), 40)
        self.assertEqual(len(self.parameters(self.channel(daemon), f'{EPMD}.List')['nodes']), 40)

    def test_who_does_not_read_delays_nobody(self):
        daemon = self.start_both()
        self.register(daemon, 'a', extra=b'x' * 1020)
        unread = self.channel(daemon)
        unread.sock.setblocking(False)
        # This has an end only if the daemon does not keep replies without end.
        with contextlib.suppress(BlockingIOError):
            while unread.sock.send(LIST * 100):
                pass
        self.assertEqual(len(self.parameters(self.channel(daemon), f'{EPMD}.List')['nodes']), 1)
        self.assertEqual(daemon.ask(names_request())[:4], struct.pack('>I', daemon.port))


if __name__ == '__main__':
    tap.main()
