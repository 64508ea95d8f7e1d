"""A small TAP runner for unittest: one TAP point for each test method.

Automake's tap-driver.sh reads the result: a plan first, then one `ok` or `not ok` for each method, `# SKIP reason`
where a test says that it cannot run here. Tracebacks and the notes of a test case (its method `diagnostics`) follow as
`#` lines, and only after a failure. With TAP_TIMES in the environment each point is preceded by the time it took.
"""

import os
import signal
import sys
import time
import unittest

# No test may hang the suite: the alarm ends it as a failure, with a traceback of where it waited.
TEST_LIMIT = 60


class Hung(AssertionError):
    """The test did not end within TEST_LIMIT seconds."""


class Result(unittest.TestResult):
    """Prints a TAP line when a test stops."""

    def __init__(self, out):
        super().__init__()
        self.out = out
        self.count = 0
        self.bad = 0
        self.notes = []
        self.skip_reason = None

    def say(self, text):
        self.out.write(text + '\n')
        self.out.flush()

    def comment(self, text):
        for line in text.splitlines():
            self.say('# ' + line)

    def startTest(self, test):
        super().startTest(test)
        self.notes = []
        self.skip_reason = None
        self.begun = time.monotonic()

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
        self.count += 1
        if 'TAP_TIMES' in os.environ:
            self.comment(f'{time.monotonic() - self.begun:.3f} s')
        name = '.'.join(test.id().split('.')[-2:])
        verdict = 'not ok' if self.notes else 'ok'
        skip = f' # SKIP {self.skip_reason}' if self.skip_reason and not self.notes else ''
        self.say(f'{verdict} {self.count} - {name}{skip}')
        if not self.notes:
            return
        self.bad += 1
        for note in self.notes:
            self.comment(note)
        diagnostics = getattr(test, 'diagnostics', None)
        if diagnostics:
            self.comment(diagnostics())


def _flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flatten(item)
        else:
            yield item


def _alarm(_signal, _frame):
    raise Hung(f'the test did not end within {TEST_LIMIT} s')


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
    result = Result(sys.stdout)
    result.say(f'1..{len(tests)}')
    signal.signal(signal.SIGALRM, _alarm)
    for test in tests:
        # Again every second: a subTest takes the first exception for its own and goes on.
        signal.setitimer(signal.ITIMER_REAL, TEST_LIMIT, 1)
        test.run(result)
        signal.setitimer(signal.ITIMER_REAL, 0)
    sys.exit(1 if result.bad else 0)
