/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The connections that wait for their peer, in an epoll instance of their own, which is one event source: a source
 * for each would take a quarter of a kilobyte for each node, and a turn of the loop for each event. */

#include <stdint.h>
#include <sys/epoll.h>
#include <systemd/sd-event.h>

#include "conn.h"

enum { POLLER_BATCH_MAX = 64 }; /* events per turn of the loop, so that the others get theirs */

typedef struct Poller {
        int epoll;
        sd_event_source *source;
        void (*on_ready)(Conn *conn);
        struct epoll_event ready[POLLER_BATCH_MAX]; /* those of this turn */
        int n_ready;
        int at; /* the one being handled */
} Poller;

int poller_init(Poller *poller, sd_event *event, void (*on_ready)(Conn *conn));
void poller_done(Poller *poller);

int poller_watch(Poller *poller, Conn *conn, uint32_t events);
void poller_forget(Poller *poller, Conn *conn);
