#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who is answered, whose name it is, how much one may have, who may end what, and what the log says of it."""

import contextlib
import datetime
import fcntl
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

sys.dont_write_bytecode = True
import tap
from epmdtest import (  # noqa: E402
    Case, Conn, DEADLINE, EPMD, IFF_UP_RUNNING, NETLINK_SOCK_DIAG, NLM_F_REQUEST, SIOCSIFADDR, SIOCSIFFLAGS,
    SOCK_DIAG_BY_FAMILY, add_addresses, alive2, dump, kill, names, need_ipv6, parse_alive2, parse_names, port2, port_of,
    private_network, stop)
from manager import ManagerCase  # noqa: E402

ROOT, ALICE, BOB, DAEMON = 0, 61001, 61002, 61003
NO_USER = 'no-such-user-here'
REFUSED = struct.pack('>BBI', 118, 1, 99)
UNSHARE = '/usr/bin/unshare'
SETPRIV = '/usr/bin/setpriv'

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454ca, 2, 0x1000
IFA_F_TENTATIVE = 0x40
INTERFACE_V4 = '198.51.100.1'

LINES_IN_A_SECOND = 10
# Over how many seconds that is counted.
STORM_SECONDS = 2


# --- users -----------------------------------------------------------------------------------------------------------

def need_root():
    """Where another user is first needed a test ends as skipped, if it cannot be one."""
    if os.geteuid() != 0:
        raise unittest.SkipTest('needs root, to be several users')


@contextlib.contextmanager
def user(uid):
    """A socket belongs to whoever makes it."""
    need_root()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def in_child(uid, function):
    """Runs a function as a process of that user alone, to its end."""
    need_root()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            function()
            status = 0
        finally:
            os._exit(status)
    _pid, status = os.waitpid(pid, 0)
    if status != 0:
        raise AssertionError(f'a process of user {uid} ended with status {status}')


class PeopleCase(ManagerCase):
    """A test with several users."""

    def connect_as(self, uid, daemon, address=None, **how):
        with user(uid):
            return self.connect(daemon, address=address, **how)

    def ask_as(self, uid, daemon, packet):
        return self.connect_as(uid, daemon).send(packet).read_all()

    def registered(self, uid, daemon, name, address=None):
        """A node of that user; its connection."""
        conn = self.connect_as(uid, daemon, address).send(alive2(name))
        self.assertEqual(parse_alive2(conn.recv(6)).result, 0, f'result of the registration of {name!r} by {uid}')
        return conn

    def assert_refused(self, uid, daemon, name):
        """It gets the ordinary error, and the connection ends."""
        self.assert_reply(self.connect_as(uid, daemon).send(alive2(name)), REFUSED)

    def last_line(self, daemon, word):
        """The last line of the log that has the word."""
        daemon.wait_stderr(re.escape(word))
        return [line for line in daemon.err.text().splitlines() if word in line][-1]


# --- whose name ------------------------------------------------------------------------------------------------------

class Reservations(PeopleCase):
    """A reserved name is registered by its user, by root, and by nobody else."""

    def test_names_and_prefixes(self):
        daemon = self.start(env={'EPMD_RESERVE': f'rabbit:{ALICE} couch*:{BOB}'})
        for name, allowed in (('rabbit', (ROOT, ALICE)), ('rabbit2', (ROOT, ALICE, BOB)), ('couch', (ROOT, BOB)),
                              ('couchdb', (ROOT, BOB)), ('couc', (ROOT, ALICE, BOB))):
            for uid in (ROOT, ALICE, BOB):
                with self.subTest(name=name, uid=uid):
                    if uid in allowed:
                        self.registered(uid, daemon, name).close()
                        self.assert_registered(daemon)
                    else:
                        self.assert_refused(uid, daemon, name)
        self.assertEqual(daemon.names(), [])

    def test_who_asked_and_whose_it_is(self):
        daemon = self.start(f'--reserve=rabbit:{ALICE}')
        self.assert_refused(BOB, daemon, 'rabbit')
        line = self.last_line(daemon, 'Refused')
        self.assertRegex(line, rf'Refused to register rabbit at port 4711 for 127\.0\.0\.1:\d+ of \S* ?\(?uid {BOB}\b.*'
                               rf'reserved.* {ALICE}$')

    def test_a_user_by_name(self):
        nobody = pwd.getpwnam('nobody').pw_uid
        daemon = self.start(env={'EPMD_RESERVE': 'rabbit:nobody'})
        self.assert_refused(ALICE, daemon, 'rabbit')
        self.assertTrue(self.last_line(daemon, 'Refused').endswith(' nobody'))
        self.registered(nobody, daemon, 'rabbit')

    def test_a_user_who_does_not_exist(self):
        """That is said at the start, and the name stays reserved: root alone may have it."""
        daemon = self.start(env={'EPMD_RESERVE': f'rabbit:{NO_USER} couch*:{NO_USER}'})
        for name in ('rabbit', 'couch*'):
            self.assertRegex(daemon.wait_stderr(rf'.*{NO_USER}.* {re.escape(name)} .*')[0], 'EPMD_RESERVE.*only root')
        for name in ('rabbit', 'couchdb'):
            self.assert_refused(ALICE, daemon, name)
            self.registered(ROOT, daemon, name)
        self.registered(ALICE, daemon, 'free')

    def test_the_option_wins(self):
        daemon = self.start('-reserve', f'a:{ALICE}', env={'EPMD_RESERVE': f'b:{ALICE}'})
        self.assert_refused(BOB, daemon, 'a')
        self.registered(BOB, daemon, 'b')

    def test_a_bad_list(self):
        for how in ('EPMD_RESERVE', '--reserve'):
            for bad in ('rabbit', 'rabbit:', ':alice', 'a*b:alice'):
                with self.subTest(how=how, bad=bad):
                    value = f'couch:{NO_USER} {bad} x:{ALICE}'
                    option = [f'--reserve={value}'] if how == '--reserve' else []
                    env = {} if option else {'EPMD_RESERVE': value}
                    process = self.run_command('-port', self.reserve(), *option, env=env)
                    self.assertEqual(process.status, 1)
                    self.assertIn(f'"{bad}"', process.err.text())
                    self.assertIn('NAME:USER', process.err.text())


