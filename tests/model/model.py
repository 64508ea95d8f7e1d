# SPDX-License-Identifier: Apache-2.0
"""What an epmd does, as small as it can be said: bytes of connections in, replies and ends of connections out.

Nothing here is fast, waits, or knows about sockets. How the epmd of Erlang/OTP differs from ours is in Rules and nowhere
else: each field is a line of COMPATIBILITY in epmd(1), or of the policy.
"""

import collections
import functools
import ipaddress
import struct

LONGEST_REQUEST = 3057
LONGEST_EXTRA = 1020
LONGEST_NAME_BYTES = 1020
LONGEST_NAME = 255
REMEMBERED = 1000
ALIVE2, PORT2, NAMES, DUMP, KILL, STOP = b'x', b'z', b'n', b'd', b'k', b's'

RULES = {
    'refuses_control': True,   # a name with a control character, or an empty one, is refused
    'refused_ends': True,      # the connection of a refused registration is closed
    'finds_longest': True,     # a name of 255 characters can be looked up
    'unknown_stop': b'NOEXIST',
    'gone_is_free': True,      # a name whose holder has closed its connection is free, read or not
    'unique': True,            # no creation is ever given twice, to whatever name
    'survives': True,          # registrations outlive the process
    'undoes_others': False,    # a refusal that cannot be sent unregisters whoever has the name
    'loses_replies': False,    # bytes behind a request may cost its reply
    'knows_users': True,
    'relaxed': False,
    'allow': (),               # networks that are answered besides this host; None: all
    'reserve': (),             # pairs of a name, or prefix*, and the user whose it is
    'quota': 1 << 30,          # nodes of one user
    'own_user': 0,
}
UPSTREAM = {
    'refuses_control': False, 'refused_ends': False, 'finds_longest': False, 'unknown_stop': b'NOEXISTSTOPPED',
    'gone_is_free': False, 'unique': False, 'survives': False, 'undoes_others': True, 'loses_replies': True, 'knows_users': False,
    'allow': None,
}
Rules = collections.namedtuple('Rules', RULES, defaults=RULES.values())

# Whose connection it is: addresses of both its ends, and the user.
Peer = collections.namedtuple('Peer', 'source target user')
Node = collections.namedtuple('Node', 'name port type protocol high low extra user conn serial')
Released = collections.namedtuple('Released', 'name port serial')
# What has come of a connection: bytes, or Registered in the place of a reply, and whether the daemon has closed it.
Outcome = collections.namedtuple('Outcome', 'reply ended')
Registered = collections.namedtuple('Registered', 'name high')
NOTHING = Outcome(b'', False)
# A connection: what became of it, and the bytes that were not dealt with.
WAITING, REGISTERED, REFUSED = 'waiting', 'registered', 'refused'
Conn = collections.namedtuple('Conn', 'peer state data')


@functools.cache
def is_local(peer):
    source, target = ipaddress.ip_address(peer.source), ipaddress.ip_address(peer.target)
    return source.is_loopback or source == target


def is_admitted(rules, peer):
    if rules.allow is None or is_local(peer):
        return True
    source = ipaddress.ip_address(peer.source)
    return any(source in ipaddress.ip_network(net) for net in rules.allow)


def is_text(name):
    try:
        return 0 < len(name) <= LONGEST_NAME_BYTES and len(name.decode()) <= LONGEST_NAME
    except UnicodeDecodeError:
        return False


def has_control(name):
    return any(byte < 32 or byte == 127 for byte in name)


def reserved_for(rules, name):
    """The user that a name is reserved for, or None: the whole name counts before a prefix, a longer one before a shorter."""
    exact = [user for pattern, user in rules.reserve if pattern.encode() == name]
    prefixes = [(len(pattern), user) for pattern, user in rules.reserve
                if pattern.endswith('*') and name.startswith(pattern[:-1].encode())]
    return exact[0] if exact else max(prefixes)[1] if prefixes else None


