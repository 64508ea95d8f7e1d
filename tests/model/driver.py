# SPDX-License-Identifier: Apache-2.0
"""Plays random steps on a daemon, and compares all that comes with what the model says.

The ops of a step are under way at once, so that the daemon may do them in any order: the model does them in all of them, and
goes on with each state that explains what was seen. When none does, that is a difference.
"""

import collections
import itertools
import re
import signal

from model import NOTHING, WAITING, Creations, Model, Peer, Registered
from player import PATIENCE, Ended, Player

MAX_WORLDS = 3000
NAMES, DUMP = b'\0\1n', b'\0\1d'
ONE_NODE = b'\0\x0ex\0\0M\0\0\6\0\6\0\1a\0\0'

# What a sequence runs on: options of the daemon, the rules that follow from them, and seconds to wait for an answer.
Setting = collections.namedtuple('Setting', 'program args rules listen patience', defaults=[PATIENCE])


class Difference(Exception):
    """The daemon did not do what the model does."""

    def __init__(self, what, kind, wanted=()):
        super().__init__(what)
        # kind: answers, creation, noticed, descriptors, ended; wanted: for answers all that would have been right, each the
        # outcomes by connection.
        self.what, self.kind, self.wanted = what, kind, list(wanted)


# --- all that may have happened ----------------------------------------------------------------------------------------

def is_fired(op):
    return op[0] == 'send' and op[4] in ('close', 'reset')


def is_end(op):
    return op[0] in ('half', 'close', 'reset')


def has_surplus(op, begin):
    """Whether it may bring bytes that are no part of a request."""
    _kind, conn, _peer, pieces, _then = op
    found = [world.conns[conn] for world in begin if conn in world.conns]
    packet = (found[0].data if found else b'') + b''.join(pieces)
    return any(one.state != WAITING for one in found) or len(packet) > 2 + int.from_bytes(packet[:2], 'big')


def data_atoms(op, pieces, known, is_new, apart, begin):
    """The events of bytes: the connection may be apart from them, and what is too much always is."""
    _kind, conn, peer, _pieces, _then = op
    connect = [('connect', conn, peer)] if is_new else []
    receive = [('receive_all', conn, pieces, known)]
    surplus = [[('read_surplus', conn)]] if has_surplus(op, begin) else []
    return ([connect, receive] if connect and apart else [connect + receive]) + surplus


def alternatives(op, is_new, may_drop, begin):
    """The lists of events, each in its order, that an op can come to."""
    if op[0] == 'pause':
        return [[]]
    if is_end(op):
        return [[[('end', op[1])]]]
    _kind, conn, _peer, pieces, then = op
    end = [] if then == 'stay' else [[('end', conn)]]
    pieces = tuple(piece for piece in pieces if piece)
    splits = [pieces] + ([(b''.join(pieces),)] if len(pieces) > 1 else [])
    found = []
    # Whose a connection is cannot be told once its other side has closed it.
    for split, known in itertools.product(splits, [True, False] if end else [True]):
        atoms = data_atoms(op, split, known, is_new, may_drop, begin)
        found.append(atoms + end)
        if then in ('close', 'reset') and begin[0].rules.undoes_others:
            found.append(atoms + [[('undo', conn)]] + end)
        if may_drop:
            found.append(atoms + [[('mute', conn)]] + end)
    # A reset connection may be gone before any of its bytes is read.
    if then == 'reset':
        found.append([[('end', conn)]])
    return found


class Thread:
    """An op on its way: its number, its events in their order, and what is known of it."""

    def __init__(self, number, op, atoms, is_new, is_down):
        self.number, self.op, self.atoms, self.is_new, self.is_down = number, op, atoms, is_new, is_down