class Squatting(PeopleCase):
    """Who is refused a name can be told who has it, since when, and who asked."""

    def assert_told(self, daemon, begun, holder, asks):
        line = self.last_line(daemon, 'Refused')
        match = re.search(r'Refused to register service at port 4711 for 127\.0\.0\.1:\d+( of .*)?: the name is taken,? '
                          r'since (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}),? by (?:a|the) node at port 4711( of .*)?$', line)
        self.assertIsNotNone(match, line)
        self.assertRegex(match[1] or '', rf'\buid {asks}\b')
        self.assertRegex(match[3] or '', rf'\buid {holder}\b')
        since = datetime.datetime.strptime(match[2], '%Y-%m-%d %H:%M:%S %z').timestamp()
        self.assertGreaterEqual(since, int(begun))
        self.assertLessEqual(since, time.time())
        return match[2]

    def test_the_line(self):
        begun = time.time()
        daemon = self.start()
        self.registered(BOB, daemon, 'service')
        self.assert_refused(ALICE, daemon, 'service')
        self.assert_told(daemon, begun, BOB, ALICE)
        self.assert_refused(ROOT, daemon, 'service')
        self.assert_told(daemon, begun, BOB, ROOT)

    def test_it_is_known_after_restarts(self):
        begun = time.time()
        manager = self.manage()
        self.registered(BOB, manager.daemon, 'service')
        self.assert_refused(ALICE, manager.daemon, 'service')
        since = self.assert_told(manager.daemon, begun, BOB, ALICE)
        for number in (signal.SIGKILL, signal.SIGTERM):
            manager.restart(number)
            self.assert_refused(ALICE, manager.daemon, 'service')
            self.assertEqual(self.assert_told(manager.daemon, begun, BOB, ALICE), since)
        manager.reload()
        self.assert_refused(BOB, manager.daemon, 'service')
        self.assertEqual(self.assert_told(manager.daemon, begun, BOB, BOB), since)

    def test_the_end_has_an_owner_too(self):
        """The lines of a registration name its user; a peer's bytes are escaped there, as everywhere."""
        daemon = self.start()
        self.registered(ALICE, daemon, 'node')
        daemon.wait_stderr(rf'Registered node at port 4711 of \S* ?\(?uid {ALICE}\b')


# --- how much --------------------------------------------------------------------------------------------------------

class Quota(PeopleCase):
    """No user but root fills the daemon."""

    # 32 descriptors are the daemon's own, 32 are for those who only ask: 64 nodes, of which a user has half.
    LIMIT = ((resource.RLIMIT_NOFILE, 128, 128),)
    NODES, HALF = 64, 32

    def setUp(self):
        super().setUp()
        self.skip_under_valgrind('it takes of the descriptors that are counted here')

    def fill(self, uid, daemon, prefix, count):
        return [self.registered(uid, daemon, f'{prefix}{number}') for number in range(count)]

    def test_half_by_default(self):
        # -d, as what so many nodes have to say is more than is logged.
        daemon = self.start('-d', limits=self.LIMIT)
        nodes = self.fill(ALICE, daemon, 'a', self.HALF)
        self.assert_refused(ALICE, daemon, 'one-more')
        self.assertRegex(self.last_line(daemon, 'Refused'), rf'one-more .*uid {ALICE}\b.*as many nodes')
        self.fill(BOB, daemon, 'b', 5)
        self.fill(ROOT, daemon, 'r', self.NODES - self.HALF - 5)
        self.assert_refused(ROOT, daemon, 'too-many')
        self.assertRegex(self.last_line(daemon, 'too-many'), 'no more nodes')
        self.assertFalse([conn for conn in nodes if conn.has_ended()])

    def test_root_may_have_all(self):
        daemon = self.start(limits=self.LIMIT)
        self.fill(ROOT, daemon, 'r', self.NODES)
        self.assertEqual(len(daemon.names()), self.NODES)

    def test_the_number_given(self):
        for how in ({'env': {'EPMD_MAX_NODES_PER_USER': '3'}},
                    {'args': ['--max-nodes-per-user=3'], 'env': {'EPMD_MAX_NODES_PER_USER': '1'}}):
            with self.subTest(**how):
                daemon = self.start(*how.get('args', ()), env=how['env'])
                self.fill(ALICE, daemon, 'a', 3)
                self.fill(BOB, daemon, 'b', 3)
                self.fill(ROOT, daemon, 'r', 4)
                for uid in (ALICE, BOB):
                    self.assert_refused(uid, daemon, 'more')

    def test_leaving_frees(self):
        daemon = self.start('-max-nodes-per-user', '2')
        first, _second = self.fill(ALICE, daemon, 'a', 2)
        self.assert_refused(ALICE, daemon, 'more')
        first.close()
        self.assert_registered(daemon, 'a1')
        self.registered(ALICE, daemon, 'more')
        self.assert_refused(ALICE, daemon, 'still-more')

    def test_a_node_that_restarts_at_the_limit(self):
        """Its own former connection is not in its way."""
        daemon = self.start('-max-nodes-per-user', '1')
        for turn in range(300):
            conn = self.connect_as(ALICE, daemon).send(alive2('restarts'))
            self.assertEqual(parse_alive2(conn.recv(6)).result, 0, f'turn {turn}')
            conn.close()

    def test_refusals_do_not_count(self):
        daemon = self.start('-max-nodes-per-user', '2')
        self.registered(BOB, daemon, 'taken')
        for _turn in range(5):
            self.assert_refused(ALICE, daemon, 'taken')
        self.fill(ALICE, daemon, 'a', 2)

    def test_it_counts_what_was_there_before_a_restart(self):
        manager = self.manage('-max-nodes-per-user', '2')
        nodes = self.fill(ALICE, manager.daemon, 'a', 2)
        manager.restart()
        self.assert_refused(ALICE, manager.daemon, 'more')
        nodes[0].close()
        manager.settle_names(['a1'])
        self.registered(ALICE, manager.daemon, 'more')


# --- who may end what ------------------------------------------------------------------------------------------------

