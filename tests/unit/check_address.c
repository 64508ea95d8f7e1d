/* SPDX-License-Identifier: Apache-2.0 */
#include "address.h"

#include <arpa/inet.h>
#include <errno.h>

#include "peer.h"
#include "unit.h"

typedef struct Row {
        const char *socket; /* IPv6 with a colon, IPv4 without, else one of the words below */
        uint16_t port;
        uint8_t family;
        bool loopback, any;
        const char *text;
} Row;

static const Row rows[] = {
        {"127.0.0.1", 4369, AF_INET, true, false, "127.0.0.1:4369"},
        {"127.0.0.0", 1, AF_INET, true, false, "127.0.0.0:1"},
        {"127.255.255.255", 1, AF_INET, true, false, "127.255.255.255:1"},
        {"126.255.255.255", 1, AF_INET, false, false, "126.255.255.255:1"},
        {"128.0.0.0", 1, AF_INET, false, false, "128.0.0.0:1"},
        {"192.0.2.1", 65535, AF_INET, false, false, "192.0.2.1:65535"},
        {"255.255.255.255", 0, AF_INET, false, false, "255.255.255.255:0"},
        {"0.0.0.0", 4369, AF_INET, false, true, "0.0.0.0:4369"},
        {"0.0.0.1", 4369, AF_INET, false, false, "0.0.0.1:4369"},
        {"::1", 4369, AF_INET6, true, false, "[::1]:4369"},
        {"::2", 4369, AF_INET6, false, false, "[::2]:4369"},
        {"::", 4369, AF_INET6, false, true, "[::]:4369"},
        {"2001:db8::1", 4369, AF_INET6, false, false, "[2001:db8::1]:4369"},
        {"fe80::1", 4369, AF_INET6, false, false, "[fe80::1]:4369"},
        {"2001:db8:1111:2222:3333:4444:5555:6666", 65535, AF_INET6, false, false,
         "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"},
        /* IPv4 through a dual-stack socket is IPv4 ... */
        {"::ffff:127.0.0.1", 4369, AF_INET, true, false, "127.0.0.1:4369"},
        {"::ffff:127.0.0.2", 4369, AF_INET, true, false, "127.0.0.2:4369"},
        {"::ffff:192.0.2.1", 4369, AF_INET, false, false, "192.0.2.1:4369"},
        {"::ffff:0.0.0.0", 4369, AF_INET, false, true, "0.0.0.0:4369"},
        /* ... but nothing that only looks like it. */
        {"::127.0.0.1", 4369, AF_INET6, false, false, "[::127.0.0.1]:4369"},
        {"64:ff9b::7f00:1", 4369, AF_INET6, false, false, "[64:ff9b::7f00:1]:4369"},
        {"::fffe:127.0.0.1", 4369, AF_INET6, false, false, "[::fffe:7f00:1]:4369"},
        {"7f00:1::", 4369, AF_INET6, false, false, "[7f00:1::]:4369"},
        /* Not of the Internet; NOT_IP of them. */
        {"unix", 0, AF_UNIX, false, false, "local socket"},
        {"netlink", 0, AF_UNSPEC, false, false, "unknown address"},
        {"nothing", 0, AF_UNSPEC, false, false, "unknown address"},
};

enum { NOT_IP = 3 };

/* What accept4() would fill in; the bytes that it does not fill are not zero. */
static SocketAddress make_socket(const char *text, uint16_t port) {
        SocketAddress socket;

        memset(&socket, strcmp(text, "nothing") == 0 ? 0 : 0xa5, sizeof socket);
        if (strcmp(text, "unix") == 0)
                socket.un.sun_family = AF_UNIX;
        else if (strcmp(text, "netlink") == 0)
                socket.any.sa_family = AF_NETLINK;
        else if (strchr(text, ':')) {
                socket.in6.sin6_family = AF_INET6;
                socket.in6.sin6_port = htons(port);
                ck_assert_int_eq(inet_pton(AF_INET6, text, &socket.in6.sin6_addr), 1);
        } else if (strcmp(text, "nothing") != 0) {
                socket.in.sin_family = AF_INET;
                socket.in.sin_port = htons(port);
                ck_assert_int_eq(inet_pton(AF_INET, text, &socket.in.sin_addr), 1);
        }
        return socket;
}

