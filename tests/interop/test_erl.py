#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Real Erlang nodes and an epmd that their first connection starts."""

import os
import signal
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
sys.path.insert(0, os.path.join(harness.TOP_SRCDIR, "tests", "process"))
import tap  # noqa: E402

MISSING = harness.missing_tools("erl", "systemd-socket-activate")


def listing(ports):
    """The answer of erl_epmd:names: it turns the order of NAMES, newest first, around."""
    nodes = [f'{{"{name}",{port}}}' for name, port in reversed(ports.items())]
    return "{ok,[" + ",".join(nodes) + "]}"


class HostCase(unittest.TestCase):
    def setUp(self):
        self.host = harness.Host()
        self.addCleanup(self.host.end)
        self.host.listen()

    def diagnostics(self):
        return self.host.diagnostics()

    def await_names(self, *names):
        """Waits until exactly these are registered; the order does not matter."""
        harness.wait_until(lambda: set(self.host.names()) == set(names),
                           f"exactly {names} registered")


@unittest.skipIf(MISSING, MISSING)
class TwoNodes(HostCase):
    """Two nodes that stay up, asked about each other."""

    def setUp(self):
        super().setUp()
        self.a = self.host.node("a@127.0.0.1")
        self.b = self.host.node("b@127.0.0.1")
        self.ports = self.host.names()

    def test_ping_each_other(self):
        self.assertEqual(self.a.ask("net_adm:ping('b@127.0.0.1')."), "pong")
        self.assertEqual(self.b.ask("net_adm:ping('a@127.0.0.1')."), "pong")
        self.assertEqual(self.a.ask("nodes()."), "['b@127.0.0.1']")
        self.assertEqual(self.a.ask("rpc:call('b@127.0.0.1', erlang, node, [])."),
                         "'b@127.0.0.1'")

    def test_ping_of_unknown_node(self):
        self.assertEqual(self.a.ask("net_adm:ping('nobody@127.0.0.1')."), "pang")

    def test_net_adm_names(self):
        self.assertEqual(list(self.ports), ["b", "a"])
        self.assertEqual(self.a.ask("net_adm:names('127.0.0.1')."), listing(self.ports))

    def test_erl_epmd_names(self):
        self.assertEqual(self.b.ask("erl_epmd:names({127,0,0,1})."), listing(self.ports))

    def test_erl_epmd_port_please(self):
        self.assertEqual(self.a.ask('erl_epmd:port_please("b", {127,0,0,1}).'),
                         f'{{port,{self.ports["b"]},6}}')
        self.assertEqual(self.b.ask('erl_epmd:port_please("a", {127,0,0,1}).'),
                         f'{{port,{self.ports["a"]},6}}')
        self.assertEqual(self.a.ask('erl_epmd:port_please("nobody", {127,0,0,1}).'),
                         "noport")

    def test_ports_are_the_nodes_own(self):
        for name, node in (("a", self.a), ("b", self.b)):
            ports = node.ask(
                "lists:usort([P || S <- erlang:ports(), {ok, {_, P}} <- [catch inet:sockname(S)],"
                " {error, enotconn} == inet:peername(S)]).")
            self.assertEqual(ports, f"[{self.ports[name]}]")


@unittest.skipIf(MISSING, MISSING)
@tap.beside
class Lives(HostCase):
    """Nodes and the daemon that come and go."""

    def test_first_connection_starts_the_daemon(self):
        self.assertEqual(self.host.daemon_program(), "systemd-socket-activate")
        self.assertNotIn("epmd", self.host.programs().values())
        self.host.node("a@127.0.0.1")
        # erl starts "epmd -daemon" of its own first, which must find the port held and end.
        harness.wait_until(
            lambda: [pid for pid, program in self.host.programs().items()
                     if program.startswith("epmd")] == [self.host.daemon.pid],
            "one single epmd, the activated one")
        self.assertEqual(list(self.host.names()), ["a"])

    def test_short_names(self):
        a = self.host.node("a@localhost", "-sname")
        self.host.node("b@localhost", "-sname")
        self.assertEqual(a.ask("net_adm:ping(b@localhost)."), "pong")
        ports = self.host.names()
        self.assertEqual(a.ask('erl_epmd:names("localhost").'),
                         listing(ports))

    def test_taken_name_is_refused(self):
        self.host.node("a@127.0.0.1")
        before = self.host.names()
        second = self.host.erl("a@127.0.0.1")
        self.assertNotEqual(second.wait(), 0)
        self.assertIn("in use by another Erlang node", second.out.text() + second.err.text())
        self.assertEqual(self.host.names(), before)

    def test_killed_node_disappears(self):
        a = self.host.node("a@127.0.0.1")
        self.host.node("b@127.0.0.1")
        a.signal(signal.SIGKILL)
        self.await_names("b")

    def test_killed_node_takes_its_name_back(self):
        b = self.host.node("b@127.0.0.1")
        a = self.host.node("a@127.0.0.1")
        self.assertEqual(b.ask("net_adm:ping('a@127.0.0.1')."), "pong")
        a.signal(signal.SIGKILL)
        self.host.node("a@127.0.0.1")
        self.await_names("a", "b")
        harness.wait_until(lambda: b.ask("net_adm:ping('a@127.0.0.1').") == "pong",
                           "answer of the node that came back")

    def test_nodes_register_again_with_the_next_daemon(self):
        a = self.host.node("a@127.0.0.1")
        self.host.node("b@127.0.0.1")
        before = self.host.names()
        status, log = self.host.end_daemon()
        self.assertEqual(status, 0, log)
        self.host.listen()
        # Nobody but the nodes connects here: they try again every 2 seconds.
        self.host.await_activation()
        self.await_names("a", "b")
        self.assertEqual(self.host.names(), before)
        self.assertEqual(a.ask("net_adm:ping('b@127.0.0.1')."), "pong")


if __name__ == "__main__":
    tap.main()
