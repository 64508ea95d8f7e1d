#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A C node on libei, a real Erlang node, and an epmd that they start."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
sys.path.insert(0, os.path.join(harness.TOP_SRCDIR, "tests", "process"))
import tap  # noqa: E402

MISSING = harness.missing_tools("erl", "systemd-socket-activate")
if not MISSING and not os.access(harness.EI_NODE, os.X_OK):
    MISSING = "ei_node is not built: libei (package erlang-dev) is not installed"


@unittest.skipIf(MISSING, MISSING)
class EiCase(unittest.TestCase):
    def start(self, *epmd_options):
        """An epmd not yet started, and the C node c, not yet published."""
        self.host = harness.Host(*epmd_options)
        self.addCleanup(self.host.end)
        self.host.listen()
        self.c = self.host.ei_node("c")

    def diagnostics(self):
        return self.host.diagnostics()

    def expect(self, command, answer="ok"):
        self.assertEqual(self.c.ask(command), answer, command)

    def await_names(self, *names):
        harness.wait_until(lambda: list(self.host.names()) == list(names),
                           f"exactly {names} registered")

    def test_ei_publish_starts_the_daemon(self):
        self.start()
        self.assertEqual(self.host.daemon_program(), "systemd-socket-activate")
        self.expect("publish")
        self.host.await_activation()
        self.assertEqual(list(self.host.names()), ["c"])

    def test_ei_connect_and_rpc(self):
        self.start()
        self.host.node("a@127.0.0.1")
        self.expect("publish")
        self.expect("connect a@127.0.0.1")
        self.expect("rpc", "ok a@127.0.0.1")

    def test_ei_connect_to_unknown_node(self):
        self.start()
        self.assertRegex(self.c.ask("connect nobody@127.0.0.1"), "^error [1-9]")

    def test_erlang_node_finds_the_c_node(self):
        self.start()
        a = self.host.node("a@127.0.0.1")
        self.expect("publish")
        self.c.tell("accept")
        self.assertEqual(a.ask("{any, 'c@127.0.0.1'} ! hello."), "hello")
        self.assertEqual(self.c.out.next_line(), "ok")
        self.expect("receive", "ok hello")
        self.assertEqual(a.ask("nodes(hidden)."), "['c@127.0.0.1']")

    def test_ei_unpublish_when_relaxed(self):
        self.start("-relaxed_command_check")
        self.expect("publish")
        self.host.node("a@127.0.0.1")
        self.expect("unpublish")
        self.assertEqual(list(self.host.names()), ["a"])

    def test_ei_unpublish_of_unknown_name_when_relaxed(self):
        self.start("-relaxed_command_check")
        self.host.node("a@127.0.0.1")
        self.assertRegex(self.c.ask("unpublish"), "^error [1-9]")
        self.assertEqual(list(self.host.names()), ["a"])

    def test_ei_unpublish_is_refused_when_not_relaxed(self):
        self.start()
        self.expect("publish")
        self.assertRegex(self.c.ask("unpublish"), "^error [1-9]")
        self.assertEqual(list(self.host.names()), ["c"])
        self.expect("close")
        self.await_names()


if __name__ == "__main__":
    tap.main()