static Address make_address(const char *text, uint16_t port) {
        SocketAddress socket = make_socket(text, port);

        return address_from_socket(&socket);
}

START_TEST(whole_row) {
        const Row *row = &rows[_i];
        Address address = make_address(row->socket, row->port);
        char buffer[ADDRESS_TEXT_MAX];

        ck_assert_uint_eq(address.family, row->family);
        ck_assert_uint_eq(address.port, row->port);
        ck_assert_msg(address_is_loopback(&address) == row->loopback, "loopback: %s", row->socket);
        ck_assert_msg(address_is_any(&address) == row->any, "any: %s", row->socket);
        ck_assert_ptr_eq(address_format(&address, buffer), buffer);
        ck_assert_str_eq(buffer, row->text);
}
END_TEST

START_TEST(unused_bytes_are_zero) {
        const Row *row = &rows[_i];
        Address address = make_address(row->socket, row->port);
        static const size_t used[] = {[AF_INET] = 4, [AF_INET6] = 16};

        for (size_t i = row->family == AF_INET || row->family == AF_INET6 ? used[row->family] : 0;
             i < sizeof address.ip; i++)
                ck_assert_uint_eq(address.ip[i], 0);
}
END_TEST

/* What was read from a socket can be bound to and connected to. */
START_TEST(round_trip) {
        const Row *row = &rows[_i];
        Address address = make_address(row->socket, row->port), again;
        SocketAddress socket;
        socklen_t len;

        memset(&socket, 0xa5, sizeof socket);
        len = address_to_socket(&address, &socket);
        ck_assert_uint_eq(socket.any.sa_family, row->family);
        if (row->family == AF_INET6) {
                ck_assert_uint_eq(len, sizeof socket.in6);
                ck_assert_uint_eq(socket.in6.sin6_flowinfo, 0);
                ck_assert_uint_eq(socket.in6.sin6_scope_id, 0);
        } else
                ck_assert_uint_eq(len, sizeof socket.in);
        again = address_from_socket(&socket);
        ck_assert_uint_eq(again.family, address.family);
        ck_assert_uint_eq(again.port, address.port);
        ck_assert_mem_eq(again.ip, address.ip, sizeof address.ip);
}
END_TEST

typedef struct Pair {
        const char *a, *b;
        bool same;  /* the same host */
        bool local; /* a peer at a, connected to b, is local */
} Pair;

static const Pair pairs[] = {
        {"127.0.0.1", "127.0.0.1", true, true},
        {"127.0.0.2", "127.0.0.1", false, true},
        {"127.9.9.9", "192.0.2.1", false, true},
        {"192.0.2.1", "192.0.2.1", true, true},
        {"192.0.2.2", "192.0.2.1", false, false},
        {"192.0.2.1", "127.0.0.1", false, false},
        {"::1", "::1", true, true},
        {"::1", "2001:db8::1", false, true},
        {"2001:db8::1", "2001:db8::1", true, true},
        {"2001:db8::2", "2001:db8::1", false, false},
        {"2001:db8::1", "::1", false, false},
        {"fe80::1", "fe80::1", true, true},
        /* A dual-stack socket sees IPv4 as mapped, on either side. */
        {"::ffff:127.0.0.1", "::ffff:127.0.0.1", true, true},
        {"::ffff:127.0.0.2", "::ffff:127.0.0.1", false, true},
        {"::ffff:127.0.0.2", "::ffff:192.0.2.1", false, true},
        {"::ffff:192.0.2.1", "::ffff:192.0.2.1", true, true},
        {"::ffff:192.0.2.1", "192.0.2.1", true, true},
        {"192.0.2.1", "::ffff:192.0.2.1", true, true},
        {"::ffff:192.0.2.2", "::ffff:192.0.2.1", false, false},
        {"::127.0.0.1", "::ffff:127.0.0.1", false, false},
        /* The same sixteen bytes of two families. */
        {"192.0.2.1", "c000:201::", false, false},
        {"c000:201::", "192.0.2.1", false, false},
        {"7f00:1::", "127.0.0.1", false, false},
        {"unix", "unix", false, true},
        {"unix", "127.0.0.1", false, true},
        {"192.0.2.1", "unix", false, false},
        {"netlink", "netlink", false, false},
        {"nothing", "nothing", false, false},
        {"nothing", "127.0.0.1", false, false},
};

