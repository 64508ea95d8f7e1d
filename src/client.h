/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Talks to a running epmd. Never waits longer than it was told to; prints nothing. */

#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "proto.h"
#include "util.h"

typedef struct ClientReply {
        uint8_t *data; /* owned */
        size_t n;
} ClientReply;

/* Outcomes. */
enum {
        CLIENT_NO_SERVER = 1, /* nothing accepts connections there */
        CLIENT_TIMEOUT,       /* a connection or the end of the reply did not come in time */
        CLIENT_TOO_LONG,      /* more bytes than any epmd answers */
};

int client_call(const Address *address, const Request *request, uint64_t timeout, ClientReply *ret);
int client_call_local(uint16_t port, const Request *request, uint64_t timeout, ClientReply *ret);
void client_reply_done(ClientReply *reply);
