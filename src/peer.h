/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who is at the other end of an accepted connection. */

#include <stdbool.h>
#include <stdint.h>

#include "address.h"

typedef struct Peer {
        Address address;
        uint16_t port_reached; /* the port of ours that it connected to; 0 over AF_UNIX, or not asked for */
        bool local;            /* on this machine: loopback, our own address, or AF_UNIX */
} Peer;

bool peer_is_local(const Address *peer, const Address *own);
int peer_from_connection(int fd, const SocketAddress *remote, Peer *ret);
int peer_find_port(Peer *peer, int fd);
