/* SPDX-License-Identifier: Apache-2.0 */
#include "peer.h"

#include <errno.h>

/* The local rule: a loopback address, the very address that it connected to, or a socket of the file system. */
bool peer_is_local(const Address *peer, const Address *own) {
        return peer->family == AF_UNIX || address_is_loopback(peer) || address_same_host(peer, own);
}

/* Collects the facts about an accepted connection. A peer on the loopback is local whatever our address is; the port
 * that it reached is left to peer_find_port(), as few requests need it.
 *
 * remote: the address that accept4() gave. Returns 0, or the error of getsockname(), with *ret untouched. */
int peer_from_connection(int fd, const SocketAddress *remote, Peer *ret) {
        SocketAddress own_socket = {};
        socklen_t len = sizeof own_socket;
        Address own;
        Peer peer = {.address = address_from_socket(remote)};

        if (address_is_loopback(&peer.address)) {
                peer.local = true;
                *ret = peer;
                return 0;
        }
        if (getsockname(fd, &own_socket.any, &len) < 0)
                return -errno;
        own = address_from_socket(&own_socket);
        /* The address of an unnamed AF_UNIX client has no length: the kernel leaves its family out. */
        if (own.family == AF_UNIX)
                peer.address.family = AF_UNIX;
        peer.port_reached = own.port;
        peer.local = peer_is_local(&peer.address, &own);
        *ret = peer;
        return 0;
}

/* Sees to it that the port reached is known, 0 over AF_UNIX. Returns 0 or the error of getsockname(). */
int peer_find_port(Peer *peer, int fd) {
        SocketAddress own = {};
        socklen_t len = sizeof own;

        if (getsockname(fd, &own.any, &len) < 0)
                return -errno;
        peer->port_reached = address_from_socket(&own).port;
        return 0;
}
