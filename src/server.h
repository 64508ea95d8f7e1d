/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The daemon: listening sockets, connections and the event loop around the service. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "allow.h"
#include "identity.h"
#include "log.h"
#include "service.h"
#include "store.h"

typedef struct Server Server;

typedef struct ServerConfig {
        size_t connections_max;  /* open at once, registered ones included */
        const Allow *allow;      /* who is answered; must outlive the server */
        const char *allow_text;  /* the same, for messages */
        bool allow_option;       /* given by an option, not by the environment */
        uint8_t seed[SIPHASH_KEY_SIZE];
        uint64_t packet_timeout; /* µs from accept until the reply is sent */
        uint64_t idle_timeout;   /* µs without node or connection until the daemon ends; 0: never */
        uint64_t end_delay;      /* µs from KILL_REQ until the daemon ends */
        unsigned delay_accept;   /* s, for tests */
        unsigned delay_write;    /* s, for tests */
        /* SIGHUP: replaces the program; returns only a negative errno, and then everything goes on. NULL: SIGHUP is no
         * such request. */
        int (*reload)(void *userdata);
        void *reload_userdata;
} ServerConfig;

/* Why server_run() returned. */
typedef enum ServerEnd {
        SERVER_END_SIGNAL,
        SERVER_END_KILLED, /* KILL_REQ */
        SERVER_END_IDLE,
} ServerEnd;

/* What a server works with; all of it stays the caller's and must outlive it. */
typedef struct ServerParts {
        Registry *registry;
        Service *service;
        Store *store;       /* NULL: nothing outlives the process */
        Identity *identity; /* NULL: only peers over AF_UNIX are known */
        Log *log;
} ServerParts;

int server_new(const ServerConfig *config, const ServerParts *parts, Server **ret);
Server *server_free(Server *server);
DEFINE_CLEANUP(Server *, server_free)

int server_add_listener(Server *server, int fd, const char *name);
int server_pass_on(const Server *server, PassedSockets *sockets);
int server_restore(Server *server, StoreReport *report);
int server_run(Server *server, ServerEnd *ret);