class Ends(PeopleCase):
    """KILL and STOP: upstream's rules, and only on what is one's own."""

    RELAXED = '-relaxed_command_check'

    def test_kill_while_others_are_registered(self):
        daemon = self.start(self.RELAXED)
        self.registered(ALICE, daemon, 'alices')
        self.registered(BOB, daemon, 'bobs')
        for uid in (ALICE, BOB, DAEMON):
            self.assertEqual(self.ask_as(uid, daemon, kill()), b'NO')
        self.assert_registered(daemon, 'alices', 'bobs')

    def assert_killed(self, uid, daemon):
        self.assertEqual(self.ask_as(uid, daemon, kill()), b'OK')
        daemon.wait()

    @tap.beside
    def test_kill_by_root(self):
        daemon = self.start(self.RELAXED)
        self.registered(ALICE, daemon, 'alices')
        self.assert_killed(ROOT, daemon)

    @tap.beside
    def test_kill_by_the_only_user(self):
        daemon = self.start(self.RELAXED)
        self.registered(ALICE, daemon, 'a1')
        self.registered(ALICE, daemon, 'a2')
        self.assertEqual(self.ask_as(BOB, daemon, kill()), b'NO')
        self.assert_killed(ALICE, daemon)

    @tap.beside
    def test_kill_by_the_daemons_own_user(self):
        program = os.path.join(self.directory, 'epmd')
        shutil.copy(EPMD, program)
        os.chmod(self.directory, 0o755)
        wrapper = [SETPRIV, f'--reuid={DAEMON}', f'--regid={DAEMON}', '--clear-groups']
        need_root()
        manager = self.manage(self.RELAXED, program=program, wrapper=wrapper, start=False)
        os.chown(manager.runtime, DAEMON, DAEMON)
        os.chmod(manager.directory, 0o755)
        os.chmod(manager.notify.path, 0o666)
        manager.start()
        self.registered(ALICE, manager.daemon, 'alices')
        self.assertEqual(self.ask_as(BOB, manager.daemon, kill()), b'NO')
        self.assert_killed(DAEMON, manager.daemon)

    @tap.beside
    def test_kill_with_nothing_registered(self):
        self.assert_killed(BOB, self.start())

    def test_kill_without_relaxed_checks(self):
        daemon = self.start()
        self.registered(ALICE, daemon, 'alices')
        for uid in (ROOT, ALICE, BOB):
            self.assertEqual(self.ask_as(uid, daemon, kill()), b'NO')

    def test_stop(self):
        daemon = self.start(self.RELAXED)
        for owner, asks, stopped in ((ALICE, BOB, False), (ALICE, ALICE, True), (ALICE, ROOT, True), (ROOT, ALICE, False),
                                     (ROOT, ROOT, True)):
            with self.subTest(owner=owner, asks=asks):
                node = self.registered(owner, daemon, 'node')
                self.assert_reply(self.connect_as(asks, daemon).send(stop('node')), b'STOPPED' if stopped else b'')
                self.assert_registered(daemon, *([] if stopped else ['node']))
                self.assertEqual(node.has_ended(), stopped)
                node.close()
                self.assert_registered(daemon)
        self.assertEqual(self.ask_as(BOB, daemon, stop('nobody')), b'NOEXIST')

    def test_stop_without_relaxed_checks(self):
        daemon = self.start()
        self.registered(ALICE, daemon, 'node')
        for uid in (ROOT, ALICE, BOB):
            self.assertEqual(self.ask_as(uid, daemon, stop('node')), b'')
        self.assert_registered(daemon, 'node')

    def test_hiding_does_not_help(self):
        """Whoever is gone before the request is looked at cannot be asked who it was."""
        daemon = self.start(self.RELAXED)
        self.registered(ROOT, daemon, 'roots')
        ways = {'close': Conn.close, 'reset': Conn.reset, 'half-close': Conn.half_close}
        for packet in (stop('roots'), kill()):
            for how, end in ways.items():
                with self.subTest(packet=packet, how=how):
                    def attack():
                        for _turn in range(60):
                            end(Conn(daemon.addresses[0]).send(packet))
                    in_child(ALICE, attack)
                    self.assert_registered(daemon, 'roots')

    def test_another_at_the_same_address(self):
        """What was sent before a reset is not taken for the request of whoever has the address by then."""
        daemon = self.start(self.RELAXED)
        self.registered(ROOT, daemon, 'roots')
        for packet in (stop('roots'), kill()):
            with self.subTest(packet=packet), socket.socket() as later:
                later.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                later.bind(('127.0.0.1', 0))
                source = later.getsockname()

                def attack():
                    with socket.socket() as sock:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        sock.bind(source)
                        sock.connect(daemon.addresses[0])
                        sock.sendall(packet)
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                daemon.stop()
                try:
                    in_child(ALICE, attack)
                    later.connect(daemon.addresses[0])
                finally:
                    daemon.signal(signal.SIGCONT)
                self.assert_registered(daemon, 'roots')

    def test_half_closed_and_known(self):
        """A request whose sender has said all that it has to say is as good as any."""
        daemon = self.start(self.RELAXED)
        for uid in (ALICE, ROOT):
            node = self.registered(ALICE, daemon, 'node')
            self.assertEqual(self.connect_as(uid, daemon).send(stop('node')).half_close().read_all(), b'STOPPED')
            node.close()


# --- who it is -------------------------------------------------------------------------------------------------------