class Model:
    """One epmd, between two events. An event is a method; copies are independent."""

    def __init__(self, rules, port):
        self.rules, self.port = rules, port
        self.nodes = ()     # the newest last
        self.released = ()  # the last one last
        self.serial = 0
        self.conns = {}
        self.out = {}       # Outcome of the connections that something has come of since the last step
        self.running = True
        self.hung_up = ()   # connections whose end has arrived, whether or not it has been read
        self.refused = ()   # names that were taken, with the connections that asked for them
        self.touched = set()  # what was registered on the way to this state or to its siblings: pairs of name and connection

    def copy(self):
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.conns, other.out = dict(self.conns), dict(self.out)
        return other

    def key(self):
        """What tells one state from another."""
        return (self.nodes, self.released, self.running, frozenset(self.conns.items()), frozenset(self.out.items()))

    def forget_history(self):
        """Only the order of the registrations matters later, not how many others there were."""
        serials = sorted(item.serial for item in self.nodes + self.released)
        rank = {serial: number for number, serial in enumerate(serials)}
        self.nodes = tuple(node._replace(serial=rank[node.serial]) for node in self.nodes)
        self.released = tuple(item._replace(serial=rank[item.serial]) for item in self.released)
        self.serial = len(serials)
        self.out, self.hung_up, self.refused, self.touched = {}, (), (), set()

    # --- events

    def connect(self, conn, peer):
        """A connection is made, and accepted."""
        self.out[conn] = NOTHING
        if is_admitted(self.rules, peer):
            self.conns[conn] = Conn(peer, WAITING, b'')
        else:
            self._close(conn)

    def receive(self, conn, data, known=True):
        """Bytes that come in one piece; known: the user can be told."""
        if conn not in self.conns:
            self._close(conn)
            return
        peer, state, before = self.conns[conn]
        if state != WAITING:
            self.end(conn)
            return
        packet = before + data
        length = struct.unpack('>H', packet[:2])[0] if len(packet) >= 2 else None
        if length is None:
            self.conns[conn] = Conn(peer, WAITING, packet)
        elif not 1 <= length <= LONGEST_REQUEST or (len(before) < 2 and len(packet) > 2 + length):
            self._close(conn)
        elif len(packet) < 2 + length:
            self.conns[conn] = Conn(peer, WAITING, packet)
        else:
            user = peer.user if known and self.rules.knows_users else None
            self._request(conn, peer, packet[2:2 + length], user)
            self._leave(conn, packet[2 + length:])

    def receive_all(self, conn, pieces, known=True):
        """Bytes in pieces that come one behind the other. What comes behind a registration is still to be read then."""
        was_waiting = conn not in self.conns or self.conns[conn].state == WAITING
        for piece in pieces:
            if was_waiting and conn in self.conns and self.conns[conn].state != WAITING:
                self._leave(conn, piece)
            else:
                self.receive(conn, piece, known)

    def read_surplus(self, conn):
        """Bytes that were left are read: there must be none behind a registration."""
        if conn in self.conns and self.conns[conn].state != WAITING and self.conns[conn].data:
            self.end(conn)

    def undo(self, conn):
        """The refusal of a taken name could not be sent. The node that loses its name does not notice."""
        for other in [node for node in self.nodes if (conn, node.name) in self.refused]:
            holder = self.conns.pop(other.conn)
            self._release(other.conn)
            self.conns[other.conn] = holder._replace(state=REFUSED)

    def end(self, conn):
        """The peer has closed, or done what ends a connection."""
        if conn in self.conns:
            self._close(conn)

    def restart(self):
        """The process ends, and another one takes its place. Only what is registered or remembered outlives it."""
        for conn, (_peer, state, _data) in list(self.conns.items()):
            if state != REGISTERED or not self.rules.survives:
                self._close(conn)
        if not self.rules.survives:
            self.released = ()
        # Those released are told in the order in which they were registered.
        self.released = tuple(sorted(self.released, key=lambda item: item.serial))
        self.running = True

    # --- what follows from them

    def _leave(self, conn, data):
        if conn in self.conns:
            self.conns[conn] = self.conns[conn]._replace(data=self.conns[conn].data + data)

    def _say(self, conn, reply):
        self.out[conn] = self.out.get(conn, NOTHING)._replace(reply=reply)

    def _close(self, conn):
        self.out[conn] = self.out.get(conn, NOTHING)._replace(ended=True)
        self.conns.pop(conn, None)
        self._release(conn)

    def _release(self, conn):
        for node in self.nodes:
            if node.conn == conn:
                self.nodes = tuple(other for other in self.nodes if other is not node)
                self.released = (*self.released, Released(node.name, node.port, node.serial))[-REMEMBERED:]

    def _answer(self, conn, reply):
        self._say(conn, reply)
        self._close(conn)

    def _find(self, name):
        return next((node for node in self.nodes if node.name == name), None)

    def _request(self, conn, peer, body, user):
        tag, rest = body[:1], body[1:]
        local = is_local(peer)
        if tag == PORT2:
            self._port2(conn, rest)
        elif tag == NAMES:
            self._answer(conn, self.names())
        elif tag == ALIVE2 and local:
            self._alive2(conn, body, user)
        elif tag == DUMP and local:
            self._answer(conn, self.dump())
        elif tag == KILL and local:
            self._kill(conn, user)
        elif tag == STOP and local and self.rules.relaxed and rest:
            self._stop(conn, rest.split(b'\0')[0], user)
        else:
            self._close(conn)

    def _alive2(self, conn, body, user):
        if len(body) <= 13:
            return self._close(conn)
        port, kind, protocol, high, low, nlen = struct.unpack('>HBBHHH', body[1:11])
        name = body[11:11 + nlen]
        if 13 + nlen > len(body) or b'\0' in name:
            return self._close(conn)
        (elen,) = struct.unpack('>H', body[11 + nlen:13 + nlen])
        extra = body[13 + nlen:13 + nlen + elen]
        if len(extra) < elen:
            return self._close(conn)
        node = Node(name, port, kind, protocol, high, low, extra, user, conn, self.serial)
        if self._may_register(node):
            self.serial += 1
            self.nodes += (node,)
            self.touched.add((name, conn))
            self.released = tuple(item for item in self.released if item.name != name)
            self.conns[conn] = self.conns[conn]._replace(state=REGISTERED, data=b'')
            self._say(conn, Registered(name, high))
            return None
        self.refused += ((conn, name),)
        self._say(conn, struct.pack('>BBI', 118, 1, 99) if high >= 6 else struct.pack('>BBH', 121, 1, 99))
        if self.rules.refused_ends:
            self._close(conn)
        else:
            self.conns[conn] = self.conns[conn]._replace(state=REFUSED, data=b'')
        return None

    def _may_register(self, node):
        if len(node.extra) > LONGEST_EXTRA:
            return False
        if not is_text(node.name) and not (node.name == b'' and not self.rules.refuses_control):
            return False
        if self.rules.refuses_control and has_control(node.name):
            return False
        if reserved_for(self.rules, node.name) not in (None, node.user) and node.user != 0:
            return False
        holder = self._find(node.name)
        if holder and self.rules.gone_is_free and holder.conn in self.hung_up:
            self.end(holder.conn)
            holder = None
        of_user = [other for other in self.nodes if other.user == node.user]
        if node.user not in (None, 0) and len(of_user) >= self.rules.quota:
            return False
        return not holder

    def _port2(self, conn, name):
        name = name[:-1] if name.endswith(b'\0') else name
        longest = LONGEST_NAME if self.rules.finds_longest else LONGEST_NAME - 1
        if not is_text(name) or b'\0' in name or len(name.decode()) > longest:
            return self._close(conn)
        node = self._find(name)
        if not node:
            return self._answer(conn, b'\x77\x01')
        fixed = struct.pack('>HBBHHH', node.port, node.type, node.protocol, node.high, node.low, len(name))
        return self._answer(conn, b'\x77\0' + fixed + name + struct.pack('>H', len(node.extra)) + node.extra)

    def names(self):
        """The reply to NAMES."""
        lines = [b'name %s at port %d\n' % (node.name, node.port) for node in reversed(self.nodes)]
        return struct.pack('>I', self.port) + b''.join(lines)

    def dump(self):
        """The reply to DUMP, but for the numbers of descriptors."""
        lines = [b'active name     <%s> at port %d, fd = *\n\0' % (node.name, node.port) for node in reversed(self.nodes)]
        lines += [b'old/unused name <%s>, port = %d, fd = * \n\0' % item[:2] for item in self.released]
        return struct.pack('>I', self.port) + b''.join(lines)

    def _kill(self, conn, user):
        if not self._may_kill(user):
            return self._answer(conn, b'NO')
        for node in self.nodes:
            self.end(node.conn)
        self.running = False
        return self._answer(conn, b'OK')

    def _may_kill(self, user):
        if not self.nodes:
            return True
        if not self.rules.relaxed:
            return False
        owners = {node.user for node in self.nodes}
        if user is None:
            return owners == {None}
        return user in (0, self.rules.own_user) or owners == {user}

    def _stop(self, conn, name, user):
        node = self._find(name)
        if not node:
            return self._answer(conn, self.rules.unknown_stop)
        if node.user not in (None, user) and (user is None or user != 0):
            return self._close(conn)
        self.end(node.conn)
        return self._answer(conn, b'STOPPED')


class Creations:
    """What every creation must be: none of a few, and no earlier one of the name."""

    def __init__(self, rules):
        self.rules = rules
        self.given = {}  # the long ones, and to whom
        self.last = {}   # of each name, with its form; None where nobody has seen it

    def check(self, registered, reply):
        """What is wrong with the reply to a registration, or None."""
        name, high = registered
        tag, size = (118, 6) if high >= 6 else (121, 4)
        if len(reply) != size or reply[:2] != bytes((tag, 0)):
            return f'not the reply of {size} bytes to a registration'
        creation, known = int.from_bytes(reply[2:], 'big'), len(self.given)
        last, self.last[name] = self.last.get(name), (tag, creation)
        if tag == 121:
            if not 1 <= creation <= 3:
                return f'creation {creation} is not one of 1, 2, 3'
            return 'the creation is that of before' if last == (tag, creation) else None
        before = self.given.setdefault(creation if self.rules.unique else (name, creation), name)
        if creation <= 3:
            return f'creation {creation} is one of 0 to 3'
        if len(self.given) == known:
            return f'creation {creation} was given before, to {before!r}'
        return None

    def unseen(self, names):
        """These may have been registered by who has not read the reply."""
        for name in names:
            self.last[name] = None
