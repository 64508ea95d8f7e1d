/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which sockets the daemon serves: those that the service manager passes, or its own. What goes wrong is explained in the
 * log. */

#include <stddef.h>

#include "log.h"
#include "options.h"
#include "server.h"
#include "systemd.h"

int endpoints_take(PassedSockets *sockets, Log *log);
size_t endpoints_count(const PassedSockets *sockets);
int endpoints_add_passed(Server *server, PassedSockets *sockets, Log *log);
int endpoints_add_own(Server *server, const Options *options, Log *log);