class Identity(PeopleCase):
    """The user of a peer is found whatever way it came; what is not known fails nothing."""

    def assert_known(self, daemon, address, uid=ALICE):
        """Known, as a reserved name is given to its user and to no one else."""
        conn = self.registered(uid, daemon, 'mine', address)
        conn.close()
        self.assert_registered(daemon)
        self.assert_reply(self.connect_as(BOB, daemon, address).send(alive2('mine')), REFUSED)

    def test_ipv4(self):
        daemon = self.start(f'--reserve=mine:{ALICE}', listeners=[self.listener('0.0.0.0')])
        for host in ('127.0.0.1', '127.0.0.2', '127.1.2.3'):
            self.assert_known(daemon, (host, daemon.port))

    def test_ipv6(self):
        need_ipv6(self)
        daemon = self.start(f'--reserve=mine:{ALICE}', listeners=[self.listener('::1')])
        self.assert_known(daemon, ('::1', daemon.port))

    def test_v4_mapped(self):
        """IPv4 by a dual-stack listener, from sockets of both families."""
        need_ipv6(self)
        daemon = self.start(f'--reserve=mine:{ALICE}', listeners=[self.listener('::', dual_stack=True)])
        for host in ('127.0.0.1', '127.0.0.2', '::1', '::ffff:127.0.0.1', '::ffff:127.0.0.2'):
            with self.subTest(host=host):
                self.assert_known(daemon, (host, daemon.port))

    def test_unix_socket(self):
        path = os.path.join(self.directory, 'socket')
        sock = self.listener(path)
        os.chmod(self.directory, 0o755)
        os.chmod(path, 0o666)
        self.assert_known(self.start(f'--reserve=mine:{ALICE}', listeners=[sock]), path)

    @private_network
    def test_ones_own_addresses(self):
        add_peers()
        daemon = self.start(f'--reserve=mine:{ALICE}', listeners=[self.listener('0.0.0.0')])
        for host in (PUBLIC_V4[0], PRIVATE_V4[0]):
            self.assert_known(daemon, (host, daemon.port))

    def assert_found(self, daemon, host, device, scope=None):
        """The user is known of a socket that is bound to an interface, which the kernel finds only for who asks for that."""
        address = (host, daemon.port, 0, scope) if scope else (host, daemon.port)
        with user(ALICE):
            conn = self.connect(daemon, address=address, device=device).send(alive2('mine'))
        self.assertEqual(parse_alive2(conn.recv(6)).result, 0, f'{host} by {device}')
        conn.close()
        self.assert_registered(daemon)
        with user(BOB):
            self.assert_reply(self.connect(daemon, address=address, device=device).send(alive2('mine')), REFUSED)

    def test_bound_to_an_interface(self):
        need_ipv6(self)
        for host, listens, dual_stack in (('127.0.0.1', '127.0.0.1', False), ('127.0.0.2', '::', True), ('::1', '::', True)):
            with self.subTest(host=host, listens=listens):
                sock = self.listener(listens, dual_stack=dual_stack)
                self.assert_found(self.start(f'--reserve=mine:{ALICE}', listeners=[sock]), host, 'lo')

    @private_network
    def test_bound_to_another_interface(self):
        """Of whose address it comes, over lo all the same; a link-local address binds by itself."""
        need_ipv6(self)
        tap_fd, link_local = self.add_interface('other', INTERFACE_V4)
        self.addCleanup(os.close, tap_fd)
        daemon = self.start(f'--reserve=mine:{ALICE}', listeners=[self.listener('::', dual_stack=True)])
        self.assert_found(daemon, INTERFACE_V4, 'other')
        for device in ('other', None):
            self.assert_found(daemon, link_local, device, socket.if_nametoindex('other'))
        daemon = self.start(f'--reserve=mine:{ALICE}', listeners=[self.listener('0.0.0.0')])
        self.assert_found(daemon, INTERFACE_V4, 'other')

    def add_interface(self, name, host):
        """In a private network: an interface that is up as long as the descriptor is open; and its link-local address."""
        need_root()
        try:
            tun = os.open('/dev/net/tun', os.O_RDWR | os.O_CLOEXEC)
        except OSError as problem:
            self.skipTest(f'no interface can be made here: {problem}')
        fcntl.ioctl(tun, TUNSETIFF, struct.pack('16sH22x', name.encode(), IFF_TAP | IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            address = struct.pack('=HH4s8x', socket.AF_INET, 0, socket.inet_aton(host))
            fcntl.ioctl(control, SIOCSIFADDR, struct.pack('16s16s', name.encode(), address))
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack('16sH14x', name.encode(), IFF_UP_RUNNING))
        deadline = time.monotonic() + DEADLINE
        while True:
            with open('/proc/net/if_inet6', encoding='ascii') as lines:
                rows = [line.split() for line in lines]
            # Neither tentative nor of a device that is not.
            found = [row[0] for row in rows if row[5] == name and not int(row[4], 16) & IFA_F_TENTATIVE]
            if found:
                return tun, socket.inet_ntop(socket.AF_INET6, bytes.fromhex(found[0]))
            self.assertLess(time.monotonic(), deadline, f'no link-local address of {name}: {rows}')
            time.sleep(0.01)

    def test_binding_is_no_way_around_the_quota(self):
        daemon = self.start('-max-nodes-per-user', '2')
        self.registered(ALICE, daemon, 'a0')
        with user(ALICE):
            conn = self.connect(daemon, device='lo').send(alive2('a1'))
            self.assertEqual(parse_alive2(conn.recv(6)).result, 0)
            self.assert_reply(self.connect(daemon, device='lo').send(alive2('a2')), REFUSED)
        self.assertRegex(self.last_line(daemon, 'Refused'), rf'a2 .*uid {ALICE}\b.*as many nodes')
        self.assert_refused(ALICE, daemon, 'a2')
        self.registered(BOB, daemon, 'b')

    def netlink(self):
        """As ListenNetlink=inet-diag 0 gives it, with replies in it that were meant for an earlier process."""
        sock = self.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG))
        body = struct.pack('=BBBBI', socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xffffffff) + bytes(36)
        body += struct.pack('=III', 0, 0xffffffff, 0xffffffff)
        for sequence in range(1, 20):
            sock.send(struct.pack('=IHHII', 16 + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, sequence, 0) + body)
        return sock

    def apart(self, *args, **how):
        """A daemon in an empty network of its own, as PrivateNetwork=yes makes it."""
        if not os.access(UNSHARE, os.X_OK):
            self.skipTest(f'no {UNSHARE}')
        need_root()
        return self.manage(*args, wrapper=[UNSHARE, '--net'], **how)

    def test_the_socket_that_is_passed_in(self):
        manager = self.apart(f'--reserve=mine:{ALICE}', listeners=[self.listener(), self.netlink()],
                             fd_names=['epmd.socket', 'epmd.socket'])
        self.assert_known(manager.daemon, manager.address)
        manager.restart()
        self.assert_known(manager.daemon, manager.address)
        manager.reload()
        self.assert_known(manager.daemon, manager.address)

    def among_few(self, *args, **how):
        """A daemon in a user namespace where root alone has a number, as with PrivateUsers=yes."""
        if not os.access(UNSHARE, os.X_OK):
            self.skipTest(f'no {UNSHARE}')
        need_root()
        wrapper = [UNSHARE, '--user', '--map-root-user']
        if subprocess.run([*wrapper, '/bin/true'], capture_output=True).returncode != 0:
            self.skipTest('no user namespace can be made here')
        return self.manage(*args, wrapper=wrapper, **how)

    def assert_strangers(self, manager, address):
        """Those without a number are not taken for one another, nor for who has the number that is told for all."""
        daemon = manager.daemon
        nobody = pwd.getpwnam('nobody').pw_uid
        alices = self.registered(ALICE, daemon, 'alices', address)
        for uid in (ALICE, BOB, nobody):
            self.assert_reply(self.connect_as(uid, daemon, address).send(alive2('mine')), REFUSED)
        roots = self.registered(ROOT, daemon, 'roots', address)
        for uid in (ALICE, BOB, nobody):
            self.assert_reply(self.connect_as(uid, daemon, address).send(stop('roots')), b'')
            self.assert_reply(self.connect_as(uid, daemon, address).send(kill()), b'NO')
        roots.close()
        self.assert_registered(daemon, 'alices')
        # Together they are one user.
        bobs = self.registered(BOB, daemon, 'bobs', address)
        self.assert_reply(self.connect_as(ALICE, daemon, address).send(alive2('more')), REFUSED)
        self.assert_reply(self.connect_as(nobody, daemon, address).send(alive2('more')), REFUSED)
        self.assertFalse(alices.has_ended() or bobs.has_ended())
        for node in (alices, bobs):
            node.close()
        self.assert_registered(daemon)

    FEW = ('--reserve=mine:nobody', '-relaxed_command_check', '-max-nodes-per-user', '2')

    def test_users_without_a_number(self):
        """Over a local socket, and by a sock_diag socket that is the daemon's own; after a reload as well."""
        path = os.path.join(self.directory, 'socket')
        local = self.listener(path)
        os.chmod(self.directory, 0o755)
        os.chmod(path, 0o666)
        manager = self.among_few(*self.FEW, listeners=[self.listener(), local])
        for _turn in range(2):
            self.assert_strangers(manager, path)
            self.assert_strangers(manager, manager.address)
            manager.reload()

    def test_the_socket_that_is_passed_in_knows_all_numbers(self):
        manager = self.among_few(f'--reserve=mine:{ALICE}', listeners=[self.listener(), self.netlink()],
                                 fd_names=['epmd.socket', 'epmd.socket'])
        self.assert_known(manager.daemon, manager.address)
        manager.reload()
        self.assert_known(manager.daemon, manager.address)

    @tap.beside
    def test_unknown(self):
        """Then all is as it is upstream, and a reserved name is nobody's."""
        manager = self.apart(f'--reserve=mine:{ALICE}', '-relaxed_command_check', '-max-nodes-per-user', '1')
        daemon = manager.daemon
        for number in range(3):
            self.registered(ALICE, daemon, f'node{number}')
        self.assert_refused(ALICE, daemon, 'mine')
        self.assert_refused(ROOT, daemon, 'mine')
        self.assert_refused(BOB, daemon, 'node0')
        self.assertNotIn('uid', manager.log())
        self.assertNotEqual(self.ask_as(BOB, daemon, dump()), b'')
        self.assertEqual(self.ask_as(BOB, daemon, stop('node0')), b'STOPPED')
        self.assert_registered(daemon, 'node1', 'node2')
        self.assertEqual(self.ask_as(BOB, daemon, kill()), b'OK')
        daemon.wait()


