/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The listening sockets in the event loop: takes connections in bounded bursts, and stops listening, rather than
 * spinning or giving up, while there is no room for more. */

#include <stdbool.h>
#include <stdint.h>

#include "address.h"
#include "loop.h"
#include "systemd.h"
#include "util.h"

typedef struct Acceptor Acceptor;

/* A new connection, non-blocking and close-on-exec; the descriptor is the function's. name: of the listening socket. */
typedef void (*AcceptFunction)(void *userdata, int fd, const SocketAddress *remote, const char *name);

/* accept4() failed for want of something; -EMFILE and the like. Returns whether there is some of it now: else the
 * acceptor pauses. */
typedef bool (*AcceptErrorFunction)(void *userdata, int error);

int acceptor_new(Loop *loop, AcceptFunction on_accept, AcceptErrorFunction on_error, void *userdata, Acceptor **ret);
Acceptor *acceptor_free(Acceptor *acceptor);
DEFINE_CLEANUP(Acceptor *, acceptor_free)

int acceptor_add(Acceptor *acceptor, int fd, const char *name);
int acceptor_pass_on(const Acceptor *acceptor, PassedSockets *sockets);
void acceptor_pause(Acceptor *acceptor);
void acceptor_resume(Acceptor *acceptor);
size_t acceptor_describe(const Acceptor *acceptor, char *buffer, size_t size);
uint16_t acceptor_port(const Acceptor *acceptor);
bool acceptor_is_paused(const Acceptor *acceptor);
