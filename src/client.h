/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Talks to a running epmd. Never waits longer than it was told to; prints nothing. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "proto.h"
#include "util.h"
#include "waiting.h"

typedef struct ClientReply {
        uint8_t *data; /* owned */
        size_t n;
        bool connected; /* a connection was made; with CLIENT_TIMEOUT this tells a silent server from none */
        int error;      /* with CLIENT_NO_SERVER: why, a negative errno */
} ClientReply;

/* A port that is to be tried, and what came of it. */
typedef struct ClientProbe {
        Address address;
        int result; /* 0: accepts connections; -ETIMEDOUT or another negative errno */
} ClientProbe;

/* Outcomes. */
enum {
        CLIENT_NO_SERVER = 1, /* nothing accepts connections there */
        CLIENT_TIMEOUT,       /* a connection or the end of the reply did not come in time */
        CLIENT_TOO_LONG,      /* more bytes than any epmd answers */
        CLIENT_CLOSED,        /* of client_register(): the peer closed instead of answering */
        CLIENT_MALFORMED,     /* of client_register(): the answer is not one of the protocol */
        CLIENT_REFUSED,       /* of client_register(): the name is taken, or not acceptable */
};

int client_call(const Address *address, const Request *request, uint64_t timeout, ClientReply *ret);
int client_call_local(uint16_t port, const Request *request, uint64_t timeout, ClientReply *ret);
void client_reply_done(ClientReply *reply);

Address client_loopback(sa_family_t family, uint16_t port);

int client_register(const Address *address, const NodeInfo *node, const WaitLimit *limit, int *ret_fd,
                    uint32_t *ret_creation, int *ret_error);
int client_probe(ClientProbe *probes, size_t n, uint64_t timeout);
