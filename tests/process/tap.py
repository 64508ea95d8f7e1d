# SPDX-License-Identifier: Apache-2.0
"""A small TAP runner for unittest: one TAP point for each test method.

Automake's tap-driver.sh reads the result: a plan first, then one `ok` or `not ok` for each method, `# SKIP reason`
where a test says that it cannot run here. Tracebacks and the notes of a test case (its method `diagnostics`) follow as
`#` lines, and only after a failure. With TAP_TIMES in the environment each point is preceded by the time it took.

The tests run one after the other, but for those that are marked as `beside`: they begin first, in processes of their own.
"""

import collections
import ctypes
import json
import os
import signal
import sys
import time
import unittest

# No test may hang the suite: the alarm ends it as a failure, with a traceback of where it waited.
PATIENCE = int(os.environ.get('TEST_PATIENCE') or 1)
TEST_LIMIT = 60 * PATIENCE
# As many of those that run beside the others do so at the same time: most of them wait.
BESIDE = 8

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option, value):
    if LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), 'prctl')


def beside(test):
    """Marks a method, or every one of a class: it waits, or takes long, and can run while others do."""
    test.runs_beside = True
    return test


def remark(text):
    """Prints a line that is no verdict, in one piece: several tests may do so at the same time."""
    os.write(sys.stdout.fileno(), f'# {text}\n'.encode())


class Hung(AssertionError):
    """The test did not end within TEST_LIMIT seconds."""


# What became of a test; it failed when there are notes.
Outcome = collections.namedtuple('Outcome', 'name seconds skipped notes')


class Report:
    """Prints the outcomes as TAP."""

    def __init__(self, out, planned):
        self.out = out
        self.count = 0
        self.bad = 0
        self.say(f'1..{planned}')

    def say(self, text):
        self.out.write(text + '\n')
        self.out.flush()

    def comment(self, text):
        for line in text.splitlines():
            self.say('# ' + line)

    def add(self, outcome):
        self.count += 1
        self.bad += bool(outcome.notes)
        if 'TAP_TIMES' in os.environ:
            self.comment(f'{outcome.seconds:.3f} s')
        verdict = 'not ok' if outcome.notes else 'ok'
        skip = f' # SKIP {outcome.skipped}' if outcome.skipped and not outcome.notes else ''
        self.say(f'{verdict} {self.count} - {outcome.name}{skip}')
        for note in outcome.notes:
            self.comment(note)


class Result(unittest.TestResult):
    """Takes what unittest says of one test; its outcome when that has stopped."""

    def __init__(self):
        super().__init__()
        self.notes = []
        self.skip_reason = None
        self.begun = time.monotonic()
        self.outcome = None

    def addError(self, test, err):
        self.notes.append(self._exc_info_to_string(err, test))

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.notes.append(f'in {subtest}:\n' + self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        self.skip_reason = ' '.join(reason.split())

    def addUnexpectedSuccess(self, test):
        self.notes.append('the test was expected to fail, and passed')

    def stopTest(self, test):
        super().stopTest(test)
        diagnostics = getattr(test, 'diagnostics', None)
        if self.notes and diagnostics:
            self.notes.append(diagnostics())
        self.outcome = Outcome(_name(test), time.monotonic() - self.begun, self.skip_reason, self.notes)


def _name(test):
    return '.'.join(test.id().split('.')[-2:])


def _flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flatten(item)
        else:
            yield item


def _alarm(_signal, _frame):
    raise Hung(f'the test did not end within {TEST_LIMIT} s')


def _run(test):
    """The outcome of a test that runs here and now."""
    result = Result()
    # Again every second: a subTest takes the first exception for its own and goes on.
    signal.setitimer(signal.ITIMER_REAL, TEST_LIMIT, 1)
    test.run(result)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return result.outcome


def _runs_beside(test):
    return getattr(test, 'runs_beside', False) or getattr(getattr(test, test.id().split('.')[-1]), 'runs_beside', False)


class Tokens:
    """So many processes may go on at the same time: who takes one of these gives it back when it is done."""

    def __init__(self, count):
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.write(self.writer, bytes(count))

    def __enter__(self):
        os.read(self.reader, 1)

    def __exit__(self, *_problem):
        os.write(self.writer, bytes(1))


class Beside:
    """A test in a process of its own."""

    def __init__(self, test, tokens):
        self.name = _name(test)
        self.reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            self._become(test, tokens, writer)
        os.close(writer)
        self.pid = pid

    def _become(self, test, tokens, writer):
        """In the child: never returns."""
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            # What a daemon leaves behind when it goes to the background is to come to this process.
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            with tokens:
                outcome = _run(test)
            with os.fdopen(writer, 'w', encoding='utf-8') as pipe:
                json.dump(outcome, pipe)
        finally:
            os._exit(0)

    def outcome(self):
        """Waits for it."""
        with os.fdopen(self.reader, encoding='utf-8') as pipe:
            data = pipe.read()
        os.waitpid(self.pid, 0)
        return Outcome(*json.loads(data)) if data else Outcome(self.name, 0, None, ['it ended without a verdict'])


def bail_out(reason):
    """Ends the whole run: nothing can be tested."""
    print(f'Bail out! {reason}', flush=True)
    sys.exit(1)


def main(module='__main__'):
    """Runs every test of the module, or those whose name contains one of the words of the command line."""
    words = sys.argv[1:]
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[module])
    tests = [test for test in _flatten(suite) if not words or any(word in test.id() for word in words)]
    if not tests:
        bail_out(f'no test is called {" or ".join(words)}')
    report = Report(sys.stdout, len(tests))
    signal.signal(signal.SIGALRM, _alarm)
    # A shell without job control has what it starts in the background ignore it, and so would all that is started here.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    tokens = Tokens(BESIDE)
    waiting = [Beside(test, tokens) for test in tests if _runs_beside(test)]
    for test in tests:
        if not _runs_beside(test):
            report.add(_run(test))
    for process in waiting:
        report.add(process.outcome())
    sys.exit(1 if report.bad else 0)