class Step:
    """The states that a step can lead to."""

    def __init__(self, step, links):
        self.step, self.links = step, links
        self.signal = step.get('signal')
        self.ops = step['ops'] + step.get('down', [])
        self.ends_process = self.signal is not None and self.signal != signal.SIGHUP
        self.may_drop = self.ends_process and self.signal != 0
        self.n_before = len(step['ops'])

    def worlds(self, begin):
        """All states after it, from those before it."""
        found = {}
        for model in begin:
            for threads in itertools.product(*self._threads(begin)):
                for world in self._run(model, threads):
                    found[world.key()] = world
                if len(found) > MAX_WORLDS:
                    raise OverflowError('too many states: make the step smaller')
        return list(found.values())

    def _threads(self, begin):
        for number, op in enumerate(self.ops):
            is_new, is_down = op[1] not in self.links, number >= self.n_before
            yield [Thread(number, op, atoms, is_new, is_down)
                   for atoms in alternatives(op, is_new, self.may_drop and not is_down, begin)]

    def _run(self, model, threads):
        """Every order of the events: from one number of events done to the next, states that are the same are one."""
        states = {((0,) * len(threads), False, model.key()): model}
        total = sum(len(thread.atoms) for thread in threads) + (self.signal is not None)
        for _event in range(total):
            after = {}
            for (done, restarted, _key), world in states.items():
                if self.signal is not None and not restarted and self._may_restart(world, threads, done):
                    other = world.copy()
                    other.restart()
                    after[done, True, other.key()] = other
                for number, thread in enumerate(threads):
                    other = self._advance(world, threads, done, restarted, number, thread)
                    if other:
                        where = done[:number] + (done[number] + 1,) + done[number + 1:]
                        after[where, restarted, other.key()] = other
            states = after
        return states.values()

    def _may_restart(self, world, threads, done):
        """Who ends by request has had one; a new program takes over only when requests under way are done."""
        if self.signal == 0:
            return not world.running
        if self.signal == signal.SIGHUP:
            return all(done[i] > 0 or thread.is_down or thread.is_new or is_end(thread.op) or not thread.atoms
                       for i, thread in enumerate(threads))
        return True

    def _advance(self, world, threads, done, restarted, number, thread):
        if done[number] == len(thread.atoms):
            return None
        atom = thread.atoms[done[number]]
        kinds = {event[0] for event in atom}
        # The next process sees the end of a node before it takes it over, or after.
        if self.ends_process and thread.is_down and not restarted and not is_end(thread.op):
            return None
        if 'mute' in kinds and restarted:
            return None
        # What ended while no process was there is seen to before anyone is answered.
        if self.ends_process and restarted and 'receive_all' in kinds and not all(
                done[i] for i, other in enumerate(threads) if is_end(other.op)):
            return None
        other = world.copy()
        other.hung_up = tuple(op[1] for op in self.ops[:thread.number] if is_end(op) or is_fired(op) or op[-1] == 'half')
        for kind, conn, *rest in atom:
            if kind == 'mute':
                other.end(conn)
                other.out[conn] = NOTHING._replace(ended=True)
            else:
                getattr(other, kind)(conn, *rest)
        return other


# --- what was seen -----------------------------------------------------------------------------------------------------

def same(outcome, seen, rules, is_rough):
    """Whether what was seen is the outcome. is_rough: the process was ended meanwhile, or bytes may have come when it had closed
    the connection."""
    if seen.end not in ('open', 'eof', 'reset') or (seen.end != 'open' and not outcome.ended):
        return False
    # The reply to a registration was not read any further: whether the node was stopped at once is looked at later.
    if seen.end == 'open' and outcome.ended and not isinstance(outcome.reply, Registered):
        return False
    if isinstance(outcome.reply, Registered):
        return seen.reply[:2] == (b'\x76\0' if outcome.reply.high >= 6 else b'\x79\0')
    reply = re.sub(rb'fd = \d+', b'fd = *', seen.reply)
    if seen.end == 'reset' and rules.loses_replies and outcome.reply.startswith(reply):
        return True
    # Where a reply comes, a proper end comes behind it.
    return reply == outcome.reply and (seen.end != 'reset' or not reply or is_rough)


