/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Asks the daemon of this host over Varlink (org.erlang.epmd) for what the protocol of epmd does not tell. Never waits
 * longer than it was told to; prints nothing. With varlink.c the only file that knows JSON from sockets. */

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "nodelist.h"

#define VARLINK_CLIENT_SOCKET "/run/org.erlang.epmd"

/* Outcomes. */
enum {
        VARLINK_CLIENT_NO_SERVER = 1, /* nothing accepts connections there */
        VARLINK_CLIENT_TIMEOUT,       /* the reply did not come in time */
        VARLINK_CLIENT_CLOSED,        /* the peer closed before the end of its reply */
        VARLINK_CLIENT_MALFORMED,     /* the reply is none of this interface */
        VARLINK_CLIENT_TOO_LONG,      /* more than any daemon answers */
        VARLINK_CLIENT_ERROR,         /* the reply is an error of Varlink */
        VARLINK_CLIENT_NOT_REGISTERED,
};

enum { VARLINK_CLIENT_ERROR_MAX = 128 };

/* Where to ask, and what is to be known about a failure. */
typedef struct VarlinkClient {
        const char *path;
        uint64_t timeout;                          /* µs for each call */
        pid_t listener;                            /* after a connection: who opened the socket, 1 for systemd */
        int error;                                 /* with NO_SERVER: why, a negative errno */
        char error_name[VARLINK_CLIENT_ERROR_MAX]; /* with ERROR: its name */
} VarlinkClient;

typedef struct VarlinkStatistics {
        uint64_t since; /* µs of the realtime clock */
        uint16_t port;  /* 0: several */
        uint64_t nodes;
        uint64_t connections; /* open now */
        json_t *counters;     /* owned; an object of integers */
} VarlinkStatistics;

int varlink_client_list(VarlinkClient *client, NodeList *ret);
int varlink_client_lookup(VarlinkClient *client, const char *name, ListedNode *ret);
int varlink_client_statistics(VarlinkClient *client, VarlinkStatistics *ret);
void varlink_statistics_done(VarlinkStatistics *statistics);
const char *varlink_client_problem(const VarlinkClient *client, int r);
