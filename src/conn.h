/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One accepted connection: what it still has to receive and to send. It never waits; whoever owns it decides when
 * to go on. A registered node's connection costs little more than this struct. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"
#include "listing.h"
#include "loop.h"
#include "peer.h"
#include "registry.h"
#include "util.h"

typedef enum ConnState {
        CONN_RECEIVING,  /* its request is not complete */
        CONN_SENDING,    /* its reply is not sent; closed afterwards */
        CONN_LINGERING,  /* its reply is sent; what else it sends is read and dropped until it closes */
        CONN_REGISTERED, /* holds a name */
} ConnState;

typedef struct Output Output;
typedef struct Conn Conn;

struct Conn {
        int fd;
        ConnState state;
        Peer peer;
        Node *node;            /* the name that it holds, or NULL */
        void *owner;
        Watch watch;           /* by the owner */
        Conn *earlier, *later; /* of the owner's queue of deadlines; unused while registered */
        uint64_t deadline;     /* monotonic, µs */
        Frame frame;
        Output *output; /* what the kernel would not take yet */
        size_t discarded;
};

/* Outcomes of receiving and sending. */
enum {
        CONN_REQUEST = 1, /* a request is complete */
        CONN_CLOSED,      /* the peer has closed its side */
        CONN_MALFORMED,   /* the length is out of bounds, or bytes follow the packet */
        CONN_WAIT,        /* not all was sent: flush when the socket is writable */
        CONN_EXCESS,      /* the peer sent bytes that nothing asked for */
};

int conn_new(int fd, const Peer *peer, uint64_t deadline, void *owner, Conn **ret);
Conn *conn_free(Conn *conn);

int conn_receive(Conn *conn, uint8_t scratch[PROTO_PACKET_MAX], const uint8_t **ret_body, size_t *ret_n);
int conn_send(Conn *conn, const uint8_t *data, size_t n, Listing *listing, bool last);
int conn_flush(Conn *conn);
int conn_discard(Conn *conn, uint8_t scratch[PROTO_PACKET_MAX]);
bool conn_is_sending(const Conn *conn, const Listing *listing);
bool conn_is_queued(const Conn *conn);
bool conn_is_gone(const Conn *conn);
bool conn_is_untold(const Conn *conn);
uint64_t conn_cookie(const Conn *conn);