def how_to_look(outcomes):
    """How the player is to wait for one of these."""
    if outcomes == {NOTHING}:
        return 'quiet'
    if all(outcome.ended for outcome in outcomes):
        return 'end'
    return 'answer' if NOTHING not in outcomes else None


class Sequence:
    """One daemon and one model, step by step. What was played, for a script, is in `played`."""

    def __init__(self, setting, model_of=Model):
        self.setting, self.rules = setting, setting.rules
        self.player = Player(setting.program, setting.args, setting.listen, self.rules.refused_ends, setting.patience)
        self.creations = Creations(self.rules)
        self.worlds = [model_of(self.rules, self.player.port)]
        self.played, self.ops = [], 0
        self.own = self.number = 0
        self.names = set()

    def __enter__(self):
        try:
            self.player.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error):
        self.log = self.player.said()
        self.player.close()

    def run(self, steps):
        """All steps, and what must be true at the end of any."""
        for self.number, step in enumerate(steps):
            self.step(step)
        self.finish()

    def step(self, step):
        """One step, and what it takes to know the state after it."""
        step = self._usable(step)
        if step is None:
            return
        before = self.worlds
        self._play(step)
        # A close is a reset too where the reply was not read.
        ended = {op[1] for op in step['ops'] + step.get('down', []) if op[0] == 'reset' or is_fired(op)}
        gone = {node.name for world in before for node in world.nodes if node.conn in ended}
        gone |= {name for name, conn in self.touched if conn in ended}
        gone -= {node.name for world in self.worlds for node in world.nodes}
        if gone:
            self._play({'ops': [], 'look': {}, 'absent': sorted(gone)})
        if gone or 'signal' in step or len(self.worlds) > 1:
            self.ask(NAMES)
        if len(self.worlds) > 1:
            self.ask(DUMP)
        self._see_ended(conn for conn in sorted(self.player.links) if not any(conn in world.conns for world in self.worlds))
        self._look_at_others()

    def ask(self, packet):
        """A request of this host on a connection of its own."""
        self.own -= 1
        self._play({'ops': [('send', self.own, Peer(*self.player.home), (packet,), 'stay')]})

    def finish(self):
        """At the end of a sequence all is asked once more, all is closed, and nothing is left."""
        self.ask(NAMES)
        self.ask(DUMP)
        for name in sorted(self.names)[:20]:
            self.ask((len(name) + 1).to_bytes(2, 'big') + b'z' + name)
        links = sorted(self.player.links)
        for start in range(0, len(links), 4):
            for conn in links[start:start + 4]:
                self._play({'ops': [('close', conn)]})
        self.ask(NAMES)
        self.ask(DUMP)
        if self.rules.survives:
            self._check_descriptors()

    def _check_descriptors(self):
        """What is held after all is closed must be what another process holds that has seen nothing but one node. The first one
        ends well, so that a build that looks for leaks can tell.
        """
        before = self.player.descriptors
        held = before()
        self.player.play({'ops': [], 'look': {}, 'signal': int(signal.SIGTERM), 'down': []})
        self.player.ask(ONE_NODE, split=True, half=True)
        left = held - before()
        if left:
            raise Difference(f'after all connections were closed the daemon still held {dict(left)}', 'descriptors')

    def _usable(self, step):
        """The step without what cannot be done: on connections that are not there any more."""
        links = self.player.links
        step = dict(step)
        for part in 'ops', 'down':
            if part in step:
                step[part] = [op for op in step[part] if op[0] in ('send', 'pause') or op[1] in links]
        if step.get('signal') == 0:
            # Asked to end: whether it does is for the model to say.
            plan = Step({'ops': step['ops']}, links).worlds(self.worlds)
            if all(world.running for world in plan):
                del step['signal'], step['down']
            elif any(world.running for world in plan):
                return None
        return step if step['ops'] or 'signal' in step else None

    def _play(self, step):
        for world in self.worlds:
            world.forget_history()
            world.touched = self.worlds[0].touched
        before = set(self.player.links)
        plan = Step(step, self.player.links).worlds(self.worlds)
        surplus = {op[1] for op in step['ops'] if op[0] == 'send' and len(op[3]) > 1 and has_surplus(op, self.worlds)}
        self.touched = self.worlds[0].touched
        self.names |= {name for name, _conn in self.touched if name}
        fired = {op[1] for op in step['ops'] + step.get('down', []) if op[0] in ('close', 'reset') or is_fired(op)}
        conns = {conn for world in plan for conn in world.out} | {
            op[1] for op in step['ops'] + step.get('down', []) if op[0] in ('send', 'half')}
        looks = {conn: how_to_look({world.out.get(conn, NOTHING) for world in plan})
                 for conn in sorted(conns - fired) if conn in before or any(
                     op[0] == 'send' and op[1] == conn for op in step['ops'] + step.get('down', []))}
        step['look'] = {conn: how for conn, how in looks.items() if how}
        self.played.append(step)
        self.ops += len(step['ops']) + len(step.get('down', [])) + ('signal' in step)
        try:
            seen = self.player.play(step)
        except Ended as error:
            raise Difference(str(error), 'ended') from None
        if step.get('signal') == 0 and not self.rules.survives:
            self.creations = Creations(self.rules)
        self._compare(plan, seen, set(seen) if 'signal' in step else surplus)
        self._check_creations(seen)
        unsure = [conn for conn, how in looks.items() if how is None or (how == 'answer' and conn in self.player.links)]
        self._see_ended(conn for conn in unsure if all(world.out.get(conn, NOTHING).ended for world in self.worlds))

    def _compare(self, plan, seen, rough):
        def explains(world):
            return all(same(world.out.get(conn, NOTHING), found, self.rules, conn in rough)
                       for conn, found in seen.items() if found is not None)

        self.worlds = [world for world in plan if explains(world)]
        if self.worlds:
            return
        wanted = {tuple((conn, world.out.get(conn, NOTHING)) for conn in sorted(seen)) for world in plan}
        raise Difference(f'what came is not what must come: {seen}', 'answers', sorted(wanted, key=repr))

    def _check_creations(self, seen):
        registered = {}
        for conn, found in seen.items():
            outcome = self.worlds[0].out.get(conn, NOTHING)
            if isinstance(outcome.reply, Registered):
                registered[conn] = outcome.reply, found.reply
        counts = collections.Counter(name for name, _conn in self.touched)
        unsure = {name for name, count in counts.items() if count > 1}
        self.creations.unseen(unsure)
        for conn, (node, reply) in registered.items():
            wrong = self.creations.check(node, reply)
            if wrong:
                raise Difference(f'connection {conn}, {node.name!r}: {wrong}: {reply!r}', 'creation')
        known = {node.name for node, _reply in registered.values()}
        self.creations.unseen(unsure | (set(counts) - known))

    def _see_ended(self, conns):
        """Connections of which it is known only now that the daemon has ended them."""
        ended = list(conns)
        if ended:
            step = {'ops': [], 'look': {conn: 'end' for conn in ended}}
            self.played.append(step)
            for world in self.worlds:
                world.out.update({conn: NOTHING._replace(ended=True) for conn in ended})
            self._compare(self.worlds, self.player.play(step), set())

    def _look_at_others(self):
        """Nothing comes to those of whom nothing is wanted."""
        quiet = set.intersection(*(set(world.conns) for world in self.worlds))
        noticed = self.player.noticed(quiet)
        if noticed:
            raise Difference(f'connections {noticed} were to stay as they are, and something came on them', 'noticed')


def run_steps(setting, steps, model_of=Model):
    """Plays the steps on a daemon of their own. Gives (the Difference or None, the Sequence)."""
    sequence = Sequence(setting, model_of)
    try:
        with sequence:
            sequence.run(steps)
    except (Difference, Ended) as error:
        difference = error if isinstance(error, Difference) else Difference(str(error), 'ended')
        difference.log = sequence.log
        return difference, sequence
    return None, sequence