# --- who is answered -------------------------------------------------------------------------------------------------

# The daemon's address and the peer's.
PUBLIC_V4, PRIVATE_V4 = ('203.0.113.1', '203.0.113.2'), ('192.168.77.1', '192.168.77.2')
CARRIER_V4, LINK_V4 = ('100.64.0.1', '100.127.255.254'), ('169.254.1.1', '169.254.2.2')
TEN_V4, TWELVE_V4 = ('10.0.0.1', '10.255.255.254'), ('172.16.0.1', '172.31.255.254')
PUBLIC_V6, PRIVATE_V6 = ('2001:db8:1::1', '2001:db8:1::2'), ('fd00:1::1', 'fd00:1::2')
ALL_PRIVATE_V4 = (PRIVATE_V4, CARRIER_V4, LINK_V4, TEN_V4, TWELVE_V4)


def add_peers():
    """In a private network: more addresses for lo. A connection from one to another comes from elsewhere."""
    add_addresses(b'p', sum((PUBLIC_V4, *ALL_PRIVATE_V4), ()), (*PUBLIC_V6, *PRIVATE_V6))


class ReachCase(Case):
    """Peers of several networks."""

    def wide(self, dual_stack=False):
        """A listener on every address."""
        return self.listener('::' if dual_stack else '0.0.0.0', dual_stack=dual_stack)

    def reach(self, *args, dual_stack=False, **how):
        add_peers()
        return self.start(*args, listeners=[self.wide(dual_stack)], **how)

    def from_peer(self, daemon, pair):
        return self.connect(None, address=(pair[0], daemon.port), source=pair[1])

    def assert_answered(self, daemon, *pairs):
        for pair in pairs:
            with self.subTest(pair=pair):
                reply = self.from_peer(daemon, pair).send(port2('nobody')).read_all()
                self.assertEqual(reply, b'\x77\x01')

    def assert_not_answered(self, daemon, *pairs):
        """Closed at once: nothing was sent, so nothing was waited for."""
        for pair in pairs:
            with self.subTest(pair=pair):
                self.assert_silent_close(self.from_peer(daemon, pair))
                with contextlib.suppress(ConnectionError):
                    self.assert_silent_close(self.from_peer(daemon, pair).send(names()))

    def assert_local_answered(self, daemon, *hosts):
        """Processes of this host register, by whatever address of theirs."""
        for host in ('127.0.0.1', *hosts):
            with self.subTest(host=host):
                conn = self.connect(daemon, address=(host, daemon.port), source=host).send(alive2('local'))
                self.assertEqual(parse_alive2(conn.recv(6)).result, 0)
                conn.close()
                self.assert_registered(daemon)


