/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The service manager: what it passes in and what it is told. The only file that knows sd-daemon. */

#include <stdbool.h>
#include <stddef.h>

#include "util.h"

typedef struct PassedSocket {
        int fd;
        char *name; /* its FileDescriptorName=; NULL: not known */
} PassedSocket;

typedef struct PassedSockets {
        PassedSocket *items;
        size_t n;
} PassedSockets;

int systemd_take_sockets(PassedSockets *ret);
void passed_sockets_done(PassedSockets *sockets);

void systemd_leave(void);
void systemd_notify(const char *format, ...) _printf_(1, 2);
