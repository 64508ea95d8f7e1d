/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The service manager: what it passes in and what it is told. The only file that knows sd-daemon. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util.h"

typedef struct PassedSocket {
        int fd;
        char *name; /* its FileDescriptorName=; "?": not known */
} PassedSocket;

typedef struct PassedSockets {
        PassedSocket *items;
        size_t n;
} PassedSockets;

int systemd_take_sockets(PassedSockets *ret);
int passed_sockets_add(PassedSockets *sockets, int fd, const char *name);
int passed_sockets_add_copy(PassedSockets *sockets, int fd, const char *name);
void passed_sockets_done(PassedSockets *sockets);
int systemd_exec(const char *program, char **argv, const PassedSockets *sockets);

void systemd_leave(void);
int systemd_notify_socket(void);
int systemd_notify(int sock, const char *format, ...) _printf_(2, 3);
uint64_t systemd_watchdog(void);
int systemd_store(const char *name, int fd);
void systemd_unstore(const char *name);