class Reach(ReachCase):
    """--allow and EPMD_ALLOW."""

    @private_network
    def test_private_by_default(self):
        daemon = self.reach()
        self.assert_answered(daemon, *ALL_PRIVATE_V4)
        self.assert_not_answered(daemon, PUBLIC_V4)
        self.assert_local_answered(daemon, PUBLIC_V4[0], PUBLIC_V4[1], PRIVATE_V4[0])

    @private_network
    def test_private_by_a_dual_stack_socket(self):
        need_ipv6(self)
        daemon = self.reach(dual_stack=True)
        self.assert_answered(daemon, *ALL_PRIVATE_V4, PRIVATE_V6)
        self.assert_not_answered(daemon, PUBLIC_V4, PUBLIC_V6)
        self.assert_local_answered(daemon, PUBLIC_V4[0], '::1', PUBLIC_V6[0], PRIVATE_V6[1])

    def check_values(self, rows, dual_stack):
        """What is answered, and what is not, by each value, as a variable and as an option."""
        add_peers()
        for value, answered, not_answered in rows:
            for how in ({'env': {'EPMD_ALLOW': value}}, {'option': value}):
                with self.subTest(**how):
                    args = ['--allow', how['option']] if 'option' in how else []
                    # A variable that is overridden must not show.
                    env = how.get('env', {'EPMD_ALLOW': 'any' if not_answered else 'local'})
                    daemon = self.start(*args, listeners=[self.wide(dual_stack)], env=env)
                    self.assert_answered(daemon, *answered)
                    self.assert_not_answered(daemon, *not_answered)
                    self.assert_local_answered(daemon, PUBLIC_V4[0])

    @private_network
    def test_values(self):
        self.check_values((
            ('local', [], [PRIVATE_V4, LINK_V4, PUBLIC_V4]),
            ('private', [PRIVATE_V4, LINK_V4], [PUBLIC_V4]),
            ('any', [PRIVATE_V4, LINK_V4, PUBLIC_V4], []),
            ('203.0.113.2', [PUBLIC_V4], [PRIVATE_V4]),
            ('203.0.113.3', [], [PUBLIC_V4, PRIVATE_V4]),
            ('203.0.113.0/24', [PUBLIC_V4], [PRIVATE_V4]),
            ('203.0.112.0/24', [], [PUBLIC_V4]),
            ('203.0.113.2/31,10.0.0.0/8', [PUBLIC_V4, TEN_V4], [PRIVATE_V4]),
            ('private, 203.0.113.2', [PRIVATE_V4, PUBLIC_V4], []),
            ('::ffff:203.0.113.0/120', [PUBLIC_V4], [PRIVATE_V4]),
            ('0.0.0.0/0', [PRIVATE_V4, PUBLIC_V4], []),
            ('::/0', [], [PRIVATE_V4, PUBLIC_V4]),
        ), dual_stack=False)

    @private_network
    def test_values_by_a_dual_stack_socket(self):
        need_ipv6(self)
        self.check_values((
            ('local', [], [PRIVATE_V4, PUBLIC_V4, PRIVATE_V6, PUBLIC_V6]),
            ('any', [PRIVATE_V4, PUBLIC_V4, PRIVATE_V6, PUBLIC_V6], []),
            ('203.0.113.0/24,2001:db8:1::2', [PUBLIC_V4, PUBLIC_V6], [PRIVATE_V4, PRIVATE_V6]),
            ('2001:db8::/32', [PUBLIC_V6], [PRIVATE_V6, PUBLIC_V4]),
            ('::/0', [PRIVATE_V6, PUBLIC_V6], [PRIVATE_V4, PUBLIC_V4]),
            ('0.0.0.0/0', [PRIVATE_V4, PUBLIC_V4], [PRIVATE_V6, PUBLIC_V6]),
        ), dual_stack=True)

    @private_network
    def test_no_value(self):
        """An empty variable is none."""
        daemon = self.reach(env={'EPMD_ALLOW': ''})
        self.assert_answered(daemon, PRIVATE_V4)
        self.assert_not_answered(daemon, PUBLIC_V4)

    def test_a_bad_list(self):
        """It is named, and nothing listens."""
        for value, bad in (('x', 'x'), ('private,203.0.113.0/33,any', '203.0.113.0/33'), ('local any-one', 'any-one'),
                           ('2001:db8::/129', '2001:db8::/129'), ('host.example', 'host.example')):
            for how in ('EPMD_ALLOW', '--allow'):
                with self.subTest(value=value, how=how):
                    port = self.reserve()
                    option, env = ([how, value], {}) if how == '--allow' else ([], {how: value})
                    process = self.run_command('-port', port, *option, env=env)
                    self.assertEqual(process.status, 1)
                    self.assertIn(f'"{bad}"', process.err.text())
                    self.assertIn(how, process.err.text())
                    with self.assertRaises(ConnectionRefusedError):
                        Conn(('127.0.0.1', port))

    @private_network
    def test_they_cost_no_slot(self):
        """Many who are not answered, and do not leave: nobody notices."""
        daemon = self.reach(limits=((resource.RLIMIT_NOFILE, 64, 64),))
        node = self.register(daemon, 'node')
        strangers = [self.from_peer(daemon, PUBLIC_V4) for _number in range(500)]
        daemon.settle(lambda: sum(daemon.leaked().values()) == 1, 'one descriptor more than at the start')
        self.assertEqual([stranger.read_all() for stranger in strangers], [b''] * 500)
        self.assertFalse(node.has_ended())
        for number in range(5):
            self.register(daemon, f'more{number}')