START_TEST(two_addresses) {
        const Pair *row = &pairs[_i];
        /* Ports do not matter. */
        Address a = make_address(row->a, 40000), b = make_address(row->b, 4369);

        ck_assert_msg(address_same_host(&a, &b) == row->same, "%s, %s", row->a, row->b);
        ck_assert_msg(address_same_host(&b, &a) == row->same, "%s, %s", row->b, row->a);
        ck_assert_msg(peer_is_local(&a, &b) == row->local, "%s, %s", row->a, row->b);
}
END_TEST

/* Connects to a listener at 127.0.0.1. Returns the accepted socket; both ports are the kernel's choice. */
static int accept_from(const char *client_address, SocketAddress *ret_remote, uint16_t *ret_port, int *ret_client) {
        Address own = make_address("127.0.0.1", 0), client = make_address(client_address, 0);
        _cleanup_close_ int listener = -1;
        SocketAddress address;
        socklen_t len = sizeof address;

        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        *ret_client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_ge(listener, 0);
        ck_assert_int_ge(*ret_client, 0);
        ck_assert_int_eq(bind(listener, &address.any, address_to_socket(&own, &address)), 0);
        ck_assert_int_eq(listen(listener, 1), 0);
        ck_assert_int_eq(bind(*ret_client, &address.any, address_to_socket(&client, &address)), 0);
        ck_assert_int_eq(getsockname(listener, &address.any, &len), 0);
        *ret_port = ntohs(address.in.sin_port);
        ck_assert_int_eq(connect(*ret_client, &address.any, len), 0);
        len = sizeof *ret_remote;
        return accept4(listener, &ret_remote->any, &len, SOCK_CLOEXEC);
}

static const char *const client_addresses[] = {"127.0.0.1", "127.0.0.2"};

START_TEST(peer_over_tcp) {
        _cleanup_close_ int client = -1, fd = -1;
        SocketAddress remote = {};
        uint16_t port = 0;
        Peer peer = {};
        Address want = make_address(client_addresses[_i], 0);

        fd = accept_from(client_addresses[_i], &remote, &port, &client);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(peer_from_connection(fd, &remote, &peer), 0);
        ck_assert(peer.local);
        ck_assert_int_eq(peer_find_port(&peer, fd), 0);
        ck_assert_uint_eq(peer.port_reached, port);
        ck_assert(address_same_host(&peer.address, &want));
        ck_assert_uint_eq(peer.address.port, ntohs(remote.in.sin_port));
}
END_TEST

/* The kernel leaves the address of an unnamed client empty: the daemon's own end tells what it is. */
START_TEST(peer_over_unix) {
        SocketAddress remote = {};
        Peer peer = {.port_reached = 1};
        int pair[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        ck_assert_int_eq(peer_from_connection(pair[0], &remote, &peer), 0);
        ck_assert(peer.local);
        ck_assert_uint_eq(peer.address.family, AF_UNIX);
        ck_assert_uint_eq(peer.port_reached, 0);
        safe_close(pair[0]);
        safe_close(pair[1]);
}
END_TEST

START_TEST(peer_of_no_socket) {
        SocketAddress remote = make_socket("192.0.2.1", 1);
        Peer peer, before;

        memset(&peer, 0xa5, sizeof peer);
        memcpy(&before, &peer, sizeof peer);
        ck_assert_int_eq(peer_from_connection(-1, &remote, &peer), -EBADF);
        ck_assert_int_eq(peer_find_port(&peer, -1), -EBADF);
        ck_assert_mem_eq(&peer, &before, sizeof peer);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("address");
        TCase *address = unit_case(suite, "address"), *peer = unit_case(suite, "peer");

        tcase_add_loop_test(address, whole_row, 0, ARRAY_SIZE(rows));
        tcase_add_loop_test(address, unused_bytes_are_zero, 0, ARRAY_SIZE(rows));
        tcase_add_loop_test(address, round_trip, 0, ARRAY_SIZE(rows) - NOT_IP);
        tcase_add_loop_test(peer, two_addresses, 0, ARRAY_SIZE(pairs));
        tcase_add_loop_test(peer, peer_over_tcp, 0, ARRAY_SIZE(client_addresses));
        tcase_add_test(peer, peer_over_unix);
        tcase_add_test(peer, peer_of_no_socket);
        return unit_main(suite);
}
