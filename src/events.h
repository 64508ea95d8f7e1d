/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the daemon tells the people who run it: each event in words, with its fields and the id under which the
 * catalog (systemd/epmd.catalog) explains it. What peers can cause any number of is limited, and what was held back
 * is counted. now is monotonic, µs, throughout. */

#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "log.h"
#include "registry.h"
#include "service.h"
#include "store.h"
#include "util.h"

typedef struct Events Events;

int events_new(Log *log, Events **ret);
Events *events_free(Events *events);
DEFINE_CLEANUP(Events *, events_free)

bool events_tell_held_back(Events *events, uint64_t now);

/* The daemon. */
void events_started(Events *events, uint64_t now, size_t n_listeners, const char *listeners);
void events_dropped(Events *events, const StoreReport *report);
void events_restored(Events *events, const StoreReport *report);
void events_idle(Events *events, uint64_t idle_timeout);
void events_killed(Events *events, uint64_t now, const Address *peer);
void events_spared(Events *events);
void events_stopping(Events *events, size_t nodes);
void events_reload_impossible(Events *events);

/* Nodes. */
void events_registered(Events *events, uint64_t now, const Node *node, const Address *peer);
void events_unregistered(Events *events, uint64_t now, const Node *node, const Address *peer, const char *reason);
void events_lost(Events *events, uint64_t now, const TableRecord *record, const char *reason);
void events_refused(Events *events, uint64_t now, const Response *response, const Address *peer, const Owner *owner);
void events_not_kept(Events *events, uint64_t now, const char *reason);

/* Peers and limits. */
void events_turned_away(Events *events, uint64_t now, const Address *peer, const char *allow, bool option);
bool events_limit(Events *events, uint64_t now, const char *what, size_t connections, size_t nodes);
void events_shortage(Events *events, uint64_t now, const char *what, int error, size_t connections, size_t nodes);
bool events_limit_left(Events *events, uint64_t now, size_t connections);

/* What only -d shows. */
void events_debug(Events *events, int verbosity, const Address *peer, const char *what);
void events_packet(Events *events, const Address *peer, const char *what, const uint8_t *data, size_t n);
void events_request(Events *events, const Address *peer, const Response *response);
void events_table(Events *events, const Registry *registry);