class Setting(ReachCase):
    """The log names the exact setting that would have had a peer answered."""

    def assert_setting(self, daemon, pair, *args, env=None, dual_stack=False):
        self.assert_not_answered(daemon, pair)
        match = daemon.wait_stderr(r'Did not answer (\S+); to admit it .*?(EPMD_ALLOW|--allow)=(".*?"|\S+)')
        peer = f'[{pair[1]}]' if ':' in pair[1] else pair[1]
        self.assertEqual(match[1].rsplit(':', 1)[0], peer)
        value = match[3].strip('"')
        args, env = list(args), dict(env or {})
        if match[2] == '--allow':
            args.append(f'--allow={value}')
        else:
            env['EPMD_ALLOW'] = value
        obeyed = self.start(*args, listeners=[self.wide(dual_stack)], env=env)
        self.assert_answered(obeyed, pair)
        return obeyed

    @private_network
    def test_of_the_default(self):
        daemon = self.reach()
        self.assert_answered(self.assert_setting(daemon, PUBLIC_V4), PRIVATE_V4)

    @private_network
    def test_of_a_list(self):
        env = {'EPMD_ALLOW': 'local,10.0.0.0/8'}
        daemon = self.reach(env=env)
        obeyed = self.assert_setting(daemon, PRIVATE_V4, env=env)
        self.assert_answered(obeyed, TEN_V4)
        self.assert_not_answered(obeyed, PUBLIC_V4)

    @private_network
    def test_of_a_list_with_blanks(self):
        env = {'EPMD_ALLOW': '10.0.0.0/8, 172.16.0.0/12'}
        obeyed = self.assert_setting(self.reach(env=env), PRIVATE_V4, env=env)
        self.assert_answered(obeyed, TEN_V4, TWELVE_V4)

    @private_network
    def test_of_an_option(self):
        """A variable would not help where the option is given."""
        args = ['--allow=local']
        self.assert_setting(self.reach(*args), PRIVATE_V4, *args)

    @private_network
    def test_of_ipv6(self):
        need_ipv6(self)
        obeyed = self.assert_setting(self.reach(dual_stack=True), PUBLIC_V6, dual_stack=True)
        self.assert_answered(obeyed, PRIVATE_V6, PRIVATE_V4)

    @private_network
    def test_of_a_v4_mapped_address(self):
        need_ipv6(self)
        daemon = self.reach(dual_stack=True)
        self.assert_setting(daemon, PUBLIC_V4, dual_stack=True)
        self.assertNotIn('::ffff:', daemon.err.text())


class Listeners(ReachCase):
    """A socket whose FileDescriptorName is a word has that rule of its own."""

    @private_network
    def test_words(self):
        add_peers()
        for allow in ('any', 'local', 'private'):
            with self.subTest(allow=allow):
                socks = {name: self.wide() for name in ('local', 'private', 'any', 'epmd.socket')}
                daemon = self.start(listeners=list(socks.values()), fd_names=list(socks), env={'EPMD_ALLOW': allow})
                for name, sock in socks.items():
                    rule = allow if name == 'epmd.socket' else name
                    self.assert_rule(port_of(sock), PRIVATE_V4, rule in ('private', 'any'))
                    self.assert_rule(port_of(sock), PUBLIC_V4, rule == 'any')
                    self.register(daemon, f'local-{name}', address=('127.0.0.1', port_of(sock)))

    def assert_rule(self, port, pair, answered):
        with self.subTest(port=port, pair=pair):
            conn = self.connect(None, address=(pair[0], port), source=pair[1])
            if answered:
                self.assertEqual(parse_names(conn.send(names()).read_all()).port, port)
            else:
                self.assert_silent_close(conn)

    @private_network
    def test_what_is_said(self):
        daemon = self.reach(fd_names=['local'])
        self.assert_not_answered(daemon, PRIVATE_V4)
        line = daemon.wait_stderr('.*Did not answer.*')[0]
        self.assertIn('FileDescriptorName', line)
        self.assertNotIn('EPMD_ALLOW', line)

    @private_network
    def test_one_that_only_begins_like_a_word(self):
        add_peers()
        for name in ('localhost', 'any.socket', 'Any', 'epmd'):
            with self.subTest(name=name):
                daemon = self.start(listeners=[self.wide()], fd_names=[name])
                self.assert_answered(daemon, PRIVATE_V4)
                self.assert_not_answered(daemon, PUBLIC_V4)


# --- shares ----------------------------------------------------------------------------------------------------------

class Shares(ReachCase):
    """What connections that wait may take, and for whom the last places are."""

    # 68 connections, of which 8 are for this host.
    LIMIT = ((resource.RLIMIT_NOFILE, 100, 100),)
    CONNECTIONS, LOCAL_PLACES, NODES = 68, 8, 36

    def setUp(self):
        super().setUp()
        self.skip_under_valgrind('it takes of the descriptors that are counted here')

    def idle(self, daemon, pair, count):
        """Connections that have sent half a request, seen by the daemon one after the other."""
        return [self.from_peer(daemon, pair).send(b'\0').wait_consumed() for _number in range(count)]

    def open_of(self, conns):
        return sum(not conn.has_ended() for conn in conns)

    @private_network
    def test_a_quarter_for_an_address(self):
        daemon = self.reach(limits=self.LIMIT)
        nodes = [self.register(daemon, f'node{number}') for number in range(8)]
        share = (self.CONNECTIONS - len(nodes)) // 4
        conns = self.idle(daemon, PRIVATE_V4, share)
        self.assertEqual(self.open_of(conns), share)
        more = self.idle(daemon, PRIVATE_V4, 10)
        for conn in more:
            self.assert_silent_close(conn)
        self.assertEqual(self.open_of(conns), share, 'the first are left alone')
        # Others have their own.
        self.assertEqual(self.open_of(self.idle(daemon, TEN_V4, share)), share)
        conns.pop().close()
        daemon.settle(lambda: sum(daemon.leaked().values()) == len(nodes) + 2 * share - 1, 'one has left')
        self.assertEqual(self.open_of(self.idle(daemon, PRIVATE_V4, 1)), 1)

    @private_network
    def test_an_ipv6_network_is_one(self):
        need_ipv6(self)
        daemon = self.reach(dual_stack=True, limits=self.LIMIT)
        share = self.CONNECTIONS // 4
        other = (PRIVATE_V6[1], PRIVATE_V6[0])
        conns = self.idle(daemon, PRIVATE_V6, share - 3) + self.idle(daemon, other, 3)
        self.assertEqual(self.open_of(conns), share)
        for pair in (PRIVATE_V6, other):
            self.assert_silent_close(self.idle(daemon, pair, 1)[0])
        self.assertEqual(self.open_of(self.idle(daemon, PRIVATE_V4, share)), share)

    @private_network
    def test_the_last_places_are_local(self):
        """Strangers from everywhere; who comes from this host finds a place and takes none from them until it must."""
        daemon = self.reach(limits=self.LIMIT)
        room = self.CONNECTIONS - self.LOCAL_PLACES
        pairs = (PRIVATE_V4, TEN_V4, CARRIER_V4, LINK_V4)
        conns = [conn for pair in pairs for conn in self.idle(daemon, pair, room // len(pairs))]
        self.assertEqual(self.open_of(conns), room)
        nodes = [self.register(daemon, f'node{number}') for number in range(self.LOCAL_PLACES)]
        self.assertEqual(self.open_of(conns), room, 'nobody had to yield yet')
        nodes += [self.register(daemon, f'more{number}') for number in range(10)]
        self.assertEqual(self.open_of(conns), room - 10)
        self.assertFalse([node for node in nodes if node.has_ended()])

    @private_network
    def test_who_takes_all_places_yields(self):
        """Anybody of this host may take most of them; then he gives way, to strangers, too, and they not to him."""
        daemon = self.reach(limits=self.LIMIT)
        places = self.CONNECTIONS - self.LOCAL_PLACES
        idle = [self.connect(daemon).send(b'\0').wait_consumed() for _number in range(places)]
        stranger = self.idle(daemon, PRIVATE_V4, 1)[0]
        self.assert_silent_close(idle.pop(0))
        idle += [self.connect(daemon).send(b'\0').wait_consumed() for _number in range(places)]
        self.assertFalse(stranger.has_ended())
        self.assertEqual(parse_names(self.from_peer(daemon, TEN_V4).send(names()).read_all()).nodes, [])

    @private_network
    def test_nobody_yields_to_a_stranger(self):
        """Of nodes and some who wait on this host."""
        daemon = self.reach(limits=self.LIMIT)
        nodes = [self.register(daemon, f'node{number}') for number in range(self.NODES)]
        idle = [self.connect(daemon).send(b'\0').wait_consumed() for _number in range(self.CONNECTIONS - self.NODES - 8)]
        self.assert_silent_close(self.idle(daemon, PRIVATE_V4, 1)[0])
        daemon.wait_stderr('New connections are closed until others end')
        self.assertEqual(self.open_of(idle + nodes), len(idle) + len(nodes))

    @private_network
    def test_the_oldest_yields(self):
        daemon = self.reach(limits=self.LIMIT)
        pairs = (PRIVATE_V4, TEN_V4, CARRIER_V4, LINK_V4, TWELVE_V4)
        room = self.CONNECTIONS - self.LOCAL_PLACES
        conns = [conn for pair in pairs for conn in self.idle(daemon, pair, room // len(pairs))]
        self.assertEqual(self.open_of(conns), room)
        for turn in range(3):
            late = self.idle(daemon, pairs[turn], 1)[0]
            self.assert_silent_close(conns[turn])
            self.assertFalse(late.has_ended())
        self.assertEqual(self.open_of(conns), room - 3)
        daemon.wait_stderr('LimitNOFILE')

    def test_the_oldest_of_this_host_yields(self):
        daemon = self.start(limits=self.LIMIT)
        nodes = [self.register(daemon, f'node{number}') for number in range(10)]
        room = self.CONNECTIONS - len(nodes)
        idle = [self.connect(daemon).send(b'\0').wait_consumed() for _number in range(room)]
        self.assertEqual(self.open_of(idle), room)
        nodes.append(self.register(daemon, 'late'))
        self.assert_silent_close(idle[0])
        self.assertEqual(self.open_of(idle[1:]), room - 1)
        self.assertEqual(len(daemon.names()), len(nodes))
        self.assertFalse([node for node in nodes if node.has_ended()])


# --- the log ---------------------------------------------------------------------------------------------------------

class LogLimits(ReachCase):
    """Nothing a peer does writes more than ten lines a second; what is left out is counted."""

    def everything(self, daemon):
        """All that peers can do to have something logged, many times over."""
        for _turn in range(50):
            self.from_peer(daemon, PUBLIC_V4).close()
            node = self.register(daemon, 'node')
            self.assert_reply(self.connect(daemon).send(alive2('node')), REFUSED)
            self.assert_reply(self.connect(daemon).send(alive2('a\nb')), REFUSED)
            node.close()
            self.connect(daemon).send(b'\xff\xff').close()
            # With this many more it is at its limit of connections.
            for conn in [self.connect(daemon) for _number in range(2)]:
                conn.send(b'\0')

    @tap.beside
    @private_network
    def test_lines(self):
        """What the log gets in a second, whichever, and what it is told of the rest: once it is over, without more ado."""
        daemon = self.reach(limits=((resource.RLIMIT_NOFILE, 100, 100),))
        daemon.drain()
        at_start = len(daemon.err.text().splitlines())
        begun = time.monotonic()
        while time.monotonic() - begun < STORM_SECONDS:
            self.everything(daemon)
        took = time.monotonic() - begun
        daemon.drain()
        lines = daemon.err.text().splitlines()[at_start:]
        self.assertLessEqual(len(lines), LINES_IN_A_SECOND * (took + 1))
        for word in ('Did not answer', 'Registered node', 'Unregistered node', 'Refused to register', 'held back'):
            self.assertTrue([line for line in lines if word in line], word)
        seen = len(daemon.err.text())
        # Far more than are logged, so that there surely is a rest: of the storm itself a few lines may be left, or none.
        self.everything(daemon)
        told = daemon.wait_stderr(r'(?s)\A.{%d}.*?(\d+) messages? (?:were|was) held back' % seen)
        self.assertGreater(int(told[1]), 0)

    def test_one_kind_leaves_room_for_another(self):
        """Nobody hides what he is refused behind his registrations."""
        daemon = self.start()
        self.register(daemon, 'wanted')
        for number in range(LINES_IN_A_SECOND):
            self.register(daemon, f'node{number}').close()
        self.assert_reply(self.connect(daemon).send(alive2('wanted')), REFUSED)
        daemon.wait_stderr('Refused to register wanted')

    @private_network
    def test_what_was_held_back_is_told_at_the_end(self):
        daemon = self.reach()
        nodes = [self.register(daemon, f'node{number}') for number in range(LINES_IN_A_SECOND)]
        self.assertEqual(len(nodes), LINES_IN_A_SECOND)
        daemon.signal(signal.SIGTERM)
        daemon.wait()
        lines = [line for line in daemon.err.text().splitlines() if 'Registered node' in line]
        told = re.findall(r'(\d+) messages? (?:were|was) held back', daemon.err.text())
        self.assertEqual(len(lines) + sum(int(number) for number in told), LINES_IN_A_SECOND)

    @private_network
    def test_debug_leaves_nothing_out(self):
        daemon = self.reach('-d')
        for _turn in range(100):
            self.from_peer(daemon, PUBLIC_V4).read_all()
        daemon.drain()
        self.assertEqual(daemon.err.text().count('Did not answer'), 100)


if __name__ == '__main__':
    tap.main()
